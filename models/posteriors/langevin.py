"""Langevin moves as transitions of a chain."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

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
from utils.types import Fraction, NonNegativeInt


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
    """z' = z + η a(z) + sqrt(2 η) ξ, ξ ~ N(0, I); the way back z = z' + η b(z') + sqrt(2 η) ξ'.

    a = ``ahead`` and b = ``behind`` are ∇log f unless they are learned, f the target of its stage.
    """

    def ahead(self, start: Point, context: Tensor) -> Tensor:
        """The drift (S, B, D) at the place that a step leaves."""
        return start.gradient

    def behind(self, end: Point, context: Tensor) -> Tensor:
        """The reverse's drift (S, B, D) at the place that a step reaches."""
        return end.gradient

    def propose(self, z: Tensor, context: Tensor, target: Target) -> Proposal:
        """One step from z (S, B, D)."""
        size = self.size(context)  # (B or 1, D)
        start, noise = target.evaluate(z), torch.randn_like(z)
        ahead = self.ahead(start, context)
        end = target.evaluate(z + size * ahead + (2 * size).sqrt() * noise)
        # The way back takes the noise -(ξ + drift): no difference of z and z', no division.
        drift = (0.5 * size).sqrt() * (ahead + self.behind(end, context))
        return Proposal(start, end, noise, drift)


class UnadjustedLangevin(LangevinStep, ABC):
    """A Langevin step that is taken as it is proposed, so that it has a density both ways."""

    has_density = True
    reversible = True

    def log_ratio(self, move: Proposal, context: Tensor) -> Tensor:
        """log F - log B (S, B) of the step."""
        return move.log_ratio

    def noise_back(self, end: Point, context: Tensor) -> Tensor:
        """A draw of ξ' (S, B, D)."""
        return torch.randn_like(end.z)

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """See ``Transition``."""
        size, start, end = self.size(context), target.evaluate(before.z), target.evaluate(after.z)
        ahead = self.ahead(start, context)
        noise = (end.z - start.z - size * ahead) / (2 * size).sqrt()
        drift = (0.5 * size).sqrt() * (ahead + self.behind(end, context))
        return self.log_ratio(Proposal(start, end, noise, drift), context)

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        size, end = self.size(context), target.evaluate(state.z)
        behind, back = self.behind(end, context), self.noise_back(end, context)
        start = target.evaluate(end.z + size * behind + (2 * size).sqrt() * back)
        drift = (0.5 * size).sqrt() * (self.ahead(start, context) + behind)
        move = Proposal(start, end, -(back + drift), drift)
        return Move(state._replace(z=start.z), self.log_ratio(move, context))


@transitions.register("langevin")
class Langevin(UnadjustedLangevin):
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
        self.has_density = self.reversible = skip_below is None
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
        acceptance = (move.gain - move.log_ratio).clamp(max=0).exp()
        stats, log_ratio = told(acceptance, move.start), self.log_ratio(move, context)
        if self.skip_below is None:
            kinetic = 0.5 * (move.noise.square().sum(-1) + self.latent_dim * LOG_2PI)
            excess = excess_of(-kinetic, self.latent_dim)
            return Move(state._replace(z=move.end.z), log_ratio, excess=excess, stats=stats)
        taken = acceptance > self.skip_below
        z = target.choose(taken, move.end.z, move.start.z)
        return Move(state._replace(z=z), torch.where(taken, log_ratio, 0.0), stats=stats)

    def _reverse(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (S, B, D) of the noise of the way back from z, where learned."""
        assert self.net is not None
        shift, log_variance = self.net(z, context[:, self.context_size :]).chunk(2, dim=-1)
        return shift, log_variance

    def log_ratio(self, move: Proposal, context: Tensor) -> Tensor:
        """See ``UnadjustedLangevin``."""
        if self.net is None:
            return move.log_ratio
        shift, log_variance = self._reverse(move.end.z, context)
        rest = (move.back - shift).square() * (-log_variance).exp()  # (S, B, D)
        return 0.5 * (rest + log_variance - move.noise.square()).sum(-1)

    def noise_back(self, end: Point, context: Tensor) -> Tensor:
        """See ``UnadjustedLangevin``."""
        noise = torch.randn_like(end.z)
        if self.net is None:
            return noise
        shift, log_variance = self._reverse(end.z, context)
        return shift + (0.5 * log_variance).exp() * noise
