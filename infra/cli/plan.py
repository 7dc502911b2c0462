"""`ansai plan`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.text import Text

from functions.core.remedy import AnyRemedy
from infra.cli.chosen import function_names, functions
from infra.cli.failures import FAILED, SOMETHING_TO_DO
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.plan_view import block, summary
from infra.cli.tables import console, error_console
from infra.hosts.local import probes_of
from infra.hosts.preview import Preview, preview
from schemas.remediation import Mode, Risk
from schemas.settings.policy import EffectivePolicy
from schemas.settings.root import Configuration

app = typer.Typer(rich_markup_mode=None)


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

    async def main() -> list[Preview]:
        found: list[Preview] = []
        with _working() as tell:
            async for each in _all(remedies, configuration, host, target, everything=everything):
                tell(each.target)
                found.append(each)
        return found

    previews = asyncio.run(main())
    if as_json:
        print_json([each.document() for each in previews])
    else:
        _print(previews, remedies, configuration, host)
    if exit_code:
        raise typer.Exit(_code(previews))


async def _all(
    remedies: list[AnyRemedy], configuration: Configuration, host: str, wanted: str | None, *, everything: bool
) -> AsyncIterator[Preview]:
    probes = probes_of(configuration)
    for remedy in remedies:
        section = getattr(configuration, remedy.section_name)
        async for each in preview(remedy, section, host, probes, wanted=wanted, everything=everything):
            yield each


def _print(previews: list[Preview], remedies: list[AnyRemedy], configuration: Configuration, host: str) -> None:
    screen = console()
    for remedy in remedies:
        screen.print(Text.assemble((remedy.name, "bold cyan"), f" on {host}: {remedy.title}"))
        screen.print(Text(allowed(configuration.policy.of(remedy.name, host)), style="dim"))
        for each in previews:
            if each.function == remedy.name:
                screen.print(block(each))
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
