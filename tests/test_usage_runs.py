"""Runs measure the use of their latent dimensions, and nothing else changes by it."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pandas as pd
import pytest

import main as program
import plot_from_db
from experiments.reporting.units import unit_figure
from experiments.runner.phases import usage
from tests.components import SEED
from utils.results.folder import RunFolder

pytestmark = pytest.mark.usefixtures("results_here")

QUICKSTART = str(Path(__file__).resolve().parent.parent / "configs" / "quickstart" / "base.yaml")
TINY = [
    "model.latent_dim=3",
    "model.decoder.hidden=[8]",
    "encoder.hidden=[8]",
    "training.epochs=2",
    "training.evaluate_every=1",
    f"seed={SEED}",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation={batch_size: 2, max_data: 5, estimators: [{name: importance, num_samples: 20}]}",
]


def run(*assignments: str) -> int:
    return program.main(["-config", QUICKSTART, "-set", *TINY, *assignments])


def only_folder(results: Path) -> RunFolder:
    (folder,) = (results / "runs").iterdir()
    return RunFolder(folder)


@pytest.mark.parametrize("posterior", ["gaussian", "planar"])
def test_a_run_records_and_prints_what_its_posterior_uses(tmp_path, capsys, posterior):
    assert run(f"posterior.name={posterior}") == 0
    folder = only_folder(tmp_path / "results")
    rows = [row for row in folder.estimates.read() if row.estimator != "importance"]
    found = {(row.estimator, row.name): 0 for row in rows}
    for row in rows:
        assert (row.phase, row.split, row.method.options) == ("estimate", "test", {"num_data": 5})
        found[row.estimator, row.name] += 1
    assert found == {
        **{("information", name): 5 for name in ("kl", "mutual_information", "aggregate_kl")},
        **{("units", name): 3 for name in ("dimension_kl", "dimension_spread", "active_units")},
    }
    told = [row.value for row in rows if row.name == "mutual_information"]
    assert max(told) <= math.log(5) + 1e-9
    active = sum(row.value for row in rows if row.name == "active_units")
    assert f"{active:.0f} of 3 units active, mutual information " in capsys.readouterr().out
    metrics = {(row.phase, row.name): row.value for row in folder.metrics.read()}
    assert metrics["estimate", "units-5/active_units"] == active
    mean = math.fsum(told) / 5
    assert metrics["estimate", "information-5/mutual_information"] == pytest.approx(mean)
    assert {"active_units", "mutual_information", "aggregate_kl"} <= {
        name for phase, name in metrics if phase == "train"
    }


def test_tables_count_active_units_and_the_figure_shows_each(tmp_path, capsys):
    for seed in range(2):
        assert run(f"seed={SEED + seed}") == 0
    capsys.readouterr()
    names = ["active_units", "dimension_kl", "mutual_information"]
    assert plot_from_db.main(["table", "-name", *names, "--format", "csv"]) == 0
    written = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(written.out))
    counts, sums = [], []
    for path in (tmp_path / "results" / "runs").iterdir():
        rows = RunFolder(path).estimates.read()
        counts.append(sum(r.value for r in rows if r.name == "active_units"))
        sums.append(math.fsum(r.value for r in rows if r.name == "dimension_kl"))
    assert float(row["active units (units-5)"]) == sum(counts) / 2
    assert float(row["dimension_kl (units-5)"]) == pytest.approx(sum(sums) / 2)
    assert float(row["dimension_kl (units-5) s.e."]) == pytest.approx(abs(sums[0] - sums[1]) / 2)
    assert "Data points: digits test 5." in written.err  # not the one row of a count
    figure = tmp_path / "units.png"
    assert plot_from_db.main(["units", "--output", str(figure)]) == 0
    assert figure.stat().st_size > 1000


def test_a_figure_of_runs_that_measured_nothing_says_so(tmp_path, capsys):
    assert run("runtime.diagnostics=false") == 0
    assert plot_from_db.main(["units", "--output", str(tmp_path / "units.png")]) == 2
    assert "no run has measured its units" in capsys.readouterr().err


def test_what_is_measured_changes_no_other_number(tmp_path, monkeypatch):
    assert run() == 0
    measured = only_folder(tmp_path / "results")
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "without"))
    assert run("runtime.diagnostics=false") == 0
    plain = only_folder(tmp_path / "without")
    assert plain.path.name == measured.path.name
    added = ("information", "units", "active_units", "mutual_information", "aggregate_kl")
    for name in ("metrics.csv", "estimates.csv"):
        lines = (measured.path / name).read_text().splitlines()
        rest = [line for line in lines if not any(f",{word}" in line for word in added)]
        assert rest == (plain.path / name).read_text().splitlines()
        assert len(rest) < len(lines)


@pytest.mark.parametrize(
    "stop_at", [0, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4))]
)
def test_a_measurement_that_was_cut_off_goes_on(tmp_path, monkeypatch, stop_at):
    assert run("posterior.name=planar") == 0
    whole = only_folder(tmp_path / "results")
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "cut"))
    original, calls = usage.rows_of, 0

    def stopping(*arguments):
        nonlocal calls
        calls += 1
        if calls == stop_at + 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(usage, "rows_of", stopping)
    assert run("posterior.name=planar") == 130
    again = only_folder(tmp_path / "cut")
    assert run("posterior.name=planar") == 0
    for name in ("metrics.csv", "estimates.csv"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_of_one_datum_there_is_a_word(tmp_path, capsys):
    assert run("evaluation.max_data=1") == 0
    message = "no active units and no mutual information of test: they compare data"
    assert message in capsys.readouterr().err
    estimates = only_folder(tmp_path / "results").estimates.read()
    assert {row.estimator for row in estimates} == {"importance"}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["training={encoder_steps: 2, fixed: [encoder]}"], "leave one of them out"),
        (["training.encoder_steps_until=mutual_information"], "set both"),
        (["training.encoder_steps=0"], "greater than 0"),
        (["loss={name: iwae, free_bits: 1}"], "unknown key `loss.free_bits`"),
    ],
)
def test_steps_of_the_encoder_that_make_no_sense(assignments, message, capsys):
    assert run(*assignments) == 2
    assert message in capsys.readouterr().err


def test_the_end_of_the_encoders_steps_needs_validation_data(capsys):
    steps = "training={encoder_steps: 2, encoder_steps_until: mutual_information}"
    data = "data={name: linear_gaussian, dim: 4, num_validation: 0}"
    likelihood = "model.likelihood={name: gaussian}"
    assert run(steps, data, likelihood) == 2
    assert "compares data of a validation split" in capsys.readouterr().err


def test_units_are_drawn_beside_a_run_that_was_cut_off_amid_them() -> None:
    config = {"posterior": {"name": "gaussian"}}
    about = {"hash": "a", "posterior": "gaussian", "loss": "elbo", "dataset": "digits"}
    runs = pd.DataFrame([{"id": f"a-s{n}", "seed": n, "config": config, **about} for n in (0, 1)])
    rows = [("a-s0", 1.0), ("a-s0", 3.0), ("a-s1", 9.0)]
    estimates = pd.DataFrame(
        [{"run": run, "split": "test", "name": "dimension_kl", "value": kl} for run, kl in rows]
    )
    (line,) = unit_figure(estimates, runs).axes[0].get_lines()
    assert line.get_ydata().tolist() == [3.0, 1.0]
