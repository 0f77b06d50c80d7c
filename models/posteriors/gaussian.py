"""Gaussian bases and the Gaussian posteriors that are nothing but their base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.protocol import Density, Draw, Moments, bases, conditionals, posteriors
from utils.types import PositiveFloat

LOG_2PI = math.log(2 * math.pi)


def _noise(given: Tensor, like: Tensor) -> Tensor:
    """Standard normal (S, B, D), for ``given`` (S, B, .) and ``like`` (..., D)."""
    shape = (*given.shape[:-1], like.shape[-1])
    return torch.randn(*shape, dtype=like.dtype, device=like.device)


def excess_of(log_noise: Tensor, size: int) -> Tensor:
    """log N(noise; 0, I) (S, B) less its mean, for noise of ``size`` numbers."""
    return log_noise + 0.5 * size * (LOG_2PI + 1)


@bases.register("standard")
@conditionals.register("standard")
class StandardNormal(Density):
    """N(0, scale² I), the same for each datum; no context.

    Args:
        latent_dim: D.
        scale: null: 1.
    """

    def __init__(self, latent_dim: int, *, scale: PositiveFloat | None = None) -> None:
        super().__init__()
        self.size, self.scale = latent_dim, 1.0 if scale is None else scale

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """One independent draw for each row of ``given``."""
        shape = (*given.shape[:-1], self.size)
        noise = torch.randn(*shape, dtype=given.dtype, device=given.device)  # (S, B, D)
        log_noise = _log_standard(noise)
        log_q = log_noise - self.size * math.log(self.scale)
        return Draw(self.scale * noise, log_q, excess_of(log_noise, self.size))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """Log-density with all its constants."""
        return _log_standard(z / self.scale) - self.size * math.log(self.scale)

    def log_prob_each(self, z: Tensor, context: Tensor) -> Tensor:
        """See ``Density``."""
        return -0.5 * ((z / self.scale).square() + LOG_2PI) - math.log(self.scale)

    def moments(self, context: Tensor) -> Moments:
        """0 and scale²."""
        zeros = context.new_zeros(len(context), self.size)
        return Moments(zeros, zeros + self.scale**2)


def _log_standard(noise: Tensor) -> Tensor:
    """log N(noise; 0, I) (S, B), for noise (S, B, D)."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * LOG_2PI)


@bases.register("diagonal")
@conditionals.register("diagonal")
class DiagonalGaussian(Density):
    """N(mean, diag(exp(log_variance))); context = (mean, log_variance), 2D numbers."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.size = latent_dim
        self.context_size = 2 * latent_dim

    def placed(self, mean: Tensor, scale: Tensor) -> Tensor:
        """See ``Density``."""
        return torch.cat([mean, 2 * scale.log()], -1)

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """Reparameterised draw; log q needs only the noise, not z."""
        mean, log_variance = context.chunk(2, dim=-1)  # (B, D) each
        noise = _noise(given, mean)  # (S, B, D)
        log_scale = 0.5 * log_variance
        z = torch.addcmul(mean, noise, log_scale.exp())
        # The part without gradients first: few small nodes count at a VAE's usual sizes.
        log_noise = -0.5 * (noise.square().sum(-1) + self.size * LOG_2PI)
        return Draw(z, log_noise - log_scale.sum(-1), excess_of(log_noise, self.size))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """Log-density with all its constants."""
        mean, log_variance = context.chunk(2, dim=-1)
        noise = (z - mean) * (-0.5 * log_variance).exp()
        return -0.5 * (noise.square().sum(-1) + log_variance.sum(-1) + self.size * LOG_2PI)

    def log_prob_each(self, z: Tensor, context: Tensor) -> Tensor:
        """See ``Density``."""
        mean, log_variance = context.chunk(2, dim=-1)
        noise = (z - mean) * (-0.5 * log_variance).exp()
        return -0.5 * (noise.square() + log_variance + LOG_2PI)

    def moments(self, context: Tensor) -> Moments:
        """See ``Density``."""
        mean, log_variance = context.chunk(2, dim=-1)
        return Moments(mean, log_variance.exp())

    def log_prob_pairs(self, z: Tensor, context: Tensor) -> Tensor:
        """See ``Density``: by two matrix products, in float64, for their terms cancel."""
        z, context = z.double(), context.double()
        mean, log_variance = context.chunk(2, dim=-1)  # (N, D)
        precision = (-log_variance).exp()
        scaled = mean * precision
        squares = z.square() @ precision.T - 2 * z @ scaled.T + (mean * scaled).sum(-1)
        return -0.5 * (squares + log_variance.sum(-1) + self.size * LOG_2PI)


@bases.register("full")
@conditionals.register("full")
class FullGaussian(Density):
    """N(mean, L Lᵀ), L lower triangular with diagonal exp(.); context D + D(D+1)/2 numbers."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.size = latent_dim
        self.context_size = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("below", rows * latent_dim + columns, persistent=False)

    def placed(self, mean: Tensor, scale: Tensor) -> Tensor:
        """See ``Density``."""
        below = mean.new_zeros(*mean.shape[:-1], self.context_size - 2 * self.size)
        return torch.cat([mean, scale.log(), below], -1)

    def moved(self, context: Tensor, move: Tensor) -> Tensor:
        """See ``Part``: L becomes L (I + N / √D) diag(exp(d)), N strictly lower triangular.

        In the frame of q itself its shape is as easy to find for a narrow posterior as for a wide
        one, and D numbers that move a coordinate together move it no further than one alone.
        """
        mean, log_diagonal, scale = self._split(context)
        shift, growth, shear = self._pieces(move)
        turned = scale + scale @ self._lower(shear) / math.sqrt(self.size)
        scale = turned * growth.exp().unsqueeze(-2)  # (B, D, D)
        index = self.get_buffer("below").expand(shear.shape)
        return torch.cat(
            [mean + shift, log_diagonal + growth, scale.flatten(-2).gather(-1, index)], -1
        )

    def _pieces(self, context: Tensor) -> Sequence[Tensor]:
        """Mean, the logarithm of L's diagonal, and what lies below it, row by row."""
        d = self.size
        return context.split([d, d, self.context_size - 2 * d], dim=-1)

    def _lower(self, below: Tensor) -> Tensor:
        """The strictly lower triangular matrix (B, D, D) of its numbers, row by row."""
        d = self.size
        flat = below.new_zeros(*below.shape[:-1], d * d)
        index = self.get_buffer("below").expand(below.shape)
        return flat.scatter(-1, index, below).unflatten(-1, (d, d))

    def _split(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_diagonal, below = self._pieces(context)
        scale = self._lower(below) + torch.diag_embed(log_diagonal.exp())
        return mean, log_diagonal, scale  # (B, D, D)

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """Reparameterised draw z = mean + L ε."""
        mean, log_diagonal, scale = self._split(context)
        noise = _noise(given, mean)  # (S, B, D)
        z = mean + torch.einsum("bij,sbj->sbi", scale, noise)
        log_noise = -0.5 * (noise.square().sum(-1) + self.size * LOG_2PI)
        return Draw(z, log_noise - log_diagonal.sum(-1), excess_of(log_noise, self.size))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """Log-density with all its constants."""
        mean, log_diagonal, scale = self._split(context)
        centred = (z - mean).movedim(0, -1)  # (B, D, S)
        noise = torch.linalg.solve_triangular(scale, centred, upper=False).movedim(-1, 0)
        return self._log_density(noise, log_diagonal)

    def moments(self, context: Tensor) -> Moments:
        """See ``Density``."""
        mean, _, scale = self._split(context)
        return Moments(mean, scale.square().sum(-1))

    def _log_density(self, noise: Tensor, log_diagonal: Tensor) -> Tensor:
        return -0.5 * (noise.square().sum(-1) + self.size * LOG_2PI) - log_diagonal.sum(
            -1
        )  # (S, B)


@posteriors.register("gaussian")
def gaussian(latent_dim: int, *, covariance: Literal["diagonal", "full"] = "diagonal") -> Chain:
    """Gaussian with a diagonal (FFG, Kingma and Welling 2014) or a full covariance matrix."""
    base = FullGaussian(latent_dim) if covariance == "full" else DiagonalGaussian(latent_dim)
    return Chain(base)
