"""The sections of a run's configuration and their defaults.

Components describe themselves (their signature is their schema); here stands only what belongs to
a run as a whole. The defaults of components are the lowest layer of every merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from estimators.protocol import estimators
from experiments.optimisers import optimisers, schedules
from models.generative import models
from models.likelihoods import likelihoods
from models.losses import losses, warmups
from models.networks import decoders, encoders
from models.posteriors.auxiliary import conditionals
from models.posteriors.protocol import bases, posteriors, transitions
from utils.data.base import datasets
from utils.registry import Node, Registry
from utils.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (
        datasets, models, decoders, likelihoods, encoders, posteriors, bases, transitions,
        conditionals, losses, warmups, optimisers, schedules, estimators,
    )
}  # fmt: skip


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` epochs without a gain of `min_delta` nats on validation."""

    patience: PositiveInt = 100
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Training:
    """How the parameters are fitted."""

    optimiser: Annotated[Node, optimisers]
    schedule: Annotated[Node, schedules]
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 100
    clip_grad_norm: PositiveFloat | None = None
    evaluate_every: PositiveInt = 1
    early_stopping: EarlyStopping | None = None


@dataclass(frozen=True)
class Evaluation:
    """What is estimated after training, on which data, with which weights."""

    estimators: list[Annotated[Node, estimators]]
    splits: list[Literal["train", "validation", "test"]] = field(default_factory=lambda: ["test"])
    weights: Literal["last", "best"] = "last"
    max_data: PositiveInt | None = None
    batch_size: PositiveInt = 100


@dataclass(frozen=True)
class Runtime:
    """How, not what: nothing here changes a run's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["off", "auto", "on"] = "auto"
    threads: PositiveInt | None = None
    checkpoint_seconds: NonNegativeFloat = 20.0
    tensorboard: bool = True
    images_every: NonNegativeInt = 10


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that `main.py` needs to know."""

    data: Annotated[Node, datasets]
    model: Annotated[Node, models]
    encoder: Annotated[Node, encoders]
    posterior: Annotated[Node, posteriors]
    loss: Annotated[Node, losses]
    training: Training
    evaluation: Evaluation
    runtime: Runtime
    experiment: str = "default"
    seed: NonNegativeInt = 0


DEFAULTS: Mapping[str, Any] = {
    "data": {"name": "digits"},
    "model": {
        "name": "deep_latent_gaussian",
        "decoder": {"name": "mlp"},
        "likelihood": {"name": "bernoulli"},
    },
    "encoder": {"name": "mlp"},
    "posterior": {"name": "gaussian"},
    "loss": {"name": "elbo"},
    "training": {"optimiser": {"name": "adam"}, "schedule": {"name": "constant"}},
    "evaluation": {"estimators": [{"name": "importance"}]},
    "runtime": {},
}

SCIENCE = ("data", "model", "encoder", "posterior", "loss", "training", "evaluation")
"""The sections that, with the seed, identify a run."""
