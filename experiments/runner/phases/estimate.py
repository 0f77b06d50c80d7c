"""The phase ``estimate``: every estimator on every split, one batch of data at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from models.vae import VAE
from utils import seeding
from utils.results.methods import Method
from utils.results.records import Estimate as EstimateRow

PHASE = "estimate"
SIMULATED = "simulated"


def estimate(session: Session, interruption: Interruption, epoch: int) -> None:
    """Run every estimator on every split; batches that an earlier try completed are kept.

    Raises InterruptedRunError at once: the batch at hand is drawn again.
    """
    options, built = session.config.evaluation, session.built
    done = [row for row in session.folder.estimates.read() if row.phase == PHASE]
    for split, estimator, x, z in _work(session):
        rows = [row for row in done if (row.method, row.split) == (estimator.method, split)]
        start = 1 + max((row.datum for row in rows), default=-1)
        title = f"{estimator.label} on {split}"
        with session.console.progress(title, len(x), start) as advance:
            batches = estimate_split(
                built.vae,
                estimator,
                x,
                split,
                z=z,
                seed=session.config.seed,
                batch_size=options.batch_size,
                start=start,
            )
            while True:
                with interruption.at_once():
                    batch = next(batches, None)
                if batch is None:
                    break
                session.recorder.add_estimates(batch)
                rows += batch
                advance(1 + batch[-1].datum)
        session.recorder.add_metrics(PHASE, epoch, split, metrics(rows))


def _work(session: Session) -> Iterator[tuple[str, Estimator, Tensor, Tensor | None]]:
    """Split, estimator, x and, where x is simulated, the z that it was drawn with."""
    options, built = session.config.evaluation, session.built
    for split in options.splits:
        x = session.data.splits[split][: options.max_data]
        yield from ((split, e, x, None) for e in built.estimators if not e.simulates)
    for estimator in built.estimators:
        if estimator.simulates:
            with seeding.isolated(seeding.derive(session.config.seed, SIMULATED)), torch.no_grad():
                drawn = built.vae.model.sample(options.num_simulated)
            yield SIMULATED, estimator, drawn.x, drawn.z


def estimate_split(
    vae: VAE,
    estimator: Estimator,
    x: Tensor,
    split: str,
    *,
    seed: int,
    batch_size: int,
    z: Tensor | None = None,
    start: int = 0,
) -> Iterator[list[EstimateRow]]:
    """Yield the rows of one batch of ``x`` (N, C, H, W) after the other, from datum ``start``.

    Each batch draws from a stream of its own, so that a run that was cut off gives the same
    numbers when it goes on; ``start`` must be a multiple of ``batch_size``.
    """
    for offset in range(start, len(x), batch_size):
        chosen = slice(offset, offset + batch_size)
        stream = seeding.derive(seed, "estimation", estimator.label, split, offset)
        with seeding.isolated(stream), torch.no_grad():
            context = vae.context(x[chosen])
            exact = None if z is None else z[chosen]
            result = estimator(vae.model, vae.posterior, x[chosen], context, exact)
        yield make_rows(result, PHASE, estimator.method, split, offset)


def make_rows(
    estimate: Estimate, phase: str, method: Method, split: str, offset: int
) -> list[EstimateRow]:
    """The rows of an estimate whose first datum is ``offset``."""
    return rows_of({"log_px": estimate.log_px, **estimate.stats}, phase, method, split, offset)


def rows_of(
    quantities: Mapping[str, Quantity], phase: str, method: Method, split: str, offset: int
) -> list[EstimateRow]:
    """The rows of quantities (B,), whose first datum is ``offset``."""
    rows = []
    for name, (values, errors) in quantities.items():
        numbers = values.tolist()
        bars = [None] * len(numbers) if errors is None else errors.tolist()
        rows += [
            EstimateRow(phase, *method, split, name, offset + index, value, bar)
            for index, (value, bar) in enumerate(zip(numbers, bars, strict=True))
        ]
    return rows


def means(rows: Iterable[EstimateRow]) -> dict[tuple[Method, str], float]:
    """Mean over the data of each number, by method and name."""
    values = defaultdict(list)
    for row in rows:
        values[row.method, row.name].append(row.value)
    return {key: math.fsum(numbers) / len(numbers) for key, numbers in values.items()}


def metrics(rows: Iterable[EstimateRow]) -> dict[str, float]:
    """The same under the names of metrics, ``IWAE-5000/elbo``."""
    return {f"{method.label}/{name}": mean for (method, name), mean in means(rows).items()}


def num_before_last_batch(rows: Sequence[EstimateRow], batch_sizes: Mapping[str, int]) -> int:
    """How many rows stand before the batch written last: a run that was cut off may have torn it.

    ``batch_sizes`` are by phase.
    """

    def batch(row: EstimateRow) -> tuple[str, Method, str, int]:
        return row.phase, row.method, row.split, row.datum // batch_sizes[row.phase]

    count = len(rows)
    while count > 0 and batch(rows[count - 1]) == batch(rows[-1]):
        count -= 1
    return count
