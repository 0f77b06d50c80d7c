"""The run's own posterior among the families that it optimises locally."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.runner.build import BuildError, settle_families
from experiments.runner.families import science_of
from experiments.runner.run import identify
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate

ROOT = Path(__file__).resolve().parent.parent
LOCAL = "phases=[local_optimisation]"
PLANAR = "posterior={name: planar}"


def config(*assignments: str, base: str = "quickstart", files: Sequence[str] = ()) -> RunConfig:
    path = ROOT / "configs" / base / "base.yaml"
    return validate(RunConfig, load(path, [ROOT / file for file in files], assignments, DEFAULTS))


def families(*assignments: str, **given: Any) -> tuple[dict[str, str], Any]:
    """Names of the posteriors by label, and the own label."""
    options = settle_families(config(*assignments, **given)).local_optimisation
    return {label: node.name for label, node in options.families.items()}, options.own


def test_without_families_the_own_posterior_is_the_only_one() -> None:
    assert families(LOCAL, PLANAR) == ({"planar": "planar"}, "planar")


def test_a_family_with_the_same_options_is_the_own_one() -> None:
    given = "local_optimisation.families={FFG: {name: gaussian}, P: {name: planar}}"
    assert families(LOCAL, PLANAR, given) == ({"FFG": "gaussian", "P": "planar"}, "P")


def test_options_that_are_given_and_by_default_are_the_same() -> None:
    given = "local_optimisation.families={AF: {name: aux_real_nvp, hidden: [200]}}"
    assert families(LOCAL, "posterior={name: aux_real_nvp}", given)[1] == "AF"


def test_a_posterior_with_other_options_is_added() -> None:
    given = "local_optimisation.families={P: {name: planar}}"
    found = families(LOCAL, PLANAR, "posterior.num_layers=3", given)
    assert found == ({"P": "planar", "own": "planar"}, "own")


def test_the_label_of_the_own_posterior_can_be_chosen() -> None:
    given = "local_optimisation={families: {FFG: {name: gaussian}}, own: mine}"
    assert families(LOCAL, PLANAR, given) == ({"FFG": "gaussian", "mine": "planar"}, "mine")


def test_the_own_posterior_can_be_left_out() -> None:
    given = "local_optimisation={families: {FFG: {name: gaussian}}, own: false}"
    assert families(LOCAL, PLANAR, given) == ({"FFG": "gaussian"}, False)


def test_runs_that_do_not_optimise_locally_stay_as_they_are() -> None:
    assert families("phases=[train]", PLANAR) == ({}, None)


@pytest.mark.parametrize("label", ["own", "mine"])
def test_a_label_that_stands_for_another_family_is_refused(label: str) -> None:
    given = f"local_optimisation={{families: {{{label}: {{name: gaussian}}}}}}"
    more = [] if label == "own" else [f"local_optimisation.own={label}"]
    with pytest.raises(BuildError, match=f"families.{label}` is not the run's own posterior"):
        families(LOCAL, PLANAR, given, *more)


def test_settling_twice_is_settling_once() -> None:
    once = settle_families(
        config(LOCAL, PLANAR, "local_optimisation.families={P: {name: radial}}")
    )
    assert settle_families(once) == once


def test_how_the_own_family_came_to_be_there_identifies_nothing(tmp_path: Path) -> None:
    by_hand = "local_optimisation.families={planar: {name: planar}}"
    named = "local_optimisation.own=planar"
    hashes = {
        identify(config(LOCAL, PLANAR, *more), tmp_path).hash
        for more in ([], [by_hand], [by_hand, named], [named])
    }
    assert len(hashes) == 1
    other = "local_optimisation.families={P: {name: planar}}"  # another stream of random numbers
    assert identify(config(LOCAL, PLANAR, other), tmp_path).hash not in hashes


def test_science_of_leaves_its_arguments_alone() -> None:
    options = {"families": {"planar": {"name": "planar"}}, "own": "planar", "scope": "context"}
    found = science_of(options, {"name": "planar"})
    assert found == {"families": {}, "own": None, "scope": "context"}
    assert options["own"] == "planar"


@pytest.mark.parametrize(
    ("posterior", "change", "own", "labels"),
    [
        ("gaussian", [], "FFG", ["FFG", "AF"]),
        ("aux_real_nvp", [], "AF", ["FFG", "AF"]),
        ("aux_real_nvp", ["posterior.hidden=[100]"], "own", ["FFG", "AF", "own"]),
        ("gaussian", ["posterior.covariance=full"], "own", ["FFG", "AF", "own"]),
    ],
)
def test_experiment_a_measures_any_posterior_by_itself(
    posterior: str, change: list[str], own: str, labels: list[str]
) -> None:
    files = [f"configs/posterior/{posterior}.yaml"]
    found, label = families(*change, base="expA", files=files)
    assert (list(found), label) == (labels, own)
