"""This machine's probes and tools: each adapter is built, and its client imported, when it is first used."""

from collections.abc import Iterable
from functools import cached_property

from functions.core.ports import ContainerTools, FileTools, JournalTools, LogRotationTools, PackageTools
from infra.hosts.function_host import Machine
from schemas.probes import ContainerProbe, FileProbe, JournalProbe, LogRotationProbe, PackageProbe
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration


class LocalProbes:
    """Implements `schemas.probes.Probes`. *own* are directories of ours, which are never cleaned.

    *obsolete*: ask apt what autoclean would remove, which reads all its lists and takes seconds.
    """

    def __init__(self, own: Iterable[str] = (), *, obsolete: bool = False) -> None:
        self._own = tuple(own)
        self._obsolete = obsolete

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

        return Containers()


class LocalTools:
    """Implements `functions.core.ports.Tools`. *own* as for `LocalProbes`."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = tuple(own)

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


def own_directories(configuration: Configuration) -> tuple[str, ...]:
    """Where our state is: the embedded server's store, the spool, the collectors' memory."""
    bus = configuration.bus
    return tuple(map(str, (state_directory(), bus.embedded.directory, bus.spool.directory)))


def probes_of(configuration: Configuration) -> LocalProbes:
    """What may be read on this machine."""
    obsolete = configuration.disk_monitoring.auto_cleanup.package_cache == "auto"
    return LocalProbes(own_directories(configuration), obsolete=obsolete)


def machine_of(configuration: Configuration, host: str) -> Machine:
    """What the functions of this machine, called *host*, may read and change."""
    return Machine(host, probes_of(configuration), LocalTools(own_directories(configuration)))
