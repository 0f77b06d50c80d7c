"""A training step of every posterior against the factorised Gaussian's, in one run.

python -m benchmarks.posteriors [--rounds 15] [--compile] [names of configs/posterior ...]

Cremer et al.'s sizes: 784-200-200, z = 50, batch 100, one sample, fused Adam; configs/posterior as
it stands but for two layers (RealNVP: two steps of two couplings, as it stands).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from benchmarks.programs import training_steps
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate

POSTERIORS = Path("configs/posterior")
STEPS = 20  # in one timing
TWO_LAYERS = (
    "iaf",
    "planar",
    "radial",
    "spline",
    "sylvester_householder",
    "sylvester_orthogonal",
    "sylvester_triangular",
)


def configuration(name: str) -> RunConfig:
    """That of a posterior."""
    assignments = ["loss.warmup=null"]
    if name in TWO_LAYERS:
        assignments.append("posterior.num_layers=2")
    files = [POSTERIORS / f"{name}.yaml"]
    return validate(RunConfig, load("configs/mnist_ffg/base.yaml", files, assignments, DEFAULTS))


def main() -> None:
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    parser.add_argument("names", nargs="*", help="default: all")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in POSTERIORS.glob("*.yaml"))
    x = (torch.rand(100, 1, 28, 28) < 0.13).float()
    programs = {
        name: training_steps(configuration(name), x, STEPS, options.compile)
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
