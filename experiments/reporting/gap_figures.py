"""Figures of gaps: stacked bars, and lines over training."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reporting import ReportError
from experiments.reporting.curves import COLOURS, PANEL_HEIGHT, PANEL_WIDTH, plain
from experiments.reporting.gap_table import Line
from experiments.reporting.gaps import AMORTISATION, APPROXIMATION, GAPS, INFERENCE
from experiments.reporting.summary import SHOWN

GAP_COLOURS = dict(zip(GAPS, COLOURS, strict=False))
SPLIT_LINES = {"train": "-", "test": "--", "validation": ":"}
# Inches: of the figure, of one bar and the space around it, of the axis beside long labels
BAR_WIDTH, BAR_HEIGHT, AXIS_WIDTH = 8.0, 0.42, 4.0
LABEL_LENGTH = 44  # characters, beside a bar and above a panel
CHARACTER, TEXT_LINE = 0.075, 0.16  # inches, in the larger of the two fonts of labels
SPREAD = "mean ± standard error: Monte-Carlo error and spread over data and seeds"


def bar_figure(lines: Sequence[Line]) -> Figure:
    """One bar a line: its approximation gap and, stacked on it, its amortisation gap.

    A negative gap goes to the left of zero. Lines without finite gaps are left out; raises
    ReportError when there are no others.
    """
    lines = _drawable(lines)
    heights = range(len(lines))
    labels, sums = _labels(lines, ("posterior", "split")), [_sum(line) for line in lines]
    room = CHARACTER * (_most_characters(labels) + _most_characters(sums))
    row = max(BAR_HEIGHT, TEXT_LINE * (0.6 + _most_lines(labels)))
    size = (max(BAR_WIDTH, AXIS_WIDTH + room), 1.7 + row * len(lines))
    figure = Figure(size, layout="constrained")
    axis = figure.subplots()
    _bars(axis, lines, 0.62 * BAR_HEIGHT / row)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(heights, labels, fontsize="small")
    axis.set_ylim(len(lines) - 0.4, -0.6)  # the first on top
    axis.set_xlabel("gap (nats)")
    right = axis.secondary_yaxis("right")
    right.set_yticks(heights, sums, fontsize="small")
    right.tick_params(length=0)
    for spine in (*(axis.spines[side] for side in ("top", "right")), right.spines["right"]):
        spine.set_visible(False)
    _add_legend(figure, 2, f"{SPREAD}\nright: approximation + amortisation = inference gap")
    return figure


def _bars(axis: Axes, lines: Sequence[Line], height: float) -> None:
    heights = np.arange(len(lines))
    first, second = (_values(lines, name)[0] for name in (APPROXIMATION, AMORTISATION))
    starts = {
        APPROXIMATION: np.zeros(len(lines)),
        AMORTISATION: np.where(first * second > 0, first, 0.0),
    }
    for name, start in starts.items():
        means, errors = _values(lines, name)
        colour = GAP_COLOURS[name]
        axis.barh(heights, means, height=height, left=start, color=colour, label=name)
        axis.errorbar(start + means, heights, xerr=errors, fmt="none", ecolor="black", capsize=3)


def training_figure(lines: Sequence[Line]) -> Figure:
    """One panel a trained run: the three gaps over its epochs, one line style a split.

    Args:
        lines: of runs out of ``over_training``; those without finite gaps are left out.

    Raises ReportError when no line has finite gaps.
    """
    lines = _drawable(lines)
    titles = _labels(lines, ("posterior",), left_out=("split",))
    panels: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line, title in zip(lines, titles, strict=True):
        panels[line.key["trained run"], title].append(line)
    height = PANEL_HEIGHT + 1.0 + TEXT_LINE * (_most_lines(titles) - 1)
    size = (max(PANEL_WIDTH * len(panels), 6.0), height)
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    splits = sorted({line.key["split"] for line in lines}, key=list(SPLIT_LINES).index)
    for axis, ((_, title), inside) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="epoch", xscale="log")
        axis.axhline(0, color="black", linewidth=0.8)
        for split in splits:
            _draw(axis, [line for line in inside if line.key["split"] == split], split)
    axes[0].set_ylabel("gap (nats)")
    _add_legend(figure, len(splits))
    return figure


def _draw(axis: Axes, lines: Sequence[Line], split: str) -> None:
    """The gaps of one split of a trained run, each with a band of one standard error."""
    epochs = np.array([int(line.key["epoch"]) for line in lines])
    for name, colour in GAP_COLOURS.items():
        means, errors = _values(lines, name)
        line = SPLIT_LINES[split]
        label = f"{name}, {split}"
        axis.plot(epochs, means, line, color=colour, marker="o", markersize=3, label=label)
        band = means - errors, means + errors
        axis.fill_between(epochs, *band, color=colour, alpha=0.2, linewidth=0)


def _drawable(lines: Sequence[Line]) -> list[Line]:
    found = [line for line in lines if all(_is_finite(line, name) for name in GAPS)]
    if not found:
        raise ReportError(
            "no gaps to draw: none of the rows has log p(x), L[q] and L[q*] of the run's own "
            "family, all finite"
        )
    return found


def _is_finite(line: Line, name: str) -> bool:
    mean = line.numbers[name].mean if name in line.numbers else None
    return mean is not None and math.isfinite(mean)


def _values(lines: Sequence[Line], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard errors, 0 where one is not known."""
    numbers = [line.numbers[name] for line in lines]
    means = np.array([number.mean for number in numbers], dtype=float)
    return means, np.array([number.standard_error or 0.0 for number in numbers])


def _sum(line: Line) -> str:
    parts = [line.numbers[name].rounded() for name in (APPROXIMATION, AMORTISATION)]
    return f"{' + '.join(parts)} = {line.numbers[INFERENCE].rounded()}"


def _labels(
    lines: Sequence[Line], always: Collection[str], left_out: Collection[str] = ()
) -> list[str]:
    """What tells the lines apart: the columns in which they differ, and those shown ``always``.

    Settings begin a line of their own; lines have ``LABEL_LENGTH`` characters at most.
    """

    def is_shown(name: str) -> bool:
        differs = len({line.key[name] for line in lines}) > 1
        return name in always or (differs and name not in left_out)

    shown = [name for name in (*SHOWN, "optimisation", "split") if is_shown(name)]
    texts = [(", ".join(line.key[name] for name in shown), line.key["settings"]) for line in lines]
    return [plain("\n".join(_wrap(part) for part in text if part)) for text in texts]


def _wrap(text: str) -> str:
    return textwrap.fill(text, LABEL_LENGTH, break_on_hyphens=False)  # 1e-05 stays whole


def _most_lines(texts: Sequence[str]) -> int:
    return max(text.count("\n") + 1 for text in texts)


def _most_characters(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.splitlines())


def _add_legend(figure: Figure, num_columns: int, title: str = SPREAD) -> None:
    """One legend for all panels: a line may be missing in some of them, not in all."""
    handles = {
        text: handle
        for axis in figure.axes
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=num_columns,
        title=title,
        fontsize="small",
        title_fontsize="small",
    )
