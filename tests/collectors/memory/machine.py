"""A machine of services whose memory a test sets: units, containers and processes, behind the ports that read them."""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace

from schemas.facts.cgroups import ControlGroupMemory, HostMemory
from schemas.facts.containers import Container
from schemas.facts.processes import ProcessIdentity, ProcessMemory
from schemas.facts.units import Unit
from schemas.probes import ProbeError
from tests.fakes import GIB, START

MIB = 2**20


@dataclass
class Machine:
    """The ports, each an attribute as `Probes` has them; `broken` makes a method, a unit or a group fail."""

    _host: HostMemory = field(default_factory=lambda: HostMemory(total=16 * GIB, available=12 * GIB))
    found_units: dict[str, Unit] = field(default_factory=dict)
    groups: dict[str, ControlGroupMemory] = field(default_factory=dict)
    uncounted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """control groups that have processes and no accounting"""
    found_containers: dict[str, Container] = field(default_factory=dict)
    running_processes: dict[int, ProcessMemory] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    after_list: list = field(default_factory=list)
    """what happens between the list of units and the reading of the first of them"""

    @property
    def units(self):
        return SimpleNamespace(services=self._services, unit=self._unit)

    @property
    def memory(self):
        return SimpleNamespace(
            host=self._read_host, control_group=self._group, control_group_of=lambda pid: "/", processes=self._pids
        )

    @property
    def processes(self):
        return SimpleNamespace(memory=self._process_memory, matching=self._matching, named=self._named)

    @property
    def containers(self):
        return SimpleNamespace(running=self._running, container=self.found_containers.get)

    def unit(self, name="app.service", held=100 * MIB, *, invocation="1", cache=0, **values):
        """Start it, or change what it holds; *values* that are no property of a unit are its control group's."""
        path = f"/system.slice/{name}"
        group = {key: values.pop(key) for key in list(values) if key in ControlGroupMemory.model_fields}
        known = {"active": "active", "control_group": path, "restart_policy": "always", "memory_accounting": True}
        self.found_units[name] = Unit(name=name, invocation=invocation, **(known | values))
        self.group(path, held, cache=cache, **group)

    def group(self, path, held, *, cache=0, **values):
        values.setdefault("processes", (1000 + len(self.groups),))
        values.setdefault("out_of_memory_kills", 0)
        shared, usage = values.pop("shared", 0), values.pop("usage", held + 2 * cache)
        self.groups[path] = ControlGroupMemory(
            path=path, version=2, usage=usage, working_set=held + cache, anonymous=held - shared,
            shared=shared, **({"limit_at": path} if values.get("limit") else {}) | values,
        )  # fmt: skip

    def stop(self, name="app.service", **values):
        ended = {"active": "inactive", "control_group": "", **values}
        self.found_units[name] = self.found_units[name].model_copy(update=ended)
        self.groups.pop(f"/system.slice/{name}", None)

    def container(self, name, held, *, path=None, started=START, **values):
        path = f"/docker/{name}" if path is None else path
        group = {key: values.pop(key) for key in list(values) if key in ("limit", "limit_at", "shared")}
        self.found_containers[name] = Container(
            id=f"{name}-0123456789abcdef", name=name, started=started, pid=1, control_group=path, **values
        )
        if path:
            self.group(path, held, **group)

    def process(self, pid, command, held, *, started=500, cgroup="/user.slice", exact=True):
        self.running_processes[pid] = ProcessMemory(
            identity=ProcessIdentity(pid=pid, started=started, command=command), user=0, memory=held, cgroup=cgroup,
            exact=exact,
        )  # fmt: skip

    def host(self, **values):
        self._host = self._host.model_copy(update=values)

    def _check(self, key):
        if key in self.broken:
            raise ProbeError(self.broken[key])

    def _services(self, globs):
        self._check("services")
        found = [unit for unit in self.found_units.values() if "*.service" in globs or unit.name in globs]
        for happens in self.after_list:
            happens()
        return found

    def _unit(self, name):
        self._check("unit")
        return self.found_units.get(name)

    def _read_host(self):
        self._check("host")
        return self._host

    def _group(self, path):
        self._check(path)
        if path not in self.groups:
            raise ProbeError(f"read the control group {path}: it is gone")
        return self.groups[path]

    def _pids(self, path):
        if path in self.uncounted:
            return self.uncounted[path]
        if path in self.groups:
            return self.groups[path].processes
        raise ProbeError(f"read the control group {path}: it is gone")

    def _process_memory(self, pids):
        return [self.running_processes[pid] for pid in pids if pid in self.running_processes]

    def _matching(self, command, user=None):
        self._check("matching")
        identities = [process.identity for process in self.running_processes.values()]
        return [identity for identity in identities if re.search(command, identity.command)]

    def _named(self, names):
        self._check("named")
        return {each.identity.command: each.identity for each in self.running_processes.values()
                if each.identity.command in names}  # fmt: skip

    def _running(self):
        self._check("running")
        return list(self.found_containers.values())
