"""Download caches of package managers: what lies in them, and cleaning them by their owner's own command."""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from functions.core.ports import ToolError
from infra.adapters.apt import Apt
from infra.adapters.cache_entries import Entry, device_of
from infra.adapters.commands import Commands
from infra.adapters.dnf import Dnf
from schemas.facts.packages import PackageCache
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain, show_path

CLEAN = 300.0
"""Seconds for a clean: 100,000 files on a slow disk."""

MODES = ("clean", "autoclean")


class Manager(Protocol):
    """One package manager. All of this only reads; trouble is raised as the error of *commands*."""

    name: str

    def directory(self, commands: Commands) -> str | None:
        """Where its downloads are; None when the manager or its cache is not on this machine."""
        ...

    def contents(self, directory: str, mode: str, commands: Commands) -> list[Entry]:
        """What a clean of this mode removes."""
        ...

    def held_by(self, directory: str, commands: Commands) -> str:
        """Who holds a lock because of which nothing may be cleaned; empty when nobody does."""
        ...

    def argv(self, mode: str) -> Sequence[str]:
        """The command for a clean of this mode. Raises ToolError when the manager knows no such mode."""
        ...


def managers(root: str, processes: str) -> tuple[Manager, ...]:
    """*root* stands before the paths of dnf and yum, apt is asked for its own; *processes* is where /proc is."""
    return Apt(processes), Dnf("dnf", root, processes), Dnf("yum", root, processes)


class Packages:
    """The package caches of this machine; reads only.

    *environment* is handed on, for instance APT_CONFIG. What is obsolete takes apt a second or more to tell: without
    *obsolete* it is not asked, and told as 0.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        root: str = "/",
        processes: str = "/proc",
        *,
        obsolete: bool = True,
    ) -> None:
        self._commands = Commands(ProbeError, dict(environment or {}))
        self._managers = managers(root, processes)
        self._obsolete = obsolete

    def caches(self) -> list[PackageCache]:
        """Every cache that is there. Raises ProbeError when one can't be read."""
        return [cache for manager in self._managers if (cache := self._cache(manager)) is not None]

    def _cache(self, manager: Manager) -> PackageCache | None:
        directory = manager.directory(self._commands)
        if directory is None:
            return None
        everything = manager.contents(directory, "clean", self._commands)
        obsolete = manager.contents(directory, "autoclean", self._commands) if self._obsolete else []
        return PackageCache(
            manager=manager.name, directory=directory, device=device_of(directory, self._commands),
            files=len(everything),
            allocated=sum(entry.allocated for entry in everything),
            obsolete=sum(entry.allocated for entry in obsolete),
            held_by=manager.held_by(directory, self._commands),
        )  # fmt: skip


class PackageCleaner:
    """Lets a package manager clean its cache; the parameters mean what they do to `Packages`."""

    def __init__(self, environment: Mapping[str, str] | None = None, root: str = "/", processes: str = "/proc") -> None:
        self._commands = Commands(ToolError, dict(environment or {}))
        self._managers = {manager.name: manager for manager in managers(root, processes)}

    def clean(self, manager: str, mode: str, directory: str) -> ItemResult:
        """Clean one cache; *mode* is clean or autoclean.

        Deferred while somebody holds a package lock, skipped when the cache lies elsewhere by now or is empty.
        What is freed is what the files that are gone took on the disk, whatever the command's exit status was.
        Raises ToolError when nothing is gone.
        """
        owner, argv = self._owner(manager, mode)
        found = owner.directory(self._commands)
        if found != directory:
            where = f"is {show_path(found)} by now" if found else "is gone"
            return _not_done(directory, Outcome.SKIPPED, f"the {manager} cache {where}")
        before = owner.contents(directory, mode, self._commands)
        if not before:
            return _not_done(directory, Outcome.SKIPPED, "nothing is left to clean")
        held_by = owner.held_by(directory, self._commands)
        if held_by:
            return _not_done(directory, Outcome.DEFERRED, f"{held_by} holds a package lock")
        completed = self._commands.run(argv, timeout=CLEAN, accept=())
        left = [entry for entry in before if os.path.lexists(entry.path)]
        why = completed.last_error or f"status {completed.status}"
        if len(left) == len(before):
            raise ToolError(f"{' '.join(argv)} removed nothing from {show_path(directory)}: {why}")
        freed = {
            "bytes": sum(entry.allocated for entry in before) - sum(entry.allocated for entry in left),
            "inodes": len(before) - len(left),
        }
        if left:
            reason = f"{len(left)} of {len(before)} files stayed: {why}"
            return ItemResult(name=directory, outcome=Outcome.PARTIAL, freed=freed, reason=reason)
        return ItemResult(name=directory, outcome=Outcome.DONE, freed=freed)

    def _owner(self, manager: str, mode: str) -> tuple[Manager, Sequence[str]]:
        owner = self._managers.get(manager)
        if owner is None:
            known = ", ".join(self._managers)
            raise ToolError(f"clean the {plain(manager)} cache: no such package manager; known are {known}")
        if mode not in MODES:
            raise ToolError(f"clean the {manager} cache: no such mode {mode!r}; known are {', '.join(MODES)}")
        return owner, owner.argv(mode)


def _not_done(directory: str, outcome: Literal[Outcome.SKIPPED, Outcome.DEFERRED], reason: str) -> ItemResult:
    return ItemResult(name=directory, outcome=outcome, reason=reason)
