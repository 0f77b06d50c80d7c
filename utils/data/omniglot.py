"""OMNIGLOT at 28×28."""

from __future__ import annotations

import lzma
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from utils.data.base import Data, check_validation_size, datasets, hold_out
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.cached import CachedImages
from utils.data.files import Bytes, combined_digest, digest

RAW_SIDE, SIDE = 105, 28
WHOLE = 15**2
"""A side of 105 has 420 quarters, 15 a pixel of 28: so a pixel covers 15² of them."""

COVER = np.eye(RAW_SIDE, dtype=np.float32).repeat(4, axis=0).reshape(SIDE, 15, RAW_SIDE).sum(1)
"""Quarters (28, 105) that a pixel takes of each original row or column."""

NUM_IMAGES = {"images_background": 19_280, "images_evaluation": 13_180}

SHA256 = {
    "images_background": "67b0eca8d5667c6d32d9d249b8f6fb0af51ce51e9a689951a997abf04b1a2032",
    "images_evaluation": "41d64d1bb910794b89d784e1990ddfb32e74cd76b0b85c8edfc73f2fb21a7889",
}
"""Of the covered quarters, (N, 28, 28) bytes, in the order of the file names."""

SHUFFLE_SEED = 1623

ValidationSize = Annotated[int, Ge(0), Lt(19_280)]


@datasets.register("omniglot")
class Omniglot(CachedImages):
    """Handwritten characters, 28×28 grey, 19,280 + 13,180 (Lake, Salakhutdinov, Tenenbaum 2015).

    torchvision's drawings of 105×105, ink 1 on paper 0, averaged over the area of each of the
    28×28 pixels. Train are the 30 background alphabets, test the 20 evaluation alphabets, each
    shuffled by a seed of the data set's own, as the files go by alphabet; validation takes the
    last ``validation_size`` of train.

    This is *not* the data of the IWAE paper (Burda et al. 2016, arXiv 1509.00519): 24,345 + 8,070
    of the same drawings, where every alphabet is in train and in test. Which drawing is where,
    and how it was made smaller, only the authors' file chardata.mat says. Figures are not
    comparable: here the test alphabets are new to the model.

    Files: the folder omniglot-py (torchvision's layout) or omniglot-py.tar.xz, which holds it.
    """

    name = "omniglot"
    folder = "omniglot-py"
    packed = "omniglot-py.tar.xz"
    archive = "omniglot_28.npz"
    part_names = tuple(NUM_IMAGES)

    def __init__(
        self,
        *,
        root: str | None = None,
        binarisation: Binarisation = "dynamic",
        validation_size: ValidationSize = 1_345,
    ) -> None:
        super().__init__(root)
        check_binarisation(binarisation)
        check_validation_size(validation_size, NUM_IMAGES["images_background"])
        self.binarisation: Binarisation = binarisation
        self.validation_size = validation_size

    def load(self) -> Data:
        """Read, shuffle, split, binarise."""
        train, test = (_to_shuffled_images(pixels) for pixels in self.read(self.root).values())
        splits = hold_out(train, self.validation_size)
        checksum = combined_digest(SHA256.values())
        return binarise(splits | {"test": test}, self.binarisation, checksum)

    def decode(self, root: Path) -> dict[str, Bytes]:
        """Covered quarters (N, 28, 28), 0 to 225, of every drawing in the order of the names."""
        unpacked = all((root / self.folder / part).is_dir() for part in NUM_IMAGES)
        if unpacked or not (root / self.packed).is_file():
            return self._decode_folder(root)
        with tempfile.TemporaryDirectory() as aside:
            self._unpack(root / self.packed, Path(aside))
            return self._decode_folder(Path(aside))

    def _unpack(self, packed: Path, target: Path) -> None:
        try:
            with tarfile.open(packed) as archive:
                archive.extractall(target, filter="data")
        except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
            raise self.error(packed, f"damaged or no such archive ({error})") from error

    def _decode_folder(self, root: Path) -> dict[str, Bytes]:
        return {
            part: self._decode_part(root / self.folder / part, num_images)
            for part, num_images in NUM_IMAGES.items()
        }

    def _decode_part(self, folder: Path, num_images: int) -> Bytes:
        paths = sorted(folder.glob("*/*/*.png"))
        if not paths:
            raise self.error(folder, "not found")
        if len(paths) != num_images:
            raise self.error(folder, f"{len(paths):,} drawings, expected {num_images:,}")
        return np.stack([self._shrink(path) for path in paths])

    def _shrink(self, path: Path) -> Bytes:
        from PIL import Image  # here, because only the first start needs it

        try:
            with Image.open(path) as image:
                if image.size != (RAW_SIDE, RAW_SIDE) or image.mode != "1":
                    raise ValueError(f"{image.size} {image.mode}, expected 105×105 of one bit")
                ink = 1 - np.asarray(image, dtype=np.float32)
        except Exception as error:  # Pillow fails on damage in a dozen ways
            raise self.error(path, f"damaged or no such drawing ({error})") from error
        return (COVER @ ink @ COVER.T).astype(np.uint8)  # whole numbers, so exact

    def verify(self, path: Path, parts: dict[str, Bytes]) -> None:
        """Compare the pixels' SHA-256."""
        for part, quarters in parts.items():
            self.check(path, digest(quarters.data), SHA256[part])

    def fetch_files(self, root: Path) -> None:
        """Let torchvision fetch, check and unpack."""
        import torchvision  # here, because importing it takes a second

        for background in (True, False):
            torchvision.datasets.Omniglot(root, background=background, download=True)


def _to_shuffled_images(quarters: Bytes) -> Tensor:
    images = torch.from_numpy(quarters).view(-1, 1, SIDE, SIDE)
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    order = torch.rand(len(images), generator=generator).argsort(stable=True)
    return images[order].float().div_(WHOLE)  # (N, 1, 28, 28)
