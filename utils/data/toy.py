"""Data for toy models: none at all, |z| + noise, and how far z is from the origin + noise."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated

import torch
from annotated_types import Le
from torch import Tensor

from utils.data.base import Data, Dataset, datasets
from utils.data.synthetic import Synthetic, randn
from utils.types import Dimension, NonNegativeInt, PositiveFloat, PositiveInt

NumImages = Annotated[PositiveInt, Le(10**8)]  # their order is a permutation in memory


@datasets.register("nothing")
class Nothing(Dataset):
    """N images without a channel, (N, 0, 1, 1): for models without data, such as `toy_energy`.

    A batch of B of them is B independent draws of the posterior; ``num_train`` over the batch
    size is the number of steps that make an epoch. Evaluation repeats itself ``num_test`` times.
    """

    name = "nothing"

    def __init__(self, *, num_train: NumImages = 12_800, num_test: NonNegativeInt = 10) -> None:
        self._sizes = {"train": num_train, "test": num_test}

    def load(self) -> Data:
        """Make the splits; one of size 0 is left out."""
        splits = {name: torch.zeros(n, 0, 1, 1) for name, n in self._sizes.items() if n > 0}
        return Data(splits, "none", hashlib.sha256().hexdigest())


@datasets.register("absolute_value")
class AbsoluteValueData(Synthetic):
    """Synthetic data x = |z| + noise_scale ε with z, ε ~ N(0, I); x (1, 1, dim).

    What the model `absolute_value` describes. Unlike images, x is not confined to [0, 1]. Each
    split is fixed by ``data_seed`` on its own.
    """

    name = "absolute_value"

    def __init__(
        self,
        *,
        dim: Dimension = 1,
        noise_scale: PositiveFloat = 0.5,
        num_train: PositiveInt = 10_000,
        num_test: NonNegativeInt = 1000,
        data_seed: int = 0,
    ) -> None:
        super().__init__({"train": num_train, "test": num_test}, dim, data_seed)
        self._dim, self._noise_scale = dim, noise_scale

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw x (N, dim)."""
        z, noise = randn(2, size, self._dim, generator=generator)
        return z.abs() + self._noise_scale * noise


@datasets.register("noisy_radius")
class NoisyRadiusData(Synthetic):
    """Synthetic data x = slope (‖z‖ + offset) + ε, z ~ N(0, I) of ``latent_dim``; x (1, 1, 1).

    What the model `noisy_radius` describes; the defaults are those of Thin et al. 2021
    (arXiv 2106.15921). Each split is fixed by ``data_seed`` on its own.
    """

    name = "noisy_radius"

    def __init__(
        self,
        *,
        latent_dim: Dimension = 2,
        slope: PositiveFloat = 2 * math.pi,
        offset: PositiveFloat = 2.0,
        num_train: PositiveInt = 10_000,
        num_test: NonNegativeInt = 1000,
        data_seed: int = 0,
    ) -> None:
        super().__init__({"train": num_train, "test": num_test}, latent_dim, data_seed)
        self._latent_dim, self._slope, self._offset = latent_dim, slope, offset

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw x (N, 1)."""
        z = randn(size, self._latent_dim, generator=generator)
        noise = randn(size, 1, generator=generator)
        return self._slope * (z.norm(dim=-1, keepdim=True) + self._offset) + noise
