"""Who measures the batches of a run, and what becomes of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

from experiments.runner.batches import Batch, Measures, Series, Workplace
from experiments.runner.rows import metrics
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from utils.console import Advance
from utils.results.records import Estimate


class Measured(NamedTuple):
    """A batch with all its rows."""

    batch: Batch
    rows: list[Estimate]


Watch = Callable[[Batch, int, str], None]
"""Is told how many data of a batch are done, and a word on it."""


class Crew(Protocol):
    """Measures batches; who and how many they are changes no number."""

    def results(self, batches: Iterable[Batch], watch: Watch) -> Iterator[Measured]:
        """Each batch measured, in their order.

        Raises InterruptedRunError when a signal has come: at once where a batch is drawn anew,
        after a checkpoint of those that are searched for.
        """


class Alone:
    """This process does it all.

    Args:
        place: what batches are measured with.
        measures: how, by phase.
        interruption: tells of signals.
    """

    def __init__(self, place: Workplace, measures: Measures, interruption: Interruption) -> None:
        self._place, self._measures, self._interruption = place, measures, interruption

    def results(self, batches: Iterable[Batch], watch: Watch) -> Iterator[Measured]:
        """See ``Crew``."""
        interruption = self._interruption
        for batch in batches:

            def tell(num_done: int, text: str = "", batch: Batch = batch) -> bool:
                watch(batch, num_done, text)
                return interruption.signal_number is None

            with nullcontext() if batch.is_saved else interruption.at_once():
                rows = self._measures[batch.phase](self._place, batch, tell)
            if rows is None:
                interruption.raise_if_any()
            assert rows is not None  # only a signal stops a batch
            yield Measured(batch, rows)
            interruption.raise_if_any()


def carry_out(
    session: Session,
    crew: Crew,
    work: Sequence[Series],
    epoch: int,
    recorded: Callable[[Batch], object] = lambda batch: None,
) -> None:
    """Measure what is left of all series; their rows are recorded in order, batch by batch.

    Args:
        session: the run.
        crew: who measures.
        work: one series after the other.
        epoch: of the weights, for the metrics.
        recorded: is told of each batch whose rows are safe.

    Raises InterruptedRunError as ``Crew.results``.
    """
    shown: _Shown | None = None

    def watch(batch: Batch, num_done: int, text: str) -> None:
        if shown is not None:
            shown(batch, num_done, text)

    results = crew.results((batch for series in work for batch in series.batches()), watch)
    for series in work:
        done, size = series.start, len(series.x)
        with session.console.progress(series.title, size, done) as advance:
            shown = _Shown(series, done, advance)
            while done < size:
                batch, rows = next(results)
                session.recorder.add_estimates(rows)
                series.rows.extend(rows)
                recorded(batch)
                shown(batch, len(batch.x))
                done = batch.offset + len(batch.x)
        session.recorder.add_metrics(series.phase, epoch, series.split, metrics(series.rows))


class _Shown:
    """The progress of one series, in all batches that are at work."""

    def __init__(self, series: Series, start: int, advance: Advance) -> None:
        self._series, self._start, self._advance = series, start, advance
        self._num_done: dict[int, int] = {}

    def __call__(self, batch: Batch, num_done: int, text: str = "") -> None:
        if batch.series == self._series.key:
            self._num_done[batch.offset] = num_done
            self._advance(self._start + sum(self._num_done.values()), text)
