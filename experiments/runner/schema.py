"""The sections of a run's configuration and their defaults.

Components describe themselves (their signature is their schema); here stands only what belongs to
a run as a whole. The defaults of components are the lowest layer of every merge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Le, MinLen
from pydantic import AfterValidator

from estimators.protocol import estimators
from experiments.runner.defaults import DEFAULTS
from experiments.runner.optimisers import optimisers, schedules
from models.generative import models
from models.likelihoods import likelihoods
from models.local import local_settings
from models.losses import losses, warmups
from models.networks import decoders, encoders
from models.posteriors.protocol import bases, conditionals, posteriors, transitions
from models.posteriors.schedules import beta_schedules
from models.posteriors.step_sizes import step_sizes
from models.refinements import refinements
from utils.data.base import datasets
from utils.precision import Precision
from utils.registry import Node, Registry
from utils.types import (
    LabelText,
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
        conditionals, beta_schedules, step_sizes, refinements, losses, warmups, optimisers,
        schedules, local_settings, estimators,
    )
}  # fmt: skip


Phase = Literal["train", "local_optimisation", "estimate"]
Part = Literal["model", "encoder", "features", "posterior"]
Split = Literal["train", "validation", "test"]

ORDER: Sequence[Phase] = get_args(Phase)


def _check_order(phases: list[Phase]) -> list[Phase]:
    if not phases or sorted(set(phases), key=ORDER.index) != phases:
        raise ValueError(f"must be one or more of {', '.join(ORDER)}, in this order")
    return phases


@dataclass(frozen=True)
class Plugin:
    """A Python file outside the program that registers components.

    ``digest`` names its content (SHA-256, 12 digits); it is filled in, and is checked where given.
    """

    path: str
    """Of the file, relative to the file that names it."""
    digest: str | None = None
    """Of its content; filled in, and checked where given."""


@dataclass(frozen=True)
class Initialise:
    """Weights taken from a finished run before anything else is done.

    ``run`` is its id, or ``last`` or ``best`` of ``experiment`` (the run that ended last, or the
    one with the highest estimate of log p(x)). ``weights`` are its last, its best on validation,
    or those of an epoch that ``runtime.keep_epochs`` kept; null: those that it was evaluated with.
    """

    run: Name
    """The id of a run, or `last` or `best` of `experiment`."""
    experiment: Name | None = None
    """Whose runs are looked through for the last or the best."""
    parts: Annotated[list[Part], MinLen(1), Unique] = field(
        default_factory=lambda: ["model", "encoder", "posterior"]
    )
    """Which weights are taken; `features` are those of the encoder without the last linear map,
    whose size is the posterior's."""
    weights: Literal["last", "best"] | PositiveInt | None = None
    """`last`, `best` on validation, or a kept epoch; null: those it was measured with."""


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` validations, not epochs, without a gain of more than `min_delta` nats.

    Those of a warm-up do not count. The best weights are those of the highest validation, however
    small its gain.
    """

    patience: PositiveInt = 100
    """Validations without a gain before training stops."""
    min_delta: NonNegativeFloat = 0.0
    """Nats that a gain must exceed."""


@dataclass(frozen=True)
class Training:
    """How the parameters are fitted."""

    optimiser: Annotated[Node, optimisers]
    schedule: Annotated[Node, schedules]
    lr_warmup: PositiveInt | None = None
    """Epochs n through which the learning rate rises in a line: the e-th has e / (n + 1) of it."""
    epochs: PositiveInt = 100
    """How often all training data are seen."""
    batch_size: PositiveInt = 100
    """Data points of one step; the last batch of an epoch may have fewer."""
    max_data: PositiveInt | None = None
    """Only the first so many training images; null: all."""
    clip_grad_norm: PositiveFloat | None = None
    """The largest norm of the gradient; a longer one is scaled down. Null: none is."""
    evaluate_every: PositiveInt = 1
    """Epochs between measurements of the bound on validation and test data."""
    early_stopping: EarlyStopping | None = None
    """When to stop before `epochs`; null: never."""
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
    """How to search."""
    estimator: Annotated[Node, estimators]
    """Measures the optimum with fresh samples."""
    families: Annotated[dict[Name, Annotated[Node, posteriors]], Unique] = field(
        default_factory=dict
    )
    """Labels and the posteriors that they stand for; the run's own is always among them."""
    own: Literal[False] | Name | None = None
    """The label of the run's own posterior; false leaves it out, and there are no gaps then."""
    scope: Literal["posterior", "context"] = "posterior"
    """What is free for each datum: context and weights of the posterior, or the context alone."""
    loss: Annotated[Node, losses] | None = None
    """What is optimised; null: what the setting says."""
    batch_size: PositiveInt = 100
    """Data points that are searched for at once."""


@dataclass(frozen=True)
class Evaluation:
    """What is estimated after training, on which data, with which weights."""

    estimators: Annotated[list[Annotated[Node, estimators]], MinLen(1), Unique]
    """What measures bounds and log p(x)."""
    splits: Annotated[list[Split], MinLen(1), Unique]
    """Which data are measured, in local optimisation too."""
    weights: Literal["last", "best"] = "last"
    """Those of the last epoch, or of the best validation."""
    max_data: PositiveInt | None = None
    """The first so many data points of each split; null: all."""
    batch_size: PositiveInt = 100
    """Data points that are measured at once."""
    num_simulated: PositiveInt = 100
    """Data drawn from the model, for the estimators that need an exact posterior draw."""


DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def check_device(text: str) -> str:
    """The device, if it may be one. Raises ValueError."""
    if DEVICE.fullmatch(text) is None:
        raise ValueError(f"must be auto, cpu, cuda or a GPU such as cuda:1; got {text[:40]!r}")
    return text


MAX_THREADS = 1024  # OpenMP dies of very many
MAX_WORKERS = 256


@dataclass(frozen=True)
class Runtime:
    """How, not what: nothing here changes a run's identity."""

    device: Annotated[str, AfterValidator(check_device)] = "auto"
    """auto, cpu, cuda, or a GPU by its number, as cuda:1."""
    compile: Literal["off", "auto", "on"] = "auto"
    """Whether steps are fused by torch.compile, `auto`: where there are enough of them; where that
    fails, they run as they are."""
    precision: Precision = "auto"
    """auto: what moves chains, and no value, in bf16 where that is faster; exact: nothing."""
    threads: Annotated[PositiveInt, Le(MAX_THREADS)] | None = None
    """Of PyTorch; null: as many as it takes by itself."""
    workers: Annotated[PositiveInt, Le(MAX_WORKERS)] | None = None
    """Processes that share the data in local optimisation and estimation, and divide the threads
    among them; on a machine with several GPUs each takes the next. Null: this one alone."""
    replicas: Annotated[PositiveInt, Le(MAX_WORKERS)] | None = None
    """Processes that share each step of training, and divide the threads among them; each needs a
    GPU of its own where there are GPUs. The step is not compiled then. Null: this one alone."""
    checkpoint_seconds: NonNegativeFloat = 20.0
    """Between checkpoints of training."""
    tensorboard: bool = True
    """Whether metrics and images go to the run's folder for TensorBoard, too."""
    images_every: NonNegativeInt = 10
    """Epochs between images for TensorBoard; 0: none."""
    diagnostics: bool = True
    """Measure which latent dimensions are used: at each evaluation, and in the estimates."""
    keep_epochs: Annotated[list[PositiveInt], Unique] | None = None
    """Epochs whose weights are kept for good, to be measured later."""


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that `main.py` needs to know."""

    data: Annotated[Node, datasets]
    """What is modelled."""
    model: Annotated[Node, models]
    """The generative model p(x, z)."""
    encoder: Annotated[Node, encoders]
    """The network that looks at x; the posterior's context is a linear map of what it gives."""
    posterior: Annotated[Node, posteriors]
    """The variational family q(z | x)."""
    loss: Annotated[Node, losses]
    """The bound that is maximised."""
    training: Training
    """See `training`."""
    local_optimisation: LocalOptimisation
    """See `local_optimisation`."""
    evaluation: Evaluation
    """See `evaluation`."""
    runtime: Runtime
    """See `runtime`."""
    phases: Annotated[list[Phase], AfterValidator(_check_order)]
    """What is done, in this order."""
    refinement: Annotated[Node, refinements] | None = None
    """What makes the encoder's answer better for each datum; null: nothing."""
    plugins: Annotated[list[Plugin], AfterValidator(lambda given: given or None)] | None = None
    """Paths, relative to this file, of Python files that register components of your own."""
    initialise: Initialise | None = None
    """Weights to start from; null: drawn."""
    experiment: Name = "default"
    """What the run belongs to in tables; no part of its identity."""
    labels: dict[LabelText, LabelText] = field(default_factory=dict)
    """What the experiment calls this run on its axes, for tables; no part of its identity."""
    seed: Seed = 0
    """Of all random draws."""


SECTIONS: Mapping[str, type] = {
    "run": RunConfig,
    "training": Training,
    "early_stopping": EarlyStopping,
    "local_optimisation": LocalOptimisation,
    "evaluation": Evaluation,
    "runtime": Runtime,
    "initialise": Initialise,
    "plugins": Plugin,
}
"""What `--list` tells of beside the registries; `run` is the top level."""


def default_values(section: str) -> Mapping[str, Any]:
    """What every run starts from in one of ``SECTIONS``, beside the defaults of its fields."""
    given = DEFAULTS if section == "run" else DEFAULTS.get(section)
    return given if isinstance(given, Mapping) else {}


TRAINED = (
    "data", "model", "encoder", "posterior", "refinement", "loss", "training", "initialise",
)  # fmt: skip
"""The sections that, with the seed, identify what is trained."""

SCIENCE: Mapping[Phase, Sequence[str]] = {
    "train": TRAINED,
    "local_optimisation": ("local_optimisation", "evaluation"),
    "estimate": ("evaluation",),
}
"""The further sections that each phase reads; with those of every run they identify it."""
