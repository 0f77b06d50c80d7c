"""Fitting: one epoch at a time, with a state from which training goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from estimators import usage
from experiments.runner.optimisers import Validation, num_plateaus
from experiments.runner.schema import Training
from experiments.runner.sharing import Share
from models.losses import Loss
from models.vae import VAE
from utils import seeding
from utils.compiled import differentiated
from utils.data.base import Data
from utils.gradients import frozen

CHECK_EVERY = 50  # steps between looks at the loss: rare enough not to stall a GPU
EVALUATION_BATCH = 1000


class DivergedError(Exception):
    """The loss or the gradient became NaN or infinite."""


class Metrics(NamedTuple):
    """Means over a split at the end of an epoch, in nats where they are bounds.

    ``vectors`` hold a number for each dimension of z.
    """

    epoch: int
    split: str
    values: Mapping[str, float]
    vectors: Mapping[str, Sequence[float]] = {}


class BestWeights(NamedTuple):
    """The weights that did best on validation, and when."""

    value: float
    epoch: int
    weights: Mapping[str, Tensor]


def count_data(data: Data, options: Training) -> int:
    """How many images an epoch goes through."""
    num_images = len(data.splits["train"])
    return num_images if options.max_data is None else min(num_images, options.max_data)


class Trainer:
    """Fits all parameters of ``vae`` to the training split of ``data``.

    The state is epoch (completed), step (within the epoch), weights, optimiser, the noise
    stream, this epoch's metrics so far, the validations and the best weights; everything else,
    the data order, the learning rate and when to stop included, is a function of these and of
    the seed.

    Args:
        diagnostics: look at each evaluation at the use of the latent dimensions.
        compile_step: fuse the forward and backward pass with torch.compile; falls back to eager,
            with a word to ``warn``, where that fails.
        share: of this process, where several take the steps together; they do not compile.
    """

    def __init__(
        self,
        vae: VAE,
        loss: Loss,
        data: Data,
        options: Training,
        seed: int,
        *,
        diagnostics: bool = True,
        compile_step: bool = False,
        warn: Callable[[str], None] = print,
        share: Share | None = None,
    ) -> None:
        self.diagnostics = diagnostics
        self.vae, self.loss, self.data, self.options, self.seed = vae, loss, data, options, seed
        self.parameters = [p for p in vae.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.optimiser = options.optimiser.build(parameters=self.parameters)
        has_validation = "validation" in data.splits
        self.schedule = options.schedule.build(
            epochs=options.epochs, has_validation=has_validation
        )
        self.base_lr = self.optimiser.param_groups[0]["lr"]
        self.num_data = count_data(data, options)
        self.num_steps = math.ceil(self.num_data / options.batch_size)
        self.epoch, self.step = 0, 0
        self.best: BestWeights | None = None
        self.validations: list[Validation] = []
        self.information: list[Validation] = []
        self._names: list[str] = []
        self._history = torch.zeros(self.num_steps, 0)  # (steps, metrics), on the device
        self._share = share
        if share is None:
            self._differentiate = differentiated(
                self._objective, self._clear, compile_step=compile_step, warn=warn
            )
        else:
            self._differentiate = share.differentiated(
                self._objective, self._clear, self.parameters
            )
        with seeding.isolated(seeding.derive(seed, "noise")):
            self._noise = seeding.get_state()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or early stopping says so."""
        return self.epoch >= self.options.epochs or self._is_stale()

    def train_epoch(self, keep_going: Callable[[int], bool]) -> bool:
        """Train to the end of the current epoch; False where ``keep_going(step)`` said no.

        Raises DivergedError, with the place, when the loss or a gradient is not finite.
        """
        epoch = self.epoch + 1
        order = seeding.permutation(
            self.num_data, seeding.derive(self.seed, "order", epoch), self.device
        )
        batches = order.split(self.options.batch_size)
        weight = torch.tensor(self.loss.weight(epoch), device=self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self._lr(epoch)
        outside = seeding.get_state()
        seeding.set_state(self._noise)
        try:
            checked = self.step
            while self.step < self.num_steps and keep_going(self.step):
                for _ in range(self._encoder_steps() - 1):
                    self._encoder_step(weight)
                self._train_step(batches[self.step], weight)
                if self.step % CHECK_EVERY == 0 or self.step == self.num_steps:
                    self._check(checked, epoch)
                    checked = self.step
            self._check(checked, epoch)  # before anybody saves what may be broken
            self._check_parameters(epoch)
        finally:
            self._noise = seeding.get_state()
            seeding.set_state(outside)
        if self.step < self.num_steps:
            return False
        self.epoch, self.step = epoch, 0
        return True

    def _lr(self, epoch: int) -> float:
        rise = 1.0 if self.options.lr_warmup is None else epoch / (self.options.lr_warmup + 1)
        return self.base_lr * self.schedule(epoch, self.validations) * min(rise, 1.0)

    def _objective(
        self, x: Tensor, weight: Tensor
    ) -> tuple[Tensor, tuple[dict[str, Tensor], Sequence[Mapping[str, Tensor]]]]:
        """The mean loss; metrics (B,) and what the posterior's transitions tell."""
        vae = self.vae
        bound = self.loss(vae.model, vae.posterior, x, vae.context(x), weight)
        metrics = {"loss": bound.loss.detach(), "bound": bound.value, **bound.metrics}
        return bound.loss.mean(), (metrics, bound.stats)

    def _clear(self, *_: object) -> None:
        for parameter in self.parameters:  # what `zero_grad` does, without its wrappers
            parameter.grad = None

    def _encoder_steps(self) -> int:
        """Of this epoch, for each step of the model."""
        ended = self.options.encoder_steps_until and num_plateaus(self.information, patience=1)
        return 1 if ended else self.options.encoder_steps or 1

    def _encoder_step(self, weight: Tensor) -> None:
        """A step of all but the model, which the optimiser leaves alone for want of gradients."""
        indices = torch.randint(self.num_data, (self.options.batch_size,))
        with frozen(self.vae.model):
            self._step(indices.to(self.device), weight)

    def _step(self, indices: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Change what gets gradients; metrics (B,)."""
        x = self.data.batch(indices)
        _, (metrics, stats) = self._differentiate(x, weight)
        if self.options.clip_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_grad_norm)
            metrics["grad_norm"] = norm.expand(len(x))
        self.optimiser.step()
        self.vae.posterior.adapt(stats)
        return metrics

    def _train_step(self, indices: Tensor, weight: Tensor) -> None:
        metrics = self._step(indices, weight)
        if not self._names:
            self._names = list(metrics)
            self._history = torch.zeros(self.num_steps, len(metrics), device=self.device)
        torch.mean(torch.stack(list(metrics.values())), 1, out=self._history[self.step])
        self.step += 1

    def _check(self, start: int, epoch: int) -> None:
        if self._share is not None:
            self._share.settle()
        rows = self._history[start : self.step]
        if rows.isfinite().all():
            return
        bad = rows.isfinite().logical_not().nonzero()[0].tolist()
        step, name = start + bad[0] + 1, self._names[bad[1]]
        value = rows[bad[0], bad[1]].item()
        raise DivergedError(
            f"`{name}` is {value} at epoch {epoch}, step {step} of {self.num_steps}"
        )

    def _check_parameters(self, epoch: int) -> None:
        """A last step can break the weights after its loss was finite."""
        if not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise DivergedError(f"a parameter is not finite after epoch {epoch}, step {self.step}")

    def report(self) -> list[Metrics]:
        """Metrics of the epoch just completed; validation where it is due and there is a split.

        Keeps the weights when validation is the best so far. Draws from a stream of its own, the
        same each time, so that the number of evaluations changes nothing else.
        """
        values = dict(zip(self._names, self._means(), strict=True))
        values |= {"lr": self.optimiser.param_groups[0]["lr"]}
        if self.loss.warmup is not None:
            values["warmup_weight"] = self.loss.weight(self.epoch)
        reports = [Metrics(self.epoch, "train", values)]
        due = self.epoch % self.options.evaluate_every == 0 or self.epoch == self.options.epochs
        if due and "validation" in self.data.splits:
            validation = self._evaluate("validation")
            used, by_dimension = self._usage("validation")
            vectors = {"dimension_kl": by_dimension} if by_dimension else {}
            reports.append(Metrics(self.epoch, "validation", validation | used, vectors))
            self.validations.append(Validation(self.epoch, validation["bound"]))
            self._keep_best(validation["bound"])
        return reports

    def _means(self) -> list[float]:
        """Of the epoch's metrics; each step counts by its images, for the last may have fewer."""
        sizes = torch.full((self.num_steps, 1), self.options.batch_size, dtype=torch.float64)
        sizes[-1] -= sizes.sum() - self.num_data
        shares = (sizes / sizes.mean()).to(self.device)  # all exactly 1 where batches are equal
        return (self._history.double() * shares).mean(0).tolist()

    @torch.no_grad()
    def _evaluate(self, split: str) -> dict[str, float]:
        x = self.data.splits[split]
        totals: dict[str, Tensor] = {}
        weight = torch.ones((), device=self.device)
        with seeding.isolated(seeding.derive(self.seed, "evaluation", split)):
            for batch in x.split(EVALUATION_BATCH):
                _, (metrics, _) = self._objective(batch, weight)
                metrics.pop("loss")  # the optimiser's business
                for name, values in metrics.items():
                    totals[name] = totals.get(name, 0.0) + values.double().sum()
        return {name: (total / len(x)).item() for name, total in totals.items()}

    @torch.no_grad()
    def _usage(self, split: str) -> tuple[dict[str, float], list[float]]:
        """See ``usage.summary``; from a stream of its own. Nothing where there is nothing to say.

        Keeps the mutual information where the encoder's steps depend on it.
        """
        wanted = self.diagnostics or self.options.encoder_steps_until is not None
        x = self.data.splits[split][: usage.QUICK.num_data]
        if not (wanted and self.vae.encoder.sees_x and len(x) > 1):
            return {}, []
        with seeding.isolated(seeding.derive(self.seed, "usage", split)):
            vae = self.vae
            values, by_dimension = usage.summary(vae.model, vae.posterior, x, vae.context(x))
        if self.options.encoder_steps_until is not None:
            self.information.append(Validation(self.epoch, values["mutual_information"]))
        return values, by_dimension

    def _keep_best(self, value: float) -> None:
        if self.best is None or value > self.best.value:
            weights = {name: t.detach().clone() for name, t in self.vae.state_dict().items()}
            self.best = BestWeights(value, self.epoch, weights)

    def _is_stale(self) -> bool:
        stopping = self.options.early_stopping
        if stopping is None:
            return False
        warmup = 0.0 if self.loss.warmup is None else self.loss.warmup.length
        return num_plateaus(self.validations, stopping.patience, stopping.min_delta, warmup) > 0

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs, as tensors, numbers and strings."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "vae": self.vae.state_dict(),
            "loss": self.loss.state(),
            "optimiser": self.optimiser.state_dict(),
            "noise": self._noise,
            "names": self._names,
            "history": self._history,
            "best": None if self.best is None else self.best._asdict(),
            "validations": [tuple(validation) for validation in self.validations],
            "information": [tuple(measured) for measured in self.information],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.vae.load_state_dict(state["vae"])
        self.loss.restore(state.get("loss", {}))
        self.optimiser.load_state_dict(state["optimiser"])
        self._noise = state["noise"]
        self._names = list(state["names"])
        self._history = state["history"].to(self.device)
        self.best = None if state["best"] is None else BestWeights(**state["best"])
        # Checkpoints once held the best validation alone: from there, patience begins anew.
        known = [] if self.best is None else [(self.best.epoch, self.best.value)]
        self.validations = [Validation(*pair) for pair in state.get("validations", known)]
        self.information = [Validation(*pair) for pair in state.get("information", ())]
