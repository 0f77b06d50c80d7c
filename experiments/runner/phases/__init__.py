"""The phases of a run, in their order; each goes on from where it was cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from experiments.runner.batches import Measures, Workplace
from experiments.runner.crew import Alone, Crew
from experiments.runner.earlier import CHECKPOINT
from experiments.runner.phases import estimate, local_optimisation
from experiments.runner.phases.train import train
from experiments.runner.phases.usage import measure_usage
from experiments.runner.resuming import check_metrics
from experiments.runner.rows import num_before_last_batch
from experiments.runner.schema import Phase, RunConfig
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from experiments.runner.workers import Workers
from utils import checkpoint
from utils.code import merged
from utils.results.folder import DamagedError, RunFolder
from utils.results.records import Estimate

MEASURES: Measures = {
    local_optimisation.PHASE: local_optimisation.measure,
    estimate.PHASE: estimate.measure,
}
"""How each phase measures a batch."""


def cut_back(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    warn: Callable[[str], None],
    check: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any] | None:
    """Read the last checkpoint and drop the rows that the resumed run will write again.

    Raises CheckpointError when there are checkpoints and none can be read and passes ``check``,
    DamagedError when rows are lost.
    """
    state = checkpoint.load_latest(folder.path / CHECKPOINT, device, warn, check)
    rows = folder.estimates.read()  # what cannot be read is met before anything is cut
    folder.links.read()
    folder.metrics.read()
    batch_sizes: dict[str, int] = {
        local_optimisation.PHASE: config.local_optimisation.batch_size,
        estimate.PHASE: config.evaluation.batch_size,
    }
    if not {row.phase for row in rows} <= batch_sizes.keys():
        raise DamagedError(f"{folder.estimates.path} has rows of a phase that writes none")
    count = num_before_last_batch(rows, batch_sizes)
    if not _are_whole(rows[:count]):
        raise DamagedError(f"{folder.estimates.path} has lost rows, or has them twice")
    if state is not None:
        check_metrics(folder.metrics, state)
    folder.metrics.truncate(0 if state is None else state["metrics_bytes"])
    folder.estimates.keep_first(count)
    return state


def _are_whole(rows: Sequence[Estimate]) -> bool:
    """Whether each number has a row for datum 0, 1, ..., as many as the others of its method."""
    data: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    for row in rows:
        numbers = data.setdefault((row.phase, row.method, row.split), {})
        numbers.setdefault(row.name, []).append(row.datum)
    lengths = [{len(found) for found in numbers.values()} for numbers in data.values()]
    return all(len(found) == 1 for found in lengths) and all(
        found == list(range(len(found))) for numbers in data.values() for found in numbers.values()
    )


def go_through(session: Session, interruption: Interruption) -> None:
    """Carry out the phases that the configuration asks for.

    Raises InterruptedRunError after a checkpoint, DivergedError without one.
    """
    phases, epoch = session.config.phases, session.first_epoch
    if "train" in phases:
        _note_code(session, "train")
        epoch = train(session, interruption)
    session.built.vae.requires_grad_(False)
    with _crew(session, interruption) as crew:
        if "local_optimisation" in phases:
            _note_code(session, "local_optimisation")
            local_optimisation.optimise_locally(session, crew, epoch)
        if "estimate" in phases:
            _note_code(session, "estimate")
            estimate.estimate(session, crew, epoch)
    if "estimate" in phases:
        measure_usage(session, interruption, epoch)


def _crew(session: Session, interruption: Interruption) -> AbstractContextManager[Crew]:
    number = session.config.runtime.workers or 1
    if number > 1:
        return Workers(session, interruption, number)
    place = Workplace(
        session.config, session.built, session.folder.path, warn=session.console.warn
    )
    return nullcontext(Alone(place, MEASURES, interruption))


def _note_code(session: Session, phase: Phase) -> None:
    """Record under which code a phase is carried out; one that an earlier try ended keeps its."""
    known, order = session.recorder.record.code, session.config.phases
    if phase not in session.codes or any(
        later in known for later in order[order.index(phase) + 1 :]
    ):
        return
    code = session.codes[phase]
    if phase in known:
        code = merged(known[phase], code)
    session.recorder.update(code={**known, phase: code})
