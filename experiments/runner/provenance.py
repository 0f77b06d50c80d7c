"""Where a run's numbers come from: code, packages, machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from experiments.runner import plugins
from experiments.runner.schema import SCIENCE, Phase, RunConfig
from utils.code import ROOT, Code, code_of
from utils.registry import Node

RUNNER = "experiments.runner"
DRIVERS: Mapping[Phase, Sequence[str]] = {
    "train": (f"{RUNNER}.build", f"{RUNNER}.trainer"),
    "local_optimisation": (f"{RUNNER}.build", f"{RUNNER}.phases.local_optimisation"),
    "estimate": (f"{RUNNER}.build", f"{RUNNER}.phases.estimate", f"{RUNNER}.phases.usage"),
}
"""The modules that carry out each phase, whatever its components are."""
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


def phase_codes(config: RunConfig) -> dict[str, Code]:
    """The code that each phase of a run stands on: its components' and that which drives them."""
    return {phase: _phase_code(config, phase) for phase in config.phases}


def _phase_code(config: RunConfig, phase: Phase) -> Code:
    sections = {"data", "model", "encoder", "posterior", "refinement", *SCIENCE[phase]}
    components = {name for section in sections for name in modules_of(getattr(config, section))}
    outside = {plugin.name: plugin.source for plugin in plugins.of_modules(components)}
    return code_of({*DRIVERS[phase], *components}, outside=outside)


def modules_of(value: Any) -> Iterator[str]:
    """The modules of the components named anywhere in a configuration, or in a part of one."""
    if isinstance(value, Node):
        yield value.entry.factory.__module__
        yield from modules_of(value.options)
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from modules_of(getattr(value, entry.name))
    elif isinstance(value, Mapping):
        yield from modules_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from modules_of(item)


def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the packages that can change a number."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {"plumbline": project["version"], "python": platform.python_version()}
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


def device_name(device: torch.device, *, rounds_forces: bool) -> str:
    """What tables call the device, and whether chains are moved in bf16."""
    threads = f"cpu, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    return f"{name}, forces in bf16" if rounds_forces else name
