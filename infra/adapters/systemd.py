"""Units of systemd: reading them, restarting them, and limiting their memory, through systemctl only."""

import os
from collections.abc import Collection, Mapping, Sequence

from functions.core.ports import ToolError
from infra.adapters import systemd_changes as changes
from infra.adapters.cgroup_trees import ROOT, memory_tree
from infra.adapters.cgroups import ControlGroups
from infra.adapters.commands import Commands, Completed
from infra.adapters.systemd_changes import Ending, Limits, Verdict
from infra.adapters.systemd_units import PROPERTIES, is_glob, is_name, units_in
from schemas.facts.cgroups import ControlGroupMemory
from schemas.facts.units import Unit
from schemas.probes import Absent, ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain, show_path

RUNTIME = "/run/systemd/system"
"""There when systemd is the service manager (sd_booted(3)); systemctl may be installed where it is not."""

TIMEOUT = 30.0
"""Seconds for an answer. A systemd that reloads its units answers nobody, with thousands of them for long."""


class Systemd:
    """Implements `schemas.probes.UnitProbe`. By the directory *runtime* a running systemd is known."""

    def __init__(self, runtime: str = RUNTIME, environment: Mapping[str, str] | None = None) -> None:
        self._runtime = runtime
        self._commands = Commands(ProbeError, dict(environment or {}))

    def services(self, globs: Collection[str]) -> list[Unit]:
        """One that is named whole need not be loaded; what can be no name of a unit matches none."""
        wanted = [glob for glob in dict.fromkeys(globs) if is_name(glob) or is_glob(glob)]
        found = _show(self._commands, self._runtime, wanted)
        return [unit for unit in found if unit.name.endswith(".service")]

    def unit(self, name: str) -> Unit | None:
        return _one(self._commands, self._runtime, name)


class SystemdTools:
    """Implements `functions.core.ports.UnitTools`.

    *control_groups* is where those are mounted, *proc* where /proc is: a limit is looked for where the kernel has it.
    """

    def __init__(
        self, runtime: str = RUNTIME, control_groups: str = ROOT, proc: str = "/proc",
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._control_groups = control_groups
        self._proc = proc
        self._commands = Commands(ToolError, dict(environment or {}))

    def restart(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """Give it more time than the unit's own timeouts do (`Unit.longest_restart`); systemd goes on without us.

        Skipped when it is another run than planned, was stopped or masked meanwhile. Refused when the unit does not
        allow it, or its file has changed; deferred while something else is done with it. Raises ToolError when systemd
        can't be asked.
        """
        before = self._read(unit)
        held = changes.not_now(before)
        if before is None or held is not None:
            return (held or changes.GONE).of(unit)
        held = changes.stopped(before) or changes.another_run(before, invocation) or changes.not_restartable(before)
        return (held or self._start("restart", before, timeout)).of(unit)

    def start(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """What speaks against it is as for `restart`."""
        before = self._read(unit)
        held = changes.not_now(before)
        if before is None or held is not None:
            return (held or changes.GONE).of(unit)
        held = changes.not_failed(before, invocation) or changes.not_startable(before)
        return (held or self._start("start", before, timeout)).of(unit)

    def start_anew(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """Cleared, a unit looks as if somebody meant it to be down: so nothing comes between that and the start."""
        before = self._read(unit)
        held = changes.not_now(before)
        if before is None or held is not None:
            return (held or changes.GONE).of(unit)
        held = changes.not_failed(before, invocation) or changes.not_startable(before)
        return (held or self._start_cleared(before, timeout)).of(unit)

    def _start_cleared(self, before: Unit, timeout: float) -> Verdict:
        completed = self._run(["reset-failed", "--", before.name])
        try:
            after = self._read(before.name)
            held = changes.not_cleared(after, completed)
            if after is None or held is not None:
                return held or changes.GONE
            return changes.in_vain(self._start("start", after, timeout))
        except ToolError as error:
            return changes.in_vain(Verdict(Outcome.FAILED, str(error)))

    def limit_memory(self, unit: str, invocation: str, high: int | None, maximum: int | None) -> ItemResult:
        """The reason tells before and after.

        A limit belongs to the unit and outlives its run, so one that is raised or taken away is so for any run. One
        that goes down does so for the planned run only, never where the unit manages its groups itself, and to no less
        than `MARGIN` × the working set. Version 1 of control groups has no MemoryHigh: there it is left as it is, and
        the reason says so.
        """
        before = self._read(unit)
        held = changes.not_now(before)
        if before is None or held is not None:
            return (held or changes.GONE).of(unit)
        throttles = self._version() == 2
        if not throttles and maximum is None and high is not None:
            return Verdict(Outcome.REFUSED, "control groups of version 1 have no MemoryHigh; give MemoryMax").of(unit)
        wanted = {"MemoryMax": maximum, **({"MemoryHigh": high} if throttles else {})}
        verdict = self._held(before, invocation, wanted) or self._limit(before, wanted)
        if verdict.outcome is Outcome.DONE and high is not None and not throttles:
            note = "MemoryHigh was left as it is, for in control groups of version 1 it does nothing"
            verdict = Verdict(verdict.outcome, f"{verdict.reason}; {note}")
        return verdict.of(unit)

    def _held(self, before: Unit, invocation: str, wanted: Limits) -> Verdict | None:
        if not changes.lowered(changes.limits_of(before), wanted):
            return None
        try:
            group = self._group(before)
        except ProbeError as error:
            return Verdict(Outcome.REFUSED, f"what it uses is not known: {error}")
        working_set = group.working_set if group is not None else 0
        return changes.another_run(before, invocation) or changes.not_limitable(before, wanted, working_set)

    def _limit(self, before: Unit, wanted: Limits) -> Verdict:
        values = [f"{name}={'infinity' if size is None else size}" for name, size in wanted.items()]
        completed = self._run(["set-property", "--runtime", "--", before.name, *values])
        after = self._read(before.name)
        try:
            group = self._group(after)
        except ProbeError as error:
            return Verdict(Outcome.FAILED, f"whether the kernel took the limits is not known: {error}")
        return changes.limited(before, after, wanted, group, completed)

    def _start(self, verb: str, before: Unit, timeout: float) -> Verdict:
        argv = ["systemctl", verb, "--no-ask-password", "--", before.name]
        process = self._commands.start(argv)
        try:
            completed = self._commands.finish(process, argv, timeout)
        except ToolError:  # systemctl was ended, the job was not
            completed = None
        return changes.started(before, self._read(before.name), Ending.of(completed, timeout))

    def _run(self, arguments: Sequence[str]) -> Completed:
        """Whatever its status: what became of it is read from systemd."""
        return self._commands.run(["systemctl", "--no-ask-password", *arguments], timeout=TIMEOUT, accept=())

    def _read(self, unit: str) -> Unit | None:
        """Raises ToolError for what is no name: systemctl would take a glob, and act on all that match."""
        if not is_name(unit):
            raise ToolError(f"{plain(unit)!r} is no name of a unit; give it whole, like nginx.service")
        return _one(self._commands, self._runtime, unit)

    def _group(self, unit: Unit | None) -> ControlGroupMemory | None:
        """None for one that has none, since it does not run. Raises ProbeError."""
        if unit is None or not unit.control_group:
            return None
        return ControlGroups(self._control_groups, self._proc).control_group(unit.control_group)

    def _version(self) -> int:
        try:
            return memory_tree(self._control_groups, self._proc).version
        except ProbeError as error:
            raise ToolError(f"limit memory: {error}") from error


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _one(commands: Commands, runtime: str, name: str) -> Unit | None:
    found = _show(commands, runtime, [name] if is_name(name) else [])
    return found[0] if found else None


def _show(commands: Commands, runtime: str, patterns: Sequence[str]) -> list[Unit]:
    """All units of those names and globs, in one call: systemctl itself lists what matches, so argv stays short.

    Without *patterns* it would tell about systemd itself. One that is unloaded between listing and showing is told
    as not found.
    """
    if not os.path.isdir(runtime):
        error = Absent if commands.error is ProbeError else commands.error
        raise error(
            f"ask systemd for units: it does not run here, there is no {show_path(runtime)};"
            " run ansai on the host itself, or leave its functions for units out"
        )
    if not patterns:
        return []
    # --all and --type are for globs only: without the former they pass by what is inactive.
    argv = ["systemctl", "show", "--all", "--type=service", f"--property={','.join(PROPERTIES)}", "--", *patterns]
    completed = commands.run(argv, timeout=TIMEOUT)
    if completed.truncated:
        raise commands.error("systemctl show printed more than is kept; watch fewer units, by narrower globs")
    try:
        return units_in(completed.stdout)
    except ValueError as problem:
        raise commands.error(f"read what systemctl show printed: {plain(str(problem))}") from problem
