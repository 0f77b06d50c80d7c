"""What is measured batch by batch of data, whoever measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from experiments.runner.build import Built
from experiments.runner.schema import Phase, RunConfig
from utils.results.methods import Method
from utils.results.records import Estimate


class Batch(NamedTuple):
    """Some data of a split, all that one batch's numbers depend on beside the run itself.

    ``which`` counts the estimators, or the families, of the phase. ``x`` (B, C, H, W) begins at
    datum ``offset``; ``z`` (B, D) is what a simulated x was drawn with. Both have memory of
    their own, for a copy in another process must lie as they do: where numbers lie can change the
    last digit of their products.
    """

    phase: Phase
    which: int
    method: Method
    split: str
    offset: int
    x: Tensor
    z: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same with its numbers on a device."""
        z = None if self.z is None else self.z.to(device)
        return self._replace(x=self.x.to(device), z=z)

    @property
    def series(self) -> tuple[Phase, int, str]:
        """The key of the ``Series`` that it is of."""
        return self.phase, self.which, self.split

    @property
    def is_saved(self) -> bool:
        """Whether it goes on where a signal stopped it; else it is drawn anew."""
        return self.phase == "local_optimisation"

    @property
    def name(self) -> str:
        """Of its random streams, within its phase."""
        return f"{self.method.label}/{self.split}/{self.offset}"


@dataclass(frozen=True)
class Series:
    """The data that one method measures on one split, and the rows that are there.

    ``z`` (N, D) where x (N, C, H, W) is simulated. ``title`` is what a person is shown.
    """

    phase: Phase
    which: int
    method: Method
    split: str
    title: str
    batch_size: int
    rows: list[Estimate]
    x: Tensor
    z: Tensor | None = None

    @property
    def key(self) -> tuple[Phase, int, str]:
        """What its batches call it."""
        return self.phase, self.which, self.split

    @property
    def start(self) -> int:
        """The first datum that has no row yet."""
        return 1 + max((row.datum for row in self.rows), default=-1)

    def batches(self) -> Iterator[Batch]:
        """The batches that are left, cut as those of a run that nothing interrupts."""
        for offset in range(self.start, len(self.x), self.batch_size):
            chosen = slice(offset, offset + self.batch_size)
            z = None if self.z is None else self.z[chosen].clone()
            head = (self.phase, self.which, self.method, self.split, offset)
            yield Batch(*head, self.x[chosen].clone(), z)


class Workplace(NamedTuple):
    """What a batch is measured with, in this process."""

    config: RunConfig
    built: Built
    folder: Path
    """Of the run; what has to go on after an interruption is kept there."""
    warn: Callable[[str], None]
    keeps_ends: bool = False
    """Whether the end of a search is kept: where its rows may have to wait for others'."""


class Tell(Protocol):
    """Is told now and then how far a batch is."""

    def __call__(self, num_done: int, text: str = "") -> bool:
        """So many of its data are done; False asks to stop, what has been done being kept."""


Measure = Callable[[Workplace, Batch, Tell], list[Estimate] | None]
"""The rows of a batch; None where it was asked to stop, and did."""

Measures = Mapping[Phase, Measure]
