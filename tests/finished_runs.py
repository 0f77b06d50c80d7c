"""A small finished run, made once a module, and main.py on copies of its results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import main as program
import plot_from_db
from utils.results.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart" / "base.yaml")
SMALL = [
    "data={name: linear_gaussian, num_train: 20, num_validation: 4, num_test: 8}",
    "model={name: linear_gaussian, latent_dim: 2}",
    "encoder={name: mlp, hidden: []}",
    "training.epochs=2",
    "runtime={tensorboard: false, threads: 1, keep_epochs: [1]}",
    "evaluation={batch_size: 4, estimators: [{name: importance, num_samples: 3}]}",
]


@dataclass(frozen=True)
class Copy:
    """A copy of the results of one small finished run."""

    results: Path

    @property
    def folder(self) -> RunFolder:
        (path,) = (self.results / "runs").iterdir()
        return RunFolder(path)

    def run(self, *assignments: str, options: tuple[str, ...] = ()) -> int:
        """The command that made the run, once more; its exit code."""
        arguments = ["-config", QUICKSTART, "-set", *SMALL, *assignments]
        try:
            return program.main([*arguments, "--results", str(self.results), *options])
        except SystemExit as stop:
            return int(stop.code or 0)

    def report(self, *arguments: str) -> int:
        """plot_from_db.py on it; its exit code."""
        return plot_from_db.main([*arguments, "--results", str(self.results)])

    def edit_status(self, change: Callable[[dict[str, Any]], None]) -> None:
        row = json.loads(self.folder.status_path.read_text())
        change(row)
        self.folder.status_path.write_text(json.dumps(row))

    def copied(self, target: Path) -> Copy:
        shutil.copytree(self.results, target)
        return Copy(target)


def finished_run(results: Path) -> Copy:
    """Make the run."""
    run = Copy(results)
    assert run.run() == 0
    return run
