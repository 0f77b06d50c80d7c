"""A training step shared by several processes: each computes some rows, all get the sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.compiled import differentiated
from utils.shared_noise import Rows, WholeNoise

Told = tuple[dict[str, Tensor], Sequence[Mapping[str, Tensor]]]
"""Metrics (B,), and the stats (S, B, ...) of each transition."""

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Told]]
"""Of x (B, C, H, W) and a warm-up's weight: the mean loss, and what is told of each row."""


class Share:
    """One process's part in the steps of several.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        add: puts the sum over all processes in the place of a vector.
        settle: returns when all sums are there.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        add: Callable[[Tensor], None],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size, self.add, self.settle = rank, size, add, settle

    def rows(self, total: int) -> Rows:
        """Those of a batch of ``total`` that are this process's; there may be none."""
        start, stop = (rank * total // self.size for rank in (self.rank, self.rank + 1))
        return Rows(start, stop, total)

    def differentiated(
        self, objective: Objective, clear: Callable[[], None], parameters: Sequence[nn.Parameter]
    ) -> Objective:
        """As ``utils.compiled.differentiated``, with its rows computed by all processes.

        What it returns and the gradients it leaves are those of one process up to the rounding of
        sums, the same in every process; each row counts the same, whoever has how many. Noise is
        drawn for the whole batch, so that random streams go on as in one process.

        Raises ValueError for draws that cannot be shared, and for what is told of no row.
        """

        def of_rows(x: Tensor, weight: Tensor, rows: Rows, share: float) -> tuple[Tensor, Told]:
            with WholeNoise(rows):
                value, told = objective(rows.of(x), weight)
            return value * share, told

        differentiate = differentiated(of_rows, lambda *_: clear())

        def step(x: Tensor, weight: Tensor) -> tuple[Tensor, Told]:
            own = self.rows(len(x))
            # One that has no rows computes the first, which does not count, for the noise.
            rows, share = own if own.size else Rows(0, 1, len(x)), own.size / len(x)
            _, told = differentiate(x, weight, rows, share)
            metrics, stats = self._whole(rows, share, told, parameters)
            return metrics["loss"].mean(), (metrics, stats)

        return step

    def _whole(
        self, rows: Rows, share: float, told: Told, parameters: Sequence[nn.Parameter]
    ) -> Told:
        """What is told of all rows; the gradients become those of all rows. One sum for all."""
        metrics, stats = told
        learning = [p for p in parameters if p.grad is not None]
        own = [
            *(p.grad for p in learning if p.grad is not None),
            *(_among_zeros(name, of, rows, 0, share) for name, of in metrics.items()),
            *(_among_zeros(k, of, rows, 1, share) for each in stats for k, of in each.items()),
        ]
        flat = torch.cat([values.flatten() for values in own])
        self.add(flat)
        parts = flat.split([values.numel() for values in own])
        wholes: Any = (part.view_as(of).to(of.dtype) for part, of in zip(parts, own, strict=True))
        for parameter in learning:
            parameter.grad = next(wholes)
        return (
            {name: next(wholes) for name in metrics},
            [{name: next(wholes) for name in each} for each in stats],
        )


def _among_zeros(name: str, values: Tensor, rows: Rows, dim: int, share: float) -> Tensor:
    """``values`` of these rows, zeros for the others; for all where they have no share."""
    if values.dim() <= dim or values.shape[dim] != rows.size:
        raise ValueError(
            f"`{name}` has the shape {tuple(values.shape)}, no number for each of the {rows.size} "
            "data points, so that replicas cannot share it"
        )
    whole = values.new_zeros(*values.shape[:dim], rows.total, *values.shape[dim + 1 :])
    if share:
        rows.of(whole, dim).copy_(values)
    return whole
