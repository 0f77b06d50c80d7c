"""YAML: values, their lines, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config_files import quick, refused, write
from utils.config.includes import read_file
from utils.config.loading import load
from utils.config.sources import DEFAULT, block, flow, parse

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("+3", 3), ("010", 10), ("0", 0),
        ("1e-3", 1e-3), ("1.e5", 1e5), ("-2E4", -2e4), (".5", 0.5), ("5.", 5.0), ("1.0", 1.0),
        (".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf),
        ("true", True), ("False", False), ("TRUE", True),
        ("null", None), ("~", None), ("", None), ("Null", None),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("tRUE", "tRUE"),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("0o17", "0o17"), ("0x1F", "0x1F"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("e5", "e5"), (".", "."), ("1e", "1e"),
        ("nan", "nan"), ("inf", "inf"), ("=", "="), ("'1'", "1"), ('"true"', "true"),
        ("!!str 1", "1"), ("!!float 1", 1.0), ("[1, 1e1, a]", [1, 10.0, "a"]),
        ("{a: on}", {"a": "on"}),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any):
    parsed = parse(f"key: {text}", DEFAULT)
    assert parsed is not None
    assert repr(parsed.value["key"]) == repr(value)  # repr: 1, 1.0 and True are equal


def test_not_a_number_is_a_number():
    parsed = parse(".nan", DEFAULT)
    assert parsed is not None
    assert math.isnan(parsed.value)


def test_values_remember_their_lines():
    layer = read_file(write("a.yaml", "# note\na: 1\nb:\n  c:\n    2\n  d:\n  - x\n  - y: 3\n"))
    lines = {path: origin.line for path, origin in layer.origins.items()}
    assert lines == {
        (): 2, ("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "d"): 6,
        ("b", "d", 0): 7, ("b", "d", 1): 8, ("b", "d", 1, "y"): 8,
    }  # fmt: skip
    assert {origin.source for origin in layer.origins.values()} == {"a.yaml"}


def test_aliases_repeat_what_they_name():
    layer = read_file(write("a.yaml", "a: &one\n  b: 1\nc: *one\n"))
    assert layer.data == {"a": {"b": 1}, "c": {"b": 1}}
    assert str(layer.origins["c",]) == "a.yaml:3"
    assert str(layer.origins["c", "b"]) == "a.yaml:2"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: 1\nb: 2\na: 3", ["f.yaml:3: duplicate key `a`, first on line 1"]),
        ("s:\n  a: 1\n  a: 1", ["f.yaml:3: duplicate key `s.a`, first on line 2"]),
        ("1: a", ["f.yaml:1: a key must be a string; got 1. Put it in quotes"]),
        ("s: {true: a}", ["f.yaml:1: a key must be a string; got true. Put it in quotes"]),
        ("? [a]\n: 1", ["f.yaml:1: a key must be a string; got a list or a mapping"]),
        (
            "a: &x {b: 1}\nc:\n  <<: *x",
            [
                "f.yaml:3: merge keys (`<<`) are not supported; put what is shared in a file and "
                "`include` it"
            ],
        ),
        (
            "\na.b.c: 3",
            ["f.yaml:2: the key `a.b.c` holds a dot; nest it: `a: {b.c: ...}`"],
        ),
        ("a: &x [*x]", ["f.yaml:1: `a[0]` contains itself (an alias to its parent)"]),
        ("a: !odd 1", ["f.yaml:1: `a`: '1' with the tag !odd means nothing here"]),
        ("a: !!set {b}", ["f.yaml:1: `a`: the tag !!set is unknown"]),
        ("a: !!bool on", ["f.yaml:1: `a`: 'on' with the tag !!bool means nothing here"]),
        ("", ["f.yaml: the file is empty; a mapping (`key: value`) is expected"]),
        ("# only this\n", ["f.yaml: the file is empty; a mapping (`key: value`) is expected"]),
        ("\n- a\n- b", ["f.yaml:2: a mapping (`key: value`) is expected; got a list"]),
        ("text", ["f.yaml:1: a mapping (`key: value`) is expected; got a single value"]),
        (b"a: \xe9", ["f.yaml: not UTF-8 text (byte 3)"]),
        ("a: 1\nb: \x01", ["f.yaml:2: the character '\\x01' is not allowed in YAML"]),
        ("1: a\nb: 1\nb: 2", [
            "f.yaml:1: a key must be a string; got 1. Put it in quotes",
            "f.yaml:3: duplicate key `b`, first on line 2",
        ]),
    ],
)  # fmt: skip
def test_refuses_a_file(text: str | bytes, problems: list[str]):
    assert refused(write("f.yaml", text)) == problems


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a:\n\tb: 1", 2, "indent with spaces"),
        ("a: [1\nb: 2", 2, "expected ',' or ']'"),
        ("a: 1\n b: 2", 2, "mapping values are not allowed"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: *nothing", 1, "undefined alias 'nothing'"),
        ('a: "\\ud800"', 1, "`a`: '\\ud800' cannot be read"),
        (f"a: {'9' * 5000}", 1, "cannot be read"),
    ],
)
def test_names_the_line_of_bad_syntax(text: str, line: int, words: str):
    (problem,) = refused(write("f.yaml", text))
    assert problem.startswith(f"f.yaml:{line}: ")
    assert words in problem


def test_a_byte_order_mark_and_windows_line_ends_are_fine():
    assert load(write("f.yaml", b"\xef\xbb\xbfa: 1\r\nb: x\r\n")).data == {"a": 1, "b": "x"}


TOO_MUCH = "no configuration needs as many"
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
STAIRS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 900 + "]" * 900, f"f.yaml:1: more than 100 levels of nesting; {TOO_MUCH}"),
        ("a: " + "[" * 900_000, f"f.yaml:1: more than 100 levels of nesting; {TOO_MUCH}"),
        (
            "".join(" " * level + "a:\n" for level in range(900)),
            f"f.yaml:101: more than 100 levels of nesting; {TOO_MUCH}",
        ),
        (STAIRS, f"f.yaml:100: more than 100 levels of nesting; {TOO_MUCH}"),
        (BOMB, f"f.yaml:12: more than 10,000 values, aliases counted; {TOO_MUCH}"),
        (
            f"a: [{'1,' * 30_000}]",
            f"f.yaml:1: more than 10,000 values, aliases counted; {TOO_MUCH}",
        ),
        ("a: " + "x" * 1_000_000, f"f.yaml: larger than 1,000,000 bytes; {TOO_MUCH}"),
        (f"{'k' * 101}: 1", "f.yaml:1: a key has at most 100 printable characters; "
                            f"got '{'k' * 40}'..."),
        ('"a\\nb": 1', "f.yaml:1: a key has at most 100 printable characters; got 'a\\nb'..."),
    ],
    ids=["list", "unclosed", "block", "stairs", "bomb", "list", "size", "long key", "odd key"],
)  # fmt: skip
def test_refuses_a_file_that_would_take_for_ever(text: str, problem: str):
    assert refused(write("f.yaml", text)) == [problem]


def test_limits_hold_for_set_as_well():
    base = write("f.yaml", "{}")
    assert refused(base, [], ["a=" + "[" * 900]) == [
        f"-set: `a`: more than 100 levels of nesting; {TOO_MUCH}"
    ]
    assert refused(base, [], ["a=" + "x" * 1_000_001]) == [
        f"-set: `a`: more than 1,000,000 characters; {TOO_MUCH}"
    ]


def test_a_hundred_levels_are_fine():
    assert load(write("f.yaml", "a: " + "[" * 99 + "]" * 99)).data


# Text without surrogates (they are half a character) and of every other kind of character.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts


@quick
@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_flow_is_read_back_in_one_line(value: Any):
    text = flow(value)
    parsed = parse(text, DEFAULT)
    assert len(text.splitlines()) <= 1
    assert repr(None if parsed is None else parsed.value) == repr(value)


NEARLY = ["1e-05", "1e3", "+1.5E3", "09", "-007", "1.", ".5", "~", "null", "yes", "0x1F", "#", ""]
words = st.sampled_from(NEARLY) | texts.filter(str.isprintable)
keys = words.filter(lambda word: word != "<<" and "." not in word)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words


@quick
@given(st.dictionaries(keys, plain | st.lists(words)))
def test_a_block_is_read_back(data: dict[str, Any]):
    parsed = parse(block({"a": data, "b": [data]}), DEFAULT)
    assert parsed is not None
    assert repr(parsed.value) == repr({"a": data, "b": [data]})
