"""Points around a circle: data whose directions are all alike, so that none is easy to encode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.data.base import datasets
from utils.data.synthetic import Synthetic, randn
from utils.types import NonNegativeInt, PositiveFloat, PositiveInt


@datasets.register("ring")
class Ring(Synthetic):
    """Synthetic data x = (cos θ, sin θ) + noise_scale ε with θ uniform, ε ~ N(0, I); x (1, 1, 2).

    Its covariance is (½ + noise_scale²) I: a Gaussian of that variance without any latent variable
    is a model that no small step improves, though one latent explains nearly all. So a
    posterior that collapses onto it stays there. Each split is fixed by ``data_seed`` on its own.
    """

    name = "ring"

    def __init__(
        self,
        *,
        noise_scale: PositiveFloat = 0.1,
        stretch: PositiveFloat = 1.0,
        num_train: PositiveInt = 2000,
        num_validation: NonNegativeInt = 500,
        num_test: NonNegativeInt = 500,
        data_seed: int = 0,
    ) -> None:
        sizes = {"train": num_train, "validation": num_validation, "test": num_test}
        super().__init__(sizes, 2, data_seed)
        self._noise_scale, self._stretch = noise_scale, stretch

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw x (N, 2)."""
        angle = 2 * math.pi * torch.rand(size, generator=generator, dtype=torch.float64)
        noise = randn(size, 2, generator=generator)
        return (
            torch.stack([self._stretch * angle.cos(), angle.sin()], -1) + self._noise_scale * noise
        )
