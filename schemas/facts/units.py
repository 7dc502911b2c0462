"""Units of systemd, as `systemctl show` tells them."""

from schemas.facts.files import Fact
from schemas.text import PathText, Text

STOPPING = frozenset({"deactivating"})


class Unit(Fact):
    """One service unit. What systemd doesn't know, or writes as `[not set]` or `infinity`, is none."""

    name: Text
    """`nginx.service`; of several names the one that systemd shows as Id"""
    description: Text = ""
    load: str = "loaded"
    """loaded, not-found, masked, error, …"""
    active: str = "inactive"
    """active, reloading, inactive, failed, activating, deactivating"""
    sub: str = ""
    """running, exited, dead, failed, auto-restart, …"""
    enabled: str = ""
    """UnitFileState: enabled, disabled, static, masked, masked-runtime, …"""
    type: str = ""
    """simple, exec, forking, oneshot, notify, dbus, idle"""
    result: str = "success"
    """how it ended: exit-code, signal, core-dump, oom-kill, watchdog, start-limit-hit, timeout, resources, …"""
    exit_code: int | None = None
    """code by which the kernel tells how the main process ended (CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3)"""
    exit_status: int | None = None
    main_pid: int | None = None
    control_group: PathText = ""
    invocation: str = ""
    """id of this run of the unit; another one after each start"""
    restarts: int = 0
    """by systemd's own Restart=, since it was last started by somebody"""
    active_since: float | None = None
    """seconds of the monotonic clock when it became active"""
    inactive_since: float | None = None
    """seconds of the monotonic clock when it left the active state"""
    restart_policy: str = "no"
    """Restart="""
    restart_delay: float = 0.1
    """seconds, RestartSec="""
    start_limit_burst: int = 5
    start_limit_interval: float = 10.0
    """seconds; so many starts within it, and systemd refuses the next"""
    stop_timeout: float | None = 90.0
    """seconds; none for no limit"""
    start_timeout: float | None = 90.0
    memory_current: int | None = None
    memory_high: int | None = None
    memory_max: int | None = None
    """as configured; the limits of slices above are not in it"""
    memory_accounting: bool = True
    oom_policy: str = ""
    can_start: bool = True
    can_stop: bool = True
    can_reload: bool = False
    refuses_manual_start: bool = False
    refuses_manual_stop: bool = False
    reload_needed: bool = False
    """its file changed on disk: a restart would apply the change"""
    job: bool = False
    """something is being done with it this moment"""
    delegated: bool = False
    """Delegate=: its cgroups are managed by itself"""
    pid_file: PathText = ""
    user: Text = ""
    slice: Text = ""
    fragment: PathText = ""
    """the unit file"""
    dependants: tuple[Text, ...] = ()
    """RequiredBy, BoundBy, ConsistsOf: they stop, and start, together with it"""
    requires: tuple[Text, ...] = ()
    """Requires, BindsTo, Requisite: without them it does not run"""
    sockets: tuple[Text, ...] = ()
    """TriggeredBy: units that start it when somebody knocks"""

    @property
    def masked(self) -> bool:
        return self.load == "masked" or self.enabled.startswith("masked")

    @property
    def running(self) -> bool:
        return self.active in {"active", "reloading"}

    @property
    def failed(self) -> bool:
        return self.active == "failed"
