"""Draw the final bound against the length of the KL annealing, and print it.

python -m experiments.avo_beta_annealing.figure [--lengths 0 20 100 300]

Does what is missing of the runs of configs/avo_beta_annealing. Bounds are of the test split, at
the weights after the last epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.avo_toy.runs import make_parser, trained
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
    """Find or do the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "docs/figures/avo_beta_annealing.png"), Console()
    parser.add_argument("--lengths", type=int, nargs="+", default=[0, 20, 100, 300])
    options = parser.parse_args()

    def bounds(method: str, length: int, seed: int) -> Bounds:
        data = options.files or [f"{ADDITIONAL}/digits.yaml"]
        files = [data[0], f"{ADDITIONAL}/{method}.yaml", *data[1:]]
        warmup = f"loss.warmup.epochs={length}" if length else "loss.warmup=null"
        run = trained(BASE, files, [warmup, f"seed={seed}", *options.assignments], console)
        (label,) = (e.label for e in run.built.estimators)
        return Bounds(run.numbers[f"{label}/elbo"], run.numbers[f"{label}/log_px"])

    results: Results = {
        method: {
            length: [bounds(method, length, seed) for seed in options.seeds]
            for length in options.lengths
        }
        for method in METHODS
    }
    print(_table(results, options.lengths))
    _draw(results, options.output)
    console.info(f"wrote {options.output}")


def _table(results: Results, lengths: Sequence[int]) -> str:
    lines = [
        "| test ELBO / IWAE after annealing for | " + " | ".join(map(str, lengths)) + " |",
        "| --- " + "| ---: " * len(lengths) + "|",
    ]
    for method, name in METHODS.items():
        cells = []
        for runs in results[method].values():
            elbo, iwae = (statistics.fmean(numbers) for numbers in zip(*runs, strict=True))
            cells.append(f"{elbo:.2f} / {iwae:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(results: Results, output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True)
    for axis, bound, title in zip(axes, Bounds._fields, ("ELBO", "IWAE"), strict=True):
        for method, name in METHODS.items():
            by_length = results[method].items()
            values = [[getattr(run, bound) for run in runs] for _, runs in by_length]
            means = [statistics.fmean(numbers) for numbers in values]
            spread = [statistics.stdev(n) if len(n) > 1 else 0.0 for n in values]
            lengths = [length for length, _ in by_length]
            axis.errorbar(lengths, means, yerr=spread, marker="o", capsize=3, label=name)
        axis.set_title(f"test {title}, nats")
        axis.set_xlabel("epochs of annealing")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
