"""`disk-full`: a small filesystem fills up with rotated logs, old temporary files and a package cache, and is healed.

The filesystem is real, so is apt's cache, so are collector, bus, function, and audit trail; only its times are short.
"""

import asyncio
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tools import MachineFileTools
from infra.adapters.packages import PackageCleaner, Packages
from infra.cli import tables
from infra.cli.plan_view import bar
from infra.configuration import load
from infra.hosts.function_host import Machine
from infra.hosts.local import LocalProbes, LocalTools
from infra.simulate.namespace import run_apart
from infra.simulate.registry import Scenario
from infra.simulate.show import HOST, Show, play, show_policy
from schemas.audit import ActionEvent
from schemas.settings.disk import df_percent
from schemas.settings.root import Configuration
from schemas.units import show_size

MEBIBYTE = 2**20
SIZE, LIVE, LOGS, TEMPORARY, PACKAGES = 64, 41, 5, 9, 4
"""Mebibytes of the filesystem and of what lies on it: 92 % full, 75 % is the target."""
OLD = 60 * 86400
DEADLINE = 25.0
"""Seconds for the whole cure."""

POLICY = """\
policy:
  mode: auto              # shipped: dry_run
  default:
    cooldown: 5 s         # shipped: 15 min
    confirmation: {{needed: 3, of: 4, every: 1 s}}  # shipped: every 10 s
    risk_modes: {{irreversible: auto}}  # shipped: approve, so a person is asked before temporary files go
disk_monitoring:
  only_mounts: [{volume}]
  every: 1 s              # shipped: 30 s
  confirm: 1              # shipped: 2 samples
  grace: 2 s              # shipped: 5 min between the alert and the first action
  auto_cleanup:
    logs_older_than: 30 days
    package_cache: true
    log_directories: [{volume}/log]
    temp_directories: {{{volume}/tmp: 1 s}}  # shipped: 7 days; a file's ctime can't be made older
    max_percent: 60       # shipped: 20; there is little else on this filesystem
    docker_images: false
    journal_size: false
"""


async def run(console: Console) -> bool:
    """Whether it was healed. Raises ToolError where no private filesystem can be made."""
    console.print("A filesystem of its own fills up; nothing outside of it is touched.")
    return await run_apart("infra.simulate.disk_full")


SCENARIO = Scenario("a filesystem fills up with logs, temporary files and packages, and is cleaned", run)


def fill(volume: Path) -> None:
    """Make the fault: data that must stay, and what may go."""
    (volume / "data").mkdir()
    _write(volume / "data" / "orders.db", os.urandom(LIVE * MEBIBYTE))
    (volume / "log").mkdir()
    line = b"2026-01-01T00:00:00Z web-1 GET /orders/%d 200 %d ms\n"
    text = b"".join(line % (number, number % 97) for number in range(MEBIBYTE // 48))
    for number in range(1, LOGS + 1):
        _write(volume / "log" / f"access.log.{number}", text.ljust(MEBIBYTE, b"\n"), OLD + number)
    _write(volume / "log" / "access.log", text[:4096])
    (volume / "tmp").mkdir()
    (volume / "tmp").chmod(0o1777)
    for number in range(TEMPORARY):
        _write(volume / "tmp" / f"upload-{number}.part", os.urandom(MEBIBYTE), OLD - 3600 * number)
    _write(volume / "tmp" / "in-use.part", os.urandom(MEBIBYTE // 4), OLD)


def fill_package_cache(volume: Path, directory: Path) -> dict[str, str]:
    """An apt of its own, whose cache lies on the volume; return the environment that makes apt use it."""
    archives = volume / "cache" / "archives"
    for needed in (archives / "partial", directory / "apt" / "lists" / "partial", directory / "apt" / "dpkg"):
        needed.mkdir(parents=True)
    (directory / "apt" / "dpkg" / "status").touch()
    for number in range(PACKAGES):
        _write(archives / f"linux-image-6.1.0-{number}_amd64.deb", os.urandom(MEBIBYTE), OLD)
    configuration = directory / "apt" / "apt.conf"
    configuration.write_text(
        f'Dir::State "{directory}/apt";\nDir::State::status "{directory}/apt/dpkg/status";\n'
        f'Dir::Cache "{volume}/cache";\nDir::Etc "{directory}/apt";\nAPT::Sandbox::User "root";\n'
    )
    return {"APT_CONFIG": str(configuration)}


def _write(path: Path, content: bytes, age: float = 0) -> None:
    path.write_bytes(content)
    moment = time.time() - age
    os.utime(path, (moment, moment))


def fullness(volume: Path) -> Text:
    seen = os.statvfs(volume)
    used, available = (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_bavail * seen.f_frsize
    percent = df_percent(used, available) or 0
    style = "red" if percent >= 90 else "green"
    return Text.assemble(bar(percent, style), f" {percent:.0f} % of {show_size(used + available)}")


async def heal(console: Console, volume: Path, configuration: Configuration, machine: Machine) -> bool:
    """Run everything until the report comes; whether the gap was closed."""
    show = Show(console)

    async def reported() -> None:
        if not await show.until(lambda data: isinstance(data, ActionEvent) and data.report is not None, DEADLINE):
            console.print(f"not healed within {DEADLINE:.0f} s", style="bold red")

    await play(show, configuration, ("disk.free_space", "disk.pressure"), reported, machine=machine)
    console.print(Text.assemble("afterwards  ", fullness(volume)))
    return show.report is not None and show.report.gap_after.closed


def main(directory: Path) -> int:
    """Inside the namespaces, where a mount over /mnt is seen by nobody else; the exit status is that of the command."""
    volume = Path("/mnt")
    console = tables.console()
    logging.basicConfig(level=logging.ERROR)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m,mode=755", "ansai-demo", str(volume)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        console.print(f"can't mount a small filesystem: {mounted.stderr.strip()}")
        return 1
    fill(volume)
    environment = fill_package_cache(volume, directory)
    os.environ["XDG_STATE_HOME"] = str(directory / "state")
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    policy = POLICY.format(volume=volume)
    (directory / "ansai.yaml").write_text(policy)
    configuration = load(str(directory / "ansai.yaml"), {})
    show_policy(console, policy)
    console.print(Rule("what happens"))
    console.print(Text.assemble("before      ", fullness(volume)))
    probes, tools = LocalProbes(), LocalTools()
    probes.packages, tools.packages = Packages(environment), PackageCleaner(environment)
    probes.files, tools.files = MachineFiles(), MachineFileTools()
    with (volume / "tmp" / "in-use.part").open("rb"):
        healed = asyncio.run(heal(console, volume, configuration, Machine(HOST, probes, tools)))
    verdict = "healed: what may go went, the rest is where it was" if healed else "not healed"
    console.print(Text(verdict, style="bold green" if healed else "bold red"))
    return 0 if healed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
