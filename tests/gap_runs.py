"""Runs with estimates of which the gaps are known by hand, and the command that shows them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import plot_from_db
from tests.tables import rows_of
from utils.results.database import database_url
from utils.results.folder import RunFolder
from utils.results.methods import Method, settings_text
from utils.results.recorder import Recorder
from utils.results.records import Estimate, RunRecord

Rows = Mapping[str, Sequence[float]]  # "phase/label of a method/split/name": a value a datum


def importance(num_samples: int = 5000) -> Method:
    return Method("importance", settings_text({"num_samples": num_samples}))


def annealed(estimator: str, num_distributions: int, num_chains: int) -> Method:
    sizes = {"num_distributions": num_distributions, "num_chains": num_chains}
    usual = {"path": "prior", "schedule": "linear", "num_leapfrog": 10}
    return Method(estimator, settings_text(sizes | usual))


def optimum(family: str, search: str = "fast") -> Method:
    return importance()._replace(family=family, search=search)


METHODS = {
    method.label: method
    for method in (
        *(importance(num_samples) for num_samples in (20, 50, 100, 5000)),
        annealed("ais", 100, 500),
        annealed("ais", 9, 9),
        annealed("bdmc", 100, 500),
        annealed("bdmc", 9, 9),
        Method("exact"),
        Method("exact_draws", settings_text({"num_samples": 2000})),
        *(optimum(family) for family in ("gaussian", "aux_real_nvp", "FFG", "AF")),
        optimum("gaussian", "paper (lr=0.1)"),
    )
}
"""The methods that the tests' runs use."""

FFG: dict[str, Any] = {"name": "gaussian"}
AF: dict[str, Any] = {"name": "aux_real_nvp", "hidden": [200]}
Read = pytest.CaptureFixture[str]
TRAIN_AND_MEASURE = ("train", "local_optimisation", "estimate")


def settings(
    posterior: Mapping[str, Any] = FFG,
    families: Mapping[str, Any] | None = None,
    *,
    phases: Sequence[str] = TRAIN_AND_MEASURE,
    weights: str = "last",
    **sections: Any,
) -> dict[str, Any]:
    """What a run's resolved configuration says, as far as gaps look at it."""
    return {
        "data": {"name": "digits"},
        "model": {"latent_dim": 8},
        "encoder": {"name": "mlp"},
        "posterior": dict(posterior),
        "local_optimisation": {"families": families or {}, "setting": {"name": "fast"}},
        "evaluation": {"weights": weights},
        "phases": list(phases),
        **sections,
    }


def initialised(run: str, weights: str | int = "last", **changes: Any) -> dict[str, Any]:
    parts = ["model", "encoder", "posterior"]
    return {"run": run, "experiment": None, "parts": parts, "weights": weights} | changes


def add_run(
    root: Path,
    config_hash: str,
    rows: Rows,
    *,
    seed: int = 0,
    status: Any = "finished",
    experiment: str = "expA",
    config: Mapping[str, Any] | None = None,
    error: float = 0.1,
) -> None:
    config = config or settings()
    record = RunRecord(
        experiment,
        config_hash,
        seed,
        dataset="digits",
        binarisation="static",
        config=config,
        posterior=config["posterior"]["name"],
        loss="elbo",
    )
    folder = RunFolder(root / "runs" / record.id)
    recorder = Recorder(folder, record, database_url(root), warn=pytest.fail, linger=0.0)
    for name, values in rows.items():
        phase, estimator, split, quantity = name.split("/")
        method = METHODS[estimator]
        recorder.add_estimates(
            Estimate(phase, *method, split, quantity, datum, value, error)
            for datum, value in enumerate(values)
        )
    if config.get("initialise"):
        recorder.add_link(config["initialise"]["run"], "initialised")
    assert recorder.close(status)


# Four data. By hand: log p is -90, -79, -85, -96 (IWAE-5000 wins at data 1 and 3);
# approximation gaps 2, 1, 1, 2; amortisation gaps 1, 3, 1, 3; inference gaps 3, 4, 2, 5.
ESTIMATED: Rows = {
    "estimate/AIS-100x500/test/log_px": (-90.0, -80.0, -85.0, -97.0),
    "estimate/IWAE-5000/test/log_px": (-91.0, -79.0, -85.5, -96.0),
    "estimate/IWAE-5000/test/elbo": (-93.0, -83.0, -87.0, -101.0),
    "estimate/IWAE-50/test/elbo": (-1.0, -1.0, -1.0, -1.0),
}
OPTIMISED: Rows = {
    "local_optimisation/gaussian (fast)/test/elbo": (-92.0, -80.0, -86.0, -98.0),
    "local_optimisation/gaussian (fast)/test/log_px": (-91.5, -79.5, -85.75, -97.5),
}
GAPS = {
    "approximation gap": (2.0, 1.0, 1.0, 2.0),
    "amortisation gap": (1.0, 3.0, 1.0, 3.0),
    "inference gap": (3.0, 4.0, 2.0, 5.0),
}


def shifted(rows: Rows, by: float, *names: str) -> Rows:
    """``rows`` with all values moved, or those only whose name begins with one of ``names``."""
    return {
        name: [value + by if name.startswith(names or ("",)) else value for value in values]
        for name, values in rows.items()
    }


def on(split: str, rows: Rows) -> Rows:
    return {name.replace("/test/", f"/{split}/"): values for name, values in rows.items()}


def plot(root: Path, *arguments: str, log_px: str = "max") -> int:
    """``gaps``; with the largest estimate as log p(x), which is easy to tell by hand."""
    options = ["--results", str(root), "--log-px", log_px]
    return plot_from_db.main(["gaps", *arguments, *options])


def table(root: Path, capsys: Read, *arguments: str) -> list[dict[str, str]]:
    """The rows that ``gaps --format csv`` gives."""
    assert plot(root, "--format", "csv", *arguments) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def shown(root: Path, capsys: Read, *arguments: str) -> list[dict[str, str]]:
    """The rows of the Markdown table."""
    assert plot(root, *arguments) == 0
    return rows_of(capsys.readouterr().out)
