"""Looking for what could be cleaned on one filesystem. Each part by itself: one that can't be read stops no other."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar

from functions.core.remedy import Case
from functions.disk import notices
from functions.disk.candidates import Keep, LogRules, LogSorter, temp_files, temp_walk
from functions.disk.facts import FilesBelow, Found, Seen
from functions.disk.judgement import judged
from functions.disk.logs import any_of
from functions.disk.planning import plan
from schemas.facts.containers import Engine
from schemas.facts.files import DeletedOpen, FileStat, LargeFile, Mount, Resource, Root
from schemas.facts.journal import JournalUsage
from schemas.facts.logs import LogRotation, RotatedLog
from schemas.facts.packages import PackageCache
from schemas.health import Level
from schemas.probes import ProbeError, Probes, Walk
from schemas.remediation import Finding
from schemas.settings.disk import DiskMonitoring
from schemas.text import show_path

LARGEST = 20
"""Files told as the largest consumers."""

CLOCK = "clock"
"""Why a walk was given up: times lie in the future, so no age below that directory can be believed."""

SUBVOLUME_TYPES = frozenset({"btrfs", "bcachefs"})
"""Filesystems whose subvolumes have device numbers of their own and share their space."""

Answer = TypeVar("Answer")


def survey(case: Case[DiskMonitoring], seen: Seen, probes: Probes) -> Found:
    """Everything on this filesystem that the settings permit to clean. Reads only; may take long on large trees."""
    return _Survey(case, seen, probes).run()


class _Survey:
    def __init__(self, case: Case[DiskMonitoring], seen: Seen, probes: Probes) -> None:
        self._case = case
        self._settings = case.settings.auto_cleanup
        self._seen = seen
        self._probes = probes
        self._level = judged(case, seen.usage, seen.resource)[0]
        self._findings: list[Finding] = []

    def run(self) -> Found:
        caches = tuple(cache for cache in self._caches() if self._holds(cache.directory, cache.device))
        journal, engine, rotation = self._journal(), self._engine(), self._rotation()
        rotated, old = self._logs(rotation)
        found = Found(
            fstype=self._mount.fstype if self._mount else "", caches=caches, journal=journal, engine=engine,
            due_logs=self._due(rotation), rotated_logs=rotated, old_logs=old, temp_files=self._temp(),
            deleted_open=self._deleted_open(),
        )  # fmt: skip
        found = found.model_copy(update={"largest": self._largest(found)})
        return found.model_copy(update={"findings": tuple(self._findings)})

    # ── each part by itself ───────────────────────────────────────────────────────────────────────────────────────

    def _look(self, what: str, read: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What *read* gives; a part that can't be read is told and counts as empty."""
        try:
            return read()
        except ProbeError as error:
            self._findings.append(notices.unreadable(what, str(error)))
            return otherwise

    def _caches(self) -> list[PackageCache]:
        if self._settings.package_cache is False:
            return []
        return self._look("package caches", self._probes.packages.caches, [])

    def _journal(self) -> JournalUsage | None:
        if self._settings.journal_size is False:
            return None
        journal = self._look("the journal", self._probes.journal.usage, None)
        return journal if journal is not None and self._holds(journal.directory, journal.device) else None

    def _engine(self) -> Engine | None:
        engine = self._look("container images", self._probes.containers.engine, None)
        return engine if engine is not None and self._holds(engine.root, engine.device) else None

    def _deleted_open(self) -> tuple[DeletedOpen, ...]:
        held: list[DeletedOpen] = self._look("deleted files still open", self._probes.files.deleted_open, [])
        return tuple(file for file in held if file.device == self._seen.usage.device)

    def _largest(self, found: Found) -> tuple[LargeFile, ...]:
        """Costly: only when a person will have to choose what goes."""
        if self._seen.resource is not Resource.BYTES or self._level is Level.OK:
            return ()
        if self._level is not Level.EMERGENCY and not plan(self._case, self._seen, found).empty:
            return ()
        point = self._seen.usage.point
        return tuple(self._look("the largest files", lambda: self._probes.files.largest(point, LARGEST), []))

    # ── where things are ──────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _mounts(self) -> dict[str, Mount]:
        mounts: list[Mount] = self._look("the mounts", self._probes.files.mounts, [])
        return {mount.point: mount for mount in mounts}

    @cached_property
    def _mount(self) -> Mount | None:
        return self._mounts.get(self._seen.usage.point)

    def _holds(self, path: str, device: int) -> bool:
        """Whether *path*, whose device number was read as *device*, takes its space from this filesystem."""
        if device == self._seen.usage.device:
            return True
        if self._mount is None or self._mount.fstype not in SUBVOLUME_TYPES:
            return False
        point = self._look(f"the mount of {show_path(path)}", lambda: self._probes.files.mount_of(path), "")
        mount = self._mounts.get(point)
        return mount is not None and mount.device == self._mount.device

    def _root(self, directory: str) -> Root | None:
        """The directory, if it can be opened and is on this filesystem."""
        root = self._look(show_path(directory), lambda: self._probes.files.root(directory), None)
        return root if root is not None and self._holds(root.path, root.device) else None

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _in_use(self) -> frozenset[tuple[int, int]] | None:
        """None when it can't be known: then no file is a candidate."""
        try:
            return self._probes.files.in_use()
        except ProbeError as error:
            self._findings.append(notices.use_unknown(str(error)))
            return None

    def _walk(self, walk: Walk) -> Iterator[FileStat]:
        """What was met before a walk failed is told and stays: each file stands for itself."""
        try:
            yield from self._probes.files.walk(walk)
        except ProbeError as error:
            self._findings.append(notices.unreadable(show_path(walk.root.path), str(error)))
        if CLOCK in walk.skipped:
            self._findings.append(notices.clock_wrong(walk))
        elif walk.skipped:
            self._findings.append(notices.passed_by(walk))

    def _keep(self, *, by_mtime: bool = False) -> Keep:
        largest = self._level is Level.EMERGENCY and self._seen.resource is Resource.BYTES
        return Keep(self._settings.max_files, largest=largest, by_mtime=by_mtime)

    def _before(self, age: timedelta | bool) -> datetime | None:
        return self._case.now - age if isinstance(age, timedelta) else None

    def _temp(self) -> tuple[FilesBelow, ...]:
        default = self._settings.temp_files_older_than
        if default is False:
            return ()
        kept = self._look("what systemd-tmpfiles keeps, so no temporary file is cleaned",
                          self._probes.files.kept_by_tmpfiles, None)  # fmt: skip
        if kept is None:
            return ()
        roots, keep = [], self._keep()
        for directory, age in self._settings.temp_directories.items():
            root = self._root(directory)
            if root is None or self._in_use is None:
                continue
            roots.append(root)
            walk = temp_walk(root, self._case.now - (age or default), self._settings.exclude + kept, self._in_use)
            empty_too = self._seen.resource is Resource.INODES
            for stat in temp_files(walk, self._walk(walk), empty_too=empty_too):
                keep.offer(len(roots) - 1, stat)
            if CLOCK in walk.skipped:
                keep.forget(len(roots) - 1)
        self._tell_left_out("temporary files", keep)
        return keep.below(roots)

    def _rotation(self) -> LogRotation | None:
        """What logrotate owns; None when that is not known, for then no log is surely nobody's."""
        unknown = LogRotation(problem="unknown")
        rotation = self._look("what logrotate owns, so no log is touched", self._probes.log_rotation.rotation, unknown)
        if rotation.problem and rotation is not unknown:
            self._findings.append(notices.unreadable("what logrotate owns, so no log is touched", rotation.problem))
        return None if rotation.problem else rotation

    def _due(self, rotation: LogRotation | None) -> tuple[RotatedLog, ...]:
        if rotation is None or not self._settings.rotate_logs:
            return ()
        due = tuple(log for log in rotation.logs if log.due and self._holds(log.path, log.device))
        if due and rotation.locked:
            self._findings.append(notices.logrotate_runs(due))
            return ()
        return due

    def _logs(self, rotation: LogRotation | None) -> tuple[tuple[FilesBelow, ...], tuple[FilesBelow, ...]]:
        settings = self._settings
        if rotation is None or (settings.logs_older_than is False and settings.delete_logs_older_than is False):
            return (), ()
        rules = LogRules(
            compress_before=self._before(settings.logs_older_than),
            delete_before=self._before(settings.delete_logs_older_than),
            owns=any_of(rotation.patterns), exclude=settings.exclude,
        )  # fmt: skip
        roots: list[Root] = []
        sorter = LogSorter(rules, compress=self._keep(by_mtime=True), delete=self._keep(by_mtime=True))
        for directory in settings.log_directories:
            root = self._root(directory)
            if root is None or self._in_use is None:
                continue
            roots.append(root)
            walk = rules.walk(root, self._in_use)
            sorter.sort(len(roots) - 1, root, self._walk(walk))
            if CLOCK in walk.skipped:
                sorter.compress.forget(len(roots) - 1)
                sorter.delete.forget(len(roots) - 1)
        if sorter.owned:
            self._findings.append(notices.owned_logs(sorter.owned, sorter.owned_bytes))
        self._tell_left_out("rotated logs to compress", sorter.compress)
        self._tell_left_out("rotated logs to delete", sorter.delete)
        return sorter.compress.below(roots), sorter.delete.below(roots)

    def _tell_left_out(self, what: str, keep: Keep) -> None:
        if keep.left_out:
            self._findings.append(notices.left_out(what, keep.left_out, keep.left_out_bytes, "max_files"))
