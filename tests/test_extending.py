"""A new component is one new file and no other edit: listed, built, trained and measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FILES = {
    "models/posteriors/mine.py": '''
import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.paths import Target
from models.posteriors.protocol import Move, State, Transition, posteriors, transitions


@transitions.register("my_shift")
class MyShift(Transition):
    """Add numbers of the datum's own."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.context_size = latent_dim

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        return Move(State(state.z + context), torch.zeros_like(state.z[..., 0]))


@posteriors.register("mine")
def mine(latent_dim: int, *, num_layers: int = 1) -> Chain:
    """A shifted Gaussian."""
    return Chain(DiagonalGaussian(latent_dim), [MyShift(latent_dim) for _ in range(num_layers)])
''',
    "models/losses/mine.py": '''
from models.losses.bounds import ELBO
from models.losses.protocol import losses


@losses.register("my_loss")
class MyLoss(ELBO):
    """The ELBO under another name."""

    def __init__(self, *, num_samples: int = 2) -> None:
        super().__init__(num_samples=num_samples)
''',
    "estimators/mine.py": '''
import torch

from estimators.protocol import Estimate, Estimator, Quantity, estimators


@estimators.register("my_estimator")
class MyEstimator(Estimator):
    """One draw."""

    name = "my_estimator"

    @torch.no_grad()
    def __call__(self, model, posterior, x, context, z=None):
        return Estimate(Quantity(posterior(context, model.log_joint(x), 1).log_q[0]))
''',
    "utils/data/mine.py": '''
import torch

from utils.data.base import Data, Dataset, datasets


@datasets.register("my_data")
class MyData(Dataset):
    """Coins."""

    name = "my_data"

    def load(self) -> Data:
        coins = torch.randint(2, (3, 20, 1, 2, 2), generator=torch.Generator().manual_seed(0))
        splits = dict(zip(("train", "validation", "test"), coins.float(), strict=True))
        return Data(splits=splits, binarisation="none", checksum="coins")
''',
}
KINDS = {  # and the listing that each stands in
    "posteriors": "mine",
    "transitions": "my_shift",
    "losses": "my_loss",
    "estimators": "my_estimator",
    "datasets": "my_data",
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the program with four new files, and nothing else changed."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("configs", "estimators", "experiments", "models", "utils"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for name, content in FILES.items():
        (copy / name).write_text(f'"""New."""\n{content}')
    return copy


TRAIN = [
    "-config", "configs/quickstart/base.yaml", "-set", "loss={name: my_loss}",
    "data={name: my_data}", "evaluation.estimators=[{name: my_estimator}]", "training.epochs=1",
    "runtime.tensorboard=false",
]  # fmt: skip
COMMANDS = [
    ["--list"],
    [*TRAIN, "posterior={name: mine, num_layers: 2}"],
    [*TRAIN, "posterior={name: chain, base: {name: diagonal}, transitions: [{name: my_shift}]}"],
]
PROGRAM = """
import json, sys, main
for command in json.loads(sys.argv[1]):
    assert main.main(command) == 0, command
    print("=" * 9)
"""


def test_new_components_are_listed_trained_and_measured(extended, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)], cwd=extended,
        env={**os.environ, "VI_RESULTS": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    listed, *trained, nothing = process.stdout.split("=" * 9 + "\n")
    for kind, name in KINDS.items():
        (line,) = (line for line in listed.splitlines() if line.startswith(kind))
        assert name in line.replace(",", " ").split()
    assert len(trained) == 2 and not nothing
    assert all("log p(x) by my_estimator" in said for said in trained)
