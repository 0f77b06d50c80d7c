"""What is measured against its size, and how: the work behind ``benchmarks.scaling``.

Cremer et al.'s networks (784-200-200-50), untrained, for time does not mind; made-up runs with
1,000 rows of metrics each.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import memory, peak_memory  # first: it sets how threads are pinned

import torch  # isort: skip
import numpy as np
from torch import Tensor

import plot_from_db
from benchmarks import many_runs
from benchmarks.ais import LATENT, make_model
from benchmarks.programs import make_session, runner_epochs, training_steps
from benchmarks.training import configuration
from estimators.annealed import AnnealedImportanceSampling
from estimators.importance import ImportanceSampling
from estimators.protocol import Estimator

# What the commands import late is loaded once, before the processes part.
from experiments.reporting import gap_figures, pivot, run_list  # noqa: F401
from experiments.runner import app  # noqa: F401
from experiments.runner.batches import Workplace
from experiments.runner.crew import Alone
from experiments.runner.phases import MEASURES
from experiments.runner.phases.estimate import estimate
from experiments.runner.phases.local_optimisation import optimise_locally
from experiments.runner.signals import Interruption
from models.posteriors.gaussian import gaussian
from utils.data.base import Data

Work = Callable[[], object]
ENOUGH, MOST = 0.2, 5  # CPU seconds, or calls, after which a point is known


class Law(NamedTuple):
    """``prepare`` makes of a folder and a size the work that is measured.

    ``exponents`` are those by which time and memory may grow.
    """

    group: str
    name: str
    unit: str
    sizes: Sequence[int]
    exponents: tuple[float, float]
    prepare: Callable[[Path, int], Work]


class Point(NamedTuple):
    """CPU seconds of a call (median), and MiB over what the process had before."""

    seconds: float
    memory: float


def images(count: int) -> Tensor:
    """Random pixels (N, 1, 28, 28)."""
    return (torch.rand(count, 1, 28, 28) < 0.13).float()


def epochs(root: Path, size: int) -> Work:
    """An epoch of the runner, all on."""
    data = Data({"train": images(size), "validation": images(100)}, "none", "")
    return partial(next, runner_epochs(configuration("off"), data, _fresh(root)))


PHASES = {"local_optimisation": optimise_locally, "estimate": estimate}
OPTIONS = {
    "local_optimisation": (
        "local_optimisation.setting={name: fast, num_samples: 10, max_steps: 10}",
        "local_optimisation.estimator.num_samples=20",
    ),
    "estimate": ("evaluation.estimators=[{name: importance, num_samples: 20}]",),
}


def phase(root: Path, size: int, *, name: str) -> Work:
    """A phase of a run, its rows in folder and database."""
    config = configuration("off", f"phases=[train,{name}]", *OPTIONS[name])
    data = Data({"train": images(1), "test": images(size)}, "none", "")

    def work() -> None:
        session = make_session(config, data, _fresh(root))
        place = Workplace(session.config, session.built, session.folder.path, print)
        PHASES[name](session, Alone(place, MEASURES, Interruption()), 0)
        session.recorder.close("finished")

    return work


def steps(root: Path, size: int, *, options: Sequence[str], count: int) -> Work:
    """Training steps of 100 images; ``{}`` in an option stands for the size."""
    config = configuration("off", "loss.warmup=null", *(of.format(size) for of in options))
    return training_steps(config, images(100), count, False)


def estimation(root: Path, size: int, *, make: Callable[[int], Estimator]) -> Work:
    """An estimator on four images."""
    estimator, model, x = make(size), make_model(), images(4)
    return lambda: estimator(model, gaussian(LATENT), x, torch.zeros(len(x), 2 * LATENT))


def annealing(distributions: int, chains: int) -> Estimator:
    """One leapfrog step a move, without a pilot run, whose time is constant."""
    return AnnealedImportanceSampling(
        False, path="prior", schedule="linear", step_size=0.1, num_leapfrog=1,
        num_distributions=distributions, num_chains=chains,
    )  # fmt: skip


def rebuilding(root: Path, size: int) -> Work:
    """The database out of the folders of runs."""
    return partial(_plot, _folders(root, size), "rebuild")


def reporting(root: Path, size: int, *, command: str) -> Work:
    """A table."""
    return partial(_plot, _results(root, size), command, "--output", str(root / "table"))


def recognising(root: Path, size: int) -> Work:
    """A finished run."""
    return partial(many_runs.recognise, _results(root, size))


def beginning(root: Path, size: int) -> Work:
    """A new run, tiny, from beginning to end."""
    seeds, results = itertools.count(time.time_ns() % 10**9), _results(root, size)
    return lambda: many_runs.begin(results, next(seeds))


def _fresh(root: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=root))


def _folders(root: Path, size: int) -> Path:
    """A results folder with so many runs."""
    results = root / f"{size}_runs"
    if not results.exists():
        many_runs.write(results, size)
    return results


def _results(root: Path, size: int) -> Path:
    """The same with its database."""
    results = _folders(root, size)
    if not (results / "results.sqlite").exists():
        _plot(results, "rebuild")
    return results


def _plot(root: Path, *arguments: str) -> None:
    if code := plot_from_db.main([*arguments, "--results", str(root)]):
        raise RuntimeError(f"plot_from_db.py {arguments[0]} ended with exit code {code}")


DATA, NUMBERS, RUNS = "data points", "samples, chains, latent size", "runs in the database"
NUM_RUNS = (30, 180, 1000)
FULL = ["posterior={{name: gaussian, covariance: full}}", "model.latent_dim={}"]

LAWS = (
    Law(DATA, "training epoch", "images", (500, 4000, 32_000), (1, 0), epochs),
    Law(DATA, "phase estimate", "images", (40, 320, 2560), (1, 1),
        partial(phase, name="estimate")),
    Law(DATA, "phase local_optimisation", "images", (8, 64, 512), (1, 1),
        partial(phase, name="local_optimisation")),
    Law(NUMBERS, "IWAE", "samples", (1000, 8000, 64_000), (1, 0),
        partial(estimation, make=lambda size: ImportanceSampling(num_samples=size))),
    Law(NUMBERS, "training step by the ELBO", "samples", (1, 8, 64), (1, 1),
        partial(steps, options=["loss.num_samples={}"], count=5)),
    Law(NUMBERS, "training step, factorised Gaussian", "latent size", (8, 64, 512), (1, 1),
        partial(steps, options=["model.latent_dim={}"], count=20)),
    Law(NUMBERS, "training step, full Gaussian", "latent size", (8, 32, 128), (2, 2),
        partial(steps, options=FULL, count=10)),
    Law(NUMBERS, "AIS", "distributions", (16, 128, 1024), (1, 0),
        partial(estimation, make=lambda size: annealing(size, 20))),
    Law(NUMBERS, "AIS", "chains", (50, 400, 3200), (1, 1),
        partial(estimation, make=lambda size: annealing(10, size))),
    Law(RUNS, "rebuild", "runs", NUM_RUNS, (1, 0), rebuilding),
    *(Law(RUNS, name, "runs", NUM_RUNS, (1, 1), partial(reporting, command=name))
      for name in ("runs", "table", "gaps")),
    Law(RUNS, "finished run, recognised", "runs", NUM_RUNS, (0, 0), recognising),
    Law(RUNS, "new run", "runs", NUM_RUNS, (1, 0), beginning),
)  # fmt: skip


def measure(index: int, size: int, root: Path) -> Point:
    """One point of a law; what the smallest size loads and allocates is no part of it."""
    law = LAWS[index]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        law.prepare(root, law.sizes[0])()
        work, times = law.prepare(root, size), list[float]()
        before = memory()
        while sum(times) < ENOUGH and len(times) < MOST:
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
        return Point(float(np.median(times)), peak_memory() - before)
