"""The phase ``train``: epochs, metrics, checkpoints, pictures; goes on from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from experiments.runner import images
from experiments.runner.earlier import CHECKPOINT, epoch_path
from experiments.runner.replicas import Replicas
from experiments.runner.schema import RunConfig
from experiments.runner.session import Session
from experiments.runner.signals import Interruption
from experiments.runner.trainer import Metrics, Trainer, count_data
from models.vae import VAE
from utils import checkpoint, seeding
from utils.compiled import count_parameters, is_wanted
from utils.console import Advance

DISPLAY_SECONDS = 0.25


def train(session: Session, interruption: Interruption) -> int:
    """Fit the VAE, from the last checkpoint if there is one.

    Leaves it with the weights that the evaluation wants, and returns their epoch. Raises
    InterruptedRunError after a checkpoint, DivergedError without one (the last good one stays).
    """
    with ExitStack() as helped:
        number, replicas = session.config.runtime.replicas or 1, None
        if number > 1:
            replicas = helped.enter_context(Replicas(session, interruption, number))
        trainer = make_trainer(session, replicas)
        pictures = helped.enter_context(Pictures(session, trainer))
        for _ in training_epochs(session, trainer, pictures, interruption, replicas):
            pass
        if session.config.evaluation.weights == "best" and trainer.best is not None:
            trainer.vae.load_state_dict(trainer.best.weights)
            epoch = trainer.best.epoch
        else:
            epoch = trainer.epoch
        pictures.save()
    return epoch


def make_trainer(session: Session, replicas: Replicas | None = None) -> Trainer:
    """A trainer for the session, at the state of its checkpoint; so are ``replicas`` then."""
    config, vae = session.config, session.built.vae
    num_data = count_data(session.data, config.training)
    compile_step = wants_compiler(config, num_data, vae)
    trainer = Trainer(
        vae,
        session.built.loss,
        session.data,
        config.training,
        config.seed,
        diagnostics=config.runtime.diagnostics,
        compile_step=compile_step,
        warn=session.console.warn,
        share=None if replicas is None else replicas.share,
    )
    if session.checkpoint is not None:
        trainer.restore(session.checkpoint["trainer"])
        session.console.info(f"resumed after epoch {trainer.epoch}")
    caution = session.built.loss.caution(vae.posterior)
    if caution is not None and not trainer.finished:
        session.console.warn(caution)
    if compile_step and not trainer.finished:
        session.console.info("compiling the training step (runtime.compile=off does without)")
    if replicas is not None and not trainer.finished:
        replicas.begin(trainer)
    return trainer


def training_epochs(
    session: Session,
    trainer: Trainer,
    pictures: Pictures,
    interruption: Interruption,
    replicas: Replicas | None = None,
) -> Iterator[int]:
    """Train, evaluate, record and, now and then, checkpoint; yields after each epoch."""
    saver, kept = _Saver(session, trainer), session.config.runtime.keep_epochs or ()
    train_epoch = trainer.train_epoch
    if replicas is not None:
        train_epoch = partial(replicas.train_epoch, trainer)
    title, total = "epoch", session.config.training.epochs
    if late := [str(epoch) for epoch in kept if epoch > total]:
        session.console.warn(f"runtime.keep_epochs: training ends before {', '.join(late)}")
    before = [epoch for epoch in kept if epoch <= trainer.epoch]
    gone = [epoch for epoch in before if not epoch_path(session.folder, epoch).exists()]
    if gone:
        session.console.warn(
            f"runtime.keep_epochs: training has passed {', '.join(map(str, gone))} and kept no "
            "weights of that; `--resume never` trains it again"
        )
    with session.console.progress(title, total, trainer.epoch) as advance:
        shown = _Display(trainer, advance, interruption)
        while not trainer.finished:
            if not train_epoch(shown.tick):
                saver.save()
                interruption.raise_if_any()
            shown.text = _record_epoch(session, trainer, pictures)
            if trainer.epoch in kept:
                saver.keep()
            if saver.is_due() or trainer.finished:
                saver.save()
            yield trainer.epoch
        advance(trainer.epoch, shown.text)


def wants_compiler(config: RunConfig, num_data: int, vae: VAE) -> bool:
    """Whether the training of ``vae`` on so many data is to be compiled."""
    if (config.runtime.replicas or 1) > 1:  # it would not share their noise
        return False
    options = config.training
    steps = options.epochs * -(-num_data // options.batch_size)
    return is_wanted(config.runtime.compile, steps, options.batch_size, count_parameters(vae))


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
        state = {
            "trainer": self._trainer.state(),
            "metrics_bytes": log.size(),
            "metrics": log.fingerprint(),
            "training": self._session.training._asdict(),
        }
        checkpoint.save(state, self._path, keep_previous=True)
        self._session.console.detail(f"checkpoint after epoch {self._trainer.epoch}: {self._path}")
        self._saved = time.monotonic()

    def keep(self) -> None:
        """Write the weights as they are now where nothing will replace them."""
        epoch = self._trainer.epoch
        path = epoch_path(self._session.folder, epoch)
        path.parent.mkdir(exist_ok=True)
        state = {
            "epoch": epoch,
            "vae": self._trainer.vae.state_dict(),
            "training": self._session.training._asdict(),
        }
        checkpoint.save(state, path)


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
            for name, numbers in report.vectors.items():
                values = torch.tensor(numbers)
                self._writer.add_histogram(f"{name}/{report.split}", values, report.epoch)
        every = self._session.config.runtime.images_every
        if every and self._trainer.epoch % every == 0:
            for name, grid in self._grids().items():
                self._writer.add_image(name, grid, self._trainer.epoch)

    def save(self) -> None:
        """Write the images of the model as it is now into the run's folder."""
        folder = self._session.folder.path / "figures"
        for name, grid in self._grids().items():
            images.save_png(grid, folder / f"{name}.png")

    def _grids(self) -> dict[str, torch.Tensor]:
        splits, vae = self._session.data.splits, self._trainer.vae
        held_out = splits.get("validation", splits["train"])
        if not images.are_images(held_out.shape[1:]):
            return {}
        with seeding.isolated(seeding.derive(self._session.config.seed, "pictures")):
            return {
                "reconstructions": images.reconstructions(vae, held_out),
                "samples": images.prior_samples(vae),
            }
