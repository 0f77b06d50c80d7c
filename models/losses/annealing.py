"""Warm-ups: what is annealed at the beginning of training, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from models.losses.protocol import Annealing, LogTerms, Warmup, Weight, warmups
from utils.types import Fraction, NonNegativeInt, PositiveInt

Anneals = Literal["entropy", "kl", "alpha", "choices"]


def _entropy(terms: LogTerms, weight: Weight) -> LogTerms:
    """Scale log q only (Cremer et al. 2018, arXiv 1801.03558)."""
    return terms._replace(log_q=weight * terms.log_q)


def _kl(terms: LogTerms, weight: Weight) -> LogTerms:
    """Scale log p(z) - log q (Bowman et al. 2016, 1511.06349; Sønderby et al. 2016, 1602.02282).

    "β-annealing" in Huang et al. 2018 (arXiv 1809.01818).
    """
    return terms._replace(log_prior=weight * terms.log_prior, log_q=weight * terms.log_q)


def _alpha(terms: LogTerms, weight: Weight) -> LogTerms:
    """Scale the whole target log p(x, z) ("α-annealing" in Huang et al. 2018, 1809.01818)."""
    return terms._replace(
        log_likelihood=weight * terms.log_likelihood, log_prior=weight * terms.log_prior
    )


def _choices(terms: LogTerms, weight: Weight) -> LogTerms:
    """Scale the part of the gradient that goes through discrete choices, if there are any.

    "Alpha annealing" in the code of Thin et al. 2021 (arXiv 2106.15921).
    """
    log_choice = None if terms.log_choice is None else weight * terms.log_choice
    return terms._replace(log_choice=log_choice)


ANNEALINGS: Mapping[Anneals, Annealing] = {
    "entropy": _entropy,
    "kl": _kl,
    "alpha": _alpha,
    "choices": _choices,
}


@warmups.register("linear")
def linear_warmup(
    *,
    anneals: Anneals = "kl",
    epochs: PositiveInt,
    start: Fraction = 0.0,
    begin: NonNegativeInt = 0,
) -> Warmup:
    """Weight `start` for `begin` epochs, then a ramp of `epochs` epochs to 1.

    weight = start + (1 - start) min(1, max(0, epoch - begin) / epochs), epochs counted from 1.
    ``anneals`` is ``entropy`` (log q alone), ``kl`` (log p(z) - log q), ``alpha`` (the whole
    target log p(x, z)) or ``choices`` (the score term of posteriors with accept/reject choices).
    """

    def weight(epoch: int) -> float:
        return start + (1 - start) * min(1.0, max(0, epoch - begin) / epochs)

    return Warmup(ANNEALINGS[anneals], weight, begin + epochs)


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
