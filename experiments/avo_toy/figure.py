"""Draw six energies beside what each method makes of them, and print how close it comes.

python -m experiments.avo_toy.figure [--energies d] [--seeds 0 1] [--output FILE]

The figure goes to avo_toy.png in the results folder; that of the documentation is made
with ``--output docs/figures/avo_toy.png``.

Trains nothing: of runs of configs/avo_toy that are missing it says the command. The truth is by
quadrature; annealed importance sampling stands beside it. Of several seeds the figure shows that
of median coverage.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, Wanted, find_all, make_parser, over_seeds, save
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from models.energies import FOUR_MODES, STEP, EnergyName, ToyEnergy, log_normaliser, tabulate
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/avo_toy/base.yaml"
ADDITIONAL = "configs/avo_toy/additional"
ENERGIES: Sequence[EnergyName] = ("a", "b", "c", "d", "e", "f")
METHODS: Mapping[str, str] = {
    "hvi_elbo": "HVI, ELBO",
    "hvi_avo": "HVI, AVO",
    "iaf_elbo": "IAF, ELBO",
    "iaf_avo": "IAF, AVO",
}
EXTENT, CELL = 12.0, 0.25
"""Of the histograms; what lies outside counts for the cells at the edge."""
WINDOWS: Mapping[EnergyName, float] = {"a": 4, "b": 7, "c": 6, "d": 4, "e": 6, "f": 8}
NUM_DRAWS = 200_000


class Result(NamedTuple):
    """A trained posterior against its target, in nats where it is a gap.

    ``coverage`` is the share of f/Z that lies in cells where q has at least a tenth of its mass;
    ``weights`` are the shares of draws nearest to each mean of energy d, of which it has lost
    those with less than a tenth of what is due to them.
    """

    elbo_gap: float
    iwae_gap: float
    coverage: float
    weights: Sequence[float]
    z: Tensor

    @property
    def has_lost(self) -> bool:
        """Whether a mode of energy d is lost."""
        due = FOUR_MODES.values()
        return any(found < 0.1 * true for found, true in zip(self.weights, due, strict=True))


Results = Mapping[EnergyName, Mapping[str, Sequence[Result]]]
"""By energy and method, for each seed."""


def measure(run: Trained, energy: EnergyName) -> Result:
    """Gaps from the run's estimates, the rest from draws of its own."""
    vae, x = run.built.vae, run.splits["test"][:1]
    with isolated(0), torch.no_grad():
        z = vae.posterior(vae.context(x), vae.model.log_joint(x), NUM_DRAWS).state.z[:, 0]
    exact = exact_histogram(energy)
    found = histogram(z.double(), torch.full((len(z),), 1 / len(z), dtype=torch.float64))
    coverage = exact[found >= 0.1 * exact].sum().item()
    log_z = log_normaliser(energy)
    elbo, iwae = run.mean("importance", "elbo"), run.mean("importance", "log_px")
    return Result(log_z - elbo, log_z - iwae, coverage, mode_weights(z), z)


@functools.cache
def exact_histogram(energy: EnergyName) -> Tensor:
    """``histogram`` of f/Z."""
    table = tabulate(energy)
    return histogram(table.z, table.log_f.softmax(0))


def histogram(z: Tensor, weights: Tensor) -> Tensor:
    """Total weight in each cell of the square, (cells,), of draws z (N, 2)."""
    num = round(2 * EXTENT / CELL)
    # Edges run between the points of `tabulate`.
    cells = ((z + EXTENT + STEP / 2) / CELL).floor().long().clamp(0, num - 1)
    return (cells[:, 0] * num + cells[:, 1]).bincount(weights, minlength=num**2)


def mode_weights(z: Tensor) -> list[float]:
    """Share of z (N, 2) nearest to each mean of energy d."""
    nearest = torch.cdist(z, torch.tensor(list(FOUR_MODES))).argmin(1)
    return (nearest.bincount(minlength=len(FOUR_MODES)) / len(z)).tolist()


def main() -> None:
    """Find the runs, print tables, draw."""
    parser, console = make_parser(__doc__, "avo_toy.png"), Console()
    parser.add_argument("--energies", nargs="+", choices=ENERGIES, default=ENERGIES)
    options = parser.parse_args()
    wanted = {
        (energy, method, seed): _wanted(energy, method, seed, options)
        for energy in options.energies
        for method in (*METHODS, "ais")
        for seed in options.seeds
    }
    runs = find_all(wanted, console)
    results = {
        energy: {
            method: [measure(runs[energy, method, seed], energy) for seed in options.seeds]
            for method in METHODS
        }
        for energy in options.energies
    }
    annealed = {
        energy: [_annealed_gap(runs[energy, "ais", seed], energy) for seed in options.seeds]
        for energy in options.energies
    }
    print(to_markdown(_gap_table(results, annealed)))
    if "d" in results:
        print(to_markdown(_mode_table(results["d"])))
    with isolated(0):
        figure = _draw(results)
    save(figure, options.output, console)


def _wanted(energy: EnergyName, method: str, seed: int, options: Namespace) -> Wanted:
    settings = [f"model.energy={energy}", f"seed={seed}", *options.assignments]
    return Wanted(BASE, [f"{ADDITIONAL}/{method}.yaml", *options.files], settings)


def _annealed_gap(run: Trained, energy: EnergyName) -> float:
    return log_normaliser(energy) - run.mean("ais", "log_px")


def _typical(results: Sequence[Result]) -> Result:
    """Of several seeds, the one of median coverage; of two the lower."""
    return sorted(results, key=lambda result: result.coverage)[(len(results) - 1) // 2]


def _gap_table(results: Results, annealed: Mapping[EnergyName, Sequence[float]]) -> Table:
    columns = ("log Z", "log Z - ELBO", "log Z - estimate", "coverage")
    headings = [Heading("energy"), Heading("method"), *(Heading(name, True) for name in columns)]
    rows: list[list[Cell]] = []
    for energy, by_method in results.items():
        log_z = Number(log_normaliser(energy), None, 1, 3)
        for method, name in METHODS.items():
            found = by_method[method]
            gaps = [[r.elbo_gap for r in found], [r.iwae_gap for r in found]]
            numbers = map(over_seeds, [*gaps, [r.coverage for r in found]])
            rows.append([Text(energy), Text(name), log_z, *numbers])
        gap, none = over_seeds(annealed[energy]), Number(None, None, 0)
        rows.append([Text(energy), Text("AIS"), log_z, none, gap, none])
    return Table(headings, rows)


def _mode_table(results: Mapping[str, Sequence[Result]]) -> Table:
    means = [Heading(f"{z1:g}, {z2:g}", True) for z1, z2 in FOUR_MODES]
    true = [Number(weight, None, 1, 3) for weight in FOUR_MODES.values()]
    rows: list[list[Cell]] = [[Text("true"), *true, Text("")]]
    for method, found in results.items():
        weights = zip(*(r.weights for r in found), strict=True)
        lost = Text(f"{sum(r.has_lost for r in found)} of {len(found)}")
        rows.append([Text(METHODS[method]), *map(over_seeds, weights), lost])
    return Table([Heading("energy d"), *means, Heading("runs that lose a mode")], rows)


def _draw(results: Results) -> Figure:
    shape = (1 + len(METHODS), len(results))
    figure = Figure((2 * shape[1], 2 * shape[0]), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for column, (energy, by_method) in zip(axes.T, results.items(), strict=True):
        half = WINDOWS[energy]
        side = torch.linspace(-half, half, 241)
        z1, z2 = torch.meshgrid(side, side, indexing="xy")
        density = ToyEnergy((0, 1, 1), energy=energy).log_f(torch.stack([z1, z2], -1)).exp()
        column[0].imshow(density.numpy(), origin="lower", extent=[-half, half] * 2, cmap="viridis")
        column[0].set_title(f"energy {energy}", fontsize=9)
        for axis, method in zip(column[1:], METHODS, strict=True):
            limits = [[-half, half]] * 2
            z = _typical(by_method[method]).z
            axis.hist2d(*z.T.numpy(), bins=80, range=limits, cmap="viridis")
            axis.set_aspect("equal")
    for axis, name in zip(axes[:, 0], ("truth", *METHODS.values()), strict=True):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


if __name__ == "__main__":
    main()
