"""This machine's probes and tools: each adapter is built, and its client imported, when it is first used."""

from collections.abc import Iterable, MutableMapping
from datetime import datetime
from functools import cached_property

from functions.core.ports import (
    CommandTools,
    ContainerTools,
    ControlGroupTools,
    FileTools,
    JournalTools,
    LogRotationTools,
    PackageTools,
    ProcessTools,
    UnitTools,
)
from infra.hosts.function_host import Machine
from schemas.probes import (
    CommandProbe,
    ContainerProbe,
    FileProbe,
    JournalProbe,
    LogRotationProbe,
    MemoryProbe,
    PackageProbe,
    ProcessProbe,
    UnitProbe,
)
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration

Runs = MutableMapping[tuple[str, str], datetime]
"""(function, target) → when its latest command ended: what the tools of a machine tell its probes."""

CGROUP_ROOT = "/sys/fs/cgroup"


class LocalProbes:
    """Implements `schemas.probes.Probes`. *own* are directories of ours, which are never cleaned.

    *obsolete*: ask apt what autoclean would remove, which reads all its lists and takes seconds. *runs*: those of
    the tools beside it; without tools nothing runs. *cgroup_root*: where control groups are mounted.
    """

    def __init__(
        self,
        own: Iterable[str] = (),
        *,
        obsolete: bool = False,
        runs: Runs | None = None,
        cgroup_root: str = CGROUP_ROOT,
    ) -> None:
        self._own = tuple(own)
        self._obsolete = obsolete
        self._runs = runs if runs is not None else {}
        self._cgroup_root = cgroup_root

    @cached_property
    def files(self) -> FileProbe:
        from infra.adapters.files.machine import MachineFiles

        return MachineFiles(own=self._own)

    @cached_property
    def packages(self) -> PackageProbe:
        from infra.adapters.packages import Packages

        return Packages(obsolete=self._obsolete)

    @cached_property
    def journal(self) -> JournalProbe:
        from infra.adapters.journal import Journal

        return Journal()

    @cached_property
    def log_rotation(self) -> LogRotationProbe:
        from infra.adapters.log_rotation import LogRotationReader

        return LogRotationReader()

    @cached_property
    def containers(self) -> ContainerProbe:
        from infra.adapters.containers import Containers

        return Containers(groups=self.memory)

    @cached_property
    def commands(self) -> CommandProbe:
        from infra.adapters.custom_commands import CustomChecks

        return CustomChecks(self._runs)

    @cached_property
    def units(self) -> UnitProbe:
        from infra.adapters.systemd import Systemd

        return Systemd()

    @cached_property
    def memory(self) -> MemoryProbe:
        from infra.adapters.cgroups import ControlGroups

        return ControlGroups(self._cgroup_root)

    @cached_property
    def processes(self) -> ProcessProbe:
        from infra.adapters.processes import Processes

        return Processes(self._cgroup_root)


class LocalTools:
    """Implements `functions.core.ports.Tools`. *own*, *runs* and *cgroup_root* as for `LocalProbes`."""

    def __init__(self, own: Iterable[str] = (), *, runs: Runs | None = None, cgroup_root: str = CGROUP_ROOT) -> None:
        self._own = tuple(own)
        self._runs = runs if runs is not None else {}
        self._cgroup_root = cgroup_root

    @cached_property
    def files(self) -> FileTools:
        from infra.adapters.files.tools import MachineFileTools

        return MachineFileTools(own=self._own)

    @cached_property
    def packages(self) -> PackageTools:
        from infra.adapters.packages import PackageCleaner

        return PackageCleaner()

    @cached_property
    def journal(self) -> JournalTools:
        from infra.adapters.journal import JournalVacuum

        return JournalVacuum()

    @cached_property
    def log_rotation(self) -> LogRotationTools:
        from infra.adapters.log_rotation import LogRotator

        return LogRotator()

    @cached_property
    def containers(self) -> ContainerTools:
        from infra.adapters.containers import ContainerCleaner

        return ContainerCleaner()

    @cached_property
    def commands(self) -> CommandTools:
        from infra.adapters.custom_commands import CustomCommands

        return CustomCommands(self._runs)

    @cached_property
    def units(self) -> UnitTools:
        from infra.adapters.systemd import SystemdTools

        return SystemdTools(control_groups=self._cgroup_root)

    @cached_property
    def processes(self) -> ProcessTools:
        from infra.adapters.process_signals import ProcessSignals

        return ProcessSignals()

    @cached_property
    def control_groups(self) -> ControlGroupTools:
        from infra.adapters.cgroups import ControlGroupWriter

        return ControlGroupWriter(self._cgroup_root)


def own_directories(configuration: Configuration) -> tuple[str, ...]:
    """Where our state is: the embedded server's store, the spool, the collectors' memory."""
    bus = configuration.bus
    return tuple(map(str, (state_directory(), bus.embedded.directory, bus.spool.directory)))


def probes_of(configuration: Configuration, runs: Runs | None = None) -> LocalProbes:
    """What may be read on this machine."""
    obsolete = configuration.disk_monitoring.auto_cleanup.package_cache == "auto"
    groups = configuration.memory_monitoring.cgroup_root
    return LocalProbes(own_directories(configuration), obsolete=obsolete, runs=runs, cgroup_root=groups)


def machine_of(configuration: Configuration, host: str) -> Machine:
    """What the functions of this machine, called *host*, may read and change."""
    runs: Runs = {}
    groups = configuration.memory_monitoring.cgroup_root
    tools = LocalTools(own_directories(configuration), runs=runs, cgroup_root=groups)
    return Machine(host, probes_of(configuration, runs), tools)
