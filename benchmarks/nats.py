"""Nats per second: bounds on log p(x) of a trained run against the time that they take.

python -m benchmarks.nats RUN [--results DIR] [--num-data 20] [--output FILE.png]

IWAE-K, and AIS from the prior and from the posterior, each with growing budgets, on the first test
images of the run's data; all are lower bounds, so that higher at the same time is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from benchmarks.timing import seconds  # first: it sets how threads are pinned

import torch  # isort: skip
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from estimators.protocol import estimators
from experiments.reporting.curves import save_figure
from experiments.runner.build import Built, build, load_data
from experiments.runner.schema import DEFAULTS, Initialise, RunConfig
from experiments.runner.weights import load_into, settle
from utils.config.loading import load
from utils.config.validation import validate
from utils.registry import Node
from utils.results.folder import results_root

CHAINS = {"num_chains": 20, "schedule": "adaptive"}
IWAE = [10, 100, 1000, 10_000, 100_000]
AIS = [5, 20, 80, 320, 1280]
SHOWN = 5.0  # nats below the best bound that the figure shows
METHODS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "IWAE-K": [{"name": "importance", "num_samples": k} for k in IWAE],
    "AIS from the prior": [
        {"name": "ais", "path": "prior", "num_distributions": t, **CHAINS} for t in AIS
    ],
    "AIS from the posterior": [
        {"name": "ais", "path": "posterior", "num_distributions": t, **CHAINS} for t in AIS
    ],
}


class Point(NamedTuple):
    """Seconds a datum, mean bound in nats, and the effort that they took."""

    seconds: float
    bound: float
    effort: int


def measured(built: Built, x: torch.Tensor, options: Mapping[str, Any]) -> Point:
    """Run one estimator on x once."""
    node = TypeAdapter(Annotated[Node, estimators]).validate_python(options)
    estimator = node.build(compile_step=False, rounded_forces=False)
    torch.manual_seed(0)
    values: list[torch.Tensor] = []

    def work() -> None:
        with torch.no_grad():
            context = built.vae.context(x)
            estimate = estimator(built.vae.model, built.vae.posterior, x, context)
        values.append(estimate.log_px.value)

    elapsed = seconds(work)
    effort = options.get("num_samples") or options["num_distributions"]
    return Point(elapsed / len(x), values[0].mean().item(), effort)


def draw(points: Mapping[str, Sequence[Point]], title: str, path: Path) -> None:
    """One line a method, each point labelled with its K or number of distributions."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    best = max(point.bound for line in points.values() for point in line)
    for name, line in points.items():
        axes.plot([p.seconds for p in line], [p.bound for p in line], marker="o", label=name)
        for point in line:
            place = (point.seconds, point.bound)
            if point.bound > best - SHOWN:
                axes.annotate(f"{point.effort}", place, xytext=(3, -10),
                              textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set(xscale="log", xlabel="seconds a datum", ylabel="mean bound on log p(x) (nats)")
    axes.set_ylim(best - SHOWN, best + 0.1 * SHOWN)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="id of a finished run")
    parser.add_argument("--results")
    parser.add_argument("--num-data", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("docs/figures/nats_per_second.png"))
    options = parser.parse_args()
    results = results_root(options.results)
    layer = load(results / "runs" / options.run / "config.yaml", (), (), DEFAULTS)
    config = validate(RunConfig, layer)
    data = load_data(config)
    built = build(config, data.x_shape)
    load_into(built.vae, settle(Initialise(options.run), results), results, torch.device("cpu"))
    x = data.splits["test"][: options.num_data]
    points: dict[str, list[Point]] = {}
    print(f"{options.run}: {config.data.name}, {config.posterior.name}; {len(x)} test images")
    for name, budgets in METHODS.items():
        measured(built, x, budgets[0])  # the first call of anything is slower
        points[name] = [measured(built, x, budget) for budget in budgets]
        for point in points[name]:
            print(f"{name:24} {point.effort:7d} {point.seconds:10.4f} s {point.bound:10.2f}")
    chains = CHAINS["num_chains"]
    draw(points, f"{config.data.name}, {config.posterior.name}; AIS with {chains} chains, "
         "adaptive schedule", options.output)  # fmt: skip


if __name__ == "__main__":
    main()
