"""How full a filesystem is. What may hang is asked by a child process with a deadline."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from infra.adapters.files import descriptors
from infra.adapters.files.mountinfo import mounts_at, remote
from schemas.facts.files import Mount, Usage
from schemas.probes import ProbeError
from schemas.text import show_path

DEADLINE = 5.0
"""Seconds a remote filesystem has to answer; a healthy one needs milliseconds, a hung one never answers."""

ASK = (
    "import json,os,sys\n"
    "fd=os.open(os.fsencode(sys.argv[1]),os.O_PATH|os.O_DIRECTORY|os.O_CLOEXEC)\n"
    "s=os.fstatvfs(fd)\n"
    "print(json.dumps([os.fstat(fd).st_dev,s.f_frsize,s.f_blocks,s.f_bfree,s.f_bavail,"
    "s.f_files,s.f_ffree,s.f_favail,s.f_flag]))\n"
)
"""What the child runs: isolated, without site packages, so that it starts in some 15 ms."""


class Space:
    """Asks for the usage of mount points; remembers which children still hang, so that they don't pile up."""

    def __init__(self, proc: str, deadline: float = DEADLINE, prober: Sequence[str] | None = None) -> None:
        self._proc = proc
        self._deadline = deadline
        self._prober = list(prober or (sys.executable, "-I", "-S", "-c", ASK))
        self._hung: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def usage(self, point: str) -> Usage:
        """Raises ProbeError when the mount is gone, hangs, or is none."""
        stacked = mounts_at(self._proc, point)
        if not stacked:
            raise ProbeError(f"statvfs {show_path(point)}: nothing is mounted there now")
        mount = stacked[-1]
        if mount.fstype == "autofs":
            raise ProbeError(
                f"statvfs {show_path(point)}: an autofs trigger; nothing is mounted there until it is used"
            )
        if remote(mount.fstype):
            return self._ask(mount)
        try:
            fd = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._same(fd, mount)
                stat = os.fstatvfs(fd)
                device = os.fstat(fd).st_dev
            finally:
                os.close(fd)
        except OSError as error:
            raise ProbeError(f"statvfs {show_path(point)}: {error.strerror}") from error
        return _usage(
            mount, device, stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail,
            stat.f_files, stat.f_ffree, stat.f_favail, stat.f_flag,
        )  # fmt: skip

    def _same(self, fd: int, mount: Mount) -> None:
        """A mount above may hide this one; then its path leads elsewhere."""
        try:
            seen = descriptors.mount_id(fd, self._proc)
        except FileNotFoundError:
            return  # a recorded /proc knows nothing of our descriptors
        if seen != mount.mount_id:
            raise ProbeError(f"statvfs {show_path(mount.point)}: another mount hides it")

    def _ask(self, mount: Mount) -> Usage:
        name = f"statvfs {show_path(mount.point)} ({mount.fstype} from {show_path(mount.source)})"
        with self._lock:
            earlier = self._hung.get(mount.point)
            if earlier is not None and earlier.poll() is None:
                raise ProbeError(f"{name}: still no answer to an earlier question; check the server or unmount with -l")
            self._hung.pop(mount.point, None)
        child = subprocess.Popen(
            [*self._prober, mount.point], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            answer, complaint = child.communicate(timeout=self._deadline)
        except subprocess.TimeoutExpired:
            self._abandon(mount.point, child)
            raise ProbeError(
                f"{name}: no answer within {self._deadline:g} s; check the server or unmount with -l"
            ) from None
        if child.returncode:
            last = (complaint.decode("utf-8", "replace").strip().splitlines() or [f"exit {child.returncode}"])[-1]
            raise ProbeError(f"{name}: {last}")
        try:
            figures = [int(figure) for figure in json.loads(answer)]
            return _usage(mount, *figures)
        except (ValueError, TypeError) as error:
            raise ProbeError(f"{name}: the answer {answer[:80]!r} was not understood") from error

    def _abandon(self, point: str, child: subprocess.Popen[bytes]) -> None:
        """Kill it; in an uninterruptible wait it dies only when the server answers, so nobody waits for it."""
        child.kill()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        try:
            child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            with self._lock:
                self._hung[point] = child


def _usage(
    mount: Mount, device: int, block: int, blocks: int, free: int, available: int,
    files: int, files_free: int, files_available: int, flags: Any,
) -> Usage:  # fmt: skip
    return Usage(
        point=mount.point, device=device, total=blocks * block, used=(blocks - free) * block,
        available=available * block, root_available=free * block,
        inodes_total=files, inodes_used=files - files_free, inodes_available=files_available,
        read_only=mount.read_only or bool(flags & os.ST_RDONLY),
    )  # fmt: skip
