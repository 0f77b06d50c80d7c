"""Steps of a chain whose kernels are Gaussian both ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from models.posteriors.paths import Target
from models.posteriors.protocol import Move, State, Transition


class Kernel(NamedTuple):
    """N(mean, diag(scale²)): mean (S, B, D), a scale that broadcasts against it."""

    mean: Tensor
    scale: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """The draw that is made of standard normal ``noise``."""
        return self.mean + self.scale * noise

    def noise(self, value: Tensor) -> Tensor:
        """What ``value`` is made of."""
        return (value - self.mean) / self.scale


class GaussianStep(Transition, ABC):
    """A step whose kernels are Gaussian both ways: log_ratio = log F(after) - log B(before)."""

    has_density = True
    reversible = True

    @abstractmethod
    def ahead(self, before: State, context: Tensor, target: Target) -> Kernel:
        """F."""

    @abstractmethod
    def behind(self, after: State, context: Tensor, target: Target) -> Kernel:
        """B."""

    def changed(self, state: State) -> Tensor:
        """What the step changes: the position."""
        return state.z

    def put(self, state: State, value: Tensor) -> State:
        """The state with another value of that."""
        return state._replace(z=value)

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        ahead = self.ahead(state, context, target)
        noise = torch.randn_like(self.changed(state))
        after = self.put(state, ahead.at(noise))
        behind = self.behind(after, context, target)
        return Move(after, _ratio(ahead, noise, behind, behind.noise(self.changed(state))))

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """See ``Transition``."""
        ahead, behind = self.ahead(before, context, target), self.behind(after, context, target)
        noise, back = ahead.noise(self.changed(after)), behind.noise(self.changed(before))
        return _ratio(ahead, noise, behind, back)

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        behind = self.behind(state, context, target)
        back = torch.randn_like(self.changed(state))
        before = self.put(state, behind.at(back))
        ahead = self.ahead(before, context, target)
        return Move(before, _ratio(ahead, ahead.noise(self.changed(state)), behind, back))


def _ratio(ahead: Kernel, noise: Tensor, behind: Kernel, back: Tensor) -> Tensor:
    """log F - log B (S, B) of a step of ``noise`` there and ``back`` (S, B, D)."""
    log_scales = (behind.scale / ahead.scale).log()
    return (0.5 * (back.square() - noise.square()) + log_scales).sum(-1)
