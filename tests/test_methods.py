"""How methods are labelled and sorted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gap_runs import annealed, importance, optimum
from utils.results.methods import Method, settings_text

USUAL = annealed("ais", 500, 100).options


@pytest.mark.parametrize(
    ("estimator", "options", "label"),
    [
        ("exact", {}, "exact"),
        ("importance", {"num_samples": 5000}, "IWAE-5000"),
        ("importance", {"num_samples": 5, "proposal": "student"}, "IWAE-5 (proposal=student)"),
        ("ais", USUAL, "AIS-500x100"),
        ("bdmc", USUAL | {"schedule": "adaptive"}, "BDMC-500x100 (adaptive)"),
        (
            "ais",
            USUAL | {"path": "posterior", "num_leapfrog": 3, "resample_below": 0.5, "more": 1},
            "AIS-500x100 (posterior, 3 leapfrog, resampled below ESS 0.5, more=1)",
        ),
        (
            "max",
            {"of": [{"name": "importance", "num_samples": 7}, {"name": "ais"} | USUAL]},
            "max(IWAE-7, AIS-500x100)",
        ),
        ("mine", {"size": 3, "way": "b"}, "mine (size=3, way=b)"),
    ],
)
def test_labels_are_stable_because_random_streams_go_by_them(
    estimator: str, options: dict[str, Any], label: str
) -> None:
    assert Method(estimator, settings_text(options)).label == label


def test_a_local_optimum_goes_by_its_family_and_search() -> None:
    assert (
        optimum("FFG (small)", "fast, max_steps=200").label == "FFG (small) (fast, max_steps=200)"
    )


def test_settings_are_the_same_text_however_they_are_given() -> None:
    text = settings_text({"b": [1, 2], "a": 0.5, "none": None})
    assert text == '{"a":0.5,"b":[1,2]}' == settings_text({"a": 0.5, "b": (1, 2)})


def test_methods_are_sorted_by_the_size_of_their_settings() -> None:
    methods = [importance(20), importance(100), importance(5000), optimum("AF"), optimum("FFG")]
    shuffled = [methods[i] for i in (3, 2, 0, 4, 1)]
    assert sorted(shuffled, key=lambda method: method.order) == methods
