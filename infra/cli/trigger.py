"""`ansai trigger`."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from bus import subjects
from bus.port import Bus
from functions import registry
from functions.core.remedy import Scope
from infra.cli.failures import Failure
from infra.cli.invocation import invocation
from infra.cli.lines import line_of, read
from infra.cli.person import person_token, user_name
from infra.cli.tables import console
from infra.hosts.beat import ROLL_CALL
from infra.hosts.session import session
from schemas.audit import ActionEvent, Step
from schemas.envelope import Event
from schemas.heartbeat import ComponentKind, Heartbeat
from schemas.remediation import Outcome
from schemas.settings.root import Configuration
from schemas.trigger import Asked, Trigger

app = typer.Typer(rich_markup_mode=None)

SILENCE = timedelta(seconds=3)
"""Who runs answers the roll call at once, and says so every ten seconds anyway; after this nobody is there."""

TARGET = (
    "Like bytes:/var, or /var for all of its resources. Without one, every target is evaluated, and none is changed."
)

GOOD = frozenset({Outcome.DONE, Outcome.WOULD})


@app.command(epilog="Example: ansai trigger disk.free_space --target /var --reason 'deploy at noon' --wait")
def trigger(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="Like disk.free_space; see ansai functions list.")],
    target: Annotated[str | None, typer.Option(help=TARGET)] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask for real changes; the policy decides.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it to its end; exit with 1 unless it ends well.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
    who: Annotated[str | None, typer.Option(help="Who asks; by default the user's name.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that --wait waits at most.")] = 3600,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document at the end.")] = False,
) -> None:
    """Ask a function to look at its targets now; says who listens before it asks."""
    asked = invocation(context)
    configuration = asked.start()
    if live and target is None:
        raise Failure("--live needs a --target: an order that names none changes nothing")
    host = host_of(function, asked.host_name, configuration)
    person = who or person_token(user_name())
    order = Trigger(target=target, mode=Asked.LIVE if live else Asked.DRY_RUN, reason=reason)

    async def main() -> Answer:
        async with session(configuration.bus, "ansai-trigger") as bus:
            sender = _Sender(bus, function, host, registry.names(configuration.custom_actions))
            listeners = await sender.listeners()
            if not as_json:
                typer.echo(f"{', '.join(listeners)} listens", err=True)
            answer = Answer(listeners=listeners)
            await sender.send(order, person, answer, timeout if wait else None, quiet=as_json)
            return answer

    answer = asyncio.run(main())
    if as_json:
        typer.echo(json.dumps(answer.document(), indent=2))
    if wait and not answer.good:
        raise typer.Exit(1)


def host_of(function: str, host: str, configuration: Configuration) -> str:
    """Where the order goes: to this host, or to wherever a central function runs. Raises Failure."""
    custom = configuration.custom_actions
    try:
        subjects.split_name(function)
        scope = registry.load(function, custom).scope if function in registry.names(custom) else Scope.HOST
    except (subjects.BadSubject, registry.BadFunction) as error:
        raise Failure(str(error)) from error
    return host if scope is Scope.HOST else subjects.ANY_HOST


@dataclass
class Answer:
    """What came of an order."""

    listeners: list[str]
    correlation: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    open: set[str] | None = None
    """targets whose last word has not come; None until it is known which there are"""
    good: bool = True

    def hear(self, event: ActionEvent) -> None:
        self.events.append(event.model_dump(mode="json", exclude_none=True))
        if event.step is Step.RECEIVED:
            targets = event.data.get("targets")
            self.open = set(map(str, targets)) if isinstance(targets, list) else set()
        if event.final:
            self.good = self.good and event.outcome in GOOD
            self.open = (self.open or {event.target}) - {event.target}

    @property
    def ended(self) -> bool:
        return self.open is not None and not self.open

    def document(self) -> dict[str, Any]:
        return {"listeners": self.listeners, "correlation": self.correlation, "events": self.events}


class _Sender:
    def __init__(self, bus: Bus, function: str, host: str, known: Sequence[str]) -> None:
        self._bus = bus
        self._known = known
        self._function = function
        self._host = host

    async def listeners(self) -> list[str]:
        """Who runs the function, from the first heartbeat that names it. Raises Failure when nobody does."""
        token = subjects.host_token(self._host)
        pattern = "ansai.heartbeat.*.*" if self._host == subjects.ANY_HOST else f"ansai.heartbeat.{token}.*"
        heard: set[str] = set()
        beats = self._bus.listen(pattern)
        await beats.ready()
        await self._bus.announce(subjects.heartbeat(self._host, ROLL_CALL), b"")
        try:
            async with asyncio.timeout(SILENCE.total_seconds()):
                async for _, body in beats:
                    event = read(body)
                    if event is None or not isinstance(event.data, Heartbeat):
                        continue
                    beat = event.data
                    heard |= {*beat.names} if beat.kind is ComponentKind.FUNCTION else set()
                    if beat.kind is ComponentKind.FUNCTION and self._function in beat.names:
                        return [f"{beat.component} on {beat.host}"]
        except TimeoutError:
            pass
        finally:
            await beats.aclose()
        there = f"; on that host run {', '.join(sorted(heard))}" if heard else ""
        known = "" if self._function in self._known else f" (there is no function of ours called {self._function})"
        raise Failure(
            f"nobody on {self._host} listens for {self._function}{known}{there}."
            f" Start it with: ansai run {self._function}, or ansai up"
        )

    async def send(self, order: Trigger, who: str, answer: Answer, patience: float | None, *, quiet: bool) -> None:
        """Publish, and follow the answer to its end for up to *patience* seconds. Raises Failure, BusError."""
        subject = subjects.trigger(self._host, self._function, who)
        event = Event[Trigger](
            source=f"/hosts/{self._host}/operators/{who}",
            type=Trigger.type_name(),
            subject=order.target or "",
            data=order,
        )
        answer.correlation = event.correlationid
        steps = self._bus.listen(subjects.action(self._host, self._function, "x").removesuffix("x") + "*")
        await steps.ready()
        try:
            await self._bus.publish(subject, event.body(), message_id=event.id)
            if patience is None:
                typer.echo(f"asked on {subject}, correlation {answer.correlation}", err=True)
                return
            async with asyncio.timeout(patience):
                async for told, body in steps:
                    self._hear(told, body, answer, quiet=quiet)
                    if answer.ended:
                        return
        except TimeoutError:
            raise Failure(
                f"no end within {patience:g} s; it may still be working:"
                f" ansai audit list --correlation {answer.correlation}"
            ) from None
        finally:
            await steps.aclose()

    def _hear(self, subject: str, body: bytes, answer: Answer, *, quiet: bool) -> None:
        event = read(body)
        if event is None or event.correlationid != answer.correlation or not isinstance(event.data, ActionEvent):
            return
        answer.hear(event.data)
        if not quiet:
            console().print(line_of(subject, body, datetime.now(UTC)).rich())
        if not quiet and event.data.report is not None:
            from infra.cli.reports import report

            console().print(report(event.data.report))
