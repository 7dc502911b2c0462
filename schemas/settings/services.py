"""The `service_monitoring` section: which units must run, and what may be done to bring one back."""

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.settings.base import Settings
from schemas.settings.custom import Arguments
from schemas.units import Duration

PROTECTED_UNITS = (
    "systemd-*", "init.scope", "-.slice", "dbus*.service", "ssh.service", "sshd*.service", "ssh@*.service",
    "getty@*", "serial-getty@*", "user@*", "user-runtime-dir@*", "console-getty*", "emergency.service",
    "rescue.service", "NetworkManager.service", "networking.service", "ifup@*", "polkit.service",
    "docker.service", "containerd.service", "podman.service", "crio.service", "kubelet.service", "k3s*.service",
    "libvirtd.service", "virtqemud.service", "pacemaker*.service", "corosync*.service",
    "nats*.service", "ansai*.service",
)  # fmt: skip
"""Globs: without these nobody gets in, the machine or its workloads go down, or we do; or they keep a node out of its
cluster for a reason. Always added to the user's.
"""


def _unit_glob(glob: str) -> str:
    """A name without a suffix is a service, as for systemctl."""
    if not glob or "/" in glob or any(char.isspace() for char in glob):
        raise ValueError(f"{glob!r} is no name or glob of a unit, like nginx.service or app@*.service")
    known = (".service", ".socket", ".slice", ".scope", "*")
    return glob if glob.endswith(known) else f"{glob}.service"


UnitGlob = Annotated[str, AfterValidator(_unit_glob)]


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is no absolute path")
    return path


Port = Annotated[int, Field(ge=1, le=65535)]


class UnitSettings(Settings):
    """What is known of one unit, or of all that a glob matches."""

    restart: bool | None = Field(None, description="May it be restarted? Left out: as service_monitoring.restart says.")
    check: Arguments | None = Field(
        None, description="Configuration check before a restart: status 0 is fine. Known ones (nginx, …) are built in."
    )
    stale_files: tuple[Annotated[str, AfterValidator(_absolute)], ...] = Field(
        (), description="Pid and lock files that a crash leaves behind, besides the unit's PIDFile."
    )
    ports: tuple[Port, ...] = Field((), description="Ports it listens on: a stale process of the same unit is ended.")


class ServiceMonitoring(Settings):
    """Services that crash, flap or will not start, and how to bring them back."""

    units: tuple[UnitGlob, ...] = Field(("*.service",), description="Globs of the units that are watched.")
    ignore: tuple[UnitGlob, ...] = Field((), description="Globs of units that are not.")
    protected: tuple[UnitGlob, ...] = Field(
        (), description="Globs of units that are watched and never touched, besides those built in."
    )
    restart: bool = Field(True, description="Units may be restarted, unless one says otherwise.")
    services: dict[UnitGlob, UnitSettings] = Field({}, description="Glob → what is known of such units.")
    every: Duration = Field(timedelta(seconds=15), description="Between two reads.")
    steady_every: Duration = Field(timedelta(minutes=5), description="Between two events of an unchanged unit.")
    read_timeout: Duration = Field(timedelta(seconds=10), description="A read that takes longer is told as unknown.")
    settle: Duration = Field(
        timedelta(seconds=30), description="systemd's own Restart= gets this long before we say a word."
    )
    flap_restarts: int = Field(3, ge=1, description="So many restarts by systemd within flap_within: it flaps.")
    flap_within: Duration = Field(timedelta(minutes=10), description="For counting those restarts.")
    stable_for: Duration = Field(timedelta(seconds=60), description="Running for so long means it is back.")
    stop_grace: Duration = Field(
        timedelta(seconds=10), description="Between SIGTERM and SIGKILL for a stale process of the unit."
    )

    # Each asks with all names of one unit: people write mysql where systemd says mariadb.

    def of(self, *names: str) -> UnitSettings:
        """What is known of a unit: of the globs that match, the longest gives all. Pure."""
        matching = [glob for glob in self.services if _any_matches(names, (glob,))]
        return self.services[max(matching, key=len)] if matching else UnitSettings()

    def watches(self, *names: str) -> bool:
        return _any_matches(names, self.units) and not _any_matches(names, self.ignore)

    def protects(self, *names: str) -> bool:
        """Whether it may be told about only, whatever else is said of it."""
        return _any_matches(names, PROTECTED_UNITS) or _any_matches(names, self.protected)

    def may_restart(self, *names: str) -> bool:
        own = self.of(*names).restart
        return self.restart if own is None else own


def _any_matches(names: tuple[str, ...], globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for name in names for glob in globs)
