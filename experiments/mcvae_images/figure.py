"""Print bounds and log p(x) of held-out images beside the published ones, and draw them by epoch.

python -m experiments.mcvae_images.figure [--data mnist] [--epochs 10 30] [--output FILE]

The figure goes to mcvae_images.png in the results folder. Trains and measures nothing: of runs of
configs/mcvae_images that are missing it says the command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import (
    Trained,
    Wanted,
    find_all,
    make_parser,
    over_seeds,
    runs_by_method,
    save,
)
from experiments.mcvae_images.published import EPOCHS, PUBLISHED
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from utils.console import Console

BASE = "configs/mcvae_images/base.yaml"
ADDITIONAL = "configs/mcvae_images/additional"
METHODS: Mapping[str, str] = {
    "vae": "VAE",
    "iwae_10": "IWAE, K = 10",
    "iwae_50": "IWAE, K = 50",
    "l_5": "L-MCVAE, K = 5",
    "l_10": "L-MCVAE, K = 10",
    "a_3": "A-MCVAE, K = 3",
    "a_5": "A-MCVAE, K = 5",
    "rnvp": "VAE + RealNVP",
}
DATA = ("mnist", "cifar10", "omniglot", "fashion_mnist", "celeba")


class Result(NamedTuple):
    """Means over held-out images in nats: the ELBO, log p(x) by the weak AIS and by ours."""

    elbo: float
    weak: float
    strong: float


class Key(NamedTuple):
    """Which measurement."""

    method: str
    epoch: int
    seed: int


Results = Mapping[str, Mapping[int, Sequence[Result]]]
"""By method and epoch, for each seed."""


def measure(run: Trained) -> Result:
    """From the run's estimates; of two AIS the weak one is that with fewer steps."""
    by_steps = {
        method.options["num_distributions"]: value
        for (method, name), value in run.numbers.items()
        if (method.estimator, name) == ("ais", "log_px")
    }
    return Result(run.mean("importance", "elbo"), by_steps[min(by_steps)], by_steps[max(by_steps)])


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "mcvae_images.png"), Console()
    parser.add_argument("--data", choices=DATA, default="mnist")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, nargs="+", default=list(EPOCHS))
    options = parser.parse_args()
    files = {
        method: [f"{ADDITIONAL}/{options.data}.yaml", f"{ADDITIONAL}/{method}.yaml"]
        for method in options.methods
    }
    trainings = runs_by_method(BASE, files, options)
    trained = find_all(trainings, console)
    wanted = {
        Key(method, epoch, seed): Wanted(
            BASE,
            [*files[method], f"{ADDITIONAL}/measure.yaml", *options.files],
            [
                f"initialise.run={trained[method, seed].folder.path.name}",
                f"initialise.weights={epoch}",
                *trainings[method, seed].assignments,
            ],
        )
        for method in options.methods
        for epoch in options.epochs
        for seed in options.seeds
    }
    runs = find_all(wanted, console)
    results = {
        method: {
            epoch: [measure(runs[Key(method, epoch, seed)]) for seed in options.seeds]
            for epoch in options.epochs
        }
        for method in options.methods
    }
    print(to_markdown(_table(results, options.data)))
    save(_draw(results), options.output, console)


def _table(results: Results, data: str) -> Table:
    columns = ("-ELBO", "published bound", "NLL, weak AIS", "published NLL", "NLL, our AIS")
    headings = [Heading("epoch"), Heading("method"), *(Heading(name, True) for name in columns)]
    rows: list[list[Cell]] = []
    for method, by_epoch in results.items():
        for epoch, found in by_epoch.items():
            bound, nll = _published(data, method, epoch)
            ours = [
                over_seeds([-getattr(result, name) for result in found], 2)
                for name in Result._fields
            ]
            numbers = [ours[0], bound, ours[1], nll, ours[2]]
            rows.append([Text(str(epoch)), Text(METHODS[method]), *numbers])
    return Table(headings, rows)


def _published(data: str, method: str, epoch: int) -> tuple[Number, Number]:
    """Bound and NLL, empty where there are none."""
    none = Number(None, None, 0)
    if data not in PUBLISHED or epoch not in EPOCHS:
        return none, none
    table, place = PUBLISHED[data], EPOCHS.index(epoch)
    bound, nll = (Number(table.constant + row[place], None, 1) for row in table.rows[method])
    return bound, nll


def _draw(results: Results) -> Figure:
    """Held-out log p(x) against epochs, a panel an estimator."""
    figure = Figure((10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, title in zip(axes, ("weak", "strong"), ("weak AIS", "our AIS"), strict=True):
        for method, by_epoch in results.items():
            means = [np.mean([getattr(r, name) for r in found]) for found in by_epoch.values()]
            axis.plot(list(by_epoch), means, marker="o", markersize=4, label=METHODS[method])
        axis.set(title=title, xlabel="epoch", xscale="log")
    axes[0].set_ylabel("held-out log p(x), nats")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
