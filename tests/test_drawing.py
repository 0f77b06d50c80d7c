"""What figures of experiments share."""

from __future__ import annotations

from experiments.drawing import held_out
from experiments.runner.rows import means
from utils.results.methods import Method
from utils.results.records import Estimate


def test_figures_are_of_held_out_data_where_several_splits_were_measured() -> None:
    rows = [
        Estimate("estimate", *Method("importance"), split, "elbo", datum, value)
        for split, value in (("train", -1.0), ("test", -3.0), ("simulated", -9.0))
        for datum in range(2)
    ]
    assert means(held_out(rows)) == {(Method("importance"), "elbo"): -3.0}
    assert [row.split for row in held_out(rows[:2])] == ["train", "train"]
    assert held_out([]) == []
