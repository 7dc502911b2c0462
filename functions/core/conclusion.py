"""What a climbed ladder amounts to: the report and its sentences. Pure."""

from datetime import datetime

from functions.core.ladder import Ladder
from functions.core.observation import Observation
from functions.core.plan import Plan
from schemas.audit import Step
from schemas.incident import Incident
from schemas.remediation import Gap, Mode, Outcome, Report

EXPLAINED = 0.05
"""Freed and measured may differ by this share without a word: metadata blocks, rounding, small writers."""


def report(
    incident: Incident, mode: Mode, step: Step, outcome: Outcome, plan: Plan,
    before: Observation, ladder: Ladder, began: datetime, ended: datetime,
) -> Report:  # fmt: skip
    after = ladder.observation
    return Report(
        function=incident.function, host=incident.host, target=incident.target, mode=mode, incident=incident.id,
        outcome=outcome, began=began, ended=ended, gap_before=before.gap, gap_after=after.gap,
        before=before.figures(), after=after.figures(), rungs=tuple(ladder.rows), findings=plan.findings,
        unexplained=unexplained(before.gap, after.gap, ladder), next=next_step(step, plan, after.gap, ladder.halted),
    )  # fmt: skip


def next_step(step: Step, plan: Plan, gap: Gap, halted: str) -> str:
    """What happens now, as a sentence."""
    if step is Step.HEALED:
        return "the gap is closed"
    if step is Step.VERIFIED:
        return f"healthy for now, it is watched until that has lasted: {gap.reason}"
    if halted:
        return halted
    if step is Step.WOULD:
        if plan.advice:
            return f"nothing was changed: {plan.advice}"
        enough = (
            "would reach the target" if gap.closed else "may not reach the target: what it surely frees is too little"
        )
        return f"nothing was changed; the plan {enough}"
    if not gap.known:
        return f"the truth is unknown: {gap.reason}"
    return "everything that may be done was done and the gap is still open"


def unexplained(before: Gap, after: Gap, ladder: Ladder) -> str:
    """Why the sum freed and the measured change differ, where both are known and differ noticeably."""
    if before.amount is None or after.amount is None or not ladder.done or after.reason == "foretold":
        return ""
    if not any(before.unit in result.freed for _, result in ladder.done):
        return ""  # what was done does not count in this unit
    freed = sum(result.freed.get(before.unit, 0) for _, result in ladder.done)
    measured = before.amount - after.amount
    if abs(freed - measured) <= EXPLAINED * max(abs(freed), abs(measured), 1):
        return ""
    more = "others wrote meanwhile, or it is still held open" if freed > measured else "others freed something too"
    return f"freed item by item {freed:,.0f} {before.unit}, measured {measured:,.0f}: {more}"
