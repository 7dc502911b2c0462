"""What a person is told beside the plan: why it failed, what stands in the way, what they could do. Pure."""

from collections.abc import Sequence

from functions.services.facts import Check, Holder
from schemas.facts.endings import EXIT_STATUSES, ending
from schemas.facts.units import DUMPED, Unit
from schemas.remediation import Finding
from schemas.units import show_duration

JOURNAL_LINES = "50"


def unreadable(what: str, why: str) -> Finding:
    return Finding(title=f"could not look at {what}: {why}")


def journal(unit: str) -> tuple[str, ...]:
    return ("journalctl", "-u", unit, "-n", JOURNAL_LINES, "--no-pager")


def why(unit: Unit) -> list[Finding]:
    """How it ended, with what a person should look at first."""
    findings = [Finding(title=f"{unit.name}: {ending(unit)}", command=journal(unit.name))] if unit.failed else []
    if unit.result == "oom-kill":
        findings.append(
            Finding(
                title=f"{unit.name} ran out of memory, and a start gives it the same room again",
                detail="memory.contain_leak tells whether it grows and could restart it before the kernel kills it",
                command=("ansai", "plan", "memory.contain_leak", "--target", f"unit:{unit.name}"),
            )
        )
    if unit.exit_code == DUMPED:
        findings.append(Finding(title=f"{unit.name} left a core dump", command=("coredumpctl", "info", unit.name)))
    if unit.exit_status in EXIT_STATUSES and unit.failed:
        findings.append(
            Finding(
                title=f"{unit.name} will hardly start before its unit file, or what that names, is mended",
                command=("systemctl", "cat", unit.name),
            )
        )
    return findings


def what_to_do(unit: Unit) -> list[Finding]:
    """For when it fails again, or nothing may be done."""
    return [
        Finding(
            title=f"if {unit.name} does not stay up: read its state and its last lines, mend what they name, start it",
            detail=f"systemctl status {unit.name}; {' '.join(journal(unit.name))}; systemctl start {unit.name}",
            command=("systemctl", "status", "--no-pager", "--full", unit.name),
        )
    ]


# ── what stands in the way ────────────────────────────────────────────────────────────────────────────────────────────


def was_reset(unit: Unit) -> Finding:
    return Finding(
        title=f"{unit.name} is down, and its failure was cleared: if that was you, all is well",
        detail="what somebody cleared is not started again; it is healthy as soon as its collector says so",
        command=("systemctl", "start", unit.name),
    )


def protected(unit: str) -> Finding:
    return Finding(
        title=f"{unit} is protected: it is told about and never touched",
        detail="service_monitoring.protected names more; those built in can't be taken off",
    )


def not_permitted(unit: str) -> Finding:
    return Finding(
        title=f"{unit} may not be restarted",
        detail=f"service_monitoring.restart, or service_monitoring.services.{unit}.restart, says so",
    )


def ours(unit: Unit) -> Finding:
    return Finding(
        title=f"{unit.name} is what we run in: a restart would end us in the middle",
        command=("systemctl", "restart", unit.name),
    )


def managed(unit: Unit) -> Finding:
    return Finding(
        title=f"{unit.name} is run by Pacemaker: only the cluster knows on which node it may run",
        command=("crm_mon", "--one-shot"),
    )


def endangers(unit: Unit) -> Finding:
    return Finding(
        title=f"if {unit.name} fails again, the machine follows (FailureAction={unit.failure_action})",
        command=("systemctl", "cat", unit.name),
    )


def occasional(unit: Unit) -> Finding:
    return Finding(
        title=f"{unit.name} runs on occasion only, so it is not started in between",
        detail="a piece of work that failed may be half done; whether it may be repeated is for a person to say",
        command=("systemctl", "list-timers", "--all"),
    )


def busy(unit: Unit) -> Finding:
    return Finding(
        title=f"something is being done with {unit.name} this moment, so nothing else is begun",
        command=("systemctl", "list-jobs"),
    )


def refuses(unit: Unit) -> Finding:
    return Finding(
        title=f"{unit.name} can't be started or restarted by hand: RefuseManualStart= or RefuseManualStop=",
        command=("systemctl", "list-dependencies", "--reverse", unit.name),
    )


def reload_needed(unit: Unit) -> Finding:
    return Finding(
        title=f"the unit file of {unit.name} changed and is not in force: a start would apply it unseen",
        detail=f"look at {unit.fragment or 'it'}, then let systemd read it",
        command=("systemctl", "daemon-reload"),
    )


def needs(unit: Unit, other: Unit) -> Finding:
    return Finding(
        title=f"{other.name}, which {unit.name} needs, has failed too: it is healed first, {unit.name} waits",
        detail=ending(other),
        command=("systemctl", "status", "--no-pager", other.name),
    )


def would_start(unit: Unit, other: Unit) -> Finding:
    state = "is masked" if other.masked else "was stopped on purpose, or is protected"
    return Finding(
        title=f"{other.name}, which {unit.name} starts with it, {state}: so {unit.name} is not started either",
        detail="start both by hand, or loosen the tie in the unit file",
        command=("systemctl", "start", unit.name),
    )


def would_stop(unit: Unit, others: Sequence[str]) -> Finding:
    return Finding(
        title=f"a start of {unit.name} would stop {', '.join(others)}, with which it can't run (Conflicts=)",
        detail="decide which of them is to run, and disable the other",
        command=("systemctl", "status", "--no-pager", *others),
    )


def touches_protected(unit: Unit, others: Sequence[str]) -> Finding:
    return Finding(
        title=f"a restart of {unit.name} would restart {', '.join(others)} too, which is protected",
        command=("systemctl", "list-dependencies", "--reverse", unit.name),
    )


def check_failed(unit: Unit, check: Check) -> Finding:
    said = check.answer.said if check.answer is not None else check.trouble
    if check.answer is not None:
        title = f"the configuration of {unit.name} is broken, so it is not started: {said}"
    else:
        title = f"whether the configuration of {unit.name} is sound is not known, so it is not started: {said}"
    return Finding(
        title=title, detail="mend it until the check passes; it is then started by itself", command=check.argv
    )


def no_check(unit: Unit, argv: Sequence[str]) -> Finding:
    return Finding(
        title=f"the configuration of {unit.name} is not checked before a start: there is no {argv[0]} on this machine",
        detail=f"name another check: service_monitoring.services.{unit.name}.check",
    )


def start_limit(unit: Unit, wait: float) -> Finding:
    limit = f"{unit.start_limit_burst} starts in {show_duration(unit.start_limit_interval)}"
    return Finding(
        title=f"{unit.name} is not started for another {show_duration(wait)}: its own limit is {limit}",
        detail="ours stay below half of it, so that systemd and people have theirs; what keeps it from running?",
        command=("systemctl", "reset-failed", unit.name),
    )


# ── ports ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def held_by_others(unit: Unit, holders: Sequence[Holder]) -> list[Finding]:
    """Told only: a process of another unit, or of none, is not this function's to end."""
    return [
        Finding(
            title=f"port {holder.port}, which {unit.name} listens on, is held by {_owner(holder)}",
            detail=f"pid {holder.process.pid}: {holder.process.command}",
            command=("systemctl", "status", "--no-pager", str(holder.process.pid)),
        )
        for holder in holders
    ]


def _owner(holder: Holder) -> str:
    return unit_of(holder.group) or "a process that belongs to no unit"


def unit_of(group: str) -> str:
    """The unit that a control group is of, or lies in; empty when it is of none. Pure."""
    names = [part for part in group.split("/") if part.endswith((".service", ".scope"))]
    return names[-1] if names else ""
