"""The phase after training: every estimator on every split, one batch of data at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity
from models.vae import VAE
from utils import seeding
from utils.results.records import Estimate as EstimateRow

PHASE = "estimate"


def estimate_split(
    vae: VAE,
    estimator: Estimator,
    x: Tensor,
    split: str,
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
) -> Iterator[list[EstimateRow]]:
    """Yield the rows of one batch of ``x`` (N, C, H, W) after the other, from datum ``start``.

    Each batch draws from a stream of its own, so that a run that was cut off gives the same
    numbers when it goes on; ``start`` must be a multiple of ``batch_size``.
    """
    for offset in range(start, len(x), batch_size):
        batch = x[offset : offset + batch_size]
        stream = seeding.derive(seed, "estimation", estimator.label, split, offset)
        with seeding.isolated(stream), torch.no_grad():
            context = vae.context(batch)
            estimate = estimator(vae.model, vae.posterior, batch, context)
        yield _rows(estimate, estimator.label, split, offset)


def _rows(estimate: Estimate, label: str, split: str, offset: int) -> list[EstimateRow]:
    quantities: dict[str, Quantity] = {"log_px": estimate.log_px, **estimate.stats}
    rows = []
    for name, (values, errors) in quantities.items():
        numbers = values.tolist()
        bars = [None] * len(numbers) if errors is None else errors.tolist()
        rows += [
            EstimateRow(PHASE, label, split, offset + index, name, value, bar)
            for index, (value, bar) in enumerate(zip(numbers, bars, strict=True))
        ]
    return rows


def without_last_batch(rows: Sequence[EstimateRow], batch_size: int) -> list[EstimateRow]:
    """The rows less those of the batch written last: a run that was cut off may have torn it."""
    if not rows:
        return []
    last = rows[-1]
    end = last.datum // batch_size

    def is_last(row: EstimateRow) -> bool:
        same = (row.estimator, row.split) == (last.estimator, last.split)
        return same and row.datum // batch_size >= end

    return [row for row in rows if not is_last(row)]
