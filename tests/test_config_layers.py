"""Layers over layers: which value wins, and where it comes from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config_files import quick, write
from utils.config.layers import Layer, merge
from utils.config.loading import load
from utils.config.sources import ASSIGNED, DEFAULT, Origin

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


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
