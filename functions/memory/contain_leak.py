"""Services whose memory grows without end: tell, ask for their garbage, restart them before the kernel kills."""

from functions.core.remedy import Case, Remedy
from functions.memory.actions import CollectGarbage, RestartContainer, RestartUnit
from functions.memory.judgement import judged
from functions.memory.permission import group_of
from functions.memory.planning import plan
from functions.memory.services import observe, targets
from functions.memory.survey import survey
from schemas.memory import MemoryTrend
from schemas.settings.memory import MemoryMonitoring


def resources(case: Case[MemoryMonitoring]) -> tuple[str, ...]:
    """The service, and its group of replicas: no two of them are worked on at once."""
    group = group_of(case.target, case.settings)
    return (f"service:{case.target}", f"replicas:{group}") if group else (f"service:{case.target}",)


REMEDY = Remedy(
    name="memory.contain_leak",
    title="Contain services whose memory grows without end, before the kernel kills them",
    section_name="memory_monitoring",
    section=MemoryMonitoring,
    listens=(MemoryTrend,),
    actions=(CollectGarbage, RestartUnit, RestartContainer),
    targets=targets,
    observe=observe,
    gap=judged,
    survey=survey,
    plan=plan,
    resources=resources,
    plans_ahead=False,
    extras=("containers",),
    privileges=(
        "root, or CAP_SYS_PTRACE, to read what other users' processes hold and map",
        "root, or the right to manage units (polkit), to restart services",
        "root, or CAP_KILL, to send signals to other users' processes, and to run jcmd as their user",
        "access to the container engine's socket, to see and restart containers",
    ),
)
