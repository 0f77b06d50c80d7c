"""Where the CPU time of an eager training step goes, by operation of PyTorch.

python -m benchmarks.operations [--steps 100]

The sizes are those of benchmarks/training.py. Each operation is timed by itself, medians over the
steps; what the step takes beyond their sum is Python and dispatch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import benchmarks.timing  # noqa: F401 (first: it sets how threads are pinned)

import torch  # isort: skip
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training import BATCH, binary_images, configuration
from experiments.runner.build import build
from experiments.runner.trainer import Trainer

ROUNDS, NUM_TRAIN = 5, 50_000
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "Adam": ("_fused_adam_", "_foreach_add_"),
    "ELU": ("elu", "elu_backward"),
    "softplus": ("softplus", "softplus_backward"),
    "sums": ("sum", "mean"),
    "batch": ("index_select",),
    "noise": ("randn", "randn_like"),
    "views": ("t", "view", "_unsafe_view", "unsqueeze", "squeeze", "expand", "detach", "alias",
              "split", "split_with_sizes", "transpose", "as_strided", "select"),
}  # fmt: skip
"""Operations by what people call them; all others are one kind."""


class Stopwatch(TorchDispatchMode):
    """Notes the CPU time of each operation below it, in microseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = defaultdict(list)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call and time it."""
        begin = time.thread_time_ns()
        result = function(*args, **(kwargs or {}))
        self.times[function.overloadpacket.__name__].append((time.thread_time_ns() - begin) / 1e3)
        return result


def steps_of(trainer: Trainer) -> Callable[[int], None]:
    """A function that takes so many training steps."""

    def steps(number: int) -> None:
        left = number

        def keep_going(step: int) -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        while left > 0:
            trainer.train_epoch(keep_going)

    return steps


def by_kind(times: Mapping[str, list[float]], num_steps: int) -> dict[str, tuple[float, float]]:
    """Calls and microseconds a step of each kind, the longest first."""
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for name, values in times.items():
        kind, calls = kinds.get(name, "other elementwise work"), len(values) / num_steps
        before = found[kind]
        found[kind] = (before[0] + calls, before[1] + calls * statistics.median(values))
    return dict(sorted(found.items(), key=lambda pair: -pair[1][1]))


def main() -> None:
    """Print one line a kind of operation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    num_steps = parser.parse_args().steps
    data = binary_images(NUM_TRAIN)
    config = configuration("off")
    built = build(config, data.x_shape)
    steps = steps_of(Trainer(built.vae, built.loss, data, config.training, seed=0))
    steps(num_steps)  # warm up
    each: list[float] = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        steps(num_steps)
        each.append((time.process_time() - begin) / num_steps * 1e6)
    with Stopwatch() as watch:
        steps(num_steps)
    kinds = by_kind(watch.times, num_steps)
    total = max(statistics.median(each), sum(spent for _, spent in kinds.values()))
    rest = total - sum(spent for _, spent in kinds.values())
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, medians of {num_steps} steps")
    print("| what | operations a step | µs a step | share |\n| --- | ---: | ---: | ---: |")
    for kind, (calls, spent) in {**kinds, "Python, dispatch": (0, rest)}.items():
        print(f"| {kind} | {calls:.0f} | {spent:.0f} | {spent / total:.0%} |")


if __name__ == "__main__":
    main()
