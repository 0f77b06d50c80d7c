"""Values given by -set."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config_files import quick, refused, write
from utils.config.loading import load
from utils.config.sources import ASSIGNED, ConfigError

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


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
