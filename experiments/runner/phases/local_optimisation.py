"""The phase ``local_optimisation``: the best bound of each datum, batch by batch of data."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estimators.protocol import Quantity
from experiments.runner.batches import Batch, Series, Tell, Workplace
from experiments.runner.build import Family, LocalPlan
from experiments.runner.crew import Crew, carry_out
from experiments.runner.rows import make_rows
from experiments.runner.schema import Phase, RunConfig
from experiments.runner.session import Session
from models.local import LocalSearch, LocalSettings, beginning, best_of
from utils import checkpoint, seeding
from utils.compiled import count_parameters, is_wanted
from utils.results.records import Estimate as EstimateRow

PHASE: Phase = "local_optimisation"
CHECKPOINTS = "local"
"""In the run's folder: a file for each batch that has been begun and has no rows yet."""


def optimise_locally(session: Session, crew: Crew, epoch: int) -> None:
    """Find q* of each datum for each family, and measure it with fresh samples.

    Batches that an earlier try completed are kept; those it was at go on bit for bit. Raises
    InterruptedRunError after a checkpoint of each.
    """
    plan = session.built.local
    assert plan is not None
    if not any(family.is_own for family in plan.families):
        session.console.warn(
            "the run's own posterior is not among local_optimisation.families, because "
            "local_optimisation.own is false: there will be no gaps"
        )
    folder = session.folder.path
    work = list(_work(session, plan))
    carry_out(session, crew, work, epoch, lambda batch: path_of(folder, batch).unlink(True))
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _work(session: Session, plan: LocalPlan) -> Iterator[Series]:
    options = session.config.evaluation
    size = session.config.local_optimisation.batch_size
    for which, family in enumerate(plan.families):
        optimum = {"family": family.label, "search": plan.settings.label}
        method = plan.estimator.method._replace(**optimum)
        for split in options.splits:
            title = f"{method.label} on {split}: ended"
            rows = session.measured(PHASE, method, split)
            x = session.data.splits[split][: options.max_data]
            yield Series(PHASE, which, method, split, title, size, rows, x)


def path_of(folder: Path, batch: Batch) -> Path:
    """Where the run in ``folder`` keeps how far the search for a batch has come."""
    name = hashlib.sha256(batch.name.encode()).hexdigest()[:16]
    return folder / CHECKPOINTS / f"{name}.pt"


def measure(place: Workplace, batch: Batch, tell: Tell) -> list[EstimateRow] | None:
    """Optimise to the end, measure the optimum, and return its rows.

    None, after a checkpoint, where ``tell`` says no.
    """
    return _Search(place, batch).rows(tell)


def _wants_compiler(
    config: RunConfig, settings: LocalSettings, x: Tensor, num_parameters: int
) -> bool:
    """By the steps of one family, each of a chunk of data.

    ``x`` are the data of the batch, as many as are taken for all where ``evaluation.max_data``
    does not say.
    """
    size = min(
        settings.chunk_size(x.device), config.local_optimisation.batch_size * settings.starts
    )
    num_data = (config.evaluation.max_data or len(x)) * settings.starts
    num_chunks = -(-num_data // size) * len(config.evaluation.splits)
    steps, rows = num_chunks * settings.usual_steps, size * settings.num_samples
    return is_wanted(config.runtime.compile, steps, rows, num_parameters)


class _Search:
    """The local optimisation of one batch, with its checkpoints and its stream of noise."""

    def __init__(self, place: Workplace, batch: Batch) -> None:
        assert place.built.local is not None
        self._place, self._plan, self._batch = place, place.built.local, batch
        self._path = path_of(place.folder, batch)
        self._num_starts = self._plan.settings.starts
        self._search = self._start(self._plan.families[batch.which])

    def _start(self, family: Family) -> LocalSearch:
        plan, x, vae, config = self._plan, self._batch.x, self._place.built.vae, self._place.config
        posterior = family.posterior.to(x.device)
        stream = seeding.derive(config.seed, PHASE, self._batch.name, "starts")
        with seeding.isolated(stream), torch.no_grad():
            start = beginning(
                *(plan.settings, vae.model, x, vae.posterior, vae.context(x)),
                *(posterior, family.is_own),
            )
        return LocalSearch(
            plan.loss or plan.settings.loss,
            vae.model,
            start.posterior,
            x.repeat(self._num_starts, *[1] * (x.ndim - 1)),
            start.contexts,
            plan.settings,
            scope=config.local_optimisation.scope,
            compile_step=_wants_compiler(
                config, plan.settings, x, count_parameters(vae.model, posterior)
            ),
            warn=self._place.warn,
        )

    def rows(self, tell: Tell) -> list[EstimateRow] | None:
        """See ``measure``."""
        batch, search, place = self._batch, self._search, self._place
        with seeding.isolated(seeding.derive(place.config.seed, PHASE, batch.name)):
            self._restore()
            has_ended = self._optimise(tell)
            if place.keeps_ends or not has_ended:
                self._save()
            if not has_ended:
                return None
            chosen = best_of(search.result(), search.posterior, self._num_starts)
            result = chosen.optimum
            with torch.no_grad():
                estimate = self._plan.estimator(
                    place.built.vae.model, result.posterior, batch.x, result.context
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

    def _optimise(self, tell: Tell) -> bool:
        size = len(self._search.x)
        seconds = self._place.config.runtime.checkpoint_seconds
        saved = time.monotonic()

        def keep_going(num_active: int) -> bool:
            nonlocal saved
            if time.monotonic() - saved > seconds:
                self._save()
                saved = time.monotonic()
            return tell((size - num_active) // self._num_starts, f"step {self._search.step}")

        return self._search.run(keep_going)

    def _save(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
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
            self._place.warn(
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
            self._place.warn(f"this batch starts afresh: {error}")
            return None
