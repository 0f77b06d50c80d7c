"""The finished runs of the Gaussian experiment, and what is measured of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from experiments.drawing import Trained, Wanted
from experiments.hvae_gaussian.published import Errors
from models.shared_gaussian import SharedGaussian
from utils.data.shared_gaussian import ground_truth
from utils.seeding import isolated

BASE = "configs/hvae_gaussian/base.yaml"
ADDITIONAL = "configs/hvae_gaussian/additional"
NUM_DRAWS = 1000

METHODS: Mapping[str, str] = {
    "hvae_1": "HVAE, K = 1",
    "hvae_10": "HVAE, K = 10",
    "hvae_1_untempered": "HVAE, K = 1, no tempering",
    "hvae_10_untempered": "HVAE, K = 10, no tempering",
    "planar_1": "planar, K = 1",
    "planar_30": "planar, K = 30",
    "iaf": "IAF",
    "planar_1_without_half": "planar, K = 1, without ½",
    "planar_30_without_half": "planar, K = 30, without ½",
    "iaf_without_half": "IAF, without ½",
    "vb": "mean-field VB",
    "full": "full covariance",
}
"""What each file in ``ADDITIONAL`` is called."""


class Result(NamedTuple):
    """A trained run beside the exact answer; differences of bounds are in nats.

    ``best`` are the errors of the most likely parameters. ``shortfall`` is the greatest log p(x)
    less that of the run's parameters, with the likelihood's ½ whether or not the run had it;
    ``gap`` is log p(x) - ELBO of the model as it was trained. ``curve`` (epochs) is the greatest
    log p(x) of that model less the training bound.
    """

    errors: Errors
    best: Errors
    shortfall: float
    gap: float
    curve: Sequence[float]


class Key(NamedTuple):
    """Which run: method, dimension, and the seed of data and run."""

    method: str
    dim: int
    seed: int


def measure(run: Trained) -> Result:
    """Everything in float64: of 10⁶ nats, float32 would leave tenths."""
    vae, x = run.built.vae.double(), run.splits["train"][:1].double()
    trained = cast(SharedGaussian, vae.model)
    with_half, best, best_trained = (copy.deepcopy(trained) for _ in range(3))
    with_half.has_half = best.has_half = True
    for model in (best, best_trained):
        model.maximise(x)
    with isolated(0), torch.no_grad():
        draw = vae.posterior(vae.context(x), trained.log_joint(x), NUM_DRAWS)
    top = best_trained.log_px(x).item()
    rows = run.folder.metrics.read()
    bounds = [row.value for row in rows if (row.phase, row.name) == ("train", "bound")]
    return Result(
        errors_of(trained),
        errors_of(best),
        (best.log_px(x) - with_half.log_px(x)).item(),
        (trained.log_px(x) - draw.log_w.mean(0)).item(),
        [top - bound for bound in bounds],
    )


def errors_of(model: SharedGaussian) -> Errors:
    """How far a model's parameters are from the true ones."""
    truth = ground_truth(model.latent_dim)

    def square(difference: Tensor) -> float:
        return difference.square().sum().item()

    scale = model.log_scale.double().exp()
    return Errors(square(model.offset.double() - truth.offset), square(scale - truth.scale))


def wanted(key: Key, files: Sequence[Path], assignments: Sequence[str]) -> Wanted:
    """The run of that key, changed by further files and assignments."""
    settings = [f"data.dim={key.dim}", f"data.data_seed={key.seed}", f"seed={key.seed}"]
    return Wanted(BASE, [f"{ADDITIONAL}/{key.method}.yaml", *files], [*settings, *assignments])
