"""Langevin steps as transitions, with and without Metropolis's rule."""

from __future__ import annotations

import math
from abc import ABC
from typing import NamedTuple

import torch
from torch import Tensor

from models.posteriors.gaussian import LOG_2PI, excess_of
from models.posteriors.paths import Point, Target
from models.posteriors.protocol import Move, State, Transition, transitions
from utils import mcmc
from utils.types import PositiveFloat


class Proposal(NamedTuple):
    """Where a Langevin step goes: from ``start`` to ``end`` by ``noise`` (S, B, D).

    ``log_ratio`` (S, B) is log m(end|start) - log m(start|end), m the step's Gaussian kernel.
    """

    start: Point
    end: Point
    noise: Tensor
    log_ratio: Tensor


class LangevinStep(Transition, ABC):
    """z' = z + η ∇log f(z) + sqrt(2 η) ξ, ξ ~ N(0, I), f the target of its stage.

    Step sizes η, one a latent, are learned, not amortised, and bounded in (0, ``largest_step``).

    Raises ValueError for a first step that is not below the largest.
    """

    amortised = False
    uses_target = True

    def __init__(
        self,
        latent_dim: int,
        *,
        first_step: PositiveFloat = 0.01,
        largest_step: PositiveFloat = 0.5,
    ) -> None:
        super().__init__()
        if first_step >= largest_step:
            raise ValueError(
                f"`first_step` must be below `largest_step`, {largest_step:g}; got {first_step:g}"
            )
        self.context_size = self.latent_dim = latent_dim
        self.first_step, self.largest_step = first_step, largest_step

    def initial_context(self) -> Tensor:
        """Raw step sizes."""
        share = self.first_step / self.largest_step
        return torch.full((self.latent_dim,), math.log(share / (1 - share)))

    def propose(self, z: Tensor, context: Tensor, target: Target) -> Proposal:
        """One step from z (S, B, D)."""
        size = self.largest_step * context.sigmoid()  # (B, D)
        spread = (2 * size).sqrt()
        start, noise = target.evaluate(z), torch.randn_like(z)
        end = target.evaluate(z + size * start.gradient + spread * noise)
        back = (z - end.z - size * end.gradient) / spread
        log_ratio = 0.5 * (back.square() - noise.square()).sum(-1)
        return Proposal(start, end, noise, log_ratio)


@transitions.register("langevin")
class Langevin(LangevinStep):
    """Unadjusted Langevin step; its reverse is the same kernel read backwards.

    log_ratio = log m(z'|z) - log m(z|z') (Thin et al. 2021, arXiv 2106.15921, L-MCVAE).
    """

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        kinetic = 0.5 * (move.noise.square().sum(-1) + self.latent_dim * LOG_2PI)
        excess = excess_of(-kinetic, self.latent_dim)
        return Move(state._replace(z=move.end.z), move.log_ratio, excess=excess)


@transitions.register("metropolis_langevin")
class MetropolisLangevin(LangevinStep):
    """Langevin step that Metropolis's rule accepts or refuses: reversible, leaves f invariant.

    log_ratio = log f(z') - log f(z); the decision's log-probability is its ``log_choice``
    (Thin et al. 2021, arXiv 2106.15921, A-MCVAE). Tells its ``acceptance`` (S, B).
    """

    makes_choices = True

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        energy = move.end.log_density - move.start.log_density
        accepted, probability = mcmc.metropolis(energy - move.log_ratio)
        z = target.choose(accepted, move.end.z, move.start.z)
        # Of 1 - p only where it was refused, so that p < 1: elsewhere its gradient is infinite.
        refused = (1 - torch.where(accepted, 0.0, probability)).log()
        log_p = torch.where(accepted, probability, 1.0).log()
        return Move(
            state._replace(z=z),
            torch.where(accepted, energy, 0.0),
            log_choice=log_p + refused,
            stats={"acceptance": probability.detach()},
        )
