import pytest

from infra.adapters.files.machine import MachineFiles
from schemas.probes import ProbeError


@pytest.fixture
def sysfs(tmp_path):
    """253:3, an encrypted volume on the thin volume dm-2, which is cut from the pool dm-1; 253:9 is a plain volume."""
    for name, uuid, label, slaves in (
        ("dm-1", "LVM-abc-tpool", "vg-pool-tpool", []), ("dm-2", "LVM-abc", "vg-thin", ["dm-1"]),
        ("dm-3", "CRYPT-LUKS2", "secret", ["dm-2"]), ("dm-9", "LVM-def", "vg-plain", []),
    ):  # fmt: skip
        home = tmp_path / "devices" / name
        (home / "dm").mkdir(parents=True)
        (home / "slaves").mkdir()
        (home / "dm" / "uuid").write_text(f"{uuid}\n")
        (home / "dm" / "name").write_text(f"{label}\n")
        for slave in slaves:
            (home / "slaves" / slave).symlink_to(f"../../{slave}")
    block = tmp_path / "dev" / "block"
    block.mkdir(parents=True)
    for number in (1, 2, 3, 9):
        (block / f"253:{number}").symlink_to(f"../../devices/dm-{number}")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("device", "pool"), [("253:2", "vg-pool"), ("253:3", "vg-pool"), ("253:9", None), ("0:42", None)]
)
def test_the_pool_is_found_at_whatever_depth(sysfs, device, pool):
    assert MachineFiles(sys=sysfs).thin_pool(device) == pool


def test_without_sysfs_the_answer_is_unknown(tmp_path):
    with pytest.raises(ProbeError, match="is /sys mounted"):
        MachineFiles(sys=str(tmp_path)).thin_pool("253:2")


def test_on_this_machine_there_is_an_answer():
    probe = MachineFiles()
    root = next(mount for mount in probe.mounts() if mount.point == "/")

    assert probe.thin_pool(root.device) is None or probe.thin_pool(root.device)
