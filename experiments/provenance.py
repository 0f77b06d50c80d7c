"""Where a run's numbers come from: code, packages, machine."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "scikit-learn", "torchvision", "arviz-stats")


class Commit(NamedTuple):
    """The code's git commit and whether files differ from it; empty outside a checkout."""

    commit: str
    dirty: bool | None


def git_commit() -> Commit:
    """Ask git about this project's own checkout."""
    if not (ROOT / ".git").exists():
        return Commit("", None)
    try:
        commit = _git("rev-parse", "HEAD")
        return Commit(commit, bool(_git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return Commit("", None)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far: of the GPU where the run is on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here


def device_name(device: torch.device) -> str:
    """What tables call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
