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
from infra.configuration.sections import BadSection, configuration_type
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
        root = type(self.configuration)
        whole = (key[:length] for length in range(len(key) - 1, 0, -1) if not _holds_sections(root, key[:length]))
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
    try:
        root = configuration_type()
    except BadSection as error:
        raise ConfigurationError(str(error)) from error
    found = find(path, environment)
    layers = [from_file(found)] if found is not None else []
    layers += [from_environment(environment, root), from_options(options or {})]
    values: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    for layer in layers:
        values = _merge(root, values, layer.values)
        origins = _replace(root, origins, layer.origins)
    try:
        configuration = root.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(*problems_of(error, root, values, origins, found)) from None
    loaded = Loaded(configuration, found, origins)
    problems = [*_policies_of_nobody(loaded), *_custom_actions_that_fit_nothing(loaded)]
    if problems:
        raise ConfigurationError(*problems)
    return loaded


def _policies_of_nobody(loaded: Loaded) -> Iterator[str]:
    """A policy under a misspelt name would silently not be in force."""
    policies = loaded.configuration.policy.functions
    if not policies:
        return
    from functions import registry  # only when there is something to compare

    known = registry.names(loaded.configuration.custom_actions)
    for name in policies:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
            yield _problem(loaded, ("policy", "functions", name), f"there is no such function; {hint}")


def _custom_actions_that_fit_nothing(loaded: Loaded) -> Iterator[str]:
    """Events nobody publishes and fields that an event doesn't have would be found out too late: at the first event."""
    if not loaded.configuration.custom_actions:
        return
    from functions import registry
    from functions.custom.checking import problems

    for index, action in enumerate(loaded.configuration.custom_actions):
        here: Key = ("custom_actions", index)
        try:
            event = registry.health_model(action.on)
        except registry.UnknownEvent as error:
            yield _problem(loaded, (*here, "on"), str(error))
            continue
        for below, what in problems(action, event):
            yield _problem(loaded, (*here, *below), what)


def _problem(loaded: Loaded, key: Key, what: str) -> str:
    return f"{loaded.origin(key)}: {'.'.join(map(str, key))}: {what}"


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


def from_environment(environment: Mapping[str, str], root: type[Configuration]) -> Layer:
    """The `ANSAI_…` variables that are settings: `ANSAI_BUS__URL` is bus.url. An empty one counts as not set.

    A value is read as YAML (`30 days`, `false`, `[a, b]`), but is taken as it is where text is wanted.
    Raises ConfigurationError for a variable that begins like a section and goes on wrongly.
    """
    layer, problems = Layer(), []
    for name in sorted(environment, key=lambda name: (name.count(SEPARATOR), name)):
        if not name.startswith(PREFIX) or not environment[name]:
            continue
        key = tuple(name.removeprefix(PREFIX).lower().split(SEPARATOR))
        if key[0] not in root.model_fields:
            if hint := _nearly_a_setting(root, key):
                problems.append(f"{name}: {hint}")
            continue
        try:
            value = environment[name] if is_text(root, key) else settings_file.scalar(environment[name])
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


def _nearly_a_setting(root: type[Configuration], key: tuple[str, ...]) -> str:
    """Why a variable that names no section is a mistake all the same; empty when it is somebody else's."""
    for section, _ in settings_in(root):
        if key[0].startswith(f"{section}_"):
            rest = SEPARATOR.join((key[0].removeprefix(f"{section}_").strip("_"), *key[1:]))
            return (
                f"sections and keys are joined by two underscores: {PREFIX}{section.upper()}{SEPARATOR}{rest.upper()}"
            )
    if len(key) > 1:
        sections = ", ".join(root.model_fields)
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


def _merge(root: type[Configuration], below: dict[str, Any], above: dict[str, Any], key: Key = ()) -> dict[str, Any]:
    """*above* wins: sections key by key, every other value as a whole."""
    merged = dict(below)
    for name, value in above.items():
        here = (*key, name)
        old = merged.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and _holds_sections(root, here):
            merged[name] = _merge(root, old, value, here)
        else:
            merged[name] = value
    return merged


def _replace(root: type[Configuration], below: Mapping[Key, str], above: Mapping[Key, str]) -> dict[Key, str]:
    """The origins of merged layers: a value that was replaced as a whole leaves nothing behind."""
    whole = {key for key in above if not _holds_sections(root, key)}
    kept = {key: origin for key, origin in below.items() if not any(key[:n] in whole for n in range(1, len(key)))}
    return {**kept, **above}


def _holds_sections(root: type[Configuration], key: Key) -> bool:
    """A section, or a mapping with free keys to sections, like policy.functions."""
    return any(section_at(root, path) is not None for path in (key, (*key, "")))
