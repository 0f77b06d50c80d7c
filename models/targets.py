"""Targets of sampling benchmarks: densities of any dimension with a known normaliser."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from models.generative import LOG_2PI, models
from models.unconditional import Unconditional
from utils.types import Dimension, NonNegativeInt, PositiveFloat, PositiveInt


@models.register("funnel")
class Funnel(Unconditional):
    """Neal's funnel: v ~ N(0, 3²), then z_i ~ N(0, e^v); log Z = 0 (Neal 2003).

    Args:
        dim: D, v among them.
        prior_scale: deviation of the prior, where annealing may start.
    """

    def __init__(
        self, x_shape: Sequence[int], *, dim: Dimension = 10, prior_scale: PositiveFloat = 1.0
    ) -> None:
        super().__init__(dim, x_shape, prior_scale)

    log_z = 0.0

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        v, others = z[..., 0], z[..., 1:]
        size = self.latent_dim - 1
        squares = others.square().sum(-1) * (-v).exp() + size * v + (v / 3).square()
        return -0.5 * (squares + self.latent_dim * LOG_2PI) - math.log(3)

    def draw(self, num_samples: int) -> Tensor:
        """See ``Unconditional``."""
        noise = self.randn(num_samples, self.latent_dim)
        v = 3 * noise[:, :1]
        return torch.cat([v, (0.5 * v).exp() * noise[:, 1:]], dim=-1)


class Mixture(Unconditional):
    """A mixture of equal weights about places drawn evenly from a cube; log Z = 0."""

    places: Tensor
    log_z = 0.0

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        dim: int,
        num_modes: int,
        extent: float,
        places_seed: int,
        prior_scale: float,
    ) -> None:
        super().__init__(dim, x_shape, prior_scale)
        generator = torch.Generator().manual_seed(places_seed)
        even = torch.rand(num_modes, dim, generator=generator, dtype=torch.float64)
        self.register_buffer("places", (extent * (2 * even - 1)).float(), persistent=False)

    @abstractmethod
    def log_mode(self, left: Tensor) -> Tensor:
        """Log-density (...) of a mode at ``left`` (..., D) from its place."""

    @abstractmethod
    def noise(self, num_samples: int) -> Tensor:
        """Draws (N, D) from a mode at 0."""

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        logs = self.log_mode(z[..., None, :] - self.places)  # (..., number of modes)
        return logs.logsumexp(-1) - math.log(len(self.places))

    def modes_of(self, z: Tensor) -> tuple[Tensor, int]:
        """The nearest place, which with equal weights and forms is the likeliest."""
        return torch.cdist(z, self.places).argmin(-1), len(self.places)

    def draw(self, num_samples: int) -> Tensor:
        """See ``Unconditional``."""
        modes = torch.randint(len(self.places), (num_samples,), device=self.places.device)
        return self.places[modes] + self.noise(num_samples)


@models.register("gaussian_mixture")
class GaussianMixture(Mixture):
    """Modes N(m_k, I), m_k evenly from [-extent, extent]^D (Midgley et al. 2023, 2208.01893).

    The places are drawn here, and are not those of other programs: log Z is the same, 0.

    Args:
        dim: D.
        num_modes: how many.
        extent: of the cube.
        places_seed: which places.
        prior_scale: deviation of the prior, where annealing may start.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        dim: Dimension = 2,
        num_modes: PositiveInt = 40,
        extent: PositiveFloat = 40.0,
        places_seed: NonNegativeInt = 0,
        prior_scale: PositiveFloat = 40.0,
    ) -> None:
        super().__init__(
            x_shape,
            dim=dim,
            num_modes=num_modes,
            extent=extent,
            places_seed=places_seed,
            prior_scale=prior_scale,
        )

    def log_mode(self, left: Tensor) -> Tensor:
        """See ``Mixture``."""
        return -0.5 * (left.square().sum(-1) + self.latent_dim * LOG_2PI)

    def noise(self, num_samples: int) -> Tensor:
        """See ``Mixture``."""
        return self.randn(num_samples, self.latent_dim)


@models.register("student_mixture")
class StudentMixture(Mixture):
    """Modes of Student's t of two degrees, number by number (Blessing et al. 2024, 2406.07423).

    The places are drawn here, and are not those of other programs: log Z is the same, 0.

    Args:
        dim: D.
        num_modes: how many.
        extent: of the cube.
        places_seed: which places.
        prior_scale: deviation of the prior, where annealing may start.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        dim: Dimension = 2,
        num_modes: PositiveInt = 10,
        extent: PositiveFloat = 10.0,
        places_seed: NonNegativeInt = 0,
        prior_scale: PositiveFloat = 15.0,
    ) -> None:
        super().__init__(
            x_shape,
            dim=dim,
            num_modes=num_modes,
            extent=extent,
            places_seed=places_seed,
            prior_scale=prior_scale,
        )

    def log_mode(self, left: Tensor) -> Tensor:
        """p(t) = (2 + t²)^(-3/2), number by number."""
        return -1.5 * (2 + left.square()).log().sum(-1)

    def noise(self, num_samples: int) -> Tensor:
        """t = ξ / sqrt(E), ξ ~ N(0, 1), E ~ Exp(1): half a chi-square of two degrees."""
        noise = self.randn(num_samples, self.latent_dim)
        return noise / torch.empty_like(noise).exponential_().sqrt()


WELL_EXTENT, WELL_STEP = 6.0, 1e-3  # beyond, a well's density is below e^-1000


@functools.cache
def _well() -> tuple[Tensor, float]:
    """log of exp(½ x + 6 x² - x⁴) on a grid of cells' middles, and of its integral."""
    count = round(2 * WELL_EXTENT / WELL_STEP)
    x = (torch.arange(count, dtype=torch.float64) + 0.5) * WELL_STEP - WELL_EXTENT
    log_f = 0.5 * x + 6 * x.square() - x.pow(4)
    return log_f, log_f.logsumexp(0).item() + math.log(WELL_STEP)


@models.register("many_well")
class ManyWell(Unconditional):
    """Pairs (x, y) of f = exp(½ x + 6 x² - x⁴ - ½ y²): 2^(D/2) modes (Noé et al. 2019).

    log Z = 10.29348 a pair, by quadrature; 164.69568 for D = 32 (Midgley et al. 2023,
    arXiv 2208.01893).

    Args:
        dim: D, even.
        prior_scale: deviation of the prior, where annealing may start.

    Raises ValueError for an odd D.
    """

    def __init__(
        self, x_shape: Sequence[int], *, dim: Dimension = 32, prior_scale: PositiveFloat = 1.0
    ) -> None:
        if dim % 2:
            raise ValueError(f"`dim` must be even, for the latents come in pairs; got {dim}")
        super().__init__(dim, x_shape, prior_scale)

    @property
    def log_z(self) -> float:
        """By quadrature of one pair."""
        return self.latent_dim / 2 * (_well()[1] + 0.5 * LOG_2PI)

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``; x and y in turn."""
        x, y = z[..., 0::2], z[..., 1::2]
        squares = x.square()
        return (0.5 * x + 6 * squares - squares.square() - 0.5 * y.square()).sum(-1)

    def draw(self, num_samples: int) -> Tensor:
        """Evenly within the cells of a grid."""
        size = (num_samples, self.latent_dim // 2)
        cells = _well()[0].softmax(0).multinomial(math.prod(size), replacement=True)
        jitter = torch.rand(len(cells), dtype=torch.float64)
        x = ((cells + jitter) * WELL_STEP - WELL_EXTENT).unflatten(0, size)
        return torch.stack([x.to(self.prior_scale), self.randn(*size)], dim=-1).flatten(1)
