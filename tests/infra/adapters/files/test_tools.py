"""Removing, compressing and the way back, on real filesystems; every doubt leaves the file where it is."""

import contextlib
import fcntl
import gzip
import os
import subprocess
import sys

import pytest

from functions.core.ports import ToolError
from infra.adapters.files import compressing, gzip_stream, removing
from infra.adapters.files.tools import MachineFileTools
from schemas.remediation import Outcome

LOG = b"".join(
    b"2026-11-24T10:00:%02d host service[%d]: a line like many others\n" % (n % 60, n) for n in range(20_000)
)


@pytest.fixture(params=["remove", "compress"])
def act(request, tree):
    """Both tools must leave alone what is not the planned file any more."""
    return getattr(tree.tools, request.param)


def told(results):
    return [(result.outcome, result.reason) for result in results]


def skipped(reason):
    return [(Outcome.SKIPPED, reason)]


# ── removing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_planned_files_go_and_their_blocks_are_told(tree):
    tree.file("a/old", b"x" * 9000)
    tree.file("new")
    items = [item for item in tree.items() if item.path == "a/old"]
    blocks = items[0].allocated

    (result,) = tree.tools.remove(tree.root, items)

    assert (result.outcome, result.freed) == (Outcome.DONE, {"bytes": blocks, "inodes": 1})
    assert tree.names() == ["new"]
    assert (tree.path / "a").is_dir(), "directories stay"


def test_files_with_odd_names_go(tree):
    for name in (b"-rf", b"new\nline", b"\xff\xfe", b"x" * 255, b"*"):
        tree.file(name)

    results = tree.tools.remove(tree.root, tree.items())

    assert {result.outcome for result in results} == {Outcome.DONE}
    assert tree.names() == []


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd", ".", "", "a//b"])
def test_a_path_that_leaves_the_root_is_refused(tree, tmp_path, path):
    (tmp_path / "outside").touch()
    tree.file("a/b")
    item = tree.items()[0].model_copy(update={"path": path})

    (result,) = tree.tools.remove(tree.root, [item])

    assert result.outcome in {Outcome.FAILED, Outcome.SKIPPED}
    assert (tmp_path / "outside").exists()
    assert tree.names() == ["a/b"]


@pytest.mark.usefixtures("either_way_of_opening")
def test_a_link_swapped_in_for_a_directory_is_not_followed(tree, tmp_path, act):
    path = tree.file("sub/file", LOG)
    items = tree.items()
    (tmp_path / "outside").mkdir()
    os.rename(path, tmp_path / "outside" / "file")
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path / "outside")

    assert told(act(tree.root, items)) == skipped("changed"), "although the very inode is found through the link"
    assert os.listdir(tmp_path / "outside") == ["file"]


@pytest.mark.usefixtures("either_way_of_opening")
def test_a_mount_that_came_in_between_is_not_entered(tree, mount, tmp_path, act):
    tree.file("sub/file", LOG)
    items = tree.items()
    mount("bind", "tree/sub", str(tree.path / "sub"))

    assert told(act(tree.root, items)) == skipped("another mount")
    assert tree.names() == ["sub/file"]


def test_a_new_inode_of_the_same_name_stays(tree, act):
    path = tree.file("file", LOG)
    items = tree.items()
    os.rename(tree.file("other", LOG), path)
    os.utime(path, ns=(0, items[0].mtime_ns))

    assert told(act(tree.root, items)) == skipped("changed: another file has its name now")
    assert tree.names() == ["file"]


def test_a_file_written_to_since_stays(tree, act):
    path = tree.file("file", LOG)
    items = tree.items()
    with path.open("ab") as file:
        file.write(b"more")

    assert told(act(tree.root, items)) == skipped("changed: it was written to")
    assert tree.names() == ["file"]


def test_a_file_that_got_another_name_stays(tree, tmp_path, act):
    path = tree.file("file", LOG)
    items = tree.items()
    os.link(path, tmp_path / "second name")

    assert told(act(tree.root, items)) == skipped("changed: it has more or fewer hard links")
    assert tree.names() == ["file"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_what_is_no_file_any_more_stays(tree, act, make):
    path = tree.file("file", LOG)
    items = tree.items()
    path.unlink()
    make(path)

    assert told(act(tree.root, items)) == skipped("changed: no regular file any more")
    assert os.path.lexists(path)


def test_a_file_that_is_gone_is_skipped(tree, act):
    tree.file("file", LOG).unlink()
    tree.file("file", LOG)
    items = tree.items()
    (tree.path / "file").unlink()

    assert told(act(tree.root, items)) == skipped("gone")


def test_a_locked_file_stays(tree, act):
    path = tree.file("file", LOG)
    items = tree.items()
    with path.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)

        assert told(act(tree.root, items)) == skipped("locked")
    assert tree.names() == ["file"]


def test_below_a_locked_directory_nothing_is_removed(tree):
    tree.file("kept/deep/file")
    items = tree.items()
    directory = os.open(tree.path / "kept", os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    try:
        assert told(tree.tools.remove(tree.root, items)) == skipped("locked")
    finally:
        os.close(directory)
    assert tree.names() == ["kept/deep/file"]


def test_a_file_opened_since_the_plan_stays(tree):
    path = tree.file("file")
    items = tree.items()
    with path.open():
        assert told(tree.tools.remove(tree.root, items)) == skipped("in use")
    with path.open("ab"):
        assert told(tree.tools.compress(tree.root, items)) == skipped("open for writing")
    assert tree.names() == ["file"]


def test_a_file_that_somebody_begins_to_open_at_the_last_moment_stays(tree, monkeypatch):
    """The opener waits for our lease; seeing that, the file is left to it."""
    path = tree.file("file")
    items = tree.items()
    require_name, openers = removing.require_name, []

    def open_meanwhile(parent, name, inode):
        opener = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1]).read()", str(path)])
        openers.append(opener)
        lease = parent_lease()
        while fcntl.fcntl(lease, fcntl.F_GETLEASE) == fcntl.F_WRLCK:
            assert opener.poll() is None, "it was let in under the lease"
        require_name(parent, name, inode)

    def parent_lease():
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") == str(path):
                    return int(number)
        raise AssertionError("the file is not open")

    monkeypatch.setattr(removing, "require_name", open_meanwhile)

    assert told(tree.tools.remove(tree.root, items)) == skipped("in use")
    assert openers[0].wait(timeout=30) == 0
    assert tree.names() == ["file"]


@pytest.fixture
def no_leases(monkeypatch):
    """As on network filesystems."""

    @contextlib.contextmanager
    def unknown(fd, kind):
        yield None

    for module in (removing, compressing):
        monkeypatch.setattr(module, "lease", unknown)


@pytest.mark.usefixtures("no_leases")
def test_without_leases_the_list_of_open_files_decides(tree, recorded_proc):
    path = tree.file("open", LOG)
    tree.file("idle", LOG)
    items = tree.items()
    tools = MachineFileTools(proc=recorded_proc(processes={"77": {"fd": {"3": str(path)}}}))

    for act in (tools.compress, tools.remove):
        if act == tools.remove:
            (tree.path / "idle.gz").rename(tree.file("idle", LOG))
            items = tree.items()
        results = {result.name: result for result in act(tree.root, items)}
        assert (results["open"].outcome, results["open"].reason) == (Outcome.SKIPPED, "in use")
        assert results["idle"].outcome is Outcome.DONE


@pytest.mark.usefixtures("no_leases")
def test_without_leases_and_without_a_list_nothing_is_touched(tree, tmp_path, act):
    tree.file("file", LOG)
    items = tree.items()
    blind = MachineFileTools(proc=str(tmp_path / "no proc"))

    (result,) = getattr(blind, act.__name__)(tree.root, items)

    assert result.outcome is Outcome.SKIPPED
    assert "not known whether it is in use" in result.reason
    assert tree.names() == ["file"]


def test_an_immutable_file_fails_with_the_reason_and_stays(ext4, tree_on):
    tree = tree_on(ext4)
    path = tree.file("sub/file", LOG)
    items = [item for item in tree.items() if item.path == "sub/file"]
    subprocess.run(["chattr", "+i", str(path)], check=True)

    for act in (tree.tools.remove, tree.tools.compress):
        ((outcome, reason),) = told(act(tree.root, items))
        assert outcome is Outcome.FAILED
        assert reason.startswith("not permitted: immutable")
    assert os.listdir(ext4 / "sub") == ["file"]
    subprocess.run(["chattr", "-i", str(path)], check=True)


def test_another_root_or_a_read_only_one_is_an_error(tree, mount, tree_on, act):
    tree.file("file", LOG)
    root, items = tree.root, tree.items()
    os.rename(tree.path, tree.path.with_name("old"))
    tree.path.mkdir()
    with pytest.raises(ToolError, match="another directory than the one planned"):
        act(root, items)

    point = mount("tmpfs", "ro")
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    with pytest.raises(ToolError, match="the filesystem is read-only"):
        act(tree_on(point).root, items)


def test_a_filesystem_that_turns_read_only_ends_the_batch_and_what_was_done_is_told(mount, tree_on, monkeypatch):
    point = mount("tmpfs", "turning")
    tree = tree_on(point)
    for name in "abc":
        tree.file(name)
    root, items, remove = tree.root, tree.items(), removing.remove

    def remove_then_remount(fd, item, in_use):
        result = remove(fd, item, in_use)
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        return result

    monkeypatch.setattr(removing, "remove", remove_then_remount)

    results = tree.tools.remove(root, items)

    assert [result.outcome for result in results] == [Outcome.DONE, Outcome.FAILED, Outcome.FAILED]
    assert "became read-only" in results[1].reason
    assert tree.names() == ["b", "c"]
    with pytest.raises(ToolError, match="read-only"):
        tree.tools.remove(root, items[1:])


def test_freed_bytes_are_what_statvfs_sees(ext4, tree_on):
    tree = tree_on(ext4)
    for number in range(20):
        tree.file(f"{number}", os.urandom(50_000))
    os.sync()
    before = tree.probe.usage(str(ext4))

    results = tree.tools.remove(tree.root, tree.items())

    os.sync()
    after = tree.probe.usage(str(ext4))
    freed = sum(result.freed["bytes"] for result in results)
    assert freed == pytest.approx(before.used - after.used, rel=0.05)
    assert sum(result.freed["inodes"] for result in results) == before.inodes_used - after.inodes_used == 20


# ── compressing ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_log_becomes_its_verified_copy_and_comes_back(ext4, tree_on):
    tree = tree_on(ext4)
    path = tree.file("app/log.1", LOG)
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    os.setxattr(path, "user.origin", b"service")
    os.utime(path, ns=(10**18, 10**18 + 7))
    items = [item for item in tree.items() if item.path == "app/log.1"]
    before = path.stat()

    (packed,) = tree.tools.compress(tree.root, items)

    copy = ext4 / "app" / "log.1.gz"
    stat = copy.stat()
    assert os.listdir(ext4 / "app") == ["log.1.gz"]
    assert gzip.decompress(copy.read_bytes()) == LOG
    assert (stat.st_uid, stat.st_gid, stat.st_mode, stat.st_mtime_ns) == (
        1234,
        2345,
        before.st_mode,
        before.st_mtime_ns,
    )
    assert os.getxattr(copy, "user.origin") == b"service"
    assert packed.freed == {"bytes": (before.st_blocks - stat.st_blocks) * 512}
    assert packed.freed["bytes"] > len(LOG) * 0.7

    (unpacked,) = tree.tools.decompress(tree.root, items)

    after = path.stat()
    assert os.listdir(ext4 / "app") == ["log.1"]
    assert path.read_bytes() == LOG
    assert (after.st_uid, after.st_gid, after.st_mode, after.st_mtime_ns) == (1234, 2345, before.st_mode, 10**18 + 7)
    assert os.getxattr(path, "user.origin") == b"service"
    assert unpacked.freed == {"bytes": -packed.freed["bytes"]}


def test_without_isal_zlib_does_the_same(tree, monkeypatch):
    tree.file("log.1", LOG)
    items = tree.items()
    monkeypatch.setitem(sys.modules, "isal", None)

    assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.DONE
    assert gzip.decompress((tree.path / "log.1.gz").read_bytes()) == LOG
    assert tree.tools.decompress(tree.root, items)[0].outcome is Outcome.DONE
    assert (tree.path / "log.1").read_bytes() == LOG


@pytest.fixture
def no_unnamed_files(monkeypatch):
    """As on filesystems that know no O_TMPFILE."""
    real = os.open

    def refuse(path, flags, mode=0o777, *, dir_fd=None):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported", path)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("no_unnamed_files")
def test_where_files_must_have_names_a_crash_leaves_nothing_for_good(tree):
    tree.file("log.1", LOG)
    items = tree.items()
    left = tree.file(f".ansai-{items[0].inode:x}.tmp", b"half written")

    with left.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.FAILED
    assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.DONE

    assert tree.names() == ["log.1.gz"]


@pytest.mark.parametrize(
    "content", [gzip.compress(LOG * 9), b"\x28\xb5\x2f\xfd" + LOG, b"BZh9" + LOG, b"\xfd7zXZ\x00" + LOG]
)
def test_what_is_compressed_already_is_known_by_its_content(tree, content):
    tree.file("log.1", content)

    assert told(tree.tools.compress(tree.root, tree.items())) == skipped("compressed already")


@pytest.mark.parametrize("content", [os.urandom(100_000), b"x"])
def test_what_would_not_shrink_stays(tree, content):
    tree.file("log.1", content)

    assert told(tree.tools.compress(tree.root, tree.items())) == skipped("would not shrink")
    assert tree.names() == ["log.1"]


def test_a_sparse_file_stays_when_its_copy_takes_more(tree):
    with open(tree.path / "log.1", "wb") as file:
        file.truncate(100 << 20)

    assert told(tree.tools.compress(tree.root, tree.items())) == skipped("would not shrink")


def test_holes_come_back_as_holes(tree):
    path = tree.path / "log.1"
    with path.open("wb") as file:
        file.seek(50 << 20)
        file.write(LOG)
    items = tree.items()
    blocks = path.stat().st_blocks

    assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.DONE
    assert tree.tools.decompress(tree.root, items)[0].outcome is Outcome.DONE

    assert path.stat().st_size == (50 << 20) + len(LOG)
    assert path.stat().st_blocks <= blocks + (2 << 20) // 512


@pytest.mark.parametrize("when", ["while it is read", "after it was read"])
def test_a_file_that_grows_meanwhile_stays_whole(tree, monkeypatch, when):
    path = tree.file("log.1", LOG)
    items = tree.items()
    compress, copy_attributes = gzip_stream.compress, compressing.copy_attributes

    def grow():
        with path.open("ab") as writer:
            writer.write(b"one more line\n")
        os.utime(path, ns=(items[0].mtime_ns, items[0].mtime_ns))

    def grow_then_compress(*arguments):
        grow()
        return compress(*arguments)

    def copy_then_grow(*arguments):
        copy_attributes(*arguments)
        grow()

    if when == "while it is read":
        monkeypatch.setattr(gzip_stream, "compress", grow_then_compress)
    else:
        monkeypatch.setattr(compressing, "copy_attributes", copy_then_grow)

    assert told(tree.tools.compress(tree.root, items)) == skipped("changed: it was written to meanwhile")
    assert tree.names() == ["log.1"]
    assert path.read_bytes() == LOG + b"one more line\n"


def test_a_writer_that_comes_at_the_last_moment_keeps_its_file(tree, monkeypatch):
    path = tree.file("log.1", LOG)
    items = tree.items()
    fsync, writers = os.fsync, []

    def open_for_writing(fd):
        if os.fstat(fd).st_ino == tree.path.stat().st_ino and not writers:
            writers.append(path.open("ab"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", open_for_writing)

    assert told(tree.tools.compress(tree.root, items)) == skipped("open for writing")
    writers[0].close()
    assert tree.names() == ["log.1"]


def test_a_copy_that_does_not_read_back_is_thrown_away(tree, monkeypatch):
    path = tree.file("log.1", LOG)
    compress = gzip_stream.compress

    def write_badly(source, target, size, most):
        content = compress(source, target, size, most)
        byte = os.pread(target, 1, 5_000)
        os.pwrite(target, bytes([byte[0] ^ 0x10]), 5_000)
        return content

    monkeypatch.setattr(gzip_stream, "compress", write_badly)

    ((outcome, reason),) = told(tree.tools.compress(tree.root, tree.items()))

    assert outcome is Outcome.FAILED
    assert "does not read back" in reason
    assert tree.names() == ["log.1"]
    assert path.read_bytes() == LOG


def test_on_a_full_filesystem_the_source_stays(mount, tree_on, monkeypatch):
    tree = tree_on(mount("tmpfs", "full", options="size=2m"))
    path = tree.file("log.1", LOG)
    tree.file("filler", os.urandom((2 << 20) - len(LOG) - 20_000))
    items = [item for item in tree.items() if item.path == "log.1"]

    ((outcome, reason),) = told(tree.tools.compress(tree.root, items))
    assert outcome is Outcome.SKIPPED
    assert "of free space first" in reason

    monkeypatch.setattr(compressing, "ROOM", 0.0)
    assert told(tree.tools.compress(tree.root, items)) == [(Outcome.FAILED, "no space left")]
    assert path.read_bytes() == LOG
    assert tree.names() == ["filler", "log.1"]


def test_an_existing_copy_is_never_replaced(tree, monkeypatch):
    tree.file("log.1", LOG)
    items = tree.items()
    other = tree.file("log.1.gz", b"somebody else's")
    taken = skipped("there is a file of the new name already")

    assert told(tree.tools.compress(tree.root, items)) == taken
    monkeypatch.setattr(compressing, "_require_free_name", lambda parent, name: None)
    assert told(tree.tools.compress(tree.root, items)) == taken, "also when it comes at the last moment"

    assert other.read_bytes() == b"somebody else's"
    assert tree.names() == ["log.1", "log.1.gz"]


def test_a_name_without_room_for_a_suffix_is_skipped(tree):
    tree.file("l" * 253, LOG)

    assert told(tree.tools.compress(tree.root, tree.items())) == skipped("its name is too long for another suffix")


def test_access_times_of_logs_stay(mount, tree_on):
    tree = tree_on(mount("tmpfs", "strict", options="strictatime"))
    path = tree.file("log.1", os.urandom(100_000))
    os.utime(path, ns=(10**18, path.stat().st_mtime_ns))

    tree.tools.compress(tree.root, tree.items())

    assert path.stat().st_atime_ns == 10**18


# ── the way back ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def packed(tree):
    """A tree with one compressed log, and the item of its original."""
    tree.file("log.1", LOG)
    items = tree.items()
    assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.DONE
    return items


@pytest.mark.parametrize(
    ("damage", "told_reason"),
    [
        (lambda raw: raw[:-20], "damaged: it ends too early"),
        (lambda raw: raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:], "damaged"),
        (lambda raw: raw + b"more", "damaged: something follows its end"),
        (lambda raw: gzip.compress(LOG[:-1]), "holds less"),
        (lambda raw: gzip.compress(LOG + b"!"), "holds more"),
    ],
)
def test_a_damaged_copy_stays_and_nothing_takes_its_place(tree, packed, damage, told_reason):
    copy = tree.path / "log.1.gz"
    copy.write_bytes(damage(copy.read_bytes()))

    ((outcome, reason),) = told(tree.tools.decompress(tree.root, packed))

    assert outcome is Outcome.FAILED
    assert told_reason in reason
    assert tree.names() == ["log.1.gz"]


def test_an_original_that_is_there_is_never_replaced(tree, packed):
    """After a crash before the copy was finished, or when the service writes a new log of that name."""
    tree.file("log.1", b"newer")

    assert told(tree.tools.decompress(tree.root, packed)) == skipped("there is a file of the new name already")
    assert (tree.path / "log.1").read_bytes() == b"newer"
    assert tree.names() == ["log.1", "log.1.gz"]


def test_without_a_copy_there_is_nothing_to_take_back(tree, packed):
    (tree.path / "log.1.gz").unlink()

    assert told(tree.tools.decompress(tree.root, packed)) == skipped("gone")


def test_without_room_the_copy_stays(mount, tree_on):
    tree = tree_on(mount("tmpfs", "full", options="size=3m"))
    tree.file("log.1", LOG)
    items = tree.items()
    assert tree.tools.compress(tree.root, items)[0].outcome is Outcome.DONE
    tree.file("filler", os.urandom((3 << 20) - len(LOG)))

    ((outcome, reason),) = told(tree.tools.decompress(tree.root, items))

    assert outcome is Outcome.SKIPPED
    assert "of free space first" in reason
    assert tree.names() == ["filler", "log.1.gz"]


def test_tools_leave_no_descriptor_open(tree, act):
    for name in ("a/1", "b/2"):
        tree.file(name, LOG)
    before = sorted(os.listdir("/proc/self/fd"))

    act(tree.root, tree.items())

    assert sorted(os.listdir("/proc/self/fd")) == before
