"""Draw how near each method comes to the two true parameters, and print it beside the maximum.

python -m experiments.mcvae_toy_recovery.figure [--dims 2 20] [--seeds 0 1] [--output FILE]

The figure goes to mcvae_toy_recovery.png in the results folder. Trains nothing: of runs of
configs/mcvae_toy_recovery that are missing it says the command. log p(x) is exact, so the most
likely parameters of the training data are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, find_all, make_parser, over_seeds, runs_by_method, save
from experiments.most_likely import most_likely
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from models.noisy_radius import NoisyRadius
from utils.console import Console

BASE = "configs/mcvae_toy_recovery/base.yaml"
ADDITIONAL = "configs/mcvae_toy_recovery/additional"
METHODS: Mapping[str, str] = {
    "vae": "VAE",
    "iwae": "IWAE",
    "rnvp": "RealNVP",
    "l_mcvae": "L-MCVAE",
    "l_mcvae_skip": "L-MCVAE, steps skipped",
    "a_mcvae": "A-MCVAE",
}
DIMS = (2, 5, 10, 20, 50, 100, 150, 200, 300)
TRUE_SLOPE, TRUE_OFFSET = 2 * math.pi, 2.0
MAXIMUM = "exact maximum"


class Result(NamedTuple):
    """A model's parameters, and means over test data in nats.

    ``gap`` is log p(x) - ELBO of the data that the run was evaluated on; None without a q.
    """

    slope: float
    offset: float
    log_px: float
    gap: float | None

    @property
    def error(self) -> float:
        """(a - 2π)² + (b - 2)²."""
        return (self.slope - TRUE_SLOPE) ** 2 + (self.offset - TRUE_OFFSET) ** 2


Results = Mapping[int, Mapping[str, Sequence[Result]]]
"""By dimension and method, for each seed."""


def measure(run: Trained) -> Result:
    """What the run has learned, its gap by its own estimates."""
    model = cast(NoisyRadius, run.built.vae.model).double()
    gap = run.mean("exact", "log_px") - run.mean("importance", "elbo")
    return result_of(model, run.splits["test"], gap)


def result_of(model: NoisyRadius, x: Tensor, gap: float | None) -> Result:
    """A model's, log p(x) of test data x."""
    with torch.no_grad():
        slope, offset = model.log_slope.exp().item(), model.log_offset.exp().item()
        return Result(slope, offset, model.log_px(x).mean().item(), gap)


def of_greatest_likelihood(latent_dim: int, splits: Mapping[str, Tensor]) -> Result:
    """The parameters of the greatest log p(x) of the training data, in float64."""
    x = splits["train"]
    model = NoisyRadius(x.shape[1:], latent_dim=latent_dim, slope=TRUE_SLOPE, offset=TRUE_OFFSET)
    return result_of(most_likely(model, x), splits["test"], None)


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "mcvae_toy_recovery.png"), Console()
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS, metavar="D")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    files = {method: [f"{ADDITIONAL}/{method}.yaml"] for method in options.methods}
    wanted = {
        (dim, *key): run
        for dim in options.dims
        for key, run in runs_by_method(BASE, files, options, dimension(dim)).items()
    }
    runs = find_all(wanted, console)
    results: dict[int, dict[str, Sequence[Result]]] = {}
    for dim in options.dims:
        splits = runs[dim, options.methods[0], options.seeds[0]].splits
        results[dim] = {MAXIMUM: [of_greatest_likelihood(dim, splits)]}
        for method in options.methods:
            results[dim][method] = [measure(runs[dim, method, seed]) for seed in options.seeds]
    print(to_markdown(_table(results)))
    save(_draw(results), options.output, console)


def dimension(dim: int) -> list[str]:
    """What sets d."""
    return [f"data.latent_dim={dim}", f"model.latent_dim={dim}"]


def _table(results: Results) -> Table:
    columns = ("a", "b", "(a - 2π)² + (b - 2)²", "test log p(x)", "log p(x) - ELBO")
    headings = [Heading("d"), Heading("method"), *(Heading(name, True) for name in columns)]
    rows: list[list[Cell]] = []
    for dim, by_method in results.items():
        for method, found in by_method.items():
            gaps = [r.gap for r in found if r.gap is not None]
            numbers = [
                over_seeds([r.slope for r in found]),
                over_seeds([r.offset for r in found]),
                over_seeds([r.error for r in found]),
                over_seeds([r.log_px for r in found]),
                over_seeds(gaps) if gaps else Number(None, None, 0),
            ]
            rows.append([Text(str(dim)), Text(METHODS.get(method, method)), *numbers])
    return Table(headings, rows)


def _draw(results: Results) -> Figure:
    """Errors and what the parameters lose of log p(x), against the dimension."""
    figure = Figure((10, 4), layout="constrained")
    first, second = figure.subplots(1, 2)
    dims = list(results)
    for method in results[dims[0]]:
        errors = [np.mean([r.error for r in results[dim][method]]) for dim in dims]
        if method == MAXIMUM:
            first.plot(dims, errors, "ks-", label=MAXIMUM)
            continue
        lost = [_lost(results[dim], method) for dim in dims]
        first.plot(dims, errors, marker="o", markersize=4, label=METHODS[method])
        second.plot(dims, lost, marker="o", markersize=4)
    first.set(xlabel="d", ylabel="(a - 2π)² + (b - 2)²", xscale="log", yscale="log")
    second.set(xlabel="d", ylabel="log p(x) lost to the exact maximum, nats")
    second.set(xscale="log", yscale="log")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _lost(by_method: Mapping[str, Sequence[Result]], method: str) -> float:
    best = by_method[MAXIMUM][0].log_px
    return float(np.mean([best - result.log_px for result in by_method[method]]))


if __name__ == "__main__":
    main()
