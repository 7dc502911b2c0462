"""Audit records of one cause as a person would tell them. Pure: records in, sentences out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.cli.amounts import amount, amounts
from infra.cli.reports import gap as gap_text
from schemas.audit import AuditRecord, Step
from schemas.remediation import Outcome, PlanSummary
from schemas.text import show_path

NAMED = 5
"""Items of an action that are named; the rest are counted."""

ABOUT_THE_TRAIL = frozenset({Step.BEGAN, Step.ENDED, Step.KEY_CHANGED})


@dataclass(frozen=True)
class Sentence:
    """One step: a headline, and what belongs to it."""

    at: datetime
    step: Step
    text: str
    details: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(), "step": self.step.value, "text": self.text, "details": list(self.details),
        }  # fmt: skip


@dataclass
class Story:
    """What one event, order or approval caused, on one target."""

    host: str
    function: str
    target: str
    correlation: str
    incidents: tuple[str, ...]
    modes: tuple[str, ...]
    policies: tuple[str, ...]
    people: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    not_done: tuple[str, ...]
    """what was not done, and why"""
    ending: str
    records: tuple[AuditRecord, ...] = field(repr=False, default=())

    def document(self) -> dict[str, Any]:
        return {
            "host": self.host, "function": self.function, "target": self.target, "correlation": self.correlation,
            "incidents": list(self.incidents), "modes": list(self.modes), "policies": list(self.policies),
            "people": list(self.people), "story": [sentence.document() for sentence in self.sentences],
            "not_done": list(self.not_done), "ending": self.ending,
            "records": [
                record.model_dump(mode="json", exclude_none=True, exclude_defaults=True) for record in self.records
            ],
        }  # fmt: skip


def stories(records: Iterable[AuditRecord]) -> list[Story]:
    """One for each host, function and target, in the order in which they begin."""
    grouped: dict[tuple[str, str, str], list[AuditRecord]] = {}
    for record in records:
        if record.step not in ABOUT_THE_TRAIL:
            grouped.setdefault((record.host, record.function, record.target), []).append(record)
    return [_story(*key, told) for key, told in grouped.items()]


def _story(host: str, function: str, target: str, records: Sequence[AuditRecord]) -> Story:
    return Story(
        host, function, target,
        correlation=next((record.correlation for record in records if record.correlation), ""),
        incidents=_distinct(record.incident for record in records),
        modes=_distinct(record.mode.value for record in records),
        policies=_distinct(record.policy for record in records),
        people=_distinct(record.who for record in records),
        sentences=tuple(_sentences(records)), not_done=_not_done(records), ending=_ending(records),
        records=tuple(records),
    )  # fmt: skip


def _distinct(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word))


def _sentences(records: Sequence[AuditRecord]) -> Iterable[Sentence]:
    """An action and its result are one sentence; everything else has its own."""
    rest = list(records)
    while rest:
        record = rest.pop(0)
        if record.step in {Step.ACTING, Step.UNDOING}:
            ends = {Step.ACTED, Step.FAILED} if record.step is Step.ACTING else {Step.UNDONE}
            result = next((each for each in rest if each.step in ends and _same(record, each)), None)
            if result is not None:
                rest.remove(result)
            yield _change(record, result)
        else:
            yield Sentence(record.at, record.step, _words(record), _details(record))


def _same(begun: AuditRecord, ended: AuditRecord) -> bool:
    return ended.action is not None and (begun.rung, begun.position, begun.action) == (
        ended.rung, ended.position, ended.action,
    )  # fmt: skip


def _change(begun: AuditRecord, ended: AuditRecord | None) -> Sentence:
    title = begun.action.title if begun.action is not None else begun.text or "a change"
    undoing = begun.step is Step.UNDOING
    if ended is None:
        return Sentence(
            begun.at, begun.step, f"{'taking back' if undoing else 'began'}: {title}; how it ended is not recorded",
            (*_items(begun), *_way_back(begun)),
        )  # fmt: skip
    result = ended.result
    what = f"{'taken back' if undoing else 'changed'}: {title}: {ended.outcome or ended.step}"
    if result is not None:
        freed = f", freed {amounts(result.freed)}" if any(result.freed.values()) else ""
        of = f" of {begun.action.items:,}" if begun.action is not None else ""
        what = f"{what}, {result.done:,}{of} done{freed}"
    more = (ended.text,) if ended.text else ()
    return Sentence(ended.at, ended.step, what, (*more, *_items(begun), *(() if undoing else _way_back(begun, ended))))


def _items(record: AuditRecord) -> tuple[str, ...]:
    if not record.items:
        return ()
    named = ", ".join(show_path(item) for item in record.items[:NAMED])
    unnamed = record.data.get("items_not_named", 0)
    more = len(record.items) - NAMED + (unnamed if isinstance(unnamed, int) else 0)
    return (f"items: {named}{f' and {more:,} more' if more > 0 else ''}",)


def _way_back(record: AuditRecord, ended: AuditRecord | None = None) -> tuple[str, ...]:
    if record.action is None:
        return ()
    kept = ended.result.kept if ended is not None and ended.result is not None else {}
    shown = [f"{show_path(old)} is kept as {show_path(new)}" for old, new in list(kept.items())[:NAMED]]
    return (f"way back: {record.action.undo} ({record.action.risk})", *shown)


def _words(record: AuditRecord) -> str:
    """The headline of everything that is no change."""
    say = _HEADLINES.get(record.step)
    return say(record) if say is not None else record.text or record.step.value


def _by(record: AuditRecord) -> str:
    return record.who or "somebody"


def _rule(record: AuditRecord) -> str:
    if not record.rule:
        return record.text or "without a reason"
    figures = f": limit {record.limit}, seen {record.seen}" if record.limit or record.seen else ""
    return f"by the rule {record.rule}{figures}"


def _hash(record: AuditRecord) -> str:
    return f" (plan {record.plan_hash[:12]})" if record.plan_hash else ""


def _with_gap(words: str, record: AuditRecord) -> str:
    return f"{words} ({gap_text(record.gap)})" if record.gap is not None else words


_HEADLINES: dict[Step, Callable[[AuditRecord], str]] = {
    Step.RECEIVED: lambda record: f"{_by(record)} asked{': ' + record.text if record.text else ''}",
    Step.STALE: lambda record: f"too old to act upon: {record.text}",
    Step.OPENED: lambda record: _with_gap(f"seen: {record.text}", record),
    Step.PLANNED: lambda record: f"planned: {record.text}{_hash(record)}",
    Step.REFUSED: lambda record: f"not done: refused {_rule(record)}",
    Step.DEFERRED: lambda record: f"put off {_rule(record)}",
    Step.WOULD: lambda record: _with_gap(f"a dry run, nothing was changed: {record.text or 'see the plan'}", record),
    Step.REQUESTED: lambda record: f"{record.text or 'approval was asked for'}{_hash(record)}",
    Step.GRANTED: lambda record: f"{record.text or _by(record) + ' granted it'}{_hash(record)}",
    Step.DENIED: lambda record: f"{record.text or _by(record) + ' denied it'}{_hash(record)}",
    Step.FROZEN: lambda record: f"frozen by {_by(record)}: {record.text}",
    Step.THAWED: lambda record: f"no longer frozen, by {_by(record)}: {record.text}",
    Step.FAILED: lambda record: f"failed: {record.text}",
    Step.VERIFIED: lambda record: _with_gap(f"measured again: {record.text}", record),
    Step.RECOVERED: lambda record: f"after a crash: {record.text}",
    Step.HEALED: lambda record: _with_gap(f"healed: {record.text}", record),
    Step.UNHEALED: lambda record: _with_gap(f"not healed: {record.text}", record),
    Step.STUCK: lambda record: f"given up until a person looks: {record.text}",
}


def _details(record: AuditRecord) -> tuple[str, ...]:
    details: list[str] = []
    if record.plan is not None and record.step in {Step.PLANNED, Step.WOULD, Step.REQUESTED}:
        details += _plan(record.plan)
    if record.step in {Step.REFUSED, Step.DEFERRED} and record.rule and record.text:
        repeats = record.text.startswith(f"refused by {record.rule}: limit")  # the headline says it; the hint follows
        details += [text for text in [record.text.partition("; ")[2] if repeats else record.text] if text]
    if record.report is not None:
        details += [
            f"{rung.title}: {rung.outcome}, {rung.done:,} of {rung.candidates:,} done, freed {amounts(rung.freed)},"
            f" measured {amounts(rung.measured)}"
            for rung in record.report.rungs
        ]
        details += [text for text in (record.report.unexplained, record.report.next) if text]
    return tuple(details)


def _plan(plan: PlanSummary) -> Iterable[str]:
    if plan.advice:
        yield f"advice only: {plan.advice}"
    for rung in plan.rungs:
        for action in rung.actions:
            estimates = ", ".join(
                f"{'' if each.exact else '≤ '}{amount(each.amount, each.unit)}" for each in action.estimates
            )
            expected = f", expected {estimates}" if estimates else ""
            risk = f"{action.risk}; way back: {action.undo}"
            yield f"{rung.title}: {action.title} ({action.items:,} items{expected}; {risk})"


def _not_done(records: Sequence[AuditRecord]) -> tuple[str, ...]:
    """Each refusal once, each item that was passed over, and what a dry run only foretold."""
    said: list[str] = []
    for record in records:
        if record.step in {Step.REFUSED, Step.DEFERRED, Step.DENIED}:
            verb = "put off" if record.step is Step.DEFERRED else record.step.value
            said.append(f"the plan: {verb} {_rule(record)}" if record.rule else f"the plan: {record.text}")
        if record.result is not None:
            said += [
                f"{show_path(item.name)}: {item.outcome}{' — ' + item.reason if item.reason else ''}"
                for item in record.result.not_done
            ]
            if record.result.not_done_more:
                said.append(f"{record.result.not_done_more:,} more items; see: ansai audit show {record.correlation}")
        if record.step is Step.WOULD:
            said.append(f"everything: the mode was {record.mode}, which changes nothing")
        if record.report is not None:
            said += [
                f"{rung.title}: not begun, {rung.outcome}"
                for rung in record.report.rungs
                if not rung.done and rung.outcome not in {Outcome.DONE, Outcome.WOULD} and not rung.not_done
            ]
    return _distinct(said)


def _ending(records: Sequence[AuditRecord]) -> str:
    last = records[-1]
    if last.step in {Step.ACTING, Step.UNDOING}:
        return "the trail ends in the middle of a change: it may still be running, or its process was killed"
    same = last.outcome is None or last.outcome.value == last.step.value
    return last.step.value if same else f"{last.step} ({last.outcome})"
