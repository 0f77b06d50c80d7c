"""bf16 arithmetic, for what a result does not depend on.

Processors with bf16 units, and GPUs, multiply bf16 matrices several times as fast as float32 ones,
and move half the bytes. Where that is allowed is decided by mathematics:

- *forces* inside a trajectory, yes: leapfrog steps with any deterministic force are reversible
  and keep volume, so a Metropolis move by the exact energies of both ends leaves its target
  invariant, and weights stay exact. A bad force costs acceptance, never correctness;
- *values*, never: energies, weights and bounds, nor the training of a model. The bound of an
  image in bf16 is off by some hundredths of a nat.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

Precision = Literal["exact", "auto"]

PROCESSORS = ("amx_bf16", "avx512_bf16")  # what a processor must have one of
SMALLEST_CAPABILITY = (8, 0)  # of GPUs with bf16 units


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` computes faster in bf16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= SMALLEST_CAPABILITY
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(has.get(name, False) for name in PROCESSORS)


def in_bf16(function: Callable[P, T], device: torch.device) -> Callable[P, T]:
    """``function`` by autocast: its float32 products in bf16, and what follows from them.

    Elsewhere, and in float64, it computes as before.
    """

    @functools.wraps(function)
    def narrow(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return function(*args, **kwargs)

    return narrow
