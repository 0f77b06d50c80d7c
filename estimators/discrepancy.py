"""How far draws are from a target's: mean discrepancy, optimal transport, and covered modes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """The median distance (B,) between points of both samples (S, B, D) and (T, B, D)."""
    pooled = torch.cat([x, y]).movedim(1, 0)  # (B, S + T, D)
    distances = torch.cdist(pooled, pooled)
    size = distances.shape[-1]
    rows, columns = torch.triu_indices(size, size, offset=1)
    return distances[:, rows, columns].median(-1).values


def mmd2(x: Tensor, y: Tensor, bandwidth: Tensor) -> Tensor:
    """The squared maximum mean discrepancy (B,) of the kernel exp(-‖x - y‖² / 2h²), unbiased.

    Of samples (S, B, D) and (T, B, D), h = ``bandwidth`` (B,). Its mean is zero where both are of
    one law, so that it may be negative (Gretton et al. 2012, Lemma 6).
    """
    first, second = x.movedim(1, 0), y.movedim(1, 0)
    scale = (2 * bandwidth.square())[:, None, None]

    def mean(a: Tensor, b: Tensor, *, less: int) -> Tensor:
        kernel = (-torch.cdist(a, b).square() / scale).exp()
        pairs = a.shape[1] * (b.shape[1] - (less > 0))
        return (kernel.double().sum((-1, -2)) - less) / pairs  # k(x, x) = 1

    own = mean(first, first, less=len(x)) + mean(second, second, less=len(y))
    return own - 2 * mean(first, second, less=0)


def sinkhorn_divergence(
    x: Tensor, y: Tensor, epsilon: Tensor, *, tolerance: float = 0.02, max_steps: int = 1000
) -> Tensor:
    """OT_ε(x, y) - ½ OT_ε(x, x) - ½ OT_ε(y, y) (B,), in squared units of z.

    Of samples (S, B, D) and (T, B, D) with the cost ‖x - y‖²; OT_ε = min_P <P, cost> + ε KL(P ‖
    even weights), ε = ``epsilon`` (B,). Between the squared 2-Wasserstein distance (ε -> 0) and
    that of the means (ε -> ∞) (Genevay et al. 2018, arXiv 1706.00292; Feydy et al. 2019,
    arXiv 1810.08278). Of two samples of one law it is above zero, and more so in high dimension.

    Sinkhorn's steps end when none gains more than ``tolerance`` ε, and NaN stands where they are
    cut off.
    """
    ends = x.movedim(1, 0), y.movedim(1, 0)

    def cost(first: int, second: int) -> Tensor:
        return _transport_cost(ends[first], ends[second], epsilon, tolerance, max_steps)

    return cost(0, 1) - 0.5 * (cost(0, 0) + cost(1, 1))


def _transport_cost(
    x: Tensor, y: Tensor, epsilon: Tensor, tolerance: float, max_steps: int
) -> Tensor:
    """OT_ε (B,) of x (B, S, D) and y (B, T, D) by its dual, which rises with every step.

    ε falls to its value by halves (Schmitzer 2019, arXiv 1610.06519), in the log domain.
    """
    cost = torch.cdist(x, y).square()
    f, last = torch.zeros_like(cost[..., 0]), torch.full_like(epsilon, -math.inf)
    scale = cost.amax((1, 2)).maximum(epsilon)
    for _ in range(max_steps):
        scale = (0.5 * scale).maximum(epsilon)
        s = scale[:, None]
        g = s * (math.log(x.shape[1]) - ((f[..., None] - cost) / s[..., None]).logsumexp(1))
        f = s * (math.log(y.shape[1]) - ((g[:, None] - cost) / s[..., None]).logsumexp(2))
        dual = f.mean(-1) + g.mean(-1)
        done = (scale == epsilon) & (dual - last <= tolerance * epsilon)
        if done.all():
            break
        last = torch.where(scale == epsilon, dual, last)
    return torch.where(done, dual, math.nan)


def mode_coverage(modes: Tensor, num_modes: int) -> Tensor:
    """The entropy of how often each of M modes (S, B) is met, in units of log M: 1 is all alike.

    The "entropic mode coverage" of Blessing et al. 2024 (arXiv 2406.07423), for modes of equal
    weights. 1 where there is one mode.
    """
    counts = torch.nn.functional.one_hot(modes, num_modes).double().mean(0)  # (B, M)
    entropy = torch.special.entr(counts).sum(-1)
    return entropy / math.log(num_modes) if num_modes > 1 else torch.ones_like(entropy)
