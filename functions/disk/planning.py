"""The ladder for one filesystem: which rungs, in which order, cut so that live stops just where it must. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal, NamedTuple

from functions.core.plan import LISTED, Action, Plan, Rung
from functions.core.remedy import Case
from functions.disk import notices
from functions.disk.actions import CleanPackageCache, RemoveImage, RotateLogs, VacuumJournal
from functions.disk.facts import FilesBelow, Found, Seen
from functions.disk.file_actions import COMPRESSED_SHARE, CompressLogs, RemoveFiles
from functions.disk.images import Removable, removable
from functions.disk.judgement import judged
from functions.disk.limits import Budget, portions
from schemas.facts.containers import Engine, Image
from schemas.facts.files import FileItem, Resource
from schemas.facts.journal import JournalUsage
from schemas.facts.logs import RotatedLog
from schemas.health import Level
from schemas.remediation import Finding
from schemas.settings.disk import DiskMonitoring

CALM = (
    "package_cache", "journal", "rotate_logs", "compress_logs", "delete_logs", "temp_files", "dangling_images",
)  # fmt: skip
"""What can be had again goes first, what can't goes last."""

PRESSED = (
    "package_cache", "journal", "delete_logs", "temp_files", "dangling_images", "unused_images", "rotate_logs",
    "compress_logs",
)  # fmt: skip
"""At emergency: deletions first, for compressing needs room before it makes any."""

REMOVED_AT_ONCE = 100
"""Files in one action: between two actions the engine measures, so this bounds how much too much can go."""

COMPRESS_ROOM = 1.1
"""Times the estimated copy must be available before a log is compressed."""


def plan(case: Case[DiskMonitoring], seen: Seen, found: Found) -> Plan:
    """Every candidate, rung by rung, whether needed now or not."""
    level, reason = judged(case, seen.usage, seen.resource)
    if seen.usage.read_only:
        return Plan(findings=(*found.findings, notices.read_only(seen.usage.point)), advice="it is mounted read-only")
    planner = _Planner(case, seen, found, level)
    rungs = planner.rungs()
    return Plan(
        rungs=rungs,
        findings=tuple(planner.findings()),
        advice="" if level.rank >= Level.CRITICAL.rank else f"{reason}; below critical the plan is advice",
        grace=timedelta(0) if level is Level.EMERGENCY else case.settings.grace,
    )


class _Planner:
    def __init__(self, case: Case[DiskMonitoring], seen: Seen, found: Found, level: Level) -> None:
        self._case = case
        self._settings = case.settings.auto_cleanup
        self._seen = seen
        self._found = found
        self._pressed = level is Level.EMERGENCY
        self._unit = seen.resource.value
        self._left = case.settings.excess(seen.usage, seen.resource) or 0.0
        self._room = float(seen.usage.available)
        self._budget = Budget.of(seen.usage, self._settings)
        self._notices: list[Finding] = []

    def rungs(self) -> tuple[Rung, ...]:
        rungs: list[Rung] = []
        for name in PRESSED if self._pressed else CALM:
            kind = RUNGS[name]
            if self._seen.resource is Resource.INODES and not kind.frees_inodes:
                continue
            if name in self._case.skip_rungs:
                self._notices.append(notices.rung_left_out(kind.title))
                continue
            actions = kind.actions(self)
            if not actions:
                continue
            rung = Rung(name=name, title=kind.title, actions=tuple(actions), unknown_effects=kind.unknown_effects)
            rungs.append(rung)
            self._left -= rung.exact(self._unit)
            self._room += rung.exact(Resource.BYTES.value)
        return tuple(rungs)

    def findings(self) -> Iterator[Finding]:
        found, now = self._found, self._case.now
        yield from found.findings
        yield from self._notices
        yield from notices.deleted_open(found.deleted_open)
        if found.engine is not None:
            yield from notices.volumes(found.engine)
            yield from self._image_findings(found.engine)
        yield from notices.largest(found.largest, now)
        yield from notices.container_logs(found.engine, found.largest)

    # ── one method a rung ─────────────────────────────────────────────────────────────────────────────────────────

    def package_cache(self) -> list[Action]:
        setting = self._settings.package_cache
        if setting is False:
            return []
        actions: list[Action] = []
        for cache in self._found.caches:
            gentle = setting == "auto"
            size = cache.obsolete if gentle else cache.allocated
            if not size:
                continue
            if self._settings.offline_host:
                self._notices.append(notices.cache_offline(cache))
            elif cache.held_by:
                self._notices.append(notices.cache_held(cache))
            else:
                at_most = gentle or cache.manager != "apt" or self._found.shares_blocks
                action = CleanPackageCache(
                    manager=cache.manager,
                    mode="autoclean" if gentle else "clean",
                    directory=cache.directory,
                    allocated=size,
                    files=cache.files,
                    at_most=at_most,
                )
                actions.append(action)
        return actions

    def journal(self) -> list[Action]:
        journal, size = self._found.journal, self._settings.journal_size
        if journal is None or size is False:
            return []
        keep_since = min(self._case.now - self._settings.journal_keep, journal.boot)
        freed = vacuumed(journal, size, keep_since)
        total = sum(file.allocated for file in journal.files)
        if not freed:
            if total > size:
                self._notices.append(notices.young_journal(total, size, keep_since))
            return []
        return [VacuumJournal(directory=journal.directory, size=size, keep_since=keep_since, allocated=freed)]

    def rotate_logs(self) -> list[Action]:
        configurations: dict[str, list[RotatedLog]] = {}
        for log in self._found.due_logs:
            configurations.setdefault(log.configuration, []).append(log)
        return [
            RotateLogs(
                configuration=configuration,
                logs=tuple(log.path for log in logs),
                allocated=sum(log.allocated for log in logs if log.compresses),
            )
            for configuration, logs in configurations.items()
        ]

    def compress_logs(self) -> list[Action]:
        actions: list[Action] = []
        for below in self._found.rotated_logs:
            files = self._with_room(self._affordable(below.files, "rotated logs to compress", removes=False))
            cut = portions(files, lambda file: file.allocated * (1 - COMPRESSED_SHARE), self._left, LISTED)
            actions.extend(CompressLogs(root=below.root, files=tuple(portion)) for portion in cut)
        return actions

    def delete_logs(self) -> list[Action]:
        return self._removals(self._found.old_logs, "rotated log")

    def temp_files(self) -> list[Action]:
        return self._removals(self._found.temp_files, "temporary file")

    def dangling_images(self) -> list[Action]:
        return self._image_removals(self._images.dangling) if self._settings.docker_images else []

    def unused_images(self) -> list[Action]:
        return self._image_removals(self._images.unused) if self._settings.docker_images == "unused" else []

    # ── images ────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _images(self) -> Removable:
        engine = self._found.engine
        return removable(engine, self._settings, self._case.now) if engine is not None else Removable([], [], {})

    def _image_removals(self, images: Sequence[Image]) -> list[Action]:
        engine = self._found.engine
        if engine is None:
            return []
        actions: list[Action] = []
        waiting: list[int] = []
        for image in images:
            size = max(0, image.unique)
            if size > self._budget.bytes:
                waiting.append(size)
                continue
            self._budget.bytes -= size
            actions.append(RemoveImage(engine=engine.name, image=image.id, tags=image.tags, allocated=size))
        if waiting:
            self._notices.append(notices.left_out("images", len(waiting), sum(waiting), "max_percent"))
        return actions

    def _image_findings(self, engine: Engine) -> Iterator[Finding]:
        if self._settings.docker_images:
            yield from notices.kept_images(engine, self._images)
        if self._settings.docker_images == "unused" and not self._pressed:
            yield from notices.only_at_emergency(engine, self._images)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _removals(self, found: Sequence[FilesBelow], kind: Literal["temporary file", "rotated log"]) -> list[Action]:
        actions: list[Action] = []
        need = self._left
        for below in found:
            files = self._affordable(below.files, f"{kind}s", removes=True)
            for portion in portions(files, self._worth, need, REMOVED_AT_ONCE):
                action = RemoveFiles(
                    root=below.root, files=tuple(portion), kind=kind, shares_blocks=self._found.shares_blocks
                )
                actions.append(action)
                need -= action.exact(self._unit)
        return actions

    def _worth(self, file: FileItem) -> float:
        return 1 if self._seen.resource is Resource.INODES else file.allocated

    def _affordable(self, files: Iterable[FileItem], what: str, *, removes: bool) -> list[FileItem]:
        """Those of *files* that the budget lets into this plan; for the rest there is a finding."""
        taken: list[FileItem] = []
        waiting: dict[str, list[int]] = {}
        for file in files:
            if self._budget.has(file):
                continue
            limit = self._budget.limit(file, removes)
            if limit:
                waiting.setdefault(limit, []).append(file.allocated)
            else:
                self._budget.take(file, removes)
                taken.append(file)
        for limit, sizes in waiting.items():
            self._notices.append(notices.left_out(what, len(sizes), sum(sizes), limit))
        return taken

    def _with_room(self, files: list[FileItem]) -> list[FileItem]:
        """Those whose copy surely fits beside them; at emergency the smallest first, so that each makes room."""
        fits = [file for file in files if file.allocated * COMPRESSED_SHARE * COMPRESS_ROOM <= self._room]
        if len(fits) < len(files):
            size = sum(file.allocated for file in files) - sum(file.allocated for file in fits)
            self._notices.append(notices.no_room(len(files) - len(fits), size))
        return sorted(fits, key=lambda file: file.allocated) if self._pressed else fits


def vacuumed(journal: JournalUsage, size: int, keep_since: datetime) -> int:
    """Bytes that a vacuum down to *size* removes at most: oldest files first, none with entries after *keep_since*.

    A rotation archives the active files before the vacuum, so they count like the archived ones.
    """
    total = sum(file.allocated for file in journal.files)
    freed = 0
    for file in sorted(journal.files, key=lambda file: (file.head, file.path)):
        if total - freed <= size:
            break
        if file.tail < keep_since:
            freed += file.allocated
    return freed


class RungKind(NamedTuple):
    """What a rung is called, and how its actions are made."""

    title: str
    actions: Callable[[_Planner], list[Action]]
    frees_inodes: bool = True
    unknown_effects: str = ""


RUNGS = {
    "package_cache": RungKind("Package caches", _Planner.package_cache),
    "journal": RungKind(
        "The systemd journal", _Planner.journal, frees_inodes=False,
        unknown_effects="how much the active files take again after the rotation",
    ),
    "rotate_logs": RungKind(
        "Logs that logrotate owns and finds due", _Planner.rotate_logs, frees_inodes=False,
        unknown_effects="how well they compress, which old generations logrotate drops, what its scripts do",
    ),
    "compress_logs": RungKind(
        "Rotated logs nobody owns, to compress", _Planner.compress_logs, frees_inodes=False,
        unknown_effects="how well they compress",
    ),
    "delete_logs": RungKind("Rotated logs nobody owns, to delete", _Planner.delete_logs),
    "temp_files": RungKind("Old temporary files", _Planner.temp_files),
    "dangling_images": RungKind(
        "Container images without a tag", _Planner.dangling_images,
        unknown_effects="how many inodes their layers hold, and what their children share",
    ),
    "unused_images": RungKind(
        "Container images that no container uses", _Planner.unused_images,
        unknown_effects="how many inodes their layers hold, and what becomes unshared as others go",
    ),
}  # fmt: skip
