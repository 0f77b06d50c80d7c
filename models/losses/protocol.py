"""What a loss is, what it returns, and what a warm-up does to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor

from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.posteriors.protocol import Stage
from utils.gradients import frozen
from utils.registry import Registry

Samples = Annotated[int, Ge(2), Le(10**9)]
"""Of which there is a variance."""


class LogTerms(NamedTuple):
    """log p(x|z), log p(z) and log q of the same draws, each (S, B) in nats.

    ``log_choice`` (S, B) is the log-probability of their discrete decisions; None: there are none.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    log_choice: Tensor | None = None

    @classmethod
    def of(
        cls, model: GenerativeModel, x: Tensor, stage: Stage, *, anew: bool = False
    ) -> LogTerms:
        """The terms of a stage.

        log p(x, z) is not evaluated again where the chain has done so, unless ``anew``.
        """
        z, log_prior = stage.state.z, model.log_prior(stage.state.z)
        known = None if anew else stage.path.end.known(z)
        log_likelihood = model.log_likelihood(x, z) if known is None else known - log_prior
        return cls(log_likelihood, log_prior, stage.log_q, stage.log_choice)

    @property
    def log_w(self) -> Tensor:
        """Log importance weights (S, B): E[exp(log_w)] = p(x)."""
        return self.log_likelihood + self.log_prior - self.log_q

    def metrics(self) -> Mapping[str, Tensor]:
        """Means over samples (B,), without gradients: ``log_likelihood`` and ``kl``."""
        kl = (self.log_q - self.log_prior).mean(0).detach()
        return {"log_likelihood": self.log_likelihood.mean(0).detach(), "kl": kl}


class Bound(NamedTuple):
    """A stochastic lower bound on log p(x), per datum.

    ``loss`` (B,) is for the optimiser only. ``value`` (B,) is the bound itself in nats, larger is
    better, never annealed. ``metrics`` holds further (B,) tensors for people. ``stats`` are those
    of the posterior's transitions, in their order. Only ``loss`` carries gradients.
    """

    loss: Tensor
    value: Tensor
    metrics: Mapping[str, Tensor]
    stats: Sequence[Mapping[str, Tensor]] = ()


def stats_of(stages: Sequence[Stage]) -> Sequence[Mapping[str, Tensor]]:
    """The stats of a chain's transitions, one mapping each, from all of its stages."""
    return [stage.stats for stage in stages[1:]]


def stat_metrics(stats: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Means (B,) over transitions and samples of each stat (S, B); others are not for people."""
    means: dict[str, list[Tensor]] = {}
    for told in stats:
        for name, values in told.items():
            if values.dim() == 2:
                means.setdefault(name, []).append(values.mean(0))
    return {name: torch.stack(of_each).mean(0) for name, of_each in means.items()}


def caution_of_choices(posterior: Chain, num_samples: int) -> str | None:
    """What to say where the score term of a single sample has no baseline."""
    if not posterior.makes_choices or num_samples > 1:
        return None
    return (
        "this posterior makes discrete choices (Metropolis), and with `loss.num_samples: 1` the "
        "gradient has no baseline and a large variance; take 2 samples or more"
    )


def score_term(signal: Tensor, log_choice: Tensor) -> Tensor:
    """Σ_s signal_s log_choice_s (B,) with this gradient but of value zero; both (S, B).

    Added to a bound it gives the part of its gradient that goes through discrete choices: a draw
    with a good ``signal``, which is a constant, makes its choices likelier. A signal less a
    baseline of the other samples keeps the mean and has less variance (Mnih and Rezende 2016,
    arXiv 1602.06725).
    """
    return (signal.detach() * (log_choice - log_choice.detach())).sum(0)


def with_constant(model: GenerativeModel, stages: Iterable[Stage]) -> list[Stage]:
    """All stages, drawn while the model is a constant: the forces it exerts do not train it.

    A compiler cannot trace it; callers wrap it in ``torch.compiler.disable``.
    """
    with frozen(model):
        return list(stages)


def by_position(log_density: LogDensity, z: Tensor) -> Tensor:
    """log_density(z) (S, B) as a function of z (S, B, D) alone; all else in it is constant.

    Its gradient is taken at once, so that none is computed for the weights of a decoder. Not
    traced: a compiled function's backward pass computes them all.
    """
    if not torch.is_grad_enabled():
        return log_density(z)
    at = z.detach().requires_grad_()
    value = log_density(at)
    (score,) = torch.autograd.grad(value.sum(), at)
    return value.detach() + (score * (z - at.detach())).sum(-1)


def trial_context(posterior: Chain) -> Tensor:
    """Context (1, P) of a fresh datum, of the type of the posterior's weights, to try it out."""
    context = posterior.initial_context()[None]
    return context.to(next(posterior.parameters(), context))


Weight = float | Tensor
Annealing = Callable[[LogTerms, Weight], LogTerms]


@dataclass(frozen=True)
class Warmup:
    """What is annealed (which of the terms), by which weight at which epoch.

    ``length`` is the epoch from which the weight stays 1: early stopping counts from there.
    """

    annealing: Annealing
    weight: Callable[[int], float]
    length: float


class Loss(ABC):
    """A bound as a function of model, posterior, x and context; the same for every posterior."""

    warmup: Warmup | None = None
    sees_batches: bool = False
    """Whether the loss of a datum depends on the others of its minibatch."""
    trains_model: bool = True
    """Whether the model's weights get gradients."""
    remembers: bool = False
    """Whether it keeps draws from step to step, as if all data had one posterior."""

    def weight(self, epoch: int) -> float:
        """Warm-up weight at an epoch (counted from 1); 1 without warm-up."""
        return 1.0 if self.warmup is None else self.warmup.weight(epoch)

    def check(self, posterior: Chain) -> None:
        """Raise ValueError where the loss does not apply to ``posterior``."""
        posterior.check_independent()

    def caution(self, posterior: Chain) -> str | None:
        """What a person should know who trains ``posterior`` by this loss; None: nothing."""
        return None

    @abstractmethod
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """The bound for x (B, C, H, W) and context (B, P); ``weight`` is the warm-up's.

        Training steps, which record gradients, return the same names of metrics each time.
        """

    def state(self) -> dict[str, Any]:
        """What it remembers, for ``restore``: tensors, numbers, and mappings of these by name."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - a hook
        """Go on from ``state()``."""

    def annealed(self, terms: LogTerms, weight: Weight) -> LogTerms:
        """The terms as the warm-up changes them; its weight 1 leaves them alone."""
        return terms if self.warmup is None else self.warmup.annealing(terms, weight)


losses: Registry[Loss] = Registry("losses", "models.losses")
warmups: Registry[Warmup] = Registry("warmups", "models.losses")
