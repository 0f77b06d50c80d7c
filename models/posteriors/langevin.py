"""Langevin steps as transitions, with and without Metropolis's rule."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from models.posteriors.gaussian import LOG_2PI, excess_of
from models.posteriors.parts import Composite, Part
from models.posteriors.paths import Point, Target
from models.posteriors.protocol import Move, State, Transition, transitions
from models.posteriors.step_sizes import LearnedSize, StepSizes, step_sizes
from utils import mcmc


class Proposal(NamedTuple):
    """Where a Langevin step goes: from ``start`` to ``end`` by ``noise`` (S, B, D).

    ``log_ratio`` (S, B) is log m(end|start) - log m(start|end), m the step's Gaussian kernel.
    """

    start: Point
    end: Point
    noise: Tensor
    log_ratio: Tensor

    @property
    def gain(self) -> Tensor:
        """log f(end) - log f(start) (S, B)."""
        return self.end.log_density - self.start.log_density

    def stats(self, acceptance: Tensor) -> Mapping[str, Tensor]:
        """What the move tells."""
        return {"acceptance": acceptance.detach(), "gradient": self.start.gradient.detach()}


class LangevinStep(Composite, Transition, ABC):
    """z' = z + η ∇log f(z) + sqrt(2 η) ξ, ξ ~ N(0, I), f the target of its stage.

    Tells the (would-be) ``acceptance`` of Metropolis's rule (S, B), and ``gradient`` (S, B, D).

    Args:
        latent_dim: D.
        step_size: how long the step η is; null: learned, 0.1 at first and below 0.5.
    """

    uses_target = True

    def __init__(
        self, latent_dim: int, *, step_size: Annotated[StepSizes, step_sizes] | None = None
    ) -> None:
        super().__init__()
        make = LearnedSize if step_size is None else step_size
        self.latent_dim = latent_dim
        self.step_size = make(latent_dim=latent_dim)
        self.join()

    def own_parts(self) -> list[Part]:
        """See ``Composite``."""
        return [self.step_size]

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """See ``Transition``."""
        self.step_size.adapt(stats)

    def propose(self, z: Tensor, context: Tensor, target: Target) -> Proposal:
        """One step from z (S, B, D)."""
        size = self.step_size(self.split(context)[0])  # (B or 1, D)
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
        acceptance = (move.gain - move.log_ratio).clamp(max=0).exp()
        stats = move.stats(acceptance)
        return Move(state._replace(z=move.end.z), move.log_ratio, excess=excess, stats=stats)


@transitions.register("metropolis_langevin")
class MetropolisLangevin(LangevinStep):
    """Langevin step that Metropolis's rule accepts or refuses: reversible, leaves f invariant.

    log_ratio = log f(z') - log f(z); the decision's log-probability is its ``log_choice``
    (Thin et al. 2021, arXiv 2106.15921, A-MCVAE).
    """

    makes_choices = True

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        accepted, probability = mcmc.metropolis(move.gain - move.log_ratio)
        z = target.choose(accepted, move.end.z, move.start.z)
        # Of 1 - p only where it was refused, so that p < 1: elsewhere its gradient is infinite.
        refused = (1 - torch.where(accepted, 0.0, probability)).log()
        log_p = torch.where(accepted, probability, 1.0).log()
        return Move(
            state._replace(z=z),
            torch.where(accepted, move.gain, 0.0),
            log_choice=log_p + refused,
            stats=move.stats(probability),
        )
