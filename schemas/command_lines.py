"""Command lines as they may be shown: what looks like a secret in them is not. Pure."""

import re
from collections.abc import Sequence

from schemas.text import plain

LONGEST = 200
"""Characters kept of a command line; the rest is cut and the cut is shown."""

_LOOKED_AT = 1000
"""Characters of all arguments together in which secrets are looked for, since no more are shown: in a word of many
thousands, which any user may give to a program, that would take minutes."""

_NAME = (
    r"(?:[\w.\-]*(?:pass|pwd|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|authorization|bearer"
    r"|cookie|signature)[\w.\-]*+|(?:-D|[\w.\-]*[-_.])?(?:key|auth|sig|jwt|otp|pin|session)\d*+)"
)
"""What names a secret. That it takes in a few harmless ones costs a shown value."""

_VALUE = re.compile(
    rf"((?<![\w.\-]){_NAME}[\"']?\s*[:=]\s*|(?:^|\s)-{{1,2}}{_NAME}\s+|\b(?:bearer|basic)\s+).+",
    re.IGNORECASE | re.DOTALL,
)
"""`--token=…`, `-Ddb.password=…`, `Authorization: …`, `?key=…`, `Bearer …`, and `--token …` within one argument"""

_OPTION = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(\w://)\S*@")
"""A password may hold what has to be escaped there, slashes too."""
_CUT_URL = re.compile(r"(\w://)\S*$")
"""Where it is cut, what came may have been a password."""

_KNOWN = re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|eyJ[\w\-]+\.eyJ)[\w.\-]+")
"""Tokens that are known by how they begin: of GitHub, GitLab, Slack, OpenAI and Stripe, and JSON web tokens."""

_USER = re.compile(r"(-u|--(?:proxy-)?user)(=?)([^\s:]*:)?.*", re.DOTALL)

_SHORT = (
    (re.compile(r"(?:mysql|mariadb)[\w\-]*|mytop|sshpass|7z[ar]?|mongo\w*|smbget"), "-p"),
    (re.compile(r"(?:redis|valkey|keydb)-\w+"), "-a"),
    (re.compile(r"ldap\w+"), "-w"),
    (re.compile(r"mosquitto_\w+|zip|unzip|ipmitool"), "-P"),
)
"""Programs, by the end of their path → the letter with which they take a password, apart or not."""


def shown(arguments: Sequence[str]) -> str:
    """Join them by spaces in one line, with `***` for what looks like a secret's value, cut to `LONGEST` characters."""
    text = plain(" ".join(masked(_beginning(arguments)))).replace("\n", "\\x0a")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _beginning(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    left = _LOOKED_AT
    for argument in arguments:
        if len(argument) > left:
            return [*kept, _CUT_URL.sub(r"\1***", argument[:left])]
        kept.append(argument)
        left -= len(argument) + 1
    return kept


def masked(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with `***` for what looks like a secret's value."""
    letter = _letter(arguments[0]) if arguments else ""
    words = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        is_value = _OPTION.fullmatch(before) is not None and _OPTION.fullmatch(argument) is None
        if is_value or (letter and before == letter):
            words.append("***")
        elif letter and argument.startswith(letter) and argument != letter:
            words.append(f"{letter}***")
        elif before in {"-u", "--user", "--proxy-user"} and ":" in argument:
            words.append(f"{argument.partition(':')[0]}:***")
        else:
            words.append(_without_values(argument))
    return words


def _letter(program: str) -> str:
    name = program.rpartition("/")[2]
    return next((letter for pattern, letter in _SHORT if pattern.fullmatch(name)), "")


def _without_values(argument: str) -> str:
    option = _USER.fullmatch(argument)
    if option is not None and option[3]:
        return f"{option[1]}{option[2]}{option[3]}***"
    return _KNOWN.sub("***", _USER_IN_URL.sub(r"\1***@", _VALUE.sub(r"\1***", argument)))
