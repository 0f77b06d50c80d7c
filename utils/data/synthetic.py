"""Data drawn from a law that is known."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from utils.data.base import Data, Dataset
from utils.seeding import derive

MAX_NUMBERS = 10**9
"""Of a data set that is drawn in memory."""


def check_count(count: int) -> None:
    """Raise ValueError for more than ``MAX_NUMBERS``."""
    if count > MAX_NUMBERS:
        raise ValueError(f"{count:,} numbers are more than {MAX_NUMBERS:,}; take fewer data")


class Synthetic(Dataset):
    """Splits of given sizes, each fixed by ``data_seed`` on its own.

    So more training data leaves the test data as it is. Unlike images, x is not confined to
    [0, 1]. Raises ValueError for more than ``MAX_NUMBERS``.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int, data_seed: int) -> None:
        check_count(dim * sum(sizes.values()))
        self._sizes, self._data_seed = sizes, data_seed

    @abstractmethod
    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw x (N, dim)."""

    def load(self) -> Data:
        """Draw the splits, float32 (N, 1, 1, dim); one of size 0 is left out."""
        splits = {name: self._split(name, size) for name, size in self._sizes.items() if size > 0}
        content = hashlib.sha256()
        for x in splits.values():
            content.update(x.numpy().data)
        return Data(splits, "none", content.hexdigest())

    def _split(self, name: str, size: int) -> Tensor:
        x = self.draw(size, make_generator(self._data_seed, self.name, name))
        return x.float().view(size, 1, 1, -1)


def make_generator(data_seed: int, dataset: str, part: str) -> torch.Generator:
    """The stream of a part of a data set."""
    return torch.Generator().manual_seed(derive(data_seed, dataset, part))


def randn(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal draws, in float64.

    So that what another machine's vector units round otherwise is rounded off in float32.
    """
    return torch.randn(shape, generator=generator, dtype=torch.float64)
