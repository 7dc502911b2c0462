"""`ansai plan`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from bus.port import Bus, BusError
from functions.core.remedy import AnyRemedy
from infra.cli.chosen import function_names, functions
from infra.cli.failures import FAILED, SOMETHING_TO_DO, Failure
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.plan_view import block, summary
from infra.cli.tables import console, error_console
from infra.hosts.local import probes_of
from infra.hosts.preview import Preview, preview
from infra.hosts.session import session
from infra.hosts.signals import BusSignals
from schemas.probes import Absent, ProbeError
from schemas.remediation import Gap, Mode, Risk
from schemas.settings.bus import BusSettings
from schemas.settings.policy import EffectivePolicy
from schemas.settings.root import Configuration
from schemas.text import show_path

app = typer.Typer(rich_markup_mode=None)

PATIENCE = timedelta(seconds=2)
"""For the bus: what collectors said last is worth no longer wait, a plan can do without it."""

UNHEARD = "What collectors said of late is not known"


@app.command(epilog="Examples: ansai plan · ansai plan disk.free_space --target /var · ansai plan --exit-code --json")
def plan(
    context: typer.Context,
    function: Annotated[str | None, typer.Argument(help="Only of this one; all by default.")] = None,
    target: Annotated[str | None, typer.Option(help="Only of bytes:/var, or of /var and all its resources.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ladders also where nothing presses.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="2: something to do; 1: something unknown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be done now, rung by rung, with the bytes it would free; changes nothing.

    Figures with ≤ are upper bounds, the others exact. What would run now is a beginning of the ladder:
    it stops as soon as the measured gap is closed.
    """
    asked = invocation(context)
    configuration, host = asked.start(), asked.host_name
    remedies = functions([function] if function else function_names(configuration), configuration)

    async def main() -> tuple[list[Preview], str]:
        found: list[Preview] = []
        with _working() as tell:
            async with _memory(configuration.bus) as (bus, why):
                async for each in _all(remedies, configuration, host, bus, target, everything=everything):
                    tell(each.target)
                    found.append(each)
        return found, why

    previews, why = asyncio.run(main())
    if as_json:
        print_json([each.document() for each in previews])
    else:
        _print(previews, remedies, configuration, host)
    if why and any(not each.gap.known and not each.problem for each in previews):
        typer.echo(f"{UNHEARD}: {why}", err=True)
    if exit_code:
        raise typer.Exit(_code(previews))


@asynccontextmanager
async def _memory(settings: BusSettings) -> AsyncIterator[tuple[Bus | None, str]]:
    """The bus, where one answers soon; none, and why, where not."""
    hasty = settings.model_copy(update={"connect_deadline": min(PATIENCE, settings.connect_deadline)})
    async with AsyncExitStack() as stack:
        try:
            found: tuple[Bus | None, str] = await stack.enter_async_context(session(hasty, "ansai-plan")), ""
        except BusError as error:
            found = None, str(error)
        yield found


async def _all(
    remedies: list[AnyRemedy], configuration: Configuration, host: str, bus: Bus | None, wanted: str | None, *,
    everything: bool,
) -> AsyncIterator[Preview]:  # fmt: skip
    """Of several functions, one whose targets can't be listed is told as unknown, and one that has none is not.

    Raises ProbeError when there is but one function, Failure when none has the target that is *wanted*.
    """
    probes, lacking, found = probes_of(configuration), list[str](), 0
    for remedy in remedies:
        section = getattr(configuration, remedy.section_name)
        tolerance = configuration.policy.future_tolerance
        signals = BusSignals(bus, host, remedy.listens, tolerance) if bus is not None else None
        try:
            async for each in preview(
                remedy, section, host, probes, signals=signals, wanted=wanted, everything=everything
            ):
                found += 1
                yield each
        except ProbeError as error:
            if len(remedies) == 1:
                raise
            absent = isinstance(error, Absent)
            if wanted is None:
                gap = Gap(amount=0, unit="", reason=str(error)) if absent else Gap.unknown("", str(error))
                yield Preview(remedy.name, "", None, gap, problem=str(error))
            if not absent:
                lacking.append(str(error))
    if lacking and wanted is not None and not found:
        raise Failure("; ".join(lacking))


def _print(previews: list[Preview], remedies: list[AnyRemedy], configuration: Configuration, host: str) -> None:
    screen = console()
    for remedy in remedies:
        screen.print(Text.assemble((remedy.name, "bold cyan"), f" on {host}: {remedy.title}"))
        screen.print(Text(allowed(configuration.policy.of(remedy.name, host)), style="dim"))
        ours = [each for each in previews if each.function == remedy.name]
        names = 0 if remedy.plans_ahead else max((len(show_path(each.target)) for each in ours), default=0)
        for each in ours:
            screen.print(block(each, names))
        screen.print()
    screen.print(summary(previews))


ALLOWED = {
    Mode.OBSERVE: "only watches", Mode.DRY_RUN: "only tells what it would do", Mode.APPROVE: "asks before it acts",
    Mode.AUTO: "acts by itself",
}  # fmt: skip


def allowed(policy: EffectivePolicy) -> str:
    """How far the policy lets the function go, as a sentence. Pure."""
    if not policy.enabled:
        return "the policy has switched it off"
    capped = {risk: policy.mode_for(risk) for risk in Risk}
    lower = [f"with what is {risk} it {ALLOWED[mode]}" for risk, mode in capped.items() if mode is not policy.mode]
    return f"mode {policy.mode}: it {ALLOWED[policy.mode]}" + "".join(f"; {each}" for each in lower)


def _code(previews: list[Preview]) -> int:
    if any(each.gap.open for each in previews):
        return SOMETHING_TO_DO
    return FAILED if any(not each.gap.known for each in previews) else 0


def _unseen(_: str) -> None:
    """Where nobody watches, nothing is said."""


@contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    """A spinner on standard error while trees are walked, when that is a terminal."""
    screen = error_console()
    if not screen.is_terminal:
        yield _unseen
        return
    with screen.status("looking at the targets…") as status:
        yield lambda target: status.update(f"looked at {target}…")
