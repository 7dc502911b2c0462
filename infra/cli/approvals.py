"""`ansai approvals`: plans that wait for a person, and the person's answer."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from bus import subjects
from bus.port import Bucket, Bus
from functions.core.ports import NotStored
from infra.cli.failures import FAILED, Failure
from infra.cli.invocation import invocation
from infra.cli.lines import line_of, read
from infra.cli.output import AsJson, print_json
from infra.cli.person import person_token
from infra.cli.tables import console, table
from infra.hosts.plans import unpack
from infra.hosts.session import session
from schemas.approval import Approval, ApprovalState, PendingPlan
from schemas.audit import ActionEvent
from schemas.envelope import Event
from schemas.remediation import Outcome
from schemas.settings.bus import BusSettings
from schemas.text import show_path
from schemas.units import show_duration

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Look at plans that wait for you, and grant or deny them."
)

SHORT = 12
"""Digits of a hash that are shown; any beginning that is unique will do."""

GOOD = frozenset({Outcome.DONE, Outcome.PARTIAL})

Hash = Annotated[str, typer.Argument(metavar="HASH", help="Of the plan, or its first digits; see approvals list.")]
On = Annotated[str | None, typer.Option("--on", metavar="HOST", help="When plans of several hosts are equal.")]
Target = Annotated[str | None, typer.Option(help="When plans for several targets are equal.")]
Reason = Annotated[str, typer.Option(help="Kept in the audit trail.")]
Who = Annotated[str | None, typer.Option(help="Who answers; by default the user's name.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Only publish the answer; don't follow what comes of it.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds to wait for the end at most.")]


@app.command("list", epilog="Example: ansai approvals list --function disk.free_space")
def list_plans(
    context: typer.Context,
    function: Annotated[str | None, typer.Option(help="Only of this function.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the plans that wait, the oldest first: how long still, for what, and how grave."""
    plans = [
        plan for plan in _read(invocation(context).start().bus)
        if not _expired(plan) and function in (None, plan.function)
    ]  # fmt: skip
    if as_json:
        print_json([_brief(plan) for plan in plans])
        return
    headings = ("hash", "asked", "expires", "host", "function", "target", "gap", "actions")
    console().print(table(headings, map(_row, plans)))
    if not plans:
        typer.echo("no plan waits for approval", err=True)


@app.command(epilog="Examples: ansai approvals show 3f9c2a · ansai approvals show 3f9c2a --items")
def show(
    context: typer.Context,
    plan_hash: Hash,
    on: On = None,
    target: Target = None,
    items: Annotated[bool, typer.Option("--items", help="Every file, image … by name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole plan that waits, rung by rung, as `ansai plan` does."""
    asked = invocation(context)
    configuration = asked.start()
    plan = _chosen(_read(configuration.bus), plan_hash, on, target)
    if as_json:
        print_json(plan.model_dump(mode="json"))
        return
    from infra.cli.approval_view import view

    console().print(view(plan, configuration, items=items))
    typer.echo(f"answer with: ansai approvals grant {plan.hash[:SHORT]}, or deny {plan.hash[:SHORT]}", err=True)


@app.command(epilog="Example: ansai approvals grant 3f9c2a --reason 'looked at every file'")
def grant(
    context: typer.Context, plan_hash: Hash, on: On = None, target: Target = None, reason: Reason = "",
    who: Who = None, no_wait: NoWait = False, timeout: Timeout = 600, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Let exactly this plan be carried out, once, if the target still needs it; exit with 1 unless it ends well."""
    told = _answer(context, (plan_hash, on, target), ApprovalState.GRANTED, reason, who, no_wait, timeout, as_json)
    if not no_wait and (told is None or told.outcome not in GOOD):
        raise typer.Exit(FAILED)


@app.command(epilog="Example: ansai approvals deny 3f9c2a --reason 'that archive is still needed'")
def deny(
    context: typer.Context, plan_hash: Hash, on: On = None, target: Target = None, reason: Reason = "",
    who: Who = None, no_wait: NoWait = False, timeout: Timeout = 60, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Refuse this plan; it is not asked for again."""
    _answer(context, (plan_hash, on, target), ApprovalState.DENIED, reason, who, no_wait, timeout, as_json)


def _answer(
    context: typer.Context, wanted: tuple[str, str | None, str | None], state: ApprovalState, reason: str,
    who: str | None, no_wait: bool, timeout: float, as_json: bool,
) -> ActionEvent | None:  # fmt: skip
    """Publish it and follow it to its end; the last thing that the function told. Raises Failure, BusError."""
    settings, token = invocation(context).start().bus, person_token(who)

    async def main() -> ActionEvent | None:
        async with session(settings, "ansai-approvals") as bus:
            plan = _chosen([each async for each in _plans(bus)], *wanted)
            answer = _Answer(bus, plan, state, reason, token, quiet=as_json)
            await answer.send(None if no_wait else timeout)
            if as_json:
                print_json(answer.document())
            return answer.told[-1] if answer.told else None

    return asyncio.run(main())


class _Answer:
    def __init__(
        self, bus: Bus, plan: PendingPlan, state: ApprovalState, reason: str, who: str, *, quiet: bool
    ) -> None:
        self._bus = bus
        self._plan = plan
        self._who = who
        self._quiet = quiet
        self.approval = Approval(
            host=plan.host, function=plan.function, target=plan.target, hash=plan.hash, state=state, who=who,
            reason=reason,
        )  # fmt: skip
        self.told: list[ActionEvent] = []

    async def send(self, patience: float | None) -> None:
        """Publish, then follow for up to *patience* seconds. Raises Failure, BusError."""
        plan, state = self._plan, self.approval.state
        subject = subjects.approval(plan.host, plan.function, state.value, self._who)
        event = Event[Approval](
            source=f"/hosts/{plan.host}/operators/{self._who}", type=Approval.type_name(), subject=plan.target,
            correlationid=plan.correlation, data=self.approval,
        )  # fmt: skip
        steps = self._bus.listen(subjects.action(plan.host, plan.function, "x").removesuffix("x") + "*")
        await steps.ready()
        try:
            await self._bus.publish(subject, event.body(), message_id=event.id)
            if not self._quiet:
                typer.echo(f"{state.value} as {self._who}: {plan.hash[:SHORT]} for {show_path(plan.target)}", err=True)
            if patience is None:
                return
            async with asyncio.timeout(patience):
                async for told, body in steps:
                    if self._hear(told, body):
                        return
        except TimeoutError:
            raise Failure(
                f"no end within {patience:g} s; the answer is stored, and holds when {plan.function} on {plan.host}"
                f" hears it before {_moment(plan.expires_at)}; see: ansai audit list --correlation {plan.correlation}"
            ) from None
        finally:
            await steps.aclose()

    def _hear(self, subject: str, body: bytes) -> bool:
        """Whether it was the last word about this plan."""
        event = read(body)
        if event is None or event.correlationid != self._plan.correlation or not isinstance(event.data, ActionEvent):
            return False
        if event.data.target != self._plan.target:
            return False
        self.told.append(event.data)
        if not self._quiet:
            console().print(line_of(subject, body, datetime.now(UTC)).rich())
        if not self._quiet and event.data.report is not None:
            from infra.cli.reports import report

            console().print(report(event.data.report))
        return event.data.final

    def document(self) -> dict[str, Any]:
        return {
            "approval": self.approval.model_dump(mode="json", exclude_none=True),
            "correlation": self._plan.correlation,
            "events": [told.model_dump(mode="json", exclude_none=True) for told in self.told],
        }


def _read(settings: BusSettings) -> list[PendingPlan]:
    async def main() -> list[PendingPlan]:
        async with session(settings, "ansai-approvals", start=True) as bus:
            return [plan async for plan in _plans(bus)]

    return sorted(asyncio.run(main()), key=lambda plan: plan.requested_at)


async def _plans(bus: Bus) -> AsyncIterator[PendingPlan]:
    """Every plan in the bucket; with a word on standard error for what is none."""
    bucket = await bus.bucket(Bucket.PLANS)
    for key in await bucket.keys():
        entry = await bucket.get(key)
        if entry is None:
            continue
        try:
            yield unpack(entry)
        except NotStored as error:
            typer.echo(f"ansai: {error}", err=True)


def _chosen(plans: Iterable[PendingPlan], prefix: str, host: str | None, target: str | None) -> PendingPlan:
    """The plan whose hash begins like that. Raises Failure when there is none, or several."""
    found = [
        plan
        for plan in plans
        if plan.hash.startswith(prefix.lower()) and host in (None, plan.host) and target in (None, plan.target)
    ]
    waiting = [plan for plan in found if not _expired(plan)]
    if not prefix or not found:
        raise Failure(
            f"no plan {prefix!r} waits: it was used, denied, or replaced by a newer one; see: ansai approvals list"
        )
    if not waiting:
        raise Failure(
            f"the plan {found[0].hash[:SHORT]} for {show_path(found[0].target)} expired"
            f" {_moment(found[0].expires_at)} without an answer, which is a refusal; see: ansai approvals list"
        )
    if len(waiting) > 1:
        raise Failure(f"{prefix!r} may be any of {_named(waiting)}; give more digits, --on HOST, or --target")
    return waiting[0]


def _named(plans: Sequence[PendingPlan]) -> str:
    return ", ".join(f"{plan.hash[:SHORT]} ({plan.host}, {show_path(plan.target)})" for plan in plans)


def _expired(plan: PendingPlan) -> bool:
    return plan.expires_at <= datetime.now(UTC)


def _moment(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def _risks(plan: PendingPlan) -> dict[str, int]:
    """Actions by their risk, the gravest last."""
    actions = [action for rung in plan.summary.rungs for action in rung.actions]
    counts: dict[str, int] = {}
    for action in sorted(actions, key=lambda action: action.risk.rank):
        counts[action.risk.value] = counts.get(action.risk.value, 0) + 1
    return counts


def _brief(plan: PendingPlan) -> dict[str, Any]:
    document = plan.model_dump(mode="json", exclude={"plan", "summary"})
    return document | {"gap": plan.summary.gap.model_dump(mode="json"), "actions_by_risk": _risks(plan)}


def _row(plan: PendingPlan) -> tuple[str, ...]:
    from infra.cli.reports import gap

    now = datetime.now(UTC)
    asked, expires = show_duration(now - plan.requested_at), show_duration(plan.expires_at - now)
    risks = ", ".join(f"{count} {risk}" for risk, count in _risks(plan).items())
    return (
        plan.hash[:SHORT], f"{asked} ago", f"in {expires}", plan.host, plan.function, show_path(plan.target),
        gap(plan.summary.gap), risks,
    )  # fmt: skip
