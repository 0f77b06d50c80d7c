"""Passes a second over 10,000 Gaussian points, by the runner and by a loop over minibatches.

python -m benchmarks.hvae_gaussian [--dim 100] [--rounds 5]

A Hamiltonian VAE with one tempered leapfrog step, ten draws a step, RMSprop. The loop looks at
the points in batches of 256, as public code does; the runner knows them by their statistics, so
that its step is a pass. It does all that main.py does in an epoch of 40 steps.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip
from torch import Tensor, nn

from benchmarks.programs import runner_epochs
from experiments.runner.build import load_data
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.shared_gaussian import SharedGaussianData

BATCH, NUM_DRAWS, NUM_STEPS = 256, 10, 40
BASE = "configs/hvae_gaussian/base.yaml"
METHOD = "configs/hvae_gaussian/additional/hvae_1.yaml"


class HandWritten(nn.Module):
    """What one would write for minibatches: each is taken for a data set with a z of its own."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points, dim = points, points.shape[1]
        self.offset = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.full((dim,), 3.0))
        self.step_size = nn.Parameter(torch.full((dim,), math.log(0.01 / 0.99)))
        self.temperature = nn.Parameter(torch.tensor(math.log(4)))
        self.optimiser = torch.optim.RMSprop(self.parameters(), lr=1e-3, foreach=True)

    def loss(self, x: Tensor) -> Tensor:
        """Minus the bound of a batch x (256, D), momentum and base integrated out."""
        n, dim = x.shape
        size = 0.5 * self.step_size.sigmoid()
        precision = (-2 * self.log_scale).exp()
        mean = x.mean(0)

        def slope(z: Tensor) -> Tensor:
            return -z + n * (mean - self.offset - z) * precision

        z, momentum = torch.randn(2, NUM_DRAWS, dim)
        scale = 1 + self.temperature.exp()
        momentum = scale * momentum + 0.5 * size * slope(z)
        z = z + size * momentum
        momentum = (momentum + 0.5 * size * slope(z)) / scale
        squares = ((x - self.offset - z[:, None]).square() * precision).sum((1, 2))
        log_likelihood = -0.5 * squares - n * (
            self.log_scale.sum() + 0.5 * math.log(2 * math.pi) * dim
        )
        kinetic = 0.5 * (z.square() + momentum.square()).sum(1)
        return -(log_likelihood - kinetic).mean()

    def one_pass(self) -> None:
        """Each point once."""
        for x in self.points[torch.randperm(len(self.points))].split(BATCH):
            self.optimiser.zero_grad()
            self.loss(x).backward()
            self.optimiser.step()


def configuration(dim: int, compile_mode: str) -> RunConfig:
    """The experiment's own, without an end."""
    assignments = [
        f"data.dim={dim}",
        f"data.num_train={NUM_STEPS}",
        f"loss.num_samples={NUM_DRAWS}",
        "training.epochs=1000000",
        f"runtime.compile={compile_mode}",
    ]
    return validate(RunConfig, load(BASE, [METHOD], assignments, DEFAULTS))


def main() -> None:
    """Print passes a second and ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled runner out")
    options = parser.parse_args()
    loop = HandWritten(SharedGaussianData(dim=options.dim).draw()[1].float())
    programs: dict[str, Callable[[], object]] = {f"loop, batches of {BATCH}": loop.one_pass}
    passes = {f"loop, batches of {BATCH}": 1}
    with tempfile.TemporaryDirectory() as root:
        for mode in ("off",) if options.no_compile else ("off", "on"):
            config = configuration(options.dim, mode)
            epochs = runner_epochs(config, load_data(config), Path(root, mode))
            programs[f"runner, runtime.compile={mode}"] = epochs.__next__
            passes[f"runner, runtime.compile={mode}"] = NUM_STEPS
        interleaved(programs, rounds=1)  # warm up
        medians = interleaved(programs, options.rounds)
    rates = {name: passes[name] / seconds for name, seconds in medians.items()}
    first = next(iter(rates.values()))
    print("| program | passes a second | × the loop |\n| --- | ---: | ---: |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} | {rate / first:.1f} |")
    print(f"\nd = {options.dim}, {torch.get_num_threads()} threads, {options.rounds} rounds")


if __name__ == "__main__":
    main()
