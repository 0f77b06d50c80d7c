"""Langevin and Hamiltonian moves that are accepted or refused, as transitions of a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from models import dynamics
from models.posteriors.langevin import LangevinStep, Sized, told
from models.posteriors.paths import Point, Target
from models.posteriors.protocol import Move, State, Transition, transitions
from models.posteriors.step_sizes import StepSizes, step_sizes
from utils.types import Depth

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


def retraced(transition: Transition, state: State, context: Tensor, target: Target) -> Move:
    """The way back of a kernel that is reversible with respect to its target: the same kernel."""
    move: Move = transition(state, context, target)
    return Move(move.state, -move.log_ratio)


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
    reversible = True

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

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        return retraced(self, state, context, target)


@transitions.register("metropolis_hamiltonian")
class MetropolisHamiltonian(Sized):
    """Hamiltonian Monte Carlo: a fresh momentum, leapfrog steps, Metropolis's rule.

    A trajectory that leaves the range of numbers is refused. In training its gradient is NaN all
    the same, which ends the run: steps must be short enough for that never to happen.

    Args:
        latent_dim: D.
        num_leapfrog: steps, one gradient each.
        step_size: how long they are; null: learned, 0.1 at first and below 0.5.
    """

    makes_choices = True
    reversible = True

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

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        return retraced(self, state, context, target)
