"""One YAML file as plain values, and on which line each of them stands."""

import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

Key = tuple[str | int, ...]
"""Where a value is: keys of mappings and indexes of lists, outermost first."""

LARGEST = 2**20
"""Bytes. A settings file has a few thousand; more is a mistake or an attack."""
MOST_VALUES = 20_000
"""Values after aliases are expanded; a few nested aliases can otherwise stand for billions."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(Exception):
    """It is no settings file. `problems` has one line each, with the file, and the line where it can be said."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class SettingsFile:
    """What a file says."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)


def read(path: str) -> SettingsFile:
    """Read the file at *path*. Raises Unreadable."""
    try:
        with open(path, "rb") as file:
            body = file.read(LARGEST + 1)
    except OSError as error:
        raise Unreadable(f"{path}: can't be read: {os.strerror(error.errno or 0)}") from error
    if len(body) > LARGEST:
        raise Unreadable(f"{path}: is larger than {LARGEST >> 20} MiB; this is no settings file")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{path}:{line}: is not UTF-8 text (byte {body[error.start]:#04x})") from error
    return parse(text, path)


def parse(text: str, path: str) -> SettingsFile:
    """Read YAML *text*; *path* is only named in messages. Raises Unreadable: all duplicate keys, or the first fault."""
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            reader = _Reader(loader, path)
            if node is None:
                return SettingsFile(path)
            if not isinstance(node, yaml.MappingNode):
                raise Unreadable(f"{path}:{_line(node)}: the file must be a mapping of sections, like `bus:`")
            values = reader.value(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(f"{path}{line}: is no valid YAML: {what}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise Unreadable(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise Unreadable(f"{path}: is nested too deep") from error
    if reader.problems:
        raise Unreadable(*reader.problems)
    return SettingsFile(path, values, reader.lines)


def scalar(text: str) -> Any:
    """One value as YAML reads it: `30 days`, `4096`, `false`, `[a, b]`. Raises Unreadable."""
    return parse(f"value: {text}" if "\n" not in text else f"value:\n{text}", "the value").values.get("value")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Reader:
    """Turns nodes into values and remembers their lines; the library's own constructor forgets both."""

    def __init__(self, loader: Any, path: str) -> None:
        self._loader = loader
        self._path = path
        self._values = 0
        self._open: set[int] = set()
        self.lines: dict[Key, int] = {}
        self.problems: list[str] = []

    def value(self, node: yaml.Node, key: Key) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise Unreadable(f"{self._path}:{_line(node)}: more than {MOST_VALUES} values, aliases expanded")
        if id(node) in self._open:
            raise Unreadable(f"{self._path}:{_line(node)}: the alias refers to what it is part of")
        self.lines.setdefault(key, _line(node))
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, key)
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "seq")
                return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
            return self._loader.construct_object(node)
        finally:
            self._open.discard(id(node))

    def _refuse_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise Unreadable(f"{self._path}:{_line(node)}: the tag {node.tag} means nothing here; leave it out")

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        self._refuse_tag(node, "map")
        self._refuse_duplicates(node, key)
        self._loader.flatten_mapping(node)  # `<<: *defaults`: merged entries come first, own ones win
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = self._loader.construct_object(name_node, deep=True)
            if isinstance(name, bool):
                name = name_node.value  # `on:` is a key like any other; YAML 1.1 alone takes it for true
            if not isinstance(name, str):
                self.problems.append(
                    f"{self._path}:{_line(name_node)}: the key {name!r} is no text; put it into quotes"
                )
                continue
            self.lines[(*key, name)] = _line(name_node)
            values[name] = self.value(value_node, (*key, name))
        return values

    def _refuse_duplicates(self, node: yaml.MappingNode, key: Key) -> None:
        first: dict[Hashable, int] = {}
        for name_node, _ in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else None
            if name is None or name_node.tag == "tag:yaml.org,2002:merge":
                continue
            if name in first:
                dotted = ".".join(map(str, (*key, name)))
                self.problems.append(
                    f"{self._path}:{_line(name_node)}: {dotted}: stands there twice, first on line {first[name]}"
                )
            first.setdefault(name, _line(name_node))
