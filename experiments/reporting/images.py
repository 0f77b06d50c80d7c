"""Images of several runs side by side: a column a run, a row a kind of picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.reporting import ReportError
from experiments.reporting.curves import plain
from experiments.reporting.labels import configuration_labels
from experiments.runner.build import BuildError, build, load_data
from experiments.runner.images import KINDS, SMALLEST_SIDE, are_images, pixels
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.weights import load_evaluated
from utils import seeding
from utils.checkpoint import CheckpointError
from utils.config.loading import load
from utils.config.sources import ConfigError
from utils.config.validation import validate
from utils.data.base import DataError
from utils.results.folder import DamagedError, RunFolder

FIRST_CHOICE = ("test", "validation", "train")
WIDTH = 3.0  # inches a column
MOST_RUNS = 100  # a PNG of more columns would be too wide to be written


def draw(runs: pd.DataFrame, root: Path, kinds: Sequence[str], split: str | None) -> Figure:
    """Rebuild each run with its weights and show what its model makes.

    Args:
        runs: rows of the table ``runs``.
        root: the results folder that holds their folders.
        kinds: some of ``KINDS``.
        split: of the data shown; null: test, else validation, else train.

    Raises ReportError, naming the run, for one without weights, without its data, or whose data
    are no images; and for more runs than fit side by side.
    """
    if len(runs) > MOST_RUNS:
        raise ReportError(
            f"{len(runs)} runs do not fit side by side; choose at most {MOST_RUNS} with -run "
            "(`plot_from_db.py runs` lists them)"
        )
    folders = {run: RunFolder(root / "runs" / run) for run in runs["id"]}
    shown = {run: _grids(folder, kinds, split) for run, folder in folders.items()}
    return _figure(shown, _titles(runs), kinds)


def _grids(folder: RunFolder, kinds: Sequence[str], split: str | None) -> dict[str, Tensor]:
    try:
        return _rebuilt(folder, kinds, split)
    except ConfigError as error:
        raise ReportError(f"{folder.path.name}: {'; '.join(map(str, error.problems))}") from error
    except (BuildError, DataError, CheckpointError, DamagedError) as error:
        raise ReportError(f"{folder.path.name}: {error}") from error


def _rebuilt(folder: RunFolder, kinds: Sequence[str], split: str | None) -> dict[str, Tensor]:
    path = folder.path / "config.yaml"
    if not path.exists():
        raise ReportError(f"there is no {path}: its images cannot be made without its folder")
    config = validate(RunConfig, load(path, (), (), DEFAULTS))
    data = load_data(config)
    shape = data.x_shape
    if not are_images(shape):
        raise ReportError(
            f"{folder.path.name}: its data, {config.data.name} of {'×'.join(map(str, shape))} "
            f"numbers, are no images (1 or 3 channels, {SMALLEST_SIDE}×{SMALLEST_SIDE} or larger)"
        )
    split = split or next(name for name in FIRST_CHOICE if name in data.splits)
    if split not in data.splits:
        there = ", ".join(data.splits)
        raise ReportError(f"{folder.path.name}: no {split} split; there is: {there}")
    vae = build(config, shape).vae
    load_evaluated(vae, config, folder, torch.device("cpu"))
    with seeding.isolated(seeding.derive(config.seed, "pictures")):
        return {kind: KINDS[kind](vae, data.splits[split]) for kind in kinds}


def _titles(runs: pd.DataFrame) -> dict[str, str]:
    """What tells the runs apart: posterior, loss, settings, and the seed where several are."""
    settings = configuration_labels(runs, ("posterior", "loss"))
    several = runs["seed"].nunique() > 1
    return {
        run["id"]: "\n".join(
            filter(
                None,
                (
                    f"{run['posterior']}, {run['loss']}",
                    plain(settings[run["hash"]].replace(", ", "\n")),
                    f"seed {run['seed']}" if several else "",
                ),
            )
        )
        for run in runs.to_dict("records")
    }


def _figure(
    shown: Mapping[str, Mapping[str, Tensor]], titles: Mapping[str, str], kinds: Sequence[str]
) -> Figure:
    first = next(iter(shown.values()))
    heights = [WIDTH * first[kind].shape[1] / first[kind].shape[2] for kind in kinds]
    lines = 1 + max(title.count("\n") for title in titles.values())
    size = (WIDTH * len(shown), sum(heights) + 0.3 * len(kinds) + 0.15 * lines)
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(len(kinds), len(shown), squeeze=False, height_ratios=heights)
    for column, (run, grids) in zip(axes.T, shown.items(), strict=True):
        for axis, kind in zip(column, kinds, strict=True):
            axis.imshow(pixels(grids[kind]).numpy(), interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(kind, fontsize="small")
        column[0].set_title(titles[run], fontsize="small")
    return figure
