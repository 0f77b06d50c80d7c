"""Ways from a density one can draw from to p(x, z), and schedules along them.

Dimension letters: C chains, B data points, D latent, T distributions after the first.
"""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models import schedules
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.paths import PLAIN, Differentiator, LogDensity, traced, untraced
from utils.compiled import compiled
from utils.precision import in_bf16

LOG_2PI = math.log(2 * math.pi)
MOMENT_DRAWS = 256
SMALLEST_SCALE = 1e-4  # of a posterior whose draws hardly differ

Evaluation = Callable[[LogDensity, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Path(ABC):
    """The geometric path log f_b(u) = log f_0(u) + b slope(u), f_0 normalised, ∫ f_1 = p(x).

    Chains move in coordinates u (C, B, D) in which unit masses suit them.
    """

    model: GenerativeModel
    x: Tensor

    @abstractmethod
    def draw(self, num_chains: int) -> Tensor:
        """Exact draws u (C, B, D) from f_0."""

    @abstractmethod
    def log_start(self, u: Tensor) -> Tensor:
        """log f_0(u) (C, B) in nats."""

    def slope(self, u: Tensor) -> Tensor:
        """log f_1(u) - log f_0(u) (C, B) in nats; -inf, weight zero, where that is not finite."""
        slope = self._slope(u)
        return slope.masked_fill(~slope.isfinite(), -math.inf)

    @abstractmethod
    def _slope(self, u: Tensor) -> Tensor:
        """log f_1(u) - log f_0(u) (C, B) in nats."""

    @abstractmethod
    def slope_gradient(self, u: Tensor) -> Tensor:
        """d slope / du (C, B, D) without a graph: a force, of which no value is read."""

    @abstractmethod
    def coordinates(self, z: Tensor) -> Tensor:
        """The coordinates u of latent z (..., B, D)."""


class PriorPath(Path):
    """From prior to posterior: f_b(z) = p(z) p(x|z)^b, u = z."""

    def draw(self, num_chains: int) -> Tensor:
        """Draws from the prior."""
        return self.model.sample_prior(num_chains, len(self.x))

    def log_start(self, u: Tensor) -> Tensor:
        """log p(z)."""
        return self.model.log_prior(u)

    def _slope(self, u: Tensor) -> Tensor:
        return self.model.log_likelihood(self.x, u)

    def slope_gradient(self, u: Tensor) -> Tensor:
        """Of log p(x|z)."""
        return self.model.likelihood_gradient(self.x, u)

    def coordinates(self, z: Tensor) -> Tensor:
        """Latent z itself."""
        return z


@dataclass(frozen=True)
class GaussianPath(Path):
    """From a factorised Gaussian q0 = N(mean, scale²): f_b = q0^(1-b) p(x, z)^b.

    u = (z - mean) / scale, in which q0 is standard normal: q0 also preconditions the dynamics.
    """

    mean: Tensor
    scale: Tensor

    def draw(self, num_chains: int) -> Tensor:
        """Standard normal draws."""
        shape = (num_chains, *self.mean.shape)
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)

    def log_start(self, u: Tensor) -> Tensor:
        """log N(u; 0, I)."""
        return -0.5 * (u.square().sum(-1) + u.shape[-1] * LOG_2PI)

    def _slope(self, u: Tensor) -> Tensor:
        log_joint = self.model.log_joint(self.x)(torch.addcmul(self.mean, self.scale, u))
        return log_joint + self.scale.log().sum(-1) - self.log_start(u)

    def slope_gradient(self, u: Tensor) -> Tensor:
        """By the chain rule from those of prior, likelihood and q0."""
        z = torch.addcmul(self.mean, self.scale, u)
        _, prior = untraced(self.model.log_prior, z)
        return torch.addcmul(u, self.scale, prior + self.model.likelihood_gradient(self.x, z))

    def coordinates(self, z: Tensor) -> Tensor:
        """Latent z, standardised."""
        return (z - self.mean) / self.scale


def prior_path(model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor) -> Path:
    """From the prior (Cremer et al. 2018, arXiv 1801.03558); the posterior is not asked."""
    return PriorPath(model, x)


def posterior_path(model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor) -> Path:
    """From the Gaussian with the mean and variances of draws from the posterior.

    Its moments need no density, so every posterior will do; the draws are the path's own, so that
    given the path the chains' weights stay exact.
    """
    z = posterior(context, model.log_joint(x), MOMENT_DRAWS).state.z  # (S, B, D)
    return GaussianPath(model, x, z.mean(0), z.std(0).clamp_min(SMALLEST_SCALE))


PathName = Literal["prior", "posterior"]
PATHS: Mapping[PathName, Callable[[GenerativeModel, Chain, Tensor, Tensor], Path]] = {
    "prior": prior_path,
    "posterior": posterior_path,
}


def plain_slope(path: Path, *, rounded: bool = False) -> Differentiator:
    """Gradients alone by the path's own formula, which computes no value; ``rounded``: in bf16."""
    gradient = in_bf16(path.slope_gradient, path.x.device) if rounded else path.slope_gradient
    return PLAIN._replace(gradient=lambda _, u: gradient(u))


def compiled_slope(
    device: torch.device, *, rounded: bool = False
) -> Callable[[Path], Differentiator]:
    """For any path through torch.compile, gradients alone without what only values need.

    Where that fails, as ``plain_slope``.
    """

    @functools.cache  # both fail for the same reason, which is told once
    def warn(message: str) -> None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    fused, plain = _traced_gradient, _gradient
    if rounded:
        fused, plain = in_bf16(fused, device), in_bf16(plain, device)
    both: Evaluation = compiled(traced, warn, plain=PLAIN.both)
    gradient = compiled(fused, warn, plain=plain)
    return lambda path: Differentiator(both, lambda _, u: gradient(path, u))


def _traced_gradient(path: Path, u: Tensor) -> Tensor:
    return traced(path.slope, u)[1]


def _gradient(path: Path, u: Tensor) -> Tensor:
    return path.slope_gradient(u)


# --- schedules -----------------------------------------------------------------------------------


class Pilot(NamedTuple):
    """What a pilot run found: levels b (K, B) from 0 to 1, and log step sizes (K, B) that suit.

    Neighbouring levels differ by a constant conditional effective sample size. ``chains``
    (C, B, D) are where it ended, about f_1; None where there was no run.
    """

    betas: Tensor
    log_step_sizes: Tensor
    chains: Tensor | None = None


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through (knots, values) (K, B), column by column, at x (T, B).

    Knots never decrease, and begin strictly below their end; x lies between.
    """
    right = torch.searchsorted(knots.T.contiguous(), x.T.contiguous()).T.clamp_min(1)
    left = right - 1
    low, high = knots.gather(0, left), knots.gather(0, right)
    return values.gather(0, left).lerp(values.gather(0, right), (x - low) / (high - low))


def _for_all(shape: Callable[[int], list[float]]) -> Callable[[int, Pilot], Tensor]:
    """The same for each datum: (T+1, B)."""

    def schedule(num_distributions: int, pilot: Pilot) -> Tensor:
        betas = pilot.betas.new_tensor(shape(num_distributions))
        return betas[:, None].expand(-1, pilot.betas.shape[1])

    return schedule


def adaptive(num_distributions: int, pilot: Pilot) -> Tensor:
    """Each datum's pilot levels, refined or thinned to T: steps of constant conditional ESS."""
    last = (pilot.betas < 1).sum(0)  # (B,) the first level at 1
    levels = torch.arange(len(pilot.betas), device=last.device).to(pilot.betas)
    wanted = pilot.betas.new_tensor(schedules.linear(num_distributions))[:, None] * last
    return interpolate(wanted, levels[:, None].expand_as(pilot.betas), pilot.betas)


ScheduleName = Literal["linear", "sigmoidal", "adaptive"]
SCHEDULES: Mapping[ScheduleName, Callable[[int, Pilot], Tensor]] = {
    "linear": _for_all(schedules.linear),
    "sigmoidal": _for_all(schedules.sigmoidal),
    "adaptive": adaptive,
}
