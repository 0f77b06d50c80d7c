"""Nats per second: bounds on log p(x) of a trained run against the time that they take.

python -m benchmarks.nats RUN [--results DIR] [--weights EPOCH] [--num-data 20] [--forces]
    [--output FILE.png]

IWAE-K, and AIS from the prior and from the posterior, each with growing budgets, on the first test
images of the run's data; all are lower bounds, so that higher at the same time is better.
``--forces``: AIS alone, by forces in float32 and in bf16, with the difference of their bounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import benchmarks.timing  # noqa: F401 (first: it sets how threads are pinned)

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


FORCES = {"float32": False, "bf16": True}


class Point(NamedTuple):
    """CPU seconds a datum, bounds (B,) in nats, the effort, and what chains told."""

    seconds: float
    bounds: torch.Tensor
    effort: int
    stats: Mapping[str, float]

    @property
    def bound(self) -> float:
        """The mean."""
        return self.bounds.mean().item()

    def __str__(self) -> str:
        told = "".join(f"  {name} {value:.3f}" for name, value in self.stats.items())
        return f"{self.effort:7d} {self.seconds:10.4f} s {self.bound:10.2f}{told}"


def measured(
    built: Built, x: torch.Tensor, options: Mapping[str, Any], rounded: bool = False
) -> Point:
    """Run one estimator on x once; ``rounded``: AIS by forces in bf16."""
    node = TypeAdapter(Annotated[Node, estimators]).validate_python(options)
    estimator = node.build(compile_step=False, rounded_forces=rounded)
    torch.manual_seed(0)
    begin = time.process_time()
    with torch.no_grad():
        context = built.vae.context(x)
        estimate = estimator(built.vae.model, built.vae.posterior, x, context)
    elapsed = time.process_time() - begin
    effort = options.get("num_samples") or options["num_distributions"]
    told = {name: estimate.stats.get(name) for name in ("acceptance", "ess")}
    stats = {name: q.value.mean().item() for name, q in told.items() if q is not None}
    return Point(elapsed / len(x), estimate.log_px.value, effort, stats)


def compared(exact: Iterable[Point], rounded: Iterable[Point]) -> None:
    """Print by how much bounds differ, with the standard error over images."""
    for one, other in zip(exact, rounded, strict=True):
        difference = other.bounds - one.bounds
        error = difference.std().item() / len(difference) ** 0.5
        print(
            f"  bf16 - float32, {one.effort} distributions: {difference.mean().item():+.3f} ± "
            f"{error:.3f} nats, in {other.seconds / one.seconds:.2f} of the time"
        )


def draw(points: Mapping[str, Sequence[Point]], title: str, path: Path) -> None:
    """One line a method, each point labelled with its K or number of distributions."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    bounds = [point.bound for line in points.values() for point in line]
    best = max(bounds)
    worst = max(best - SHOWN, min(bounds))
    for name, line in points.items():
        axes.plot([p.seconds for p in line], [p.bound for p in line], marker="o", label=name)
        for point in line:
            place = (point.seconds, point.bound)
            if point.bound > best - SHOWN:
                axes.annotate(f"{point.effort}", place, xytext=(3, -10),
                              textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set(xscale="log", xlabel="CPU seconds a datum", ylabel="mean bound on log p(x) (nats)")
    margin = 0.1 * max(best - worst, 0.1)
    axes.set_ylim(worst - margin, best + margin)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def measure_all(built: Built, x: torch.Tensor, forces: bool) -> Iterator[tuple[str, list[Point]]]:
    """Each method's name and points, printed as they come."""
    for method, budgets in METHODS.items():
        is_annealed = budgets[0]["name"] == "ais"
        if forces and not is_annealed:
            continue
        lines: list[list[Point]] = []
        for name, rounded in FORCES.items() if forces else [("", False)]:
            measured(built, x[:1], budgets[0], rounded)  # the first call of anything is slower
            title = f"{method}, {name}" if forces else method
            lines.append([])
            for budget in budgets:
                lines[-1].append(measured(built, x, budget, rounded))
                print(f"{title:31} {lines[-1][-1]}", flush=True)
            yield title, lines[-1]
        if forces:
            compared(*lines)


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="id of a finished run")
    parser.add_argument("--results")
    parser.add_argument("--weights", type=int, help="of a kept epoch")
    parser.add_argument("--num-data", type=int, default=20)
    parser.add_argument("--forces", action="store_true", help="compare forces of AIS")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/nats_per_second.png"))
    options = parser.parse_args()
    results = results_root(options.results)
    layer = load(results / "runs" / options.run / "config.yaml", (), (), DEFAULTS)
    config = validate(RunConfig, layer)
    data = load_data(config)
    built = build(config, data.x_shape)
    chosen = Initialise(options.run, weights=options.weights)
    load_into(built.vae, settle(chosen, results), results, torch.device("cpu"))
    x = data.splits["test"][: options.num_data]
    print(f"{options.run}: {config.data.name}, {config.posterior.name}; {len(x)} test images")
    points = dict(measure_all(built, x, options.forces))
    chains = CHAINS["num_chains"]
    draw(points, f"{config.data.name}, {config.posterior.name}; AIS with {chains} chains, "
         "adaptive schedule", options.output)  # fmt: skip


if __name__ == "__main__":
    main()
