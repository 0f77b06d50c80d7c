"""How time and peak memory grow with the size of a problem, and whether faster than its work.

python -m benchmarks.scaling [--quick] [--only WORD ...] [--output FILE.png]

CPU seconds and MiB over what the process had before, each point in a process of its own
(``benchmarks.laws`` says of what). The exponent of a law is the slope of a line through its
points, in logarithms: 1 is linear, 0 is constant.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.laws import LAWS, Law, Point, measure
from experiments.reporting.curves import COLOURS, LINES, save_figure

IMPORTED_LATE = ("torch._dynamo", "arviz_stats.base", "sqlalchemy.dialects.sqlite")
SMALLEST = 8.0  # MiB: less is noise
ALLOWED = 0.15  # what an exponent may be above that of the work: noise, and caches that overflow


def measure_all(laws: Sequence[Law], quick: bool) -> dict[Law, dict[int, Point]]:
    """All points by size, each in a process of its own that begins with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.laws", *IMPORTED_LATE])
    points: dict[Law, dict[int, Point]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pool = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)
        with pool:
            for law in laws:
                sizes = law.sizes[:2] if quick else law.sizes
                points[law] = {
                    size: pool.submit(measure, LAWS.index(law), size, Path(folder)).result()
                    for size in sizes
                }
                print(row(law, points[law]), flush=True)
    return points


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of a line through the points, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def exponents(points: Mapping[int, Point]) -> tuple[float, float]:
    """Of time and of memory."""
    sizes = list(points)
    seconds = [point.seconds for point in points.values()]
    return exponent(sizes, seconds), exponent(
        sizes, [max(point.memory, SMALLEST) for point in points.values()]
    )


HEADING = """\
| what | size | CPU seconds | grows as | MiB | grows as |
| --- | --- | ---: | ---: | ---: | ---: |"""


def row(law: Law, points: Mapping[int, Point]) -> str:
    """A line of the table; an exponent above that of the work has an exclamation mark."""
    sizes = ", ".join(f"{size:,}" for size in points)
    seconds = ", ".join(f"{point.seconds:.3g}" for point in points.values())
    used = ", ".join(f"{point.memory:.0f}" for point in points.values())
    time_law, memory_law = (
        f"n^{found:.2f}{'' if found <= allowed + ALLOWED else ' !'}"
        for found, allowed in zip(exponents(points), law.exponents, strict=True)
    )
    return f"| {law.name} | {sizes} {law.unit} | {seconds} | {time_law} | {used} | {memory_law} |"


def draw(measured: Mapping[Law, Mapping[int, Point]]) -> Figure:
    """Time above, memory below; a column a group."""
    groups = list(dict.fromkeys(law.group for law in measured))
    figure = Figure((4.2 * len(groups), 8.2), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)
    for group, (above, below) in zip(groups, axes.T, strict=True):
        chosen = {law: points for law, points in measured.items() if law.group == group}
        above.set_title(group, fontsize=10)
        _panel(above, chosen, "seconds", "CPU seconds")
        _panel(below, chosen, "memory", "MiB over what there was")
        below.set_ylim(SMALLEST, max(100.0, below.get_ylim()[1]))
        below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False)
    return figure


def _panel(
    axes: Axes, measured: Mapping[Law, Mapping[int, Point]], field: str, label: str
) -> None:
    for index, (law, points) in enumerate(measured.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "ls": LINES[index // len(COLOURS)]}
        values = [max(getattr(p, field), 1e-3) for p in points.values()]
        name = law.name if law.unit in ("images", "runs") else f"{law.name}: {law.unit}"
        axes.loglog(list(points), values, marker="o", ms=3, label=name, **style)
    low, high = axes.get_ylim()
    start = min(size for points in measured.values() for size in points)
    for height in np.geomspace(low / 100, high, 7):  # what is linear runs beside these
        axes.plot([start, 1e5 * start], [height, 1e5 * height], color="0.85", lw=0.7, zorder=0)
    axes.set_ylim(low, high)
    axes.set_xlim(0.7 * start, 1.4 * max(size for points in measured.values() for size in points))
    axes.set(xlabel="how many", ylabel=label)


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes; no figure")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="in a law's name")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="the figure")
    options = parser.parse_args()
    chosen = [
        law
        for law in LAWS
        if not options.only or any(word in f"{law.name} {law.unit}" for word in options.only)
    ]
    print(HEADING)
    measured = measure_all(chosen, options.quick)
    print(f"\n{torch.get_num_threads()} threads; `!`: faster than the work")
    if options.output is not None:
        save_figure(draw(measured), options.output)


if __name__ == "__main__":
    main()
