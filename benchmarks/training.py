"""An epoch of the runner, all on, against a hand-written loop and the matrix products alone.

python -m benchmarks.training [--rounds 5] [--no-compile]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from benchmarks.programs import runner_epochs
from benchmarks.reference import ReferenceLoop
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.base import Data

BATCH, NUM_TRAIN, NUM_VALIDATION = 100, 50_000, 10_000
LAYERS = ((784, 200), (200, 200), (200, 100), (50, 200), (200, 200), (200, 784))


def binary_images(num_train: int | None = None) -> Data:
    """As many images as Larochelle-Murray MNIST has, with random pixels: time does not mind."""
    train = (torch.rand(num_train or NUM_TRAIN, 1, 28, 28) < 0.13).float()
    return Data({"train": train, "validation": train[:NUM_VALIDATION]}, "none", "")


def configuration(compile_mode: str, *more: str) -> RunConfig:
    """Cremer et al.'s sizes, evaluated after every epoch; with ``more`` assignments."""
    assignments = [
        "training.epochs=1000000",
        "training.evaluate_every=1",
        f"runtime.compile={compile_mode}",
        *more,
    ]
    return validate(RunConfig, load("configs/mnist_ffg/base.yaml", (), assignments, DEFAULTS))


def matrix_products() -> Callable[[], None]:
    """The matrix products of one epoch and nothing else: forward, by weights, by inputs."""
    shapes = [(torch.randn(BATCH, i), torch.randn(i, o), torch.randn(BATCH, o)) for i, o in LAYERS]

    def epoch() -> None:
        for _ in range(NUM_TRAIN // BATCH):
            for index, (inputs, weight, outputs) in enumerate(shapes):
                torch.mm(inputs, weight)
                torch.mm(inputs.T, outputs)
                if index > 0:  # nobody asks for the gradient of x
                    torch.mm(outputs, weight.T)

    return epoch


def main() -> None:
    """Print one line a program and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled runner out")
    options = parser.parse_args()
    data = binary_images()
    reference = ReferenceLoop(data.splits["train"])
    with tempfile.TemporaryDirectory() as root:
        eager = runner_epochs(configuration("off"), data, Path(root, "eager"))
        programs: dict[str, Callable[[], object]] = {
            "hand-written loop, no evaluation": reference.epoch,
            "runner, eager, all on": lambda: next(eager),
            "matrix products alone": matrix_products(),
        }
        if not options.no_compile:
            compiled = runner_epochs(configuration("on"), data, Path(root, "compiled"))
            programs["runner, compiled, all on"] = lambda: next(compiled)
        interleaved(programs, rounds=1)  # warm up: compilation, allocator, caches
        medians = interleaved(programs, options.rounds)
    loop, limit = medians["hand-written loop, no evaluation"], medians["matrix products alone"]
    steps = NUM_TRAIN // BATCH
    print(f"{torch.get_num_threads()} threads, {steps} steps an epoch, median of {options.rounds}")
    for name, seconds in medians.items():
        print(
            f"{name:34} {seconds:6.2f} s  {1e3 * seconds / steps:5.2f} ms a step  "
            f"{seconds / loop:5.2f} × the loop  {limit / seconds:4.0%} of the matrix-product limit"
        )


if __name__ == "__main__":
    main()
