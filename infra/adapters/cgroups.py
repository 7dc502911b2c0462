"""Memory of control groups, version 1, version 2 or both, and of the host; and limits of groups."""

import contextlib
import errno
import mmap
import re
import time
from collections.abc import Iterator, Mapping, Sequence

from functions.core.ports import ToolError
from infra.adapters.cgroup_trees import ROOT, Group, Tree, memory_tree, numbers_in, trees
from schemas.facts.cgroups import ControlGroupMemory, HostMemory, Pressure
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import show_path

MOUNTS_KEPT = 10.0
"""Seconds for which it is not looked again where the tree is mounted: a host of containers has hundreds of mounts."""

MARGIN = 1.25
"""A limit is lowered to no less than this × the working set: below, the kernel would reclaim, then kill, at once."""


class ControlGroups:
    """Implements `schemas.probes.MemoryProbe`. *root* is where control groups are mounted, *proc* where /proc is."""

    def __init__(self, root: str = ROOT, proc: str = "/proc") -> None:
        self._root = root
        self._proc = proc
        self._found: tuple[float, Tree] | None = None

    def host(self) -> HostMemory:
        told = {name: size * 1024 for name, size in numbers_in(self._proc_text("meminfo")).items()}
        if missing := {"MemTotal", "MemAvailable"} - told.keys():
            raise ProbeError(f"read {self._proc}/meminfo: it has no {', '.join(sorted(missing))}; is /proc mounted?")
        try:
            pressure = pressure_in(self._proc_text("pressure/memory"))
        except ProbeError:
            pressure = None  # a kernel without it, or with it switched off
        return HostMemory(
            total=told["MemTotal"], available=told["MemAvailable"],
            swap_total=told.get("SwapTotal", 0), swap_free=told.get("SwapFree", 0),
            anonymous=told.get("AnonPages", 0), shared=told.get("Shmem", 0),
            unreclaimable=told.get("SUnreclaim", 0),
            pressure=pressure, out_of_memory_kills=numbers_in(self._proc_text("vmstat")).get("oom_kill"),
        )  # fmt: skip

    def control_group(self, path: str) -> ControlGroupMemory:
        tree = self._tree()
        with _told(path), tree.opened(path) as groups:
            return memory_of(tree, groups)

    def _tree(self) -> Tree:
        """Raises ProbeError."""
        now = time.monotonic()
        if self._found is None or now - self._found[0] > MOUNTS_KEPT:
            self._found = now, memory_tree(self._root, self._proc)
        return self._found[1]

    def processes(self, path: str) -> tuple[int, ...]:
        found: list[set[int]] = []
        troubles: list[ProbeError] = []
        for tree in trees(self._root, self._proc):
            try:
                with _told(path), tree.opened(path) as groups:
                    found.append(groups[-1].processes())
            except ProbeError as error:
                troubles.append(error)
        if not found:
            raise troubles[0]
        return tuple(sorted(set().union(*found)))

    def control_group_of(self, pid: int) -> str:
        path = self._tree().path_in(self._proc_text(f"{pid}/cgroup"))
        if path is None:
            raise ProbeError(f"read {self._proc}/{pid}/cgroup: it names no group that carries memory")
        return path

    def _proc_text(self, name: str) -> str:
        try:
            with open(f"{self._proc}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | ProcessLookupError) and name.endswith("/cgroup")
            seen = "no such process" if gone else error.strerror
            raise ProbeError(f"read {self._proc}/{name}: {seen}") from error


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        seen = "it is gone" if _gone(error) else f"{error.strerror}; run as root"
        raise ProbeError(f"read the control group {show_path(path)}: {seen}") from error


def _gone(error: OSError) -> bool:
    return error.errno in {errno.ENOENT, errno.ENODEV}


def memory_of(tree: Tree, groups: Sequence[Group]) -> ControlGroupMemory:
    """The last of *groups*, which lead to it. Raises OSError when it goes meanwhile, ProbeError without accounting."""
    group = groups[-1]
    read = _read_version_1 if tree.version == 1 else _read_version_2
    return read(tree, groups).model_copy(update={
        "path": group.path,
        "version": tree.version,
        "processes": tuple(sorted(group.processes())),
        "pressure": _pressure(tree, group),
    })  # fmt: skip


def _read_version_1(tree: Tree, groups: Sequence[Group]) -> ControlGroupMemory:
    group = groups[-1]
    maximums = [(each.number("memory.limit_in_bytes"), each.path) for each in groups]
    usage = group.number("memory.usage_in_bytes")
    failures = [group.number(f"memory.{name}failcnt") for name in ("", "memsw.")]  # each counts what the other does not
    kills = [numbers_in(text).get("oom_kill") for text in group.texts_below("memory.oom_control")]
    amounts = _statistics(tree, group)
    totals = {name.removeprefix("total_"): size for name, size in amounts.items() if name.startswith("total_")}
    limit, limit_at = _smallest(maximums)
    effective = amounts.get("hierarchical_memory_limit")
    if effective is not None and effective < (limit if limit is not None else 2**62):
        limit, limit_at = effective, ""  # set above all that can be seen from here
    anonymous, shared = totals.get("rss", 0), totals.get("shmem", 0)
    return ControlGroupMemory(
        path="", version=1,
        **_sizes(usage, anonymous, totals.get("cache", 0), totals.get("inactive_file", 0)),
        anonymous=anonymous, file=max(0, totals.get("cache", 0) - shared), shared=shared, swap=totals.get("swap", 0),
        limit=limit, limit_at=limit_at, maximum=maximums[-1][0],
        out_of_memory_kills=_sum(kills), failures=_sum(failures),
    )  # fmt: skip


def _read_version_2(tree: Tree, groups: Sequence[Group]) -> ControlGroupMemory:
    group = groups[-1]
    maximums = [(each.number("memory.max"), each.path) for each in groups]
    high = group.number("memory.high")
    usage, swap = group.number("memory.current"), group.number("memory.swap.current")
    events = group.numbers("memory.events")
    own = group.numbers("memory.events.local") or events
    amounts = _statistics(tree, group)
    limit, limit_at = _smallest(maximums)
    swap_limit, _ = _smallest([(each.number("memory.swap.max"), each.path) for each in groups])
    anonymous, shared = amounts.get("anon", 0), amounts.get("shmem", 0)
    return ControlGroupMemory(
        path="", version=2,
        **_sizes(usage, anonymous, amounts.get("file", 0), amounts.get("inactive_file", 0)),
        anonymous=anonymous, file=max(0, amounts.get("file", 0) - shared), shared=shared, swap=swap or 0,
        unreclaimable=amounts.get("slab_unreclaimable", 0),
        swap_limit=swap_limit, limit=limit, limit_at=limit_at, maximum=maximums[-1][0], high=high,
        high_events=own.get("high"), out_of_memory_kills=events.get("oom_kill"), failures=own.get("max"),
    )  # fmt: skip


def _statistics(tree: Tree, group: Group) -> dict[str, int]:
    """memory.stat, read after all else: a group that has it now had its other files a moment ago."""
    amounts = group.numbers("memory.stat")
    if not amounts:
        with tree.opened(group.path):  # raises FileNotFoundError when it is gone
            raise ProbeError(
                f"read the control group {show_path(group.path)}: its memory is not counted; "
                "set MemoryAccounting=yes for it, or memory in the cgroup.subtree_control above it"
            )
    return amounts


def _sizes(usage: int | None, anonymous: int, cache: int, inactive: int) -> dict[str, int]:
    """The topmost group of version 2 has no usage of its own: then it is what was counted."""
    usage = anonymous + cache if usage is None else usage
    return {"usage": usage, "working_set": max(usage - inactive, anonymous)}


def _sum(counts: Sequence[int | None]) -> int | None:
    """None when there is none to add."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _smallest(maximums: Sequence[tuple[int | None, str]]) -> tuple[int | None, str]:
    """Of equal ones the innermost."""
    limits = [(size, path) for size, path in reversed(maximums) if size is not None]
    return min(limits, key=lambda limit: limit[0], default=(None, ""))


def _pressure(tree: Tree, group: Group) -> Pressure | None:
    if tree.version == 2:
        return pressure_in(group.text("memory.pressure") or "")
    if tree.pressure is None:
        return None
    try:
        with tree.pressure.opened(group.path) as groups:
            return pressure_in(groups[-1].text("memory.pressure") or "")
    except (OSError, ProbeError):  # what is one group in one tree need not be one in the other
        return None


_PRESSURE = re.compile(r"^(some|full) avg10=([\d.]+) avg60=([\d.]+)", re.MULTILINE)


def pressure_in(text: str) -> Pressure | None:
    """What memory.pressure, or /proc/pressure/memory, says; None when that is nothing. Pure."""
    shares: dict[str, float] = {}
    for kind, ten, sixty in _PRESSURE.findall(text):
        shares |= {f"{kind}10": float(ten), f"{kind}60": float(sixty)}
    return Pressure(**shares) if shares else None


class ControlGroupWriter:
    """Implements `functions.core.ports.ControlGroupTools`. The parameters are those of `ControlGroups`."""

    def __init__(self, root: str = ROOT, proc: str = "/proc") -> None:
        self._root = root
        self._proc = proc

    def limit_memory(self, path: str, high: int | None, maximum: int | None) -> ItemResult:
        """Skipped when the group is gone. Refused when a limit goes down to less than `MARGIN` × the working set.

        Version 1 has no `high`: there only the maximum is set, and the reason says so; refused when there is none.
        Raises ToolError when the group can't be read or written, and then nothing was done.
        """
        try:
            tree = memory_tree(self._root, self._proc)
            with tree.opened(path) as groups:
                return self._limit(groups[-1], memory_of(tree, groups), high, maximum)
        except ProbeError as error:
            raise ToolError(f"limit memory: {error}") from error
        except OSError as error:
            if _gone(error):
                return ItemResult(name=path, outcome=Outcome.SKIPPED, reason="the control group is gone")
            raise ToolError(
                f"limit memory of the control group {show_path(path)}: {error.strerror}; "
                "it needs root, and control groups that are mounted writable"
            ) from error

    def _limit(self, group: Group, now: ControlGroupMemory, high: int | None, maximum: int | None) -> ItemResult:
        wanted = {"memory.limit_in_bytes": maximum}
        if now.version == 2:
            wanted = {"memory.high": high, "memory.max": maximum}
        old = {name: group.text(name) for name in wanted}
        reason = _why_not(now, high, maximum) or _without_limits(group, old) or _above_swap(group, maximum)
        if reason:
            return ItemResult(name=group.path, outcome=Outcome.REFUSED, reason=reason)
        reason = _write_all(group, old, wanted)
        if not reason and now.version == 1 and high is not None:
            note = "control groups of version 1 have no high: only the maximum was set"
            return ItemResult(name=group.path, outcome=Outcome.DONE, reason=note)
        return ItemResult(name=group.path, outcome=Outcome.FAILED if reason else Outcome.DONE, reason=reason)


def _why_not(now: ControlGroupMemory, high: int | None, maximum: int | None) -> str:
    """Why these limits would do harm. One that is not lower than what holds already never does. Pure."""
    if now.version == 1 and high is not None and maximum is None:
        return "control groups of version 1 have no high; give a maximum"
    least = int(now.working_set * MARGIN)
    for name, size, before in (("high", high, now.high), ("maximum", maximum, now.maximum)):
        if now.version == 1 and name == "high":
            continue
        if size is not None and size < least and (before is None or size < before):
            return (
                f"a {name} of {size} bytes is too little: {now.working_set} are in use,"
                f" and it must be at least {least}, {MARGIN} times that"
            )
    return ""


def _without_limits(group: Group, old: Mapping[str, str | None]) -> str:
    missing = [name for name, text in old.items() if text is None]
    return f"{show_path(group.path)} has no {missing[0]}: the topmost group has no limits of its own" if missing else ""


def _above_swap(group: Group, maximum: int | None) -> str:
    """Version 1 takes no limit of memory above that of memory and swap together, which is somebody else's."""
    both = group.number("memory.memsw.limit_in_bytes")
    if both is None or (maximum is not None and maximum <= both):
        return ""
    return f"its memory and swap together are limited to {both} bytes (memory.memsw.limit_in_bytes); raise that first"


def _write_all(group: Group, old: Mapping[str, str | None], wanted: Mapping[str, int | None]) -> str:
    """Write, and read back. On trouble all gets its old value again; returns the trouble.

    Raises OSError when the first file can't be written: then nothing was done.
    """
    written: list[str] = []
    for name, size in wanted.items():
        try:
            group.write(name, _value(name, size))
        except OSError as error:
            if not written or _gone(error):
                raise
            return f"write {name}: {error.strerror}; {_put_back(group, old, written)}"
        written.append(name)
        seen, meant = group.number(name), size // mmap.PAGESIZE * mmap.PAGESIZE if size is not None else None
        if seen != meant:
            return f"{name} was set to {_shown(meant)} and reads {_shown(seen)}; {_put_back(group, old, written)}"
    return ""


def _put_back(group: Group, old: Mapping[str, str | None], written: Sequence[str]) -> str:
    for name in reversed(written):
        try:
            group.write(name, (old[name] or "").strip())
        except OSError as error:
            return f"{name} could not be put back to {(old[name] or '').strip()}: {error.strerror}; do that by hand"
    return f"{' and '.join(written)} got the old value again"


def _value(name: str, size: int | None) -> str:
    if size is not None:
        return str(size)
    return "-1" if name == "memory.limit_in_bytes" else "max"


def _shown(size: int | None) -> str:
    return "no limit" if size is None else f"{size} bytes"
