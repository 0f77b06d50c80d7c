"""Choose with how many importance samples an epoch of IWAE takes as long as one of the HVAE.

python -m experiments.hvae_mnist.equal_time [-additional_configs FILE ...] [-set KEY=VALUE ...]

Trains both for a few batches in turn, compiled where their runs would be, prints the seconds of an
epoch of each, and writes the number into equal_time.yaml in the folder hvae_mnist of the results,
a file for -additional_configs of main.py. What has been measured once stays, so that a sweep that
is repeated finds its runs; --again measures anew.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from experiments.drawing import add_output, add_settings
from experiments.runner.build import build, load_data
from experiments.runner.phases.train import wants_compiler
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trainer import Trainer, count_data
from utils.config.loading import load
from utils.config.validation import validate
from utils.console import Console
from utils.data.base import Data
from utils.results.folder import naming

BASE = "configs/hvae_mnist/base.yaml"
HVAE = "configs/hvae_mnist/additional/hvae.yaml"
IWAE = "configs/hvae_mnist/additional/iwae.yaml"
NUM_BATCHES, NUM_ROUNDS = 4, 7
FEW, MANY = 2, 12
"""Numbers of samples through whose costs the first line goes."""
MOST_TRIES = 5


class Pair(NamedTuple):
    """Seconds of an epoch of the Hamiltonian VAE and of IWAE, measured in turn."""

    hvae: float
    iwae: float


class Choice(NamedTuple):
    """The number of samples of IWAE, and what was measured with it."""

    num_samples: int
    seconds: Pair


def choose(measure: Callable[[int], Pair]) -> Choice:
    """Of the numbers of samples tried, the one that brings both times closest together.

    Each is tried where the line through the cost of ``FEW`` samples and that of the last number
    says that times are equal.

    Args:
        measure: both times for a number of samples; IWAE's is nearly a line in that.

    Raises ValueError where more samples cost no more, as noise can have it.
    """
    measured = {number: measure(number) for number in (FEW, MANY)}

    def excess(number: int) -> float:
        seconds = measured[number]
        return seconds.iwae / seconds.hvae - 1

    number = MANY
    for _ in range(MOST_TRIES):
        slope = (excess(number) - excess(FEW)) / (number - FEW)
        if slope <= 0:
            raise ValueError(
                f"{max(number, FEW)} samples took no longer than {min(number, FEW)}: the machine "
                "is too busy to measure on; try again later"
            )
        number = max(1, round(number - excess(number) / slope))
        if number in measured:
            break
        measured[number] = measure(number)
    best = min(measured, key=lambda number: abs(excess(number)))
    return Choice(best, measured[best])


class Epochs:
    """Measures epochs of configurations that share their data."""

    def __init__(self, files: Sequence[Path], assignments: Sequence[str]) -> None:
        self._files, self._assignments = files, assignments
        hvae = self._config(HVAE)
        data, size = load_data(hvae), hvae.training.batch_size
        self._num_train = count_data(data, hvae.training)
        num_batches = min(NUM_BATCHES, max(1, self._num_train // size))
        self._data = first(data, num_batches * size)
        self._scale = self._num_train / len(self._data.splits["train"])
        self._hvae = self._trainer(hvae)

    def _config(self, file: str, *assignments: str) -> RunConfig:
        files: list[str | Path] = [file, *self._files]
        settings = [*self._assignments, *assignments]
        config = validate(RunConfig, load(BASE, files, settings, DEFAULTS))
        return replace(config, phases=["train"])

    def _trainer(self, config: RunConfig) -> Trainer:
        built = build(config, self._data.x_shape)
        compile_step = wants_compiler(config, self._num_train, built.vae)
        options = config.training
        return Trainer(
            built.vae, built.loss, self._data, options, config.seed, compile_step=compile_step
        )

    def measure(self, num_samples: int) -> Pair:
        """Medians over rounds, in each of which both are trained."""
        iwae = self._trainer(self._config(IWAE, f"loss.num_samples={num_samples}"))
        rounds = [Pair(_seconds(self._hvae), _seconds(iwae)) for _ in range(1 + NUM_ROUNDS)]
        medians = map(statistics.median, zip(*rounds[1:], strict=True))  # the first warms up
        return Pair(*(self._scale * seconds for seconds in medians))


def first(data: Data, number: int) -> Data:
    """The same with the first training images alone."""
    grey = data.intensities
    return data._replace(
        splits={"train": data.splits["train"][:number]},
        intensities=None if grey is None else grey[:number],
    )


def _seconds(trainer: Trainer) -> float:
    begin = time.perf_counter()
    trainer.train_epoch(lambda step: True)
    return time.perf_counter() - begin


def to_yaml(choice: Choice) -> str:
    """A configuration of IWAE with that number."""
    number, (hvae, iwae) = choice
    return (
        f"# Measured: an epoch takes {iwae:.2f} s, one of the Hamiltonian VAE {hvae:.2f} s.\n"
        f"loss: {{name: iwae, num_samples: {number}}}\n"
    )


def main() -> None:
    """Measure, unless that has been done, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_output(parser, "hvae_mnist/equal_time.yaml")
    add_settings(parser)
    parser.add_argument("--again", action="store_true", help="measure although it has been done")
    options, console = parser.parse_args(), Console()
    path: Path = options.output
    if path.exists() and not options.again:
        console.info(f"{path} stays as it was measured before (--again measures anew):")
    else:
        console.info("measuring epochs of HVAE and IWAE")
        try:
            text = to_yaml(choose(Epochs(options.files, options.assignments).measure))
        except ValueError as error:
            console.error(str(error))
            sys.exit(1)
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(path.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
