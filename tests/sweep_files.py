"""What tests of sweeps share: sweep files, their plans, programs in place of main.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.sweeping.planning import Additions, Plan, make_plan
from experiments.sweeping.points import Stage, expand
from experiments.sweeping.sweep_file import Sweep, read

BASE = """\
experiment: small
data: {name: linear_gaussian, num_train: 20, num_validation: 4, num_test: 8}
model: {name: linear_gaussian, latent_dim: 2}
encoder: {name: mlp, hidden: []}
training: {epochs: 2}
runtime: {tensorboard: false, threads: 1}
evaluation: {batch_size: 4, estimators: [{name: importance, num_samples: 3}]}
"""
SWEEP = """\
config: base.yaml
seeds: 0-1
grid:
  covariance: {diagonal: [], full: posterior.covariance=full}
"""


def write(folder: Path, sweep: str = SWEEP, **files: str) -> Path:
    """Make a folder with base.yaml, further files and sweep.yaml; returns the last one's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"base": BASE, **files, "sweep": sweep}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "sweep.yaml"


def read_sweep(folder: Path, sweep: str = SWEEP, **files: str) -> Sweep:
    return read(write(folder, sweep, **files))


def words(stage: Stage) -> list[list[str]]:
    """Of each point, what it adds to the command."""
    return [[Path(word.text).name for word in point.words] for point in expand(stage)]


def plan_of(
    folder: Path, sweep: str = SWEEP, additions: Additions | None = None, **files: str
) -> Plan:
    given = read_sweep(folder, sweep, **files)
    return make_plan(given, expand(given.stage), folder / "results", additions)


def program(folder: Path, body: str) -> Sequence[str]:
    """A command that runs ``body``, Python with ``args`` and ``seed``, in place of main.py."""
    path = folder / "program.py"
    path.write_text(
        "import os, re, signal, sys, time\n"
        "args = ' '.join(sys.argv[1:])\n"
        "seed = int(re.search(r'seed=(\\d+)', args)[1])\n" + body
    )
    return (sys.executable, "-S", "-E", str(path))
