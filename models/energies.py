"""Toy models with exact answers: energies on the plane without data, and x = |z| + noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generative import LOG_2PI, GenerativeModel, models
from models.unconditional import Unconditional
from utils.types import PositiveFloat

Energy = Callable[[Tensor, Tensor], Tensor]
"""E(z_1, z_2), all three of one shape."""

PRIOR_SCALE = 3.0  # about that of the broadest energy
EXTENT, STEP = 20.0, 0.05  # of the grid that is summed over: see `tabulate`


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square()


def _radius(z1: Tensor, z2: Tensor) -> Tensor:
    return (z1.square() + z2.square() + 1e-12).sqrt()  # with a gradient at 0, too


def _w1(z1: Tensor) -> Tensor:
    return (0.5 * math.pi * z1).sin()


def _walls(z1: Tensor) -> Tensor:
    return _half_square(F.relu(z1.abs() - 4) / 0.4)


def _mixture(variance: float, weights: Mapping[tuple[float, float], float]) -> Energy:
    """-log Σ_k w_k N(z; m_k, variance I), for the weight of each mean."""

    def energy(z1: Tensor, z2: Tensor) -> Tensor:
        logs = [
            math.log(w / (2 * math.pi * variance))
            - ((z1 - m1).square() + (z2 - m2).square()) / (2 * variance)
            for (m1, m2), w in weights.items()
        ]
        return -torch.stack(logs).logsumexp(0)

    return energy


def _a(z1: Tensor, z2: Tensor) -> Tensor:
    sides = torch.logaddexp(-_half_square((z1 - 2) / 0.6), -_half_square((z1 + 2) / 0.6))
    return _half_square((_radius(z1, z2) - 2) / 0.4) - sides


def _b(z1: Tensor, z2: Tensor) -> Tensor:
    waves = (_half_square((z1 - 2) / 0.6), _half_square(2 * z1.sin()))
    logs = -torch.stack([*waves, _half_square((z1 + z2 + 2.5) / 0.6)])
    return _half_square(_radius(z1, z2) - 4) - logs.logsumexp(0)


def _c(z1: Tensor, z2: Tensor) -> Tensor:
    return (2 - _radius(z1, math.sqrt(0.5) * z2)).square()


def _ridges(z1: Tensor, z2: Tensor, second: Tensor, scale: float, second_scale: float) -> Tensor:
    """Two ridges: along z_2 = w_1 and below it by ``second``."""
    height = z2 - _w1(z1)
    one, other = -_half_square(height / scale), -_half_square((height + second) / second_scale)
    return -torch.logaddexp(one, other)


def _e(z1: Tensor, z2: Tensor) -> Tensor:
    return _half_square((z2 - _w1(z1)) / 0.4) + 0.1 * z1.square()


def _f(z1: Tensor, z2: Tensor) -> Tensor:
    second = 3 * (-_half_square(z1 - 2)).exp()
    return _ridges(z1, z2, second, 0.35, 0.35) + 0.05 * z1.square()


def _u2(z1: Tensor, z2: Tensor) -> Tensor:
    return _half_square((z2 - _w1(z1)) / 0.4) + _walls(z1)


def _u3(z1: Tensor, z2: Tensor) -> Tensor:
    second = 3 * (-_half_square((z1 - 1) / 0.6)).exp()
    return _ridges(z1, z2, second, 0.35, 0.35) + _walls(z1)


def _u4(z1: Tensor, z2: Tensor) -> Tensor:
    second = 3 * ((z1 - 1) / 0.3).sigmoid()
    return _ridges(z1, z2, second, 0.4, 0.35) + _walls(z1)


def _normal(z1: Tensor, z2: Tensor) -> Tensor:
    return _half_square(z1) + _half_square(z2) + LOG_2PI


def _correlated(z1: Tensor, z2: Tensor) -> Tensor:
    scale = math.sqrt(1 - 0.9**2)  # of z_2 given z_1
    return _half_square(z1) + _half_square((z2 - 0.9 * z1) / scale) + math.log(scale) + LOG_2PI


def _banana(z1: Tensor, z2: Tensor) -> Tensor:
    return _normal(-z1, z2 + _half_square(z1) + 1)


FOUR_MODES = {(-2.0, 0.0): 0.1, (2.0, 0.0): 0.3, (0.0, 2.0): 0.4, (0.0, -2.0): 0.2}
"""Means and weights of energy d."""

EnergyName = Literal[
    "a", "b", "c", "d", "e", "f", "u2", "u3", "u4", "normal", "correlated", "mixture", "banana"
]
ENERGIES: Mapping[EnergyName, Energy] = {
    "a": _a,
    "b": _b,
    "c": _c,
    "d": _mixture(0.2, FOUR_MODES),
    "e": _e,
    "f": _f,
    "u2": _u2,
    "u3": _u3,
    "u4": _u4,
    "normal": _normal,
    "correlated": _correlated,
    "mixture": _mixture(0.5, {(-2.0, -1.0): 0.3, (2.0, -1.0): 0.3, (0.0, 2.0): 0.4}),
    "banana": _banana,
}


class Tabulated(NamedTuple):
    """A density at points z (N, 2) of a grid: log f (N,) in nats, and the area of a cell."""

    z: Tensor
    log_f: Tensor
    cell: float

    @property
    def log_z(self) -> float:
        """log ∫ f(z) dz."""
        return self.log_f.logsumexp(0).item() + math.log(self.cell)


def tabulate(energy: EnergyName, extent: float = EXTENT, step: float = STEP) -> Tabulated:
    """log f = -E in float64 on the square |z_i| ≤ ``extent``.

    By default the square leaves out less than 1e-8 of any f, and the sum over the grid, with no
    ridge narrower than seven steps, is ∫ f dz to 1e-6: f is smooth but at the walls of U2 to U4.
    """
    num_steps = round(extent / step)
    side = torch.arange(-num_steps, num_steps + 1, dtype=torch.float64) * step
    z = torch.cartesian_prod(side, side)
    return Tabulated(z, -ENERGIES[energy](*z.unbind(-1)), step**2)


@functools.cache
def log_normaliser(energy: EnergyName) -> float:
    """log Z = log ∫ f(z) dz in nats, by quadrature."""
    return tabulate(energy).log_z


@models.register("toy_energy")
class ToyEnergy(Unconditional):
    """A density on the plane without data: log p(x, z) = log f(z) = -E(z), whatever x.

    log p(x) is log Z = log ∫ f(z) dz, known by quadrature.

    ``energy`` is a to f of Huang et al. 2018 (arXiv 1809.01818), of which a is U1 of Rezende and
    Mohamed 2015 (arXiv 1505.05770) and d a mixture; their U2 to U4, which are flat in z_1, with
    E + ½ ((|z_1| - 4) / 0.4)² beyond |z_1| = 4; and normalised ones: a standard normal, one with
    correlation 0.9, a mixture of three, a banana.
    """

    def __init__(self, x_shape: Sequence[int], *, energy: EnergyName = "a") -> None:
        super().__init__(2, x_shape, PRIOR_SCALE)
        self.energy: EnergyName = energy

    def log_f(self, z: Tensor) -> Tensor:
        """-E(z) (...) in nats, for z (..., 2)."""
        return -ENERGIES[self.energy](*z.unbind(-1))

    @property
    def log_z(self) -> float:
        """By quadrature."""
        return log_normaliser(self.energy)

    def draw(self, num_samples: int) -> Tensor:
        """Uniformly within the cells of the grid."""
        table = tabulate(self.energy)
        cells = table.log_f.softmax(0).multinomial(num_samples, replacement=True)
        jitter = (torch.rand(num_samples, 2, dtype=torch.float64) - 0.5) * STEP
        return (table.z[cells] + jitter).to(self.prior_scale)


@models.register("absolute_value")
class AbsoluteValue(GenerativeModel):
    """z ~ N(0, I) and x = |z| + scale * noise, number by number, with a learned scale.

    p(z|x) has two modes a number, and their distance tells how much of x is signal: a q with one
    mode makes up for the other by noise. log p(x) is exact: with s = scale and v = 1 + s²,
    p(x_i) = 2 N(x_i; 0, v) Φ(x_i / (s √v)), a skew normal.
    """

    has_exact_log_px = True

    def __init__(self, x_shape: Sequence[int], *, scale: PositiveFloat = 1.0) -> None:
        super().__init__(math.prod(x_shape), x_shape)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log N(x; |z|, scale² I) (S, B)."""
        squares = (x.flatten(1) - z.abs()).square().sum(-1) * (-2 * self.log_scale).exp()
        return -0.5 * (squares + self.latent_dim * (LOG_2PI + 2 * self.log_scale))

    def mean(self, z: Tensor) -> Tensor:
        """|z|."""
        return z.abs().unflatten(-1, self.x_shape)

    def sample_x(self, z: Tensor) -> Tensor:
        """Draw x = |z| + scale * noise."""
        mean = self.mean(z)
        return mean + self.log_scale.exp() * torch.randn_like(mean)

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log p(x) (B,), in float64."""
        x, scale = x.flatten(1).double(), self.log_scale.double().exp()
        variance = 1 + scale.square()
        log_normal = -0.5 * (x.square() / variance + variance.log() + LOG_2PI)
        log_share = torch.special.log_ndtr(x / (scale * variance.sqrt()))
        return (math.log(2) + log_normal + log_share).sum(-1)
