"""How many rows a network takes at once: on a CPU no more than its caches hold."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

FEWEST = 500  # below, dispatch costs more than the caches save
USUAL_CACHE = 2**20  # bytes, where the system does not say


def rows_in_cache(x: Tensor) -> int | None:
    """Rows whose outputs, as large as a datum of x (B, ...), a core's own cache holds.

    At least 500; None where there is no limit: on a GPU.
    """
    if x.device.type != "cpu":
        return None
    row = max(1, x[0].numel()) * x.element_size()
    return max(FEWEST, _cache() // row)


def _cache() -> int:
    """Bytes of the second-level cache."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or USUAL_CACHE
    except (AttributeError, ValueError, OSError):  # a system that does not know the name
        return USUAL_CACHE


def in_pieces(
    function: Callable[[Tensor], Tensor], rows: int | None
) -> Callable[[Tensor], Tensor]:
    """``function`` of z (S, B, D), by samples: as many as make ``rows`` rows, at least one."""
    if rows is None:
        return function

    def call(z: Tensor) -> Tensor:
        size = max(1, rows // max(1, z.shape[1]))
        if len(z) <= size:
            return function(z)
        return torch.cat([function(piece) for piece in z.split(size)])

    return call
