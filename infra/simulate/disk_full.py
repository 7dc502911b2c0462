"""`disk-full`: a small filesystem fills up with rotated logs, old temporary files and a package cache, and is healed.

The filesystem is real, so is apt's cache, so are collector, bus, function, and audit trail; only its times are short.
"""

import asyncio
import logging
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from bus.port import StreamName
from collectors import registry as collectors
from functions import registry as functions
from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tools import MachineFileTools
from infra.adapters.packages import PackageCleaner, Packages
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.trust import local_keys
from infra.cli import tables
from infra.cli.audit_verify import progress
from infra.cli.audit_verify import show as show_verification
from infra.cli.lines import audit_text, line_of, read
from infra.cli.plan_view import bar
from infra.cli.reports import report as report_view
from infra.configuration import load
from infra.hosts.function_host import Machine
from infra.hosts.local import LocalProbes, LocalTools
from infra.hosts.station import station
from infra.simulate.namespace import run_apart
from infra.simulate.registry import Scenario
from schemas.audit import ActionEvent, AuditSegment
from schemas.remediation import Mode, Report
from schemas.settings.bus import state_directory
from schemas.settings.disk import df_percent
from schemas.settings.root import Configuration
from schemas.units import show_size

HOST = "demo"
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


class Show:
    """Prints what comes over the bus, and keeps the report that ends the story."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.report: Report | None = None
        self.healed = asyncio.Event()

    async def follow(self, listening: Any) -> None:
        shown_kinds = {"health", "action", "alert"}
        last_health = ""
        async for subject, body in listening:
            line = line_of(subject, body, datetime.now(UTC))
            if line.kind not in shown_kinds or (line.kind == "health" and line.text == last_health):
                continue
            last_health = line.text if line.kind == "health" else last_health
            self._console.print(line.rich())
            event = read(body)
            if event is not None and isinstance(event.data, ActionEvent) and event.data.mode is Mode.AUTO:
                self.report = event.data.report or self.report
                if event.data.report is not None:
                    self.healed.set()


def fullness(volume: Path) -> Text:
    seen = os.statvfs(volume)
    used, available = (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_bavail * seen.f_frsize
    percent = df_percent(used, available) or 0
    style = "red" if percent >= 90 else "green"
    return Text.assemble(bar(percent, style), f" {percent:.0f} % of {show_size(used + available)}")


async def heal(console: Console, volume: Path, configuration: Configuration, machine: Machine) -> bool:
    """Run everything until the report comes; whether the gap was closed."""
    remedies, eyes = [functions.load("disk.free_space")], [collectors.load("disk.pressure")]
    show = Show(console)
    async with station(configuration, HOST, remedies, (), everything=True, machine=machine) as running:
        listening = running.bus.listen("ansai.>")
        await listening.ready()
        following = asyncio.create_task(show.follow(listening))
        async with station(configuration, HOST, (), eyes, machine=machine):
            try:
                async with asyncio.timeout(DEADLINE):
                    await show.healed.wait()
            except TimeoutError:
                console.print(f"not healed within {DEADLINE:.0f} s", style="bold red")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        console.print(Rule("the report"))
        if show.report is not None:
            console.print(report_view(show.report))
        console.print(Rule("the audit trail"))
        rows = [(str(record.sequence), record.step.value, audit_text(record)) async for record in _records(running.bus)]
        console.print(tables.table((">no", "step", "what"), rows))
        console.print(Rule("ansai audit verify"))
        audit = state_directory() / "audit"
        trust = local_keys(HOST, Keyring(audit / "keys"))
        with progress("verifying") as told:
            show_verification(await verify_stream(running.bus, trust, audit / "heads", told))
    console.print(Text.assemble("afterwards  ", fullness(volume)))
    return show.report is not None and show.report.gap_after.closed


async def _records(bus: Any) -> Any:
    async for message in bus.read(StreamName.AUDIT, "ansai.audit.>"):
        event = read(message.body)
        if event is not None and isinstance(event.data, AuditSegment):
            for record in event.data.records:
                yield record


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
    console.print(Rule("the policy of this demonstration: live, and its times shortened"))
    console.print(Syntax(policy, "yaml", background_color="default"))
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
