"""Draw and print how many units linear VAEs use, beside how many the most likely model uses.

python -m experiments.collapse_linear.figure [--data synthetic mnist] [--output FILE]

The figure goes to collapse_linear.png in the results folder. It trains nothing: of runs that are
missing it says the command.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from estimators.usage import ACTIVE
from experiments.drawing import Trained, Wanted, find_all, make_parser, over_seeds, save
from experiments.reporting.curves import COLOURS
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from models.generative import LinearGaussian
from utils.console import Console
from utils.results.methods import UNITS

BASE = "configs/collapse_linear/base.yaml"
ADDITIONAL = "configs/collapse_linear/additional"
LEARNED = "learned"
SCALES: Mapping[str, Sequence[str]] = {
    "synthetic": ("0.6", "0.85", "1.2", "1.7", "2.2", LEARNED),
    "mnist": ("0.5", "0.7", "1.0", "1.5", "2.3", LEARNED),
}
"""By data, the standard deviations of the noise; those of the sweep."""
NEAR = 0.1
"""Eigenvalues that differ from the variance by less than this share of it are near it."""


class Optimum(NamedTuple):
    """The most likely probabilistic PCA (Tipping and Bishop 1999).

    ``active`` is how many dimensions are active by the measure that runs use, ``near`` how many
    eigenvalues are within ``NEAR`` of the variance; ``log_px`` is the mean over the data, in nats.
    """

    variance: float
    active: int
    near: int
    log_px: float


class Result(NamedTuple):
    """A trained model beside the optimum; ``shortfall`` is of its mean log p(x), in nats."""

    optimum: Optimum
    variance: float
    active: float
    shortfall: float


Results = Mapping[str, Mapping[str, Sequence[Result]]]
"""By data and scale, for each seed."""


def optimum(eigenvalues: Tensor, latent_dim: int, variance: float | None) -> Optimum:
    """Of falling eigenvalues (X,) of the data's covariance; a variance of None is learned.

    W has the length (λ_i - σ²)^½ along eigenvector i where λ_i > σ², else 0; the learned σ² is the
    mean of the eigenvalues left out. The posterior's mean has the variance 1 - σ² / λ_i.
    """
    kept, rest = eigenvalues[:latent_dim], eigenvalues[latent_dim:]
    variance = rest.mean().item() if variance is None else variance
    explained = kept.clamp_min(variance)
    log_det = explained.log().sum() + len(rest) * math.log(variance)
    squares = (kept / explained).sum() + rest.sum() / variance
    log_px = -0.5 * (log_det + squares + len(eigenvalues) * math.log(2 * math.pi))
    return Optimum(
        variance,
        int((1 - variance / explained > ACTIVE).sum()),
        int(((eigenvalues / variance - 1).abs() < NEAR).sum()),
        log_px.item(),
    )


def spectrum(x: Tensor) -> Tensor:
    """Falling eigenvalues (X,) of the maximum-likelihood covariance of x (N, C, H, W)."""
    rows = x.flatten(1).double()
    return torch.linalg.eigvalsh(rows.T.cov(correction=0)).flip(0).clamp_min(0)


def measure(run: Trained, eigenvalues: Tensor, scale: str) -> Result:
    """The run's units and its exact log p(x) of all training data."""
    model = cast(LinearGaussian, run.built.vae.model)
    variance = (2 * model.log_scale.double()).exp().item()
    best = optimum(eigenvalues, model.latent_dim, None if scale == LEARNED else variance)
    log_px = model.log_px(run.splits["train"]).mean().item()
    active = model.latent_dim * run.mean(UNITS, "active_units")
    return Result(best, variance, active, best.log_px - log_px)


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "collapse_linear.png"), Console()
    parser.add_argument("--data", nargs="+", choices=SCALES, default=["synthetic"])
    options = parser.parse_args()
    wanted = {
        (data, scale, seed): _wanted(data, scale, seed, options)
        for data in options.data
        for scale in SCALES[data]
        for seed in options.seeds
    }
    runs = find_all(wanted, console)
    results: dict[str, dict[str, list[Result]]] = {}
    spectra: dict[str, Tensor] = {}
    for (data, scale, _), run in runs.items():
        if data not in spectra:
            spectra[data] = spectrum(run.splits["train"])
        results.setdefault(data, {}).setdefault(scale, []).append(
            measure(run, spectra[data], scale)
        )
    print(to_markdown(_table(results)))
    save(_draw(results, spectra, runs), options.output, console)


def _wanted(data: str, scale: str, seed: int, options: Namespace) -> Wanted:
    noise = "model.learn_scale=true" if scale == LEARNED else f"model.scale={scale}"
    files = [f"{ADDITIONAL}/{data}.yaml", *options.files]
    return Wanted(BASE, files, [noise, f"seed={seed}", *options.assignments])


def _table(results: Results) -> Table:
    columns = ("σ²", "exact σ²", "exact number", "near σ²", "active units", "log p(x) short of it")
    headings = [Heading("data"), Heading("σ"), *(Heading(name, True) for name in columns)]
    rows: list[list[Cell]] = []
    for data, by_scale in results.items():
        for scale, found in by_scale.items():
            best = found[0].optimum
            exact = [Number(n, None, 1, 0) for n in (best.active, best.near)]
            rows.append(
                [
                    *(Text(data), Text(scale), over_seeds([r.variance for r in found])),
                    *(Number(best.variance, None, 1, 3), *exact),
                    over_seeds([r.active for r in found], 1),
                    over_seeds([r.shortfall for r in found]),
                ]
            )
    return Table(headings, rows)


def _draw(
    results: Results, spectra: Mapping[str, Tensor], runs: Mapping[tuple[str, str, int], Trained]
) -> Figure:
    """Active units against the variance of the noise; the line is exact."""
    figure = Figure((4.5 * len(results), 3.6), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (data, by_scale) in zip(axes, results.items(), strict=True):
        (latent_dim, *_) = (
            r.built.vae.model.latent_dim for key, r in runs.items() if key[0] == data
        )
        fixed = [r for scale, found in by_scale.items() if scale != LEARNED for r in found]
        learned = by_scale[LEARNED]
        every = [r.variance for r in (*fixed, *learned)]
        grid = torch.logspace(math.log10(0.8 * min(every)), math.log10(1.2 * max(every)), 400)
        exact = [optimum(spectra[data], latent_dim, v).active for v in grid.tolist()]
        axis.step(grid, exact, color="0.6", label="exact, σ² fixed")
        axis.plot(
            *([r.variance for r in fixed], [r.active for r in fixed]),
            *("o",), color=COLOURS[0], label="VAE, σ² fixed",
        )  # fmt: skip
        axis.plot(
            *([r.variance for r in learned], [r.active for r in learned]),
            *("D",), color=COLOURS[4], label="VAE, σ² learned",
        )  # fmt: skip
        best = learned[0].optimum
        axis.plot(best.variance, best.active, "kx", markersize=9, label="exact, σ² learned")
        axis.set(title=data, xscale="log", xlabel="variance of the noise σ²")
        axis.set_ylabel("active units")
        ticks = sorted({round(r.variance, 2) for r in fixed})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axes[0].legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
