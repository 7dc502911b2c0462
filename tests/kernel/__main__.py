"""Tests on a kernel of their own, with control groups of version 2: `python -m tests.kernel [PYTEST ARGUMENT...]`.

Debian's kernel for virtual machines runs under software emulation, on files of the packages that are installed here;
systemd starts the tests, by default those of tests/kernel/inside, and powers the machine off. The exit status is
pytest's, or 1 when the tests could not be run to their end. `make test-kernel` calls it.
"""

import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.components import Component, command
from tests.installing import install
from tests.kernel import debian_kernel, root_file_system, virtual_machine

INSIDE = (
    "tests/kernel/inside", "tests/test_cgroups.py", "tests/infra/adapters/test_cgroups.py",
    "tests/infra/adapters/test_systemd.py",
)  # fmt: skip
"""What is done on control groups of version 1 elsewhere, too."""
PATIENCE = 1800.0
"""Seconds for all of it: emulation takes ten to twenty times as long, and other work may take its time too."""
_OPTIONS = ("-o", "python_files=test_*.py check_*.py", "-p", "no:cacheprovider", "-v", "--color=no")


def _other_machine() -> str:
    return "" if platform.machine() == "x86_64" else f"this is {platform.machine()}, whose kernel is another one"


def _absent_packages() -> str:
    absent = root_file_system.missing_packages()
    return f"{', '.join(absent)} not installed" if absent else ""


_SAME_PYTHON = "make clean, then make PYTHON=/usr/bin/python3 test-kernel"
COMPONENTS = (
    Component("x86-64", "the same programs here and there", _other_machine, otherwise="run it on such a machine"),
    Component("qemu", "a machine of its own", command(virtual_machine.PROGRAM), ("qemu-system-x86",)),
    Component("depmod", "modules of its kernel", command("depmod"), ("kmod",)),
    Component("setpriv", "a machine that ends with its test", command("setpriv"), ("util-linux",)),
    Component("root file system", "what runs inside", _absent_packages, root_file_system.PACKAGES),
    Component("python", "tests inside", root_file_system.other_python, otherwise=_SAME_PYTHON),
)


def main(arguments: list[str]) -> int:
    code = install([component for component in COMPONENTS if component.absence()])
    if code:
        return code
    for component in COMPONENTS:
        absence = component.absence()
        if absence:
            return _told(f"no {component.name}: {absence} ({component.remedy})")
    cache = debian_kernel.cache_directory()
    try:
        kernel = debian_kernel.kernel(cache)
        base = root_file_system.base(cache, kernel)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".initrd") as image:
            root_file_system.write_image(image.file, base, [*_OPTIONS, *(arguments or INSIDE)])
            image.flush()
            print(f"Booting {kernel.name} under {_version()} …", flush=True)
            run = virtual_machine.run(kernel, Path(image.name), cache / "console.log", PATIENCE, sys.stdout)
    except (debian_kernel.NoKernel, OSError) as error:
        return _told(str(error))
    if run.status is None or run.booted is None:
        return _told(f"the machine ended after {run.whole:.0f} s without a result; read {cache / 'console.log'}")
    print(f"status {run.status}; booted in {run.booted:.0f} s, tested in {run.tested:.0f} s, {run.whole:.0f} s in all")
    return run.status


def _told(problem: str) -> int:
    print(f"make test-kernel: {problem}", file=sys.stderr)
    return 1


def _version() -> str:
    return subprocess.run(
        [virtual_machine.PROGRAM, "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
