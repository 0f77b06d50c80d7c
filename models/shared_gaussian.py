"""One latent for a whole data set of Gaussian points: all that one can ask has an exact answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.generative import LOG_2PI, GenerativeModel, models
from utils.data.shared_gaussian import COUNT, MEAN, VARIANCE, AtLeastTwo
from utils.types import PositiveFloat


@models.register("shared_gaussian")
class SharedGaussian(GenerativeModel):
    """z ~ N(0, I), one for N points x_i ~ N(z + Δ, diag(σ²)), with learned Δ and σ.

    The Gaussian model of Caterini et al. 2018 (arXiv 1805.11328, section 4.1). A datum is the
    summary (1, 3, D) of N points that the data set `shared_gaussian` makes, so that log p(x|z),
    the density of all N points, costs O(D). The posterior factorises, so the best factorised
    ELBO is log p(x).

    Args:
        num_points: N, as in the data.
        scale: σ to begin with; Δ begins at 0.
        half: false leaves out the ½ before Σ_i (x_i - Δ)² / σ², the part of log p(x|z) without z,
            as public code for flows does. Then p is no density, and the bound is the greatest
            for a σ of √2 times its size, or √(2σ² + 1) where q is as wide as the prior.

    Raises ValueError for an x of another shape.
    """

    has_exact_log_px = True
    has_factorised_bound = True

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        num_points: AtLeastTwo = 10_000,
        scale: PositiveFloat = 1.0,
        half: bool = True,
    ) -> None:
        if len(x_shape) != 3 or tuple(x_shape[:2]) != (1, 3):
            raise ValueError(
                "it describes summaries (1, 3, D) of points, such as the data set "
                f"`shared_gaussian` makes; got data of shape {tuple(x_shape)}"
            )
        super().__init__(x_shape[2], x_shape)
        self.num_points = num_points
        self.has_half = half
        self.offset = nn.Parameter(torch.zeros(self.latent_dim))
        self.log_scale = nn.Parameter(torch.full((self.latent_dim,), math.log(scale)))

    def check_x(self, x: Tensor) -> None:
        """Raise ValueError where x sums up another number of points."""
        if (x[:, 0, COUNT] != self.num_points).any():
            count = x[0, 0, COUNT, 0].item()
            raise ValueError(
                f"`num_points` is {self.num_points} and the data are summaries of {count:g} "
                "points; set data.num_points and model.num_points alike"
            )

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log Π_i N(x_i; z + Δ, diag(σ²)) (S, B)."""
        mean, variance = x[:, 0, MEAN], x[:, 0, VARIANCE]
        precision = (-2 * self.log_scale).exp()
        off = mean - self.offset
        squares = ((off - z).square() * precision).sum(-1)
        rest = (LOG_2PI + 2 * self.log_scale + variance * precision).sum(-1)
        if not self.has_half:
            rest = rest + ((off.square() + variance) * precision).sum(-1)
        return -0.5 * self.num_points * (squares + rest)

    def mean(self, z: Tensor) -> Tensor:
        """The summary's mean: N, z + Δ, σ² (N - 1) / N."""
        share = (self.num_points - 1) / self.num_points
        return self._summary(z + self.offset, share * (2 * self.log_scale).exp().expand_as(z))

    def sample_x(self, z: Tensor) -> Tensor:
        """Draw the summary of N points, without the points.

        Its mean is N(z + Δ, σ²/N), its mean squared deviation σ²/N times a χ² of N - 1 degrees.
        """
        spread = (2 * self.log_scale).exp() / self.num_points
        mean = z + self.offset + spread.sqrt() * torch.randn_like(z)
        chi_square = 2 * torch._standard_gamma(torch.full_like(z, 0.5 * (self.num_points - 1)))
        return self._summary(mean, spread * chi_square)

    def _summary(self, mean: Tensor, variance: Tensor) -> Tensor:
        count = torch.full_like(mean, self.num_points)
        return torch.stack([count, mean, variance], dim=-2)[..., None, :, :]

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log p(x_1, ..., x_N) (B,), in float64 whatever the parameters are."""
        mean, variance = x[:, 0, MEAN].double(), x[:, 0, VARIANCE].double()
        log_scale, n = self.log_scale.double(), self.num_points
        precision = n * (-2 * log_scale).exp()  # of all points together
        squares = (mean - self.offset.double()).square() * precision
        terms = n * (LOG_2PI + 2 * log_scale) + precision.log1p() + variance * precision
        terms = terms + squares / (1 + precision)
        if not self.has_half:
            terms = terms + squares + variance * precision
        return -0.5 * terms.sum(-1)

    def factorised_bound(self, x: Tensor) -> Tensor:
        """The best ELBO (B,) of a factorised Gaussian: log p(x), for the posterior is one."""
        return self.log_px(x)

    @torch.no_grad()
    def maximise(self, x: Tensor) -> None:
        """Set Δ and σ to those of the greatest log p(x), for one datum x (1, 1, 3, D).

        Δ is the points' mean, so that the model takes no part of it for z: ‖Δ - true Δ‖² is
        ‖true z‖², about D. With v the mean squared deviation (twice that where the ½ is left out)
        and t = σ², d log p / dt = 0 is t² + (N - 1 - v) t - N v = 0, which has one root above 0.
        """
        mean, variance = x[0, 0, MEAN].double(), x[0, 0, VARIANCE].double()
        v = variance if self.has_half else 2 * variance
        b, c = self.num_points - 1 - v, self.num_points * v
        t = 2 * c / (b + (b.square() + 4 * c).sqrt())  # in this form nothing cancels for b > 0
        self.offset.copy_(mean)
        self.log_scale.copy_(0.5 * t.log())
