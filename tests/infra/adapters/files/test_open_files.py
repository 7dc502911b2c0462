import os

import pytest

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.open_files import unit_of
from schemas.probes import ProbeError


def identity(path):
    stat = os.stat(path)
    return (stat.st_dev, stat.st_ino)


def test_open_mapped_run_and_stood_in_are_in_use(privately, tmp_path):
    script = """
import json, mmap, os, subprocess, sys
from infra.adapters.files.machine import MachineFiles
top = sys.argv[1]
for name in ("open", "mapped", "idle"):
    open(f"{top}/{name}", "wb").write(b"x" * 5000)
os.mkdir(f"{top}/stood in")
held = open(f"{top}/open")
with open(f"{top}/mapped") as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
child = subprocess.Popen(["sleep", "60"], cwd=f"{top}/stood in")
used = MachineFiles().in_use()
child.kill(); child.wait()
def known(path):
    stat = os.stat(path)
    return (stat.st_dev, stat.st_ino) in used
print(json.dumps({name: known(f"{top}/{name}") for name in ("open", "mapped", "idle", "stood in")}
    | {"running": known(sys.executable), "library": any(known(line.split()[5]) for line in open("/proc/self/maps")
       if "libc.so" in line or "ld-linux" in line)}))
"""
    used = privately(script, str(tmp_path))

    assert used == {"open": True, "mapped": True, "idle": False, "stood in": True, "running": True, "library": True}


def test_a_deleted_open_file_is_told_once_with_its_blocks(privately, tmp_path):
    script = """
import json, mmap, os, subprocess, sys
from infra.adapters.files.machine import MachineFiles
top = sys.argv[1]
shared = open(f"{top}/shared log", "wb"); shared.write(b"x" * 300_000); shared.flush(); os.fsync(shared.fileno())
sparse = open(f"{top}/sparse", "wb"); sparse.truncate(1 << 30)
with open(f"{top}/mapped", "wb") as file:
    file.write(b"y" * 8192); file.flush(); os.fsync(file.fileno())
with open(f"{top}/mapped", "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
memory = os.memfd_create("not on a disk")
os.write(memory, b"z" * 8192)
allocated = os.fstat(shared.fileno()).st_blocks * 512
for name in ("shared log", "sparse", "mapped"):
    os.unlink(f"{top}/{name}")
child = subprocess.Popen(["sleep", "60"], pass_fds=[shared.fileno()])
held = MachineFiles().deleted_open()
child.kill(); child.wait()
print(json.dumps([allocated, [[os.path.basename(file.path), file.allocated, file.process] for file in held]]))
"""
    allocated, held = privately(script, str(tmp_path))

    assert [name for name, _, _ in held] == ["shared log", "mapped", "sparse"]
    assert [size for _, size, _ in held] == [allocated, 8192, 0]
    assert allocated >= 300_000
    assert all(process.startswith("python") for _, _, process in held)


def test_who_holds_a_deleted_file_is_told_with_unit(recorded_proc, tmp_path):
    with open(tmp_path / "gone", "w+b") as file:
        os.unlink(tmp_path / "gone")
        fd = f"/proc/self/fd/{file.fileno()}"
        (held,) = MachineFiles(proc=recorded_proc(processes={"77": {"fd": {"3": fd}}})).deleted_open()

    assert (held.pid, held.process, held.unit) == (77, "recorded", "recorded.service")


def test_swap_files_and_loop_images_are_in_use_without_a_process(recorded_proc, tmp_path):
    swap, image = tmp_path / "swap file", tmp_path / "image"
    swap.touch()
    image.touch()
    proc = recorded_proc(swaps=f"Filename Type\n{str(swap).replace(' ', chr(92) + '040')} file 100 0 -2\n")
    loop = tmp_path / "sys" / "block" / "loop0" / "loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text(f"{image}\n")

    used = MachineFiles(proc=proc, sys=str(tmp_path / "sys")).in_use()

    assert {identity(swap), identity(image)} <= used


def test_a_process_that_ends_meanwhile_holds_nothing(recorded_proc, tmp_path):
    proc = recorded_proc(processes={"77": {"fd": {"3": str(tmp_path / "closed meanwhile")}, "exe": "/gone"}})

    assert identity("/") in MachineFiles(proc=proc).in_use()


def test_when_others_cannot_be_looked_into_the_answer_is_unknown(privately, tmp_path):
    script = """
import json, os, subprocess
from infra.adapters.files.machine import MachineFiles
from schemas.probes import ProbeError
root = subprocess.Popen(["sleep", "60"])
if (child := os.fork()) == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    told = []
    for question in (MachineFiles().in_use, MachineFiles().deleted_open):
        try:
            question(); told.append("answered")
        except ProbeError as error:
            told.append(str(error))
    print(json.dumps(told), flush=True)
    os._exit(0)
os.waitpid(child, 0)
root.kill(); root.wait()
"""
    told = privately(script)

    assert all("is not known; run as root or with CAP_SYS_PTRACE" in text for text in told), told


def test_hidden_processes_make_the_answer_unknown(recorded_proc, monkeypatch, tmp_path):
    proc = recorded_proc(f"21 1 0:5 / {tmp_path}/proc rw - proc proc rw,hidepid=invisible\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ProbeError, match="hidepid"):
        MachineFiles(proc=proc).in_use()


def test_without_a_proc_the_answer_is_unknown(tmp_path):
    with pytest.raises(ProbeError, match="is /proc mounted"):
        MachineFiles(proc=str(tmp_path)).in_use()


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope/inner\n", "run-1.scope"),
        ("12:memory:/docker/abc\n1:name=systemd:/system.slice/cron.service\n", "cron.service"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit_is_the_innermost_service_or_scope(cgroups, unit):
    assert unit_of(cgroups) == unit
