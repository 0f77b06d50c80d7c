"""A training step of every posterior against the factorised Gaussian's, in one run.

python -m benchmarks.posteriors [--rounds 15] [names of configs/posterior ...]

Cremer et al.'s sizes: 784-200-200, z = 50, batch 100, one sample, fused Adam.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from experiments.build import build
from experiments.schema import DEFAULTS, RunConfig
from utils.config import load
from utils.validation import validate

POSTERIORS = Path("configs/posterior")
STEPS = 20  # in one timing
ASSIGNMENTS = ["loss.warmup=null"]


def training_steps(posterior: Path, x: torch.Tensor) -> Callable[[], None]:
    """A function that takes ``STEPS`` training steps."""
    config = validate(
        RunConfig, load("configs/mnist_ffg/base.yaml", [posterior], ASSIGNMENTS, DEFAULTS)
    )
    built = build(config, (1, 28, 28))
    vae, loss = built.vae, built.loss
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-4, fused=True)

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss(vae.model, vae.posterior, x, vae.context(x)).loss.mean().backward()
            optimiser.step()

    return steps


def main() -> None:
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("names", nargs="*", help="default: all")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in POSTERIORS.glob("*.yaml"))
    x = (torch.rand(100, 1, 28, 28) < 0.13).float()
    programs = {
        name: training_steps(POSTERIORS / f"{name}.yaml", x)
        for name in dict.fromkeys(["gaussian", *names])
    }
    interleaved(programs, rounds=2)  # warm up
    medians = interleaved(programs, options.rounds)
    print("| posterior | ms a step | × gaussian |\n| --- | ---: | ---: |")
    for name, seconds in medians.items():
        ratio = seconds / medians["gaussian"]
        print(f"| {name} | {1e3 * seconds / STEPS:.2f} | {ratio:.2f} |")
    print(f"\n{torch.get_num_threads()} threads, median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
