"""What a health event says, as single values: for conditions, and for the arguments of commands."""

from fnmatch import fnmatchcase

from schemas.health import Health
from schemas.settings.custom import Bounds, Condition, Scalar

OWN = "target_name"
"""A value that we add: the part of the target's name after the colon, `/srv` for `bytes:/srv`."""


def field_names(event: type[Health]) -> list[str]:
    """The fields that conditions and arguments may name. Pure."""
    return [*event.model_fields, OWN]


def values_of(target: str, event: Health | None) -> dict[str, Scalar | None]:
    """Every single value by the name of its field; lists and mappings are none. Pure.

    Without an event there is the target only. Paths are as the kernel has them, not as JSON shows them.
    """
    values: dict[str, Scalar | None] = {}
    if event is not None:
        written = event.model_dump(mode="json")
        for name in type(event).model_fields:
            value = getattr(event, name)
            if value is not None and not isinstance(value, bool | int | float | str):
                value = written[name]  # a time, for example
            if value is None or isinstance(value, bool | int | float | str):
                values[name] = value
    return values | {"target": target, OWN: target.partition(":")[2]}


def matches(conditions: dict[str, Condition], values: dict[str, Scalar | None]) -> bool | None:
    """Whether all conditions hold; None when that can't be known because a value is missing. Pure."""
    answers = [_holds(condition, values.get(name)) for name, condition in conditions.items()]
    if False in answers:
        return False
    return None if None in answers else True


def _holds(condition: Condition, value: Scalar | None) -> bool | None:
    if value is None:
        return None
    if isinstance(condition, Bounds):
        return _within(condition, value)
    wanted = condition if isinstance(condition, tuple) else (condition,)
    return any(_equals(each, value) for each in wanted)


def _within(bounds: Bounds, value: Scalar) -> bool | None:
    if isinstance(value, bool | str) or value != value:  # no number, or NaN
        return None
    return (bounds.at_least is None or value >= bounds.at_least) and (bounds.at_most is None or value <= bounds.at_most)


def _equals(wanted: Scalar, value: Scalar) -> bool:
    if isinstance(wanted, str):
        return isinstance(value, str) and fnmatchcase(value, wanted)
    return isinstance(wanted, bool) == isinstance(value, bool) and wanted == value
