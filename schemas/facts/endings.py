"""How a service ended, in words. Pure."""

from signal import Signals

from schemas.facts.units import DUMPED, KILLED, Unit
from schemas.units import show_duration

EXIT_STATUSES = {
    200: ("CHDIR", "its WorkingDirectory= can't be entered"),
    201: ("NICE", "its Nice= can't be set"),
    202: ("FDS", "file descriptors can't be handed to it"),
    203: ("EXEC", "its program can't be executed: it is missing, not executable, or for another machine"),
    204: ("MEMORY", "memory ran out while it was started"),
    205: ("LIMITS", "a limit like LimitNOFILE= can't be set"),
    206: ("OOM_ADJUST", "its OOMScoreAdjust= can't be set"),
    207: ("SIGNAL_MASK", "its signals can't be set"),
    208: ("STDIN", "its StandardInput= can't be opened"),
    209: ("STDOUT", "its StandardOutput= can't be opened"),
    210: ("CHROOT", "its RootDirectory= or RootImage= can't be entered"),
    211: ("IOPRIO", "its IOSchedulingClass= can't be set"),
    212: ("TIMERSLACK", "its TimerSlackNSec= can't be set"),
    213: ("SECUREBITS", "its SecureBits= can't be set"),
    214: ("SETSCHEDULER", "its CPUSchedulingPolicy= can't be set"),
    215: ("CPUAFFINITY", "its CPUAffinity= can't be set"),
    216: ("GROUP", "its Group= doesn't exist, or can't be taken on"),
    217: ("USER", "its User= doesn't exist, or can't be taken on"),
    218: ("CAPABILITIES", "its capabilities can't be set"),
    219: ("CGROUP", "its control group can't be made"),
    220: ("SETSID", "no session can be made for it"),
    221: ("CONFIRM", "somebody refused it at the console"),
    222: ("STDERR", "its StandardError= can't be opened"),
    224: ("PAM", "PAM refused its session; look at its PAMName="),
    225: ("NETWORK", "its PrivateNetwork= can't be set up"),
    226: ("NAMESPACE", "its view of the files can't be made: a path of ReadWritePaths=, BindPaths=, … is missing"),
    227: ("NO_NEW_PRIVILEGES", "its NoNewPrivileges= can't be set"),
    228: ("SECCOMP", "its SystemCallFilter= can't be set"),
    229: ("SELINUX_CONTEXT", "its SELinuxContext= can't be set"),
    230: ("PERSONALITY", "its Personality= can't be set"),
    231: ("APPARMOR", "its AppArmorProfile= can't be set: is it loaded?"),
    232: ("ADDRESS_FAMILIES", "its RestrictAddressFamilies= can't be set"),
    233: ("RUNTIME_DIRECTORY", "its RuntimeDirectory= can't be made"),
    235: ("CHOWN", "a socket of it can't be given to its owner"),
    236: ("SMACK_PROCESS_LABEL", "its SmackProcessLabel= can't be set"),
    237: ("KEYRING", "its keyring can't be made"),
    238: ("STATE_DIRECTORY", "its StateDirectory= can't be made"),
    239: ("CACHE_DIRECTORY", "its CacheDirectory= can't be made"),
    240: ("LOGS_DIRECTORY", "its LogsDirectory= can't be made"),
    241: ("CONFIGURATION_DIRECTORY", "its ConfigurationDirectory= can't be made"),
    242: ("NUMA_POLICY", "its NUMAPolicy= can't be set"),
    243: ("CREDENTIALS", "a credential of LoadCredential= or SetCredential= can't be had"),
    244: ("BPF", "its restriction of system calls or devices can't be loaded"),
}  # fmt: skip
"""What systemd itself ends with when a service can't be set up: systemd.exec(5), "Process Exit Codes"."""

RESULTS = {
    "oom-kill": "the kernel killed it because memory ran out",
    "watchdog": "it did not answer the watchdog in time (WatchdogSec=)",
    "timeout": "starting or stopping it took longer than TimeoutStartSec= or TimeoutStopSec= permit",
    "protocol": "it did not do what its Type= promises: no main process, no pid file, or no word that it is ready",
    "resources": "systemd could not get what it takes to run it: memory, descriptors, a pid file, a session",
    "exec-condition": "its ExecCondition= was not met",
}
"""Result= as systemd writes it → in words; systemd.exec(5), $SERVICE_RESULT."""


def ending(unit: Unit) -> str:
    """Why it failed, as half a sentence."""
    if unit.result == "start-limit-hit":
        return f"it ended too often, each time in order: {_gave_up(unit)}"
    what = RESULTS.get(unit.result) or _main_process(unit)
    return f"{what}; {_gave_up(unit)}" if unit.out_of_starts else what


def _gave_up(unit: Unit) -> str:
    within = show_duration(unit.start_limit_interval)
    return (
        f"systemd started it again {unit.restarts} times and gave up, {unit.start_limit_burst} in {within} is its limit"
    )


def _main_process(unit: Unit) -> str:
    status = unit.exit_status
    if unit.exit_code in {KILLED, DUMPED} and status is not None:
        dumped = " and left a core dump" if unit.exit_code == DUMPED else ""
        return f"its main process was ended by {_signal(status)}{dumped}"
    if status in EXIT_STATUSES:
        name, meaning = EXIT_STATUSES[status]
        return f"it could not be started, status {status}/{name}: {meaning}"
    if status:
        return f"its main process ended with status {status}"
    return f"a process of it, or what is run before or after it, failed ({unit.result})"


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
