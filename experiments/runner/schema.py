"""The sections of a run's configuration and their defaults.

Components describe themselves (their signature is their schema); here stands only what belongs to
a run as a whole. The defaults of components are the lowest layer of every merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Le, MinLen
from pydantic import AfterValidator

from estimators.protocol import estimators
from experiments.runner.optimisers import optimisers, schedules
from models.generative import models
from models.likelihoods import likelihoods
from models.local import local_settings
from models.losses import losses, warmups
from models.networks import decoders, encoders
from models.posteriors.protocol import bases, conditionals, posteriors, transitions
from models.posteriors.schedules import beta_schedules
from models.posteriors.step_sizes import step_sizes
from utils.data.base import datasets
from utils.registry import Node, Registry
from utils.types import (
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Unique,
)

REGISTRIES: Mapping[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (
        datasets, models, decoders, likelihoods, encoders, posteriors, bases, transitions,
        conditionals, beta_schedules, step_sizes, losses, warmups, optimisers, schedules,
        local_settings, estimators,
    )
}  # fmt: skip


Phase = Literal["train", "local_optimisation", "estimate"]
Part = Literal["model", "encoder", "posterior"]
Split = Literal["train", "validation", "test"]

ORDER: Sequence[Phase] = get_args(Phase)


def _check_order(phases: list[Phase]) -> list[Phase]:
    if not phases or sorted(set(phases), key=ORDER.index) != phases:
        raise ValueError(f"must be some of {', '.join(ORDER)}, once, in this order")
    return phases


@dataclass(frozen=True)
class Initialise:
    """Weights taken from a finished run before anything else is done.

    ``run`` is its id, or ``last`` or ``best`` of ``experiment`` (the run that ended last, or the
    one with the highest estimate of log p(x)). ``weights`` are its last, its best on validation,
    or those of an epoch that ``runtime.keep_epochs`` kept; null: those that it was evaluated with.
    """

    run: Name
    experiment: Name | None = None
    parts: Annotated[list[Part], MinLen(1), Unique] = field(
        default_factory=lambda: ["model", "encoder", "posterior"]
    )
    weights: Literal["last", "best"] | PositiveInt | None = None


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` validations, not epochs, without a gain of more than `min_delta` nats.

    Those of a warm-up do not count. The best weights are those of the highest validation, however
    small its gain.
    """

    patience: PositiveInt = 100
    min_delta: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Training:
    """How the parameters are fitted."""

    optimiser: Annotated[Node, optimisers]
    schedule: Annotated[Node, schedules]
    lr_warmup: PositiveInt | None = None
    """Epochs n through which the learning rate rises in a line: the e-th has e / (n + 1) of it."""
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 100
    clip_grad_norm: PositiveFloat | None = None
    evaluate_every: PositiveInt = 1
    early_stopping: EarlyStopping | None = None
    fixed: Annotated[list[Part], Unique] | None = None
    """Parts that keep the weights they start with."""
    encoder_steps: PositiveInt | None = None
    """Steps of encoder and posterior for each step of the model: so many minus one of their own,
    each on a random batch, and one together with it (He et al. 2019, arXiv 1901.05534)."""
    encoder_steps_until: Literal["mutual_information"] | None = None
    """When those of their own end: after the first validation at which it does not rise."""


@dataclass(frozen=True)
class LocalOptimisation:
    """The best bound L[q*] of each datum, for one or several variational families.

    ``families`` maps a label to a posterior. The run's own posterior is one of them: where none
    given is the same, it is added under the label ``own``; ``own`` is another label for it, or
    false to leave it out. The data are those of ``evaluation``. ``loss`` (null: the setting's) is
    optimised, ``estimator`` measures the optimum with fresh samples.
    """

    setting: Annotated[Node, local_settings]
    estimator: Annotated[Node, estimators]
    families: Annotated[dict[Name, Annotated[Node, posteriors]], Unique] = field(
        default_factory=dict
    )
    own: Literal[False] | Name | None = None
    scope: Literal["posterior", "context"] = "posterior"
    loss: Annotated[Node, losses] | None = None
    batch_size: PositiveInt = 100


@dataclass(frozen=True)
class Evaluation:
    """What is estimated after training, on which data, with which weights."""

    estimators: Annotated[list[Annotated[Node, estimators]], MinLen(1), Unique]
    splits: Annotated[list[Split], MinLen(1), Unique]
    weights: Literal["last", "best"] = "last"
    max_data: PositiveInt | None = None
    batch_size: PositiveInt = 100
    num_simulated: PositiveInt = 100
    """Data drawn from the model, for the estimators that need an exact posterior draw."""


MAX_THREADS = 1024  # OpenMP dies of very many


@dataclass(frozen=True)
class Runtime:
    """How, not what: nothing here changes a run's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["off", "auto", "on"] = "auto"
    threads: Annotated[PositiveInt, Le(MAX_THREADS)] | None = None
    checkpoint_seconds: NonNegativeFloat = 20.0
    tensorboard: bool = True
    images_every: NonNegativeInt = 10
    diagnostics: bool = True
    """Measure which latent dimensions are used: at each evaluation, and in the estimates."""
    keep_epochs: Annotated[list[PositiveInt], Unique] | None = None
    """Epochs whose weights are kept for good, to be measured later."""


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that `main.py` needs to know."""

    data: Annotated[Node, datasets]
    model: Annotated[Node, models]
    encoder: Annotated[Node, encoders]
    posterior: Annotated[Node, posteriors]
    loss: Annotated[Node, losses]
    training: Training
    local_optimisation: LocalOptimisation
    evaluation: Evaluation
    runtime: Runtime
    phases: Annotated[list[Phase], AfterValidator(_check_order)]
    initialise: Initialise | None = None
    experiment: Name = "default"
    seed: Seed = 0


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
    "local_optimisation": {"setting": {"name": "fast"}, "estimator": {"name": "importance"}},
    "evaluation": {"estimators": [{"name": "importance"}], "splits": ["test"]},
    "runtime": {},
    "phases": ["train", "estimate"],
}

TRAINED = ("data", "model", "encoder", "posterior", "loss", "training", "initialise")
"""The sections that, with the seed, identify what is trained."""

SCIENCE: Mapping[Phase, Sequence[str]] = {
    "train": TRAINED,
    "local_optimisation": ("local_optimisation", "evaluation"),
    "estimate": ("evaluation",),
}
"""The further sections that each phase reads; with those of every run they identify it."""
