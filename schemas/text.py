"""Text that came from outside: capped, and free of control characters.

Everything in an event is hostile: a log line, a file name or a container label may hold escape
sequences for the terminal that shows it.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo

LONGEST = 2_000
"""Characters kept of any free text; the rest is cut and the cut is shown."""


def plain(text: str) -> str:
    """Return *text* with control characters shown as escapes, cut to `LONGEST` characters."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def show_path(path: str) -> str:
    """Write *path* so that every byte sequence fits into JSON and can be read back by `read_path`."""
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(
        "\\\\" if char == "\\" else char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(char))
        for char in path
    )


def _bytes(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape")


def read_path(text: str) -> str:
    """Undo `show_path`.

    Raises ValueError on a broken escape.
    """
    if "\\" not in text:
        return text
    out, position = bytearray(), 0
    while position < len(text):
        char = text[position]
        if char != "\\":
            out += _bytes(char)
            position += 1
        elif text[position + 1 : position + 2] == "\\":
            out += b"\\"
            position += 2
        elif text[position + 1 : position + 2] == "x":
            out.append(int(text[position + 2 : position + 4], 16))
            position += 4
        else:
            raise ValueError(f"broken escape at character {position} of {text!r}")
    return out.decode("utf-8", "surrogateescape")


BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(samples: Sequence[float], *, smallest_span: float = 0.0) -> str:
    """One block a sample, scaled between the lowest and the highest; flat where they differ by less than the span."""
    low, high = min(samples, default=0.0), max(samples, default=0.0)
    span = max(high - low, smallest_span) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((sample - low) / span * len(BLOCKS)))] for sample in samples)


def _path_in(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and info.mode == "json":
        value = read_path(value)
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a path can't hold a zero byte")
    return value


Text = Annotated[str, AfterValidator(plain)]
"""Free text; hostile characters are neutralised on the way in."""

PathText = Annotated[str, BeforeValidator(_path_in), PlainSerializer(show_path, return_type=str, when_used="json")]
"""A path as `os.fsdecode` gives it (any bytes); in JSON written reversibly, see `show_path`."""
