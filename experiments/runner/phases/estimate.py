"""The phase ``estimate``: every estimator on every split, one batch of data at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.runner.batches import Batch, Series, Tell, Workplace
from experiments.runner.crew import Crew, carry_out
from experiments.runner.rows import make_rows
from experiments.runner.schema import Phase
from experiments.runner.session import Session
from utils import seeding
from utils.results.records import Estimate as EstimateRow

PHASE: Phase = "estimate"
SIMULATED = "simulated"


def estimate(session: Session, crew: Crew, epoch: int) -> None:
    """Run every estimator on every split; batches that an earlier try completed are kept.

    Raises InterruptedRunError at once: the batches at hand are drawn again.
    """
    carry_out(session, crew, list(_work(session)), epoch)


def _work(session: Session) -> Iterator[Series]:
    options, estimators = session.config.evaluation, session.built.estimators
    for split in options.splits:
        x = session.data.splits[split][: options.max_data]
        for which, estimator in enumerate(estimators):
            if not estimator.simulates:
                yield _series(session, which, split, x)
    for which, estimator in enumerate(estimators):
        if estimator.simulates:
            with seeding.isolated(seeding.derive(session.config.seed, SIMULATED)), torch.no_grad():
                drawn = session.built.vae.model.sample(options.num_simulated)
            yield _series(session, which, SIMULATED, drawn.x, drawn.z)


def _series(
    session: Session, which: int, split: str, x: Tensor, z: Tensor | None = None
) -> Series:
    estimator, size = session.built.estimators[which], session.config.evaluation.batch_size
    title = f"{estimator.label} on {split}"
    rows = session.measured(PHASE, estimator.method, split)
    return Series(PHASE, which, estimator.method, split, title, size, rows, x, z)


def measure(place: Workplace, batch: Batch, tell: Tell) -> list[EstimateRow]:
    """The rows of a batch, which draws from a stream of its own and is never asked to stop."""
    vae, estimator = place.built.vae, place.built.estimators[batch.which]
    stream = seeding.derive(
        place.config.seed, "estimation", estimator.label, batch.split, batch.offset
    )
    with seeding.isolated(stream), torch.no_grad():
        context = vae.context(batch.x)
        result = estimator(vae.model, vae.posterior, batch.x, context, batch.z)
    return make_rows(result, PHASE, batch.method, batch.split, batch.offset)
