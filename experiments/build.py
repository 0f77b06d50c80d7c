"""The one place that knows registries, configuration and models together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from estimators.protocol import Estimator
from experiments.schema import RunConfig
from models.losses import Loss
from models.vae import VAE
from utils.data.base import Data, Dataset
from utils.seeding import derive, isolated

T = TypeVar("T")


class BuildError(ValueError):
    """A component refused its options or sizes; the message begins with its section."""


@dataclass(frozen=True)
class Built:
    """A configuration made into objects."""

    vae: VAE
    loss: Loss
    estimators: Sequence[Estimator]

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


def build(config: RunConfig, x_shape: Sequence[int]) -> Built:
    """Model, encoder, posterior, loss and estimators for images of ``x_shape`` (C, H, W).

    Parameters are drawn from the run's own initialisation stream. Raises BuildError.
    """
    with isolated(derive(config.seed, "initialisation")):
        model = _build("model", config.model.build, x_shape=x_shape)
        encoder = _build("encoder", config.encoder.build, x_shape=x_shape)
        posterior = _build(
            "posterior",
            config.posterior.build,
            latent_dim=model.latent_dim,
            num_features=encoder.num_features,
        )
        vae = VAE(model, encoder, posterior)
    loss = _build("loss", config.loss.build)
    estimators = [
        _build("evaluation.estimators", node.build) for node in config.evaluation.estimators
    ]
    for estimator in estimators:
        _build("evaluation.estimators", estimator.check, model=model)
    labels = [estimator.label for estimator in estimators]
    if len(set(labels)) < len(labels):
        raise BuildError(f"`evaluation.estimators`: one stands twice in {', '.join(labels)}")
    return Built(vae, loss, estimators)


def _build(section: str, factory: Callable[..., T], **sizes: Any) -> T:
    try:
        return factory(**sizes)
    except ValueError as error:
        raise BuildError(f"`{section}`: {error}") from error


def pick_device(wanted: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises BuildError when `cuda` is not to be had."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise BuildError("`runtime.device`: cuda was asked for and no CUDA device is available")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")
