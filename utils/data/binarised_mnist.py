"""MNIST as binarised once and for all by Larochelle and Murray."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.data.base import Data, datasets
from utils.data.files import Bytes, FileDataset, combined_digest, digest, fetch_url

SOURCE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
CACHE = Path("binarized_mnist", "binarized_mnist.npz")
SIDE = 28


class Part(NamedTuple):
    """SHA-256 of a published text file and of the bytes (N, 784) of 0 and 1 that it says."""

    text_sha256: str
    sha256: str


PARTS = {
    "train": Part(
        "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    ),
    "valid": Part(
        "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    ),
    "test": Part(
        "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
    ),
}


@datasets.register("binarised_mnist")
class BinarisedMNIST(FileDataset):
    """MNIST with fixed binary pixels, 50,000 + 10,000 + 10,000 (Larochelle and Murray 2011).

    ``merge_validation`` trains on all 60,000 and leaves no validation split, as Cremer et al. do
    (2018, arXiv 1801.03558).
    """

    name = "binarised_mnist"

    def __init__(self, *, root: str | None = None, merge_validation: bool = False) -> None:
        super().__init__(root)
        self.merge_validation = merge_validation

    def load(self) -> Data:
        """Read the cache and name its parts as splits."""
        parts = self.read(self.root)
        pixels = {"train": parts["train"], "validation": parts["valid"], "test": parts["test"]}
        if self.merge_validation:
            pixels["train"] = np.concatenate([pixels["train"], pixels.pop("validation")])
        splits = {
            name: torch.from_numpy(x).float().view(-1, 1, SIDE, SIDE) for name, x in pixels.items()
        }
        return Data(
            splits, "larochelle_murray", combined_digest(part.sha256 for part in PARTS.values())
        )

    def read(self, root: Path) -> dict[str, Bytes]:
        """Arrays (N, 784) of 0 and 1 from the cache.

        Their content is checked and not the file, whose bytes depend on what wrote the archive.
        """
        path = root / CACHE
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                parts = {name: np.ascontiguousarray(archive[name]) for name in PARTS}
        except FileNotFoundError:
            raise self.error(path, "not found") from None
        except Exception as error:  # zipfile, zlib and NumPy fail on damage in a dozen ways
            raise self.error(path, f"truncated, damaged or no such archive ({error})") from error
        for name, array in parts.items():
            self.check(path, digest(array.data), PARTS[name].sha256)
        return parts

    def fetch(self, root: Path) -> None:
        """Fetch the published texts and write the cache (parsing the texts takes 13 s a run)."""
        parts = {
            name: _parse(fetch_url(f"{SOURCE}/binarized_mnist_{name}.amat", part.text_sha256))
            for name, part in PARTS.items()
        }
        (root / CACHE).parent.mkdir()
        np.savez_compressed(root / CACHE, allow_pickle=False, **parts)


def _parse(text: bytes) -> Bytes:
    """A line an image: 784 digits, each followed by one space or the line's end."""
    characters = np.frombuffer(text, dtype=np.uint8).reshape(-1, 2 * SIDE**2)
    return characters[:, ::2] - ord("0")  # (N, 784)
