from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import MinLen
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config.identity import describe, identity, resolved
from utils.config.layers import Layer
from utils.config.loading import load
from utils.config.sources import ASSIGNED, DEFAULT, ConfigError, Origin, parse
from utils.config.validation import validate
from utils.registry import Node, Registry
from utils.types import Fraction, NonNegativeInt, PositiveFloat, PositiveInt

schedules: Registry[Any] = Registry("schedules", "utils.config.sources")
kernels: Registry[Any] = Registry("kernels", "utils.config.sources")
posteriors: Registry[Any] = Registry("posteriors", "utils.config.sources")


@schedules.register("linear")
def linear(*, steps: PositiveInt = 3) -> None: ...


@kernels.register("leapfrog")
def leapfrog(*, num_layers: PositiveInt = 1, leapfrog: bool = False) -> None: ...


@kernels.register("langevin")
def langevin(*, step_size: PositiveFloat | Annotated[Any, schedules] = 0.1) -> None: ...


@posteriors.register("gaussian")
def gaussian(latent_dim: int, *, covariance: Literal["diagonal", "full"] = "diagonal") -> None: ...


@posteriors.register("planar")
def planar(latent_dim: int, *, num_layers: PositiveInt) -> None: ...


@posteriors.register("chain")
def chain(*, transitions: list[Annotated[Any, kernels]]) -> None: ...


@dataclass(frozen=True)
class Stopping:
    patience: PositiveInt = 10

    def __post_init__(self) -> None:
        if self.patience == 13:
            raise ValueError("13 brings bad luck")


@dataclass(frozen=True)
class Training:
    batch_size: PositiveInt = 100
    learning_rate: PositiveFloat = 1
    momentum: Fraction = 0.5
    limit: float = math.inf
    clip: PositiveFloat | None = None
    stopping: Stopping | None = None
    splits: tuple[str, ...] = ("test",)
    rounds: Annotated[list[Stopping], MinLen(1)] | None = None
    threads: PositiveInt | Literal["auto", "all"] = "auto"
    shuffle: bool = True
    by_name: dict[str, Stopping] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    training: Training
    posterior: Annotated[Node, posteriors]
    warmup: Annotated[Node, schedules] | None = None
    name: str = "unnamed"  # a plain key which is also the tag of components
    seed: NonNegativeInt = 0
    folder: Path | None = None


DEFAULTS = {"training": {}, "posterior": {"name": "gaussian"}}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def valid(data: dict[str, Any]) -> Config:
    return validate(Config, Layer.of(DEFAULTS | data, Origin("f")))


def refused(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        valid(data)
    return [problem.message for problem in caught.value.problems]


# Values ------------------------------------------------------------------------------------------


def test_makes_typed_values():
    training = {"learning_rate": 2, "splits": ["a", "b"], "rounds": [{"patience": 2}]}
    config = valid({"training": training, "folder": "a/b"})
    assert config.training == Training(
        learning_rate=2.0, splits=("a", "b"), rounds=[Stopping(patience=2)]
    )
    assert type(config.training.learning_rate) is float
    assert config.folder == Path("a/b")
    assert config.posterior == Node(posteriors["gaussian"], {"covariance": "diagonal"})


def test_infinity_and_nan_are_floats_within_bounds():
    assert valid({"training": {"limit": -math.inf}}).training.limit == -math.inf
    assert math.isnan(valid({"training": {"limit": math.nan}}).training.limit)


def test_knows_components_registered_later():
    assert refused({"posterior": {"name": "late"}})
    posteriors.register("late")(lambda latent_dim: None)
    try:
        assert valid({"posterior": {"name": "late"}}).posterior.name == "late"
    finally:
        posteriors.unregister("late")


# Errors ------------------------------------------------------------------------------------------


def test_all_problems_at_once_by_file_and_line():
    Path("base.yaml").write_text("seed: -1\ntraining: {momentum: 2}\n")
    Path("flow.yaml").write_text(
        "training:\n  batchsize: 3\ninclude: base.yaml\nposterior:\n  name: planer\nname: 3\n"
    )
    merged = load("flow.yaml", [], ["warmup=linear", "training.clip='1'"], DEFAULTS)
    with pytest.raises(ConfigError) as caught:
        validate(Config, merged)
    assert str(caught.value) == (
        "config error (7):\n"
        "  base.yaml:1: `seed` must be greater than or equal to 0; got -1\n"
        "  base.yaml:2: `training.momentum` must be less than or equal to 1; got 2\n"
        "  flow.yaml:2: unknown key `training.batchsize`. Did you mean `training.batch_size`?\n"
        "  flow.yaml:5: `posterior.name` must be one of chain, gaussian, planar; got 'planer'. "
        "Did you mean 'planar'?\n"
        "  flow.yaml:6: `name` must be a string; got 3\n"
        "  -set: `training.clip` must be a number; got '1'\n"
        "  -set: `warmup` must be a mapping whose `name` is linear; got 'linear'. "
        "Write `warmup: {name: linear}`"
    )


def test_problems_inside_lists_of_components_have_lines():
    Path("f.yaml").write_text(
        "posterior:\n"
        "  name: chain\n"
        "  transitions:\n"
        "  - name: leapfrog\n"
        "  - name: leapfrog\n"
        "    num_layers: 0\n"
        "    leapfrog: 3\n"
        "  - name: langevin\n"
        "    step_size:\n"
        "      name: linear\n"
        "      steps: 1.5\n"
        "  - step_size: 1\n"
        "  - langevin\n"
        "  - name: leap-frog\n"
    )
    with pytest.raises(ConfigError) as caught:
        validate(Config, load("f.yaml", defaults=DEFAULTS))
    assert str(caught.value).split("\n")[1:] == [
        "  f.yaml:6: `posterior.transitions[1].num_layers` must be greater than 0; got 0",
        "  f.yaml:7: `posterior.transitions[1].leapfrog` must be true or false; got 3",
        "  f.yaml:11: `posterior.transitions[2].step_size.steps` must be an integer; got 1.5",
        "  f.yaml:12: missing required key `posterior.transitions[3].name`; "
        "it must be one of langevin, leapfrog",
        "  f.yaml:13: `posterior.transitions[4]` must be a mapping whose `name` is one of "
        "langevin, leapfrog; got 'langevin'. Write `{name: langevin}`",
        "  f.yaml:14: `posterior.transitions[5].name` must be one of langevin, leapfrog; "
        "got 'leap-frog'. Did you mean 'leapfrog'?",
    ]


def test_a_missing_key_is_reported_at_the_mapping_that_lacks_it():
    Path("base.yaml").write_text("seed: 1\nposterior:\n  name: planar\n")
    Path("more.yaml").write_text("posterior:\n  num_layer: 3\n")
    with pytest.raises(ConfigError) as caught:
        validate(Config, load("base.yaml", ["more.yaml"], [], {"posterior": {"name": "chain"}}))
    assert str(caught.value).split("\n")[1:] == [
        "  base.yaml:1: missing required key `training`",
        "  base.yaml:2: missing required key `posterior.num_layers`",
        "  more.yaml:2: unknown key `posterior.num_layer`. Did you mean `posterior.num_layers`?",
    ]


FIRST_KEYS = (
    "batch_size, learning_rate, momentum, limit, clip, stopping, splits, rounds, threads, shuffle"
)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": "abc"}, "`training.batch_size` must be an integer; got 'abc'"),
        ({"batch_size": "3"}, "`training.batch_size` must be an integer; got '3'"),
        ({"batch_size": True}, "`training.batch_size` must be an integer; got true"),
        ({"batch_size": 3.0}, "`training.batch_size` must be an integer; got 3.0"),
        ({"batch_size": math.inf}, "`training.batch_size` must be an integer; got .inf"),
        ({"batch_size": None}, "`training.batch_size` must be an integer; got null"),
        ({"batch_size": [1, "a"]}, "`training.batch_size` must be an integer; got [1, a]"),
        ({"batch_size": {"a": 1}}, "`training.batch_size` must be an integer; got a mapping"),
        ({"batch_size": -1}, "`training.batch_size` must be greater than 0; got -1"),
        ({"limit": False}, "`training.limit` must be a number; got false"),
        ({"clip": math.nan}, "`training.clip` must be a finite number; got .nan"),
        ({"shuffle": "yes"}, "`training.shuffle` must be true or false; got 'yes'"),
        ({"splits": "test"}, "`training.splits` must be a list; got 'test'"),
        ({"splits": ["a", 3]}, "`training.splits[1]` must be a string; got 3"),
        ({"stopping": 3}, "`training.stopping` must be a mapping; got 3"),
        ({"stopping": {"patience": 13}}, "`training.stopping`: 13 brings bad luck"),
        (
            {"stopping": {"patience": "x" * 99}},
            f"`training.stopping.patience` must be an integer; got '{'x' * 56}...",
        ),
        (
            {"threads": "al"},
            "`training.threads` must be an integer or one of auto, all; got 'al'. "
            "Did you mean 'all'?",
        ),
        ({"threads": 0}, "`training.threads` must be greater than 0 or one of auto, all; got 0"),
        (
            {"by_name": {"patience": {"patience": 0}}},
            "`training.by_name.patience.patience` must be greater than 0; got 0",
        ),
        (
            {"by_name": {"stopping": {"size": 0}}},
            "unknown key `training.by_name.stopping.size`. Valid keys: patience",
        ),
        ({"xyz": 0}, f"unknown key `training.xyz`. Valid keys: {FIRST_KEYS}, ..."),
    ],
)  # fmt: skip
def test_says_what_is_wrong(training: dict[str, Any], message: str):
    assert refused({"training": training}) == [message]


def test_an_empty_list_may_be_too_short():
    (message,) = refused({"training": {"rounds": []}})
    assert message == "`training.rounds` must be a list of at least 1; got []"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"posterior": {"name": "gaussian", "covariance": "ful"}},
            "`posterior.covariance` must be one of diagonal, full; got 'ful'. "
            "Did you mean 'full'?",
        ),
        (
            {"posterior": {"name": "Gaussian"}},
            "`posterior.name` must be one of chain, gaussian, planar; got 'Gaussian'. "
            "Did you mean 'gaussian'?",
        ),
        (
            {"posterior": {"name": None}},
            "`posterior.name` must be one of chain, gaussian, planar; got null",
        ),
        (
            {"posterior": {"covariance": "full"}},
            "missing required key `posterior.name`; it must be one of chain, gaussian, planar",
        ),
        (
            {"posterior": "planer"},
            "`posterior` must be a mapping whose `name` is one of chain, gaussian, planar; "
            "got 'planer'. Write `posterior: {name: planar}`",
        ),
        (
            {"posterior": None},
            "`posterior` must be a mapping whose `name` is one of chain, gaussian, planar; "
            "got null. Write `posterior: {name: ...}`",
        ),
        (
            {"posterior": {"name": "gaussian", "latent_dim": 3}},
            "unknown key `posterior.latent_dim`. Valid keys: name, covariance",
        ),
        (
            {"postrior": {}},
            "unknown key `postrior`. Did you mean `posterior`?",
        ),
        (
            {"name": "training", "training": {"batch_size": 0}},
            "`training.batch_size` must be greater than 0; got 0",
        ),
    ],
)
def test_says_what_is_wrong_with_components(data: dict[str, Any], message: str):
    assert refused(data) == [message]


@pytest.mark.parametrize(
    ("step_size", "message"),
    [
        (
            "x",
            "step_size` must be a number or a mapping whose `name` is linear; got 'x'. "
            "Write `step_size: {name: ...}`",
        ),
        ({"name": "linea"}, "step_size.name` must be linear; got 'linea'. Did you mean 'linear'?"),
        ({"steps": 1}, "missing required key `posterior.transitions[0].step_size.name`; "
                       "it must be linear"),
        ({"name": "linear", "steps": 0}, "step_size.steps` must be greater than 0; got 0"),
    ],
)  # fmt: skip
def test_only_the_alternative_that_was_meant_is_complained_of(step_size: Any, message: str):
    kernel = {"name": "langevin", "step_size": step_size}
    (found,) = refused({"posterior": {"name": "chain", "transitions": [kernel]}})
    assert found.removeprefix("`posterior.transitions[0].") == message


# Plain data --------------------------------------------------------------------------------------


def test_resolved_is_plain_data_with_every_default():
    posterior = {"name": "chain", "transitions": [{"name": "leapfrog"}]}
    data = resolved(valid({"posterior": posterior, "folder": "a", "seed": 3}))
    assert json.loads(json.dumps(data)) == data
    assert data["posterior"] == {
        "name": "chain",
        "transitions": [{"name": "leapfrog", "num_layers": 1, "leapfrog": False}],
    }
    assert data["training"]["splits"] == ["test"]
    assert list(data) == ["training", "posterior", "warmup", "name", "seed", "folder"]
    assert (data["seed"], data["folder"], data["warmup"]) == (3, "a", None)


def test_resolved_data_validate_to_the_same_again():
    config = valid({"training": {"stopping": {}, "clip": 3, "threads": 2}, "seed": 4})
    assert resolved(valid(resolved(config))) == resolved(config)


def test_identity_is_a_hash_of_canonical_json():
    text = '{"a":[1,true,null,"\\u00e9"],"b":{"x":0.1,"y":2}}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:10]
    assert identity({"b": {"y": 2.0, "x": 0.1}, "a": [1.0, True, None, "é"]}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"a": 2, "s": {"b": 2, "c": 3}},
        {"a": True, "s": {"b": 2, "c": 3}},
        {"a": "1", "s": {"b": 2, "c": 3}},
        {"a": 1, "s": {"b": 2, "c": [3]}},
        {"a": 1, "s": {"b": 2}},
    ],
)
def test_identity_tells_values_apart(other: dict[str, Any]):
    assert identity({"a": 1, "s": {"b": 2, "c": 3}}) != identity(other)


def test_identity_leaves_out_what_is_excluded():
    data = {"a": 1, "s": {"b": 2, "c": 3}, "c": 4}
    assert identity(data, ["s.c", "c"]) == identity({"a": 1, "s": {"b": 2}})
    assert identity(data, {"s"}) == identity({"a": 1, "c": 4})


def test_a_default_and_the_same_value_written_out_are_one_run():
    written = {"training": {"learning_rate": 1.0, "limit": math.inf, "momentum": 0.5}}
    assert identity(resolved(valid(written))) == identity(resolved(valid({})))


def test_the_listing_shows_every_value_with_its_origin():
    data = {
        "posterior": {"name": "chain", "steps": [{"name": "a", "on": "1e-3"}, {}, [{"b": None}]]},
        "sizes": [1, 2],
        "empty": {},
        "rate": 1e-05,
    }
    origins = {
        ("posterior",): Origin("f.yaml", 1),
        ("posterior", "name"): Origin("f.yaml", 2),
        ("posterior", "steps", 0, "on"): Origin("f.yaml", 30),
        ("sizes",): ASSIGNED,
    }
    assert describe(data, origins).split("\n") == [
        "posterior:",
        "  name: chain       # f.yaml:2",
        "  steps:",
        "    - name: a       # default",
        "      'on': \"1e-3\"  # f.yaml:30",
        "    - {}            # default",
        "    - - b: null     # default",
        "sizes: [1, 2]       # -set",
        "empty: {}           # default",
        "rate: 1.0e-05       # default",
    ]


quick = settings(deadline=None, max_examples=60)  # no deadline: machines are shared

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
keys = texts.filter(lambda key: "." not in key and key != "<<" and key.isprintable())
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.dictionaries(keys, trees, max_size=4))
def test_the_listing_is_yaml_that_gives_the_data_back(data: dict[str, Any]):
    parsed = parse(describe(data, {}), DEFAULT)
    assert parsed is not None
    assert repr(parsed.value) == repr(data)
