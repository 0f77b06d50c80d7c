"""Densities that chains look at: values, gradients, and the geometric path between two of them.

A chain's step needs the gradient at the place it leaves and at the place it reaches, the next
step that at the same place under another density, the loss the value at the last one. All are
sums of what one evaluation says, so every position is evaluated once and then remembered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
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


class Differentiator(NamedTuple):
    """How a log-density gives value and gradient at z (S, B, D), or the gradient alone.

    ``learned`` says that the gradient is a function of weights of its own.
    """

    both: Callable[[LogDensity, Tensor], tuple[Tensor, Tensor]]
    gradient: Callable[[LogDensity, Tensor], Tensor]
    learned: bool = False


def traced(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value (S, B) and gradient (S, B, D), which can be differentiated again.

    By torch.func, which torch.compile follows through a gradient of a gradient.
    """
    value, pull = torch.func.vjp(log_density, z)  # type: ignore[misc]
    (gradient,) = pull(torch.ones_like(value))
    return value, gradient


def untraced(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """The same without a graph: faster where nothing is differentiated or compiled."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = log_density(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _plain(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    return (traced if torch.is_grad_enabled() else untraced)(log_density, z)


PLAIN = Differentiator(_plain, lambda log_density, z: _plain(log_density, z)[1])


def learned(score: Callable[[Tensor], Tensor]) -> Differentiator:
    """Values as they are; in place of the gradient what ``score``, a net of z, says."""
    return Differentiator(
        lambda log_density, z: (log_density(z), score(z)), lambda _, z: score(z), learned=True
    )


class Target(ABC):
    """A log-density that can be asked for its gradient, too (see ``models.dynamics``)."""

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

    def __init__(self, log_density: LogDensity, differentiator: Differentiator = PLAIN) -> None:
        self._log_density, self._differentiator = log_density, differentiator
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

    def again(self) -> Remembered:
        """Another that knows the same positions, where a learned gradient is computed anew."""
        other = copy(self)
        if self._differentiator.learned:
            other._points = tuple(
                point._replace(gradient=self._differentiator.gradient(self._log_density, point.z))
                for point in self._points
            )
        return other

    def evaluate(self, z: Tensor) -> Point:
        """What is remembered, or a forward and a backward pass, the latter to z alone."""
        known = self._recall(z)
        if known is None:
            known = self._keep(Point(z, *self._differentiator.both(self._log_density, z)))
        return known

    def gradient(self, z: Tensor) -> Tensor:
        """See ``Target``."""
        known = self._recall(z)
        return (
            self._differentiator.gradient(self._log_density, z)
            if known is None
            else known.gradient
        )

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

    def pick(self, picked: Tensor, samples: Tensor, z: Tensor) -> None:
        """Know ``picked``, which is z (S, B, D) with the ``samples`` (S, B) of each datum."""
        _, log_density, gradient = self.evaluate(z)
        gradient = gradient.gather(0, samples[..., None].expand_as(gradient))
        self._keep(Point(picked, log_density.gather(0, samples), gradient))


class Mixture(Target):
    """A sum of two log-densities by weights that b says, unnormalised.

    ``beta`` broadcasts against (S, B); a change of it evaluates nothing.

    Args:
        first: a log-density.
        second: the other, or a difference of log-densities.
        beta: b.
        mix: the sum, of the first, the second and b.
    """

    def __init__(
        self,
        first: Remembered,
        second: Remembered,
        beta: Tensor,
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self._first, self._second, self.beta, self._mix = first, second, beta, mix

    def __call__(self, z: Tensor) -> Tensor:
        """The sum of both values."""
        return self._mix(self._first(z), self._second(z), self.beta)

    def evaluate(self, z: Tensor) -> Point:
        """The sum of both values and of both gradients."""
        first, second = self._first.evaluate(z), self._second.evaluate(z)
        log_density = self._mix(first.log_density, second.log_density, self.beta)
        return Point(z, log_density, self._of_gradients(first.gradient, second.gradient))

    def gradient(self, z: Tensor) -> Tensor:
        """The sum of both gradients."""
        return self._of_gradients(self._first.gradient(z), self._second.gradient(z))

    def _of_gradients(self, first: Tensor, second: Tensor) -> Tensor:
        return self._mix(first, second, self.beta[..., None])

    def choose(self, first: Tensor, z: Tensor, other: Tensor) -> Tensor:
        """See ``Target``."""
        chosen = self._first.choose(first, z, other)
        self._second.merge(chosen, first, z, other)
        return chosen


class GeometricPath:
    """From a density f_0 to another f_1: f_b = f_0^(1 - b) f_1^b.

    For a chain f_0 is its base q_0(z | context), and f_1 is p(x, z), with a ``differentiator``.
    """

    def __init__(
        self, log_start: LogDensity, log_end: LogDensity, differentiator: Differentiator = PLAIN
    ) -> None:
        self.start, self.end = Remembered(log_start), Remembered(log_end, differentiator)

    def at(self, beta: Tensor) -> Target:
        """f_b, for b that broadcasts against (S, B)."""
        return Mixture(self.start, self.end, beta, _between)


class SlopedPath:
    """The same where log f_1 - log f_0, the slope, is what is known: f_b = f_0 exp(b slope).

    From a prior the slope is log p(x|z), which a difference of the ends would round.
    """

    def __init__(
        self, log_start: LogDensity, slope: LogDensity, differentiator: Differentiator
    ) -> None:
        self.start, self.slope = Remembered(log_start), Remembered(slope, differentiator)

    def at(self, beta: Tensor) -> Target:
        """f_b, for b that broadcasts against (S, B)."""
        return Mixture(self.start, self.slope, beta, torch.addcmul)

    def pick(self, samples: Tensor, z: Tensor) -> Tensor:
        """z (S, B, D) with the ``samples`` (S, B) of each datum: known as z has been evaluated."""
        picked = z.gather(0, samples[..., None].expand_as(z))
        self.start.pick(picked, samples, z)
        self.slope.pick(picked, samples, z)
        return picked


def _between(start: Tensor, end: Tensor, beta: Tensor) -> Tensor:
    return beta * end + (1 - beta) * start


def _not_asked_for(z: Tensor) -> NoReturn:
    raise TypeError("a transition sees its target only where it says `uses_target`")


UNSEEN = Remembered(_not_asked_for)
"""The target of transitions that do not use theirs."""
