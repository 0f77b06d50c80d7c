"""Bounds that take every posterior: the ELBO and IWAE, with several gradient estimators."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.losses.free_bits import free_bits_of
from models.losses.protocol import (
    Bound,
    LogTerms,
    Loss,
    Warmup,
    Weight,
    caution_of_choices,
    losses,
    score_term,
    stat_metrics,
    stats_of,
    warmups,
)
from models.posteriors.chain import Chain
from models.posteriors.protocol import Stage
from utils.seeding import isolated
from utils.types import PositiveFloat, PositiveInt


def _draw(
    model: GenerativeModel,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    num_samples: int,
    stop_score: bool,
) -> list[Stage]:
    """All stages of S draws: the first is the base's, the last is the draw."""
    return list(posterior.stages(context, model.log_joint(x), num_samples, stop_score=stop_score))


@losses.register("elbo")
class ELBO(Loss):
    """Evidence lower bound E_q[log p(x, z) - log q(z|x)], mean of S samples.

    Args:
        num_samples: S.
        gradient: ``plain``, or ``stl`` ("sticking the landing", Roeder et al. 2017,
            arXiv 1703.09194): without the base's score, whose mean is zero; its variance vanishes
            where a Gaussian q meets the posterior.
        entropy: null takes log q as drawn; ``analytic`` puts the mean in place of what is known
            of it, the entropies of base, partners and momenta (Caterini et al. 2018,
            arXiv 1805.11328). It has the same mean and gradients, and the smaller variance while
            q is much narrower than the posterior; near the optimum it has the larger one.
        warmup: what to anneal, and how.
        free_bits: nats of the base's KL to N(0, I) that are free, of each dimension, or of each
            group of ``free_bits_group`` of them (Kingma et al. 2016, arXiv 1606.04934).
        free_bits_group: null: 1.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 1,
        gradient: Literal["plain", "stl"] = "plain",
        entropy: Literal["analytic"] | None = None,
        warmup: Annotated[Warmup, warmups] | None = None,
        free_bits: PositiveFloat | None = None,
        free_bits_group: PositiveInt | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient == "stl"
        self.analytic = entropy == "analytic"
        self.warmup = warmup
        self.free_bits = free_bits_of(free_bits, free_bits_group)
        self.sees_batches = self.free_bits is not None

    def check(self, posterior: Chain) -> None:
        """Raise ValueError for what needs a base with a known entropy, or independent numbers."""
        if self.free_bits is not None:
            self.free_bits.check(posterior)
        if not self.analytic:
            return
        with isolated(seed=0), torch.no_grad():
            context = posterior.initial_context()[None]
            first = next(posterior.stages(context, lambda z: z.sum(-1)))
        if first.excess is None:
            name = type(posterior.base).__name__
            raise ValueError(
                f"`entropy: analytic` needs a base whose entropy is known; that of {name} is not; "
                f"leave the option out"
            )

    def caution(self, posterior: Chain) -> str | None:
        """See ``Loss``."""
        return caution_of_choices(posterior, self.num_samples)

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        stages = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        last, stats = stages[-1], stats_of(stages)
        if self.analytic:
            assert last.excess is not None
            last = last._replace(log_q=last.log_q - last.excess)
        terms, log_choice = LogTerms.of(model, x, last), last.log_choice
        annealed = self.annealed(terms, weight)  # (S, B)
        loss = -annealed.mean(0)
        if log_choice is not None:
            loss = loss - score_term(_less_others(annealed) / self.num_samples, log_choice)
        own = context.detach() if self.stop_score else context
        loss = loss + self.refund(posterior, stages[0], own, weight)
        with torch.no_grad():
            metrics = {**terms.metrics(), **stat_metrics(stats)}
            return Bound(loss, terms.log_w.mean(0), metrics, stats)

    def refund(
        self, posterior: Chain, first: Stage, context: Tensor, weight: Weight
    ) -> Tensor | float:
        """What is free of the loss (B,), for the base's draws ``first``."""
        if self.free_bits is None:
            return 0.0
        return self.free_bits.refund(posterior, first, context, self.annealed, weight)


def _less_others(log_w: Tensor) -> Tensor:
    """Each of log_w (S, B) less the mean of the others of its datum; one alone stays as it is."""
    num_samples = len(log_w)
    if num_samples == 1:
        return log_w
    return (log_w - log_w.mean(0)) * (num_samples / (num_samples - 1))


def _gain(log_w: Tensor) -> Tensor:
    """What each of log_w (S, B) adds to log (1/S) Σ w: the bound less that of the others."""
    num_samples = len(log_w)
    if num_samples == 1:
        return log_w
    bound = log_w.logsumexp(0) - math.log(num_samples)
    own = torch.eye(num_samples, dtype=torch.bool, device=log_w.device)[..., None]
    others = log_w.expand(num_samples, *log_w.shape).masked_fill(own, -math.inf).logsumexp(1)
    return bound - (others - math.log(num_samples - 1))


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

    def check(self, posterior: Chain) -> None:
        """Raise ValueError for ``dreg`` with a posterior that makes discrete choices."""
        if self.square_weights and posterior.makes_choices:
            raise ValueError(
                "`gradient: dreg` is for reparameterised draws, and this posterior makes discrete "
                "choices (Metropolis); take `plain`"
            )

    def caution(self, posterior: Chain) -> str | None:
        """See ``Loss``."""
        return caution_of_choices(posterior, self.num_samples)

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        stages = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        terms, stats = LogTerms.of(model, x, stages[-1]), stats_of(stages)
        z0, log_choice = stages[0].state.z, stages[-1].log_choice
        annealed = self.annealed(terms, weight)  # (S, B)
        # d/dφ log Σ w = Σ w̃ dlog w/dφ, so this loss has IWAE's gradient; `value` has its value.
        normalised = annealed.detach().softmax(0)
        if self.square_weights and z0.requires_grad:
            z0.register_hook(lambda gradient: gradient * normalised[..., None])
        # A draw of weight 0 among others adds nothing, where 0 times -inf would be NaN.
        loss = -(normalised * annealed).masked_fill(normalised == 0, 0.0).sum(0)
        if log_choice is not None:
            loss = loss - score_term(_gain(annealed), log_choice)
        with torch.no_grad():
            value = torch.logsumexp(terms.log_w, 0) - math.log(self.num_samples)
            metrics = {**terms.metrics(), **stat_metrics(stats)}
            return Bound(loss, value, metrics, stats)
