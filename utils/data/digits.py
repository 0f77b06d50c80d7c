"""scikit-learn's bundled digits: the data set that needs no network."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.data.base import Data, DataError, Dataset, datasets
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.files import Bytes, digest

SIDE = 8
WHITE = 16
SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
"""Of the unpacked table: 1,797 rows of 64 pixels and a label."""

SPLIT_SEED = 1797


class SplitSizes(NamedTuple):
    """How many images each split takes of the shuffled 1,797."""

    train: int = 1297
    validation: int = 250
    test: int = 250


@datasets.register("digits")
class Digits(Dataset):
    """Handwritten digits, 8×8 grey, 1,297 + 250 + 250 (Alpaydin and Kaynak 1998).

    scikit-learn's bundled copy. Its rows go writer by writer, so they are shuffled, by a seed of
    the data set's own, before they are split.
    """

    name = "digits"

    def __init__(self, *, binarisation: Binarisation = "dynamic") -> None:
        check_binarisation(binarisation)
        self.binarisation: Binarisation = binarisation

    def load(self) -> Data:
        """Read the table, shuffle, split, binarise."""
        table = _read_table()
        images = torch.from_numpy(table[:, :-1]).float().div_(WHITE).view(-1, 1, SIDE, SIDE)
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        order = torch.rand(len(images), generator=generator).argsort(stable=True)
        sizes = SplitSizes()
        parts = images[order].split(list(sizes))
        splits = dict(zip(sizes._fields, parts, strict=True))
        return binarise(splits, self.binarisation, SHA256)


def _read_table() -> Bytes:
    """Pixels and label (1797, 65), without importing scikit-learn, which takes a second."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: needs scikit-learn. Get it with: pip install scikit-learn")
    path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    if (found := digest(text)) != SHA256:
        raise _damaged(path, f"wrong content: sha256 {found}, expected {SHA256}")
    return np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8)


def _damaged(path: Path, problem: str) -> DataError:
    command = "pip install --force-reinstall scikit-learn"
    return DataError(f"digits: {path}: {problem}. Get it with: {command}")
