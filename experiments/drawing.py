"""What the figures of experiments share: options, runs with their weights, tables, files."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.reporting.curves import save_figure
from experiments.reporting.statistics import seed_mean
from experiments.reporting.tables import Number
from experiments.runner.build import Built, build, load_data
from experiments.runner.rows import means
from experiments.runner.run import identify
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.weights import load_evaluated
from utils.config.loading import load
from utils.config.validation import validate
from utils.console import Console
from utils.results.folder import RunFolder, results_root
from utils.results.methods import Method
from utils.results.records import Estimate

K = TypeVar("K", bound=Hashable)
MOST_COMMANDS = 10  # that are told one by one


class Wanted(NamedTuple):
    """A run that a figure is of: what main.py is to be given to make it."""

    base: str
    files: Sequence[str | Path] = ()
    assignments: Sequence[str] = ()

    @property
    def command(self) -> str:
        """What to type to make the run."""
        words = ["python", "main.py", "-config", self.base]
        words += ["-additional_configs", *map(str, self.files)] if self.files else []
        words += ["-set", *self.assignments] if self.assignments else []
        return shlex.join(words)

    @property
    def sweep(self) -> Path:
        """The script of the experiment that the run belongs to."""
        return Path("experiments", Path(self.base).parent.name, "run.sh")


class Trained(NamedTuple):
    """A finished run: its parts with the weights evaluated, its data and its mean estimates."""

    built: Built
    splits: Mapping[str, Tensor]
    numbers: Mapping[tuple[Method, str], float]
    """By method and name, of the split that is ``held_out``."""
    folder: RunFolder

    def mean(self, estimator: str, name: str) -> float:
        """The mean of the one estimator of that kind that the run has."""
        (mean,) = (
            value
            for (method, of), value in self.numbers.items()
            if (method.estimator, of) == (estimator, name)
        )
        return mean


def make_parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The command line of a figure, described by its module's docstring.

    It gives ``output``, by default the file ``name`` in the results folder, ``seeds`` and what
    ``add_settings`` gives.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    add_output(parser, name)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    add_settings(parser)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that change every run, as main.py has them: ``files`` and ``assignments``."""
    parser.add_argument(
        "-additional_configs", dest="files", type=Path, nargs="*", default=[], metavar="FILE"
    )
    parser.add_argument("-set", dest="assignments", nargs="*", default=[], metavar="KEY=VALUE")


def add_output(parser: argparse.ArgumentParser, name: str) -> None:
    """The option ``--output``: where a figure goes, by default into the results folder."""
    output = results_root() / name
    parser.add_argument("--output", type=Path, default=output, help="default: %(default)s")


def runs_by_method(
    base: str,
    files: Mapping[str, Sequence[str | Path]],
    options: argparse.Namespace,
    assignments: Sequence[str] = (),
) -> dict[tuple[str, int], Wanted]:
    """The runs of each method, with its ``files``, and seed; ``options`` are ``make_parser``'s."""
    return {
        (method, seed): Wanted(
            base,
            [*own, *options.files],
            [*assignments, f"seed={seed}", *options.assignments],
        )
        for method, own in files.items()
        for seed in options.seeds
    }


def find_all(
    wanted: Mapping[K, Wanted], console: Console, *, some_will_do: bool = False
) -> dict[K, Trained]:
    """The finished runs with their weights; a figure trains nothing.

    Says of runs that are missing which commands make them, and exits with code 2: always, or where
    ``some_will_do`` only if there is none at all. Raises ConfigError for a wrong configuration.
    """
    found = {key: run for key, of in wanted.items() if (run := finished(*of)) is not None}
    missing = [of for key, of in wanted.items() if key not in found]
    if missing:
        _tell(missing, len(wanted), console)
        if not (some_will_do and found):
            sys.exit(2)
    return found


def _tell(missing: Sequence[Wanted], num_wanted: int, console: Console) -> None:
    console.error(f"{len(missing)} of {num_wanted} runs are missing or not finished; make them:")
    for wanted in missing[:MOST_COMMANDS]:
        console.error(f"  {wanted.command}")
    if (more := len(missing) - MOST_COMMANDS) > 0:
        console.error(f"  and {more} more; bash {missing[0].sweep} makes them all")


def finished(base: str, files: Sequence[str | Path], assignments: Sequence[str]) -> Trained | None:
    """Find the run finished and load its weights; None where it is not: nothing is trained.

    Raises ConfigError for a wrong configuration.
    """
    config = validate(RunConfig, load(base, files, assignments, DEFAULTS))
    root = results_root()
    folder = RunFolder(root / "runs" / identify(config, root).id)
    record = folder.read_status()
    if record is None or record.status != "finished":
        return None
    return _opened(config, folder)


def _opened(config: RunConfig, folder: RunFolder) -> Trained:
    data = load_data(config)
    built = build(config, data.x_shape)
    built.vae.requires_grad_(False)
    if "train" in config.phases or config.initialise is not None:
        load_evaluated(built.vae, config, folder, torch.device("cpu"))
    return Trained(built, data.splits, means(held_out(folder.estimates.read())), folder)


def held_out(rows: Sequence[Estimate]) -> list[Estimate]:
    """The rows of the test split; where there are none of validation, else of training."""
    there = {row.split for row in rows}
    split = next((name for name in ("test", "validation", "train") if name in there), None)
    return [row for row in rows if row.split == split]


def over_seeds(values: Sequence[float], digits: int = 3) -> Number:
    """Mean ± standard error over runs that differ in their seed."""
    return Number.of(seed_mean(values), digits)


def save(figure: Figure, path: Path, console: Console) -> None:
    """Write a figure, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    console.info(f"wrote {path}")
