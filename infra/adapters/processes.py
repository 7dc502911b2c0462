"""Processes: what memory they hold and where, which of them listen, and which signals they take."""

import contextlib
import os
import pwd
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

import psutil

from infra.adapters.cgroup_trees import ROOT, Tree, memory_tree
from infra.adapters.process_files import PROC, ProcessFiles, own_line, process_files, signal_named
from schemas.facts.processes import Listener, MemoryMapping, ProcessIdentity, ProcessMemory
from schemas.probes import ProbeError
from schemas.text import plain

LARGEST = 50 * 10**9
"""Bytes of resident set above which page tables are not walked: that takes seconds, and holds the process up."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SEARCHED = 8192
"""Characters of a command line, from both its ends, in which an expression is searched for: with a long one of the
wrong kind that takes for ever, and nothing else happens meanwhile."""
_NAME_LENGTH = 15
"""Bytes of a program's name that the kernel keeps (TASK_COMM_LEN, less the zero)."""

Answer = TypeVar("Answer")


class Processes:
    """Implements `schemas.probes.ProcessProbe`. *root* is where control groups are mounted."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root

    def memory(self, pids: Collection[int]) -> list[ProcessMemory]:
        tree = self._tree()
        found = (_of(pid, lambda files: _memory(files, tree)) for pid in dict.fromkeys(pids))
        return [memory for memory in found if memory is not None]

    def matching(self, command: str, user: str | None = None) -> list[ProcessIdentity]:
        """The oldest first; neither ourselves nor our parents. Raises ProbeError for no expression, or no user."""
        try:
            expression = re.compile(command)
        except re.error as error:
            raise ProbeError(f"find processes by {plain(command)!r}: no regular expression: {error}") from error
        wanted = _user_id(user) if user is not None else None

        def match(files: ProcessFiles) -> ProcessIdentity | None:
            if not expression.search(_ends(" ".join(files.arguments()))):
                return None
            return files.identity() if wanted is None or files.user() == wanted else None

        ours = own_line()
        found = (_of(pid, match) for pid in psutil.pids() if pid not in ours)
        return sorted((each for each in found if each is not None), key=lambda each: (each.started, each.pid))

    def identity(self, pid: int) -> ProcessIdentity | None:
        """None also for one that ended and only waits for its parent to notice."""
        return _of(pid, ProcessFiles.identity)

    def mappings(self, pid: int, count: int) -> list[MemoryMapping]:
        try:
            with process_files(pid) as files:
                resident, _ = _resident(files)
                if resident > LARGEST:
                    raise ProbeError(f"read mappings of process {pid}: {resident} bytes take too long to look through")
                sizes = mapped(map(os.fsdecode, files.lines("smaps")))
        except OSError as error:
            raise _unread(f"mappings of process {pid}", error) from error
        largest = sorted(sizes.items(), key=lambda size: (-size[1], size[0]))[:count]
        return [MemoryMapping(pid=pid, name=name, memory=size) for name, size in largest]

    def listeners(self, ports: Collection[int]) -> list[Listener]:
        """Those in our network namespace. A holder that can't be looked into, for it is not ours, is left out."""
        if not ports:
            return []
        tree = self._tree()
        sockets: dict[tuple[str, int], set[str]] = {}
        for socket in psutil.net_connections(kind="tcp"):
            if socket.status != psutil.CONN_LISTEN or not socket.laddr:
                continue
            host, port = socket.laddr
            if port in ports:
                links = sockets.setdefault((_address(host, port), port), set())
                links.update(_socket_link(socket.pid, socket.fd))
        holders = _holders(set().union(*sockets.values()), tree) if sockets else {}
        found = []
        for (address, port), links in sorted(sockets.items(), key=lambda item: (item[0][1], item[0][0])):
            held = sorted({pid: each for link in links for pid, each in holders.get(link, {}).items()}.items())
            found.append(
                Listener(
                    protocol="tcp", address=address, port=port,
                    holders=tuple(identity for _, (identity, _) in held), cgroups=tuple(path for _, (_, path) in held),
                )
            )  # fmt: skip
        return found

    def handles(self, pid: int, signal: str) -> bool:
        number = signal_named(signal)
        if number is None:
            raise ProbeError(f"ask whether process {pid} handles {plain(signal)}: there is no such signal")
        try:
            with process_files(pid) as files:
                return files.handles(number)
        except OSError as error:
            raise _unread(f"signals of process {pid}", error) from error

    def named(self, names: Collection[str]) -> dict[str, ProcessIdentity]:
        wanted = {os.fsdecode(os.fsencode(name)[:_NAME_LENGTH]): name for name in names}
        found: dict[str, ProcessIdentity] = {}

        def note(files: ProcessFiles) -> None:
            name = wanted.get(files.name())
            if name is not None and name not in found:
                found[name] = files.identity()

        for pid in psutil.pids():
            _of(pid, note)
        return found

    def _tree(self) -> Tree | None:
        """None where no control groups are: then processes are told without them."""
        with contextlib.suppress(ProbeError):
            return memory_tree(self._root, PROC)
        return None


def _of(pid: int, read: Callable[[ProcessFiles], Answer]) -> Answer | None:
    """None when it ended by now, or is not ours to look at."""
    try:
        with process_files(pid) as files:
            return read(files)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _ends(line: str) -> str:
    """Where programs and what they are for are named, of a line however long."""
    return line if len(line) <= _SEARCHED else f"{line[: _SEARCHED // 2]} {line[-_SEARCHED // 2 :]}"


def _unread(what: str, error: OSError) -> ProbeError:
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return ProbeError(f"read {what}: it ended")
    return ProbeError(f"read {what}: {error.strerror}; run as root, or with CAP_SYS_PTRACE")


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _memory(files: ProcessFiles, tree: Tree | None) -> ProcessMemory:
    resident, private = _resident(files)
    exact = _proportional(files) if resident <= LARGEST else None
    return ProcessMemory(
        identity=files.identity(),
        user=files.user(),
        memory=private if exact is None else exact,
        exact=exact is not None,
        cgroup=_cgroup(files, tree),
        threads=files.stat().threads,
        descriptors=_descriptors(files),
    )


def _cgroup(files: ProcessFiles, tree: Tree | None) -> str:
    path = tree.path_in(os.fsdecode(files.read("cgroup"))) if tree is not None else None
    return path or ""


def _resident(files: ProcessFiles) -> tuple[int, int]:
    """Bytes of the resident set, and those of it that are not shared. Both 0 for a process of the kernel."""
    _, resident, shared, *_ = map(int, files.read("statm").split())
    return resident * _PAGE, (resident - shared) * _PAGE


def _proportional(files: ProcessFiles) -> int | None:
    """Pss_Anon and SwapPss; None where the kernel does not tell them (before 5.4), or not us.

    Raises ProcessLookupError when the process has no memory any more.
    """
    try:
        told = files.read("smaps_rollup")
    except (FileNotFoundError, PermissionError):
        return None
    sizes = {name: int(size) * 1024 for name, size in re.findall(rb"^(\w+): +(\d+) kB$", told, re.MULTILINE)}
    if b"Pss_Anon" not in sizes:
        return None
    return sizes[b"Pss_Anon"] + sizes.get(b"SwapPss", 0)


def _descriptors(files: ProcessFiles) -> int | None:
    with contextlib.suppress(PermissionError):
        return len(_listed(files, "fd"))
    return None


_REGION = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)\n?$")
_SIZE = re.compile(r"^(?:Pss|SwapPss): +(\d+) kB\n?$")


def mapped(smaps: Iterable[str]) -> dict[str, int]:
    """Name → bytes, PSS and swapped PSS, of the lines of /proc/<pid>/smaps. Pure."""
    sizes: dict[str, int] = {}
    name = ""
    for line in smaps:
        if region := _REGION.match(line):
            name = region[1].replace("\\012", "\n") or "[anon]"
        elif size := _SIZE.match(line):
            sizes[name] = sizes.get(name, 0) + int(size[1]) * 1024
    return sizes


def _user_id(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ProbeError(f"find processes of {plain(name)}: there is no such user on this host") from None


# ── who listens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket_link(pid: int | None, fd: int) -> Iterator[str]:
    """`socket:[4711]`, by which all who hold the same socket are known: forked workers share it."""
    if pid is not None:
        with contextlib.suppress(OSError):
            yield os.readlink(f"{PROC}/{pid}/fd/{fd}")


Holders = dict[str, dict[int, tuple[ProcessIdentity, str]]]
"""Link of a socket → pid → who that is, and its control group."""


def _holders(links: Collection[str], tree: Tree | None) -> Holders:
    holders: Holders = {}

    def note(files: ProcessFiles) -> None:
        for link in _links(files) & set(links):
            holders.setdefault(link, {})[files.pid] = (files.identity(), _cgroup(files, tree))

    for pid in psutil.pids():
        _of(pid, note)
    return holders


def _links(files: ProcessFiles) -> set[str]:
    found = set()
    for name in _listed(files, "fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(f"fd/{name}", dir_fd=files.fd))
    return found


def _listed(files: ProcessFiles, name: str) -> list[str]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=files.fd)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
