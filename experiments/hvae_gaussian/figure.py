"""Draw and print how far each method is from the truth and from the most likely parameters.

python -m experiments.hvae_gaussian.figure [--dims 25 50] [--methods hvae_1 vb] [--output FOLDER]

Writes errors.png, curves.png, tempering.png and bounds.png into the folder hvae_gaussian of the
results. It trains nothing: it draws the runs that there are, and says of the others which commands
make them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import find_all, make_parser, over_seeds, save
from experiments.hvae_gaussian.published import DIMS, PUBLISHED, Errors, published_theta
from experiments.hvae_gaussian.runs import METHODS, Key, Result, measure, wanted
from experiments.reporting.curves import COLOURS
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from utils.console import Console

Results = Mapping[tuple[str, int], Sequence[Result]]
"""By method and dimension, for each seed; only those that there are."""
Value = Callable[[Result], float]

FAMILIES = ("hvae_1", "hvae_10", "planar_1", "planar_30", "iaf", "vb", "full")
"""Methods of one family have one colour."""
EXACT = "exact maximum"
ERRORS: Mapping[str, Callable[[Errors], float]] = {
    "‖Δ - true Δ‖²": lambda errors: errors.offset,
    "‖σ - true σ‖²": lambda errors: errors.scale,
    "‖θ - true θ‖²": sum,
}
BOUNDS: Mapping[str, Value] = {
    "greatest log p(x) - log p(x)": lambda result: result.shortfall,
    "log p(x) - ELBO": lambda result: result.gap,
}


def _of_errors(error: Callable[[Errors], float]) -> Value:
    return lambda result: error(result.errors)


VALUES: Mapping[str, Value] = {
    **{name: _of_errors(error) for name, error in ERRORS.items()},
    **BOUNDS,
}


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "hvae_gaussian"), Console()
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.set_defaults(seeds=[0, 1, 2])
    options = parser.parse_args()
    parts = product(options.dims, options.methods, options.seeds)
    keys = [Key(method, dim, seed) for dim, method, seed in parts]
    of = {key: wanted(key, options.files, options.assignments) for key in keys}
    found: dict[tuple[str, int], list[Result]] = {}
    for key, run in find_all(of, console, some_will_do=True).items():
        found.setdefault(key[:2], []).append(measure(run))
    print(to_markdown(_table(found)))
    for name, draw in FIGURES.items():
        save(draw(found), options.output / f"{name}.png", console)


def _table(results: Results) -> Table:
    names = [*VALUES, *(f"published {name}" for name in ERRORS)]
    headings = [Heading("d"), Heading("method"), *(Heading(name, True) for name in names)]
    rows = []
    for dim in _dims(results):
        best = [result.best for result in _most_runs(results, dim)]
        errors: list[Cell] = [_number(map(error, best)) for error in ERRORS.values()]
        exact = [Number(0.0, None, 1, 2), *[Number(None, None, 0)] * 4]
        rows.append([Text(str(dim)), Text(EXACT), *errors, *exact])
        for method, name in METHODS.items():
            if runs := results.get((method, dim)):
                numbers: list[Cell] = [_number(map(value, runs)) for value in VALUES.values()]
                rows.append([Text(str(dim)), Text(name), *numbers, *_published(method, dim)])
    return Table(headings, rows)


def _dims(results: Results) -> list[int]:
    return sorted({dim for _, dim in results})


def _most_runs(results: Results, dim: int) -> Sequence[Result]:
    """Those of the method with most data sets, for what is the same whatever the method."""
    return max((runs for (_, of), runs in results.items() if of == dim), key=len)


def _number(values: Iterable[float]) -> Number:
    """Mean over data sets, with three significant digits."""
    values = list(values)
    size = max(abs(float(np.mean(values))), 1e-6)
    return over_seeds(values, max(0, 2 - math.floor(math.log10(size))))


def _published(method: str, dim: int) -> list[Number]:
    errors = PUBLISHED.get(method, {}).get(dim, (None, None))
    values = (*errors, published_theta(method, dim))
    return [Number(None, None, 0) if value is None else _number([value]) for value in values]


def _errors(results: Results) -> Figure:
    """The three errors against the dimension, beside those of the most likely parameters."""
    methods = [method for method in METHODS if not method.endswith("_untempered")]
    figure, dims = Figure((13, 5), layout="constrained"), _dims(results)
    axes = figure.subplots(1, len(ERRORS))
    for axis, (name, error) in zip(axes, ERRORS.items(), strict=True):
        _panel(axis, results, methods, _of_errors(error))
        best = [[error(result.best) for result in _most_runs(results, dim)] for dim in dims]
        means = [np.mean(values) for values in best]
        axis.plot(dims, means, color="0.8", linewidth=6, zorder=0, label=EXACT)
        axis.set_title(name)
    return _with_legend(figure, axes[0])


def _tempering(results: Results) -> Figure:
    """HVAE with and without tempering; Δ is left out, for it is the same."""
    values = {name: value for name, value in VALUES.items() if name != next(iter(ERRORS))}
    return _panels(results, [m for m in METHODS if m.startswith("hvae")], values)


def _bounds(results: Results) -> Figure:
    """What each method loses of log p(x), by its parameters and by its posterior."""
    return _panels(results, METHODS, BOUNDS)


def _panels(results: Results, methods: Iterable[str], values: Mapping[str, Value]) -> Figure:
    """A panel a quantity."""
    figure = Figure((4.3 * len(values), 5), layout="constrained")
    axes = figure.subplots(1, len(values))
    for axis, (title, value) in zip(axes, values.items(), strict=True):
        _panel(axis, results, methods, value)
        axis.set_title(title)
    return _with_legend(figure, axes[0])


def _curves(results: Results) -> Figure:
    """How far training bounds are below the greatest log p(x); a panel a dimension."""
    dims = _dims(results)
    figure = Figure((4.3 * len(dims), 5), layout="constrained")
    axes = figure.subplots(1, len(dims), squeeze=False, sharey=True)[0]
    for axis, dim in zip(axes, dims, strict=True):
        for method, name in METHODS.items():
            if runs := results.get((method, dim)):
                curve = np.mean([result.curve for result in runs], axis=0)
                axis.plot(range(1, len(curve) + 1), curve, label=name, **_style(method))
        axis.set(title=f"d = {dim}", xlabel="epoch", xscale="log", yscale="log")
    axes[0].set_ylabel("greatest log p(x) - bound, nats")
    return _with_legend(figure, axes[0])


def _panel(axis: Axes, results: Results, methods: Iterable[str], value: Value) -> None:
    """A line a method over the dimensions, mean over data sets."""
    for method in methods:
        dims = [dim for dim in _dims(results) if (method, dim) in results]
        means = [np.mean([value(r) for r in results[method, dim]]) for dim in dims]
        axis.plot(dims, means, marker="o", markersize=4, label=METHODS[method], **_style(method))
    axis.set(xlabel="d", yscale="log")


def _style(method: str) -> dict[str, Any]:
    family = method.removesuffix("_without_half").removesuffix("_untempered")
    line = "-" if method == family else "--"
    return {"color": COLOURS[FAMILIES.index(family)], "linestyle": line}


def _with_legend(figure: Figure, axis: Axes) -> Figure:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    return figure


FIGURES: Mapping[str, Callable[[Results], Figure]] = {
    "errors": _errors,
    "curves": _curves,
    "tempering": _tempering,
    "bounds": _bounds,
}

if __name__ == "__main__":
    main()
