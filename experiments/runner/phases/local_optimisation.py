"""The phase ``local_optimisation``: the best bound of each datum, batch by batch of data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from estimators.protocol import Quantity
from experiments.runner.build import Family, LocalPlan
from experiments.runner.phases.estimate import make_rows, metrics
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from models.local import (
    LocalSearch,
    LocalSettings,
    best_of,
    matched_context,
    starting_contexts,
)
from utils import checkpoint, seeding
from utils.compiled import is_wanted
from utils.results.methods import Method
from utils.results.records import Estimate as EstimateRow

PHASE = "local_optimisation"
CHECKPOINT = "local.pt"


class _Batch(NamedTuple):
    """Some data of a split, for one family; its name is the stream of its random draws."""

    family: Family
    method: Method
    split: str
    offset: int
    x: Tensor

    @property
    def name(self) -> str:
        return f"{self.method.label}/{self.split}/{self.offset}"


def optimise_locally(session: Session, interruption: Interruption, epoch: int) -> None:
    """Find q* of each datum for each family, and measure it with fresh samples.

    Batches that an earlier try completed are kept; the one it was at goes on bit for bit. Raises
    InterruptedRunError after a checkpoint.
    """
    plan = session.built.local
    assert plan is not None
    session.built.vae.requires_grad_(False)
    if not any(family.is_own for family in plan.families):
        session.console.warn(
            "the run's own posterior is not among local_optimisation.families, because "
            "local_optimisation.own is false: there will be no gaps"
        )
    rows = [row for row in session.folder.estimates.read() if row.phase == PHASE]
    splits = session.config.evaluation.splits
    for family in plan.families:
        optimum = {"family": family.label, "search": plan.settings.label}
        method = plan.estimator.method._replace(**optimum)
        for split in splits:
            own = [row for row in rows if (row.method, row.split) == (method, split)]
            start = 1 + max((row.datum for row in own), default=-1)
            for batch in _batches(session, family, method, split, start):
                new = _Search(session, plan, batch).rows(interruption)
                session.recorder.add_estimates(new)
                own += new
                interruption.raise_if_any()
            session.recorder.add_metrics(PHASE, epoch, split, metrics(own))
    (session.folder.path / CHECKPOINT).unlink(missing_ok=True)


def _batches(
    session: Session, family: Family, method: Method, split: str, start: int
) -> Iterator[_Batch]:
    x = session.data.splits[split][: session.config.evaluation.max_data]
    batch_size = session.config.local_optimisation.batch_size
    for offset in range(start, len(x), batch_size):
        yield _Batch(family, method, split, offset, x[offset : offset + batch_size])


def _wants_compiler(session: Session, settings: LocalSettings) -> bool:
    """By the steps of one family, each of a chunk of data."""
    options, batch_size = session.config.evaluation, session.config.local_optimisation.batch_size
    sizes = [len(session.data.splits[split][: options.max_data]) for split in options.splits]
    size = min(settings.chunk_size(session.device), batch_size * settings.starts)
    num_chunks = sum(-(-num_data * settings.starts // size) for num_data in sizes)
    return is_wanted(session.config.runtime.compile, num_chunks * settings.usual_steps)


class _Search:
    """The local optimisation of one batch, with its checkpoints and its stream of noise."""

    def __init__(self, session: Session, plan: LocalPlan, batch: _Batch) -> None:
        self._session, self._plan, self._batch = session, plan, batch
        self._path: Path = session.folder.path / CHECKPOINT
        self._num_starts = plan.settings.starts
        self._search = self._start()

    def _start(self) -> LocalSearch:
        plan, batch, built = self._plan, self._batch, self._session.built
        posterior, x = batch.family.posterior.to(batch.x.device), batch.x
        given = [posterior.initial_context().to(x).repeat(len(x), 1)]
        stream = seeding.derive(self._session.config.seed, PHASE, batch.name, "starts")
        with seeding.isolated(stream), torch.no_grad():
            context, own = built.vae.context(x), built.vae.posterior
            if batch.family.is_own:
                given.append(context)
            elif plan.settings.start == "encoder" and not posterior.transitions:
                given.append(matched_context(built.vae.model, posterior, x, own, context))
            if plan.settings.start == "encoder":
                posterior = own if batch.family.is_own else posterior
                given.reverse()
            contexts = starting_contexts(built.vae.model, posterior, x, given, self._num_starts)
        return LocalSearch(
            plan.loss or plan.settings.loss,
            built.vae.model,
            posterior,
            x.repeat(self._num_starts, *[1] * (x.ndim - 1)),
            contexts,
            plan.settings,
            scope=self._session.config.local_optimisation.scope,
            compile_step=_wants_compiler(self._session, plan.settings),
            warn=self._session.console.warn,
        )

    def rows(self, interruption: Interruption) -> list[EstimateRow]:
        """Optimise to the end, measure the optimum, and return its rows.

        Raises InterruptedRunError after a checkpoint.
        """
        batch, search = self._batch, self._search
        with seeding.isolated(seeding.derive(self._session.config.seed, PHASE, batch.name)):
            self._restore()
            if not self._optimise(interruption):
                self._save()
                interruption.raise_if_any()
            chosen = best_of(search.result(), search.posterior, self._num_starts)
            result = chosen.optimum
            with torch.no_grad():
                estimate = self._plan.estimator(
                    self._session.built.vae.model, result.posterior, batch.x, result.context
                )
        stats = {
            **estimate.stats,
            "steps": Quantity(result.steps),
            "converged": Quantity(result.converged.double()),
        }
        if self._num_starts > 1:
            stats["start"] = Quantity(chosen.start.double())
            stats["gain_over_first"] = Quantity(chosen.gain_over_first)
        estimate = estimate._replace(stats=stats)
        return make_rows(estimate, PHASE, batch.method, batch.split, batch.offset)

    def _optimise(self, interruption: Interruption) -> bool:
        batch, size = self._batch, len(self._search.x)
        title = f"{batch.method.label} on {batch.split} from {batch.offset}: converged"
        seconds = self._session.config.runtime.checkpoint_seconds
        saved = time.monotonic()
        with self._session.console.progress(title, size) as advance:

            def keep_going(num_active: int) -> bool:
                nonlocal saved
                advance(size - num_active, f"step {self._search.step}")
                if time.monotonic() - saved > seconds:
                    self._save()
                    saved = time.monotonic()
                return interruption.signal_number is None

            return self._search.run(keep_going)

    def _save(self) -> None:
        checkpoint.save(self._state(), self._path)

    def _state(self) -> dict[str, Any]:
        return {
            "batch": self._batch.name,
            "noise": seeding.get_state(),
            "search": self._search.state(),
        }

    def _restore(self) -> None:
        """Go on from the checkpoint where it is this batch's and readable."""
        state = self._load()
        if state is None or state["batch"] != self._batch.name:
            return
        search = state.get("search")
        if not (isinstance(search, Mapping) and self._search.fits(search)):
            self._session.console.warn(
                f"this batch starts afresh: {self._path} has other keys, types or shapes"
            )
            return
        self._search.restore(state["search"])
        seeding.set_state(state["noise"])

    def _load(self) -> Mapping[str, Any] | None:
        if not self._path.exists():
            return None
        try:
            return checkpoint.load(self._path, self._batch.x.device, holds=("batch",))
        except checkpoint.CheckpointError as error:
            self._session.console.warn(f"this batch starts afresh: {error}")
            return None
