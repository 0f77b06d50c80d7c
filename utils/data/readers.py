"""Arrays out of files of one's own: .npz, .npy, .csv, folders of images.

Every DataError here says what is wrong, not where: whoever asks knows the path.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.data.base import SPLITS, DataError

Array = NDArray[Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Of images in a folder."""

GREY = frozenset({"1", "L", "LA"})
COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
"""Pillow's modes of at most 8 bits a colour; transparency is dropped."""


def content_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; of a folder, of its images' digests and names in order.

    Raises DataError where it cannot be read.
    """
    content = hashlib.sha256()
    if not path.is_dir():
        content.update(_bytes(path))
        return content.hexdigest()
    for file in _image_files(path):
        name = file.relative_to(path).as_posix()
        content.update(f"{hashlib.sha256(_bytes(file)).hexdigest()}  {name}\n".encode())
    return content.hexdigest()


def read_arrays(path: Path) -> dict[str, Array]:
    """Numbers by split; all of them as ``train`` where the file names no splits.

    Images are bytes, (N, H, W) where all are grey, else (N, 3, H, W). Raises DataError.
    """
    if path.is_dir():
        return _read_folder(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files of type {path.suffix or 'unknown'} are not read; save it as .npz, .npy or "
            ".csv, or give a folder of images"
        )
    content = _bytes(path)
    try:
        return reader(content)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy fail on damage in a dozen ways
        raise DataError(f"truncated, damaged or of another type ({error})") from error


def _bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise DataError("this is neither a file nor a folder")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"not found (looked for {path.absolute()}); give `data.path` of a .npz, .npy or "
            ".csv file or of a folder of images"
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error


# --- files ---------------------------------------------------------------------------------------


def _read_npz(content: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        names = list(archive.files)
        if len(names) == 1:
            return {"train": archive[names[0]]}
        if "train" not in names:
            raise DataError(
                f"holds {', '.join(names) or 'nothing'}; call its arrays train, validation and "
                "test, or put a single one in"
            )
        return {part: archive[part] for part in SPLITS if part in names}


def _read_npy(content: bytes) -> dict[str, Array]:
    return {"train": np.load(io.BytesIO(content), allow_pickle=False)}


def _read_csv(content: bytes) -> dict[str, Array]:
    """One datum a row; a first row without any number is a header."""
    rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if row]
    lines = list(enumerate(rows, 1))
    if lines and not any(map(_is_number, rows[0])):
        del lines[0]
    if not lines:
        raise DataError("holds no rows of numbers")
    width = len(lines[0][1])
    for line, row in lines:
        if len(row) != width:
            raise DataError(f"row {line} has {len(row)} cells, and the first one has {width}")
        if bad := [cell for cell in row if not _is_number(cell)]:
            raise DataError(f"row {line}: {bad[0][:20]!r} is no number; leave labels out")
    return {"train": np.array([row for _, row in lines], dtype=np.float64)}


READERS: Mapping[str, Callable[[bytes], dict[str, Array]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- folders of images ---------------------------------------------------------------------------


class _Header(NamedTuple):
    """What an image says of itself before its pixels are decoded."""

    mode: str
    size: tuple[int, int]


def _image_files(root: Path) -> list[Path]:
    """All images below ``root`` by name; what begins with a dot is no image."""
    files = [
        (file.relative_to(root), file)
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    shown = [pair for pair in files if not any(part.startswith(".") for part in pair[0].parts)]
    if not shown:
        raise DataError(f"no images in this folder ({', '.join(SUFFIXES)})")
    return [file for _, file in sorted(shown, key=lambda pair: pair[0].as_posix())]


def _read_folder(root: Path) -> dict[str, Array]:
    parts = _by_split(root, _image_files(root))
    files = [file for found in parts.values() for file in found]
    headers = {file: _header(root, file) for file in files}
    first = files[0]
    for file, header in headers.items():
        if header.size != headers[first].size:
            raise DataError(
                f"images of several sizes: {first.relative_to(root)} has "
                f"{_show(headers[first].size)} pixels, {file.relative_to(root)} has "
                f"{_show(header.size)}; make them alike"
            )
    mode = "L" if all(header.mode in GREY for header in headers.values()) else "RGB"
    return {
        part: np.stack([_pixels(root, file, mode) for file in found])
        for part, found in parts.items()
    }


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files by the subfolder that is called as a split; all are ``train`` without one."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        top, *inside = file.relative_to(root).parts
        parts.setdefault(top if inside and top in SPLITS else "", []).append(file)
    strays = parts.pop("", [])
    if not parts:
        return {"train": strays}
    if strays:
        where = strays[0].relative_to(root)
        raise DataError(f"{where} lies in none of the subfolders {', '.join(parts)}; move it")
    if "train" not in parts:
        raise DataError(f"there is no subfolder train beside {', '.join(parts)}")
    return parts


def _header(root: Path, file: Path) -> _Header:
    header = _opened(root, file, lambda image: _Header(image.mode, image.size))
    if header.mode not in GREY | COLOUR:
        raise DataError(
            f"{file.relative_to(root)} has more than 8 bits a pixel ({header.mode}); save such "
            "images as a .npy"
        )
    return header


def _pixels(root: Path, file: Path, mode: str) -> Array:
    pixels = _opened(root, file, lambda image: np.asarray(image.convert(mode)))
    return pixels if mode == "L" else pixels.transpose(2, 0, 1)


def _opened(root: Path, file: Path, read: Callable[[Any], Any]) -> Any:
    from PIL import Image  # here, because importing it takes time

    try:
        with Image.open(file) as image:
            return read(image)
    except Exception as error:  # Pillow fails on damage in a dozen ways
        reason = str(error).replace(str(file), file.name)
        raise DataError(f"{file.relative_to(root)} is no image that can be read: {reason}") from (
            error
        )


def _show(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
