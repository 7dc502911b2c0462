"""YAML is read with the line of every value; what is no settings file is refused with the line of the fault."""

import pytest

from infra.configuration.file import Unreadable, parse, read, scalar

FILE = "ansai.yaml"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(Unreadable) as refused:
        parse(text, FILE)
    return refused.value.problems


def test_every_key_and_list_item_knows_its_line():
    said = parse("bus:\n  url: nats://a\n\npolicy:\n  default:\n    protected_targets:\n      - x\n      - y\n", FILE)

    assert said.values == {"bus": {"url": "nats://a"}, "policy": {"default": {"protected_targets": ["x", "y"]}}}
    assert said.lines["bus", "url"] == 2
    assert said.lines["policy", "default"] == 5
    assert said.lines["policy", "default", "protected_targets", 1] == 8


def test_an_empty_file_says_nothing():
    assert parse("# only a comment\n", FILE).values == {}


def test_merged_mappings_are_expanded_and_own_keys_win():
    said = parse("a: &shared {x: 1, y: 2}\nb:\n  <<: *shared\n  y: 3\n", FILE)

    assert said.values["b"] == {"x": 1, "y": 3}


def test_a_key_that_stands_twice_is_named_with_both_lines():
    assert problems("bus:\n  url: a\n  replicas: 1\n  url: b\nbus: {}\n") == (
        "ansai.yaml:5: bus: stands there twice, first on line 1",
        "ansai.yaml:4: bus.url: stands there twice, first on line 2",
    )


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("bus:\n  url: [1, 2\npolicy: {}\n", 3, "no valid YAML"),
        ("bus:\n\turl: x\n", 2, "no valid YAML"),
        ("- bus\n", 1, "must be a mapping"),
        ("just words\n", 1, "must be a mapping"),
        ("bus: {}\n---\nbus: {}\n", 2, "no valid YAML"),
        ("bus:\n  80: x\n", 2, "80 is no text"),
        ("bus: !!python/object/apply:os.system [id]\n", 1, "means nothing here"),
        ("bus: !!set {a, b}\n", 1, "means nothing here"),
        ("a: &a [*a]\n", 1, "refers to what it is part of"),
    ],
)
def test_a_fault_is_told_with_its_line(text, line, words):
    (problem,) = problems(text)

    assert problem.startswith(f"ansai.yaml:{line}: ")
    assert words in problem


def test_an_unknown_tag_on_a_value_is_refused():
    (problem,) = problems("bus: !secret abc\n")

    assert problem.startswith("ansai.yaml:1: is no valid YAML: could not determine a constructor")


def test_aliases_that_multiply_are_stopped():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    (problem,) = problems("\n".join(levels))

    assert "more than 20000 values" in problem


def test_nesting_without_end_is_refused():
    (problem,) = problems("a: " + "[" * 50_000)

    assert problem.startswith("ansai.yaml")


def test_a_control_character_is_refused():
    (problem,) = problems("bus: \x07\n")

    assert "is no valid YAML" in problem


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b"bus:\n  url: \xff\n")

    with pytest.raises(Unreadable, match=r":2: is not UTF-8 text \(byte 0xff\)"):
        read(str(path))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b"#" * (2**20 + 1))

    with pytest.raises(Unreadable, match="larger than 1 MiB"):
        read(str(path))


def test_a_file_that_is_not_there_or_a_directory_is_told_in_words(tmp_path):
    with pytest.raises(Unreadable, match="can't be read: No such file or directory"):
        read(str(tmp_path / "none.yaml"))
    with pytest.raises(Unreadable, match="can't be read: Is a directory"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30 days", "30 days"),
        ("4096", 4096),
        ("false", False),
        ("[a, b]", ["a", "b"]),
        ("{a: 1}", {"a": 1}),
        ("", None),
    ],
)
def test_a_value_alone_is_read_as_yaml_reads_it(text, value):
    assert scalar(text) == value
