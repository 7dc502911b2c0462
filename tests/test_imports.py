"""What may import what: between our packages, and from a function to the outside."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import collectors
import functions

TOP = Path(__file__).parents[1]
OURS = {"schemas", "bus", "collectors", "functions", "infra"}
PYDANTIC = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}

IMPORT_ALL = """
import importlib, json, sys
before = {name.partition(".")[0] for name in sys.modules}
brought = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    seen = {loaded.partition(".")[0] for loaded in sys.modules} - before
    brought[name] = sorted(seen)
    before |= seen
print(json.dumps(brought))
"""


def modules_of(package) -> list[str]:
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def brought_by(names: list[str]) -> dict[str, set[str]]:
    """Top-level packages that each import adds in one fresh interpreter; each is told for its first importer."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=TOP, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: set(brought) for name, brought in json.loads(done.stdout).items()}


def foreign(names: set[str]) -> set[str]:
    standard = {name for name in names if name in sys.stdlib_module_names or name.startswith("_sysconfigdata_")}
    return names - standard - PYDANTIC - OURS


def test_functions_and_collectors_pull_in_the_standard_library_and_pydantic_only():
    names = modules_of(functions) + modules_of(collectors)
    assert {"functions.core.engine", "functions.disk.free_space", "collectors.disk.pressure"} <= set(names)

    foreigners = {name: found for name, brought in brought_by(names).items() if (found := foreign(brought))}

    assert foreigners == {}


def test_functions_and_collectors_pull_in_neither_the_bus_nor_infra():
    names = modules_of(functions) + modules_of(collectors)

    offenders = {name: brought for name, brought in brought_by(names).items() if brought & {"bus", "infra"}}

    assert offenders == {}


def test_a_client_would_be_noticed():
    assert foreign(brought_by(["json", "schemas.health", "nats"])["nats"]) == {"nats"}


def test_the_import_contract_is_kept():
    """Its rules are in pyproject.toml, under importlinter."""
    linter = "from importlinter.cli import lint_imports_command; lint_imports_command()"

    done = subprocess.run(
        [sys.executable, "-c", linter, "--no-logo", "--no-cache"],
        cwd=TOP, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
