"""A command of the operator's own, ready to be run: every value is in its place."""

from pydantic import Field

from schemas.facts.files import Fact
from schemas.text import PathText, Text


class Command(Fact):
    """Either an argument list or a Python callable; never text for a shell."""

    argv: tuple[PathText, ...] = ()
    """the program by its absolute path, and its arguments"""
    call: str = ""
    """`package.module:function`, called in an interpreter of its own with the target and the event"""
    stdin: str = ""
    """what it reads; nothing else is there to be read"""
    timeout: float = Field(gt=0)
    """seconds; then it is ended together with everything that it started"""
    user: str | None = None
    """whose rights it has; ours when left out"""
    directory: PathText = "/"

    def shown(self) -> str:
        """For people; what is hostile in it is neutralised where it is shown."""
        return self.call or " ".join(self.argv)


class Checked(Fact):
    """What a check of a configuration said."""

    passed: bool
    """it ended with status 0"""
    said: Text = ""
    """the last two lines of its errors, or of its output where there were none"""
