"""Bounds that take every posterior: the ELBO and IWAE, with several gradient estimators."""

from __future__ import annotations

import math
from abc import ABC
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
    with_constant,
)
from models.losses.score_matching import ScoreMatching
from models.posteriors.chain import Chain
from models.posteriors.protocol import Stage
from utils.seeding import isolated
from utils.types import PositiveFloat, PositiveInt


class Sampled(Loss, ABC):
    """A bound of S draws, each by the whole chain.

    Args:
        num_samples: S.
        gradient: ``plain``, or another, which leaves the base's score out.
        warmup: what to anneal, and how.
        constant_forces: whether forces that the model exerts on the way do not train it.
        score_matching: weight of the term that trains a learned score; None: there is no term.
    """

    def __init__(
        self,
        num_samples: int,
        gradient: str,
        warmup: Warmup | None,
        constant_forces: bool,
        score_matching: float | None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient != "plain"
        self.warmup = warmup
        self.constant_forces = constant_forces
        if constant_forces:  # here, not where it is defined: it loads the compiler
            self._with_constant = torch.compiler.disable(with_constant)
        self.score_matching = None
        if score_matching is not None:
            self.score_matching = ScoreMatching(score_matching)
            self._score_error = torch.compiler.disable(self.score_matching.error)

    def check(self, posterior: Chain) -> None:
        """See ``Loss``: raise ValueError for a score to match where there is none, too."""
        super().check(posterior)
        if self.score_matching is not None:
            self.score_matching.check(posterior)

    def caution(self, posterior: Chain) -> str | None:
        """See ``Loss``."""
        return caution_of_choices(posterior, self.num_samples)

    def _draw(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> list[Stage]:
        """All stages of S draws: the first is the base's, the last is the draw."""
        stages = posterior.stages(
            context, model.log_joint(x), self.num_samples, stop_score=self.stop_score
        )
        return self._with_constant(model, stages) if self.constant_forces else list(stages)

    def _terms(self, model: GenerativeModel, x: Tensor, stage: Stage) -> LogTerms:
        return LogTerms.of(model, x, stage, anew=self.constant_forces)

    def _matched(
        self,
        bound: Bound,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        stages: list[Stage],
    ) -> Bound:
        """The bound with the term of score matching in its loss, and ``score_error`` (B,)."""
        if self.score_matching is None:
            return bound
        error = self._score_error(model, posterior, x, context, stages)
        metrics = {**bound.metrics, "score_error": error.detach()}
        loss = bound.loss + self.score_matching.weight * error
        return bound._replace(loss=loss, metrics=metrics)


@losses.register("elbo")
class ELBO(Sampled):
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
        constant_forces: the model learns from log p(x, z) at the draw alone, not through the
            forces that it exerts on a chain on the way there: the cloned decoder in the code of
            Thin et al. 2021 (arXiv 2106.15921). Then its gradient is no longer the bound's.
        score_matching: weight of ‖s - d log p(x, z) / dz‖² at the chain's places, which trains
            the learned score s of a posterior (``score_hidden``); 1 in the code of Thin et al.
            2021, where it is summed over steps, each by its temperature squared.
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
        constant_forces: Literal[True] | None = None,
        score_matching: PositiveFloat | None = None,
        free_bits: PositiveFloat | None = None,
        free_bits_group: PositiveInt | None = None,
    ) -> None:
        super().__init__(num_samples, gradient, warmup, constant_forces is True, score_matching)
        self.analytic = entropy == "analytic"
        self.free_bits = free_bits_of(free_bits, free_bits_group)
        self.sees_batches = self.free_bits is not None

    def check(self, posterior: Chain) -> None:
        """Raise ValueError for what needs a base with a known entropy, or independent numbers."""
        super().check(posterior)
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

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        stages = self._draw(model, posterior, x, context)
        last, stats = stages[-1], stats_of(stages)
        if self.analytic:
            assert last.excess is not None
            last = last._replace(log_q=last.log_q - last.excess)
        terms = self._terms(model, x, last)
        annealed = self.annealed(terms, weight)
        log_w, log_choice = annealed.log_w, annealed.log_choice  # (S, B)
        loss = -log_w.mean(0)
        if log_choice is not None:
            loss = loss - score_term(_less_others(log_w) / self.num_samples, log_choice)
        own = context.detach() if self.stop_score else context
        loss = loss + self.refund(posterior, stages[0], own, weight)
        with torch.no_grad():
            metrics = {**terms.metrics(), **stat_metrics(stats)}
            bound = Bound(loss, terms.log_w.mean(0), metrics, stats)
        return self._matched(bound, model, posterior, x, context, stages)

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
class IWAE(Sampled):
    """Importance-weighted bound log (1/S) Σ_s w_s of S samples (Burda et al. 2016, 1509.00519).

    Args:
        num_samples: S.
        gradient: ``plain`` backpropagation; ``stl`` drops the base's score (biased for S > 1);
            ``dreg`` (doubly reparameterised, Tucker et al. 2018, arXiv 1810.04152, eq. 8) is
            unbiased, in a warm-up, too, and without one its signal-to-noise ratio grows with S.
            Both concern the base's context; decoder and transitions keep the ordinary gradient.
        warmup: what to anneal, and how.
        constant_forces: as of ``elbo``.
        score_matching: as of ``elbo``.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 50,
        gradient: Literal["plain", "stl", "dreg"] = "plain",
        warmup: Annotated[Warmup, warmups] | None = None,
        constant_forces: Literal[True] | None = None,
        score_matching: PositiveFloat | None = None,
    ) -> None:
        super().__init__(num_samples, gradient, warmup, constant_forces is True, score_matching)
        self.square_weights = gradient == "dreg"

    def check(self, posterior: Chain) -> None:
        """Raise ValueError for ``dreg`` with a posterior that makes discrete choices."""
        super().check(posterior)
        if self.square_weights and posterior.makes_choices:
            raise ValueError(
                "`gradient: dreg` is for reparameterised draws, and this posterior makes discrete "
                "choices (Metropolis); take `plain`"
            )

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        stages = self._draw(model, posterior, x, context)
        terms, stats = self._terms(model, x, stages[-1]), stats_of(stages)
        z0, annealed = stages[0].state.z, self.annealed(terms, weight)
        log_w, log_choice = annealed.log_w, annealed.log_choice  # (S, B)
        # d/dφ log Σ w = Σ w̃ dlog w/dφ, so this loss has IWAE's gradient; `value` has its value.
        normalised = log_w.detach().softmax(0)
        if self.square_weights and z0.requires_grad:
            # Of log w the base's score is dropped as often as log q is in it: a warm-up's share.
            ones = torch.ones_like(normalised)
            share = self.annealed(LogTerms(0 * ones, 0 * ones, ones), weight).log_q
            factor = (1 - share) + share * normalised
            z0.register_hook(lambda gradient: gradient * factor[..., None])
        # A draw of weight 0 among others adds nothing, where 0 times -inf would be NaN.
        loss = -(normalised * log_w).masked_fill(normalised == 0, 0.0).sum(0)
        if log_choice is not None:
            loss = loss - score_term(_gain(log_w), log_choice)
        with torch.no_grad():
            value = torch.logsumexp(terms.log_w, 0) - math.log(self.num_samples)
            metrics = {**terms.metrics(), **stat_metrics(stats)}
        bound = Bound(loss, value, metrics, stats)
        return self._matched(bound, model, posterior, x, context, stages)
