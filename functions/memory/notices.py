"""What a person is told beside the plan: how it grows, who holds the memory, and what stands in the way. Pure."""

from collections.abc import Iterator

from functions.memory.facts import Found, Seen
from functions.memory.judgement import Outlook, growth
from schemas.command_lines import masked
from schemas.memory import MemoryTrend
from schemas.remediation import Finding
from schemas.settings.memory import MemoryMonitoring
from schemas.text import show_path, sparkline
from schemas.units import show_duration, show_size

FLAT = 0.02
"""Of the highest sample: differences below look flat."""


def unreadable(what: str, why: str) -> Finding:
    return Finding(title=f"could not look at {what}: {why}")


def trend(target: str, seen: Seen, heard: MemoryTrend, outlook: Outlook) -> Finding:
    """How it stands and where that leads."""
    limit = f" of {show_size(seen.limit)} ({show_path(seen.limit_at)})" if seen.limit is not None else ""
    lines = [_drawn(heard), _floor(heard), *heard.findings]
    if heard.out_of_memory_kills:
        lines.append(f"the kernel killed in it {heard.out_of_memory_kills} times for lack of memory")
    return Finding(
        title=f"{target} holds {show_size(seen.held)}{limit}, {growth(heard)}; {_forecast(outlook)}",
        detail="\n".join(line for line in lines if line), amount=seen.held, unit="bytes",
    )  # fmt: skip


def _drawn(heard: MemoryTrend) -> str:
    samples = heard.sparkline
    if not samples:
        return ""
    low, high = min(samples), max(samples)
    return f"{sparkline(samples, smallest_span=FLAT * high)} {show_size(low)} to {show_size(high)}"


def _floor(heard: MemoryTrend) -> str:
    if heard.floor_start is None or heard.floor_now is None:
        return ""
    over = f" in {show_duration(heard.window)}" if heard.window else ""
    who = f", says the {heard.detector} detector" if heard.detector is not None else ""
    return f"its floor rose from {show_size(heard.floor_start)} to {show_size(heard.floor_now)}{over}{who}"


def _forecast(outlook: Outlook) -> str:
    if outlook.seconds is None:
        return "nothing foretells when it reaches its limit"
    return f"at that pace it reaches its limit in {show_duration(outlook.seconds)}"


def growing(heard: MemoryTrend) -> Iterator[Finding]:
    """The processes that grew most, as the collector saw them."""
    for each in heard.processes:
        grown, held = show_size(each.grown), show_size(each.memory)
        yield Finding(
            title=f"process {each.identity.pid} grew by {grown} since {each.since:%Y-%m-%d %H:%M} UTC, to {held}:"
            f" {each.identity.command or 'no arguments'}",
            amount=each.grown, unit="bytes",
        )  # fmt: skip


def processes(found: Found) -> Iterator[Finding]:
    """The largest ones, with what a leak of something else than memory shows in: threads and descriptors."""
    for process in found.processes:
        identity = process.identity
        open_ones = f", {process.descriptors} descriptors" if process.descriptors is not None else ""
        rough = "" if process.exact else ", counted by its resident set"
        yield Finding(
            title=f"process {identity.pid} holds {show_size(process.memory)}: {identity.command or 'no arguments'}",
            detail=f"{process.threads} threads{open_ones}{rough}", amount=process.memory, unit="bytes",
        )  # fmt: skip
    if found.count > len(found.processes):
        yield Finding(title=f"{found.count - len(found.processes)} more processes hold less each")
    if found.mappings:
        largest = found.mappings[0]
        told = [f"{show_size(mapping.memory)} {show_path(mapping.name)}" for mapping in found.mappings]
        yield Finding(title=f"process {largest.pid} holds most in {told[0]}", detail="\n".join(told))


def not_asked(target: str, why: str) -> Finding:
    return Finding(title=f"{target} is not asked to collect garbage: {why}")


def no_help(target: str) -> Finding:
    return not_asked(target, "that gave next to nothing back lately")


def asked_before(target: str) -> Finding:
    """Each time is one of the attempts after which a person must look, and the restart may need them."""
    return not_asked(target, "it was, and is again when its limit is near")


def check_failed(target: str, argv: tuple[str, ...], said: str) -> Finding:
    return Finding(
        title=f"{target} is not restarted: the check of its configuration did not pass",
        detail=f"{said}\nmend it: the next start would fail as well", command=tuple(masked(argv)),
    )  # fmt: skip


def restarted_in_vain(target: str) -> Finding:
    return Finding(title=f"{target} is not restarted: that gave next to nothing back lately")


def time_left(target: str, settings: MemoryMonitoring) -> Finding:
    lead = show_duration(settings.alert_within)
    kind, _, name = target.partition(":")
    return Finding(
        title=f"{target} is not restarted yet: its limit is more than {lead} away (alert_within)",
        detail="a person may do it at a better time",
        command=("systemctl", "restart", name) if kind == "unit" else (),
    )
