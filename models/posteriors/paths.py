"""Densities that chains look at: values, gradients, and the geometric path between two of them.

A chain's step needs the gradient at the place it leaves and at the place it reaches, the next
step that at the same place under another density, the loss the value at the last one. All are
sums of what one evaluation says, so every position is evaluated once and then remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""Maps positions (S, B, D) to log-densities (S, B), in nats; normalised or not."""


class Point(NamedTuple):
    """A position z (S, B, D), log f(z) (S, B) in nats, and d log f / dz (S, B, D)."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor


class Target(ABC):
    """A log-density that can be asked for its gradient, too (see ``utils.mcmc.Target``)."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """log f(z) (S, B) in nats, for z (S, B, D)."""

    @abstractmethod
    def evaluate(self, z: Tensor) -> Point:
        """Value and gradient at z (S, B, D).

        Where gradients are recorded both can be differentiated, by z and by all else in f.
        """

    def gradient(self, z: Tensor) -> Tensor:
        """d log f / dz (S, B, D)."""
        return self.evaluate(z).gradient


class Remembered(Target):
    """A log-density that remembers the last position at which it was evaluated.

    A position is known by its identity: the same tensor, not an equal one.
    """

    def __init__(self, log_density: LogDensity) -> None:
        self._log_density = log_density
        self._last: Point | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """The remembered value, or a forward pass."""
        known = self.known(z)
        return self._log_density(z) if known is None else known

    def known(self, z: Tensor) -> Tensor | None:
        """log f(z) (S, B) where z is the last position evaluated; else None."""
        return self._last.log_density if self._last is not None and self._last.z is z else None

    def evaluate(self, z: Tensor) -> Point:
        """What is remembered, or a forward and a backward pass, the latter to z alone.

        By torch.func, which torch.compile follows through a gradient of a gradient, and which
        works within ``no_grad``.
        """
        if self._last is None or self._last.z is not z:
            log_density, pull = torch.func.vjp(self._log_density, z)  # type: ignore[misc]
            (gradient,) = pull(torch.ones_like(log_density))
            self._last = Point(z, log_density, gradient)
        return self._last


class Mixture(Target):
    """log f_b(z) = b log f_1(z) + (1 - b) log f_0(z), unnormalised.

    ``beta`` broadcasts against (S, B); a change of it evaluates nothing.
    """

    def __init__(self, start: Remembered, end: Remembered, beta: Tensor) -> None:
        self._start, self._end, self.beta = start, end, beta

    def __call__(self, z: Tensor) -> Tensor:
        """The mixture of both values."""
        return self.beta * self._end(z) + (1 - self.beta) * self._start(z)

    def evaluate(self, z: Tensor) -> Point:
        """The mixture of both values and of both gradients."""
        start, end, beta = self._start.evaluate(z), self._end.evaluate(z), self.beta
        log_density = beta * end.log_density + (1 - beta) * start.log_density
        beta = beta[..., None]
        return Point(z, log_density, beta * end.gradient + (1 - beta) * start.gradient)


class GeometricPath:
    """From a density f_0 to another f_1: f_b = f_0^(1 - b) f_1^b.

    For a chain f_0 is its base q_0(z | context), and f_1 is p(x, z).
    """

    def __init__(self, log_start: LogDensity, log_end: LogDensity) -> None:
        self.start, self.end = Remembered(log_start), Remembered(log_end)

    def at(self, beta: Tensor) -> Target:
        """f_b, for b that broadcasts against (S, B)."""
        return Mixture(self.start, self.end, beta)


def _not_asked_for(z: Tensor) -> NoReturn:
    raise TypeError("a transition sees its target only where it says `uses_target`")


UNSEEN = Remembered(_not_asked_for)
"""The target of transitions that do not use theirs."""
