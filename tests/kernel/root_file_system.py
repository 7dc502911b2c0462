"""What the virtual machine runs on: files of packages that are installed here, the Python environment, the checkout.

Two archives that the kernel unpacks one over the other. The first, of packages and of the distributions that tests
need, is kept in the cache until one of them has another version; the second, of the checkout, is made for each run.
"""

import hashlib
import json
import os
import py_compile
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement

from tests.kernel.archive import Archive
from tests.kernel.debian_kernel import module_files
from tests.kernel.guest import ARGUMENTS, SIZES

PACKAGES = (
    "systemd", "dbus", "python3", "util-linux", "mount", "coreutils", "procps", "findutils", "grep", "sed", "dash",
    "bash", "libc-bin", "e2fsprogs", "base-files", "base-passwd",
)  # fmt: skip
"""With what they depend on."""
DISTRIBUTIONS = ("ansai", "pytest", "pytest-asyncio", "hypothesis")
"""With what they require, from the environment that this runs in."""
MODULES = ("lzo-rle", "zram", "overlay")
"""For disks of compressed memory, and for what `tests.systemd` builds; in the order in which they are loaded."""
SITE, CHECKOUT = "/opt/site", "/opt/ansai"
TARGET = "ansai-tests.target"

_TOP = Path(__file__).parents[2]
_CHECKED_OUT = ("schemas", "bus", "collectors", "functions", "infra", "tests")
_LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|lintian|info|bash-completion|zoneinfo)(/|$)|/boot(/|$)")
_MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, below which dpkg tells some files nevertheless
_MASKED = ("systemd-networkd.service", "systemd-firstboot.service", "systemd-hwdb-update.service")
_UNIT = f"""
[Unit]
Description=Tests of ANSAI
Requires=basic.target
After=basic.target dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=exec
ExecStart=/usr/bin/python3 -m tests.kernel.guest
WorkingDirectory={CHECKOUT}
Environment=PYTHONPATH={SITE}:{CHECKOUT} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=LANG=C.UTF-8 HOME=/root
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""
_WRITTEN = {
    "/etc/machine-id": "c0ffee00c0ffee00c0ffee00c0ffee00\n",
    "/etc/hostname": "ansai-tests\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/systemd/system/ansai-tests.service": _UNIT,
    "/etc/modules-load.d/ansai-tests.conf": "".join(f"{name}\n" for name in MODULES),
    "/etc/modprobe.d/ansai-tests.conf": f"options zram num_devices={len(SIZES)}\n",
    f"/etc/systemd/system/{TARGET}": "[Unit]\nRequires=ansai-tests.service\nAfter=ansai-tests.service\n",
}


# ── the part that is kept ─────────────────────────────────────────────────────────────────────────────────────────────


def base(cache: Path, kernel: Path) -> Path:
    """The archive for what is installed now; older ones are removed."""
    packages, distributions = _installed_packages(), _distributions()
    path = cache / f"base-{_fingerprint(kernel, packages, distributions)}.cpio"
    if not path.exists():
        print("Building the root file system …", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("wb") as output:
            archive = Archive(output)
            for name in _MERGED:
                archive.link(name, f"usr/{name}")
            for file, name in module_files(kernel, MODULES):
                archive.copy(file, name)
            _fill(archive, packages, distributions)
            archive.end()
        new.replace(path)
        for old in set(cache.glob("base-*.cpio")) - {path}:
            old.unlink()
    return path


def missing_packages() -> list[str]:
    said = _said("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES, check=False)
    return sorted(set(PACKAGES) - {line.split()[0] for line in said.splitlines() if line.endswith(" installed")})


def other_python() -> str:
    """Why Debian's Python can't run what is installed here, "" when it can."""
    theirs = _said("/usr/bin/python3", "-c", "import importlib.util as u; print(u.MAGIC_NUMBER.hex())", check=False)
    if theirs.strip() == util.MAGIC_NUMBER.hex():
        return ""
    version = ".".join(map(str, sys.version_info[:2]))
    return f"Debian's python3 is not {version}, for which the environment is made"


def _installed_packages() -> dict[str, str]:
    """Name → version of `PACKAGES` and all that they depend on."""
    no = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    told = _said("apt-cache", "depends", "--recurse", "--installed", *no, *PACKAGES)
    names = sorted({line for line in told.splitlines() if re.match(r"[a-z0-9]", line)})
    form = "${db:Status-Status} ${binary:Package} ${Version}\n"
    lines = _said("dpkg-query", "--show", f"--showformat={form}", *names, check=False).splitlines()
    return {line.split()[1]: line.split()[2] for line in lines if line.startswith("installed ")}


def _distributions() -> dict[str, metadata.Distribution]:
    """Name → distribution of `DISTRIBUTIONS` and all that they require."""
    found: dict[str, metadata.Distribution] = {}
    project = tomllib.loads((_TOP / "pyproject.toml").read_text())["project"]  # what is installed may be older
    wanted = [*DISTRIBUTIONS, *_names(project["dependencies"])]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name not in found:
            found[name] = metadata.distribution(name)
            wanted += _names(found[name].requires or ())
    return found


def _names(requirements: Iterable[str]) -> list[str]:
    """Of those that hold here, without extras."""
    read = map(Requirement, requirements)
    return [each.name for each in read if each.marker is None or each.marker.evaluate({"extra": ""})]


def _fingerprint(kernel: Path, packages: dict[str, str], distributions: dict[str, metadata.Distribution]) -> str:
    """Of all that goes into the archive, and of what makes it."""
    digest = hashlib.sha256(f"{sys.version} {kernel}".encode())
    for name in ("root_file_system", "archive", "debian_kernel", "guest"):
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    digest.update(json.dumps(sorted(packages.items())).encode())
    digest.update(json.dumps(sorted((name, each.version) for name, each in distributions.items())).encode())
    return digest.hexdigest()[:16]


def _fill(archive: Archive, packages: Iterable[str], distributions: dict[str, metadata.Distribution]) -> None:
    for name, text in _WRITTEN.items():
        archive.file(name, text.encode())
    for name in _MASKED:
        archive.link(f"/etc/systemd/system/{name}", "/dev/null")
    for name in ("dev", "proc", "sys", "run", "mnt", "srv"):
        archive.directory(name)
    archive.directory("tmp", 0o1777)
    for path in (Path("/etc/passwd"), Path("/etc/group")):  # no passwords are in them
        archive.copy(path, str(path))
    with tempfile.TemporaryDirectory() as directory:
        for path, name in _files_of_packages(packages):
            _add(archive, path, name, Path(directory))
        for path, name in _files_of_distributions(distributions.values()):
            _add(archive, path, name, Path(directory))
    # What has to be done once after an installation has been done here (systemd-update-done.service(8)).
    for name in ("/etc/.updated", "/var/.updated"):
        archive.file(name, b"", modified=2**31 - 1)


def _files_of_packages(packages: Iterable[str]) -> Iterator[tuple[Path, str]]:
    for name in sorted(set(_said("dpkg-query", "--listfiles", *packages).splitlines())):
        if name.startswith("/") and name != "/." and not _LEFT_OUT.match(name):
            first, _, rest = name[1:].partition("/")
            if first in _MERGED and rest:
                name = f"/usr{name}"
            path = Path(name)
            if os.path.lexists(path) and name not in {f"/{merged}" for merged in _MERGED}:
                yield path, name


def _files_of_distributions(distributions: Iterable[metadata.Distribution]) -> Iterator[tuple[Path, str]]:
    for each in distributions:
        for file in each.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                yield Path(str(file.locate())), f"{SITE}/{file}"


def _add(archive: Archive, path: Path, name: str, scratch: Path) -> None:
    """What can't be read is none of ours. Python code goes with its compiled form: to compile is slow inside."""
    try:
        archive.copy(path, name)
        if path.suffix == ".py" and path.is_file() and not path.is_symlink():
            _add_compiled(archive, path, name, scratch)
    except PermissionError:
        return


def _add_compiled(archive: Archive, path: Path, name: str, scratch: Path) -> None:
    place = Path(util.cache_from_source(name))
    try:
        made = py_compile.compile(
            str(path), str(scratch / "compiled.pyc"), name, doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip
    except py_compile.PyCompileError:  # a template, or for another Python
        return
    archive.file(str(place), Path(str(made)).read_bytes())


# ── the part of a run ─────────────────────────────────────────────────────────────────────────────────────────────────


def write_image(output: IO[bytes], kept: Path, arguments: Sequence[str]) -> None:
    """*arguments* are pytest's, inside."""
    with kept.open("rb") as archive:
        while block := archive.read(1 << 20):
            output.write(block)
    run = Archive(output)
    run.file(ARGUMENTS, json.dumps([*arguments]).encode())
    run.copy(_TOP / "pyproject.toml", f"{CHECKOUT}/pyproject.toml")
    with tempfile.TemporaryDirectory() as directory:
        for top in _CHECKED_OUT:
            for path in sorted((_TOP / top).rglob("*")):
                if "__pycache__" not in path.parts and not path.is_dir():
                    _add(run, path, f"{CHECKOUT}/{path.relative_to(_TOP)}", Path(directory))
    run.end()


def _said(*argv: str, check: bool = True) -> str:
    """Without *check* nothing, when it can't be run."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        if check:
            raise
        return ""
    if check and done.returncode:
        raise OSError(f"{argv[0]} {argv[1]}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
