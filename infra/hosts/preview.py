"""What functions would do now, without a bus and without changing anything: observe, measure, survey, plan."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from collectors.core.thread import in_daemon_thread
from functions.core.plan import Plan
from functions.core.ports import Signals
from functions.core.remedy import AnyRemedy, Case, is_glob, match_target
from schemas.facts.files import Fact
from schemas.probes import ProbeError, Probes
from schemas.remediation import Gap

Answer = TypeVar("Answer")

READ_TIMEOUT = timedelta(seconds=30)
"""One observation; a mount that hangs is told as unknown after this."""


@dataclass(frozen=True)
class Preview:
    """One target of one function."""

    function: str
    target: str
    seen: Fact | None
    gap: Gap
    plan: Plan | None = None
    """none when the truth is unknown, or when it was not asked for"""
    problem: str = ""
    """why there is no plan, or no look at the target"""

    @property
    def pressing(self) -> bool:
        """The gap is open, or not known: a person should look."""
        return not self.gap.closed

    @property
    def needed(self) -> set[int]:
        """Positions of the actions that live would do now; none where the gap is closed or the plan is advice."""
        if self.plan is None or not self.gap.open:
            return set()
        return self.plan.needed(self.gap)

    def document(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "target": self.target,
            "seen": self.seen.model_dump(mode="json") if self.seen is not None else None,
            "gap": self.gap.model_dump(mode="json"),
            "needed_now": sorted(self.needed),
            "plan": self.plan.summary(self.function, self.target, self.gap).model_dump(mode="json")
            if self.plan is not None
            else None,
            "problem": self.problem,
        }


async def targets(remedy: AnyRemedy, section: Any, probes: Probes, wanted: str | None = None) -> list[str]:
    """The targets of *remedy* here, or those of them that *wanted* names. Raises ProbeError."""
    found = await _in_thread(remedy.name, lambda: remedy.targets(section, probes), READ_TIMEOUT)
    if wanted is None:  # a glob stands for names that only events bring
        return [target for target in found if not (remedy.target_globs and is_glob(target))]
    matched = match_target(wanted, found, globs=remedy.target_globs)
    if not matched:
        raise ProbeError(f"{remedy.name} has no target {wanted!r} here; there are {', '.join(found) or 'none'}")
    return matched


async def look(remedy: AnyRemedy, case: Case[Any], probes: Probes) -> Preview:
    """Observe and measure; no plan."""
    try:
        seen = await _in_thread(remedy.name, lambda: remedy.observe(case, probes), READ_TIMEOUT)
    except ProbeError as error:
        return Preview(remedy.name, case.target, None, Gap.unknown("", str(error)), problem=str(error))
    return Preview(remedy.name, case.target, seen, remedy.gap(case, seen))


async def with_plan(remedy: AnyRemedy, case: Case[Any], seen: Preview, probes: Probes) -> Preview:
    """Survey and plan for a target that was looked at; may take long on large trees."""
    fact = seen.seen
    if fact is None:
        return seen
    try:
        found = await _in_thread(remedy.name, lambda: remedy.survey(case, fact, probes), None)
    except ProbeError as error:
        return Preview(remedy.name, case.target, fact, seen.gap, problem=str(error))
    return Preview(remedy.name, case.target, fact, seen.gap, remedy.plan(case, fact, found))


async def preview(
    remedy: AnyRemedy, section: Any, host: str, probes: Probes, *, signals: Signals | None = None,
    wanted: str | None = None, everything: bool = False,
) -> AsyncIterator[Preview]:  # fmt: skip
    """Every target in turn, first what is seen, then with its plan. Raises ProbeError when none can be listed.

    What has several resources is planned for once, and for each that presses; *everything* plans for all of them, and
    so does a name that is *wanted*. Without *signals* nothing is known of what collectors said.
    """
    planned: set[str] = set()
    for target in await targets(remedy, section, probes, wanted):
        heard = await signals.latest(target) if signals is not None else None
        case = Case(host, target, section, datetime.now(UTC), heard=heard)
        seen = await look(remedy, case, probes)
        thing = target.partition(":")[2] or target
        presses = seen.pressing or thing not in planned if remedy.plans_ahead else seen.gap.open
        if seen.seen is None or not (presses or everything or wanted is not None):
            yield seen
            continue
        planned.add(thing)
        yield await with_plan(remedy, case, seen, probes)


async def _in_thread(name: str, read: Callable[[], Answer], deadline: timedelta | None) -> Answer:
    """Run *read* in a thread that does not hold up the end of the process. Raises ProbeError after *deadline*."""
    seconds = deadline.total_seconds() if deadline is not None else None
    try:
        return await asyncio.wait_for(in_daemon_thread(name, read), seconds)
    except TimeoutError:
        raise ProbeError(f"no answer within {seconds:g} s; the read hangs") from None
