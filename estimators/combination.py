"""Several unbiased estimates of p(x) as one, with weights that do not select on their noise.

An estimate that is weighted by its own value or by its own error leans: the largest of several
lies above p(x), and the draws that look least noisy are those that missed a tail. So each
estimator tells what each of two independent halves A and B of its draws gives, and the weights
that half A suggests are used on half B, and the other way round.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_ERROR = 1e-6  # nats; rounding hides what lies below, so constant weights share evenly


class Combination(NamedTuple):
    """One estimate a datum: log p̂(x) (B,), its standard error (B,), and shares (E, B).

    ``weight`` is the mean over halves of what each estimator was weighted with; it sums to 1.
    """

    log_px: Tensor
    standard_error: Tensor
    weight: Tensor


def combine(values: Tensor, errors: Tensor, reliable: Tensor | None = None) -> Combination:
    """Combine E estimators by cross-fitting: p̂ = ½ Σ_e (w_A,e p̂_B,e + w_B,e p̂_A,e).

    w_A,e is proportional to 1 / (relative variance of p̂_A,e) and sums to one. It is independent of
    half B, so E[p̂] = p(x) exactly and E[log p̂] <= log p(x), whatever the errors are worth. The
    standard error is the delta method's, given the weights.

    An estimator has no weight where one of its values is NaN or +inf (it is not available), or
    where its error is unknown (NaN), infinite or unreliable in the half that the weights are of
    (unless that is so of all available ones). Minus infinity is an estimate: p̂ = 0. Errors below
    ``SMALLEST_ERROR``, such as those of constant weights, count alike.

    Args:
        values: log p̂ (E, 2, B) in nats, of E estimators' halves A and B.
        errors: their standard errors (E, 2, B): the relative ones of p̂.
        reliable: whether each error can be believed (E, 2, B), by its own half alone; None: all.

    Returns:
        NaN for a datum without any estimate; the standard error is infinite where none is known.
    """
    values, errors = values.double(), errors.double()
    available = (values < math.inf).all(1, keepdim=True).expand_as(values)  # false for NaN
    judged = available & errors.isfinite()
    for condition in (judged, judged if reliable is None else judged & reliable.bool()):
        available = torch.where(condition.any(0), condition, available)
    precision = errors.nan_to_num(posinf=0.0).clamp_min(SMALLEST_ERROR).square().reciprocal()
    precision = torch.where(judged, precision, 1.0) * available
    weights = (precision / precision.sum(0)).flip(1)  # those of half A stand at half B
    used = weights > 0
    terms = (weights.log() + values - math.log(2)).masked_fill(~used, -math.inf)
    log_px = terms.flatten(0, 1).logsumexp(0)
    parts = ((terms - log_px).exp() * errors).nan_to_num(nan=math.inf).masked_fill(~used, 0.0)
    nothing = weights.isnan().any(1).any(0)
    return Combination(
        log_px.masked_fill(nothing, math.nan),
        parts.square().sum((0, 1)).sqrt().masked_fill(nothing, math.nan),
        weights.mean(1),
    )
