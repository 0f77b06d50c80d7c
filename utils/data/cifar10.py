"""CIFAR-10 in either of its published layouts."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor

from utils.data.base import Data, DataError, check_validation_size, datasets, hold_out
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.files import Bytes, FileDataset, combined_digest, digest, fetch_url

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
    sha256: Mapping[str, str]
    """By batch, of the whole file."""
    pixels: Callable[[bytes], Bytes]
    """From a checked file's content to (N, 3072): an image a row, its R, G, B planes in turn."""


def _from_records(content: bytes) -> Bytes:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + NUM_PIXELS)
    return np.ascontiguousarray(records[:, 1:])  # a record is a label, then the pixels


def _unpickle(content: bytes) -> Bytes:
    # Safe because the SHA-256 comes first: what is loaded is what was published.
    entries = pickle.loads(content, encoding="latin1")
    return np.ascontiguousarray(entries["data"])


BINARY = Layout(
    "cifar-10-batches-bin",
    ".bin",
    {
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        TEST: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    _from_records,
)
PICKLED = Layout(
    "cifar-10-batches-py",
    "",
    {
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        TEST: "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
    _unpickle,
)
LAYOUTS = (BINARY, PICKLED)
"""The binary one comes first: it needs no pickle, and it is what a download brings."""

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


@datasets.register("cifar10")
class CIFAR10(FileDataset):
    """Small photographs, 32×32 RGB, 50,000 + 10,000 (Krizhevsky 2009).

    ``threshold`` binarises each channel by itself: 3 bits a pixel, as in Cremer et al. (2018,
    arXiv 1801.03558). Validation takes the last ``validation_size`` training images; ``batches``
    says which of the five training files of 10,000 there are to be, in their order.

    Files: cifar-10-batches-bin or, batch by batch, cifar-10-batches-py (torchvision's pickles).
    The checksum is that of the pixels, the same for both.
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
        if (found := digest(content)) != (expected := layout.sha256[name]):
            raise self.error(
                path,
                f"truncated or wrong content: {len(content):,} bytes of sha256 {found}, "
                f"expected {expected}",
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
        """Fetch the archive of the binary layout and unpack it."""
        content = fetch_url(ARCHIVE, ARCHIVE_SHA256)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(root, filter="data")


def _train_batch(number: int) -> str:
    return f"data_batch_{number}"


def _layout(root: Path, name: str) -> Layout | None:
    """The first layout in which the batch ``name`` is there."""
    present = (f for f in LAYOUTS if (root / f.folder / (name + f.suffix)).exists())
    return next(present, None)


def _to_images(batches: Sequence[Bytes]) -> Tensor:
    pixels = torch.cat([torch.from_numpy(batch) for batch in batches]).view(-1, *SHAPE)
    return pixels.float().div_(255)  # (N, 3, 32, 32)
