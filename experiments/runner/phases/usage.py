"""The last part of the phase ``estimate``: which latent dimensions the posterior uses.

Its rows are of two methods: ``information``, one row a datum, and ``units``, whose ``datum`` is
the dimension of z.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.protocol import Quantity
from estimators.usage import FULL, Classifier, Portraits, information, portray
from experiments.runner.phases.estimate import PHASE
from experiments.runner.rows import metrics, rows_of
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from utils import seeding
from utils.results.methods import INFORMATION, UNITS, Method, settings_text
from utils.results.records import Estimate as EstimateRow


def measure_usage(session: Session, interruption: Interruption, epoch: int) -> None:
    """Measure on every split what the configuration evaluates; as ``estimate`` goes on.

    Nothing where no encoder sees x, for then z tells nothing of it; a word for a single datum.
    Draws from streams of its own. Raises InterruptedRunError at once.
    """
    options = session.config.evaluation
    if session.built.vae.posterior.resample_below is not None:
        session.console.info("no active units: draws that are resampled say nothing of one datum")
        return
    if not (session.config.runtime.diagnostics and session.built.vae.encoder.sees_x):
        return
    for split in options.splits:
        x = session.data.splits[split][: options.max_data][: FULL.num_data]
        if len(x) < 2:
            session.console.info(
                f"no active units and no mutual information of {split}: they compare data, and "
                "there is one"
            )
            continue
        _Measurement(session, split, x).record(interruption, epoch)


class _Piece(NamedTuple):
    """Some data of a split, from datum ``offset``."""

    offset: int
    x: Tensor


class _Measurement:
    """The usage on one split."""

    def __init__(self, session: Session, split: str, x: Tensor) -> None:
        self._session, self._split, self._x = session, split, x
        self._vae, self._batch_size = session.built.vae, session.config.evaluation.batch_size
        settings = settings_text({"num_data": len(x)})
        self._information, self._units = Method(INFORMATION, settings), Method(UNITS, settings)

    def record(self, interruption: Interruption, epoch: int) -> None:
        """Write the rows that are not there yet, and all numbers as metrics."""
        told, units = (
            self._session.measured(PHASE, method, self._split)
            for method in (self._information, self._units)
        )
        with self._session.console.progress(f"usage of z on {self._split}", len(self._x)) as go:
            with interruption.at_once():
                portraits = self._portraits()
                classifier = portraits.classifier(self._vae.posterior)
            for piece in self._pieces(_next_datum(told)):
                with interruption.at_once():
                    quantities = self._told(classifier, piece)
                told += self._write(quantities, self._information, piece.offset)
                go(piece.offset + len(piece.x))
            dimensions = portraits.dimensions()
            for offset in range(_next_datum(units), self._vae.model.latent_dim, self._batch_size):
                part = _part(dimensions, slice(offset, offset + self._batch_size))
                units += self._write(part, self._units, offset)
        active = sum(row.value for row in units if row.name == "active_units")
        numbers = metrics(told) | {f"{self._units.label}/active_units": active}
        self._session.recorder.add_metrics(PHASE, epoch, self._split, numbers)

    def _pieces(self, start: int = 0) -> Iterator[_Piece]:
        for offset in range(start, len(self._x), self._batch_size):
            yield _Piece(offset, self._x[offset : offset + self._batch_size])

    def _stream(self, name: str, piece: _Piece) -> int:
        return seeding.derive(self._session.config.seed, "usage", name, self._split, piece.offset)

    @torch.no_grad()
    def _portraits(self) -> Portraits:
        parts = []
        for piece in self._pieces():
            with seeding.isolated(self._stream("portraits", piece)):
                context = self._vae.context(piece.x)
                model, posterior = self._vae.model, self._vae.posterior
                parts.append(portray(model, posterior, piece.x, context, FULL.num_portrait))
        return Portraits.joined(parts)

    @torch.no_grad()
    def _told(self, classifier: Classifier, piece: _Piece) -> Mapping[str, Quantity]:
        vae = self._vae
        with seeding.isolated(self._stream("information", piece)):
            context = vae.context(piece.x)
            return information(
                *(vae.model, vae.posterior, piece.x, context, classifier, piece.offset),
                FULL.num_draws,
            )

    def _write(
        self, quantities: Mapping[str, Quantity], method: Method, offset: int
    ) -> Sequence[EstimateRow]:
        rows = rows_of(quantities, PHASE, method, self._split, offset)
        self._session.recorder.add_estimates(rows)
        return rows


def _next_datum(rows: Sequence[EstimateRow]) -> int:
    return 1 + max((row.datum for row in rows), default=-1)


def _part(quantities: Mapping[str, Quantity], chosen: slice) -> dict[str, Quantity]:
    """Some of the numbers of each quantity."""
    return {
        name: Quantity(value[chosen], None if error is None else error[chosen])
        for name, (value, error) in quantities.items()
    }
