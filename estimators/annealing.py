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

from models import dynamics, schedules
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.compiled import compiled

LOG_2PI = math.log(2 * math.pi)
MOMENT_DRAWS = 256
SMALLEST_SCALE = 1e-4  # of a posterior whose draws hardly differ


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

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """log f_1(u) - log f_0(u) (C, B) in nats."""

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

    def slope(self, u: Tensor) -> Tensor:
        """log p(x|z)."""
        return self.model.log_likelihood(self.x, u)

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

    def slope(self, u: Tensor) -> Tensor:
        """log p(x, z) - log q0(z)."""
        log_joint = self.model.log_joint(self.x)(torch.addcmul(self.mean, self.scale, u))
        return log_joint + self.scale.log().sum(-1) - self.log_start(u)

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


# --- particles -----------------------------------------------------------------------------------


class Particles(NamedTuple):
    """Positions u (C, B, D) on a path, log f_0 and slope (C, B) there, and their gradients."""

    u: Tensor
    log_start: Tensor
    slope: Tensor
    start_gradient: Tensor
    slope_gradient: Tensor


class Tempered(NamedTuple):
    """Particles as f_b sees them; for any b nothing but these sums is computed anew."""

    particles: Particles
    beta: Tensor
    """Inverse temperature b (B,)."""

    @property
    def z(self) -> Tensor:
        """Positions (C, B, D)."""
        return self.particles.u

    @property
    def log_density(self) -> Tensor:
        """log f_b (C, B) in nats."""
        return torch.addcmul(self.particles.log_start, self.beta, self.particles.slope)

    @property
    def gradient(self) -> Tensor:
        """d log f_b / du (C, B, D)."""
        _, _, _, start_gradient, slope_gradient = self.particles
        return torch.addcmul(start_gradient, self.beta[:, None], slope_gradient)


def evaluate(path: Path, u: Tensor) -> Particles:
    """Densities and gradients at u (C, B, D): one forward and one backward pass to u alone."""
    with torch.enable_grad():
        # Two leaves at one place: a single backward pass then tells the gradients apart.
        start, end = u.detach().requires_grad_(), u.detach().requires_grad_()
        log_start, slope = path.log_start(start), path.slope(end)
        gradients = torch.autograd.grad(log_start.sum() + slope.sum(), (start, end))
    return Particles(u, log_start.detach(), _impossible_if_broken(slope.detach()), *gradients)


def _evaluate_traced(path: Path, u: Tensor) -> Particles:
    """``evaluate`` in the form that torch.compile makes one program of (eager, it is slower)."""
    log_start, pull_start = torch.func.vjp(path.log_start, u)  # type: ignore[misc]
    slope, pull_slope = torch.func.vjp(path.slope, u)  # type: ignore[misc]
    (start_gradient,) = pull_start(torch.ones_like(log_start))
    (slope_gradient,) = pull_slope(torch.ones_like(slope))
    return Particles(u, log_start, _impossible_if_broken(slope), start_gradient, slope_gradient)


def _impossible_if_broken(slope: Tensor) -> Tensor:
    """NaN and infinities become weight zero and a rejection."""
    return slope.masked_fill(~slope.isfinite(), -math.inf)


def gradient(path: Path, u: Tensor, beta: Tensor) -> Tensor:
    """d log f_b/du (C, B, D) alone, for b (B,)."""
    return Tempered(evaluate(path, u), beta).gradient


def _gradient_traced(path: Path, u: Tensor, beta: Tensor) -> Tensor:
    """``gradient`` for torch.compile, which leaves out what only the values need."""
    log_density, pull = torch.func.vjp(  # type: ignore[misc]
        lambda u: path.log_start(u) + beta * path.slope(u), u
    )
    (score,) = pull(torch.ones_like(log_density))
    return score


class Evaluation(NamedTuple):
    """How a path's densities are evaluated."""

    particles: Callable[[Path, Tensor], Particles]
    gradient: Callable[[Path, Tensor, Tensor], Tensor]

    def target(self, path: Path, beta: Tensor) -> dynamics.Target[Tempered]:
        """f_b, for b (B,)."""
        return dynamics.Target(
            lambda u: Tempered(self.particles(path, u), beta),
            lambda u: self.gradient(path, u, beta),
        )


EAGER = Evaluation(evaluate, gradient)


def compiled_evaluation() -> Evaluation:
    """Through torch.compile; eager, with a warning, where that fails."""

    @functools.cache  # both fail for the same reason, which is told once
    def warn(message: str) -> None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    return Evaluation(
        compiled(_evaluate_traced, warn, plain=evaluate),
        compiled(_gradient_traced, warn, plain=gradient),
    )


# --- schedules -----------------------------------------------------------------------------------


class Pilot(NamedTuple):
    """What a pilot run found: levels b (K, B) from 0 to 1, and log step sizes (K, B) that suit.

    Neighbouring levels differ by a constant conditional effective sample size.
    """

    betas: Tensor
    log_step_sizes: Tensor


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
