"""What systemctl prints, read without one: every way to say "nothing", lengths of time, names that are quoted."""

import contextlib
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.adapters.systemd_units import FOREVER, PROPERTIES, is_glob, is_name, units_in

WEB = """\
Type=notify
Restart=on-failure
PIDFile=/run/web.pid
RestartUSec=1.500ms
TimeoutStartUSec=infinity
TimeoutStopUSec=1min 30.500000s
MainPID=98
Result=success
NRestarts=2
OOMPolicy=stop
ExecMainCode=0
ExecMainStatus=0
ControlGroup=/system.slice/web.service
MemoryCurrent=212992
Delegate=no
MemoryAccounting=yes
MemoryHigh=infinity
MemoryMax=536870912
Slice=system.slice
User=www-data
Id=web.service
Names=www.service web.service
Requires=system.slice web.socket
BindsTo="srv-web\\\\x2ddata.mount"
Requisite=
Wants=network-online.target
Upholds=cache.service
Conflicts=shutdown.target apache2.service
ConflictedBy=rescue.service
RuntimeMaxUSec=1d
FailureAction=none
DropInPaths=/run/systemd/system/web.service.d/50-pacemaker.conf
RequiredBy=shop.service
RequisiteOf=shop.service checked.service
BoundBy="front\\\\x2dend.service"
ConsistsOf=
TriggeredBy=web.socket
Description=Web = "the" front end
LoadState=loaded
ActiveState=active
SubState=running
FragmentPath=/lib/systemd/system/web.service
UnitFileState=enabled
InactiveExitTimestampMonotonic=2193000000
ActiveEnterTimestampMonotonic=2193658264
ActiveExitTimestampMonotonic=0
InactiveEnterTimestampMonotonic=1500000
ExecMainExitTimestampMonotonic=0
CanStart=yes
CanStop=yes
CanReload=yes
Job=
RefuseManualStart=no
RefuseManualStop=no
NeedDaemonReload=no
StartLimitIntervalUSec=10s
StartLimitBurst=5
InvocationID=25df4a89175f47049807f9c52828f3be
"""


def unit(text: str, **changed: str):
    (found,) = units_in(text + "".join(f"{name}={value}\n" for name, value in changed.items()))
    return found


def test_each_property_is_told_in_seconds_bytes_and_names():
    seen = unit(WEB)

    assert (seen.name, seen.aliases, seen.names) == ("web.service", ("www.service",), ("web.service", "www.service"))
    assert (seen.name, seen.description) == ("web.service", 'Web = "the" front end')
    assert (seen.load, seen.active, seen.sub, seen.enabled) == ("loaded", "active", "running", "enabled")
    assert (seen.type, seen.result, seen.main_pid, seen.restarts) == ("notify", "success", 98, 2)
    assert (seen.exit_code, seen.exit_status) == (None, None)
    assert (seen.control_group, seen.slice) == ("/system.slice/web.service", "system.slice")
    assert seen.invocation == "25df4a89175f47049807f9c52828f3be"
    assert (seen.began, seen.active_since, seen.active_until, seen.inactive_since) == (2193, 2193.658264, None, 1.5)
    assert (seen.restart_policy, seen.restart_delay) == ("on-failure", 0.0015)
    assert (seen.start_limit_burst, seen.start_limit_interval) == (5, 10)
    assert (seen.stop_timeout, seen.start_timeout, seen.longest_restart) == (90.5, None, None)
    assert (seen.longest_run, seen.failure_action) == (86400, "none")
    assert (seen.memory_current, seen.memory_high, seen.memory_max) == (212992, None, 536870912)
    assert (seen.memory_accounting, seen.delegated, seen.oom_policy) == (True, False, "stop")
    assert (seen.can_start, seen.can_stop, seen.can_reload) == (True, True, True)
    assert (seen.job, seen.reload_needed) == (False, False)
    assert (seen.pid_file, seen.user) == ("/run/web.pid", "www-data")
    assert seen.fragment == "/lib/systemd/system/web.service"
    assert seen.dependants == ("shop.service", "checked.service", r"front\x2dend.service")
    assert seen.requires == ("system.slice", "web.socket", r"srv-web\x2ddata.mount")
    assert (seen.wants, seen.sockets) == (("network-online.target", "cache.service"), ("web.socket",))
    assert seen.conflicts == ("shutdown.target", "apache2.service", "rescue.service")
    assert seen.drop_ins == ("/run/systemd/system/web.service.d/50-pacemaker.conf",)


def test_all_that_is_read_is_asked_for():
    printed = {line.partition("=")[0] for line in WEB.splitlines()}

    assert set(PROPERTIES) == printed
    assert len(PROPERTIES) == len(printed)


def test_a_main_process_that_ended_tells_how():
    seen = unit(WEB, ExecMainCode="2", ExecMainStatus="9", MainPID="0", ExecMainExitTimestampMonotonic="2500000")

    assert (seen.exit_code, seen.exit_status, seen.main_pid, seen.main_ended) == (2, 9, None, 2.5)


@pytest.mark.parametrize("nothing", ["", "[not set]", "[no data]", "infinity", "n/a", "18446744073709551615"])
def test_what_is_not_set_or_has_no_limit_is_none(nothing):
    seen = unit(WEB, MemoryCurrent=nothing, MemoryMax=nothing, MemoryHigh=nothing, MainPID=nothing)

    assert (seen.memory_current, seen.memory_max, seen.memory_high, seen.main_pid) == (None, None, None, None)


def test_intervals_that_are_infinity_are_longer_than_anything_and_those_of_zero_are_zero():
    assert unit(WEB, StartLimitIntervalUSec="infinity", RestartUSec="infinity").restart_delay == FOREVER
    assert unit(WEB, StartLimitIntervalUSec="infinity").start_limit_interval == FOREVER
    assert unit(WEB, StartLimitIntervalUSec="0", RestartUSec="0").start_limit_interval == 0


def test_what_an_older_systemd_does_not_print_stays_at_its_default():
    seen = unit("Id=old.service\nLoadState=loaded\nActiveState=active\n")

    assert (seen.invocation, seen.stop_timeout, seen.can_start, seen.job) == ("", 90.0, True, False)


@pytest.mark.parametrize("job", ["", "0"])
def test_no_job_is_no_job(job):
    assert not unit(WEB, Job=job).job


def test_a_job_is_one():
    assert unit(WEB, Job="98").job


@pytest.mark.parametrize(
    ("key", "value"),
    [("MemoryMax", "512M"), ("MainPID", "-1"), ("MemoryCurrent", "²"), ("TimeoutStopUSec", "a while"), ("Id", "web")],
)
def test_what_can_not_be_read_is_not_guessed(key, value):
    with pytest.raises(ValueError, match=key):
        unit(WEB, **{key: value})


def test_units_without_a_file_are_left_out_unless_they_run_or_have_failed():
    states = ("inactive", "active", "failed")
    text = "\n".join(f"Id={state}.service\nLoadState=not-found\nActiveState={state}\n" for state in states)

    assert [unit.name for unit in units_in(text)] == ["active.service", "failed.service"]


def test_a_unit_that_is_printed_under_several_of_its_names_is_one():
    assert len(units_in(f"{WEB}\n{WEB}\nId=other.service\nLoadState=masked\n")) == 2


def test_nothing_printed_is_no_unit():
    assert units_in("") == []


# ── lengths of time ───────────────────────────────────────────────────────────────────────────────────────────────────

SPANS = (
    ("y", 31_557_600_000_000), ("month", 2_629_800_000_000), ("w", 604_800_000_000), ("d", 86_400_000_000),
    ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1),
)  # fmt: skip


def printed(microseconds: int) -> str:
    """As format_timespan of systemd's time-util.c prints it: whole units, below a minute one with decimals."""
    parts = []
    rest = microseconds
    for name, length in SPANS:
        whole, below = divmod(rest, length)
        if whole == 0:
            continue
        if length <= 1_000_000 and below:
            digits = len(str(length)) - 1
            parts.append(f"{whole}.{below:0{digits}d}{name}")
            below = 0
        else:
            parts.append(f"{whole}{name}")
        rest = below
        if rest == 0:
            break
    return " ".join(parts) or "0"


def test_the_printer_of_this_test_prints_what_systemd_was_seen_to_print():
    assert printed(90_500_000) == "1min 30.500000s"
    assert printed(2_629_800_000_000 + 3 * 86_400_000_000 + 1500) == "1month 3d 1.500ms"
    assert printed(100_000) == "100ms"
    assert printed(0) == "0"


@given(st.integers(0, 2**62))
def test_every_length_of_time_that_systemd_prints_is_read_to_the_microsecond(microseconds):
    seen = unit(WEB, TimeoutStopUSec=printed(microseconds)).stop_timeout

    assert seen == pytest.approx(microseconds / 1e6, rel=1e-12, abs=1e-9)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = ["web.service", r"foo\x2dbar.service", "app@1.service", "app@a-b@c.service", "-.slice", "a:b_c.socket"]
OTHERS = [
    "*.service", "web", "123", "", "--help", "app@.service", "@a.service", "a b.service", "/dev/sda", "web.service\n",
    "wéb.service", ".service", "$(reboot).service", f"{'x' * 250}.service",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one(name):
    assert is_name(name)
    assert not is_glob(name)


@pytest.mark.parametrize("text", OTHERS)
def test_what_systemctl_would_take_for_many_for_a_job_or_for_an_option_is_no_name(text):
    assert not is_name(text)


@pytest.mark.parametrize("glob", ["*.service", "*", "app@*.service", "we[ab].service", r"foo\x2d*.service", "-*"])
def test_a_glob_is_one(glob):
    assert is_glob(glob)


@pytest.mark.parametrize("text", ["a b*", "*\n", "$*", "wéb*", "/dev/*", "app@.service", "123"])
def test_what_no_name_can_match_is_no_glob(text):
    assert not is_glob(text)


def quoted(name: str) -> str:
    """As shell_maybe_quote of systemd's escape.c writes it."""
    return '"{}"'.format(name.replace("\\", "\\\\")) if "\\" in name else name


WORDS = st.text("abcXYZ019:_.-\\", min_size=1, max_size=20).map(lambda text: f"{text}.service")


@given(st.lists(WORDS, max_size=5, unique=True))
def test_a_list_of_names_is_read_as_it_was_meant(names):
    assert unit(WEB, TriggeredBy=" ".join(map(quoted, names))).sockets == tuple(names)
    assert shlex.split(" ".join(map(quoted, names))) == names


@given(st.text(max_size=300))
def test_whatever_is_printed_is_read_or_refused_but_breaks_nothing(text):
    with contextlib.suppress(ValueError):
        assert all(is_name(unit.name) for unit in units_in(f"Id={text}"))
