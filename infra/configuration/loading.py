"""The configuration in force: defaults, over them `ansai.yaml`, `ANSAI_…` variables, then command-line options.

Every layer remembers where each value comes from, so that a complaint can name the line or the variable.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from infra.configuration import file as settings_file
from infra.configuration.fields import is_text, section_at, settings_in
from infra.configuration.file import Key, SettingsFile
from infra.configuration.problems import problems_of
from schemas.settings.root import Configuration

PREFIX = "ANSAI_"
SEPARATOR = "__"
FILE_VARIABLE = "ANSAI_CONFIG"
OPTIONS: Mapping[str, Key] = {"--bus": ("bus", "url"), "--host": ("host",), "--log-format": ("logging", "format")}
"""Command-line options that are settings."""


class ConfigurationError(Exception):
    """The settings can't be used. `problems` has one line each: where, which key, what is wrong with it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Layer:
    """Values from one source, and where each of them stands."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A configuration with its story."""

    configuration: Configuration
    file: str | None
    """the file that was read; none when there was none"""
    origins: Mapping[Key, str]
    """of every value that was given: `ansai.yaml:12`, `ANSAI_BUS__URL` or `--bus`"""

    def origin(self, key: Key) -> str:
        """Where the value at *key* comes from."""
        if key in self.origins:
            return self.origins[key]
        whole = (key[:length] for length in range(len(key) - 1, 0, -1) if not _holds_sections(key[:length]))
        return next((self.origins[outer] for outer in whole if outer in self.origins), "default")


def load(path: str | None = None, environment: Mapping[str, str] | None = None) -> Configuration:
    """The configuration in force. Raises ConfigurationError."""
    return read(path, environment).configuration


def read(
    path: str | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, str | None] | None = None,
) -> Loaded:
    """Put the layers together and check them.

    *options* are those of the command line by name, as `OPTIONS` lists them; None is not given.
    Raises ConfigurationError with every problem that was found.
    """
    environment = os.environ if environment is None else environment
    found = find(path, environment)
    layers = [from_file(found)] if found is not None else []
    layers += [from_environment(environment), from_options(options or {})]
    values: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    for layer in layers:
        values = _merge(values, layer.values)
        origins = _replace(origins, layer.origins)
    try:
        configuration = Configuration.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(*problems_of(error, Configuration, values, origins, found)) from None
    loaded = Loaded(configuration, found, origins)
    if configuration.policy.functions and (problems := _policies_of_nobody(loaded)):
        raise ConfigurationError(*problems)
    return loaded


def _policies_of_nobody(loaded: Loaded) -> list[str]:
    """A policy under a misspelt name would silently not be in force."""
    from functions import registry  # only when there is something to compare: it asks every installed package

    known = registry.names()
    problems = []
    for name in loaded.configuration.policy.functions:
        if name not in known:
            key: Key = ("policy", "functions", name)
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
            problems.append(f"{loaded.origin(key)}: {'.'.join(map(str, key))}: there is no such function; {hint}")
    return problems


def find(path: str | None, environment: Mapping[str, str]) -> str | None:
    """The file to read: --config, then ANSAI_CONFIG, then the first that exists of `searched`; None for none."""
    chosen = path or environment.get(FILE_VARIABLE)
    return chosen or next((candidate for candidate in searched(environment) if os.path.lexists(candidate)), None)


def searched(environment: Mapping[str, str]) -> Iterator[str]:
    """Where a configuration file is looked for, the first one wins."""
    yield "ansai.yaml"
    home = environment.get("XDG_CONFIG_HOME", "")
    if home.startswith("/"):
        yield os.path.join(home, "ansai", "ansai.yaml")
    elif environment.get("HOME", "").startswith("/"):
        yield str(Path(environment["HOME"], ".config", "ansai", "ansai.yaml"))
    yield "/etc/ansai/ansai.yaml"


def from_file(path: str) -> Layer:
    """What the file at *path* says. Raises ConfigurationError."""
    try:
        said: SettingsFile = settings_file.read(path)
    except settings_file.Unreadable as error:
        raise ConfigurationError(*error.problems) from None
    return Layer(said.values, {key: f"{path}:{line}" for key, line in said.lines.items() if key})


def from_environment(environment: Mapping[str, str]) -> Layer:
    """The `ANSAI_…` variables that are settings: `ANSAI_BUS__URL` is bus.url. An empty one counts as not set.

    A value is read as YAML (`30 days`, `false`, `[a, b]`), but is taken as it is where text is wanted.
    Raises ConfigurationError for a variable that begins like a section and goes on wrongly.
    """
    layer, problems = Layer(), []
    for name in sorted(environment, key=lambda name: (name.count(SEPARATOR), name)):
        if not name.startswith(PREFIX) or not environment[name]:
            continue
        key = tuple(name.removeprefix(PREFIX).lower().split(SEPARATOR))
        if key[0] not in Configuration.model_fields:
            if hint := _nearly_a_setting(key):
                problems.append(f"{name}: {hint}")
            continue
        try:
            value = environment[name] if is_text(Configuration, key) else settings_file.scalar(environment[name])
        except settings_file.Unreadable:
            problems.append(f"{name}: {environment[name]!r} is no valid YAML; put text with : or # into quotes")
            continue
        _put(layer, key, value, name)
    if problems:
        raise ConfigurationError(*problems)
    return layer


def from_options(options: Mapping[str, str | None]) -> Layer:
    """What was given on the command line."""
    layer = Layer()
    for name, value in options.items():
        if value is not None:
            _put(layer, OPTIONS[name], value, name)
    return layer


def _nearly_a_setting(key: tuple[str, ...]) -> str:
    """Why a variable that names no section is a mistake all the same; empty when it is somebody else's."""
    for section, _ in settings_in(Configuration):
        if key[0].startswith(f"{section}_"):
            rest = SEPARATOR.join((key[0].removeprefix(f"{section}_").strip("_"), *key[1:]))
            return (
                f"sections and keys are joined by two underscores: {PREFIX}{section.upper()}{SEPARATOR}{rest.upper()}"
            )
    if len(key) > 1:
        sections = ", ".join(Configuration.model_fields)
        return f"{key[0]} is no section; there are {sections}"
    return ""


def _put(layer: Layer, key: Key, value: Any, origin: str) -> None:
    values = layer.values
    for name in key[:-1]:
        inner = values.setdefault(str(name), {})
        if not isinstance(inner, dict):
            inner = values[str(name)] = {}
        values = inner
    values[str(key[-1])] = value
    layer.origins.update((inner, origin) for inner in _keys(key, value))


def _keys(key: Key, value: Any) -> Iterator[Key]:
    yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _keys((*key, name), inner)


def _merge(below: dict[str, Any], above: dict[str, Any], key: Key = ()) -> dict[str, Any]:
    """*above* wins: sections key by key, every other value as a whole."""
    merged = dict(below)
    for name, value in above.items():
        here = (*key, name)
        old = merged.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and _holds_sections(here):
            merged[name] = _merge(old, value, here)
        else:
            merged[name] = value
    return merged


def _replace(below: Mapping[Key, str], above: Mapping[Key, str]) -> dict[Key, str]:
    """The origins of merged layers: a value that was replaced as a whole leaves nothing behind."""
    whole = {key for key in above if not _holds_sections(key)}
    kept = {key: origin for key, origin in below.items() if not any(key[:n] in whole for n in range(1, len(key)))}
    return {**kept, **above}


def _holds_sections(key: Key) -> bool:
    """A section, or a mapping with free keys to sections, like policy.functions."""
    return any(section_at(Configuration, path) is not None for path in (key, (*key, "")))
