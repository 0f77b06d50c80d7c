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
    """A log-density that can be asked for its gradient, too (see ``models.dynamics.Target``)."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """log f(z) (S, B) in nats, for z (S, B, D)."""

    @abstractmethod
    def evaluate(self, z: Tensor) -> Point:
        """Value and gradient at z (S, B, D).

        Where gradients are recorded both can be differentiated, by z and by all else in f.
        """

    @abstractmethod
    def choose(self, first: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """z where ``first`` (S, B), else the other: known as both of them have been evaluated."""

    @abstractmethod
    def gradient(self, z: Tensor) -> Tensor:
        """d log f / dz (S, B, D), on the way: z is not remembered."""


class Remembered(Target):
    """A log-density that remembers the last two positions at which it was evaluated.

    Two, for a move may be refused. A position is known by its identity: the same tensor, not an
    equal one.
    """

    def __init__(self, log_density: LogDensity) -> None:
        self._log_density = log_density
        self._points: tuple[Point, ...] = ()

    def __call__(self, z: Tensor) -> Tensor:
        """The remembered value, or a forward pass."""
        known = self.known(z)
        return self._log_density(z) if known is None else known

    def known(self, z: Tensor) -> Tensor | None:
        """log f(z) (S, B) where it has just been evaluated; else None."""
        point = self._recall(z)
        return None if point is None else point.log_density

    def _recall(self, z: Tensor) -> Point | None:
        for point in self._points:
            if point.z is z:
                return point
        return None

    def _keep(self, point: Point) -> Point:
        self._points = (*self._points[-1:], point)
        return point

    def evaluate(self, z: Tensor) -> Point:
        """What is remembered, or a forward and a backward pass, the latter to z alone.

        By torch.func, which torch.compile follows through a gradient of a gradient, and which
        works within ``no_grad``.
        """
        known = self._recall(z)
        return self._keep(self._evaluate(z)) if known is None else known

    def gradient(self, z: Tensor) -> Tensor:
        """See ``Target``."""
        known = self._recall(z)
        return (self._evaluate(z) if known is None else known).gradient

    def _evaluate(self, z: Tensor) -> Point:
        log_density, pull = torch.func.vjp(self._log_density, z)  # type: ignore[misc]
        (gradient,) = pull(torch.ones_like(log_density))
        return Point(z, log_density, gradient)

    def choose(self, first: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """See ``Target``."""
        chosen = torch.where(first[..., None], z, other)
        self.merge(chosen, first, z, other)
        return chosen

    def merge(self, chosen: Tensor, first: Tensor, z: Tensor, other: Tensor) -> None:
        """Know ``chosen``, which is z where ``first``, else the other."""
        one, two = self.evaluate(z), self.evaluate(other)
        log_density = torch.where(first, one.log_density, two.log_density)
        gradient = torch.where(first[..., None], one.gradient, two.gradient)
        self._keep(Point(chosen, log_density, gradient))


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

    def gradient(self, z: Tensor) -> Tensor:
        """The mixture of both gradients."""
        beta = self.beta[..., None]
        return beta * self._end.gradient(z) + (1 - beta) * self._start.gradient(z)

    def choose(self, first: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """See ``Target``."""
        chosen = self._start.choose(first, z, other)
        self._end.merge(chosen, first, z, other)
        return chosen


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
