"""Values of events become whole arguments, or nothing is run."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.custom.arguments import LONGEST, BadValue, fields_in, pasted_in, resolved


@pytest.mark.parametrize(
    ("value", "argument"), [("/srv", "/srv"), (95.5, "95.5"), (7, "7"), (True, "true"), (False, "false"), ("ü", "ü")]
)
def test_a_whole_argument_is_replaced(value, argument):
    assert resolved(("/bin/x", "{mount}", "-v"), {"mount": value}) == ("/bin/x", argument, "-v")


def test_only_whole_arguments_are():
    argv = ("/bin/x", "--mount={mount}", "{}", "{ mount }", "{Mount}")

    assert resolved(argv, {"mount": "/srv"}) == argv
    assert fields_in(argv) == []
    assert [pasted_in(argument) for argument in argv] == [[], ["mount"], [], [], []]


def test_a_value_is_not_looked_at_again():
    assert resolved(("/bin/x", "{mount}"), {"mount": "{target}", "target": "secret"}) == ("/bin/x", "{target}")


def test_what_shells_would_read_is_left_as_it_is():
    assert resolved(("{x}",), {"x": "$(id); `id` | & > \" '"}) == ("$(id); `id` | & > \" '",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("-rf", "begins with a dash and could be taken for an option; nothing is run: '-rf'"),
        ("--force", "begins with a dash"),
        ("/srv\n/etc", "holds control characters; nothing is run: '/srv\\\\n/etc'"),
        ("a\0b", "holds control characters"),
        ("a\x1b[31m", "holds control characters"),
        ("a\x85b", "holds control characters"),
        ("a\u2028b", "holds control characters"),
        ("x" * (LONGEST + 1), "has 1025 characters, allowed are 1024"),
        ("", "is empty"),
        (None, "is needed, and only an event has it"),
        (-3, "begins with a dash"),
    ],
)
def test_what_could_be_taken_for_something_else_is_refused(value, words):
    with pytest.raises(BadValue, match=words):
        resolved(("/bin/x", "{mount}"), {"mount": value})


def test_the_longest_value_is_taken():
    assert resolved(("{x}",), {"x": "y" * LONGEST}) == ("y" * LONGEST,)


@pytest.mark.parametrize("target", ["bytes:/srv/../etc", "bytes:/srv/.", "bytes:..", "..", "bytes:./x"])
def test_a_target_that_climbs_out_of_its_directory_is_refused(target):
    with pytest.raises(BadValue, match=r"has \. or \.\. in its path"):
        resolved(("{target}",), {"target": target})


def test_dots_in_names_are_no_climbing():
    assert resolved(("{target}",), {"target": "bytes:/srv/..data/a..b"}) == ("bytes:/srv/..data/a..b",)


@given(st.text(max_size=2000))
def test_whatever_is_not_refused_arrives_unchanged_and_can_be_an_argument(text):
    try:
        (argument,) = resolved(("{x}",), {"x": text})
    except BadValue as error:
        refused = str(error)
    else:
        refused = ""
        assert argument == text
        assert not argument.startswith("-")
        assert "\0" not in argument
        assert len(argument) <= LONGEST
    assert len(refused.splitlines()) <= 1


def test_bytes_that_are_no_text_can_be_an_argument():
    path = os.fsdecode(b"/srv/\xff")

    assert resolved(("{mount}",), {"mount": path}) == (path,)
