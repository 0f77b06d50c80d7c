"""The one place that knows registries, configuration and models together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from estimators.protocol import Estimator
from experiments.runner.families import with_own_family
from experiments.runner.schema import RunConfig, Runtime
from models.generative import GenerativeModel
from models.local import LocalSettings
from models.losses import Loss
from models.networks import Encoder
from models.posteriors.chain import Chain
from models.vae import VAE
from utils.data.base import Data, DataError, Dataset
from utils.memory import MemoryBudget, physical_memory
from utils.precision import has_bf16
from utils.registry import Node
from utils.seeding import derive, isolated

T = TypeVar("T")
CHECKED_AT_ONCE = 1000  # images, so that the check needs little memory


class BuildError(ValueError):
    """A component refused its options or sizes; the message begins with its section, `a.b`."""


@dataclass(frozen=True)
class Family:
    """A variational family to optimise locally.

    ``posterior`` has weights as they are drawn; ``is_own`` says that the run's own is such a one.
    """

    label: str
    posterior: Chain
    is_own: bool


@dataclass(frozen=True)
class LocalPlan:
    """What local optimisation is to do, for each family; ``loss`` null is the setting's own."""

    settings: LocalSettings
    families: Sequence[Family]
    loss: Loss | None
    estimator: Estimator


@dataclass(frozen=True)
class Built:
    """A configuration made into objects; ``local`` where that phase is asked for."""

    vae: VAE
    loss: Loss
    estimators: Sequence[Estimator]
    local: LocalPlan | None = None

    @property
    def num_parameters(self) -> int:
        """Trained numbers, of model, encoder and posterior together."""
        return sum(p.numel() for p in self.vae.parameters() if p.requires_grad)


def make_dataset(config: RunConfig) -> Dataset:
    """The data set, not loaded yet. Raises BuildError when it refuses its options."""
    dataset: Dataset = _build("data", config.data.build)
    return dataset


def load_data(config: RunConfig) -> Data:
    """Load the data set. Raises DataError when it is missing or damaged, and BuildError."""
    return make_dataset(config).load()


def check_data(config: RunConfig, data: Data, model: GenerativeModel) -> None:
    """Look at all data once, before anything is computed from them.

    Raises DataError for NaN or infinite numbers, and BuildError where the data are none that the
    model describes, or lack what the configuration needs.
    """
    for split, x in data.splits.items():
        for images in x.split(CHECKED_AT_ONCE):
            if not images.isfinite().all():
                raise DataError(
                    f"{config.data.name}: its {split} split holds NaN or infinite numbers, "
                    "of which no density is known; leave such data out"
                )
            _build("model", model.check_x, x=images)
    sizes = {"epochs": config.training.epochs, "has_validation": "validation" in data.splits}
    _build("training.schedule", config.training.schedule.build, **sizes)


def build(config: RunConfig, x_shape: Sequence[int]) -> Built:
    """Model, encoder, posterior, loss and estimators for images of ``x_shape`` (C, H, W).

    Parameters are drawn from the run's own initialisation stream. Raises BuildError.
    """
    with isolated(derive(config.seed, "initialisation")), MemoryBudget(physical_memory()):
        vae = _networks(config, x_shape)
    model, posterior = vae.model, vae.posterior
    optimise = config.training.optimiser.build
    _build("training.optimiser", optimise, parameters=[nn.Parameter(torch.zeros(1))])  # tried
    loss = _build("loss", config.loss.build)
    if "train" in config.phases:
        _build("loss", loss.check, posterior=posterior)
    _check_trained(config, loss, model)
    if loss.remembers and model.has_x:
        raise BuildError(
            f"`loss`: {config.loss.name} remembers draws of one posterior; it is for models "
            "without an x (`data: {name: nothing}`)"
        )
    _check_replicas(config, loss, vae)
    section = "evaluation.estimators"
    estimators = _estimators(section, config, config.evaluation.estimators)
    _check_estimators(section, estimators, model, posterior)
    local = None
    if "local_optimisation" in config.phases:
        local = _local_plan(config, vae)
    return Built(vae, loss, estimators, local)


def _networks(config: RunConfig, x_shape: Sequence[int]) -> VAE:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # without an x
        model = _build("model", config.model.build, x_shape=x_shape)
        encoder = _build("encoder", config.encoder.build, x_shape=x_shape)
    _check_x(config, math.prod(x_shape) > 0, model, encoder)
    sizes = {"latent_dim": model.latent_dim, "num_features": encoder.num_features}
    posterior = _build("posterior", config.posterior.build, **sizes)
    refinement, size = config.refinement, posterior.context_size
    if refinement is not None:
        refinement = _build("refinement", refinement.build, context_size=size)
    parts = {"model": model, "encoder": encoder, "posterior": posterior, "refinement": refinement}
    return _build("posterior", VAE, **parts)


def _check_x(config: RunConfig, has_x: bool, model: GenerativeModel, encoder: Encoder) -> None:
    """Raise BuildError unless data, model and encoder agree on whether there is an x."""
    data, name = config.data.name, config.model.name
    if model.has_x and not has_x:
        raise BuildError(f"`data`: {data} has no x, and the model {name} needs one")
    if has_x and not model.has_x:
        raise BuildError(f"`model`: {name} has no x; use it with data={{name: nothing}}")
    if encoder.sees_x and not has_x:
        raise BuildError(f"`encoder`: {name} has no x to encode; take {{name: constant}}")


def _check_trained(config: RunConfig, loss: Loss, model: GenerativeModel) -> None:
    """Raise BuildError where a loss is to train a model that it cannot train."""
    if (
        loss.trains_model
        or "train" not in config.phases
        or "model" in (config.training.fixed or ())
    ):
        return
    if any(weight.requires_grad for weight in model.parameters()):
        raise BuildError(
            f"`loss`: {config.loss.name} trains the posterior alone, and the model "
            f"{config.model.name} has weights to learn; keep them by `training.fixed: [model]` "
            "(as `initialise` gives them), or take another loss"
        )


def _check_replicas(config: RunConfig, loss: Loss, vae: VAE) -> None:
    """Raise BuildError where several processes cannot take the steps that one would."""
    number, key = config.runtime.replicas or 1, "`runtime.replicas`"
    if number == 1 or "train" not in config.phases:
        return
    if loss.sees_batches:
        raise BuildError(
            f"{key}: `loss.free_bits` are of the mean over a minibatch, of which a replica sees "
            "a part; leave one of them out"
        )
    if loss.remembers:
        raise BuildError(
            f"{key}: each would have a memory of its own (`loss`: {config.loss.name})"
        )
    if number > config.training.batch_size:
        raise BuildError(
            f"{key}: {number} of them cannot share a step of {config.training.batch_size} data "
            "points (`training.batch_size`)"
        )
    if config.runtime.compile == "on":
        raise BuildError(
            f"{key}: a compiled step cannot share its noise; take `runtime.compile: off` (`auto` "
            "does that by itself)"
        )
    if any(isinstance(module, _BatchNorm) for module in vae.modules()):
        raise BuildError(
            f"{key}: BatchNorm looks at a whole minibatch, of which a replica sees a part"
        )


def settle_families(config: RunConfig) -> RunConfig:
    """``with_own_family``. Raises BuildError where its label stands for another family."""
    return _build("local_optimisation", with_own_family, config=config)


def _estimators(section: str, config: RunConfig, nodes: Sequence[Node]) -> list[Estimator]:
    runtime = config.runtime
    means = {
        "compile_step": {"off": False, "on": True, "auto": None}[runtime.compile],
        "rounded_forces": rounds_forces(runtime),
    }
    estimators = [_build(section, node.build, **means) for node in nodes]
    labels = [estimator.label for estimator in estimators]
    if len(set(labels)) < len(labels):
        raise BuildError(f"`{section}`: the same estimator is listed twice: {', '.join(labels)}")
    return estimators


def _check_estimators(
    section: str, estimators: Sequence[Estimator], model: GenerativeModel, posterior: Chain
) -> None:
    for estimator in estimators:
        _build(section, estimator.check, model=model, posterior=posterior)


def _local_plan(config: RunConfig, vae: VAE) -> LocalPlan:
    model, options = vae.model, settle_families(config).local_optimisation
    sizes = {"latent_dim": model.latent_dim, "num_features": vae.encoder.num_features}
    section = "local_optimisation.estimator"
    (estimator,) = _estimators(section, config, [options.estimator])
    if not estimator.measures_posterior:
        raise BuildError(f"`{section}`: {estimator.label} gives no bound of q*; take `importance`")
    families = []
    for label, node in options.families.items():
        stream = derive(config.seed, "family", label)
        with isolated(stream), MemoryBudget(physical_memory()):
            section = f"local_optimisation.families.{label}"
            posterior = _build(section, node.build, **sizes)
        _check_estimators("local_optimisation.estimator", [estimator], model, posterior)
        families.append(Family(label, posterior, label == options.own))
    loss = None if options.loss is None else _build("local_optimisation.loss", options.loss.build)
    if loss is not None and loss.warmup is not None:
        raise BuildError("`local_optimisation.loss.warmup`: local optimisation has no epochs")
    if loss is not None and loss.sees_batches:
        raise BuildError(
            "`local_optimisation.loss.free_bits` are of the mean over a minibatch, and local "
            "optimisation takes each datum alone; leave it out"
        )
    if loss is not None and loss.remembers:
        raise BuildError("`local_optimisation.loss`: data come and go, and their draws with them")
    for family in families:
        if loss is not None:
            _build("local_optimisation.loss", loss.check, posterior=family.posterior)
    settings = _build("local_optimisation.setting", options.setting.build)
    return LocalPlan(settings, families, loss, estimator)


def _build(section: str, factory: Callable[..., T], **sizes: Any) -> T:
    try:
        return factory(**sizes)
    except ValueError as error:
        raise BuildError(f"`{section}`: {error}") from error


def rounds_forces(runtime: Runtime) -> bool:
    """Whether what moves chains may be computed in bf16 here; see ``utils.precision``."""
    try:
        return runtime.precision == "auto" and has_bf16(pick_device(runtime.device))
    except BuildError:  # the device is not here, which only matters to a run, and stops it
        return False


def pick_device(wanted: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises BuildError when `cuda` is not to be had."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and count == 0:
        raise BuildError(
            f"`runtime.device`: {wanted} was asked for and no CUDA device is available"
        )
    if device.type == "cuda" and (device.index or 0) >= count:
        raise BuildError(
            f"`runtime.device`: there is no GPU {device.index} here; the last is cuda:{count - 1}"
        )
    return device
