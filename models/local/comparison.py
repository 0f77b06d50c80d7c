"""Two bounds of each datum from the same random numbers: which is better, and how surely."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils import seeding

FEWEST_PAIRS = 10  # or their standard error would be unknown


class Comparison:
    """Running moments of B data's bounds: with new parameters, with old ones, and of the gain."""

    def __init__(self, num_data: int, device: torch.device) -> None:
        self._count = torch.zeros(num_data, dtype=torch.double, device=device)
        self._sums = torch.zeros(3, num_data, dtype=torch.double, device=device)
        self._squares = self._sums.clone()

    def add(self, rows: Tensor, new: Tensor, old: Tensor) -> None:
        """N further pairs of bounds (N, b), in nats, of some of the data."""
        each = torch.stack([new, old, new - old])  # (3, N, b)
        self._count[rows] += len(new)
        self._sums[:, rows] += each.sum(1)
        self._squares[:, rows] += each.square().sum(1)

    def _means(self) -> Tensor:
        return self._sums / self._count

    def _errors(self) -> Tensor:
        """Standard errors of the means."""
        variance = (self._squares / self._count - self._means().square()).clamp_min(0)
        return (variance / (self._count - 1)).sqrt()

    def is_better(self) -> Tensor:
        """Whether the new bound is (B,): where the old one is not finite, any is."""
        new, old, gain = self._means()
        return (gain > 0) | (new.isfinite() & ~old.isfinite())

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The better bound (B,) and its standard error (B,)."""
        better = torch.where(self.is_better(), 0, 1)[None]
        value, error = (each.gather(0, better)[0] for each in (self._means(), self._errors()))
        return value, error

    def is_within(self, limit: float) -> Tensor:
        """|gain| + 2 standard errors ≤ limit (B,)."""
        return self._means()[2].abs() + 2 * self._errors()[2] <= limit

    def may_be_within(self, limit: float, num_pairs: int) -> Tensor:
        """Whether so many pairs in all could show that, were the gain as small as it may be."""
        gain, error = self._means()[2].abs(), self._errors()[2]
        then = error * (self._count / num_pairs).sqrt()
        return (gain - 2 * error).clamp_min(0) + 2 * then <= limit


def compare(
    bounds: Callable[[str, Tensor, int], Tensor], data: Tensor, limit: float, most: int
) -> Comparison:
    """The parameters of ``tail`` against those of ``best``, of the data with indices (B,).

    An eighth of ``most`` pairs; two, four and eight times as many for data that these may show to
    be within ``limit`` nats of each other.

    Args:
        bounds: a number of bounds each (N, B), given a table, data and the number.
    """
    comparison = Comparison(len(data), data.device)
    rows = torch.arange(len(data), device=data.device)
    num, count, most = 0, max(FEWEST_PAIRS, most // 8), max(FEWEST_PAIRS, most)
    while len(rows) > 0 and count > 0:
        noise = seeding.get_state()
        new = bounds("tail", data[rows], count)
        seeding.set_state(noise)
        comparison.add(rows, new, bounds("best", data[rows], count))
        num += count
        count = min(num, most - num)
        undecided = comparison.may_be_within(limit, most) & ~comparison.is_within(limit)
        rows = undecided.nonzero().flatten()
    return comparison
