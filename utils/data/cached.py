"""Images in thousands of files that are decoded only once."""

from __future__ import annotations

import os
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.data.base import DataError
from utils.data.files import Bytes, FileDataset


class CachedImages(FileDataset):
    """Images in many small files, whose decoded pixels are kept in one archive (.npz).

    The archive lies beside the files or, where that cannot be written to, below $XDG_CACHE_HOME
    (else ~/.cache). A sound one stands for the files, which are needed no more; from a damaged
    one they are decoded again.
    """

    folder: ClassVar[str]
    """Holds, below the root, the files and the archive."""

    packed: ClassVar[str | None] = None
    """Below the root, a file that holds the folder; it does as well."""

    archive: ClassVar[str]
    part_names: ClassVar[Sequence[str]]

    @abstractmethod
    def decode(self, root: Path) -> dict[str, Bytes]:
        """Pixels by part, from the files below ``root``. Raises DataError."""

    @abstractmethod
    def verify(self, path: Path, parts: dict[str, Bytes]) -> None:
        """Raise DataError unless the parts, read from ``path``, are what they should be."""

    @abstractmethod
    def fetch_files(self, root: Path) -> None:
        """Put the files below the empty folder ``root``, in torchvision's layout."""

    def read(self, root: Path) -> dict[str, Bytes]:
        """Pixels by part: from an archive, or from the files, and then an archive is written."""
        damage = None
        archives = self._archives(root)
        for path in archives:
            if path.exists():
                try:
                    return self._read_archive(path)
                except DataError as error:
                    damage = error
        try:
            parts = self.decode(root)
        except DataError as error:
            raise damage or error from None
        self.verify(root / self.folder, parts)
        self._keep(archives, parts)
        return parts

    def fetch(self, root: Path) -> None:
        """Fetch the files into a folder aside and keep the archive alone."""
        with tempfile.TemporaryDirectory(dir=root) as aside:
            self.fetch_files(Path(aside))
            _write_archive(root / self.folder / self.archive, self.decode(Path(aside)))

    def _archives(self, root: Path) -> list[Path]:
        beside = root / self.folder
        if not beside.is_dir() and not (self.packed and (root / self.packed).is_file()):
            return []  # what is cached elsewhere must not hide that nothing is here
        user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        return [folder / self.archive for folder in (beside, user / "plumbline" / self.folder)]

    def _read_archive(self, path: Path) -> dict[str, Bytes]:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                parts = {name: np.ascontiguousarray(archive[name]) for name in self.part_names}
        except Exception as error:  # zipfile, zlib and NumPy fail on damage in a dozen ways
            raise self.error(path, f"truncated, damaged or no such archive ({error})") from error
        self.verify(path, parts)
        return parts

    def _keep(self, archives: Sequence[Path], parts: dict[str, Bytes]) -> None:
        for path in archives:
            try:
                _write_archive(path, parts)
            except OSError:
                continue
            return
        tried = " nor ".join(str(path) for path in archives)
        warnings.warn(
            f"{self.name}: neither {tried} can be written: every start decodes all images again",
            stacklevel=2,
        )


def _write_archive(path: Path, parts: dict[str, Bytes]) -> None:
    """Write the whole archive or nothing: runs side by side may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".archive-") as aside:
        whole = Path(aside, path.name)
        np.savez(whole, allow_pickle=False, **parts)
        whole.replace(path)
