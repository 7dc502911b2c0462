"""What `systemctl show` prints, read into facts. Pure."""

import re
import shlex
from collections.abc import Iterator, Mapping

from schemas.facts.units import Unit
from schemas.units import LONGEST_DURATION

_TEXTS = {
    "name": "Id", "description": "Description", "load": "LoadState", "active": "ActiveState", "sub": "SubState",
    "enabled": "UnitFileState", "type": "Type", "result": "Result", "control_group": "ControlGroup",
    "invocation": "InvocationID", "restart_policy": "Restart", "oom_policy": "OOMPolicy", "pid_file": "PIDFile",
    "user": "User", "slice": "Slice", "fragment": "FragmentPath", "failure_action": "FailureAction",
}  # fmt: skip
_FLAGS = {
    "memory_accounting": "MemoryAccounting", "can_start": "CanStart", "can_stop": "CanStop", "can_reload": "CanReload",
    "refuses_manual_start": "RefuseManualStart", "refuses_manual_stop": "RefuseManualStop",
    "reload_needed": "NeedDaemonReload", "delegated": "Delegate",
}  # fmt: skip
_COUNTS = {"restarts": "NRestarts", "start_limit_burst": "StartLimitBurst"}
_SIZES = {"memory_current": "MemoryCurrent", "memory_high": "MemoryHigh", "memory_max": "MemoryMax"}
_MOMENTS = {
    "began": "InactiveExitTimestampMonotonic",
    "active_since": "ActiveEnterTimestampMonotonic", "active_until": "ActiveExitTimestampMonotonic",
    "inactive_since": "InactiveEnterTimestampMonotonic", "main_ended": "ExecMainExitTimestampMonotonic",
}  # fmt: skip
_TIMEOUTS = {
    "stop_timeout": "TimeoutStopUSec", "start_timeout": "TimeoutStartUSec", "longest_run": "RuntimeMaxUSec",
}  # fmt: skip
_INTERVALS = {"restart_delay": "RestartUSec", "start_limit_interval": "StartLimitIntervalUSec"}
_LISTS = {
    # to whom systemd hands a restart on (unit-dependency-atom.c, PROPAGATE_RESTART)
    "dependants": ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf"),
    "requires": ("Requires", "BindsTo", "Requisite"), "wants": ("Wants", "Upholds"),
    "conflicts": ("Conflicts", "ConflictedBy"), "sockets": ("TriggeredBy",), "drop_ins": ("DropInPaths",),
}  # fmt: skip

PROPERTIES = (
    *_TEXTS.values(), *_FLAGS.values(), *_COUNTS.values(), *_SIZES.values(), *_MOMENTS.values(),
    *_TIMEOUTS.values(), *_INTERVALS.values(), *(key for keys in _LISTS.values() for key in keys),
    "Names", "ExecMainCode", "ExecMainStatus", "MainPID", "Job",
)  # fmt: skip
"""Asked for in one go. Those that a kind of unit, or an older systemd, has not are left out of its answer."""

FOREVER = LONGEST_DURATION.total_seconds()
"""Stands for an interval that is infinity."""

_SUFFIXES = "service|socket|device|mount|automount|swap|target|path|timer|slice|scope"
_NAME = re.compile(rf"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]+)?\.({_SUFFIXES})", re.ASCII)
"""Names of units, without those of templates (unit-name.c)."""

_GLOB = re.compile(r"[A-Za-z0-9:_.\\@*?\[\]!^-]*[*?\[][A-Za-z0-9:_.\\@*?\[\]!^-]*", re.ASCII)
_LONGEST_NAME = 255  # UNIT_NAME_MAX

_NOTHING = re.compile(r"|infinity|\[.*\]|n/a|18446744073709551615")
"""How "not set", "no data" and "no limit" are printed; the number is 2^64 - 1, what C keeps for it."""

_SECONDS = {
    "y": 31_557_600.0, "year": 31_557_600.0, "years": 31_557_600.0,  # 365.25 days
    "month": 2_629_800.0, "months": 2_629_800.0,  # a twelfth of that
    "w": 604_800.0, "week": 604_800.0, "weeks": 604_800.0, "d": 86_400.0, "day": 86_400.0, "days": 86_400.0,
    "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "": 1.0,
}  # fmt: skip
"""Units of format_timespan (time-util.c), longest first; a 0 has none."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([a-zμ]*)", re.ASCII)


def is_name(text: str) -> bool:
    """Whether it names one unit. systemctl takes globs, job numbers and templates as well, which must not reach it."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def is_glob(text: str) -> bool:
    """Whether names of units can match it as a glob that is no name itself."""
    return len(text) <= _LONGEST_NAME and _GLOB.fullmatch(text) is not None


def units_in(text: str) -> list[Unit]:
    """Every unit of the output, each once, however many of its names were asked for.

    Those that systemd found no file for are left out, unless they run or have failed. Raises ValueError.
    """
    units = {unit.name: unit for unit in map(_unit, _records(text))}
    return [unit for unit in units.values() if unit.load != "not-found" or unit.active != "inactive"]


def _records(text: str) -> Iterator[dict[str, str]]:
    """One unit's properties after the other; systemctl sets them apart by empty lines."""
    for record in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in record.split("\n") if "=" in line)
        if fields:
            yield fields


def _unit(fields: Mapping[str, str]) -> Unit:
    """What was not printed, or is not set, stays as `Unit` has it. Raises ValueError when it is no unit, or unread."""
    if not is_name(fields.get("Id", "")):
        raise ValueError(f"Id={fields.get('Id', '')!r} names no unit")
    ended = _number(fields, "ExecMainCode") or None
    return Unit.model_validate(
        {
            **{name: fields[key] for name, key in _TEXTS.items() if key in fields},
            **{name: fields[key] == "yes" for name, key in _FLAGS.items() if _is_set(fields, key)},
            **{name: _number(fields, key) for name, key in _COUNTS.items() if _is_set(fields, key)},
            **{name: _number(fields, key) for name, key in _SIZES.items()},
            **{name: _moment(fields, key) for name, key in _MOMENTS.items()},
            **{name: _seconds(fields, key) for name, key in _TIMEOUTS.items() if key in fields},
            **{name: _interval(fields, key) for name, key in _INTERVALS.items() if _is_set(fields, key)},
            **{name: _names(fields, keys) for name, keys in _LISTS.items()},
            "aliases": tuple(name for name in _names(fields, ("Names",)) if name != fields["Id"]),
            "exit_code": ended,
            "exit_status": _number(fields, "ExecMainStatus") if ended else None,
            "main_pid": _number(fields, "MainPID") or None,
            "job": fields.get("Job", "") not in {"", "0"},
        }
    )


def _is_set(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "") != "" and not fields[key].startswith("[")


def _number(fields: Mapping[str, str], key: str) -> int | None:
    text = fields.get(key, "")
    if _NOTHING.fullmatch(text):
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{key}={text!r} is no number")
    return int(text)


def _moment(fields: Mapping[str, str], key: str) -> float | None:
    """Seconds; 0 microseconds stand for "never"."""
    microseconds = _number(fields, key)
    return microseconds / 1e6 if microseconds else None


def _seconds(fields: Mapping[str, str], key: str) -> float | None:
    """`1min 30.500000s`, `1month 3d 1.500ms`, `0`; none for infinity."""
    text = fields.get(key, "")
    if _NOTHING.fullmatch(text):
        return None
    total = 0.0
    for part in text.split():
        match = _SPAN.fullmatch(part)
        if match is None or match[2] not in _SECONDS:
            raise ValueError(f"{key}={text!r} is no length of time")
        total += float(match[1]) * _SECONDS[match[2]]
    return total


def _interval(fields: Mapping[str, str], key: str) -> float:
    seconds = _seconds(fields, key)
    return FOREVER if seconds is None else seconds


def _names(fields: Mapping[str, str], keys: tuple[str, ...]) -> tuple[str, ...]:
    """All lists in one, each name once. A name with a backslash is quoted as for a shell."""
    names: dict[str, None] = {}
    for key in keys:
        text = fields.get(key, "")
        names |= dict.fromkeys(shlex.split(text) if '"' in text else text.split())
    return tuple(names)
