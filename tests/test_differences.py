"""Tables of differences from a baseline, paired over data and seeds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import plot_from_db
from experiments.reporting import ReportError
from experiments.reporting.differences import against
from tests.tables import rows_of
from tests.test_plot_from_db import add_run
from utils.results.database import ResultsDatabase, database_url
from utils.results.records import Label

NO_LABELS = pd.DataFrame({"run": [], "name": [], "value": []})


def runs_of(*described: tuple[str, str, str, int]) -> pd.DataFrame:
    """Runs by posterior, loss, data set and seed."""
    names = ["posterior", "loss", "dataset", "seed"]
    runs = pd.DataFrame(described, columns=names)
    ids = runs["posterior"] + runs["dataset"] + runs["seed"].astype(str)
    return runs.assign(id=ids, binarisation="", data_checksum=runs["dataset"], experiment="e")


def estimates_of(run: str, **values: list[float]) -> pd.DataFrame:
    """Of three data; each value's error is 3 where it is a baseline's, else 4."""
    error = 3.0 if run.startswith("ffg") else 4.0
    rows = [
        {"run": run, "phase": "estimate", "estimator": "importance", "settings": "{}",
         "family": "", "search": "", "split": "test", "name": name, "datum": datum,
         "value": value, "standard_error": error}
        for name, of in values.items()
        for datum, value in enumerate(of)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def values(frame: pd.DataFrame, run: str, name: str) -> list[float]:
    return list(frame[(frame["run"] == run) & (frame["name"] == name)]["value"])


def test_data_are_paired_and_so_are_seeds():
    runs = runs_of(
        *(("ffg", "elbo", "mnist", seed) for seed in (0, 1)), ("iaf", "elbo", "mnist", 1)
    )
    estimates = pd.concat(
        [
            estimates_of("ffgmnist0", elbo=[0, 0, 0]),
            estimates_of(
                "ffgmnist1", elbo=[-3, -2, -1], reliable=[1, 0, 1], k_hat=[0.1, 0.9, 0.2]
            ),
            estimates_of(
                "iafmnist1", elbo=[-1, -1, -1], reliable=[1, 1, 0], k_hat=[0.3, 0.3, np.nan]
            ),
        ]
    )
    found, said = against(estimates, runs, NO_LABELS, ["posterior=ffg"])
    assert set(found["run"]) == {"iafmnist1"}
    assert values(found, "iafmnist1", "elbo") == [2, 1, 0]
    assert values(found, "iafmnist1", "reliable") == [1, 0, 0]  # both must be
    assert values(found, "iafmnist1", "k_hat") == [0.3, 0.9, 0.2]
    assert set(found["standard_error"]) == {5.0}
    assert list(found.columns) == list(estimates.columns)
    assert "posterior=ffg" in said[0] and len(said) == 1


def test_only_what_both_have_is_compared_and_on_the_same_data():
    runs = runs_of(
        *(("ffg", "elbo", data, 0) for data in ("mnist", "digits")),
        *(("iaf", "elbo", data, 0) for data in ("mnist", "digits", "cifar")),
    )
    estimates = pd.concat(
        [
            estimates_of("ffgmnist0", elbo=[1, 2]),
            estimates_of("ffgdigits0", elbo=[10, 20, 30]),
            estimates_of("iafmnist0", elbo=[2, 2, 2], log_px=[0, 0, 0]),
            estimates_of("iafdigits0", elbo=[11, 20, math.inf]),
            estimates_of("iafcifar0", elbo=[0]),
        ]
    )
    found, said = against(estimates, runs, NO_LABELS, ["posterior=ffg", "loss=elbo"])
    assert values(found, "iafmnist0", "elbo") == [1, 0]
    assert values(found, "iafdigits0", "elbo") == [1, 0, math.inf]
    assert set(found["name"]) == {"elbo"}
    assert said[1] == "1 run(s) have no such baseline."


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["posterior"], "takes AXIS=VALUE"),
        (["posterior=ffg", "posterior=iaf"], "each axis once"),
        (["postrior=ffg"], "no run has a label 'postrior'"),
        (["posterior=fgf"], "no posterior 'fgf' here; there is: ffg, iaf. Did you mean 'ffg'?"),
        (["posterior=ffg"], "several baselines (ffg, elbo; ffg, iwae)"),
        (["posterior=iaf", "loss=iwae"], "no other run has its data"),
    ],
)
def test_what_is_no_baseline_is_refused(wanted, words):
    runs = runs_of(
        ("ffg", "elbo", "mnist", 0),
        ("ffg", "iwae", "mnist", 0),
        ("iaf", "elbo", "mnist", 0),
        ("iaf", "iwae", "mnist", 1),
    )
    runs["id"] += runs["loss"]
    with pytest.raises(ReportError) as raised:
        against(estimates_of("ffgmnist0elbo", elbo=[0.0]), runs, NO_LABELS, wanted)
    assert words in str(raised.value)


def test_what_was_measured_in_other_ways_is_not_compared():
    runs = runs_of(("ffg", "elbo", "mnist", 0), ("iaf", "elbo", "mnist", 0))
    other = estimates_of("iafmnist0", elbo=[0.0]).assign(settings='{"num_samples":10}')
    estimates = pd.concat([estimates_of("ffgmnist0", elbo=[0.0]), other])
    with pytest.raises(ReportError, match="in the same way"):
        against(estimates, runs, NO_LABELS, ["posterior=ffg"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two methods at two numbers of steps, two seeds; data differ by tens, methods by one."""
    for method, offset in (("a", 0.0), ("b", 1.0)):
        for steps in (1, 2):
            for seed in (0, 1):
                folder = add_run(
                    tmp_path,
                    f"{method}{steps}",
                    seed,
                    {"elbo IWAE-5000": -90.0 + steps * offset + 10 * seed},
                )
                labels = {"method": method, "steps": str(steps)}
                folder.labels.append([Label("expA", *pair) for pair in labels.items()])
    database = ResultsDatabase(database_url(tmp_path))
    database.rebuild(tmp_path)
    database.close()
    return tmp_path


def test_a_table_of_differences_has_a_baseline_in_each_column(root, capsys):
    command = ["table", "--results", str(root), "--rows", "method", "--columns", "steps"]
    assert plot_from_db.main([*command, "--against", "method=a"]) == 0
    printed = capsys.readouterr().out
    (row,) = rows_of(printed)
    assert row["method"] == "b"
    assert row["1"].startswith("1.00 ± ") and row["2"].startswith("2.00 ± ")
    assert printed.startswith("Differences from method=a")


def test_lines_may_be_differences(root, tmp_path, capsys):
    figure = tmp_path / "lines.svg"
    options = ["--across", "steps", "--lines", "method", "--against", "method=a", "steps=1"]
    command = ["lines", "--results", str(root), *options, "--output", str(figure)]
    assert plot_from_db.main(command) == 0
    assert "Differences from method=a, steps=1" in capsys.readouterr().err
    assert figure.stat().st_size > 1000
