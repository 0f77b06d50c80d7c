"""MNIST and Fashion-MNIST: torchvision's files, read and checked without its per-image work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from utils.data.base import Data, check_validation_size, datasets, hold_out
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.files import Bytes, FileDataset, combined_digest
from utils.types import PositiveInt

HEADER = 16
"""Bytes before the pixels of an idx3 file: magic number, three sizes."""

SIDE = 28

ValidationSize = Annotated[int, Ge(0), Lt(60_000)]


class IdxFile(NamedTuple):
    """A raw idx3 file of 28×28 images, one byte a pixel."""

    name: str
    num_images: int
    sha256: str


class IdxImages(FileDataset):
    """A train and a test file in torchvision's layout, root/<torchvision's class>/raw/.

    Either may also be there as published, packed with gzip (.gz).

    Validation takes the last ``validation_size`` training images; 0 means there is none. Of the
    others the first ``num_train`` are trained on; null means all.
    """

    torchvision_class: ClassVar[str]
    train: ClassVar[IdxFile]
    test: ClassVar[IdxFile]

    def __init__(
        self,
        root: str | None,
        binarisation: Binarisation,
        validation_size: int,
        num_train: int | None,
    ) -> None:
        super().__init__(root)
        check_binarisation(binarisation)
        check_validation_size(validation_size, self.train.num_images)
        left = self.train.num_images - validation_size
        if num_train is not None and not 0 < num_train <= left:
            raise ValueError(
                f"`num_train` must be between 1 and the {left:,} training images that validation "
                f"leaves; got {num_train}"
            )
        self.binarisation: Binarisation = binarisation
        self.validation_size, self.num_train = validation_size, num_train

    def load(self) -> Data:
        """Read both files, split, binarise."""
        parts = {part: _to_images(raw) for part, raw in self.read(self.root).items()}
        splits = hold_out(parts["train"], self.validation_size)
        splits["train"] = splits["train"][: self.num_train]
        checksum = combined_digest([self.train.sha256, self.test.sha256])
        return binarise(splits | {"test": parts["test"]}, self.binarisation, checksum)

    def read(self, root: Path) -> dict[str, Bytes]:
        """Raw bytes of the image files; labels are not used."""
        folder = root / self.torchvision_class / "raw"
        return {
            part: self.read_file(
                folder / file.name, HEADER + file.num_images * SIDE**2, file.sha256
            )
            for part, file in {"train": self.train, "test": self.test}.items()
        }

    def fetch(self, root: Path) -> None:
        """Let torchvision fetch, check and unpack; its archives are not kept."""
        import torchvision  # here, because importing it takes a second

        getattr(torchvision.datasets, self.torchvision_class)(root, download=True)
        for archive in root.rglob("*.gz"):
            archive.unlink()


def _to_images(raw: Bytes) -> Tensor:
    pixels = torch.from_numpy(raw[HEADER:]).view(-1, 1, SIDE, SIDE)
    return pixels.float().div_(255)  # (N, 1, 28, 28)


@datasets.register("mnist")
class MNIST(IdxImages):
    """Handwritten digits, 28×28 grey, 60,000 + 10,000 (LeCun, Cortes and Burges 1998)."""

    name = "mnist"
    torchvision_class = "MNIST"
    train = IdxFile(
        "train-images-idx3-ubyte",
        60_000,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    )
    test = IdxFile(
        "t10k-images-idx3-ubyte",
        10_000,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    )

    def __init__(
        self,
        *,
        root: str | None = None,
        binarisation: Binarisation = "dynamic",
        validation_size: ValidationSize = 10_000,
        num_train: PositiveInt | None = None,
    ) -> None:
        super().__init__(root, binarisation, validation_size, num_train)


@datasets.register("fashion_mnist")
class FashionMNIST(IdxImages):
    """Articles of clothing, 28×28 grey, 60,000 + 10,000 (Xiao et al. 2017, arXiv 1708.07747).

    5,000 validation images as in Cremer et al. (2018, arXiv 1801.03558), who binarise by
    ``threshold``.
    """

    name = "fashion_mnist"
    torchvision_class = "FashionMNIST"
    train = IdxFile(
        "train-images-idx3-ubyte",
        60_000,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    )
    test = IdxFile(
        "t10k-images-idx3-ubyte",
        10_000,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    )

    def __init__(
        self,
        *,
        root: str | None = None,
        binarisation: Binarisation = "dynamic",
        validation_size: ValidationSize = 5_000,
        num_train: PositiveInt | None = None,
    ) -> None:
        super().__init__(root, binarisation, validation_size, num_train)
