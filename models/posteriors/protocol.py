"""The one idea: a posterior draw is a properly weighted pair ``(z, log_q)``.

For every f, ``E[exp(-log_q) f(z)] = ∫ f(z) dz``. So ``log_w = log p(x, z) - log_q`` satisfies
``E[exp(log_w)] = p(x)``, which is all that the ELBO, IWAE and importance sampling need; auxiliary
variables vanish from the interface. Every method is a *base* followed by *transitions*, and every
transition adds one number to ``log_q``: its ``log_ratio``.

Dimension letters: S samples, B data points, D latent, V auxiliary, P context, K transitions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.registry import Registry

LogDensity = Callable[[Tensor], Tensor]
"""Maps positions (S, B, D) to log-densities (S, B), in nats; normalised or not."""


class State(NamedTuple):
    """What a chain carries: position ``z`` (S, B, D) and, for some, a partner ``v`` (S, B, V)."""

    z: Tensor
    v: Tensor | None = None

    def detach(self) -> State:
        """The same state as a constant."""
        return State(self.z.detach(), None if self.v is None else self.v.detach())


class Move(NamedTuple):
    """What a transition returns: the new state and its ``log_ratio`` (S, B), in nats.

    ``stats`` holds detached tensors for people (acceptance rates and the like).
    """

    state: State
    log_ratio: Tensor
    stats: Mapping[str, Tensor] = {}


class Transition(nn.Module, ABC):
    """One step of a chain: a flow layer, a Markov kernel, adding or dropping a variable.

    Contract: ``log_ratio = log forward density - log reverse density``, so that proper weighting
    is kept: if ``(state, log_q)`` is properly weighted, then so is
    ``(move.state, log_q + move.log_ratio)``. For a bijection that is ``-log|det J|``; for a
    Gaussian kernel ``log q(z'|z) - log r(z|z')``; for reversible MCMC ``log π(z') - log π(z)``;
    adding a variable ``+log q(v|z)``; dropping it ``-log r(v|z)``.
    """

    context_size: int = 0
    """How many numbers per datum it consumes."""

    uses_shared: bool = False
    """Whether it also gets the chain's shared context (the papers' h), after its own numbers."""

    @property
    def amortised_size(self) -> int:
        """How many of these numbers, the first ones, are linear in the encoder's features.

        Where that is not all of them, an amortiser makes the context by ``expansion``.
        """
        return self.context_size

    def initial_context(self) -> Tensor:
        """Context (context_size,) of a fresh, unfitted datum."""
        return torch.zeros(self.context_size)

    def expansion(self) -> nn.Module:
        """New map from the amortised numbers (B, amortised_size) to context (B, context_size)."""
        return nn.Identity()

    @abstractmethod
    def forward(self, state: State, context: Tensor, log_target: LogDensity) -> Move:
        """Move ``state`` given ``context`` (B, context_size [+ shared]) and the target density."""


class Base(nn.Module, ABC):
    """An explicit conditional density q0(z | context), reparameterised."""

    context_size: int
    latent_dim: int
    """Of its draws."""

    def initial_context(self) -> Tensor:
        """Context (context_size,) at which q0 is prior-like, N(0, I)."""
        return torch.zeros(self.context_size)

    def moved(self, context: Tensor, move: Tensor) -> Tensor:
        """``context`` (B, context_size) after a move (B, context_size) of an optimiser.

        A move of one is about as much in each of its numbers: where a context holds numbers in
        the units of another, the base says so here.
        """
        return context + move

    def placed(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Context (B, context_size) of N(mean, diag(scale²)), mean and scale (B, D).

        A base that cannot be placed stays where it is.
        """
        return self.initial_context().to(mean).expand(len(mean), -1)

    @abstractmethod
    def sample(self, context: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw z (S, B, D) given ``context`` (B, context_size), with log_q (S, B) in nats."""

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """log q0(z | context) (S, B) in nats, for z (S, B, D)."""


class Stage(NamedTuple):
    """A point on a chain's way; a draw *is* its last stage.

    ``(state, log_q)`` is properly weighted; ``log_q`` (S, B) in nats.
    """

    state: State
    log_q: Tensor
    stats: Mapping[str, Tensor] = {}

    def detach(self) -> Stage:
        """The same draw as a constant."""
        return Stage(self.state.detach(), self.log_q.detach(), self.stats)


posteriors: Registry[nn.Module] = Registry("posteriors", "models.posteriors")
bases: Registry[Base] = Registry("bases", "models.posteriors")
transitions: Registry[Transition] = Registry("transitions", "models.posteriors")
