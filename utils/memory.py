"""Refusing a model that cannot fit before any of it is made."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

BYTES_A_NUMBER = 16
"""Of training in float32: a weight, its gradient and two moments of Adam."""


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MemoryBudget(TorchFunctionMode):
    """Counts the numbers of all tensors made within it, before they are.

    What layers are made of comes from ``torch.empty`` and its kin, whose sizes are known from
    their arguments; asking the system instead may end in a process killed for its memory.

    Raises ValueError, within the block, when training so many would take more than ``num_bytes``.
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes, self._count = num_bytes, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _CONSTRUCTORS:
            self._count += _size(args)
        elif func in _MATRICES:
            self._count += args[0] * args[-1]
        if (needed := self._count * BYTES_A_NUMBER) > self._num_bytes:
            raise ValueError(
                f"training {self._count:,} numbers takes {needed / 1e9:,.0f} GB or more, and this "
                f"machine has {self._num_bytes / 1e9:,.0f} GB; take smaller sizes"
            )
        return func(*args, **(kwargs or {}))


_CONSTRUCTORS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)
_MATRICES = (torch.eye, torch.tril_indices, torch.triu_indices)


def _size(args: Sequence[Any]) -> int:
    """The numbers of a tensor of size ``args``, a tuple or several integers."""
    first = args[0] if args else ()
    return math.prod(args if isinstance(first, int) else first)
