"""A number that tells how far z is from the origin: posteriors are shells, log p(x) is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generative import LOG_2PI, GenerativeModel, models
from utils.types import PositiveFloat, PositiveInt

LEFT_OUT = 41.0  # nats: e⁻⁴¹ of the mass of r lies below the grid
BEYOND = 8.5  # above √d, chi's density is below e⁻³⁶
FINENESS = 0.8  # in deviations: 2 exp(-2π² / 0.8²) = 8e-14 is the error for a normal density


@models.register("noisy_radius")
class NoisyRadius(GenerativeModel):
    """z ~ N(0, I) and x ~ N(a (‖z‖ + b), 1), one number, with learned a > 0 and b > 0.

    The toy of Thin et al. 2021 (arXiv 2106.15921). p(z|x) is a shell around the origin. log p(x)
    is exact, by quadrature over r = ‖z‖, whose density is that of chi with d degrees of freedom.

    Args:
        latent_dim: d.
        slope: a to begin with.
        offset: b to begin with.
        learn: false keeps both.

    Raises ValueError for an x of more than one number.
    """

    has_exact_log_px = True

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        latent_dim: PositiveInt = 2,
        slope: PositiveFloat = 1.0,
        offset: PositiveFloat = 1.0,
        learn: bool = True,
    ) -> None:
        if math.prod(x_shape) != 1:
            raise ValueError(
                "it describes one number a datum, such as the data set `noisy_radius` makes; got "
                f"data of shape {tuple(x_shape)}"
            )
        super().__init__(latent_dim, x_shape)
        self.log_slope = nn.Parameter(torch.tensor(math.log(slope)))
        self.log_offset = nn.Parameter(torch.tensor(math.log(offset)))
        self.requires_grad_(learn)

    def _mean(self, radius: Tensor) -> Tensor:
        return self.log_slope.exp() * (radius + self.log_offset.exp())

    def _mean_of(self, z: Tensor) -> Tensor:
        return self._mean((z.square().sum(-1) + 1e-12).sqrt())  # differentiable at 0, too

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log N(x; a (‖z‖ + b), 1) (S, B)."""
        return -0.5 * ((x.flatten() - self._mean_of(z)).square() + LOG_2PI)

    def mean(self, z: Tensor) -> Tensor:
        """a (‖z‖ + b)."""
        return self._mean_of(z)[..., None].unflatten(-1, self.x_shape)

    def sample_x(self, z: Tensor) -> Tensor:
        """Draw x = a (‖z‖ + b) + noise."""
        mean = self.mean(z)
        return mean + torch.randn_like(mean)

    def log_px(self, x: Tensor) -> Tensor:
        """log ∫ chi_d(r) N(x; a (r + b), 1) dr (B,), to rounding in float64.

        By the trapezoid rule in t, r = log(1 + exp(t)): the integrand is smooth and vanishes at
        both ends, so that the rule converges exponentially.
        """
        x, slope, offset = x.flatten().double(), self.log_slope.double(), self.log_offset.double()
        slope, offset, d = slope.exp(), offset.exp(), self.latent_dim
        with torch.no_grad():
            step = FINENESS / math.sqrt(slope.item() ** 2 + d + 2)
            highest = max(math.sqrt(d), (x.max() / slope - offset).item()) + BEYOND
        t = torch.arange(-LEFT_OUT / d - 1, highest, step, dtype=x.dtype, device=x.device)
        r = F.softplus(t)
        log_chi = (d - 1) * r.log() - 0.5 * r.square() - (0.5 * d - 1) * math.log(2)
        log_weight = log_chi - math.lgamma(0.5 * d) + F.logsigmoid(t) + math.log(step)
        log_normal = -0.5 * ((x[:, None] - slope * (r + offset)).square() + LOG_2PI)
        return (log_normal + log_weight).logsumexp(-1)
