"""Losses: the ELBO and IWAE, for every posterior, with warm-up and gradient estimators."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.registry import Registry
from utils.types import Fraction, PositiveInt


class LogTerms(NamedTuple):
    """log p(x|z), log p(z) and log q of the same draws, each (S, B) in nats."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """Log importance weights (S, B): E[exp(log_w)] = p(x)."""
        return self.log_likelihood + self.log_prior - self.log_q


class Bound(NamedTuple):
    """A stochastic lower bound on log p(x), per datum.

    ``loss`` (B,) is for the optimiser only. ``value`` (B,) is the bound itself in nats, larger is
    better, never annealed. ``metrics`` holds further (B,) tensors for people. Only ``loss``
    carries gradients.
    """

    loss: Tensor
    value: Tensor
    metrics: Mapping[str, Tensor]


Weight = float | Tensor
Annealing = Callable[[LogTerms, Weight], Tensor]


def _anneal_entropy(terms: LogTerms, weight: Weight) -> Tensor:
    return terms.log_likelihood + terms.log_prior - weight * terms.log_q


def _anneal_kl(terms: LogTerms, weight: Weight) -> Tensor:
    return terms.log_likelihood + weight * (terms.log_prior - terms.log_q)


ANNEALINGS: Mapping[str, Annealing] = {"entropy": _anneal_entropy, "kl": _anneal_kl}
Anneals = Literal["entropy", "kl"]


@dataclass(frozen=True)
class Warmup:
    """What is annealed (a function of the terms), by which weight at which epoch.

    ``entropy`` scales log q only (Cremer et al. 2018, arXiv 1801.03558); ``kl`` scales
    log p(z) - log q (Bowman et al. 2016, arXiv 1511.06349; Sønderby et al. 2016,
    arXiv 1602.02282). ``length`` is the epoch from which the weight stays 1: early stopping
    counts from there.
    """

    annealing: Annealing
    weight: Callable[[int], float]
    length: float


warmups: Registry[Warmup] = Registry("warmups", "models.losses")


@warmups.register("linear")
def linear_warmup(*, anneals: Anneals = "kl", epochs: PositiveInt) -> Warmup:
    """Weight min(1, epoch / epochs), epochs counted from 1."""
    return Warmup(ANNEALINGS[anneals], lambda epoch: min(1.0, epoch / epochs), epochs)


@warmups.register("cyclical")
def cyclical_warmup(
    *,
    anneals: Anneals = "kl",
    period: PositiveInt,
    num_cycles: PositiveInt = 4,
    ramp: Fraction = 0.5,
) -> Warmup:
    """Linear ramps from 0 to 1 over `ramp` of each period, then 1 (Fu et al. 2019, 1903.10145)."""
    length = period * num_cycles

    def weight(epoch: int) -> float:
        position = ((epoch - 1) % period + 1) / period  # (0, 1] within the cycle
        return 1.0 if epoch > length or position >= ramp else position / ramp

    return Warmup(ANNEALINGS[anneals], weight, length)


class Loss(ABC):
    """A bound as a function of model, posterior, x and context; the same for every posterior."""

    warmup: Warmup | None = None

    def weight(self, epoch: int) -> float:
        """Warm-up weight at an epoch (counted from 1); 1 without warm-up."""
        return 1.0 if self.warmup is None else self.warmup.weight(epoch)

    @abstractmethod
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """The bound for x (B, C, H, W) and context (B, P); ``weight`` is the warm-up's."""

    def _annealed(self, terms: LogTerms, weight: Weight) -> Tensor:
        return terms.log_w if self.warmup is None else self.warmup.annealing(terms, weight)


losses: Registry[Loss] = Registry("losses", "models.losses")


def _draw(
    model: GenerativeModel,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    num_samples: int,
    stop_score: bool,
) -> tuple[LogTerms, Tensor]:
    """Terms of S draws, and the base's draw z0 (S, B, D), the way to its context's gradient."""
    stages = list(
        posterior.stages(context, model.log_joint(x), num_samples, stop_score=stop_score)
    )
    z, log_q = stages[-1].state.z, stages[-1].log_q
    return LogTerms(model.log_likelihood(x, z), model.log_prior(z), log_q), stages[0].state.z


def _metrics(terms: LogTerms) -> Mapping[str, Tensor]:
    kl = (terms.log_q - terms.log_prior).mean(0)
    return {"log_likelihood": terms.log_likelihood.mean(0), "kl": kl}


@losses.register("elbo")
class ELBO(Loss):
    """Evidence lower bound E_q[log p(x, z) - log q(z|x)], mean of S samples.

    Args:
        num_samples: S.
        gradient: ``plain``, or ``stl`` ("sticking the landing", Roeder et al. 2017,
            arXiv 1703.09194): without the base's score, whose mean is zero; its variance vanishes
            where a Gaussian q meets the posterior.
        warmup: what to anneal, and how.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 1,
        gradient: Literal["plain", "stl"] = "plain",
        warmup: Annotated[Warmup, warmups] | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient == "stl"
        self.warmup = warmup

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        terms, _ = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        loss = -self._annealed(terms, weight).mean(0)
        with torch.no_grad():
            return Bound(loss, terms.log_w.mean(0), _metrics(terms))


@losses.register("iwae")
class IWAE(Loss):
    """Importance-weighted bound log (1/S) Σ_s w_s of S samples (Burda et al. 2016, 1509.00519).

    Args:
        num_samples: S.
        gradient: ``plain`` backpropagation; ``stl`` drops the base's score (biased for S > 1);
            ``dreg`` (doubly reparameterised, Tucker et al. 2018, arXiv 1810.04152, eq. 8) is
            unbiased and its signal-to-noise ratio grows with S. Both concern the base's context;
            decoder and transitions keep the ordinary gradient.
        warmup: what to anneal, and how.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 50,
        gradient: Literal["plain", "stl", "dreg"] = "plain",
        warmup: Annotated[Warmup, warmups] | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient != "plain"
        self.square_weights = gradient == "dreg"
        self.warmup = warmup

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        terms, z0 = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        annealed = self._annealed(terms, weight)  # (S, B)
        # d/dφ log Σ w = Σ w̃ dlog w/dφ, so this loss has IWAE's gradient; `value` has its value.
        normalised = annealed.detach().softmax(0)
        if self.square_weights and z0.requires_grad:
            z0.register_hook(lambda gradient: gradient * normalised[..., None])
        loss = -(normalised * annealed).sum(0)
        with torch.no_grad():
            value = torch.logsumexp(terms.log_w, 0) - math.log(self.num_samples)
            return Bound(loss, value, _metrics(terms))
