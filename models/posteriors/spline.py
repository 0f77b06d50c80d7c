"""Neural spline flows: monotone rational-quadratic couplings."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.chain import Chain
from models.posteriors.coupling import ConditionalBijection, Coupling, Mapped, halves
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.protocol import posteriors, transitions
from utils.types import Depth, NonNegativeInt, PositiveFloat

# Least width and height of a bin, as fractions of the interval, and least slope (the paper's).
MINIMUM = 1e-3
# softplus(SLOPE_BIAS) + MINIMUM = 1: zero outputs of the net give the identity.
SLOPE_BIAS = math.log(math.expm1(1 - MINIMUM))

# F.pad's names for one more number at the start, or at the end, of the last axis but one.
FIRST, LAST = (0, 0, 1, 0), (0, 0, 0, 1)

NumBins = Annotated[int, Ge(2), Lt(1 / MINIMUM)]


class Bins(NamedTuple):
    """K bins of M splines, each field (..., K, M): lower left corner, extent, slopes at both ends.

    Bins stand before splines because softmax over a short last axis is many times slower on a CPU.
    """

    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor
    left_slope: Tensor
    right_slope: Tensor


def make_bins(raw: Tensor, num_bins: int, bound: float) -> Bins:
    """Bins on [-bound, bound]² from unbounded numbers (..., 3K - 1, M); zeros give the identity.

    Slopes at ±bound are 1, so that the spline goes on smoothly into the identity outside.
    """
    sides, slopes = raw.split([2 * num_bins, num_bins - 1], dim=-2)
    fractions = sides.unflatten(-2, (2, num_bins)).softmax(-2)  # (..., 2, K, M)
    fractions = MINIMUM + (1 - MINIMUM * num_bins) * fractions
    interior = bound * (2 * fractions.cumsum(-2)[..., :-1, :] - 1)
    left = F.pad(interior, FIRST, value=-bound)
    length = F.pad(interior, LAST, value=bound) - left
    (x, y), (width, height) = left.unbind(-3), length.unbind(-3)
    slopes = MINIMUM + F.softplus(slopes + SLOPE_BIAS)
    left_slope, right_slope = (F.pad(slopes, end, value=1.0) for end in (FIRST, LAST))
    return Bins(x, width, y, height, left_slope, right_slope)


class Spline(NamedTuple):
    """Values of M splines and the logarithms of their slopes, (..., M) both."""

    value: Tensor
    log_slope: Tensor


def rational_quadratic(x: Tensor, bins: Bins, bound: float) -> Spline:
    """Monotone rational-quadratic splines of x (..., M) on [-bound, bound], identity outside.

    Within a bin, with ξ = (x - x_k) / w, s = h / w and D = s + (δ_r + δ_l - 2s) ξ(1-ξ):
    y = y_k + h [s ξ² + δ_l ξ(1-ξ)] / D and dy/dx = s² [δ_r ξ² + 2s ξ(1-ξ) + δ_l (1-ξ)²] / D²
    (Gregory and Delbourgo 1982; Durkan et al. 2019, arXiv 1906.04032).
    """
    # The formula is evaluated for all, at a place where it is finite, so that the branch that
    # is not taken has no NaN for the gradient to meet.
    clamped = x.clamp(-bound, bound)
    at = _bin_of(clamped, bins.x, bins)
    xi, s = (clamped - at.x) / at.width, at.height / at.width
    eta, denominator = 1 - xi, _denominator(xi, s, at)
    value = at.y + at.height * xi * (s * xi + at.left_slope * eta) / denominator
    log_slope = _log_slope(xi, s, denominator, at)
    inside = x.abs() < bound
    return Spline(torch.where(inside, value, x), torch.where(inside, log_slope, 0.0))


def inverse_rational_quadratic(y: Tensor, bins: Bins, bound: float) -> Spline:
    """The x (..., M) that the splines map to y, and the logarithms of their slopes at x.

    ξ is a root of a quadratic, in the form without cancellation (Durkan et al. 2019, equation 6).
    """
    clamped = y.clamp(-bound, bound)
    at = _bin_of(clamped, bins.y, bins)
    rise, s = clamped - at.y, at.height / at.width
    bend = rise * (at.right_slope + at.left_slope - 2 * s)
    a, b, c = at.height * (s - at.left_slope) + bend, at.height * at.left_slope - bend, -s * rise
    xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
    log_slope = _log_slope(xi, s, _denominator(xi, s, at), at)
    inside = y.abs() < bound
    return Spline(
        torch.where(inside, at.x + xi * at.width, y), torch.where(inside, log_slope, 0.0)
    )


def _bin_of(place: Tensor, starts: Tensor, bins: Bins) -> Bins:
    """That of each place (..., M) between ``starts`` (..., K, M); its fields are (..., M)."""
    index = (place[..., None, :] >= starts[..., 1:, :]).sum(-2)  # (..., M), 0 to K - 1
    table = torch.stack(bins, dim=-3)  # (..., 6, K, M)
    index = index[..., None, None, :].expand(*table.shape[:-2], 1, -1)
    return Bins(*table.gather(-2, index).squeeze(-2).unbind(-2))


def _denominator(xi: Tensor, s: Tensor, at: Bins) -> Tensor:
    return s + (at.right_slope + at.left_slope - 2 * s) * xi * (1 - xi)


def _log_slope(xi: Tensor, s: Tensor, denominator: Tensor, at: Bins) -> Tensor:
    eta = 1 - xi
    numerator = at.right_slope * xi.square() + 2 * s * xi * eta + at.left_slope * eta.square()
    return 2 * s.log() + numerator.log() - 2 * denominator.log()


class ConditionalSpline(ConditionalBijection):
    """Elementwise rational-quadratic splines with K bins on [-bound, bound], from a net."""

    def __init__(
        self,
        num_moved: int,
        num_given: int,
        shared_size: int,
        hidden: Widths,
        activation: Activation,
        num_bins: int,
        bound: float,
    ) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.bound = bound
        self.raw_shape = (3 * num_bins - 1, num_moved)
        num_outputs = math.prod(self.raw_shape)
        self.net = ConditionedMLP(num_given, shared_size, num_outputs, hidden, activation)

    def forward(self, x: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """See ``ConditionalBijection``."""
        value, log_slope = rational_quadratic(x, self._bins(given, h), self.bound)
        return Mapped(value, log_slope.sum(-1))

    def inverse(self, y: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """See ``ConditionalBijection``."""
        value, log_slope = inverse_rational_quadratic(y, self._bins(given, h), self.bound)
        return Mapped(value, log_slope.sum(-1))

    def _bins(self, given: Tensor, h: Tensor) -> Bins:
        raw = self.net(given, h).unflatten(-1, self.raw_shape)  # (S, B, 3K - 1, M)
        return make_bins(raw, self.num_bins, self.bound)


@transitions.register("spline_coupling")
def spline_coupling(
    latent_dim: int,
    *,
    num_bins: NumBins = 8,
    bound: PositiveFloat = 5.0,
    hidden: Widths = (200,),
    activation: Activation = "elu",
    shared_size: NonNegativeInt = 0,
    flip: bool = False,
) -> Coupling:
    """Rational-quadratic spline coupling of halves; `flip` moves z₁ instead of z₂.

    Starts at the identity. Raises ValueError for one latent dimension.
    """
    given, moved = halves(latent_dim, flip)
    bijection = ConditionalSpline(moved, given, shared_size, hidden, activation, num_bins, bound)
    return Coupling(latent_dim, bijection, shared_size, flip)


@posteriors.register("spline")
def spline(
    latent_dim: int,
    *,
    num_layers: Depth = 4,
    num_bins: NumBins = 8,
    bound: PositiveFloat = 5.0,
    hidden: Widths = (200,),
    activation: Activation = "elu",
    shared_size: NonNegativeInt = 0,
) -> Chain:
    """Neural spline flow: rational-quadratic couplings (Durkan et al. 2019, 1906.04032).

    Args:
        latent_dim: D.
        num_layers: couplings; each moves one half.
        num_bins: K, bins of each spline.
        bound: the splines live on [-bound, bound] and are the identity outside.
        hidden: widths of each coupling's net.
        activation: nonlinearity of the nets.
        shared_size: numbers of the encoder's features, h, that the nets see besides z; 0: none.
    """
    layers = [
        spline_coupling(
            latent_dim,
            num_bins=num_bins,
            bound=bound,
            hidden=hidden,
            activation=activation,
            shared_size=shared_size,
            flip=layer % 2 == 1,
        )
        for layer in range(num_layers)
    ]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
