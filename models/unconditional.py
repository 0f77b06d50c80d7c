"""Densities without data, as generative models: p(x, z) = f(z) whatever x, log p(x) = log Z."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from models.generative import LOG_2PI, GenerativeModel, Sample
from models.posteriors.paths import LogDensity


class Unconditional(GenerativeModel, ABC):
    """A density f(z) / Z with a known Z, which a posterior is to meet.

    The prior N(0, prior_scale² I) and log p(x|z) = log f(z) - log p(z) are nothing but a split of
    log f, such as annealing needs one. ``sample`` draws z from f/Z, so that z is a draw given x.
    """

    has_x = False
    has_exact_log_px = True
    has_draws: bool = True
    """Whether ``draw`` knows how."""
    prior_scale: Tensor

    def __init__(self, latent_dim: int, x_shape: Sequence[int], prior_scale: float) -> None:
        super().__init__(latent_dim, x_shape)
        # A tensor, so that the model knows its device and dtype.
        self.register_buffer("prior_scale", torch.tensor(prior_scale), persistent=False)
        self._log_scale = math.log(prior_scale)

    @abstractmethod
    def log_f(self, z: Tensor) -> Tensor:
        """log f(z) (...) in nats, for z (..., D)."""

    @property
    @abstractmethod
    def log_z(self) -> float:
        """log Z = log ∫ f(z) dz in nats."""

    def draw(self, num_samples: int) -> Tensor:
        """z (N, D) from f/Z. Raises ValueError unless it ``has_draws``."""
        raise ValueError(f"{type(self).__name__} cannot be drawn from")

    def modes_of(self, z: Tensor) -> tuple[Tensor, int] | None:
        """The mode that each z (..., D) is in, and how many modes of equal weights there are.

        None where there are none such.
        """
        return None

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, prior_scale² I) (S, B)."""
        squares = (z / self.prior_scale).square().sum(-1)
        return -0.5 * squares - self.latent_dim * (0.5 * LOG_2PI + self._log_scale)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log f(z) - log p(z) (S, B)."""
        return self.log_f(z) - self.log_prior(z)

    def log_joint(self, x: Tensor) -> LogDensity:
        """``log_f``."""
        return self.log_f

    def mean(self, z: Tensor) -> Tensor:
        """Zeros (S, B, C, H, W): there is nothing to see."""
        return z.new_zeros(*z.shape[:2], *self.x_shape)

    def sample_x(self, z: Tensor) -> Tensor:
        """See ``mean``."""
        return self.mean(z)

    def sample_prior(self, num_samples: int, num_data: int) -> Tensor:
        """Draw z (S, B, D) from N(0, prior_scale² I)."""
        return self.prior_scale * self.randn(num_samples, num_data, self.latent_dim)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers on the model's device."""
        like = self.prior_scale
        return torch.randn(shape, dtype=like.dtype, device=like.device)

    def sample(self, num_samples: int) -> Sample:
        """Draw z from f/Z."""
        z = self.draw(num_samples)
        return Sample(z, self.mean(z[None])[0])

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log Z (B,) in float64, the same for each datum."""
        return x.new_full((len(x),), self.log_z, dtype=torch.float64)
