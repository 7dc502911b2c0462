"""What starting costs: `ansai --help` against a bare typer program, which imports cost what, and how much memory.

    python -m tests.bench.start_up [--rounds 15]

Whole processes are timed, alternating, so that both see the same machine; medians are printed. The bare program has
as many commands as ours, with the same names and help lines, and nothing behind them. It is run twice: as typer
makes it (its help drawn with rich), and with plain help, which is the lightest that typer can do.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from infra.cli.main import SECTIONS

REPOSITORY = Path(__file__).parents[2]
MOST = 1.3
"""Times the bare program's start-up that `ansai --help` may take."""
SHOWN = 12
"""Packages of the import table."""

OURS = "from infra.cli.main import main; main(['--help'])"
COMMANDS = {
    "ansai --help": "import infra.cli.main",
    "ansai config check": "import infra.cli.main, infra.cli.config",
    "ansai plan": "import infra.cli.main, infra.cli.plan, functions.disk.free_space",
    "ansai run": "import infra.cli.main, infra.cli.run, functions.disk.free_space",
    "ansai up": "import infra.cli.main, infra.cli.up, functions.disk.free_space, collectors.disk.pressure",
}
"""Command → what a process of it has imported when it does its work."""


def bare_program(plain: bool) -> str:
    """A typer program with our commands' names and help lines."""
    mode = ", rich_markup_mode=None" if plain else ""
    lines = ["import typer", f"app = typer.Typer(help='Self-healing functions.'{mode})"]
    for number, entry in enumerate(entry for section in SECTIONS.values() for entry in section):
        lines += [f"@app.command({entry.name!r}, help={entry.help!r})", f"def command_{number}() -> None: ..."]
    return "\n".join([*lines, "app(['--help'])"])


def seconds(*arguments: str) -> float:
    """Wall time of one whole process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return time.perf_counter() - began


def compare(rounds: int) -> float:
    """Print the three medians; return ours over the bare program's."""
    with tempfile.TemporaryDirectory() as directory:
        programs = {"bare typer": Path(directory, "bare.py"), "bare typer, plain help": Path(directory, "plain.py")}
        programs["bare typer"].write_text(bare_program(plain=False))
        programs["bare typer, plain help"].write_text(bare_program(plain=True))
        ways = {"ansai --help": ("-c", OURS), **{name: (str(path),) for name, path in programs.items()}}
        taken: dict[str, list[float]] = defaultdict(list)
        for round_number in range(rounds + 1):
            for name, arguments in ways.items():
                elapsed = seconds(*arguments)
                if round_number:  # the first round compiles and warms the cache
                    taken[name].append(elapsed)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        print(f"{name:<26}{median * 1000:8.0f} ms  (lowest {min(taken[name]) * 1000:.0f})")
    for name in programs:
        print(f"ansai --help / {name:<26}{medians['ansai --help'] / medians[name]:6.2f}")
    return medians["ansai --help"] / medians["bare typer"]


def imports(statement: str) -> dict[str, float]:
    """Milliseconds spent in importing each top-level package, what it imports of others not counted."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    spent: dict[str, float] = defaultdict(float)
    for own, module in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE):
        package = module.partition(".")[0]
        known = package in sys.stdlib_module_names or package.startswith("_")
        spent["standard library" if known else package] += int(own) / 1000
    return dict(spent)


def resident(statement: str) -> float:
    """MiB resident after the imports."""
    code = f"{statement}\nimport re\nprint(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY)
    return int(done.stdout) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(argv)
    os.environ.pop("PYTHONDEVMODE", None)
    print(f"start-up, medians of {options.rounds}")
    ratio = compare(options.rounds)
    print(f"\n{'imports':<24}{'ms':>7}{'MiB':>7}  most of it")
    print(f"{'python alone':<24}{'':>7}{resident('pass'):>7.1f}")
    for name, statement in COMMANDS.items():
        spent = imports(statement)
        dearest = sorted(spent.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
        parts = ", ".join(f"{package} {milliseconds:.0f}" for package, milliseconds in dearest if milliseconds >= 1)
        print(f"{name:<24}{sum(spent.values()):>7.0f}{resident(statement):>7.1f}  {parts}")
    fine = ratio <= MOST
    told = "ok" if fine else "TOO SLOW"
    print(f"\nansai --help takes {ratio:.2f} × a bare typer program; at most {MOST} is wanted: {told}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
