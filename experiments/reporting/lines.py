"""Lines: what was estimated against a number that a sweep varies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

from matplotlib.axes import Axes as Panel
from matplotlib.figure import Figure

from experiments.reporting import ReportError
from experiments.reporting.curves import PANEL_HEIGHT, PANEL_WIDTH, plain, put_legend, styles_of
from experiments.reporting.pivot import Axes, Placed
from experiments.reporting.summary import BOUNDS, Units
from experiments.reporting.tables import Number

Scale = Literal["linear", "log"]


def line_figure(
    placed: Placed, axes: Axes, scale: Scale = "linear", units: Units = "nats"
) -> Figure:
    """A panel for each quantity; in it means against the column, a line for each row.

    A line of one point is drawn level across its panel: a baseline.

    Args:
        placed: out of ``pivot.place`` with ``axes``.
        axes: one column, whose values are numbers.
        scale: of that column.
        units: of bounds.

    Raises ReportError for values that are not numbers, or cannot be on the scale.
    """
    (across,) = axes.columns
    at = {column: _number(across, column[0]) for column in placed.columns}
    styles = styles_of([", ".join(row) for row in placed.rows])
    size = (PANEL_WIDTH * len(placed.quantities), PANEL_HEIGHT + 0.2 * len(styles))
    figure = Figure(size, layout="constrained")
    panels = figure.subplots(1, len(placed.quantities), squeeze=False)[0]
    for panel, (quantity, title) in zip(panels, placed.quantities.items(), strict=True):
        panel.set(xlabel=plain(across), title=plain(title))
        if quantity[0] in BOUNDS:
            panel.set_ylabel("nats" if units == "nats" else "bits per dimension")
        lines = {
            row: {
                at[column]: number
                for column in placed.columns
                if (number := placed.numbers.get((row, column, quantity)))
            }
            for row in placed.rows
        }
        if scale == "log":
            _set_log(panel, across, lines.values())
        for row, line in lines.items():
            name = ", ".join(row)
            _draw(panel, line, plain(name), *styles[name])
    put_legend(figure, "mean ± standard error")
    return figure


def _number(axis: str, text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise ReportError(f"--across {axis}: {text!r} is not a number")


def _set_log(panel: Panel, across: str, lines: Iterable[Mapping[float, Number]]) -> None:
    """A tick at each value that is not of a level line, by its own name."""
    values = sorted({value for line in lines if len(line) > 1 for value in line})
    if values and values[0] <= 0:
        raise ReportError(f"--scale log: {across} has the value {values[0]:g}")
    panel.set_xscale("log")
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()


def _draw(panel: Panel, found: Mapping[float, Number], label: str, line: str, colour: str) -> None:
    points = sorted(found)
    means = [math.nan if (mean := found[x].mean) is None else mean for x in points]
    errors = [found[x].standard_error or 0.0 for x in points]
    style: dict[str, Any] = {"linestyle": line, "color": colour, "label": label}
    if len(points) == 1:
        panel.axhline(means[0], **style)
    elif points:
        panel.errorbar(points, means, errors, marker="o", markersize=4, capsize=3, **style)
