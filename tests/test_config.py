from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config.includes import read_file
from utils.config.layers import Layer, merge
from utils.config.loading import load
from utils.config.sources import ASSIGNED, DEFAULT, ConfigError, Origin, flow, parse


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def refused(*arguments: Any) -> list[str]:
    """The lines of the error that `load` raises, without the first."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    head, *lines = str(caught.value).split("\n")
    assert head == f"config error ({len(lines)}):"
    return [line.removeprefix("  ") for line in lines]


# YAML --------------------------------------------------------------------------------------------


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


quick = settings(deadline=None, max_examples=60)  # no deadline: machines are shared

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


# Files -------------------------------------------------------------------------------------------


def test_missing_files_and_folders_are_reported_all_at_once():
    Path("folder").mkdir()
    write("hidden/.a.yaml", "a: 1")
    assert refused("none.yaml", ["gone", "hidden"], ["a"]) == [
        "hidden: this folder holds no *.yaml files",
        "none.yaml: no such file",
        "gone: no such file",
        "-set: 'a' has no `=`; write -set key.path=value",
    ]
    assert refused("folder") == ["folder: this is a folder; a YAML file is expected"]
    assert refused(write("file", "a: 1") + "/x") == ["file/x: cannot be read: Not a directory"]


def test_a_place_is_one_line_whatever_the_file_is_called():
    assert refused(write("a\nb.yaml", "x: [")) == [
        "a\\nb.yaml:1: YAML syntax: expected the node content, but found '<stream end>' "
        "while parsing a flow node"
    ]


def test_includes_lie_below_the_file_left_to_right():
    write("shared/one.yaml", "a: 1\nb: 1\nc: {x: 1}\n")
    write("configs/two.yaml", "include: ../shared/one.yaml\nb: 2\nd: 2\n")
    write("configs/three.yaml", "d: 3\ne: 3\n")
    main = "c: {y: 9}\ninclude: [two.yaml, three.yaml]\ne: 9\n"
    layer = load(write("configs/main.yaml", main))
    assert layer.data == {"a": 1, "b": 2, "c": {"x": 1, "y": 9}, "d": 3, "e": 9}
    origins = {key: str(layer.origins[key,]) for key in "abde"}
    assert origins == {
        "a": "shared/one.yaml:1",
        "b": "configs/two.yaml:2",
        "d": "configs/three.yaml:1",
        "e": "configs/main.yaml:3",
    }
    assert str(layer.origins[()]) == "configs/main.yaml:1"


def test_one_file_may_be_included_twice():
    write("base.yaml", "a: 1\n")
    write("left.yaml", "include: base.yaml\nb: 1\n")
    assert load(write("f.yaml", "include: [base.yaml, left.yaml]\n")).data == {"a": 1, "b": 1}


def test_each_file_is_read_once_however_often_it_is_included():
    """Two includes a file, 40 files deep: a trillion readings, if each were read each time."""
    for level in range(40):
        inner = level + 1
        write(f"{level}.yaml", f"include: [{inner}.yaml, ./{inner}.yaml]\nk{level}: 1\n")
    write("40.yaml", "a: 1\n")
    assert load("0.yaml").data == {"a": 1, **{f"k{level}": 1 for level in range(40)}}
    write("40.yaml", "a: 1\na: 2\n")
    assert refused("0.yaml") == ["40.yaml:2: duplicate key `a`, first on line 1"]


@pytest.mark.parametrize("deep", [True, False])
def test_a_file_includes_at_most_fifty_others(deep: bool):
    for level in range(1, 60):
        write(f"{level}.yaml", f"include: {level + 1}.yaml\n" if deep else "a: 1\n")
    first = "[1.yaml]" if deep else f"[{', '.join(f'{i}.yaml' for i in range(1, 60))}]"
    problems = refused(write("0.yaml", f"include: {first}\n"))
    assert problems[0] == ("50" if deep else "0") + ".yaml:1: `include`: more than 50 files"


def test_only_regular_files_are_read():
    os.mkfifo("pipe")
    assert refused("pipe") == ["pipe: this is no regular file; a YAML file is expected"]
    assert refused(write("f.yaml", "\ninclude: /dev/zero")) == [
        "f.yaml:2: `include`: /dev/zero: this is no regular file; a YAML file is expected"
    ]


def test_include_is_a_plain_key_further_in():
    assert load(write("f.yaml", "a: {include: b.yaml}")).data == {"a": {"include": "b.yaml"}}


def test_bad_includes_are_reported_where_they_stand():
    Path("folder").mkdir()
    write("bad.yaml", "a: 1\na: 2\n")
    text = "include:\n  - sub/none.yaml\n  - folder\n  - bad.yaml\na: 1\n"
    assert refused(write("f.yaml", text)) == [
        "f.yaml:2: `include`: sub/none.yaml: no such file",
        "f.yaml:3: `include`: folder: this is a folder; a YAML file is expected",
        "bad.yaml:2: duplicate key `a`, first on line 1",
    ]
    for value in ("3", "[a.yaml, 3]", "{a: b}", "null", "['']", '"a\\0b"'):
        (problem,) = refused(write("f.yaml", f"x: 1\ninclude: {value}"))
        assert problem.startswith("f.yaml:2: `include` must be a path or a list of paths")


def test_includes_in_a_circle_show_the_chain():
    write("a.yaml", "include: sub/b.yaml\n")
    write("sub/b.yaml", "x: 1\ninclude: [c.yaml]\n")
    write("sub/c.yaml", "include: ./../sub/b.yaml\n")
    circle = "sub/b.yaml -> sub/c.yaml -> sub/b.yaml"
    assert refused("a.yaml") == [
        f"sub/c.yaml:1: `include`: files include each other in a circle: {circle}"
    ]
    assert refused(write("self.yaml", "include: self.yaml")) == [
        "self.yaml:1: `include`: files include each other in a circle: self.yaml -> self.yaml"
    ]


# Layers ------------------------------------------------------------------------------------------


def test_order_of_precedence():
    defaults = {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 0}
    base = write("base.yaml", "b: 1\nc: 1\nd: 1\ne: 1\nf: 1\n")
    write("more/10.yaml", "d: 3\ne: 3\nf: 3\n")
    write("more/9.yaml", "d: 4\n")
    write("more/ignored.yml", "d: 5\n")
    extra = [write("extra.yaml", "c: 2\nd: 2\n"), "more"]
    layer = load(base, extra, ["e=6", "f=6", "f=7"], defaults)
    assert layer.data == {"a": 0, "b": 1, "c": 2, "d": 4, "e": 6, "f": 7}
    origins = [str(layer.origins[key,]) for key in "abcdef"]
    assert origins == [
        "default", "base.yaml:1", "extra.yaml:1", "more/9.yaml:1", "-set", "-set",
    ]  # fmt: skip
    files = ("default", "base.yaml", "extra.yaml", "more/10.yaml", "more/9.yaml", "-set")
    assert layer.sources == files


def test_another_name_replaces_the_whole_node():
    lower = {"posterior": {"name": "planar", "num_layers": 3, "base": {"name": "full", "x": 1}}}
    upper = {"posterior": {"name": "hvae", "steps": 2}}
    merged = merge(Layer.of(lower), Layer.of(upper, ASSIGNED))
    assert merged.data == upper
    assert set(merged.origins) == {(), *[("posterior", *k) for k in [(), ("name",), ("steps",)]]}
    inner = {"posterior": {"base": {"name": "diagonal"}}}
    merged = merge(Layer.of(lower), Layer.of(inner, ASSIGNED))
    assert merged.data["posterior"] == {
        "name": "planar", "num_layers": 3, "base": {"name": "diagonal"},
    }  # fmt: skip
    assert merged.origins["posterior", "num_layers"] == DEFAULT


@pytest.mark.parametrize("upper", [{"name": "planar", "b": 2}, {"b": 2}])
def test_the_same_name_or_none_merges(upper: dict[str, Any]):
    merged = merge(Layer.of({"p": {"name": "planar", "a": 1}}), Layer.of({"p": upper}))
    assert merged.data == {"p": {"name": "planar", "a": 1, "b": 2}}


def test_the_top_level_is_no_component():
    merged = merge(Layer.of({"name": "expA", "a": 1}), Layer.of({"name": "expB"}))
    assert merged.data == {"name": "expB", "a": 1}


def test_lists_null_and_mappings_of_another_kind_replace():
    lower = {"a": [1, {"x": 1}], "b": {"x": 1}, "c": None, "d": {"x": 1}}
    upper = {"a": [2], "b": None, "c": {"y": 1}, "d": 0}
    merged = merge(Layer.of(lower), Layer.of(upper, ASSIGNED))
    assert merged.data == upper
    assert merged.origins == Layer.of(upper, ASSIGNED).origins


def test_a_mapping_comes_from_the_first_file_that_wrote_it():
    first, second = Origin("a.yaml", 1), Origin("b.yaml", 1)
    layers = [Layer.of({"s": {}}), Layer.of({"s": {"x": 1}}, first), Layer.of({"s": {}}, second)]
    merged = merge(merge(layers[0], layers[1]), layers[2])
    assert merged.origins["s",] == first


# Layers in which a path is a mapping everywhere or nowhere, and nothing has a `name`.
LEAVES = [("a",), ("s", "x"), ("s", "y"), ("s", "t", "z"), ("u", "x")]
leaf_values = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
flat_layers = st.dictionaries(st.sampled_from(LEAVES), leaf_values)
NOTHING = Layer({}, {(): DEFAULT})


def nested(flat: dict[tuple[str, ...], Any], origin: Origin) -> Layer:
    data: dict[str, Any] = {}
    for path, value in flat.items():
        inner = data
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return Layer.of(data, origin)


def at(layer: Layer, path: tuple[str, ...]) -> Any:
    value: Any = layer.data
    for key in path:
        value = value[key]
    return value


@quick
@given(st.lists(flat_layers, min_size=1, max_size=4))
def test_the_last_layer_that_sets_a_value_gives_it_and_its_origin(flats: list[dict]):
    merged = NOTHING
    expected: dict[tuple[str, ...], Any] = {}
    for index, flat in enumerate(flats):
        origin = Origin("layer", index)
        merged = merge(merged, nested(flat, origin))
        expected |= {path: (value, origin) for path, value in flat.items()}
    assert {path: (at(merged, path), merged.origins[path]) for path in expected} == expected
    present = {path for path in LEAVES if path in merged.origins}
    assert present == set(expected)


@quick
@given(flat_layers, flat_layers, flat_layers)
def test_merging_is_associative(a: dict, b: dict, c: dict):
    x, y, z = (nested(flat, Origin(str(i))) for i, flat in enumerate([a, b, c]))
    assert merge(merge(x, y), z) == merge(x, merge(y, z))


values = st.recursive(
    leaf_values, lambda v: st.dictionaries(st.sampled_from(["name", "x", "y"]), v), max_leaves=6
)


@quick
@given(st.dictionaries(st.sampled_from(["name", "x", "y"]), values))
def test_an_empty_layer_changes_nothing(data: dict[str, Any]):
    layer = Layer.of(data, ASSIGNED)
    assert merge(layer, NOTHING) == layer == merge(NOTHING, layer) == merge(layer, layer)


# -set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("a=0", {"a": 0}),
        ("a=false", {"a": False}),
        ("a.b=null", {"a": {"b": None}}),
        ("a.b.c=1e-3", {"a": {"b": {"c": 0.001}}}),
        ("a=[1, {b: 2}]", {"a": [1, {"b": 2}]}),
        ("a={b: {c: on}}", {"a": {"b": {"c": "on"}}}),
        ("a=b=c", {"a": "b=c"}),
        ("a=''", {"a": ""}),
        ("a= 3", {"a": 3}),
    ],
)
def test_sets_yaml_values(text: str, data: dict[str, Any]):
    layer = load(write("f.yaml", "{}"), [], [text])
    assert repr(layer.data) == repr(data)
    inside = {path: origin for path, origin in layer.origins.items() if path}
    assert set(inside.values()) == {ASSIGNED}


def test_sets_from_left_to_right_over_components():
    base = write("f.yaml", "p: {name: planar, num_layers: 3}\nl: [1]")
    layer = load(base, [], ["p.name=hvae", "p.steps=2", "p.steps=4", "l=[5, 6]"])
    assert layer.data == {"p": {"name": "hvae", "steps": 4}, "l": [5, 6]}


IAF = {"name": "iaf", "num_layers": 9}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["p.num_layers=9", "p.name=iaf"], {"p": IAF}),
        (["p.name=iaf", "p.num_layers=9"], {"p": IAF}),
        (["p.num_layers=9", "p={name: iaf}"], {"p": IAF}),
        (["p={name: iaf}", "p.num_layers=7", "p.num_layers=9"], {"p": IAF}),
        (["p={name: iaf, num_layers: 7}", "p.num_layers=9"], {"p": IAF}),
        (["p.base.x=1", "p.name=chain", "p.base.name=full"],
         {"p": {"name": "chain", "base": {"x": 1, "name": "full"}}}),
        (["l[1].x=9", "l=[{x: 1}, {y: 3}]"], {"l": [{"x": 1}, {"x": 9, "y": 3}]}),
        (["l+=[3]", "l=[1, 2]"], {"l": [1, 2, 3]}),
        (["l=[1, 2]", "l=[3]"], {"l": [3]}),
    ],
)  # fmt: skip
def test_what_is_typed_arrives_whatever_the_order(texts: list[str], expected: dict[str, Any]):
    base = write("f.yaml", "p: {name: planar, width: 3}\nl: [1]")
    data = load(base, [], texts).data
    assert {key: data[key] for key in expected} == expected


UNDONE = "another assignment of -set undoes this one; leave one of them out"


@pytest.mark.parametrize(
    ("texts", "path"),
    [
        (["p={name: planar, num_layers: 9}", "p.name=iaf"], "p.num_layers"),
        (["p.num_layers=9", "p={num_layers: 7}"], "p.num_layers"),
        (["a=1", "a.x=2"], "a"),
        (["a.x=2", "a=1"], "a"),
        (["l[0]=5", "l=[1]"], "l[0]"),
    ],
)
def test_assignments_that_undo_each_other_are_refused(texts: list[str], path: str):
    base = write("f.yaml", "p: {name: planar}\nl: [1, 2]\n")
    assert refused(base, [], texts) == [f"-set: `{path}`: {UNDONE}"]


ASSIGNMENTS = [
    "p.name=iaf", "p.name=planar", "p.x=1", "p.x=2", "p={name: iaf, x: 3}", "p={x: 4}",
    "l=[1, {x: 2}]", "l[1].x=5", "l+=[6]", "l[0]=7", "s=8", "s=null",
]  # fmt: skip


@quick
@given(st.permutations(ASSIGNMENTS), st.integers(1, 5))
def test_the_last_word_about_each_key_is_in_the_result_or_an_error(words: list[str], count: int):
    texts = words[:count]
    base = write("f.yaml", "p: {name: planar, y: 0}\nl: [1, {x: 0}]\ns: 0")
    try:
        data = load(base, [], texts).data
    except ConfigError as error:
        assert UNDONE in str(error)
        return
    last = dict(text.split("=", 1) for text in texts)
    for key, value in last.items():
        if key in ("p.name", "p.x", "s"):
            place = data["p"][key[2:]] if key != "s" else data["s"]
            assert str(place).replace("None", "null") == value
    assert "l[1].x" not in last or data["l"][1]["x"] == 5
    assert "l[0]" not in last or data["l"][0] == 7
    assert "l+" not in last or 6 in data["l"]


def test_an_element_of_a_list_is_changed_and_the_others_keep_their_origins():
    base = write("f.yaml", "e:\n- {name: a, n: 1}\n- {name: b, n: 2}\ns: [x]\n")
    layer = load(base, [], ["e[1].n=9", "s+=[y, z]"])
    assert layer.data == {"e": [{"name": "a", "n": 1}, {"name": "b", "n": 9}], "s": [*"xyz"]}
    origins = {
        (): 1, ("e",): 1, ("e", 0): 2, ("e", 0, "name"): 2, ("e", 0, "n"): 2, ("e", 1): 3,
        ("e", 1, "name"): 3, ("e", 1, "n"): None, ("s",): 4, ("s", 0): 4, ("s", 1): None,
        ("s", 2): None,
    }  # fmt: skip
    assert {path: origin.line for path, origin in layer.origins.items()} == origins
    renamed = load(base, [], ["e[0].name=c", "e[0].m=3"])
    assert renamed.data["e"] == [{"name": "c", "m": 3}, {"name": "b", "n": 2}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epochs", "'epochs' has no `=`; write -set key.path=value"),
        ("=3", "'=3' has an empty key; write -set key.path=value"),
        ("a..b=3", "'a..b=3' has an empty key; write -set key.path=value"),
        ("a. b=3", "'a. b=3' has an empty key; write -set key.path=value"),
        ("a.b=", "`a.b` has an empty value; write `a.b=null` or `a.b=''`"),
        ("a={b: 1, b: 2}", "`a`: duplicate key `b`, first on line 1"),
        ("l.0=3", "`l` is a list; name an element, as in `l[0]`"),
        ("l.0.x=3", "`l` is a list; name an element, as in `l[0]`"),
        ("l[1].x.y[0]=3", "`l[1].x.y` is no list so far; set it whole, `l[1].x.y=[...]`"),
        ("l[2]=3", "`l[2]`: the list has 2 elements, from [0]"),
        ("m+=[1]", "`m` is no list so far; set it whole, `m=[...]`"),
        ("l+=1", "`l+=` appends a list; write `l+=[...]`"),
        ("l[x]=1", "'l[x]=1': write -set key.path=value, or list[0].key=value"),
        ("l[-1]=1", "'l[-1]=1': write -set key.path=value, or list[0].key=value"),
        ("a b=1", "'a b=1': write -set key.path=value, or list[0].key=value"),
        ("a=#1", "`a`: `#` begins a comment in YAML; put the value in quotes, 'a=\"#1\"'"),
        ("a=run #5",
         "`a`: `#` begins a comment in YAML; put the value in quotes, 'a=\"run #5\"'"),
    ],
)  # fmt: skip
def test_refuses_to_set(text: str, problem: str):
    base = write("f.yaml", "l: [1, {x: 2}]")
    assert refused(base, [], ["ok=1", text]) == [f"-set: {problem}"]


def test_a_number_sign_that_begins_no_comment_is_set():
    layer = load(write("f.yaml", "{}"), [], ["a=run#5", "b='run #5'", 'c={d: "# e"}'])
    assert layer.data == {"a": "run#5", "b": "run #5", "c": {"d": "# e"}}


def test_refuses_to_set_bad_yaml():
    (problem,) = refused(write("f.yaml", "a: 1"), [], ["a=[1"])
    assert problem.startswith("-set: `a`: YAML syntax: ")


def test_loading_needs_neither_torch_nor_pydantic():
    root = Path(__file__).parent.parent
    code = (
        "import sys, utils.config.loading, utils.config.identity;"
        "assert 'pydantic' not in sys.modules;"
        "import utils.config.validation; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_a_file_of_another_user_includes_only_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "shared" / "parts").mkdir(parents=True)
    (tmp_path / "private.yaml").write_text("experiment: SECRET\n")
    (tmp_path / "shared" / "parts" / "seed.yaml").write_text("seed: 3\n")
    outside, beside = tmp_path / "shared" / "outside.yaml", tmp_path / "shared" / "beside.yaml"
    outside.write_text("include: ../private.yaml\n")
    beside.write_text("include: parts/seed.yaml\n")
    assert read_file(outside).data == {"experiment": "SECRET"}  # a file of one's own may
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert read_file(beside).data == {"seed": 3}
    with pytest.raises(ConfigError, match=r"outside\.yaml:1: `include`: .* another user") as error:
        read_file(outside)
    assert "SECRET" not in str(error.value)
