"""CelebA, cropped to the face and shrunk to 64×64."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.data.base import Data, datasets
from utils.data.cached import CachedImages
from utils.data.files import Bytes, combined_digest, digest

PARTITION = "list_eval_partition.txt"
PARTITION_MD5 = "d32c9cbf5e040fd4025c592c306e6668"
"""torchvision's. The photographs' own archive is unpacked by then and checked on download only."""

IMAGES = "img_align_celeba"
RAW_SIZE = (178, 218)
FACE = (15, 35, 163, 183)
"""Left, top, right, bottom of the central 148×148."""

SIDE = 64
NUM_IMAGES = {"train": 162_770, "valid": 19_867, "test": 19_962}

LUMA = (19_595, 38_470, 7_471)
"""Parts of R, G, B in 65,536 (ITU-R BT.601), whole so that sums are exact in float32."""


@datasets.register("celeba")
class CelebA(CachedImages):
    """Faces, 64×64 RGB, 162,770 + 19,867 + 19,962 (Liu et al. 2015, arXiv 1411.7766).

    The central 148×148 of the aligned photographs, shrunk bilinearly; the splits are the data
    set's own. ``grey`` takes their luma, one channel. In memory all of it is 10 GB, or 3.3 GB
    grey.

    Pixels depend in the last bit on the JPEG decoder that made the archive; the checksum tells.
    """

    name = "celeba"
    folder = "celeba"
    archive = "celeba_64.npz"
    part_names = tuple(NUM_IMAGES)

    def __init__(self, *, root: str | None = None, grey: bool = False) -> None:
        super().__init__(root)
        self.grey = grey

    def load(self) -> Data:
        """Read, and name the parts as splits; there is no binarisation."""
        parts = self.read(self.root)
        checksum = combined_digest(digest(pixels.data) for pixels in parts.values())
        splits = {
            name: _to_images(parts.pop(part), self.grey)  # one part's bytes are freed in turn
            for part, name in {"train": "train", "valid": "validation", "test": "test"}.items()
        }
        return Data(splits, "none", checksum)

    def decode(self, root: Path) -> dict[str, Bytes]:
        """Pixels (N, 3, 64, 64) of every photograph in the partition's order, on all cores."""
        folder = root / self.folder
        names = self._partition(folder / PARTITION)
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            return {
                part: _stack(pool, self._shrink, [folder / IMAGES / name for name in names[part]])
                for part in NUM_IMAGES
            }

    def _partition(self, path: Path) -> dict[str, list[str]]:
        """File names by part, out of lines such as ``000001.jpg 0``."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise self.error(path, "not found") from None
        except OSError as error:
            raise self.error(path, f"cannot be read ({error.strerror})") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != PARTITION_MD5:
            raise self.error(path, f"wrong content: md5 {found}, expected {PARTITION_MD5}")
        rows = [line.split() for line in content.decode().splitlines()]
        return {
            part: [name for name, number in rows if int(number) == index]
            for index, part in enumerate(NUM_IMAGES)
        }

    def _shrink(self, path: Path) -> Bytes:
        from PIL import Image  # here, because only the first start needs it

        try:
            with Image.open(path) as image:
                if image.size != RAW_SIZE or image.mode != "RGB":
                    raise ValueError(f"{image.size} {image.mode}, expected {RAW_SIZE} RGB")
                # Cropped first: a box given to resize would let its surroundings shine in.
                face = image.crop(FACE).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        except FileNotFoundError:
            raise self.error(path, "not found") from None
        except Exception as error:  # Pillow fails on damage in a dozen ways
            raise self.error(path, f"damaged or no such photograph ({error})") from error
        return np.asarray(face).transpose(2, 0, 1)

    def verify(self, path: Path, parts: dict[str, Bytes]) -> None:
        """Compare sizes; that no bit has changed, the archive's own CRC-32 says."""
        for part, pixels in parts.items():
            expected = (NUM_IMAGES[part], 3, SIDE, SIDE)
            if pixels.shape != expected or pixels.dtype != np.uint8:
                raise self.error(
                    path, f"{part} is {pixels.dtype} {pixels.shape}, expected uint8 {expected}"
                )

    def fetch_files(self, root: Path) -> None:
        """Let torchvision fetch, check and unpack; it needs gdown for that."""
        import torchvision  # here, because importing it takes a second

        try:
            torchvision.datasets.CelebA(root, download=True)
        except Exception as error:  # gdown has exceptions of its own, of no common kind
            raise RuntimeError(str(error)) from error


def _stack(
    pool: ThreadPoolExecutor, shrink: Callable[[Path], Bytes], paths: Sequence[Path]
) -> Bytes:
    pixels = np.empty((len(paths), 3, SIDE, SIDE), dtype=np.uint8)
    for image, face in zip(pixels, pool.map(shrink, paths), strict=True):
        image[...] = face
    return pixels


def _to_images(pixels: Bytes, grey: bool) -> Tensor:
    colours = torch.from_numpy(pixels)  # (N, 3, 64, 64)
    if not grey:
        return colours.float().div_(255)
    luma = torch.zeros(len(colours), 1, SIDE, SIDE)
    for channel, weight in enumerate(LUMA):
        luma.add_(colours[:, channel : channel + 1], alpha=weight)
    return luma.div_(sum(LUMA) * 255)  # (N, 1, 64, 64)
