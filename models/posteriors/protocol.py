"""The one idea: a posterior draw is a properly weighted pair ``(z, log_q)``.

For every f, ``E[exp(-log_q) f(z)] = ∫ f(z) dz``. So ``log_w = log p(x, z) - log_q`` satisfies
``E[exp(log_w)] = p(x)``, which is all that the ELBO, IWAE and importance sampling need; auxiliary
variables vanish from the interface. Every method is a *base* followed by *transitions*, and every
transition adds one number to ``log_q``: its ``log_ratio``.

Dimension letters: S samples, B data points, D latent, V auxiliary, P context, K transitions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from models.posteriors.parts import Part
from models.posteriors.paths import GeometricPath, Target
from utils.registry import Registry


class State(NamedTuple):
    """What a chain carries: position ``z`` (S, B, D) and, for some, a partner ``v`` (S, B, V)."""

    z: Tensor
    v: Tensor | None = None

    def detach(self) -> State:
        """The same state as a constant."""
        return State(self.z.detach(), None if self.v is None else self.v.detach())


class Draw(NamedTuple):
    """A draw z (S, B, D) and its log-density log_q (S, B), in nats.

    ``excess`` (S, B) is log_q less its mean over draws, -entropy, where that is known.
    """

    z: Tensor
    log_q: Tensor
    excess: Tensor | None = None


class Moments(NamedTuple):
    """Mean and variance of each number of a draw, (B, D) each."""

    mean: Tensor
    variance: Tensor


class Density(Part, ABC):
    """A conditional density q(z | given, context), reparameterised: of a base or a partner.

    ``given`` (S, B, G) is what the draw depends on sample by sample; for a base it is of size 0.
    """

    size: int
    """D, numbers of a draw."""

    uses_shared: bool = False
    """Whether it also gets the chain's shared context (the papers' h), after its own numbers."""

    def placed(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Context (B, context_size) of N(mean, diag(scale²)), mean and scale (B, D).

        One that cannot be placed stays where it is.
        """
        return self.initial_context().to(mean).expand(len(mean), -1)

    @abstractmethod
    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """One draw z (S, B, D) for each row of ``given`` (S, B, G), by context (B, .)."""

    @abstractmethod
    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """log q(z | given, context) (S, B) in nats, for z (S, B, D)."""

    def log_prob_each(self, z: Tensor, context: Tensor) -> Tensor | None:
        """log q(z_i | context) of each number of a base's draw (S, B, D), in nats.

        Their sum is ``log_prob``; None where the numbers are not independent.
        """
        return None

    def moments(self, context: Tensor) -> Moments | None:
        """Of a base that is a Gaussian, its moments given context (B, .); None of any other."""
        return None

    def log_prob_pairs(self, z: Tensor, context: Tensor) -> Tensor:
        """log q(z_m | context_n) of a base (M, N) in nats, for z (M, D) and context (N, .)."""
        z = z[:, None]  # (M, 1, D)
        return self.log_prob(z, z[..., :0], context).expand(len(z), len(context))


class Move(NamedTuple):
    """What a transition returns: the new state and its ``log_ratio`` (S, B), in nats.

    ``log_choice`` (S, B) is the log-probability of the discrete decisions taken, with gradients
    (acceptances of Metropolis's rule); None where there are none. ``excess`` (S, B) is a part of
    log_ratio whose mean over the move's own noise is known to be zero. ``stats`` holds detached
    tensors for ``Transition.adapt``; those (S, B) are for people, too.
    """

    state: State
    log_ratio: Tensor
    log_choice: Tensor | None = None
    excess: Tensor | None = None
    stats: Mapping[str, Tensor] = {}


class Transition(Part, ABC):
    """One step of a chain: a flow layer, a Markov kernel, adding or dropping a variable.

    Contract: ``log_ratio = log forward density - log reverse density``, so that proper weighting
    is kept: if ``(state, log_q)`` is properly weighted, then so is
    ``(move.state, log_q + move.log_ratio)``. For a bijection that is ``-log|det J|``; for a
    Gaussian kernel ``log q(z'|z) - log r(z|z')``; for reversible MCMC ``log π(z') - log π(z)``;
    adding a variable ``+log q(v|z)``; dropping it ``-log r(v|z)``.
    """

    uses_shared: bool = False
    """Whether it also gets the chain's shared context (the papers' h), after its own numbers."""

    uses_target: bool = False
    """Whether it looks at its target; the k-th of these gets the k-th of the chain's schedule."""

    makes_choices: bool = False
    """Whether its moves have a ``log_choice``."""

    has_density: bool = False
    """Whether its moves have densities both ways, so that it can ``score`` them."""

    reversible: bool = False
    """Whether it can be read backwards (``retrace``)."""

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """Change buffers (step sizes) after an optimiser's step, by what its move told."""

    @abstractmethod
    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """Move ``state`` given ``context`` (B, context_size [+ shared]) and the target density."""

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """The ``log_ratio`` (S, B) of a move that is given, as a function of context and weights.

        Nothing is drawn. Raises TypeError unless it ``has_density``.
        """
        raise TypeError(f"the moves of {type(self).__name__} have no density")

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """Draw where ``state`` came from, by the reverse density.

        ``log_ratio`` is that of the move from there to ``state``: forward less reverse, as ever.
        Raises TypeError unless it is ``reversible``.
        """
        raise TypeError(f"{type(self).__name__} cannot be read backwards")


class Stage(NamedTuple):
    """A point on a chain's way; a draw *is* its last stage.

    ``(state, log_q)`` is properly weighted; ``log_q`` (S, B) in nats. ``path`` leads from the
    chain's base to p(x, z). ``log_choice`` (S, B) is that of all moves so far, None where none
    made a choice. ``excess`` (S, B) is a part of log_q whose mean is known to be zero, None where
    there is none. ``stats`` are the last move's.
    """

    state: State
    log_q: Tensor
    path: GeometricPath
    log_choice: Tensor | None = None
    excess: Tensor | None = None
    stats: Mapping[str, Tensor] = {}

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q (S, B): the log importance weight, E[exp(log_w)] = p(x)."""
        return self.path.end(self.state.z) - self.log_q

    def detach(self) -> Stage:
        """The same draw as a constant."""
        return self._replace(
            state=self.state.detach(),
            log_q=self.log_q.detach(),
            log_choice=None if self.log_choice is None else self.log_choice.detach(),
        )

    def after(self, move: Move) -> Stage:
        """The next stage."""
        return Stage(
            move.state,
            self.log_q + move.log_ratio,
            self.path,
            _sum(self.log_choice, move.log_choice),
            _sum(self.excess, move.excess),
            move.stats,
        )


class Segment(NamedTuple):
    """What lies between two looks at a target.

    ``stage`` is its end; ``shares`` (S, B), which sum to 1, are the normalised weights of the
    draws at its beginning, under the target that was looked at there; ``target`` is looked at
    next, at the chain's end p(x, z). ``stats`` are those of all moves since the last segment.
    """

    shares: Tensor
    stage: Stage
    target: Target
    stats: Sequence[Mapping[str, Tensor]]


def _sum(some: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of what there is."""
    if some is None or more is None:
        return more if some is None else some
    return some + more


posteriors: Registry[nn.Module] = Registry("posteriors", "models.posteriors")
bases: Registry[Density] = Registry("bases", "models.posteriors")
conditionals: Registry[Density] = Registry("conditionals", "models.posteriors")
transitions: Registry[Transition] = Registry("transitions", "models.posteriors")
