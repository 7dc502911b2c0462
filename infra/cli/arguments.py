"""Options that several commands share."""

from datetime import timedelta
from typing import Annotated

import typer

from schemas.units import parse_duration


def _duration(text: str) -> timedelta:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not isinstance(duration, timedelta):
        raise typer.BadParameter(f"{text!r} is no duration; write, for example, 30 min")
    return duration


Since = Annotated[
    timedelta | None,
    typer.Option(parser=_duration, metavar="DURATION", help="Only the last of this: '30 min', '2 days'."),
]
