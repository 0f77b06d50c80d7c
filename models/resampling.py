"""Systematic resampling: which particles go on."""

from __future__ import annotations

import torch
from torch import Tensor


def systematic(weights: Tensor) -> Tensor:
    """The ancestor (S, B) of each of S particles a datum, for normalised weights (S, B).

    One uniform number a datum and S places at equal distances, so that a particle of weight w has
    S w heirs, rounded up or down, and S w in the mean (Kitagawa 1996). One of weight 0 has none.
    """
    size = len(weights)
    own = torch.arange(size, device=weights.device)[:, None]
    positions = (own + torch.rand_like(weights[:1])) / size  # (S, B)
    # Sums are rounded: by their own end, above 0, no position lies where nothing weighs.
    sums = weights.cumsum(0)
    positions = (positions * sums[-1]).clamp_min(torch.finfo(weights.dtype).tiny)
    heirs = torch.searchsorted(sums.T.contiguous(), positions.T.contiguous()).T
    return heirs.clamp_max(size - 1)
