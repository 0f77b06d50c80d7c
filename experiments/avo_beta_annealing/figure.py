"""Draw the final bound against the length of the KL annealing, and print it.

python -m experiments.avo_beta_annealing.figure [--lengths 0 20 100 300] [--output FILE]

The figure goes to avo_beta_annealing.png in the results folder; that of the documentation is made
with ``--output docs/figures/avo_beta_annealing.png``.

Trains nothing: of runs of configs/avo_beta_annealing that are missing it says the command. Bounds
are of the test split, at the weights after the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.drawing import Trained, Wanted, find_all, make_parser, over_seeds, save
from experiments.reporting.tables import Cell, Heading, Table, Text, to_markdown
from utils.console import Console

BASE = "configs/avo_beta_annealing/base.yaml"
ADDITIONAL = "configs/avo_beta_annealing/additional"
METHODS: Mapping[str, str] = {"vae": "VAE", "hvi": "HVI, ELBO", "hvi_avo": "HVI, AVO"}


class Bounds(NamedTuple):
    """Of a run, in nats: test ELBO and importance-weighted bound."""

    elbo: float
    iwae: float


Results = Mapping[str, Mapping[int, Sequence[Bounds]]]
"""By method and length of the annealing, for each seed."""


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "avo_beta_annealing.png"), Console()
    parser.add_argument("--lengths", type=int, nargs="+", default=[0, 20, 100, 300])
    options = parser.parse_args()

    data = options.files or [f"{ADDITIONAL}/digits.yaml"]

    def wanted(method: str, length: int, seed: int) -> Wanted:
        files = [data[0], f"{ADDITIONAL}/{method}.yaml", *data[1:]]
        warmup = f"loss.warmup.epochs={length}" if length else "loss.warmup=null"
        return Wanted(BASE, files, [warmup, f"seed={seed}", *options.assignments])

    keys = list(product(METHODS, options.lengths, options.seeds))
    runs = find_all({key: wanted(*key) for key in keys}, console)
    results: Results = {
        method: {
            length: [_bounds(runs[method, length, seed]) for seed in options.seeds]
            for length in options.lengths
        }
        for method in METHODS
    }
    print(to_markdown(_table(results, options.lengths)))
    save(_draw(results), options.output, console)


def _bounds(run: Trained) -> Bounds:
    return Bounds(run.mean("importance", "elbo"), run.mean("importance", "log_px"))


def _table(results: Results, lengths: Sequence[int]) -> Table:
    rows: list[list[Cell]] = []
    for method, name in METHODS.items():
        for index, bound in enumerate(("ELBO", "IWAE")):
            by_length = ([run[index] for run in runs] for runs in results[method].values())
            rows.append(
                [Text(name), Text(bound), *(over_seeds(values, 2) for values in by_length)]
            )
    headings = [Heading("method"), Heading("test bound after annealing for")]
    return Table([*headings, *(Heading(str(length), True) for length in lengths)], rows)


def _draw(results: Results) -> Figure:
    figure = Figure((9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for index, (axis, title) in enumerate(zip(axes, ("ELBO", "IWAE"), strict=True)):
        for method, name in METHODS.items():
            means = [over_seeds([r[index] for r in runs]) for runs in results[method].values()]
            axis.errorbar(
                list(results[method]),
                [number.mean for number in means],
                yerr=[number.standard_error or 0.0 for number in means],
                marker="o",
                capsize=3,
                label=name,
            )
        axis.set_title(f"test {title}, nats")
        axis.set_xlabel("epochs of annealing")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(METHODS),
        title="mean ± standard error over seeds",
        fontsize="small",
        title_fontsize="small",
    )
    return figure


if __name__ == "__main__":
    main()
