"""How much each dimension of z is used: its KL, sorted, for each configuration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reporting import ReportError
from experiments.reporting.curves import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    legend,
    put_legend,
    styles_of,
)

KL = "dimension_kl"


def unit_figure(estimates: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """One panel a data set and split; in it one line a configuration over the sorted dimensions.

    Args:
        estimates: rows of ``KL``, out of ``load_estimates``.
        runs: their rows of the table ``runs``.

    Raises ReportError where there are none.
    """
    if estimates.empty:
        raise ReportError(
            "no run has measured its units (runs of earlier versions have not, nor those with "
            "runtime.diagnostics=false; `--resume never` does one again)"
        )
    labels = legend(runs)
    styles = styles_of(labels)
    about = runs.set_index("id")[["hash", "dataset"]]
    panels = list(estimates.join(about, on="run").groupby(["dataset", "split"]))
    size = (PANEL_WIDTH * len(panels), PANEL_HEIGHT + 0.2 * len(labels))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, ((dataset, split), rows) in zip(axes, panels, strict=True):
        axis.set(title=f"{dataset}, {split} split", xlabel="dimension of z, sorted")
        axis.set_ylabel("KL(q(z_i|x) ‖ p(z_i)), nats")
        for key, of in rows.groupby("hash"):
            _draw(axis, of, labels[str(key)], *styles[str(key)])
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    put_legend(figure)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, label: str, line: str, colour: str) -> None:
    """Mean over seeds of the largest, the second, ...; a band where there are two or more.

    A run that was cut off may have measured fewer dimensions, and is left out then.
    """
    curves = [np.sort(of["value"].to_numpy(float))[::-1] for _, of in rows.groupby("run")]
    size = max(map(len, curves))
    values = np.stack([curve for curve in curves if len(curve) == size])
    centre, num = values.mean(0), len(values)
    error = values.std(0, ddof=1) / np.sqrt(num) if num > 1 else np.zeros_like(centre)
    rank = np.arange(1, len(centre) + 1)
    axis.plot(rank, centre, linestyle=line, color=colour, label=label, marker=".", markersize=4)
    axis.fill_between(rank, centre - error, centre + error, color=colour, alpha=0.2, linewidth=0)
