"""Whether a unit may be changed this moment, and what became of a change. Pure."""

import mmap
from collections.abc import Mapping
from typing import NamedTuple

from infra.adapters.cgroups import MARGIN
from infra.adapters.commands import Completed
from schemas.facts.cgroups import ControlGroupMemory
from schemas.facts.units import Unit
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain
from schemas.units import show_size


class Verdict(NamedTuple):
    outcome: Outcome
    reason: str

    def of(self, unit: str) -> ItemResult:
        return ItemResult(name=unit, outcome=self.outcome, reason=self.reason)


class Ending(NamedTuple):
    """How systemctl ended; its status is told, but never believed."""

    status: int | None
    """none: it did not end in time"""
    said: str

    @classmethod
    def of(cls, completed: Completed | None, timeout: float) -> "Ending":
        if completed is None:
            return cls(None, f"systemctl did not end within {timeout:g} s")
        return cls(completed.status, said(completed))


GONE = Verdict(Outcome.SKIPPED, "systemd knows no such unit any more")


def said(completed: Completed) -> str:
    """The first line of its errors: there it says what is wrong, in the last one where to read about it."""
    lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
    told = plain(lines[0]) if lines else f"systemctl ended with {completed.ending} and said nothing"
    denied = "authentication required" in told or "Access denied" in told
    return f"{told}; run ansai as root" if denied else told


def state(unit: Unit) -> str:
    """`active (running)`, `failed (exit-code, status 3)`"""
    if not unit.failed:
        return f"{unit.active} ({unit.sub})" if unit.sub else unit.active
    status = f", status {unit.exit_status}" if unit.exit_status is not None else ""
    return f"failed ({unit.result}{status})"


# ── before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def not_now(unit: Unit | None) -> Verdict | None:
    """Why nothing is done with it this moment; none when something may be."""
    if unit is None:
        return GONE
    if unit.masked:
        return Verdict(Outcome.SKIPPED, "it is masked: somebody forbade it to run")
    if unit.job:
        reason = f"something is being done with it already ({state(unit)}); look at systemctl list-jobs"
        return Verdict(Outcome.DEFERRED, reason)
    return None


def another_run(unit: Unit, invocation: str) -> Verdict | None:
    """Why it is not the run that was planned for; an empty *invocation* is that of a unit which did not run."""
    down = unit.active in {"inactive", "failed"}
    if not invocation and not down:
        return Verdict(Outcome.SKIPPED, f"it did not run when this was planned, and is {state(unit)} by now")
    if invocation and unit.active == "inactive":
        return stopped(unit)
    if invocation and unit.invocation != invocation:
        return _started_anew(unit, invocation)
    return None


def stopped(unit: Unit) -> Verdict | None:
    """Why it is meant to be down, as far as can be seen."""
    if unit.active == "inactive":
        return Verdict(Outcome.SKIPPED, "it was stopped since this was planned, or its failure was cleared")
    if unit.failed_when_stopped:
        return Verdict(Outcome.SKIPPED, f"it was stopped, and is {state(unit)} only because it did not end in order")
    return None


def not_failed(unit: Unit, invocation: str) -> Verdict | None:
    """Why it is not the failure that was planned for."""
    if not unit.failed:
        return stopped(unit) or Verdict(Outcome.SKIPPED, f"it is {state(unit)} by now")
    return stopped(unit) or (_started_anew(unit, invocation) if unit.invocation != invocation else None)


def _started_anew(unit: Unit, planned: str) -> Verdict:
    now, planned = unit.invocation or "none", plain(planned) or "none"
    return Verdict(Outcome.SKIPPED, f"it was started anew since this was planned: its run is {now}, not {planned}")


def not_startable(unit: Unit) -> Verdict | None:
    if unit.refuses_manual_start or not unit.can_start:
        return Verdict(Outcome.REFUSED, "it can't be started by itself (RefuseManualStart=, or its file is broken)")
    if unit.reload_needed:
        reason = (
            "its file has changed, and would be applied as a side effect; check it, then run systemctl daemon-reload"
        )
        return Verdict(Outcome.REFUSED, reason)
    return None


def not_restartable(unit: Unit) -> Verdict | None:
    if unit.refuses_manual_stop or not unit.can_stop:
        return Verdict(Outcome.REFUSED, "it can't be stopped by itself (RefuseManualStop=): a restart would stop it")
    return not_startable(unit)


# ── after a start or a restart ────────────────────────────────────────────────────────────────────────────────────────


def started(before: Unit, after: Unit | None, ending: Ending) -> Verdict:
    """What became of a start or a restart, by the state in which the unit is now."""
    if after is None:
        return Verdict(Outcome.FAILED, f"systemd knows it no more: {ending.said}")
    look = f"look at systemctl status {after.name} and journalctl --unit={after.name}"
    if after.result == "start-limit-hit" or after.out_of_starts:
        look = f"{look}; after systemctl reset-failed {after.name} it may be started again"
    if after.job or (after.active in {"activating", "deactivating"} and not after.restarting):
        reason = f"it is {state(after)}, and systemd goes on with it: {ending.said}; {look}, systemctl list-jobs"
        return Verdict(Outcome.IN_PROGRESS, reason)
    if after.type == "oneshot" and after.active == "inactive" and ending.status == 0:
        return Verdict(Outcome.DONE, "it ran to its end, as a oneshot does")  # unloaded again, it has no invocation
    if after.active != "inactive" and after.invocation == before.invocation:
        return Verdict(Outcome.FAILED, f"it is still {state(after)} in the same run: {ending.said}; {look}")
    if after.running:
        was = before.invocation or "none"
        return Verdict(Outcome.DONE, f"it is {state(after)}; run {was} → {after.invocation}")
    if after.restarting:
        reason = f"it ended at once ({after.result}), and systemd itself will start it again; {look}"
        return Verdict(Outcome.FAILED, reason)
    return Verdict(Outcome.FAILED, f"it is {state(after)}: {_why_down(after, ending)}; {look}")


def _why_down(unit: Unit, ending: Ending) -> str:
    if ending.status == 0 and unit.active == "inactive":
        return "it ended at once, or a condition in its file does not hold"
    return "it ended at once" if ending.status == 0 else ending.said


def not_cleared(after: Unit | None, completed: Completed) -> Verdict | None:
    """Why clearing its failure did not leave it as it is to be before a start."""
    if after is None or after.active == "inactive":
        return None if after is not None else GONE
    outcome = Outcome.FAILED if after.failed else Outcome.SKIPPED
    return Verdict(outcome, f"it is {state(after)} after its failure was cleared: {said(completed)}")


def in_vain(start: Verdict) -> Verdict:
    """What became of a start before which the failure was cleared: when it did not work, something was done for all."""
    if start.outcome is not Outcome.FAILED:
        return start
    return Verdict(Outcome.PARTIAL, f"its failure and its count of starts were cleared, but {start.reason}")


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────

Limits = Mapping[str, int | None]
"""Property → bytes; none is no limit."""


def limits_of(unit: Unit) -> Limits:
    return {"MemoryHigh": unit.memory_high, "MemoryMax": unit.memory_max}


def lowered(before: Limits, wanted: Limits) -> bool:
    return any(_lower(size, before[name]) for name, size in wanted.items())


def _lower(size: int | None, than: int | None) -> bool:
    return size is not None and (than is None or size < than)


def not_limitable(unit: Unit, wanted: Limits, working_set: int) -> Verdict | None:
    """Why these limits would do harm; *working_set* in bytes, 0 for one that does not run."""
    high, maximum = wanted.get("MemoryHigh"), wanted["MemoryMax"]
    if unit.delegated:
        return Verdict(Outcome.REFUSED, "its control groups are managed by itself (Delegate=); limit it there")
    if high is not None and maximum is not None and high >= maximum:
        return Verdict(Outcome.REFUSED, "MemoryHigh must be below MemoryMax, or it never slows anything")
    if maximum is not None and _lower(maximum, unit.memory_max) and maximum < working_set * MARGIN:
        reason = (
            f"MemoryMax {show_size(maximum)} is less than {MARGIN} × the {show_size(working_set)} that it works with:"
            f" the kernel would kill at once; give at least {show_size(working_set * MARGIN)}"
        )
        return Verdict(Outcome.REFUSED, reason)
    return None


def limited(
    before: Unit, after: Unit | None, wanted: Limits, group: ControlGroupMemory | None, completed: Completed
) -> Verdict:
    """What became of setting *wanted*: what systemd says now, and the kernel of the unit's *group*, if it has one.

    systemd itself only warns, in the journal, when the kernel does not take a limit.
    """
    if after is None:
        return Verdict(Outcome.FAILED, f"systemd knows it no more: {said(completed)}")
    for name, size in wanted.items():
        held = limits_of(after)[name]
        if held != size:
            return Verdict(Outcome.FAILED, f"{name} is {_size(held)}, not {_size(size)}: {said(completed)}")
    if group is not None:
        kernel = {"MemoryHigh": group.high, "MemoryMax": group.maximum}
        for name, size in wanted.items():
            if not _taken(size, kernel[name]):
                reason = f"systemd took {name}={_size(size)}, but the kernel holds it to {_size(kernel[name])}"
                return Verdict(Outcome.FAILED, f"{reason}; see journalctl --unit={after.name}")
    return Verdict(Outcome.DONE, _told(before, wanted))


def _taken(size: int | None, held: int | None) -> bool:
    """The kernel rounds a limit down to whole pages."""
    if size is None or held is None:
        return held is size
    return held == size // mmap.PAGESIZE * mmap.PAGESIZE


def _told(before: Unit, wanted: Limits) -> str:
    return "; ".join(f"{name} {_size(limits_of(before)[name])} → {_size(size)}" for name, size in wanted.items())


def _size(size: int | None) -> str:
    return "infinity" if size is None else show_size(size)
