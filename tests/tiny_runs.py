"""main.py in this process, on runs of seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import main as program
from utils.results.folder import RunFolder
from utils.results.records import RunRecord

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "model.latent_dim=2",
    "model.decoder.hidden=[8]",
    "encoder.hidden=[8]",
    "training.epochs=3",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "runtime.checkpoint_seconds=0",
    "evaluation={batch_size: 64, estimators: [{name: importance, num_samples: 20}]}",
]
# Of each of the test data log_px, elbo, ess, k_hat, reliable and four of the halves of IWAE, and
# three of what z tells; three of each of two dimensions.
NUM_ESTIMATES = 250 * (9 + 3) + 2 * 3
QUICKSTART = str(ROOT / "configs" / "quickstart" / "base.yaml")


def run(*arguments: str) -> int:
    """main.py in this process; argparse's own exits count too."""
    try:
        return program.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def tiny(*assignments: str, options: Sequence[str] = ()) -> list[str]:
    return ["-config", QUICKSTART, "-set", *TINY, *assignments, *options]


def only_folder(tmp_path: Path) -> RunFolder:
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    return RunFolder(folder)


def as_running(folder: RunFolder) -> RunRecord:
    """The status that a killed process leaves."""
    return replace(folder.read_status(), status="running")
