"""Learning curves: a metric over epochs, mean over seeds with a band of one standard error."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reporting import ReportError
from experiments.reporting.labels import configuration_labels
from experiments.reporting.statistics import seed_mean

SUFFIXES = (".png", ".pdf", ".svg")
# Okabe and Ito (2008): told apart by colour-blind readers too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
PANEL_WIDTH, PANEL_HEIGHT = 4.5, 3.5  # inches


def check_suffix(path: Path) -> None:
    """Raise ReportError when a figure cannot be written in the format that ``path`` asks for."""
    if path.suffix.lower() not in SUFFIXES:
        raise ReportError(f"cannot write a figure to {path}; use one of {', '.join(SUFFIXES)}")


def curve_figure(metrics: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """One panel a phase, name and split; in it one line a configuration.

    Args:
        metrics: run, phase, step, split, name, value.
        runs: their rows of the table ``runs``.
    """
    labels = legend(runs)
    styles = styles_of(labels)
    metrics = metrics.assign(hash=metrics["run"].map(runs.set_index("id")["hash"]))
    panels = list(metrics.groupby(["name", "phase", "split"]))
    size = (PANEL_WIDTH * len(panels), PANEL_HEIGHT + 0.2 * len(labels))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((name, phase, split), values) in zip(axes, panels, strict=True):
        axis.set(title=f"{phase}, {split} split", xlabel="epoch", ylabel=name)
        for key, label in labels.items():
            _draw(axis, values[values["hash"] == key], label, *styles[key])
    put_legend(figure)
    return figure


def put_legend(figure: Figure, title: str = "mean ± standard error over n seeds") -> None:
    """One legend for all panels, below them."""
    handles = {  # a configuration may be missing in some panels, not in all
        text: handle
        for axis in figure.axes
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        title=title,
        fontsize="small",
        title_fontsize="small",
    )


def styles_of(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A line and a colour for each."""
    return dict(zip(labels, itertools.cycle(itertools.product(LINES, COLOURS)), strict=False))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of ``path``'s suffix, without the date in it."""
    metadata = {".png": None, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    figure.savefig(path, dpi=150, metadata=metadata[path.suffix.lower()])


def plain(text: str) -> str:
    """``text`` that begins no formula, whatever people have put into it."""
    return text.replace("$", r"\$")


def legend(runs: pd.DataFrame) -> dict[str, str]:
    """By hash: posterior, loss, what else differs, and the number of seeds."""
    settings = configuration_labels(runs, ("posterior", "loss"))
    counts = runs["hash"].value_counts()
    first = runs.drop_duplicates("hash").to_dict("records")
    words = {run["hash"]: (run["posterior"], run["loss"], settings[run["hash"]]) for run in first}
    return {
        key: plain(f"{', '.join(filter(None, w))} (n={counts[key]})") for key, w in words.items()
    }


def _draw(axis: Axes, values: pd.DataFrame, label: str, line: str, colour: str) -> None:
    """Mean over the runs that reached a step; a band where there are two or more."""
    steps = np.unique(values["step"])
    if not len(steps):
        return
    means = [seed_mean(values["value"][values["step"] == step].tolist()) for step in steps]
    centre = np.array([mean.mean for mean in means])
    error = np.array([mean.standard_error or 0.0 for mean in means])
    centre[~np.isfinite(centre)] = np.nan  # a gap, where a run had no finite number
    axis.plot(steps, centre, linestyle=line, color=colour, label=label)
    axis.fill_between(steps, centre - error, centre + error, color=colour, alpha=0.2, linewidth=0)
