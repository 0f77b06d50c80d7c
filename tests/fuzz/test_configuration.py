"""Configurations as nobody should write them: refused in words, at a place, and soon.

Real configurations are mutated as trees and as text, and ``-set`` is given words of all kinds;
each is then carried as far as ``--dry-run`` goes. The cases are the same in every run; one that
fails is printed small, and ``--debug`` on its command shows the traceback.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main as program
from experiments.runner.schema import DEFAULTS, REGISTRIES
from utils.config.layers import paths, value_at
from utils.config.loading import load
from utils.config.sources import KeyPath, show_path
from utils.registry import REQUIRED, Entry, Registry

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DONE, USAGE, DATA = 0, 2, 3
MAX_CPU_SECONDS = 10.0

same_each_time = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def tree(base: str, *more: str) -> dict[str, Any]:
    layer = load(CONFIGS / base, [CONFIGS / name for name in more], [], DEFAULTS)
    return deepcopy(dict(layer.data))


TREES = [
    tree("quickstart/base.yaml", "quickstart/additional/gaps.yaml"),
    tree("quickstart/base.yaml", "posterior/chain_example.yaml"),
    tree("quickstart/base.yaml", "quickstart/additional/hvi_avo_gaps.yaml"),
    tree("linear_gaussian/base.yaml"),
    tree("avo_toy/base.yaml", "avo_toy/additional/iaf_avo.yaml"),
    tree("expA/base.yaml", "short.yaml", "expA/additional/digits.yaml"),
    {},
]
COMPONENTS = sorted({name for registry in REGISTRIES.values() for name in registry.names()})
OPTIONS = sorted(
    {
        option.name
        for registry in REGISTRIES.values()
        for entry in registry
        for option in entry.options
    }
)
WORDS = ["name", "data", "include", "run", "last", "best", "train", "test", "seed", "=1+1", "a.b"]
CHANGES = ["replace", "delete", "rename", "add", "move", "wrap", "component"]
PLACES = re.compile(r"  (-set|default|\S*\.yaml(:\d+)?|\S*/\w*(:\d+)?|[^:]+): \S")
PYTHON = re.compile(r"Traceback|\b[A-Z]\w+(Error|Exception|Warning|Interrupt)\b|site-packages")

texts = st.text(max_size=8) | st.sampled_from([*WORDS, *COMPONENTS, *OPTIONS])
texts |= st.sampled_from(["x" * 5000, "${HOME}", "../../etc/passwd", "<script>", "a\0b", "1e-3"])
numbers = st.sampled_from([0, 1, 2, 3, 10**9, 10**10, 10**30, -1, -(10**30)])
numbers |= st.sampled_from([0.0, 0.5, 1.0, -0.5, 1e-300, 1e300, float("inf"), float("nan")])
scalars = st.none() | st.booleans() | numbers | texts
components = st.builds(
    lambda name, options: {"name": name, **options},
    st.sampled_from(COMPONENTS),
    st.dictionaries(st.sampled_from(OPTIONS), scalars, max_size=2),
)
junk = st.recursive(
    scalars | components,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def put(data: Any, path: KeyPath, value: Any) -> None:
    value_at(data, path[:-1])[path[-1]] = value


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A real configuration with one to four changes."""
    data = deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(1, 4))):
        places = [path for path in paths(data, ()) if path] or [("training",)]
        path = draw(st.sampled_from(places))
        around, value = value_at(data, path[:-1]), value_at(data, path)
        change = draw(
            st.sampled_from(["replace", "delete", "rename", "add", "move", "wrap", "component"])
        )
        if change == "delete" and value is not None:
            del around[path[-1]]
        elif change == "rename" and isinstance(path[-1], str):
            around[draw(texts)] = around.pop(path[-1], None)
        elif change == "add" and isinstance(value, dict):
            value[draw(texts)] = draw(junk)
        elif change == "move":
            put(data, path, deepcopy(value_at(data, draw(st.sampled_from(places)))))
        elif change == "wrap":
            put(data, path, draw(st.sampled_from([[value], {"name": value}, [value, value]])))
        elif change == "component":
            put(data, path, draw(components))
        else:
            put(data, path, draw(junk))
    return data


def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that fit an annotation of an option, or nearly."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        registries = [item for item in arguments[1:] if isinstance(item, Registry)]
        return of_registry(registries[0]) if registries else of_type(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (list, Sequence):
        return st.lists(of_type(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(of_type, arguments)).map(list)
    if arguments:  # a union
        return st.one_of([of_type(argument) for argument in arguments])
    return SIMPLE[annotation]


def of_registry(registry: Registry[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Components of a registry, each with what it requires and some of its other options."""

    def of_entry(entry: Entry[Any]) -> st.SearchStrategy[dict[str, Any]]:
        needed = {o.name: of_type(o.annotation) for o in entry.options if o.default is REQUIRED}
        others = {o.name: of_type(o.annotation) for o in entry.options if o.name not in needed}
        options = st.fixed_dictionaries(needed, optional=others)
        return options.map(lambda chosen: {"name": entry.name, **chosen})

    return st.deferred(lambda: st.sampled_from(list(registry)).flatmap(of_entry))


SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 9),
    float: st.sampled_from([0, 1e-3, 0.5, 1, 1.5, 9]),
    bool: st.booleans(),
    str: st.sampled_from(["a", "train"]),
    Path: st.just("nowhere"),
    type(None): st.none(),
}
SECTIONS: dict[str, tuple[KeyPath, str]] = {
    "data": (("data",), "datasets"),
    "model": (("model",), "models"),
    "encoder": (("encoder",), "encoders"),
    "posterior": (("posterior",), "posteriors"),
    "loss": (("loss",), "losses"),
    "optimiser": (("training", "optimiser"), "optimisers"),
    "schedule": (("training", "schedule"), "schedules"),
    "setting": (("local_optimisation", "setting"), "local_settings"),
    "estimator": (("evaluation", "estimators", 0), "estimators"),
}


@st.composite
def recombined(draw: st.DrawFn) -> dict[str, Any]:
    """A real configuration with one to three other components, whose options have their types."""
    data = deepcopy(draw(st.sampled_from(TREES[:-1])))
    for section in draw(st.lists(st.sampled_from(list(SECTIONS)), min_size=1, max_size=3)):
        path, kind = SECTIONS[section]
        put(data, path, draw(of_registry(REGISTRIES[kind])))
    return data


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """A real file with one to four stretches cut out, doubled or overwritten."""
    text = yaml.safe_dump(draw(st.sampled_from(TREES)), sort_keys=False)
    pieces = st.sampled_from(["\t", ":", "- ", "&a ", "*a", "{", "[", "'", '"', "#", "\n", "!!x "])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 20))
        replacement = draw(pieces | st.just(2 * text[start:end]) | st.text(max_size=4))
        text = text[:start] + replacement + text[end:]
    return text


@st.composite
def words_of_set(draw: st.DrawFn) -> str:
    """``key=value`` with a key that exists, nearly does, or does not."""
    data = draw(st.sampled_from(TREES))
    known = [show_path(path).strip("`") for path in paths(data, ()) if path]
    key = draw(st.sampled_from(known or ["seed"]) | st.sampled_from(OPTIONS) | texts)
    key += draw(st.sampled_from(["", "", "", ".name", "[0]", "[9]", "+", ".x", "["]))
    value = yaml.safe_dump(draw(junk), default_flow_style=True, width=10**6)
    return f"{key}{draw(st.sampled_from(['=', '=', '=', '', '==']))}{value.splitlines()[0]}"


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VI_RESULTS", str(folder / "results"))
    monkeypatch.setenv("VI_DATA", str(folder / "data"))
    monkeypatch.setenv("NO_COLOR", "1")


def ended(arguments: list[str]) -> tuple[Any, str, str]:
    """Exit code of main.py, and what it said on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program.main(arguments)
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def check(*arguments: str) -> None:
    """The property: an exit code of the table, words for people, a place, soon."""
    began = time.process_time()
    code, out, err = ended(["--dry-run", *arguments])
    assert code in (DONE, USAGE, DATA), err
    assert PYTHON.search(err) is None, err
    if code != DONE:
        assert out == "", err
    if err.startswith("config error"):
        head, *lines = err.splitlines()
        assert head == f"config error ({len(lines)}):"
        assert all(PLACES.match(line) for line in lines), err
    assert time.process_time() - began < MAX_CPU_SECONDS


def check_file(content: str) -> None:
    Path("f.yaml").write_bytes(content.encode(errors="surrogatepass"))
    check("-config", "f.yaml")


def check_words(words: list[str]) -> None:
    base = str(CONFIGS / "quickstart" / "base.yaml")
    check("-config", base, *(f"-set={word}" for word in words))


@settings(same_each_time, max_examples=30)
@given(mutated())
def test_a_mutated_tree_is_fine_or_refused_in_words(data: dict[str, Any]):
    check_file(yaml.safe_dump(data, sort_keys=False))


@settings(same_each_time, max_examples=30)
@given(recombined())
def test_other_components_are_fine_or_refused_in_words(data: dict[str, Any]):
    check_file(yaml.safe_dump(data, sort_keys=False))


@settings(same_each_time, max_examples=30)
@given(mutated_texts())
def test_a_mutated_text_is_fine_or_refused_in_words(text: str):
    check_file(text)


@settings(same_each_time, max_examples=30)
@given(st.lists(words_of_set(), min_size=1, max_size=4))
def test_words_of_set_are_fine_or_refused_in_words(words: list[str]):
    check_words(words)


@pytest.mark.slow
@settings(same_each_time, max_examples=1200)
@given(mutated())
def test_many_mutated_trees_are_fine_or_refused_in_words(data: dict[str, Any]):
    check_file(yaml.safe_dump(data, sort_keys=False))


@pytest.mark.slow
@settings(same_each_time, max_examples=1200)
@given(recombined())
def test_many_other_components_are_fine_or_refused_in_words(data: dict[str, Any]):
    check_file(yaml.safe_dump(data, sort_keys=False))


@pytest.mark.slow
@settings(same_each_time, max_examples=600)
@given(mutated_texts())
def test_many_mutated_texts_are_fine_or_refused_in_words(text: str):
    check_file(text)


@pytest.mark.slow
@settings(same_each_time, max_examples=600)
@given(st.lists(words_of_set(), min_size=1, max_size=4))
def test_many_words_of_set_are_fine_or_refused_in_words(words: list[str]):
    check_words(words)
