"""Package managers' download caches."""

from schemas.facts.files import Fact
from schemas.text import PathText


class PackageCache(Fact):
    """One manager's cache. `held_by` names who has a package lock now: then nothing may be cleaned."""

    manager: str
    """apt, dnf or yum"""
    directory: PathText
    device: int
    files: int
    allocated: int
    """bytes that `clean` frees"""
    obsolete: int = 0
    """bytes that `autoclean` frees at most: what can no longer be downloaded"""
    held_by: str = ""
