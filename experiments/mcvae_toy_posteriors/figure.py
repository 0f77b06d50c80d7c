"""Draw ring-shaped posteriors beside what each method makes of them, and print how far it is off.

python -m experiments.mcvae_toy_posteriors.figure [--seeds 0 1] [--output FILE]

The figure goes to mcvae_toy_posteriors.png in the results folder; it shows the first seed. Trains
nothing: of runs of configs/mcvae_toy_posteriors that are missing it says the command. The truth,
and KL(q || p(z|x)), are by quadrature on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, find_all, make_parser, over_seeds, runs_by_method, save
from experiments.reporting.tables import Cell, Heading, Table, Text, to_markdown
from models.generative import GenerativeModel
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/mcvae_toy_posteriors/base.yaml"
ADDITIONAL = "configs/mcvae_toy_posteriors/additional"
METHODS: Mapping[str, str] = {
    "vae": "VAE",
    "iwae": "IWAE, resampled",
    "rnvp": "RealNVP",
    "l_mcvae": "L-MCVAE",
    "a_mcvae": "A-MCVAE",
}
NUM_CANDIDATES: Mapping[str, int] = {"iwae": 50}
"""Of which a draw is chosen; 1 where nothing stands here."""
RADII = (0.5, 1.2, 2.2)
"""Of the rings that are drawn: x = 2π (r + 2)."""
EXTENT, CELL, FINER = 4.0, 0.1, 4
"""Of the grid: half its side, a cell's side, and points a cell's side for the truth."""
NUM_CELLS = round(2 * EXTENT / CELL)
NUM_DRAWS = 100_000


def data() -> Tensor:
    """The x (R, 1, 1, 1) of the rings."""
    x = [2 * math.pi * (radius + 2) for radius in RADII]
    return torch.tensor(x).view(-1, 1, 1, 1)


def log_shares(model: GenerativeModel, x: Tensor) -> Tensor:
    """log of p(z|x)'s mass in each cell (cells,) in float64, for one datum x (1, 1, 1, 1)."""
    num_points = NUM_CELLS * FINER
    side = (torch.arange(num_points, dtype=torch.float64) + 0.5) * (CELL / FINER) - EXTENT
    z = torch.cartesian_prod(side, side)[:, None]
    log_f = model.double().log_joint(x.double())(z)[:, 0].log_softmax(0)
    cells = log_f.view(NUM_CELLS, FINER, NUM_CELLS, FINER).movedim(1, 2).flatten(2)
    return cells.logsumexp(-1).flatten()


def shares(z: Tensor) -> Tensor:
    """Share of draws z (N, 2) in each cell (cells,); what lies outside counts for the edge."""
    places = ((z + EXTENT) / CELL).floor().long().clamp(0, NUM_CELLS - 1)
    counts = (places[:, 0] * NUM_CELLS + places[:, 1]).bincount(minlength=NUM_CELLS**2)
    return counts.double() / len(z)


def divergence(found: Tensor, log_exact: Tensor) -> float:
    """KL(found || exact) in nats, less the (cells - 1) / 2N that it is too large by (Miller)."""
    own = found > 0
    bias = (own.sum().item() - 1) / (2 * NUM_DRAWS)
    return (found[own] * (found[own].log() - log_exact[own])).sum().item() - bias


@torch.no_grad()
def draws(run: Trained, x: Tensor, num_candidates: int) -> Tensor:
    """Draws (N, 2) of the run's posterior for one datum x (1, 1, 1, 1).

    Each is one of several candidates, chosen by their importance weights (what IWAE implies:
    Cremer et al. 2017, arXiv 1704.02916).
    """
    vae = run.built.vae.float()
    context, log_joint = vae.context(x), vae.model.log_joint(x)
    candidates = [vae.posterior(context, log_joint, NUM_DRAWS) for _ in range(num_candidates)]
    z = torch.stack([draw.state.z[:, 0] for draw in candidates])  # (candidates, N, 2)
    log_w = torch.stack([draw.log_w[:, 0] for draw in candidates], -1)  # (N, candidates)
    chosen = log_w.softmax(-1).multinomial(1)[:, 0]
    return z[chosen, torch.arange(NUM_DRAWS)]


class Result(NamedTuple):
    """Of a run: shares of draws in cells and KL(q || p(z|x)) for each ring, and its mean gap."""

    shares: Sequence[Tensor]
    divergences: Sequence[float]
    gap: float


def measure(run: Trained, method: str, exact: Sequence[Tensor]) -> Result:
    """Rings from draws of its own, the gap from the run's estimates."""
    with isolated(0):
        z = [draws(run, x[None], NUM_CANDIDATES.get(method, 1)) for x in data()]
    found = [shares(of) for of in z]
    divergences = [divergence(own, log_p) for own, log_p in zip(found, exact, strict=True)]
    gap = run.mean("exact", "log_px") - run.mean("importance", "elbo")
    return Result(found, divergences, gap)


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "mcvae_toy_posteriors.png"), Console()
    options = parser.parse_args()
    files = {method: [f"{ADDITIONAL}/{method}.yaml"] for method in METHODS}
    runs = find_all(runs_by_method(BASE, files, options), console)
    model = runs["vae", options.seeds[0]].built.vae.model
    exact = [log_shares(model, x[None]) for x in data()]
    results = {
        method: [measure(runs[method, seed], method, exact) for seed in options.seeds]
        for method in METHODS
    }
    print(to_markdown(_table(results)))
    save(_draw(results, exact), options.output, console)


def _table(results: Mapping[str, Sequence[Result]]) -> Table:
    columns = [f"KL, r = {radius:g}" for radius in RADII]
    headings = [Heading("method"), *(Heading(name, True) for name in columns)]
    headings.append(Heading("log p(x) - ELBO", True))
    rows: list[list[Cell]] = []
    for method, found in results.items():
        by_ring = zip(*(result.divergences for result in found), strict=True)
        numbers = [over_seeds(values) for values in by_ring]
        gap = over_seeds([result.gap for result in found])
        rows.append([Text(METHODS[method]), *numbers, gap])
    return Table(headings, rows)


def _draw(results: Mapping[str, Sequence[Result]], exact: Sequence[Tensor]) -> Figure:
    """A row a ring: the truth, then each method's first seed, all on the truth's scale."""
    columns = {"truth": [log_p.exp() for log_p in exact]}
    columns |= {METHODS[method]: list(found[0].shares) for method, found in results.items()}
    figure = Figure((2 * len(columns), 2 * len(RADII)), layout="constrained")
    axes = figure.subplots(len(RADII), len(columns))
    for column, (name, by_ring) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(name, fontsize=9)
        for axis, density, log_p in zip(column, by_ring, exact, strict=True):
            top, square = log_p.max().exp().item(), density.view(NUM_CELLS, NUM_CELLS)
            extent = [-EXTENT, EXTENT] * 2
            axis.imshow(square.T.numpy(), origin="lower", extent=extent, vmin=0, vmax=1.5 * top)
            axis.set(xticks=[], yticks=[])
    for axis, radius in zip(axes[:, 0], RADII, strict=True):
        axis.set_ylabel(f"x = 2π ({radius:g} + 2)", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
