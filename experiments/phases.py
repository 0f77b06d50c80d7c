"""The phases of a run: training, then estimation. Each goes on from where it was cut off."""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments import figures
from experiments.build import Built
from experiments.estimation import PHASE, estimate_split, without_last_batch
from experiments.schema import RunConfig
from experiments.signals import Interruption
from experiments.training import Metrics, Trainer
from utils import checkpoint, seeding
from utils.console import Advance, Console
from utils.data.base import Data
from utils.results.folder import RunFolder
from utils.results.recorder import Recorder
from utils.results.records import Estimate

COMPILE_FROM_STEPS = 50_000  # below, compiling (about half a minute) costs more than it saves
DISPLAY_SECONDS = 0.25


@dataclass(frozen=True)
class Session:
    """What the phases of one run share."""

    config: RunConfig
    built: Built
    data: Data
    device: torch.device
    folder: RunFolder
    recorder: Recorder
    console: Console
    checkpoint: Mapping[str, Any] | None
    """Where an earlier try had come to; the folder's rows are cut back to it."""


CHECKPOINT = "last.pt"


def cut_back(
    config: RunConfig, folder: RunFolder, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Read the last checkpoint and drop the rows that the resumed run will write again.

    Raises CheckpointError when there are checkpoints and none can be read.
    """
    state = checkpoint.load_latest(folder.path / CHECKPOINT, device, warn)
    folder.metrics.truncate(0 if state is None else state["metrics_bytes"])
    rows = folder.estimates.read()
    kept = without_last_batch(rows, config.evaluation.batch_size)
    if len(kept) < len(rows):
        folder.estimates.truncate(0)
        folder.estimates.append(kept)
    return state


def train(session: Session, interruption: Interruption) -> int:
    """Fit the VAE, from the last checkpoint if there is one.

    Leaves it with the weights that the evaluation wants, and returns their epoch. Raises
    InterruptedRunError after a checkpoint, DivergedError without one (the last good one stays).
    """
    trainer = make_trainer(session)
    with Pictures(session, trainer) as pictures:
        for _ in training_epochs(session, trainer, pictures, interruption):
            pass
        if session.config.evaluation.weights == "best" and trainer.best is not None:
            trainer.vae.load_state_dict(trainer.best.weights)
            epoch = trainer.best.epoch
        else:
            epoch = trainer.epoch
        pictures.save()
    return epoch


def make_trainer(session: Session) -> Trainer:
    """A trainer for the session, at the state of its checkpoint."""
    compile_step = _wants_compiler(session)
    if compile_step:
        session.console.info("compiling the training step (runtime.compile=off does without)")
    trainer = Trainer(
        session.built.vae,
        session.built.loss,
        session.data,
        session.config.training,
        session.config.seed,
        compile_step=compile_step,
        warn=session.console.warn,
    )
    if session.checkpoint is not None:
        trainer.restore(session.checkpoint["trainer"])
        session.console.info(f"resumed after epoch {trainer.epoch}")
    return trainer


def training_epochs(
    session: Session, trainer: Trainer, pictures: Pictures, interruption: Interruption
) -> Iterator[int]:
    """Train, evaluate, record and, now and then, checkpoint; yields after each epoch."""
    saver = _Saver(session, trainer)
    title, total = "epoch", session.config.training.epochs
    with session.console.progress(title, total, trainer.epoch) as advance:
        shown = _Display(trainer, advance, interruption)
        while not trainer.finished:
            if not trainer.train_epoch(shown.tick):
                saver.save()
                interruption.raise_if_any()
            shown.text = _record_epoch(session, trainer, pictures)
            if saver.is_due() or trainer.finished:
                saver.save()
            yield trainer.epoch
        advance(trainer.epoch, shown.text)


def _wants_compiler(session: Session) -> bool:
    options, size = session.config.training, len(session.data.splits["train"])
    # From the configuration alone, so that a resumed run computes what the first one did.
    steps = options.epochs * -(-size // options.batch_size)
    has_compiler = any(shutil.which(name) for name in ("g++", "clang++", "cl"))
    wanted = {"off": False, "on": True, "auto": has_compiler and steps >= COMPILE_FROM_STEPS}
    return wanted[session.config.runtime.compile]


def _record_epoch(session: Session, trainer: Trainer, pictures: Pictures) -> str:
    reports = trainer.report()
    for report in reports:
        session.recorder.add_metrics("train", report.epoch, report.split, report.values)
    pictures.scalars(reports)
    return "  ".join(f"{report.split} {report.values['bound']:.2f}" for report in reports)


class _Display:
    """Shows progress now and then, and stops the epoch when a signal has come."""

    def __init__(self, trainer: Trainer, advance: Advance, interruption: Interruption) -> None:
        self.text = ""
        self._trainer, self._advance, self._interruption = trainer, advance, interruption
        self._last = 0.0

    def tick(self, step: int) -> bool:
        now = time.monotonic()
        if now - self._last > DISPLAY_SECONDS:
            self._last = now
            epochs = self._trainer.epoch + step / self._trainer.num_steps
            self._advance(round(epochs, 2), self.text)
        return self._interruption.signal_number is None


class _Saver:
    """Checkpoints of a trainer, in step with the metrics already written."""

    def __init__(self, session: Session, trainer: Trainer) -> None:
        self._session, self._trainer = session, trainer
        self._path = session.folder.path / CHECKPOINT
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._saved >= self._session.config.runtime.checkpoint_seconds

    def save(self) -> None:
        """Write a checkpoint; the one before it is kept."""
        log = self._session.folder.metrics
        log.sync()
        state = {"trainer": self._trainer.state(), "metrics_bytes": log.size()}
        checkpoint.save(state, self._path, keep_previous=True)
        self._session.console.detail(f"checkpoint after epoch {self._trainer.epoch}: {self._path}")
        self._saved = time.monotonic()


class Pictures:
    """TensorBoard scalars and images, and the final images as files; closes its files on exit."""

    def __init__(self, session: Session, trainer: Trainer) -> None:
        self._session, self._trainer = session, trainer
        self._writer: Any = None
        if session.config.runtime.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            folder = session.folder.path / "tensorboard"
            self._writer = SummaryWriter(str(folder), purge_step=trainer.epoch + 1)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, reports: list[Metrics]) -> None:
        """Log an epoch's metrics, and images where they are due."""
        if self._writer is None:
            return
        for report in reports:
            for name, value in report.values.items():
                self._writer.add_scalar(f"{name}/{report.split}", value, report.epoch)
        every = self._session.config.runtime.images_every
        if every and self._trainer.epoch % every == 0:
            for name, grid in self._grids().items():
                self._writer.add_image(name, grid, self._trainer.epoch)

    def save(self) -> None:
        """Write the images of the model as it is now into the run's folder."""
        folder = self._session.folder.path / "figures"
        for name, grid in self._grids().items():
            figures.save_png(grid, folder / f"{name}.png")

    def _grids(self) -> dict[str, torch.Tensor]:
        splits, vae = self._session.data.splits, self._trainer.vae
        held_out = splits.get("validation", splits["train"])
        with seeding.isolated(seeding.derive(self._session.config.seed, "pictures")):
            return {
                "reconstructions": figures.reconstructions(vae, held_out),
                "samples": figures.prior_samples(vae),
            }


def estimate(session: Session, interruption: Interruption, epoch: int) -> None:
    """Run every estimator on every split; batches that an earlier try completed are kept."""
    config, built, folder = session.config, session.built, session.folder
    options, done = config.evaluation, folder.estimates.read()
    for split in options.splits:
        x = session.data.splits[split][: options.max_data]
        for estimator in built.estimators:
            rows = [row for row in done if (row.estimator, row.split) == (estimator.label, split)]
            start = 1 + max((row.datum for row in rows), default=-1)
            title = f"{estimator.label} on {split}"
            with session.console.progress(title, len(x), start) as advance:
                batches = estimate_split(
                    built.vae,
                    estimator,
                    x,
                    split,
                    seed=config.seed,
                    batch_size=options.batch_size,
                    start=start,
                )
                for batch in batches:
                    session.recorder.add_estimates(batch)
                    rows += batch
                    advance(1 + batch[-1].datum)
                    interruption.raise_if_any()
            session.recorder.add_metrics(PHASE, epoch, split, _means(rows))


def _means(rows: Sequence[Estimate]) -> dict[str, float]:
    values = defaultdict(list)
    for row in rows:
        values[f"{row.estimator}/{row.name}"].append(row.value)
    return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}
