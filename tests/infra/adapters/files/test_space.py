import os
import subprocess
import sys

import pytest

from infra.adapters.files.machine import MachineFiles
from schemas.probes import ProbeError

NFS = "21 1 0:50 / {} rw - nfs4 server:/export rw\n"


def test_figures_are_those_of_df(ext4):
    (ext4 / "file").write_bytes(os.urandom(3 << 20))
    os.sync()

    usage = MachineFiles().usage(str(ext4))

    columns = "--output=size,used,avail,itotal,iused,iavail"
    figures = subprocess.run(["df", "-B1", columns, str(ext4)], capture_output=True, text=True, check=True).stdout
    size, used, available, *inodes = map(int, figures.splitlines()[1].split())
    assert (usage.total, usage.used, usage.available) == (size, used, available)
    assert [usage.inodes_total, usage.inodes_used, usage.inodes_available] == inodes
    assert usage.root_available > usage.available, "ext4 keeps blocks back for root"
    assert usage.device == ext4.stat().st_dev
    assert not usage.read_only


def test_a_read_only_mount_says_so(mount):
    assert MachineFiles().usage(str(mount("tmpfs", "t", options="ro,size=1m"))).read_only


def test_a_directory_that_is_no_mount_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match="nothing is mounted there now"):
        MachineFiles().usage(str(tmp_path))


def test_a_mount_hidden_by_another_is_an_error_not_the_other_ones_figures(mount):
    inner = mount("tmpfs", "outer/inner", options="size=1m")
    hiding = mount("tmpfs", "outer", options="size=2m")
    (hiding / "inner").mkdir()

    with pytest.raises(ProbeError, match="another mount hides it"):
        MachineFiles().usage(str(inner))
    assert MachineFiles().usage(str(hiding)).total == 2 << 20


def test_a_remote_filesystem_is_asked_by_a_child(mount, recorded_proc):
    point = mount("tmpfs", "remote", options="size=1m")
    probe = MachineFiles(proc=recorded_proc(NFS.format(point)))

    assert probe.usage(str(point)).total == 1 << 20


def test_a_filesystem_that_never_answers_is_given_up(recorded_proc):
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    probe = MachineFiles(proc=recorded_proc(NFS.format("/far")), prober=hangs, deadline=0.3)

    with pytest.raises(ProbeError, match=r"statvfs /far \(nfs4 from server:/export\): no answer within 0.3 s"):
        probe.usage("/far")


def test_a_fuse_filesystem_whose_process_hangs_is_given_up(privately, tmp_path):
    """A real one: the kernel's requests are never read from /dev/fuse."""
    script = """
import ctypes, json, os, sys
fuse = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
assert libc.mount(b"hung", os.fsencode(sys.argv[1]), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
from infra.adapters.files.machine import MachineFiles
from schemas.probes import ProbeError
try:
    MachineFiles(deadline=0.5).usage(sys.argv[1])
except ProbeError as error:
    print(json.dumps(str(error)))
os.close(fuse)
"""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this kernel has no FUSE")

    assert "(fuse from hung): no answer within 0.5 s" in privately(script, str(tmp_path))


@pytest.mark.parametrize(
    ("program", "told"),
    [("print('nonsense')", "was not understood"), ("raise SystemExit('stale handle')", "stale handle")],
)
def test_an_odd_answer_is_an_error(recorded_proc, program, told):
    probe = MachineFiles(proc=recorded_proc(NFS.format("/far")), prober=[sys.executable, "-c", program])

    with pytest.raises(ProbeError, match=told):
        probe.usage("/far")


def test_an_autofs_trigger_is_not_touched(recorded_proc):
    probe = MachineFiles(proc=recorded_proc("21 1 0:50 / /net rw - autofs systemd-1 rw\n"), prober=["/bin/false"])

    with pytest.raises(ProbeError, match="autofs trigger"):
        probe.usage("/net")
