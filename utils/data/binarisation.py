"""From grey images to what a likelihood of binary pixels may see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from utils.data.base import SPLITS, Data, DataError, bernoulli

Binarisation = Literal["static", "dynamic", "threshold", "none"]

SEED = 1812
"""Seed of the fixed draws; the splits use SEED, SEED + 1, SEED + 2. A change changes the data."""


class Method(NamedTuple):
    """How a binarisation makes fixed splits, and whether training images are redrawn."""

    fix: Callable[[Tensor, int], Tensor]
    redrawn: bool = False


def _draw(intensities: Tensor, seed: int) -> Tensor:
    return bernoulli(intensities, torch.Generator().manual_seed(seed))


def _threshold(intensities: Tensor, seed: int) -> Tensor:
    return (intensities >= 0.5).to(intensities.dtype)


def _keep(intensities: Tensor, seed: int) -> Tensor:
    return intensities


METHODS: Mapping[str, Method] = {
    "static": Method(_draw),
    "dynamic": Method(_draw, redrawn=True),
    "threshold": Method(_threshold),
    "none": Method(_keep),
}


def check_binarisation(binarisation: str) -> None:
    """Raise ValueError unless there is such a binarisation."""
    if binarisation not in METHODS:
        raise ValueError(
            f"`binarisation` must be one of {', '.join(METHODS)}; got {binarisation!r}"
        )


def binarise(intensities: Mapping[str, Tensor], binarisation: Binarisation, checksum: str) -> Data:
    """Binarise grey splits (N, C, H, W) in [0, 1].

    ``static``: one Bernoulli draw, its seed fixed here and not by the run. ``dynamic``: training
    batches are drawn afresh, every split is *evaluated* on its static draw. ``threshold``:
    intensity >= 1/2. ``none``: grey. Each split has a seed of its own, so that the test images
    do not depend on how many images validation takes.

    Raises DataError for NaN and numbers outside [0, 1], which a draw would hide.
    """
    for name, x in intensities.items():
        low, high = (end.item() for end in x.aminmax())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise DataError(
                f"grey levels must lie between 0 and 1; those of the {name} split go from "
                f"{low:g} to {high:g}"
            )
    method = METHODS[binarisation]
    fixed = {name: method.fix(x, SEED + SPLITS.index(name)) for name, x in intensities.items()}
    return Data(fixed, binarisation, checksum, intensities["train"] if method.redrawn else None)
