"""`ansai report`."""

import asyncio
import difflib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

import typer
from rich.text import Text

from bus import subjects
from bus.port import Bus
from collectors.core.thread import in_daemon_thread
from functions.core.remedy import match_target
from infra.cli.arguments import Since
from infra.cli.failures import Failure
from infra.cli.invocation import Invocation, invocation
from infra.cli.output import AsJson, print_json
from infra.cli.report_sources import Told, actions, healths, told
from infra.cli.report_view import DOMAINS, View, block, needs_a_look, overview, views
from infra.cli.tables import console
from infra.hosts.local import probes_of
from infra.hosts.session import session
from schemas.probes import ProbeError
from schemas.settings.root import Configuration

app = typer.Typer(rich_markup_mode=None)

LATELY = timedelta(days=7)
"""What was done longer ago is in the audit trail."""

READ_TIMEOUT = timedelta(seconds=20)
"""One target's look; what can't be read by then is told without it."""


@dataclass
class Chapter:
    """One domain."""

    domain: str
    views: list[View]
    told: list[Told]

    def view(self, told: Told) -> View | None:
        data = told.event.data if told.event is not None else None
        return next((view for view in self.views if data is not None and isinstance(data, view.model)), None)


@app.command(
    epilog="Examples: ansai report · ansai report memory --target unit:app.service · ansai report services --json"
)
def report(
    context: typer.Context,
    domain: Annotated[str | None, typer.Argument(help=f"{', '.join(DOMAINS)}; all by default.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Only unit:app.service, or app.service; with all its details.")
    ] = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Tell how targets are, where that leads, and what was done about them of late.

    From the health events and the actions that the bus keeps; on the host itself the processes of a service that needs
    a look are read as well. Nothing is changed.
    """
    asked = invocation(context)
    configuration, host = asked.start(), asked.host_name
    chosen = _domains(domain)
    here = _here(asked)
    now = datetime.now(UTC)

    async def main() -> list[Chapter]:
        async with session(configuration.bus, "ansai-report", start=True) as bus:
            chapters = await _read(bus, host, chosen, now - (since or LATELY))
        chapters = _only(chapters, target, host)
        if here:
            for chapter in chapters:
                await _look(chapter, configuration, host, everything=target is not None)
        return chapters

    chapters = asyncio.run(main())
    if as_json:
        print_json(
            [
                {"domain": chapter.domain, "host": host} | each.document(now)
                for chapter in chapters
                for each in chapter.told
            ]
        )
    else:
        _print(chapters, host, now, everything=target is not None)


def _domains(wanted: str | None) -> list[str]:
    """Raises Failure."""
    if wanted is None:
        return list(DOMAINS)
    if wanted in DOMAINS:
        return [wanted]
    near = difflib.get_close_matches(wanted, DOMAINS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are reports about {', '.join(DOMAINS)}"
    raise Failure(f"there is no report about {wanted!r}; {hint}")


def _here(asked: Invocation) -> bool:
    """Whether the host that is asked about is this machine: the configured name is, another one may not be."""
    return asked.host is None or subjects.host_token(asked.host) == subjects.host_token(socket.gethostname())


async def _read(bus: Bus, host: str, domains: Sequence[str], since: datetime) -> list[Chapter]:
    acted = await actions(bus, host, since)
    chapters = []
    for domain in domains:
        shown = views(domain)
        events = [event for view in shown for event in await healths(bus, host, view.model)]
        chapters.append(Chapter(domain, shown, told(domain, events, acted)))
    return chapters


def _only(chapters: list[Chapter], wanted: str | None, host: str) -> list[Chapter]:
    """What was told of the target *wanted*. Raises Failure when that is nothing."""
    if wanted is None:
        return chapters
    targets = list(dict.fromkeys(each.target for chapter in chapters for each in chapter.told))
    matched = match_target(wanted, targets)
    if not matched:
        known = ", ".join(targets[:20]) or "nothing"
        raise Failure(f"nothing was told of {wanted!r} on {host} within a day; it was told of {known}")
    found = [replace(chapter, told=[each for each in chapter.told if each.target in matched]) for chapter in chapters]
    return [chapter for chapter in found if chapter.told]


async def _look(chapter: Chapter, configuration: Configuration, host: str, *, everything: bool) -> None:
    """Read what the targets that need a look tell themselves, where a view knows how."""
    probes = probes_of(configuration)
    for number, each in enumerate(chapter.told):
        view, event = chapter.view(each), each.event
        if view is None or view.look is None or event is None or not (everything or needs_a_look(each)):
            continue
        reading = in_daemon_thread(view.collector, partial(view.look, configuration, host, event.data, probes))
        try:
            looked = await asyncio.wait_for(reading, READ_TIMEOUT.total_seconds())
            chapter.told[number] = replace(each, closer=looked)
        except ProbeError as error:
            chapter.told[number] = replace(each, problem=str(error))
        except TimeoutError:
            chapter.told[number] = replace(each, problem=f"no answer within {READ_TIMEOUT.total_seconds():g} s")


def _print(chapters: list[Chapter], host: str, now: datetime, *, everything: bool) -> None:
    screen = console()
    for number, chapter in enumerate(chapters):
        if number:
            screen.print()
        screen.print(Text.assemble((chapter.domain, "bold cyan"), f" on {host}"))
        shown = [view for view in chapter.views if any(chapter.view(each) is view for each in chapter.told)]
        for place, view in enumerate(shown):
            if place:
                screen.print()
            screen.print(overview(view, chapter.told, now))
        if not any(each.event for each in chapter.told):
            collectors = " ".join(view.collector for view in chapter.views)
            screen.print(f"No collector told of it within a day; start one with: ansai collect {collectors}")
        for each in chapter.told:
            if everything or needs_a_look(each):
                screen.print()
                screen.print(block(chapter.view(each), each))
