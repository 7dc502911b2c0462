"""What the name of a log file tells."""

import pytest

from functions.disk.logs import NEVER_LOGS, any_of, owned, rotated, untouchable


@pytest.mark.parametrize(
    ("name", "base", "compressed"),
    [
        ("syslog.1", "syslog", False),
        ("app.log.14", "app.log", False),
        ("app.log.2.gz", "app.log", True),
        ("app.log-20260101", "app.log", False),
        ("app-20260101.log", "app.log", False),
        ("app-20260101-1767225600.xz", "app", True),
        ("catalina.2026-01-01", "catalina", False),
        ("catalina.2026-01-01.log", "catalina.log", False),
        ("app.log.old", "app.log", False),
        ("app.log.old.zst", "app.log", True),
        ("postgresql-2026-01-01_000000.log", "postgresql.log", False),
    ],
)
def test_rotated_names_are_taken_apart(name, base, compressed):
    assert rotated(name) == (base, compressed)


@pytest.mark.parametrize(
    "name",
    ["syslog", "app.log", "Xorg.0.log", "app-1.2.log", "app.log.gz", "app.2026", "mysql.000001", "app.1\n", "",
     "report-20261399", ".1"],
)  # fmt: skip
def test_other_names_are_not_those_of_rotated_logs(name):
    assert rotated(name) is None


@pytest.mark.parametrize(
    "path",
    [
        "log/journal/0a/system@1.journal", "log/wtmp.1", "log/btmp-20260101", "log/lastlog.1", "log/faillog.1",
        "log/audit/audit.log.1", "mysql/mysql-bin.000123", "mysql/host-bin.1", "mysql/binlog.000001",
        "mysql/host-relay-bin.1", "mysql/ib_logfile0", "pg/pg_wal/000000010000000000000001.1", "etcd/0-1.wal",
        "mssql/x.ldf", "zookeeper/version-2/log.1", "rocks/000123.log.1", "pods/x/0.log.20260101-000000",
        "containers/ab/ab-json.log.1", "redis/appendonly.aof",
    ],
)  # fmt: skip
def test_what_is_data_or_evidence_is_never_touched(path):
    assert untouchable(path, any_of(NEVER_LOGS))


@pytest.mark.parametrize("path", ["log/syslog.1", "log/app/app.log-20260101", "log/samba/log.smbd.1", "log/dmesg.0"])
def test_ordinary_rotated_logs_may_be_touched(path):
    assert not untouchable(path, any_of(NEVER_LOGS))


@pytest.mark.parametrize(
    "path",
    ["/var/log/syslog", "/var/log/syslog.1", "/var/log/syslog.2.gz", "/var/log/nginx/access.log-20260101",
     "/var/log/nginx/access-20260101.log", "/var/log/apt/term.log.1"],
)  # fmt: skip
def test_rotated_siblings_belong_to_the_owner_of_the_log(path):
    assert owned(path, any_of(("/var/log/syslog", "/var/log/nginx/*.log", "/var/log/apt/term.log")))


@pytest.mark.parametrize("path", ["/var/log/other.log.1", "/srv/nginx/access.log.1", "/var/log/syslog2.1"])
def test_other_logs_have_no_owner(path):
    assert not owned(path, any_of(("/var/log/syslog", "/var/log/nginx/*.log")))


def test_no_globs_match_nothing():
    assert not any_of(())("anything")
    assert not any_of(())("")
