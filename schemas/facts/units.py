"""Units of systemd, as `systemctl show` tells them."""

from schemas.facts.files import Fact
from schemas.text import PathText, Text

STOPPING = frozenset({"deactivating"})

STAYS_DOWN = frozenset({"", "no", "on-success", "on-watchdog", "on-abort"})
"""Restart= with which systemd does not start again what the kernel killed: systemd.service(5), its table of causes."""

KILLED, DUMPED = 2, 3
"""CLD_KILLED and CLD_DUMPED, in ExecMainCode: the exit status is a signal's number (waitid(2))."""
IN_ORDER = frozenset({1, 2, 13, 15})
"""SIGHUP, SIGINT, SIGPIPE and SIGTERM end a service in order (systemd.service(5), SuccessExitStatus=)."""


class Unit(Fact):
    """One service unit. What systemd doesn't know, or writes as `[not set]` or `infinity`, is none."""

    name: Text
    """`nginx.service`; of several names the one that systemd shows as Id"""
    aliases: tuple[Text, ...] = ()
    """its other names"""
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
    began: float | None = None
    """seconds of the monotonic clock when this run, or the attempt at it, began: it was inactive or failed before"""
    active_since: float | None = None
    """seconds of the monotonic clock when it became active"""
    active_until: float | None = None
    """seconds of the monotonic clock when it last left the active state, be it for a stop or for a failure"""
    inactive_since: float | None = None
    """seconds of the monotonic clock when it last became inactive or failed"""
    main_ended: float | None = None
    """seconds of the monotonic clock when its main process ended"""
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
    longest_run: float | None = None
    """RuntimeMaxSec=: after so long systemd ends it as failed; none for no limit"""
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
    failure_action: str = "none"
    """FailureAction=: what happens to the whole machine when it fails, like reboot"""
    job: bool = False
    """something is being done with it this moment"""
    delegated: bool = False
    """Delegate=: its cgroups are managed by itself"""
    pid_file: PathText = ""
    user: Text = ""
    slice: Text = ""
    fragment: PathText = ""
    """the unit file"""
    drop_ins: tuple[PathText, ...] = ()
    """files that change what the unit file says"""
    dependants: tuple[Text, ...] = ()
    """RequiredBy, RequisiteOf, BoundBy, ConsistsOf: those of them that run restart together with it"""
    requires: tuple[Text, ...] = ()
    """Requires, BindsTo, Requisite: without them it does not run"""
    wants: tuple[Text, ...] = ()
    """Wants, Upholds: started together with it, and may be missing"""
    conflicts: tuple[Text, ...] = ()
    """Conflicts, ConflictedBy: those of them that run are stopped when it is started"""
    sockets: tuple[Text, ...] = ()
    """TriggeredBy: sockets that start it when somebody knocks, timers and paths too"""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name by which somebody may have meant it."""
        return (self.name, *self.aliases)

    @property
    def masked(self) -> bool:
        return self.load == "masked" or self.enabled.startswith("masked")

    @property
    def running(self) -> bool:
        return self.active in {"active", "reloading", "refreshing"}

    @property
    def failed(self) -> bool:
        return self.active == "failed"

    @property
    def at_rest(self) -> bool:
        """No run of it is under way, so what is left in its control group is left over."""
        return self.active in {"inactive", "failed"} or self.restarting

    @property
    def comes_back(self) -> bool:
        """Systemd starts it again when the kernel kills it."""
        return self.restart_policy not in STAYS_DOWN

    @property
    def restarting(self) -> bool:
        """It is about to be started again by systemd itself, after RestartSec=."""
        return self.active == "activating" and self.sub.startswith("auto-restart")

    @property
    def occasional(self) -> bool:
        """It runs on an occasion, not all the time: a piece of work, what a timer starts, what was made for one run by
        systemd-run, and what serves one connection of a socket (Accept=yes).
        """
        template = self.name.partition("@")[0]
        one_connection = "@" in self.name and f"{template}.socket" in self.sockets
        timed = any(name.endswith(".timer") for name in self.sockets)
        return self.type == "oneshot" or self.enabled == "transient" or timed or one_connection

    @property
    def failed_when_stopped(self) -> bool:
        """It was stopped, by somebody or along with another unit, and did not end in order: many a Java program ends
        with status 143 on SIGTERM, and one that hangs is killed.

        For a stop it leaves the active state before its process ends. So it does when systemd ends it by itself, for
        memory or the watchdog, as the result tells, or for RuntimeMaxSec=; or when it announces its end (STOPPING=1).
        """
        began, since, until, ended = self.began, self.active_since, self.active_until, self.main_ended
        if not self.failed or began is None or since is None or until is None or ended is None:
            return False
        if self.result not in {"exit-code", "signal", "core-dump", "timeout"}:
            return False
        ran_out = self.result == "timeout" and self.longest_run is not None and until - since >= self.longest_run
        return began <= until < ended and not ran_out

    @property
    def out_of_starts(self) -> bool:
        """Given up by systemd after StartLimitBurst=: the result says so only where nothing else went wrong before."""
        if not self.failed or self.start_limit_burst <= 0 or self.start_limit_interval <= 0 or self.failed_when_stopped:
            return False
        tried = self.restart_policy != "no" and self.restarts >= self.start_limit_burst
        return self.result == "start-limit-hit" or tried

    @property
    def ended_by_itself(self) -> bool:
        """It ended in order though nobody stopped it: for a stop it leaves the active state before its process ends.

        That of a unit whose failure was cleared did not end in order.
        """
        if self.active != "inactive" or self.main_ended is None or self.active_until is None:
            return False
        in_order = self.exit_status in (IN_ORDER if self.exit_code == KILLED else {None, 0})
        return in_order and self.main_ended <= self.active_until

    @property
    def longest_restart(self) -> float | None:
        """Seconds that a restart takes at most by its own timeouts, that of a stop once for the commands, once for
        SIGTERM; none: it has no limit.
        """
        if self.stop_timeout is None or self.start_timeout is None:
            return None
        return 2 * self.stop_timeout + self.start_timeout
