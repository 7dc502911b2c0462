"""Run every benchmark in turn, each in a process of its own: `python -m tests.bench [NAME...]`.

A benchmark is a module of this package with `main`, which it calls when run by itself; its exit status is 1 when it
missed a target. What it imports and allocates touches no other.
"""

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

from bus.embedded import server_binary
from bus.port import Rejected

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    """0 when all targets held, 1 when one was missed, 2 for an unknown name."""
    known = benchmarks()
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    print(header(), flush=True)
    failed = []
    for name in wanted or known:
        print(f"\n── {name} {'─' * (76 - len(name))}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode:
            failed.append(name)
    print(f"\nmissed or failed: {', '.join(failed)}" if failed else "\nall targets held")
    return 1 if failed else 0


def benchmarks() -> list[str]:
    """Modules that define `main` and call it when they are run; without importing them."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_") and _runs(path))


def _runs(path: Path) -> bool:
    tree = ast.parse(path.read_text(), path.name)
    defined = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    called = any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)
    if defined and not called:
        raise SystemExit(f"{path}: has main, but does not call it when run; it would measure nothing")
    return defined


def header() -> str:
    processor, memory = _first("/proc/cpuinfo", "model name"), _first("/proc/meminfo", "MemTotal")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        (
            f"machine  {processor or platform.machine()}, {os.cpu_count()} cores, {memory} memory, load {load}",
            f"system   {platform.system()} {platform.release()}",
            f"python   {platform.python_implementation()} {platform.python_version()}",
            f"server   {_server_version()}",
        )
    )


def _first(path: str, key: str) -> str:
    """The value of the first line `key: value`, "" without one."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _server_version() -> str:
    try:
        binary = server_binary()
    except Rejected as error:
        return str(error)
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
