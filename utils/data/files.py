"""Data sets that lie in files: where, how they are checked, how they come there."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shlex
import tempfile
import urllib.request
import zlib
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from utils.data.base import DataError, Dataset

Bytes = NDArray[np.uint8]

TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""


class Files:
    """Files below a root: the option ``root``, else $VI_DATA, else ./data."""

    name: ClassVar[str]
    """What messages call them."""
    execution_options: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(self, root: str | None) -> None:
        self._option = root
        where = root if root is not None else os.environ.get("VI_DATA") or "data"
        self.root = Path(where).expanduser().absolute()

    def remedy(self) -> str:
        """What mends a file that is missing or wrong."""
        command = f"python main.py --download {self.name}"
        if self._option is not None:
            command += " -set " + shlex.quote(f"data.root={self._option}")
        return f"Fetch it with: {command}"

    def error(self, path: Path, problem: str) -> DataError:
        """What is wrong at ``path``, and what mends it."""
        return DataError(f"{self.name}: {path}: {problem}. {self.remedy()}")

    def read_file(self, path: Path, num_bytes: int, sha256: str) -> Bytes:
        """The bytes of ``path``, or of ``path``.gz, if they are the right ones, else DataError.

        Of a file packed with gzip the content is checked, whose bytes nobody's gzip changes.
        """
        packed = path.with_name(f"{path.name}.gz")
        if not path.exists() and packed.is_file():
            path, content = packed, self._read_packed(packed, num_bytes)
        else:
            content = self._read(path)
        if content.size < num_bytes:
            raise self.error(path, f"truncated: {content.size:,} of {num_bytes:,} bytes")
        self.check(path, digest(content.data), sha256)
        return content

    def _read(self, path: Path) -> Bytes:
        try:
            return np.fromfile(path, dtype=np.uint8)
        except FileNotFoundError:
            raise self.error(path, "not found") from None
        except OSError as error:
            raise self.error(path, f"cannot be read ({error.strerror})") from error

    def _read_packed(self, path: Path, num_bytes: int) -> Bytes:
        """As much as there should be and one byte, so that no file can fill the memory."""
        try:
            with gzip.open(path) as file:
                return np.frombuffer(bytearray(file.read(num_bytes + 1)), dtype=np.uint8)
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(path, f"truncated, damaged or no gzip file ({error})") from error

    def check(self, path: Path, found: str, expected: str) -> None:
        """Raise DataError unless the SHA-256 found in ``path`` is the one expected."""
        if found != expected:
            raise self.error(path, f"wrong content: sha256 {found}, expected {expected}")


class FileDataset(Files, Dataset):
    """A data set in files."""

    @abstractmethod
    def read(self, root: Path) -> dict[str, Bytes]:
        """The checked raw content below ``root``, by part (the data's own, such as "train").

        Raises DataError.
        """

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Put the files below the empty folder ``root``, laid out as they will be used."""

    def download(self) -> None:
        """Fetch the files unless they are there and sound; damaged ones are replaced.

        All is fetched and checked in a folder aside and then moved file by file, so that a
        download cut off at any point leaves no half file where data is looked for.

        Raises DataError when fetching fails or brings something else.
        """
        with suppress(DataError):
            self.read(self.root)
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".download-") as aside:
                self.fetch(Path(aside))
                self.read(Path(aside))
                _move_files(Path(aside), self.root)
        except (DataError, OSError, RuntimeError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__}: {error}".strip()
            raise DataError(f"{self.name}: fetching into {self.root} failed: {reason}") from error


def digest(content: memoryview | bytes) -> str:
    """SHA-256 (hex) of bytes."""
    return hashlib.sha256(content).hexdigest()


def combined_digest(digests: Iterable[str]) -> str:
    """One SHA-256 (hex) for content that comes in several checked parts."""
    return digest("".join(digests).encode())


def fetch_url(url: str, sha256: str) -> bytes:
    """The bytes behind ``url``.

    Raises OSError or HTTPException when they cannot be had, DataError when they are others.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        content: bytes = response.read()
    if (found := digest(content)) != sha256:
        raise DataError(f"{url}: {len(content):,} bytes of sha256 {found}, expected {sha256}")
    return content


def _move_files(source: Path, target: Path) -> None:
    for path in [path for path in source.rglob("*") if path.is_file()]:
        moved = target / path.relative_to(source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.replace(moved)
