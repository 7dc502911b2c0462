"""apt for real, in a package root of the test's own; dnf and yum as they were recorded."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from functions.core.ports import ToolError
from infra.adapters.packages import PackageCleaner, Packages
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests.infra.adapters.apt_root import AptRoot
from tests.infra.adapters.programs import PYTHON
from tests.infra.adapters.tree import allocated, snapshot

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(*argv: str):
    """A process that has said a line, ended by closing its input."""
    with subprocess.Popen([*argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.stdin.close()


@contextmanager
def held(lock: Path):
    """A process that holds a POSIX lock, as apt and dpkg do."""
    with child(sys.executable, "-c", HOLD, str(lock)) as process:
        yield process


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """A /proc on which nothing runs, but where every real process can be looked up."""
    directory = tmp_path / "proc"
    directory.mkdir()
    return directory


@pytest.fixture
def caches(apt_root, processes):
    return Packages(apt_root.environment, root=str(apt_root.base), processes=str(processes)).caches


@pytest.fixture
def clean(apt_root, processes):
    cleaner = PackageCleaner(apt_root.environment, root=str(apt_root.base), processes=str(processes))
    return lambda mode: cleaner.clean("apt", mode, str(apt_root.archives))


# ── apt: what is seen ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cache_is_found_where_apt_says_and_measured_in_blocks(apt_root, caches):
    (cache,) = caches()

    debs = list(apt_root.archives.glob("*.deb"))
    assert cache.manager == "apt"
    assert cache.directory == str(apt_root.archives)
    assert cache.device == apt_root.archives.stat().st_dev
    assert cache.files == 2
    assert cache.allocated == allocated(*debs)
    assert cache.held_by == ""


def test_a_moved_archive_directory_is_followed(apt_root, caches, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "x_1_all.deb").write_bytes(b"x" * 9000)
    apt_root.settings(f'Dir::Cache::archives "{moved}/";')

    (cache,) = caches()

    assert cache.directory == str(moved)
    assert cache.allocated == allocated(moved / "x_1_all.deb")


def test_partial_downloads_and_the_indexes_count_too(apt_root, caches):
    apt_root.write_indexes()
    part = apt_root.partial / "half_1_all.deb"
    part.write_bytes(b"x" * 50_000)

    (cache,) = caches()

    assert cache.allocated == allocated(part, *apt_root.indexes, *apt_root.archives.glob("*.deb"))
    assert cache.files == 5


def test_sparse_and_shared_files_count_what_they_free(apt_root, caches):
    for package in apt_root.archives.glob("*.deb"):
        package.unlink()
    with (apt_root.archives / "sparse_1_all.deb").open("wb") as file:
        file.truncate(2**30)
    (apt_root.archives / "linked_1_all.deb").write_bytes(b"x" * 100_000)
    os.link(apt_root.archives / "linked_1_all.deb", apt_root.base / "second-name")

    (cache,) = caches()

    assert cache.files == 2
    assert cache.allocated == 0


def test_obsolete_is_what_no_repository_has_any_more(apt_root, caches):
    (cache,) = caches()

    assert cache.obsolete == allocated(apt_root.archives / "tool_1.0_all.deb")


def test_who_does_not_want_to_know_what_is_obsolete_is_not_kept_waiting(apt_root):
    """An `apt-get` that only fails shows that it was not asked."""
    (apt_root.base / "bin").mkdir()
    (apt_root.base / "bin/apt-get").write_text("#!/bin/sh\nexit 1\n")
    (apt_root.base / "bin/apt-get").chmod(0o755)
    environment = {**apt_root.environment, "PATH": f"{apt_root.base}/bin:{apt_root.environment['PATH']}"}

    (cache,) = Packages(environment, root=str(apt_root.base), obsolete=False).caches()

    assert cache.files == 2
    assert cache.obsolete == 0
    with pytest.raises(ProbeError, match="autoclean ended with status 1"):
        Packages(environment, root=str(apt_root.base)).caches()


def test_looking_writes_nothing(apt_root, caches):
    before = snapshot(apt_root.base)

    caches()

    assert snapshot(apt_root.base) == before


def test_a_machine_without_any_manager_has_no_caches(tmp_path):
    assert Packages({"PATH": str(tmp_path)}).caches() == []


def test_broken_settings_are_a_probe_error_of_one_line(apt_root, caches):
    apt_root.settings("this is { no setting")

    with pytest.raises(ProbeError, match=r"apt-config shell .* ended with status 100: E: Syntax error") as caught:
        caches()

    assert "\n" not in str(caught.value)


# ── apt: locks ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lock", ["admin/lock-frontend", "admin/lock", "archives/lock", "lists/lock"])
def test_every_lock_is_seen_and_defers_the_clean(apt_root, caches, clean, lock):
    directory, _, name = lock.partition("/")
    path = getattr(apt_root, directory) / name
    path.touch(0o640)

    with held(path) as process:
        (cache,) = caches()
        result = clean("clean")

    assert str(process.pid) in cache.held_by
    assert result.outcome is Outcome.DEFERRED
    assert str(process.pid) in result.reason
    assert len(apt_root.cached) == 2
    assert caches()[0].held_by == ""


def test_the_holder_is_named_where_proc_tells(apt_root):
    with held(apt_root.admin / "lock") as process:
        (cache,) = Packages(apt_root.environment).caches()
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()

    assert cache.held_by == f"{name} (pid {process.pid})"


def test_looking_never_takes_a_lock(apt_root, caches):
    """Were it taken, the kernel would have released it with the close: so the system calls are watched."""
    real = sys.modules["fcntl"].fcntl
    asked = []

    def watching(descriptor, command, *arguments):
        asked.append(command)
        return real(descriptor, command, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infra.adapters.package_locks.fcntl.fcntl", watching)
        caches()

    import fcntl

    assert set(asked) == {fcntl.F_GETLK}


AS_NOBODY = """
import os, sys
from infra.adapters.commands import Commands
from infra.adapters.package_locks import holder
from infra.adapters.packages import Packages
from schemas.facts.packages import PackageCache
from schemas.probes import ProbeError
PackageCache.model_rebuild(force=True)  # what is built at first use imports more, which nobody may not read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""


def as_nobody(script: str, *arguments: str) -> str:
    """What *script* prints that runs as an ordinary user; modules are imported before."""
    argv = [sys.executable, "-c", AS_NOBODY + script, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def public_directory():
    """pytest's own directories are closed to other users."""
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.mark.needs("root")
def test_users_who_may_not_open_the_lock_find_its_holder_in_the_kernels_list(public_directory):
    script = """
try:
    open(sys.argv[1])
except PermissionError:
    print(holder([sys.argv[1]], "/proc", Commands(ProbeError)))
"""
    lock = public_directory / "lock-frontend"
    lock.touch(0o640)
    with held(lock) as process:
        said = as_nobody(script, str(lock))

    assert f"(pid {process.pid})" in said
    assert as_nobody(script, str(lock)) == "\n"


@pytest.mark.needs("root", "apt-get")
def test_users_see_the_cache_but_for_what_is_half_fetched(public_directory, built_packages):
    root = AptRoot(public_directory / "apt", built_packages, repository=public_directory / "repository")
    subprocess.run(["apt-get", "update"], env=root.environment, check=True, capture_output=True)
    root.remove_indexes()
    (root.partial / "half_1_all.deb").write_bytes(b"x" * 9000)
    root.partial.chmod(0o700)
    (root.archives / "lock").touch(0o640)
    script = "(cache,) = Packages(eval(sys.argv[1])).caches()\nprint(cache.files, cache.allocated, cache.obsolete)"

    said = as_nobody(script, repr(root.environment))

    size = allocated(*root.archives.glob("*.deb"))
    assert said.split() == ["2", str(size), str(allocated(root.archives / "tool_1.0_all.deb"))]


@pytest.mark.parametrize(
    ("argv", "busy"),
    [
        (["/usr/bin/python3", "/usr/bin/unattended-upgrade"], True),
        (["/bin/sh", "/usr/lib/apt/apt.systemd.daily", "install"], True),
        (
            ["/usr/bin/python3", "/usr/share/unattended-upgrades/unattended-upgrade-shutdown", "--wait-for-signal"],
            False,
        ),
        (["/usr/bin/vi", "notes"], False),
    ],
)
def test_unattended_upgrades_defer_but_not_the_service_that_waits_for_shutdown(
    apt_root, caches, clean, processes, argv, busy
):
    (processes / "4711").mkdir()
    (processes / "4711" / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")

    (cache,) = caches()

    assert bool(cache.held_by) is busy
    if busy:
        assert cache.held_by.endswith("(pid 4711)")
        assert clean("clean").outcome is Outcome.DEFERRED
        assert len(apt_root.cached) == 2


# ── apt: cleaning ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_clean_frees_exactly_what_was_announced(apt_root, caches, clean):
    apt_root.write_indexes()
    (apt_root.partial / "half_1_all.deb").write_bytes(b"x" * 50_000)
    (apt_root.archives / "stray.txt").write_bytes(b"x" * 5000)
    (cache,) = caches()

    result = clean("clean")

    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": cache.allocated, "inodes": cache.files}
    assert apt_root.cached == set()
    assert list(apt_root.partial.iterdir()) == []
    assert caches()[0].allocated == 0


def test_autoclean_keeps_what_can_still_be_downloaded(apt_root, caches, clean):
    (cache,) = caches()

    result = clean("autoclean")

    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": cache.obsolete, "inodes": 1}
    assert apt_root.cached == {"tool_1%3a2.0_all.deb"}


def test_a_second_clean_is_skipped(clean):
    clean("clean")

    assert clean("clean").outcome is Outcome.SKIPPED


def test_a_cache_that_moved_since_the_plan_is_skipped(apt_root, clean, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    apt_root.settings(f'Dir::Cache::archives "{moved}/";')

    result = clean("clean")

    assert result.outcome is Outcome.SKIPPED
    assert str(moved) in result.reason
    assert len(apt_root.cached) == 2


def instead_of_apt_get(apt_root, program):
    """A cleaner whose `apt-get` is *program*, a script that may call the real one."""
    wrapper = apt_root.base / "bin"
    wrapper.mkdir()
    (wrapper / "apt-get").write_text(program)
    (wrapper / "apt-get").chmod(0o755)
    environment = {**apt_root.environment, "PATH": f"{wrapper}:{apt_root.environment['PATH']}"}
    cleaner = PackageCleaner(environment, processes=str(wrapper))
    return lambda: cleaner.clean("apt", "clean", str(apt_root.archives))


def test_a_lock_taken_after_the_look_makes_apt_itself_refuse(apt_root):
    clean = instead_of_apt_get(
        apt_root,
        f"{PYTHON}import fcntl, subprocess, sys\n"
        f"file = open({str(apt_root.archives / 'lock')!r}, 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "sys.exit(subprocess.run(['/usr/bin/apt-get', *sys.argv[1:]]).returncode)\n",
    )

    with pytest.raises(ToolError, match=r"apt-get clean removed nothing from .*: E: Unable to lock"):
        clean()

    assert len(apt_root.cached) == 2


def test_what_stays_is_told_by_the_state_not_by_the_exit_status(apt_root):
    clean = instead_of_apt_get(apt_root, f'#!/bin/sh\nrm "{apt_root.archives}"/tool_1%3a2*.deb\nexit 0\n')

    result = clean()

    assert result.outcome is Outcome.PARTIAL
    assert result.freed["inodes"] == 1
    assert "1 of 2 files stayed" in result.reason
    assert apt_root.cached == {"tool_1.0_all.deb"}


def test_unknown_managers_and_modes_are_refused(apt_root, clean):
    with pytest.raises(ToolError, match="no such mode 'purge'"):
        clean("purge")
    with pytest.raises(ToolError, match="no such package manager"):
        PackageCleaner(apt_root.environment).clean("pip", "clean", "/")


# ── dnf and yum, recorded ─────────────────────────────────────────────────────────────────────────────────────────

DNF = """#!/bin/sh
# Replies as dnf 4.14 on Rocky Linux 9 did.
[ "$*" = "clean packages" ] || { echo "unexpected: $*" >&2; exit 64; }
count=$(find "$CACHE" -name '*.rpm' | wc -l)
find "$CACHE" -path '*/packages/*.rpm' -delete
echo "$count files removed"
"""

YUM = """#!/bin/sh
# Replies as yum 3.4.3 on CentOS 7 did.
[ "$*" = "clean packages" ] || { echo "unexpected: $*" >&2; exit 64; }
find "$CACHE" -path '*/packages/*.rpm' -delete
echo "Loaded plugins: fastestmirror"
echo "Cleaning repos: base extras updates"
"""


class RedHat:
    """A machine with dnf or yum, recorded."""

    def __init__(self, base: Path, name: str, program: str, cache: str, repository: str) -> None:
        self.base = base
        self.cache = base / cache
        packages = self.cache / repository / "packages"
        packages.mkdir(parents=True)
        for package in ("a-1.rpm", "b-1.rpm"):
            (packages / package).write_bytes(os.urandom(30_000))
        (self.cache / repository / "repodata").mkdir()
        (self.cache / repository / "repodata" / "repomd.xml").write_bytes(b"x" * 9000)
        self.packages = packages
        (base / "bin").mkdir()
        (base / "proc").mkdir()
        (base / "bin" / name).write_text(program)
        (base / "bin" / name).chmod(0o755)
        self.arguments = {
            "environment": {"PATH": f"{base}/bin:/bin", "CACHE": str(self.cache)},
            "root": str(base),
            "processes": str(base / "proc"),
        }

    def caches(self):
        """Without apt, which the host may have."""
        found = Packages(**self.arguments)
        found._managers = found._managers[1:]
        return found.caches()

    def clean(self, manager, mode="clean"):
        return PackageCleaner(**self.arguments).clean(manager, mode, str(self.cache))


@pytest.fixture
def dnf(tmp_path):
    return RedHat(tmp_path, "dnf", DNF, "var/cache/dnf", "baseos-1234567890abcdef")


@pytest.fixture
def yum(tmp_path):
    return RedHat(tmp_path, "yum", YUM, "var/cache/yum", "x86_64/7/base")


@pytest.mark.parametrize("manager", ["dnf", "yum"])
def test_only_packages_are_cleaned_and_metadata_stays(manager, request):
    machine = request.getfixturevalue(manager)
    (cache,) = machine.caches()
    size = allocated(*machine.packages.iterdir())

    result = machine.clean(manager)

    assert (cache.manager, cache.directory, cache.files) == (manager, str(machine.cache), 2)
    assert (cache.allocated, cache.obsolete, cache.held_by) == (size, 0, "")
    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": size, "inodes": 2}
    assert list(machine.packages.iterdir()) == []
    assert (machine.packages.parent / "repodata" / "repomd.xml").exists()


def test_yum_that_is_dnf_by_another_name_is_told_once(dnf):
    (dnf.base / "bin" / "yum").symlink_to("dnf")

    assert [cache.manager for cache in dnf.caches()] == ["dnf"]


def test_dnf5_keeps_its_packages_elsewhere(tmp_path):
    machine = RedHat(tmp_path, "dnf5", DNF, "var/cache/libdnf5", "fedora-1234567890abcdef")
    (tmp_path / "bin" / "dnf").symlink_to("dnf5")

    (cache,) = machine.caches()

    assert cache.directory == str(tmp_path / "var/cache/libdnf5")
    assert machine.clean("dnf").outcome is Outcome.DONE


def test_cachedir_of_the_settings_wins_up_to_its_variables(dnf):
    (dnf.base / "etc/dnf").mkdir(parents=True)
    (dnf.base / "etc/dnf/dnf.conf").write_text("[main]\ncachedir=/srv/dnf/$basearch\n")
    (dnf.base / "srv/dnf/x86_64/r/packages").mkdir(parents=True)
    (dnf.base / "srv/dnf/x86_64/r/packages/c.rpm").write_bytes(b"x" * 4000)

    (cache,) = dnf.caches()

    assert cache.directory == str(dnf.base / "srv/dnf")
    assert cache.files == 1


def test_a_running_dnf_defers(dnf):
    (dnf.base / "proc/99").mkdir()
    (dnf.base / "proc/99/cmdline").write_bytes(b"/usr/bin/python3\0/usr/bin/dnf\0upgrade\0")
    (dnf.cache / "download_lock.pid").write_text("99")

    assert dnf.caches()[0].held_by == "dnf (pid 99)"
    assert dnf.clean("dnf").outcome is Outcome.DEFERRED
    assert len(list(dnf.packages.iterdir())) == 2


def test_a_stale_pid_file_does_not_defer(dnf):
    (dnf.cache / "download_lock.pid").write_text("99")

    assert dnf.caches()[0].held_by == ""
    assert dnf.clean("dnf").outcome is Outcome.DONE


def test_the_lock_of_the_rpm_database_defers(dnf):
    lock = dnf.base / "var/lib/rpm/.rpm.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    with held(lock):
        assert dnf.clean("dnf").outcome is Outcome.DEFERRED


def test_dnf_has_no_autoclean(dnf):
    with pytest.raises(ToolError, match="dnf can't tell which packages can still be downloaded"):
        dnf.clean("dnf", "autoclean")


def test_a_dnf_that_fails_is_told_in_its_own_words(dnf):
    (dnf.base / "bin" / "dnf").write_text("#!/bin/sh\necho 'Error: Failed to load plugin' >&2; exit 1\n")

    with pytest.raises(ToolError, match=r"dnf clean packages removed nothing from .*: Error: Failed to load plugin"):
        dnf.clean("dnf")
