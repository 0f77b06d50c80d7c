"""Synthetic data of which every density is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.data.base import datasets
from utils.data.synthetic import Synthetic, make_generator, randn
from utils.types import Dimension, NonNegativeInt, PositiveFloat, PositiveInt


class GroundTruth(NamedTuple):
    """What generates the data: ``weight`` (dim, latent_dim), ``mean`` (dim,), both float64."""

    weight: Tensor
    mean: Tensor


def ground_truth(dim: int, latent_dim: int, data_seed: int = 0) -> GroundTruth:
    """Draw weight entries from N(0, 1 / latent_dim) and mean entries from N(0, 1).

    So W z has unit variance a coordinate, whatever the latent dimension.
    """
    generator = make_generator(data_seed, "linear_gaussian", "truth")
    weight = randn(dim, latent_dim, generator=generator) / latent_dim**0.5
    return GroundTruth(weight, randn(dim, generator=generator))


@datasets.register("linear_gaussian")
class LinearGaussianData(Synthetic):
    """Synthetic data x = W z + mean + noise_scale ε with z, ε ~ N(0, I); x (1, 1, dim).

    log p(x) = log N(x; mean, W Wᵀ + noise_scale² I), with W and mean from ``ground_truth``. Unlike
    images, x is not confined to [0, 1]. Everything is fixed by ``data_seed``, each split on its
    own: more training data leaves the test data as it is.
    """

    name = "linear_gaussian"

    def __init__(
        self,
        *,
        dim: Dimension = 8,
        latent_dim: Dimension = 2,
        noise_scale: PositiveFloat = 0.5,
        num_train: PositiveInt = 1000,
        num_validation: NonNegativeInt = 200,
        num_test: NonNegativeInt = 200,
        data_seed: int = 0,
    ) -> None:
        positive = {"dim": dim, "latent_dim": latent_dim, "num_train": num_train}
        for option, value in {**positive, "noise_scale": noise_scale}.items():
            if value <= 0:
                raise ValueError(f"`{option}` must be greater than 0; got {value}")
        for option, value in {"num_validation": num_validation, "num_test": num_test}.items():
            if value < 0:
                raise ValueError(f"`{option}` must be at least 0; got {value}")
        sizes = {"train": num_train, "validation": num_validation, "test": num_test}
        super().__init__(sizes, max(dim, latent_dim), data_seed)
        self.truth = ground_truth(dim, latent_dim, data_seed)
        self.noise_scale = noise_scale

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw x (N, dim)."""
        weight, mean = self.truth
        z = randn(size, weight.shape[1], generator=generator)
        noise = randn(size, weight.shape[0], generator=generator)
        return z @ weight.T + mean + self.noise_scale * noise
