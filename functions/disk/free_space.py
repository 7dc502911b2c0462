"""Free a filesystem that runs out of bytes or inodes: what can be had again first, until it is at its target."""

from functions.core.remedy import Case, Remedy
from functions.disk.actions import CleanPackageCache, RemoveImage, RotateLogs, VacuumJournal
from functions.disk.facts import Seen
from functions.disk.file_actions import CompressLogs, DecompressLogs, RemoveFiles
from functions.disk.judgement import judged
from functions.disk.planning import plan
from functions.disk.survey import survey
from schemas.disk import DiskPressure
from schemas.facts.files import Resource
from schemas.facts.mounts import real_filesystems
from schemas.probes import ProbeError, Probes
from schemas.remediation import Gap
from schemas.settings.disk import DiskMonitoring, percent_of


def targets(settings: DiskMonitoring, probes: Probes) -> list[str]:
    """The bytes and the inodes of every real filesystem. Raises ProbeError."""
    mounts = real_filesystems(probes.files.mounts(), settings)
    return [f"{resource}:{mount.point}" for mount in mounts for resource in Resource]


def observe(case: Case[DiskMonitoring], probes: Probes) -> Seen:
    """One statvfs. Raises ProbeError."""
    kind, _, point = case.target.partition(":")
    if kind not in list(Resource) or not point.startswith("/"):
        raise ProbeError(f"{case.target!r} is no target of disk.free_space; they look like bytes:/var or inodes:/var")
    resource = Resource(kind)
    usage = probes.files.usage(point)
    level, reason = judged(case, usage, resource)
    return Seen(usage=usage, resource=resource, level=level, reason=reason)


def gap(case: Case[DiskMonitoring], seen: Seen) -> Gap:
    """Bytes or inodes above the target percentage, or below the absolute floor."""
    excess = case.settings.excess(seen.usage, seen.resource)
    if excess is None or percent_of(seen.usage, seen.resource) is None:
        return Gap.unknown(seen.resource, seen.reason)
    return Gap(amount=excess, unit=seen.resource, reason=seen.reason)


REMEDY = Remedy(
    name="disk.free_space",
    title="Bring filesystems that run out of bytes or inodes back to their target",
    section_name="disk_monitoring",
    section=DiskMonitoring,
    listens=(DiskPressure,),
    actions=(
        CleanPackageCache, VacuumJournal, RotateLogs, CompressLogs, DecompressLogs, RemoveFiles, RemoveImage,
    ),
    targets=targets,
    observe=observe,
    gap=gap,
    survey=survey,
    plan=plan,
    resources=lambda case: (f"filesystem:{case.target.partition(':')[2]}",),  # its bytes and inodes are one thing
    extras=("logs", "containers"),
    privileges=(
        "root, or CAP_SYS_PTRACE, to know which files other users' processes have open; else no file is cleaned",
        "root, or CAP_DAC_OVERRIDE and CAP_FOWNER, to remove and compress files of others",
        "root, to run apt-get, journalctl --rotate and logrotate",
        "access to the container engine's socket, to list and remove images",
    ),
)  # fmt: skip
