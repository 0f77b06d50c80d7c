"""Processor time of a training step that several processes share, against that of one.

python -m benchmarks.replicas [--numbers 1 2 4] [--batch 100] [--rounds 5] [--quick]

All parts are computed here, one after the other, and the sums between processes, which go through
sockets, are left out. So a ratio is what sharing costs in all: noise that each draws for all, what
is put together for the sums, steps of the optimiser that each takes; and smaller batches.
"""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks.training import configuration

import torch  # isort: skip

from experiments.runner.build import build
from experiments.runner.sharing import Share
from experiments.runner.trainer import Trainer
from utils.data.base import Data


def make_trainer(data: Data, batch: int, share: Share | None) -> Trainer:
    """Cremer et al.'s sizes."""
    config = configuration("off", f"training.batch_size={batch}")
    built = build(config, data.x_shape)
    return Trainer(*(built.vae, built.loss, data, config.training, config.seed), share=share)


def main() -> None:
    """Print a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of one step")
    options = parser.parse_args()
    num_steps, rounds = (1, 1) if options.quick else (50, options.rounds)
    images = (torch.rand(num_steps * options.batch, 1, 28, 28) < 0.13).float()
    data = Data({"train": images}, "none", "")
    parts: dict[int, list[Share | None]] = {0: [None]}
    for number in options.numbers:
        parts[number] = [Share(rank, number, lambda vector: None) for rank in range(number)]
    costs: dict[int, list[float]] = {number: [] for number in parts}
    for _ in range(rounds):
        for number, shares in parts.items():
            trainers = [make_trainer(data, options.batch, share) for share in shares]
            begin = time.process_time()
            for trainer in trainers:
                trainer.train_epoch(lambda step: True)
            costs[number].append((time.process_time() - begin) / num_steps)
    for number, seconds in costs.items():
        name = "not shared" if number == 0 else f"{number} processes"
        ratio = statistics.median(s / one for s, one in zip(seconds, costs[0], strict=True))
        print(f"{name:12}  {1e3 * statistics.median(seconds):7.2f} ms a step  {ratio:5.2f} ×")


if __name__ == "__main__":
    main()
