"""Random streams: what draws from one never changes what another draws.

Every stream's seed is derived from the run's seed and the stream's name, so that evaluating more
often, or resuming, leaves training noise and data order as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream ``names`` of a run with ``seed``."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(size: int, seed: int, device: torch.device) -> Tensor:
    """A random order of ``range(size)``; depends on nothing but its arguments."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator).to(device)


def get_state() -> dict[str, Tensor]:
    """State of the global generators, as tensors that a checkpoint can hold."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_state(state: Mapping[str, Tensor]) -> None:
    """Restore what ``get_state`` returned (a state taken without a GPU leaves the GPU's alone)."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Draw from a stream of its own inside the block; the global stream goes on untouched."""
    before = get_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_state(before)
