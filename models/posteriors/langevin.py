"""Langevin and Hamiltonian Monte Carlo moves as transitions of a chain."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from models import dynamics
from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.gaussian import LOG_2PI, excess_of
from models.posteriors.parts import Composite, Part
from models.posteriors.paths import Point, Target
from models.posteriors.protocol import (
    Move,
    State,
    Transition,
    transitions,
)
from models.posteriors.step_sizes import LearnedSize, StepSizes, step_sizes
from utils.types import Depth, Fraction, NonNegativeInt


class Proposal(NamedTuple):
    """Where a Langevin step goes: from ``start`` to ``end`` by ``noise`` ξ (S, B, D).

    ``drift`` (S, B, D) is such that -(ξ + drift) is the noise that would lead back. ``log_ratio``
    (S, B) is log m(end|start) - log m(start|end), m the step's Gaussian kernel.
    """

    start: Point
    end: Point
    noise: Tensor
    drift: Tensor

    @property
    def back(self) -> Tensor:
        """The noise of the way back (S, B, D)."""
        return -(self.noise + self.drift)

    @property
    def log_ratio(self) -> Tensor:
        """½ (‖back‖² - ‖ξ‖²) (S, B), without a difference of the two."""
        return (self.drift * (self.noise + 0.5 * self.drift)).sum(-1)

    @property
    def gain(self) -> Tensor:
        """log f(end) - log f(start) (S, B)."""
        return self.end.log_density - self.start.log_density


class Sized(Composite, Transition, ABC):
    """A move with one step size, which it adapts.

    Tells the (would-be) ``acceptance`` of Metropolis's rule (S, B), and ``gradient`` (S, B, D).

    Args:
        latent_dim: D.
        step_size: null: learned, 0.1 at first and below 0.5.
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

    def size(self, context: Tensor) -> Tensor:
        """Step sizes (B or 1, D), given context (B, context_size)."""
        return self.step_size(self.split(context)[0])

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """See ``Transition``."""
        self.step_size.adapt(stats)


def told(acceptance: Tensor, start: Point) -> Mapping[str, Tensor]:
    """What a move tells."""
    return {"acceptance": acceptance.detach(), "gradient": start.gradient.detach()}


class LangevinStep(Sized, ABC):
    """z' = z + η ∇log f(z) + sqrt(2 η) ξ, ξ ~ N(0, I), f the target of its stage."""

    def propose(self, z: Tensor, context: Tensor, target: Target) -> Proposal:
        """One step from z (S, B, D)."""
        size = self.size(context)  # (B or 1, D)
        start, noise = target.evaluate(z), torch.randn_like(z)
        end = target.evaluate(z + size * start.gradient + (2 * size).sqrt() * noise)
        # The way back takes the noise -(ξ + drift): no difference of z and z', no division.
        drift = (0.5 * size).sqrt() * (start.gradient + end.gradient)
        return Proposal(start, end, noise, drift)


@transitions.register("langevin")
class Langevin(LangevinStep):
    """Unadjusted Langevin step, weighed against a reverse (Thin et al. 2021, L-MCVAE).

    arXiv 2106.15921. log_ratio = log m(z'|z) - log r(z|z'). The reverse r is the same kernel read
    backwards, m(z|z'); or a learned one, N(z' + η ∇log f(z') + sqrt(2 η) a, 2 η e^s), where a net
    of z' and h gives (a, s), at first zero.

    Args:
        latent_dim: D.
        step_size: how long the step is; null: learned, 0.1 at first and below 0.5.
        reverse_hidden: widths of the net of a learned reverse; null: read backwards.
        activation: nonlinearity of that net, and of h.
        shared_size: size of h, which that net sees.
        skip_below: a step that Metropolis's rule would accept with no more than this probability
            is not taken, as in the authors' code (0.1). Above 0 the draws are no longer properly
            weighted and the bound is heuristic; null: every step is taken.

    Raises ValueError for an h that nothing would see.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        step_size: Annotated[StepSizes, step_sizes] | None = None,
        reverse_hidden: Widths | None = None,
        activation: Activation = "gelu",
        shared_size: NonNegativeInt = 0,
        skip_below: Fraction | None = None,
    ) -> None:
        super().__init__(latent_dim, step_size=step_size)
        self.skip_below = skip_below
        self.uses_shared = shared_size > 0
        self.net = None
        if reverse_hidden is not None:
            sizes = (latent_dim, shared_size, 2 * latent_dim)
            self.net = ConditionedMLP(*sizes, reverse_hidden, activation)
        elif shared_size > 0:
            raise ValueError("`shared_size` is for a learned reverse; give `reverse_hidden`, too")

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        log_ratio = move.log_ratio
        acceptance = (move.gain - log_ratio).clamp(max=0).exp()
        stats = told(acceptance, move.start)
        if self.net is not None:
            h = context[:, self.context_size :]
            shift, log_variance = self.net(move.end.z, h).chunk(2, dim=-1)
            rest = (move.back - shift).square() * (-log_variance).exp()  # (S, B, D)
            log_ratio = 0.5 * (rest + log_variance - move.noise.square()).sum(-1)
        if self.skip_below is None:
            kinetic = 0.5 * (move.noise.square().sum(-1) + self.latent_dim * LOG_2PI)
            excess = excess_of(-kinetic, self.latent_dim)
            return Move(state._replace(z=move.end.z), log_ratio, excess=excess, stats=stats)
        taken = acceptance > self.skip_below
        z = target.choose(taken, move.end.z, move.start.z)
        return Move(state._replace(z=z), torch.where(taken, log_ratio, 0.0), stats=stats)


Rule = Literal["metropolis", "barker"]
RULES: Mapping[Rule, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "metropolis": dynamics.metropolis,
    "barker": dynamics.barker,
}


class Choice(NamedTuple):
    """Between ``start`` and ``end``: whether it was the end, and its probability, (S, B) each."""

    start: Point
    end: Point
    accepted: Tensor
    probability: Tensor

    def move(self, state: State, target: Target, stats: Mapping[str, Tensor]) -> Move:
        """The move, by a kernel that is reversible with respect to the target f.

        log_ratio = log f(z') - log f(z); the decision's log-probability is its ``log_choice``.
        """
        accepted, probability = self.accepted, self.probability
        z = target.choose(accepted, self.end.z, self.start.z)
        gain = self.end.log_density - self.start.log_density
        # log(1 - p) only where it was refused, so that p < 1: elsewhere its gradient is infinite.
        log_refused = torch.log1p(-torch.where(accepted, 0.0, probability))
        log_accepted = torch.where(accepted, probability, 1.0).log()
        return Move(
            state._replace(z=z),
            torch.where(accepted, gain, 0.0),
            log_choice=log_accepted + log_refused,
            stats=stats,
        )


@transitions.register("metropolis_langevin")
class MetropolisLangevin(LangevinStep):
    """Langevin step that is accepted or refused: reversible, leaves f invariant (MALA).

    Thin et al. 2021 (arXiv 2106.15921), A-MCVAE.

    Args:
        latent_dim: D.
        step_size: how long the step is; null: learned, 0.1 at first and below 0.5.
        rule: ``metropolis`` accepts with min(1, t), ``barker`` with t / (1 + t).
    """

    makes_choices = True

    def __init__(
        self,
        latent_dim: int,
        *,
        step_size: Annotated[StepSizes, step_sizes] | None = None,
        rule: Rule = "metropolis",
    ) -> None:
        super().__init__(latent_dim, step_size=step_size)
        self.decide = RULES[rule]

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        choice = Choice(move.start, move.end, *self.decide(move.gain - move.log_ratio))
        return choice.move(state, target, told(choice.probability, move.start))


@transitions.register("metropolis_hamiltonian")
class MetropolisHamiltonian(Sized):
    """Hamiltonian Monte Carlo: a fresh momentum, leapfrog steps, Metropolis's rule.

    Args:
        latent_dim: D.
        num_leapfrog: steps, one gradient each.
        step_size: how long they are; null: learned, 0.1 at first and below 0.5.
    """

    makes_choices = True

    def __init__(
        self,
        latent_dim: int,
        *,
        num_leapfrog: Depth = 3,
        step_size: Annotated[StepSizes, step_sizes] | None = None,
    ) -> None:
        super().__init__(latent_dim, step_size=step_size)
        self.num_leapfrog = num_leapfrog

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        start = target.evaluate(state.z)
        move = dynamics.hamiltonian(start, self.size(context), self.num_leapfrog, target)
        stats = told(move.probability, start)
        choice = Choice(start, move.point, move.accepted, move.probability)
        return choice.move(state, target, stats)
