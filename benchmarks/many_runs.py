"""A results folder with many finished runs, made up, and the commands that have to do with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import main as program
from experiments.runner.earlier import CHECKPOINT
from experiments.runner.provenance import phase_codes
from experiments.runner.run import Identified, identify
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validator
from utils.results.folder import CsvLog, RunFolder
from utils.results.methods import Method, settings_text
from utils.results.records import Estimate, Metric, RunRecord

BASE = "configs/quickstart/base.yaml"
TINY = [
    "data={name: linear_gaussian, num_train: 20, num_validation: 4, num_test: 8}",
    "model={name: linear_gaussian, latent_dim: 2}",
    "encoder={name: mlp, hidden: []}",
    "evaluation={estimators: [{name: importance, num_samples: 3}]}",
    "runtime={tensorboard: false, diagnostics: false}",
]
ALL_PHASES = "phases=[train,local_optimisation,estimate]"
SEEDS = 10  # of a configuration
EPOCHS, DATA = 250, 20
QUANTITIES = ("elbo", "log_px", "log_px_a", "log_px_b", "reliable_a", "reliable_b")


def write(root: Path, num_runs: int) -> None:
    """Folders of finished runs: 1,000 rows of metrics each, and what tables and gaps are made of.

    ``SEEDS`` runs are of one configuration.
    """
    generator = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    metrics = CsvLog(root / "metrics.csv", Metric)
    metrics.append(_metrics(generator))  # the same for all
    for index, of in enumerate(_configurations(root, -(-num_runs // SEEDS))):
        codes = phase_codes(of.config)
        for seed in range(min(SEEDS, num_runs - SEEDS * index)):
            record = RunRecord(
                experiment="many", hash=of.hash, seed=seed, status="finished", code=codes,
                dataset="linear_gaussian", config={**of.resolved, "seed": seed},
                posterior="gaussian", loss="elbo", x_size=10, wall_seconds=1.0,
            )  # fmt: skip
            folder = RunFolder(root / "runs" / record.id)
            folder.create()
            shutil.copyfile(metrics.path, folder.metrics.path)
            folder.estimates.append(_estimates(generator))
            folder.write_status(replace(record, folder=str(folder.path)), vouch=True)
            (folder.path / CHECKPOINT).touch()


def _configurations(root: Path, count: int) -> Iterator[Identified]:
    validate = validator(RunConfig)
    for index in range(count):
        assignments = [*TINY, ALL_PHASES, f"training.epochs={EPOCHS + index}"]
        yield identify(validate(load(BASE, (), assignments, DEFAULTS)), root)


def _metrics(generator: np.random.Generator) -> list[Metric]:
    keys = [
        ("train", epoch, split, name)
        for epoch in range(1, EPOCHS + 1)
        for split in ("train", "validation")
        for name in ("bound", "kl")
    ]
    values = generator.normal(size=len(keys)).tolist()
    return [Metric(*key, value) for key, value in zip(keys, values, strict=True)]


def _estimates(generator: np.random.Generator) -> list[Estimate]:
    amortised = Method("importance", settings_text({"num_samples": 3}))
    methods = {
        "estimate": amortised,
        "local_optimisation": amortised._replace(family="own", search="fast"),
    }
    return [
        Estimate(phase, *method, "test", name, datum, 1.0 if "reliable" in name else value, 0.1)
        for phase, method in methods.items()
        for name in QUANTITIES
        for datum, value in enumerate(generator.normal(size=DATA).tolist())
    ]


def recognise(root: Path) -> None:
    """Ask for a run that is finished."""
    _call(root, ALL_PHASES, f"training.epochs={EPOCHS}")


def begin(root: Path, seed: int) -> None:
    """Do a tiny run that is not there."""
    _call(root, "training.epochs=1", f"seed={seed}")


def _call(root: Path, *assignments: str) -> None:
    command = ["-config", BASE, "-set", *TINY, *assignments, "-q", "--results", str(root)]
    if code := program.main(command):
        raise RuntimeError(f"main.py ended with exit code {code}")
