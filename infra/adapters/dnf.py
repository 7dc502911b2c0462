"""The download caches of dnf 4, dnf 5 and yum 3. Reads only.

Only packages are ever cleaned: without its metadata the next operation of a manager needs the network.
Neither runs on Debian, where this is tested: the tests use small programs that reply and remove as dnf is known to;
none of them was captured from a real run.
"""

import os
import re
from collections.abc import Sequence
from configparser import ConfigParser
from configparser import Error as SettingsError

from functions.core.ports import ToolError
from infra.adapters.cache_entries import Entry, entries_below, is_directory
from infra.adapters.commands import Commands
from infra.adapters.package_locks import holder, writer
from schemas.text import plain, show_path

CACHES = {"dnf": "/var/cache/dnf", "dnf5": "/var/cache/libdnf5", "yum": "/var/cache/yum"}
"""program → where it keeps packages when its settings name no `cachedir`"""

LOCKS = ("/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock")

PROCESS_IDS = ("/run/dnf.pid", "/run/yum.pid", "/var/lib/dnf/rpmdb_lock.pid")

PROGRAMS = ("dnf", "dnf-3", "dnf5", "dnf5daemon-server", "yum", "packagekitd")


class Dnf:
    """dnf or yum; *root* stands before its paths."""

    def __init__(self, name: str, root: str, processes: str) -> None:
        self.name = name
        self._root = root
        self._processes = processes

    def directory(self, commands: Commands) -> str | None:
        binary = commands.find(self.name)
        if binary is None:
            return None
        program = os.path.basename(os.path.realpath(binary)).removesuffix("-3")
        if self.name == "yum" and program.startswith("dnf"):
            return None  # another name for dnf, told there
        directory = self._configured(program if program in CACHES else self.name, commands)
        return directory if is_directory(directory, commands) else None

    def contents(self, directory: str, mode: str, commands: Commands) -> list[Entry]:
        """Packages are in `<repository>/packages`, at whatever depth a repository is. Nothing is known as obsolete."""
        if mode == "autoclean":
            return []
        return entries_below(directory, "packages", (".rpm", ".drpm"), commands)

    def held_by(self, directory: str, commands: Commands) -> str:
        paths = [self._at(path) for path in PROCESS_IDS]
        try:
            paths += [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith("_lock.pid")]
        except OSError as error:
            raise commands.error(f"list {show_path(directory)}: {error.strerror}") from error
        running = next((found for path in paths if (found := writer(path, PROGRAMS, self._processes))), "")
        return running or holder([self._at(path) for path in LOCKS], self._processes, commands)

    def argv(self, mode: str) -> Sequence[str]:
        if mode == "autoclean":
            raise ToolError(f"{self.name} can't tell which packages can still be downloaded; set package_cache: true")
        return (self.name, mode, "packages")

    def _configured(self, program: str, commands: Commands) -> str:
        """`cachedir`, as far as it names no variables, or what the program was built with."""
        settings = self._at("/etc/yum.conf" if program == "yum" else "/etc/dnf/dnf.conf")
        parser = ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(settings, encoding="utf-8")
        except (SettingsError, OSError, UnicodeDecodeError) as error:
            reason = re.sub(r"\s+", " ", str(error))
            raise commands.error(f"read {show_path(settings)}: {plain(reason)}") from error
        fixed = parser.get("main", "cachedir", fallback="").partition("$")[0].rstrip("/")
        return self._at(fixed if fixed.startswith("/") else CACHES[program])

    def _at(self, path: str) -> str:
        return os.path.join(self._root, path.lstrip("/"))
