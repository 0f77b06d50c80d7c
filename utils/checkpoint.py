"""Checkpoints: written atomically, the previous one kept, verified on reading."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """No readable checkpoint, where there should be one."""


def save(state: Mapping[str, Any], path: Path, *, keep_previous: bool = False) -> None:
    """Write ``state`` so that a crash at any moment leaves a whole file under ``path``.

    Args:
        state: tensors, numbers and strings in dicts and lists (loads with ``weights_only``).
        path: the file; with ``keep_previous`` the old one stays as ``previous_of(path)``.

    Raises OSError (disk full, not writable) with the old checkpoint untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch turns some write errors into RuntimeError
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write the checkpoint {path}: {error}") from error
    if keep_previous and path.exists():
        path.replace(previous_of(path))
    temporary.replace(path)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name("previous_" + path.name)


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read one checkpoint; every byte is checked against the file's own CRC-32.

    Raises CheckpointError when it is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged ({damaged} fails its checksum)")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, pickle and torch raise a dozen kinds on bad bytes
        raise CheckpointError(f"{path}: {type(error).__name__}: {error}") from error
    return state


def load_latest(
    path: Path, device: torch.device | str, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """The checkpoint under ``path``, or the previous one where it is damaged (``warn`` says so).

    None when neither exists; CheckpointError when files exist but none is readable.
    """
    candidates = [file for file in (path, previous_of(path)) if file.exists()]
    for file in candidates:
        try:
            return load(file, device)
        except CheckpointError as error:
            warn(f"unreadable checkpoint {error}")
    if candidates:
        raise CheckpointError(
            f"no readable checkpoint in {path.parent}; `--resume never` starts afresh "
            "(the folder is kept under another name)"
        )
    return None
