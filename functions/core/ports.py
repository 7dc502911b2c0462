"""What the engine holds: the tools that change things, and where it remembers and tells.

`infra.adapters` implements the tools, `infra.hosts` the ledger, the leases and the story.

Every method of a tool blocks and runs in a thread. Each checks, immediately before it acts, that an item is still
the one that was planned; one that changed is skipped, not failed. None retries.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from schemas.alert import Alert
from schemas.approval import Approval, PendingPlan
from schemas.audit import ActionEvent
from schemas.facts.commands import Command
from schemas.facts.files import FileItem, Root
from schemas.facts.processes import ProcessIdentity
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.health import Health
from schemas.incident import Incident
from schemas.probes import Probes
from schemas.remediation import ItemResult

Answer = TypeVar("Answer")


class ToolError(Exception):
    """Expected trouble: what was tried, what was seen, what to do next, in one line for the operator."""


class FileTools(Protocol):
    def remove(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """Unlink regular files below *root*, by descriptors.

        Raises ToolError when the root itself is another one or read-only.
        """
        ...

    def compress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """Replace each file by a verified `<name>.gz` with its mode, owner, attributes and mtime.

        An item is skipped when it grew, is open for writing, is compressed already, or the filesystem
        lacks 1.1 × the estimated output. Any failure leaves the source as it was.
        """
        ...

    def decompress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """The way back of `compress`: items name the originals; each `.gz` becomes the original again."""
        ...


class PackageTools(Protocol):
    def clean(self, manager: str, mode: str, directory: str) -> ItemResult:
        """Run the manager's own clean (`mode` clean or autoclean). Deferred when a package lock is held."""
        ...


class JournalTools(Protocol):
    def vacuum(self, directory: str, size: int, keep_since: datetime) -> ItemResult:
        """Rotate, then remove archived files, oldest first, down to *size* bytes; keep entries after *keep_since*."""
        ...


class LogRotationTools(Protocol):
    def rotate(self, configuration: str) -> ItemResult:
        """Run logrotate for one configuration file; deferred when another logrotate runs."""
        ...


class ContainerTools(Protocol):
    def remove_image(self, engine: str, image_id: str, tags: Sequence[str]) -> ItemResult:
        """Delete by id without force; skipped when its tags changed or a container uses it by now."""
        ...

    def restart(self, engine: str, container_id: str, started: datetime, timeout: float) -> ItemResult:
        """Stop with *timeout* seconds of grace, and start; skipped when it is another run than planned."""
        ...

    def limit_memory(self, engine: str, container_id: str, limit: int | None, swap_limit: int | None) -> ItemResult:
        """Set memory and memory with swap, in bytes; none takes the limit away."""
        ...


class UnitTools(Protocol):
    """systemd. Each reads the unit first: another run than planned, a masked or a stopped one, is left alone."""

    def restart(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """Restart, and wait for the end of the job. In progress when the job is not over in *timeout* seconds."""
        ...

    def start(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """Start one that failed in the run *invocation*; skipped when it is anything but that by now."""
        ...

    def start_anew(self, unit: str, invocation: str, timeout: float) -> ItemResult:
        """As `start`, once its failure and its count of starts are cleared. Partial when it was cleared in vain."""
        ...

    def limit_memory(self, unit: str, invocation: str, high: int | None, maximum: int | None) -> ItemResult:
        """Set MemoryHigh and MemoryMax until the next boot, in bytes; none is infinity.

        A limit outlives the run: one that only goes up is set whatever run it is by now.
        """
        ...


class ProcessTools(Protocol):
    """Processes, by descriptors of theirs: a number that went to another process is left alone."""

    def signal(self, process: ProcessIdentity, name: str) -> ItemResult:
        """Skipped when it ended, and refused when it has no handler for the signal: most would kill it."""
        ...

    def end(self, process: ProcessIdentity, grace: float) -> ItemResult:
        """SIGTERM, and SIGKILL when it takes longer than *grace* seconds."""
        ...

    def collect_java(self, process: ProcessIdentity, timeout: float) -> ItemResult:
        """`jcmd GC.run` as the process's own user; refused when it is no Java machine."""
        ...

    def ask(self, url: str, method: str, timeout: float) -> ItemResult:
        """One request over loopback, without following redirections; done when it answers 2xx."""
        ...

    def remove_stale(self, path: str, held_by: Sequence[str]) -> ItemResult:
        """Unlink a pid, lock or socket file whose owner is gone; skipped when somebody holds or locks it.

        *held_by*: control groups whose processes make it live.
        """
        ...


class ControlGroupTools(Protocol):
    def limit_memory(self, path: str, high: int | None, maximum: int | None) -> ItemResult:
        """Write the group's own limits, in bytes; none takes a limit away. Refused below what is in use."""
        ...


class CommandTools(Protocol):
    def run(self, function: str, target: str, command: Command) -> ItemResult:
        """Run an operator's own command for *target*: done when it ends with status 0, failed when it does not.

        Refused when it could not even be started, so that nothing was done. The reason has the end of its output.
        """
        ...


class Tools(Protocol):
    """All writing ports; one that isn't used is never built."""

    @property
    def files(self) -> FileTools: ...
    @property
    def packages(self) -> PackageTools: ...
    @property
    def journal(self) -> JournalTools: ...
    @property
    def log_rotation(self) -> LogRotationTools: ...
    @property
    def containers(self) -> ContainerTools: ...
    @property
    def commands(self) -> CommandTools: ...
    @property
    def units(self) -> UnitTools: ...
    @property
    def processes(self) -> ProcessTools: ...
    @property
    def control_groups(self) -> ControlGroupTools: ...


class NotStored(Exception):
    """The audit record could not be stored. No audit, no action."""


class LedgerConflict(Exception):
    """Somebody else wrote the incident first: what we knew is old."""


@dataclass(frozen=True)
class Remembered:
    """An incident and the revision at which it was read; revision 0 when there is none yet."""

    incident: Incident | None
    revision: int


class Ledger(Protocol):
    """The incidents of one function: durable, replaced by compare-and-set."""

    def is_open(self, target: str) -> bool:
        """From a local mirror, without asking the bus; may lag by moments."""
        ...

    def open_incidents(self) -> list[Incident]:
        """From the mirror."""
        ...

    async def load(self, target: str) -> Remembered: ...
    async def save(self, incident: Incident, revision: int) -> int:
        """Store, return the new revision. Raises LedgerConflict, NotStored."""
        ...


class Token(NamedTuple):
    """Which of two holders of a lease is the later one: the greater."""

    epoch: int
    """when the bucket of leases was created: revisions of a recreated one begin again"""
    revision: int
    """at which the lease was acquired; renewals keep it"""


class Held(Protocol):
    """Leases that are ours until one of them is lost."""

    @property
    def tokens(self) -> Mapping[str, Token]:
        """Resource → the token of our lease on it."""
        ...

    @property
    def lost(self) -> bool: ...
    async def release(self) -> None: ...


class Leases(Protocol):
    async def acquire(self, resources: Sequence[str]) -> Held | None:
        """The leases on all *resources*, taken in sorted order so that two holders never wait for each other.

        They are renewed in the background. None while somebody else holds one of them. Raises NotStored.
        """
        ...


class Fenced(Exception):
    """A later holder of the lease has acted: what we are about to do is refused. The text says whose token is later."""


class Occupied(Exception):
    """Somebody else is passing the fence this moment."""


class Fence(Protocol):
    """Stands right before the change, where a holder that slept through its lease is stopped."""

    def admit(self, tokens: Mapping[str, Token]) -> None:
        """Note the tokens as the latest of their resources; blocks shortly. Raises Fenced, ToolError."""
        ...

    def passing(self, tokens: Mapping[str, Token], *, wait: bool = True) -> AbstractContextManager[None]:
        """`admit`, and let nobody else through until the block ends: who falls asleep in a change is not overtaken.

        Without *wait* it doesn't block, and raises Occupied while somebody else is in such a block.
        """
        ...


class Brake(Protocol):
    """The kill switch, as it stands this moment."""

    def frozen(self) -> Freeze | None:
        """Why nothing may be begun; None when it may. Asked before every single action, so it is cheap."""
        ...


class Permits(Protocol):
    """What this host shares with its group about one function: who is unhealthy, who acts, what was spent."""

    def view(self, now: datetime) -> Fleet:
        """From the mirror, without asking the bus."""
        ...

    async def report(self, *, unhealthy: bool) -> None:
        """Tell the group whether some target here has an open incident; written on change only. Raises NotStored."""
        ...

    async def take(self, judge: Callable[[Fleet], Answer | None], *, irreversible: bool) -> Answer | None:
        """Take a slot of the group and spend one attempt, unless *judge* refuses what is stored this moment.

        *judge* is asked again on each conflict, so two hosts can't take the last slot. Its refusal is returned, and
        then nothing was taken. Several treatments of one host share its slot. Raises NotStored.
        """
        ...

    async def give_back(self) -> None:
        """Free the slot when nobody here uses it any more; the attempt stays spent. Raises nothing."""
        ...

    async def storm(self, *, begins: bool, unhealthy: int = 0, members: int = 0) -> bool:
        """Note that a storm begins or is over. True for the one who noted it first: that one tells people."""
        ...


class Plans(Protocol):
    """Plans of one function that wait for approval."""

    async def put(self, plan: PendingPlan) -> None:
        """Store it, in place of any older one for the same target. Raises NotStored, PlanTooLarge."""
        ...

    async def get(self, target: str, plan_hash: str) -> PendingPlan | None:
        """None when it was never stored, is used, superseded or has expired. Raises NotStored."""
        ...

    async def take(self, target: str, plan_hash: str) -> bool:
        """Use it up; True for exactly one taker. Raises NotStored."""
        ...


class PlanTooLarge(Exception):
    """The plan doesn't fit into one message of the bus; the text names size and limit."""


class Signals(Protocol):
    """What collectors said last."""

    async def latest(self, target: str) -> Health | None:
        """The newest stored event about *target* that the function listens to; None without one, or without a bus."""
        ...


class Story(Protocol):
    """What is told. Each call returns when the message is stored."""

    async def audit(self, correlation: str, **fields: object) -> None:
        """Append one audit record (the fields of `schemas.audit.AuditRecord`). Raises NotStored."""
        ...

    async def approval(self, correlation: str, approval: Approval) -> None:
        """Ask people to answer. Raises NotStored: a question that nobody can hear is none."""
        ...

    async def action(self, correlation: str, event: ActionEvent) -> None:
        """Tell followers. Never raises: a follower is no condition for acting."""
        ...

    async def alert(self, correlation: str, alert: Alert) -> bool:
        """Tell people; False when it could not be stored by now."""
        ...


@dataclass(frozen=True)
class Ports:
    """All that an engine stands on."""

    probes: Probes
    tools: Tools
    ledger: Ledger
    leases: Leases
    fence: Fence
    brake: Brake
    permits: Permits
    plans: Plans
    signals: Signals
    story: Story
