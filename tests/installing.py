"""Bring with apt what tests miss, without starting a service; called by `python -m tests.components install`.

Only as root, and only with CI=true, ANSAI_TEST_INSTALL=1, or yes to its question at a terminal. While packages are
installed, /usr/sbin/policy-rc.d forbids the start of services; afterwards that path is again what it was, also after
Ctrl-C, SIGTERM or SIGHUP. After a SIGKILL the next run puts it back.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.components import SEARCH, Component, command

POLICY = Path("/usr/sbin/policy-rc.d")
"""Asked by invoke-rc.d and deb-systemd-invoke; exit status 101 means: do not start it."""
MARK = "# Written while ANSAI's tests install what they need: no service starts. May be removed when none is running."
FORBID = f"#!/bin/sh\n{MARK}\nexit 101\n"
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_APT = ("apt-get", "--quiet", "--quiet", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3")


def install(missing: Sequence[Component]) -> int:
    """Always 0 but when interrupted: what could not be installed is told by the tests that need it."""
    packages = sorted({package for component in missing for package in component.packages})
    if not packages:
        return 0
    try:
        refusal = _refusal(packages, os.environ)
        if refusal:
            print(f"Tests will be left out without: {' '.join(packages)}; {refusal}.", flush=True)
            return 0
        print(f"Installing {' '.join(packages)} with apt; no service is started …", flush=True)
        with _raised(*_INTERRUPTS), no_services(POLICY):
            if _apt("update") != 0:
                print("apt-get update failed; going on with the package lists that are here.", file=sys.stderr)
            if _apt("install", "--yes", "--no-install-recommends", *packages) != 0:
                print("apt-get could not install all of it; see above.", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(
            f"could not keep services from starting with {POLICY}: {error}; packages may be missing.", file=sys.stderr
        )
    return 0


def _refusal(packages: Sequence[str], environment: Mapping[str, str]) -> str:
    """Why they are not installed, "" when they may be."""
    by_hand = f"apt-get install {' '.join(packages)}"
    if command("apt-get")():
        return "they are installed only where apt-get is"
    if os.geteuid() != 0:
        return f"only root can install them: {by_hand}"
    if environment.get("CI") == "true" or environment.get("ANSAI_TEST_INSTALL") == "1":
        return ""
    if sys.stdin is None or not sys.stdin.isatty():
        return f"ANSAI_TEST_INSTALL=1 installs them, or: {by_hand}"
    try:
        answer = input(f"Tests want packages that are not here: {' '.join(packages)}. Install them with apt? [y/N] ")
    except EOFError:
        answer = ""
    return "" if answer.strip().lower() in ("y", "yes") else f"as you said; by hand: {by_hand}"


@contextmanager
def no_services(policy: Path) -> Iterator[None]:
    """Inside, no package may start a service; after it *policy* is the very file, link or nothing that it was."""
    kept = policy.with_name(f"{policy.name}.kept-for-ansai-tests")
    new = policy.with_name(f"{policy.name}.new-for-ansai-tests")
    with _only_one(policy):
        try:
            _put_back(policy, kept, new)  # what a killed run left
            with contextlib.suppress(FileNotFoundError):
                policy.rename(kept)
            new.write_text(FORBID)
            new.chmod(0o755)
            new.replace(policy)  # whole, or not there
            yield
        finally:
            with _blocked(*_INTERRUPTS):
                _put_back(policy, kept, new)


def _put_back(policy: Path, kept: Path, new: Path) -> None:
    new.unlink(missing_ok=True)
    if os.path.lexists(kept):
        kept.replace(policy)
    elif _ours(policy):
        policy.unlink()


def _ours(policy: Path) -> bool:
    try:
        return not policy.is_symlink() and policy.read_bytes() == FORBID.encode()
    except FileNotFoundError:
        return False


@contextmanager
def _only_one(policy: Path) -> Iterator[None]:
    """Two runs at once would take each other's policy for the one that was here before."""
    directory = os.open(policy.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _raised(*signals: signal.Signals) -> Iterator[None]:
    """As Ctrl-C does, so that what was changed is put back."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _apt(*arguments: str) -> int:
    """The exit status; what it says is shown when that isn't 0.

    An interrupt is handed on and apt waited for: what dpkg has begun it ends, while no service may start.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": SEARCH}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*_APT, *arguments], env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                with contextlib.suppress(KeyboardInterrupt):
                    process.wait()
            raise
        if code:
            said.seek(0)
            print(said.read().decode(errors="replace"), file=sys.stderr)
    return code
