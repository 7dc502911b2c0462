"""Who sits at the command line, as far as that can be known."""

import getpass
import os
import re

UNAUTHENTICATED = " (unauthenticated)"


def person() -> str:
    """The user's name, behind sudo that of who called it; `somebody` for a user id without a name."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or user_name()


def user_name() -> str:
    """That of the user whose rights we have; `somebody` for a user id without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def person_token(who: str | None = None) -> str:
    """*who*, or the person here, as a token of a subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", who or person())[:63]
