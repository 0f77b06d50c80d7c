"""CIFAR-10 in either of its published layouts."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor

from utils.data.base import Data, DataError, check_validation_size, datasets, hold_out
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.files import Bytes, FileDataset, combined_digest, digest

SHAPE = (3, 32, 32)
NUM_PIXELS = 3 * 32 * 32
BATCH_SIZE = 10_000
BATCHES = (1, 2, 3, 4, 5)
TEST = "test_batch"

Batches = Annotated[Sequence[Annotated[int, Ge(1), Le(5)]], MinLen(1)]
ValidationSize = Annotated[int, Ge(0), Lt(50_000)]


class Layout(NamedTuple):
    """Where one distribution keeps its batches, how they are checked and read."""

    folder: str
    suffix: str
    algorithm: str
    checksums: Mapping[str, str]
    """By batch, of the whole file: torchvision's MD5s, MXNet's SHA-1s."""
    pixels: Callable[[bytes], Bytes]
    """From a checked file's content to (N, 3072): an image a row, its R, G, B planes in turn."""


def _unpickle(content: bytes) -> Bytes:
    # Safe because the checksum comes first: what is loaded is what was published.
    entries = pickle.loads(content, encoding="latin1")
    return np.ascontiguousarray(entries["data"])


def _from_records(content: bytes) -> Bytes:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + NUM_PIXELS)
    return np.ascontiguousarray(records[:, 1:])  # a record is a label, then the pixels


LAYOUTS = (
    Layout(
        "cifar-10-batches-py",
        "",
        "md5",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            TEST: "40351d587109b95175f43aff81a1287e",
        },
        _unpickle,
    ),
    Layout(
        "cifar-10-batches-bin",
        ".bin",
        "sha1",
        {
            "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            TEST: "67eb016db431130d61cd03c7ad570b013799c88c",
        },
        _from_records,
    ),
)
"""torchvision's comes first, since that is what a download brings to replace a damaged file."""


@datasets.register("cifar10")
class CIFAR10(FileDataset):
    """Small photographs, 32×32 RGB, 50,000 + 10,000 (Krizhevsky 2009).

    ``threshold`` binarises each channel by itself: 3 bits a pixel, as in Cremer et al. (2018,
    arXiv 1801.03558). Validation takes the last ``validation_size`` training images; ``batches``
    says which of the five training files of 10,000 there are to be, in their order.

    Files: cifar-10-batches-py (torchvision's) or, batch by batch, cifar-10-batches-bin. The
    checksum is that of the pixels, the same for both.
    """

    name = "cifar10"

    def __init__(
        self,
        *,
        root: str | None = None,
        binarisation: Binarisation = "threshold",
        validation_size: ValidationSize = 5_000,
        batches: Batches = BATCHES,
    ) -> None:
        super().__init__(root)
        check_binarisation(binarisation)
        if not batches or list(batches) != [n for n in BATCHES if n in batches]:
            raise ValueError(
                f"`batches` must be some of 1 to 5, each once, in order; got {list(batches)}"
            )
        check_validation_size(validation_size, BATCH_SIZE * len(batches))
        self.binarisation: Binarisation = binarisation
        self.validation_size = validation_size
        self.batches = tuple(batches)

    def load(self) -> Data:
        """Read the batches, split, binarise."""
        parts = self.read(self.root)
        checksum = combined_digest(digest(pixels.data) for pixels in parts.values())
        test = _to_images([parts.pop(TEST)])
        splits = hold_out(_to_images(list(parts.values())), self.validation_size)
        return binarise(splits | {"test": test}, self.binarisation, checksum)

    def read(self, root: Path) -> dict[str, Bytes]:
        """Pixels (10,000, 3072) of the training batches asked for and of the test batch."""
        names = [*(_train_batch(number) for number in self.batches), TEST]
        if missing := [name for name in names if _layout(root, name) is None]:
            raise self._missing(root, missing)
        return {name: self._read_batch(root, name) for name in names}

    def _read_batch(self, root: Path, name: str) -> Bytes:
        layout = _layout(root, name)
        assert layout is not None
        path = root / layout.folder / (name + layout.suffix)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self.error(path, f"cannot be read ({error.strerror})") from error
        found = hashlib.new(layout.algorithm, content, usedforsecurity=False).hexdigest()
        if found != (expected := layout.checksums[name]):
            raise self.error(
                path,
                f"truncated or wrong content: {len(content):,} bytes of {layout.algorithm} "
                f"{found}, expected {expected}",
            )
        return layout.pixels(content)

    def _missing(self, root: Path, names: Sequence[str]) -> DataError:
        ours, other = (layout.folder for layout in LAYOUTS)
        problem = f"not found, nor in {other}: {', '.join(names)}"
        at_hand = [number for number in BATCHES if _layout(root, _train_batch(number))]
        if at_hand and TEST not in names:
            problem += f" (there are those of data.batches={at_hand})"
        return self.error(root / ours, problem)

    def fetch(self, root: Path) -> None:
        """Let torchvision fetch, check and unpack; its archive is not kept."""
        from torchvision import datasets as published  # here, because importing it takes a second
        from torchvision.datasets.utils import download_and_extract_archive

        # Not by the class's constructor, which would also load all images.
        source = published.CIFAR10
        download_and_extract_archive(
            source.url, root, filename=source.filename, md5=source.tgz_md5, remove_finished=True
        )


def _train_batch(number: int) -> str:
    return f"data_batch_{number}"


def _layout(root: Path, name: str) -> Layout | None:
    """The first layout in which the batch ``name`` is there."""
    present = (f for f in LAYOUTS if (root / f.folder / (name + f.suffix)).exists())
    return next(present, None)


def _to_images(batches: Sequence[Bytes]) -> Tensor:
    pixels = torch.cat([torch.from_numpy(batch) for batch in batches]).view(-1, *SHAPE)
    return pixels.float().div_(255)  # (N, 3, 32, 32)
