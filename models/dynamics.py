"""Hamiltonian dynamics and Metropolis's rule: pure functions of tensors.

Shapes: chains S, data points B, dimensions D; unit masses. Trained transitions and estimators
share these functions, so they detach nothing and keep no state.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor


class Evaluated(Protocol):
    """A position and what the log-density says there."""

    @property
    def z(self) -> Tensor:
        """Position (S, B, D)."""

    @property
    def log_density(self) -> Tensor:
        """log f(z) (S, B) in nats, normalised or not."""

    @property
    def gradient(self) -> Tensor:
        """d log f / dz (S, B, D)."""


P = TypeVar("P", bound=Evaluated)


LARGEST_ENERGY_ERROR = 1000.0  # nats; beyond, a trajectory has diverged (as in Stan)


class Proposal(NamedTuple, Generic[P]):
    """Where a chain may go; whether it goes there (S, B); and with which probability (S, B).

    ``divergent`` (S, B): the energy was off by more than ``LARGEST_ENERGY_ERROR``, or not finite.
    """

    point: P
    accepted: Tensor
    probability: Tensor
    divergent: Tensor


P_co = TypeVar("P_co", bound=Evaluated, covariant=True)


class Differentiable(Protocol[P_co]):
    """How a log-density is asked: for all that ``Evaluated`` tells of z, or the gradient alone."""

    def evaluate(self, z: Tensor, /) -> P_co:
        """All that ``Evaluated`` tells."""

    def gradient(self, z: Tensor, /) -> Tensor:
        """d log f / dz (S, B, D)."""


def leapfrog(
    start: P,
    momentum: Tensor,
    step_size: Tensor | float,
    num_steps: int,
    target: Differentiable[P],
) -> tuple[P, Tensor]:
    """Integrate dz/dt = v, dv/dt = d log f / dz over ``num_steps`` steps; returns the end.

    Half a kick, then drifts and kicks in turn, the last kick half again (Neal 2011,
    arXiv 1206.1901, eq. 5.18-5.20): reversible (with the momentum's sign turned), of Jacobian
    determinant 1, with energy error O(step_size²). The gradient at the start is known and the
    end is returned evaluated: one gradient a step, and one value.

    Args:
        start: the evaluated position.
        momentum: v (S, B, D).
        step_size: a number, or a tensor that broadcasts against (S, B, D).
        num_steps: at least one.
        target: of z (S, B, D).
    """
    half = 0.5 * step_size
    z, momentum = start.z, momentum + half * start.gradient
    for _ in range(num_steps - 1):
        z = z + step_size * momentum
        momentum = momentum + step_size * target.gradient(z)
    end = target.evaluate(z + step_size * momentum)
    return end, momentum + half * end.gradient


def metropolis(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Accept with probability min(1, exp(log_ratio)); returns the choice and the probability.

    NaN, the mark of a trajectory that diverged, is rejected.
    """
    probability = log_ratio.clamp(max=0).exp().nan_to_num(nan=0.0)
    return torch.rand_like(probability) < probability, probability


def barker(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Accept with probability t / (1 + t), t = exp(log_ratio) (Barker 1965); as ``metropolis``."""
    probability = log_ratio.sigmoid().nan_to_num(nan=0.0)
    return torch.rand_like(probability) < probability, probability


def hamiltonian(
    start: P, step_size: Tensor | float, num_steps: int, target: Differentiable[P]
) -> Proposal[P]:
    """A move of Hamiltonian Monte Carlo: fresh momentum, leapfrog, Metropolis on the energy.

    With the choice applied it leaves f invariant and is reversible with respect to it
    (Duane et al. 1987; Neal 2011, arXiv 1206.1901). Arguments as in ``leapfrog``.
    """
    momentum = torch.randn_like(start.z)
    end, last = leapfrog(start, momentum, step_size, num_steps, target)
    kinetic = 0.5 * (momentum.square() - last.square()).sum(-1)
    log_ratio = end.log_density - start.log_density + kinetic
    divergent = ~(log_ratio.abs() <= LARGEST_ENERGY_ERROR)  # so that NaN is
    return Proposal(end, *metropolis(log_ratio), divergent)
