"""The ladder for one service that leaks: ask it to collect its garbage, then restart it before the kernel kills. Pure.

Its two rungs share one `due`: a window that holds back the gentler one must not let the other pass.
"""

from collections.abc import Iterator
from math import inf

from functions.core.plan import Action, Plan, Rung
from functions.core.remedy import Case
from functions.memory import notices
from functions.memory.actions import CollectGarbage, RestartContainer, RestartUnit
from functions.memory.facts import Found, Seen, State
from functions.memory.judgement import Outlook, confirmed, excess, heard_of, outlook_of
from functions.memory.permission import obstacles
from schemas.facts.units import Unit
from schemas.memory import MemoryTrend
from schemas.remediation import Finding
from schemas.settings.memory import GarbageCollection, MemoryMonitoring

COLLECT, RESTART = "collect_garbage", "restart"

SHARE = 0.25
"""Of the time that is left, at most, for a collection: a restart must still come before the kernel does."""

LEAST = 1.0
"""Seconds for an answer, below which a collection is not worth asking for."""

MARGIN = 30.0
"""Seconds beyond a unit's own timeouts until a restart is left to systemd."""

UNLIMITED = 600.0
"""Seconds for a restart without a timeout of its own."""

STOP = 30.0
"""Seconds for a container to end in order."""


def plan(case: Case[MemoryMonitoring], seen: Seen, found: Found) -> Plan:
    """What may be done now. What is not yet to be done, or is not permitted, is told, and no rung."""
    heard, problem = heard_of(case)
    if heard is None or seen.state is not State.RUNNING or heard.instance != seen.instance:
        why = problem or seen.reason or "it was restarted since it was heard of"
        return Plan(findings=(*notices.processes(found), *found.findings), advice=why)
    return _Planner(case, seen, found, heard).plan()


class _Planner:
    def __init__(self, case: Case[MemoryMonitoring], seen: Seen, found: Found, heard: MemoryTrend) -> None:
        self._case = case
        self._settings = case.settings
        self._own = case.settings.of(case.target)
        self._seen = seen
        self._found = found
        self._heard = heard
        self._outlook: Outlook = outlook_of(case.settings, heard, seen, case.now)
        self._notices: list[Finding] = []

    def plan(self) -> Plan:
        rungs = self._rungs() if confirmed(self._heard) else ()
        return Plan(
            rungs=rungs, findings=tuple(self._findings()), advice="" if rungs else self._advice(),
            grace=self._outlook.grace(self._settings.restart_grace),
        )  # fmt: skip

    def _advice(self) -> str:
        """Why nothing is done; empty when a person must hear that nothing may be done although it presses."""
        if not confirmed(self._heard):
            return f"its growth is not confirmed: it is {self._heard.trend}"
        return "" if self._outlook.near else "there is time, and a restart would only be a break"

    def _findings(self) -> Iterator[Finding]:
        yield notices.trend(self._case.target, self._seen, self._heard, self._outlook)
        yield from self._notices
        yield from notices.growing(self._heard)
        yield from notices.processes(self._found)
        yield from self._found.findings

    def _rungs(self) -> tuple[Rung, ...]:
        due = self._outlook.due(self._case.now, self._settings.act_within)
        rungs = []
        collection, restart = self._collection(), self._restart()
        if collection is not None:
            rungs.append(Rung(
                name=COLLECT, title="Ask it to collect its garbage", actions=(collection,), due=due,
                unknown_effects="how much of it is garbage, and for how long everything stands still",
            ))  # fmt: skip
        if restart is not None:
            rungs.append(Rung(
                name=RESTART, title="Restart it before it runs out", actions=(restart,), due=due,
                unknown_effects="how long it takes until it serves again",
            ))  # fmt: skip
        return tuple(rungs)

    # ── garbage ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _collection(self) -> Action | None:
        way, found, target = self._own.garbage_collection, self._found, self._case.target
        if way is None or found.instance != self._seen.instance:
            return None
        if COLLECT in self._case.skip_rungs:
            self._notices.append(notices.no_help(target))
            return None
        if self._case.attempts and not self._outlook.near:
            self._notices.append(notices.asked_before(target))
            return None
        why_not = self._not_asked(way)
        if why_not:
            self._notices.append(notices.not_asked(target, why_not))
            return None
        pid = str(found.main.pid) if found.main is not None else ""
        return CollectGarbage(
            target=target, process=found.main if way.signal or way.jcmd else None, signal=way.signal or "",
            url=way.http or "", method=way.method, timeout=min(way.timeout.total_seconds(), self._time_for_it),
            command=tuple(pid if argument == "{pid}" else argument for argument in way.command or ()),
        )  # fmt: skip

    @property
    def _time_for_it(self) -> float:
        return inf if self._outlook.seconds is None else SHARE * self._outlook.seconds

    def _not_asked(self, way: GarbageCollection) -> str:
        if self._time_for_it < min(LEAST, way.timeout.total_seconds()):
            return "there is no time left for it"
        needs_process = way.jcmd or way.signal is not None or "{pid}" in (way.command or ())
        if needs_process and self._found.main is None:
            return "its main process is not known"
        if not self._found.handles:
            return f"it has no handler for {way.signal}, which would then end it"
        return ""

    # ── restart ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _restart(self) -> Action | None:
        target, found = self._case.target, self._found
        against = obstacles(self._case, self._seen, found, self._heard)
        if against:
            self._notices += against
            return None
        if not self._outlook.near:
            self._notices.append(notices.time_left(target, self._settings))
            return None
        if found.check:
            self._notices.append(notices.check_failed(target, self._own.check or (), found.check))
            return None
        if RESTART in self._case.skip_rungs:
            self._notices.append(notices.restarted_in_vain(target))
            return None
        frees = excess(self._heard, self._seen)
        if found.unit is not None:
            return RestartUnit(
                unit=found.unit.name, invocation=found.unit.invocation, held=frees, timeout=_longest(found.unit),
                dependants=tuple(each.name for each in found.dependants),
            )  # fmt: skip
        container = found.container
        if container is None or container.started is None:
            return None
        return RestartContainer(
            engine=container.engine, container=container.id, name=container.name, started=container.started,
            held=frees, timeout=STOP,
        )  # fmt: skip


def _longest(unit: Unit) -> float:
    """Seconds until a restart is left to systemd: more than the unit's own timeouts."""
    longest = unit.longest_restart
    return (longest if longest is not None else UNLIMITED) + MARGIN
