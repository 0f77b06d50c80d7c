"""Checkpoints: written atomically, the previous one kept, verified on reading."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch


class CheckpointError(Exception):
    """No readable checkpoint, where there should be one."""


class _Noting(io.BufferedWriter):
    """A file that remembers why it could not be written; torch makes another error of it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def save(state: Mapping[str, Any], path: Path, *, keep_previous: bool = False) -> None:
    """Write ``state`` so that a crash at any moment leaves a whole file under ``path``.

    Args:
        state: tensors, numbers and strings in dicts and lists (loads with ``weights_only``).
        path: the file; with ``keep_previous`` the old one stays as ``previous_of(path)``.

    Raises OSError (disk full, not writable), in the system's words, with the old checkpoint
    untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    noting: _Noting | None = None
    try:
        with _Noting(io.FileIO(temporary, "w")) as noting:
            torch.save(dict(state), noting)
            noting.flush()
            os.fsync(noting.fileno())
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = (noting.error if noting else None) or error
        reason = getattr(cause, "strerror", None) or str(cause)
        number = getattr(cause, "errno", None)
        raise OSError(number, f"cannot write the checkpoint: {reason}", str(path)) from error
    if keep_previous and path.exists():
        path.replace(previous_of(path))
    temporary.replace(path)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name("previous_" + path.name)


def load(path: Path, device: torch.device | str, *, holds: Collection[str] = ()) -> dict[str, Any]:
    """Read one checkpoint; every byte is checked against the file's own CRC-32.

    Raises CheckpointError, naming the file, when it is missing or damaged, or has not the keys
    ``holds``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: {damaged!a} in it fails its checksum")
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile and zlib raise a dozen kinds on bad bytes
        raise CheckpointError(f"{path} is damaged: it is not a whole checkpoint") from error
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # what PyTorch says would be to switch its safety off
        raise CheckpointError(f"{path} holds what no checkpoint of this program does") from error
    missing = [key for key in holds if key not in state] if type(state) is dict else [*holds]
    if type(state) is not dict or missing:
        lacking = f" (no {', '.join(missing)})" if missing else ""
        raise CheckpointError(f"{path} has other keys than a checkpoint{lacking}")
    return state


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a CheckpointError of the block, which says what is wrong, name the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def load_latest(
    path: Path,
    device: torch.device | str,
    warn: Callable[[str], None],
    check: Callable[[Mapping[str, Any]], None] = lambda state: None,
) -> dict[str, Any] | None:
    """The checkpoint under ``path``, or the previous one where it is damaged (``warn`` says so).

    None when neither exists; CheckpointError when files exist but none is readable and passes
    ``check``, which raises CheckpointError with what is wrong ("is of ...").
    """
    candidates = [file for file in (path, previous_of(path)) if file.exists()]
    for file in candidates:
        try:
            state = load(file, device)
        except CheckpointError as error:
            warn(f"unreadable checkpoint: {error}")
            continue
        try:
            check(state)
        except CheckpointError as error:
            warn(f"checkpoint not used: {file} {error}")
            continue
        return state
    if candidates:
        raise CheckpointError(
            f"no usable checkpoint in {path.parent}; `--resume never` begins anew "
            "(the folder is kept under another name)"
        )
    return None


def alike(state: Any, like: Any, keys: Collection[str] | None = None) -> bool:
    """Whether ``state`` has the keys, types, shapes and dtypes of ``like``, all the way down.

    With ``keys``, only what stands under these is compared.
    """
    if torch.is_tensor(like):
        same = torch.is_tensor(state) and state.shape == like.shape
        return same and state.dtype == like.dtype
    if not isinstance(like, Mapping):
        return type(state) is type(like)
    if not isinstance(state, Mapping) or (keys is None and state.keys() != like.keys()):
        return False
    names = like.keys() if keys is None else keys
    return all(name in state and alike(state[name], like[name]) for name in names)
