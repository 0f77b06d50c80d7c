"""How far draws are from those of a target: maximum mean discrepancy, and covered modes."""

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


def mode_coverage(modes: Tensor, num_modes: int) -> Tensor:
    """The entropy of how often each of M modes (S, B) is met, in units of log M: 1 is all alike.

    The "entropic mode coverage" of Blessing et al. 2024 (arXiv 2406.07423), for modes of equal
    weights. 1 where there is one mode.
    """
    counts = torch.nn.functional.one_hot(modes, num_modes).double().mean(0)  # (B, M)
    entropy = torch.special.entr(counts).sum(-1)
    return entropy / math.log(num_modes) if num_modes > 1 else torch.ones_like(entropy)
