"""Data of one's own: an array in a file, or a folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from utils.data.base import SPLITS, Data, DataError, Dataset, datasets
from utils.data.binarisation import Binarisation, binarise, check_binarisation
from utils.data.readers import Array, content_digest, read_arrays
from utils.types import NonNegativeInt, PositiveFloat, PositiveInt, Seed

PLANES = (1, 3)
"""Of an image: grey, or red, green and blue."""


@datasets.register("file")
class OwnData(Dataset):
    """Your own data: an array in a .npz, .npy or .csv file, or a folder of images.

    A .npz holds ``train`` and perhaps ``validation`` and ``test``, or a single array; a folder of
    images may have subfolders of these names. What is missing of validation and test is drawn
    from the rest. Bytes become [0, 1]; other numbers stay what they are, so that real vectors go
    with a Gaussian likelihood.

    Args:
        path: of the file or folder, from the current folder.
        sha256: of the content (``sha256sum`` of a file); filled in, and checked where given.
        shape: (C, H, W) of one datum, for rows of numbers; null: (1, 1, numbers in a row).
        channels: which axis of (N, ., ., .) holds the colours; null: the one of length 1 or 3.
        white: the number that becomes 1; null: 255 for bytes (1 where all are 0 or 1), else 1.
        standardise: subtract the mean and divide by the standard deviation of the training data,
            number by number. Nats are then of the standardised data.
        binarisation: of grey levels in [0, 1].
        validation_size: how many are held out, where the file does not say; null: a tenth.
        test_size: the same for the test split.
        split_seed: of the draw of what is held out.
    """

    name = "file"
    execution_options = frozenset({"path"})

    def __init__(
        self,
        *,
        path: str,
        sha256: str | None = None,
        shape: Annotated[list[PositiveInt], Len(3, 3)] | None = None,
        channels: Literal["first", "last"] | None = None,
        white: PositiveFloat | None = None,
        standardise: bool = False,
        binarisation: Binarisation = "none",
        validation_size: NonNegativeInt | None = None,
        test_size: NonNegativeInt | None = None,
        split_seed: Seed = 0,
    ) -> None:
        check_binarisation(binarisation)
        if standardise and binarisation != "none":
            raise ValueError("`standardise` leaves no grey levels; set `binarisation` to none")
        self.path = Path(path).expanduser()
        self.sha256 = sha256
        self.shape, self.channels, self.white = shape, channels, white
        self.standardise = standardise
        self.binarisation: Binarisation = binarisation
        self.sizes = {"validation": validation_size, "test": test_size}
        self.split_seed = split_seed

    @property
    def title(self) -> str:
        """The file's name without its suffix, as far as tables can show it."""
        kept = "".join(c for c in self.path.stem if c.isalnum() or c in " _-.")
        return kept[:40].strip(" _-.") or self.name

    def settled_options(self) -> Mapping[str, Any]:
        """The content's checksum. Raises DataError."""
        with self._named():
            return {"sha256": self.sha256 or content_digest(self.path)}

    def load(self) -> Data:
        """Read, check, split, scale, binarise."""
        with self._named():
            found = content_digest(self.path)
            if self.sha256 not in (None, found):
                raise DataError(
                    f"its sha256 is {found}, and the configuration wants {self.sha256}; put that "
                    "content back, or set `data.sha256=null` to use this one"
                )
            arrays = read_arrays(self.path)
            images = {part: self._images(part, array) for part, array in arrays.items()}
            shapes = {part: array.shape[1:] for part, array in images.items()}
            if len(set(shapes.values())) > 1:
                raise DataError(f"the data of its splits have several shapes (C, H, W): {shapes}")
            scaled = self._scaled(self._split(images))
            if self.binarisation == "none":
                return Data(scaled, "none", found)
            try:
                return binarise(scaled, self.binarisation, found)
            except DataError as error:
                raise DataError(f"{error}; set `data.white` to the number of a white") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of which data a DataError is."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.name}: {self.path}: {error}") from error

    def _images(self, part: str, array: Array) -> Array:
        """The numbers of a part as (N, C, H, W), all of them finite."""
        if array.dtype.kind not in "buif":
            raise DataError(f"`{part}` holds no real numbers but {array.dtype}")
        if array.ndim < 2 or array.size == 0:
            raise DataError(
                f"`{part}` is empty or has one axis only: its shape is {array.shape}; (N, numbers)"
                ", (N, H, W) or (N, C, H, W) is expected"
            )
        rows = array.reshape(len(array), -1)
        bad = ~np.isfinite(rows).all(1)
        if bad.any():
            raise DataError(
                f"`{part}` holds NaN or infinite numbers in {bad.sum():,} of {len(rows):,} data, "
                f"first in number {bad.argmax()} (from 0); leave these data out"
            )
        if self.shape is not None:
            if rows.shape[1] != np.prod(self.shape):
                raise DataError(
                    f"`data.shape` {self.shape} does not fit the {rows.shape[1]:,} numbers of a "
                    f"datum of `{part}`"
                )
            return rows.reshape(len(rows), *self.shape)
        if array.ndim == 2:
            return array[:, None, None, :]
        if array.ndim == 3:
            return array[:, None]
        if array.ndim == 4:
            return self._planes_first(part, array)
        raise DataError(f"`{part}` has the shape {array.shape}; give `data.shape=[C, H, W]`")

    def _planes_first(self, part: str, array: Array) -> Array:
        first, last = array.shape[1] in PLANES, array.shape[3] in PLANES
        if self.channels is None and first == last:
            raise DataError(
                f"`{part}` has the shape {array.shape}; say which axis holds the colours, "
                "`data.channels=first` or `last`"
            )
        is_last = self.channels == "last" if self.channels else last
        return array.transpose(0, 3, 1, 2) if is_last else array

    def _split(self, images: Mapping[str, Array]) -> dict[str, Array]:
        """Train, validation and test; those that are missing are drawn from train."""
        for part, size in self.sizes.items():
            if size is not None and part in images:
                raise DataError(f"it has a split {part} already; leave out `data.{part}_size`")
        train = images["train"]
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.rand(len(train), generator=generator).argsort(stable=True).numpy()
        splits = dict(images)
        for part in ("test", "validation"):  # so what is tested does not depend on validation
            if part not in images:
                size = self.sizes[part]
                size = max(1, len(train) // 10) if size is None else size
                splits[part], order = train[order[:size]], order[size:]
        if not len(order):
            raise DataError(
                f"{len(train):,} data are too few to hold out others and train on the rest; set "
                "`data.validation_size` and `data.test_size` (0: none)"
            )
        splits["train"] = train[np.sort(order)]
        return {part: splits[part] for part in SPLITS if len(splits[part])}

    def _scaled(self, splits: Mapping[str, Array]) -> dict[str, Tensor]:
        """Float32, white as 1."""
        white = self.white
        if white is None:
            are_bytes = all(array.dtype == np.uint8 for array in splits.values())
            white = 255.0 if are_bytes and max(x.max() for x in splits.values()) > 1 else 1.0
        scaled = {
            part: torch.from_numpy(np.divide(array, white, dtype=np.float64)).float()
            for part, array in splits.items()
        }
        if not self.standardise:
            return scaled
        train = scaled["train"].double()
        mean, deviation = train.mean(0), train.std(0, correction=0)
        deviation[deviation == 0] = 1.0  # a number that never changes becomes 0
        return {part: ((x - mean) / deviation).float() for part, x in scaled.items()}
