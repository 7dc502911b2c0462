"""`service-crash`: a service crashes, its pid file keeps it from starting again; it is brought back.

Another one is stopped by somebody, and stays so. systemd and the services are real, so are collector, bus, function,
and audit trail; only the times are short.
"""

import sys
from functools import partial
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from infra.simulate.namespace import require_systemd, run_beside_systemd
from infra.simulate.registry import Scenario
from infra.simulate.services import active, perform, quoted, systemctl, write
from infra.simulate.show import Show, healed, play
from schemas.services import ServiceState
from schemas.settings.root import Configuration

CRASHES, STOPPED = "shop.service", "payroll.service"
PID_FILE = "/run/shop.pid"
DEADLINE = 30.0
"""Seconds for the whole cure."""

POLICY = f"""\
policy:
  mode: auto              # shipped: dry_run
  default:
    confirmation: {{needed: 3, of: 4, every: 1 s}}  # shipped: every 10 s
service_monitoring:
  units: [{CRASHES}, {STOPPED}]  # shipped: all
  every: 500 ms           # shipped: 15 s
  settle: 1 s             # shipped: 30 s, in which systemd's own Restart= has the word
  stable_for: 2 s         # shipped: 1 min
  services:
    {CRASHES}: {{stale_files: [{PID_FILE}]}}
"""

SERVES = (
    f"if test -e {PID_FILE}; then echo '{PID_FILE} exists: another one is running'; exit 1; fi; "
    f"echo $$ >{PID_FILE}; exec sleep infinity"
)
"""As many daemons do: none begins while there is a pid file, and a crash leaves it."""


async def run(console: Console) -> bool:
    """Whether it was healed. Raises ToolError where no systemd of its own can be started."""
    require_systemd()
    console.print("Two services on a systemd of its own: one crashes, one is stopped; no service of yours is touched.")
    return await run_beside_systemd("infra.simulate.service_crash")


SCENARIO = Scenario("a service crashes and is brought back; another one, which somebody stopped, is left alone", run)


async def story(console: Console, configuration: Configuration) -> str:
    """What is not as it should be in the end."""
    write(CRASHES, f"ExecStart=/bin/sh -c {quoted(SERVES)}")
    write(STOPPED, "ExecStart=sleep infinity")
    systemctl("start", CRASHES, STOPPED)
    console.print(Rule("what happens"))
    show, crash = Show(console), f"unit:{CRASHES}"

    async def faults() -> None:
        for unit in (CRASHES, STOPPED):
            await show.until(partial(_tells_of, unit), DEADLINE)
        for order in (("kill", "--signal=SEGV", CRASHES), ("stop", STOPPED)):
            console.print(Text(f"somebody runs: systemctl {' '.join(order)}", "bold"))
            systemctl(*order)
        await show.until(healed(crash), DEADLINE)

    await play(show, configuration, ("services.restart_failed", "services.state"), faults)
    states = {unit: active(unit) for unit in (CRASHES, STOPPED)}
    console.print(f"afterwards  {', '.join(f'{unit} is {state}' for unit, state in states.items())}")
    if not any(map(healed(crash), show.told)):
        return f"{CRASHES} was not brought back within {DEADLINE:.0f} s"
    return "" if states == {CRASHES: "active", STOPPED: "inactive"} else "one of the services is not as it should be"


def _tells_of(unit: str, data: BaseModel) -> bool:
    return isinstance(data, ServiceState) and data.unit == unit


HEALED = "healed: what crashed runs again, what somebody stopped stays stopped"

if __name__ == "__main__":
    sys.exit(perform(Path(sys.argv[1]), POLICY, HEALED, story))
