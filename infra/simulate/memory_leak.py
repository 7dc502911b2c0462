"""`memory-leak`: a service leaks towards its limit; it is asked for its garbage, and restarted before the kernel kills.

systemd, the service, its limit and the kernel's account are real, so are collector, bus, function, and audit trail. All
times are those that are shipped; only the clock runs faster.
"""

import asyncio
import sys
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from collectors.memory.series import SETTLE
from functions.memory.actions import RestartUnit
from infra.cli.plan_view import bar
from infra.hosts.local import LocalProbes
from infra.simulate import leaking
from infra.simulate.namespace import require_systemd, run_beside_systemd
from infra.simulate.registry import Scenario
from infra.simulate.services import active, perform, quoted, systemctl, write
from infra.simulate.show import Show, healed, play
from schemas.alert import Alert
from schemas.audit import ActionEvent, Step
from schemas.clock import Clock, SystemClock
from schemas.facts.cgroups import ControlGroupMemory
from schemas.probes import ProbeError
from schemas.settings.root import Configuration
from schemas.text import sparkline
from schemas.units import show_duration, show_size

SCALE = 120
"""Two minutes take a second."""
SERVICE = "shop.service"
TARGET = f"unit:{SERVICE}"
MEBIBYTE = 2**20
LIMIT = 128 * MEBIBYTE
BASE, LEAK = 32 * MEBIBYTE, int(1.9 * MEBIBYTE)
"""Bytes at the start, and a minute: 80 % of the limit are reached when the detector has learnt, not before."""
DEADLINE = timedelta(minutes=110)
"""For the whole cure."""
LOOK = 0.25
"""Seconds between two looks at what the service holds."""
SPARKS = 60

POLICY = f"""\
policy:
  mode: auto              # shipped: dry_run
memory_monitoring:
  units: [{SERVICE}]   # shipped: all
  containers: []          # shipped: all
  restart: true           # shipped: false
  services:
    "{TARGET}":
      garbage_collection: {{signal: SIGUSR1, timeout: 500 ms}}  # shipped: none is asked for
"""


async def run(console: Console) -> bool:
    """Whether it was healed. Raises ToolError where no systemd of its own can be started."""
    require_systemd("memory")
    console.print(
        f"The clock runs {SCALE} × as fast. A service leaks on a systemd of its own; no service of yours is touched."
    )
    return await run_beside_systemd("infra.simulate.memory_leak")


SCENARIO = Scenario("a service leaks memory; it is asked for its garbage, then restarted before the kernel kills", run)


class Gauge:
    """What the service holds, as a line that grows, and how far the story is."""

    def __init__(self, clock: Clock, show: Show, verify_for: timedelta) -> None:
        self._clock = clock
        self._show = show
        self._verify_for = verify_for
        self._probes = LocalProbes()
        self._began = clock.now()
        self._restarted: datetime | None = None
        self._samples: dict[int, int] = {}
        """minute → bytes"""
        self.last: ControlGroupMemory | None = None

    async def follow(self) -> None:
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(LOOK)

    def _look(self) -> None:
        if self._restarted is None and any(map(_was_restarted, self._show.told)):
            self._restarted = self._clock.now()
        try:
            unit = self._probes.units.unit(SERVICE)
            group = self._probes.memory.control_group(unit.control_group) if unit and unit.control_group else None
        except ProbeError:  # it is being restarted
            return
        if group is not None:
            self.last = group
            self._samples[int(self._age / timedelta(minutes=1))] = group.held

    @property
    def _age(self) -> timedelta:
        return self._clock.now() - self._began

    def __rich__(self) -> Group:
        held = self.last.held if self.last is not None else 0
        percent = 100 * held / LIMIT
        drawn = sparkline((0, *self._samples.values(), LIMIT))[1:-1][-SPARKS:]
        table = Table.grid(padding=(0, 2))
        table.add_row("holds", Text(drawn, "cyan"))
        filled = bar(percent, "red" if percent >= 80 else "green")
        table.add_row("of its limit", Text.assemble(filled, f" {show_size(held)} of {show_size(LIMIT)}"))
        table.add_row(f"{self._age / timedelta(minutes=1):.0f} min", self._phase())
        return Group(Text(), table)

    def _phase(self) -> Text:
        if self._restarted is not None:
            return _progress("watched, whether it grows again", self._clock.now() - self._restarted, self._verify_for)
        if self._age < SETTLE:
            return _progress("the detector learns", self._age, SETTLE)
        if any(isinstance(data, Alert) for data in self._show.told):
            return Text("its end is near: something is done")
        return Text("the detector sees it grow; it speaks when the limit is near")


def _progress(what: str, done: timedelta, whole: timedelta) -> Text:
    done = min(done, whole)
    minutes = timedelta(minutes=1)
    return Text.assemble(bar(100 * (done / whole), "cyan"), f" {what}: {done / minutes:.0f} of {show_duration(whole)}")


def _was_restarted(data: BaseModel) -> bool:
    if not isinstance(data, ActionEvent) or data.step is not Step.ACTED:
        return False
    return data.action is not None and data.action.action == RestartUnit.model_fields["action"].default


async def story(console: Console, configuration: Configuration) -> str:
    """What is not as it should be in the end."""
    clock = SystemClock(SCALE)
    show = Show(console, clock)
    rate = LEAK * SCALE // 60
    program = (sys.executable, leaking.__file__, str(BASE), str(rate), "/run/shop-has-leaked")
    write(SERVICE, f"ExecStart={' '.join(map(quoted, program))}", "MemoryAccounting=yes", f"MemoryMax={LIMIT}")
    console.print(Rule("what happens"))
    gauge = Gauge(clock, show, configuration.memory_monitoring.verify_for)

    async def leak() -> None:
        systemctl("start", SERVICE)
        looking = asyncio.create_task(gauge.follow())
        live = Live(gauge, console=console, refresh_per_second=1 / LOOK) if console.is_terminal else nullcontext()
        with live:
            await show.until(healed(TARGET), DEADLINE.total_seconds() / SCALE)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        if not console.is_terminal:
            console.print(gauge)

    await play(show, configuration, ("memory.contain_leak", "memory.trend"), leak, clock=clock)
    kills = gauge.last.out_of_memory_kills if gauge.last is not None else None
    console.print(f"afterwards  {SERVICE} is {active(SERVICE)}, and the kernel killed {kills} of its processes")
    if not any(map(healed(TARGET), show.told)):
        return f"{SERVICE} still leaks after {show_duration(DEADLINE)} of its time"
    return "" if kills == 0 and active(SERVICE) == "active" else f"{SERVICE} is not as it should be"


HEALED = "healed: restarted before its memory ran out, and it grows no more"

if __name__ == "__main__":
    sys.exit(perform(Path(sys.argv[1]), POLICY, HEALED, story))
