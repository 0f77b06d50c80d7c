"""Draw six energies beside what each method makes of them, and print how close it comes.

python -m experiments.avo_toy.figure [--seeds 0 1] [--output docs/figures/avo_toy.png]

Does what is missing of the runs of configs/avo_toy. The truth is by quadrature; annealed
importance sampling stands beside it.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.avo_toy.runs import Trained, make_parser, trained
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
    ``weights`` are the shares of draws nearest to each mean of energy d.
    """

    elbo_gap: float
    iwae_gap: float
    coverage: float
    weights: Sequence[float]
    z: Tensor


def measure(run: Trained, energy: EnergyName) -> Result:
    """Gaps from the run's estimates, the rest from draws of its own."""
    vae, x = run.built.vae, run.splits["test"][:1]
    with isolated(0), torch.no_grad():
        z = vae.posterior(vae.context(x), vae.model.log_joint(x), NUM_DRAWS).state.z[:, 0]
    table = tabulate(energy)
    exact = histogram(table.z, table.log_f.softmax(0))
    found = histogram(z.double(), torch.full((len(z),), 1 / len(z), dtype=torch.float64))
    coverage = exact[found >= 0.1 * exact].sum().item()
    log_z = log_normaliser(energy)
    (label,) = (e.label for e in run.built.estimators if e.label.startswith("IWAE"))
    elbo, iwae = run.numbers[f"{label}/elbo"], run.numbers[f"{label}/log_px"]
    return Result(log_z - elbo, log_z - iwae, coverage, mode_weights(z), z)


def histogram(z: Tensor, weights: Tensor) -> Tensor:
    """Total weight in each cell of the square, (cells,), of places z (N, 2)."""
    num = round(2 * EXTENT / CELL)
    # Edges run between the places of `tabulate`.
    places = ((z + EXTENT + STEP / 2) / CELL).floor().long().clamp(0, num - 1)
    return (places[:, 0] * num + places[:, 1]).bincount(weights, minlength=num**2)


def mode_weights(z: Tensor) -> list[float]:
    """Share of z (N, 2) nearest to each mean of energy d."""
    nearest = torch.cdist(z, torch.tensor(list(FOUR_MODES))).argmin(1)
    return (nearest.bincount(minlength=len(FOUR_MODES)) / len(z)).tolist()


def main() -> None:
    """Find or do the runs, print tables, draw."""
    options, console = make_parser(__doc__, "docs/figures/avo_toy.png").parse_args(), Console()
    results = {
        (energy, method): [measure(run, energy) for run in _runs(energy, method, options, console)]
        for energy in ENERGIES
        for method in METHODS
    }
    annealed = {
        energy: [_annealed_gap(run, energy) for run in _runs(energy, "ais", options, console)]
        for energy in ENERGIES
    }
    print(_table(results, annealed))
    with isolated(0):
        _draw({key: found[0].z for key, found in results.items()}, options.output)
    console.info(f"wrote {options.output}")


def _runs(
    energy: EnergyName, method: str, options: Namespace, console: Console
) -> Iterator[Trained]:
    files = [f"{ADDITIONAL}/{method}.yaml", *options.files]
    for seed in options.seeds:
        settings = [f"model.energy={energy}", f"seed={seed}", *options.assignments]
        yield trained(BASE, files, settings, console)


def _annealed_gap(run: Trained, energy: EnergyName) -> float:
    (label,) = (e.label for e in run.built.estimators if e.label.startswith("AIS"))
    return log_normaliser(energy) - run.numbers[f"{label}/log_px"]


def _table(
    results: Mapping[tuple[EnergyName, str], Sequence[Result]],
    annealed: Mapping[EnergyName, Sequence[float]],
) -> str:
    lines = [
        "| energy | log Z | method | log Z - ELBO | log Z - estimate | coverage |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for energy in ENERGIES:
        start = f"| {energy} | {log_normaliser(energy):.3f} |"
        for method, name in METHODS.items():
            found = results[energy, method]
            gaps = [_mean(r.elbo_gap for r in found), _mean(r.iwae_gap for r in found)]
            numbers = " | ".join([*gaps, _mean(r.coverage for r in found)])
            lines.append(f"{start} {name} | {numbers} |")
        lines.append(f"{start} AIS | | {_mean(annealed[energy])} | |")
    means = " | ".join(f"{z1:g}, {z2:g}" for z1, z2 in FOUR_MODES)
    lines += ["", f"| energy d | {means} |", "| --- " + "| ---: " * len(FOUR_MODES) + "|"]
    lines.append(f"| true | {' | '.join(f'{w:.3f}' for w in FOUR_MODES.values())} |")
    for method, name in METHODS.items():
        weights = zip(*(r.weights for r in results["d", method]), strict=True)
        lines.append(f"| {name} | {' | '.join(map(_mean, weights))} |")
    return "\n".join(lines)


def _mean(values: Iterator[float] | Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}"


def _draw(draws: Mapping[tuple[EnergyName, str], Tensor], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shape = (1 + len(METHODS), len(ENERGIES))
    figure, axes = plt.subplots(*shape, squeeze=False, figsize=(2 * shape[1], 2 * shape[0]))
    for column, energy in zip(axes.T, ENERGIES, strict=True):
        half = WINDOWS[energy]
        side = torch.linspace(-half, half, 241)
        z1, z2 = torch.meshgrid(side, side, indexing="xy")
        density = ToyEnergy((0, 1, 1), energy=energy).log_f(torch.stack([z1, z2], -1)).exp()
        column[0].imshow(density.numpy(), origin="lower", extent=[-half, half] * 2, cmap="viridis")
        column[0].set_title(f"energy {energy}", fontsize=9)
        for axis, method in zip(column[1:], METHODS, strict=True):
            limits = [[-half, half]] * 2
            axis.hist2d(*draws[energy, method].T.numpy(), bins=80, range=limits, cmap="viridis")
            axis.set_aspect("equal")
    for axis, name in zip(axes[:, 0], ("truth", *METHODS.values()), strict=True):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
