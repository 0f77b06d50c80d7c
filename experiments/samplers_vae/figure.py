"""Lines: the bound and log p(x) of a decoder against the gradients that its posterior spends.

python -m experiments.samplers_vae.figure [--steps 0 1 4 16 64] [--seeds 0] [--output FILE]

The figure goes to samplers_vae.png in the results folder. Trains nothing: of runs of
configs/samplers_vae that are missing it says the command, and draws what there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from experiments.drawing import Trained, Wanted, find_all, make_parser, over_seeds, save
from experiments.reporting.tables import Number
from utils.console import Console

BASE = "configs/samplers_vae/base.yaml"
SAMPLER = "configs/samplers_vae/additional/sampler.yaml"
METHODS = (
    "langevin",
    "annealed_mala",
    "hamiltonian",
    "hamiltonian_vi",
    "uha",
    "ldvi",
    "mcd",
    "cmcd",
)
STEPS = (0, 1, 4, 16, 64)
WITHOUT_STEPS = "langevin"
"""The method whose chain of no steps is the Gaussian itself."""
NAMES = {"elbo": "bound", "log_px": "log p(x) by importance sampling"}


class Key(NamedTuple):
    """A run: method, K and seed."""

    method: str
    num_steps: int
    seed: int


def points(numbers: Mapping[Key, float], method: str) -> Mapping[int, Number]:
    """Mean over seeds by K, in rising order; the Gaussian, K = 0, is the first of every method."""
    found: dict[int, list[float]] = {}
    for key, value in numbers.items():
        if key.method == method or (key.method, key.num_steps) == (WITHOUT_STEPS, 0):
            found.setdefault(key.num_steps, []).append(value)
    return {num_steps: over_seeds(found[num_steps]) for num_steps in sorted(found)}


def draw(numbers: Mapping[str, Mapping[Key, float]], methods: Sequence[str]) -> Figure:
    """A panel for each name of ``NAMES``: nats against K + 1 gradients, a line a method."""
    figure = Figure((11, 4.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(NAMES)), NAMES.items(), strict=True):
        for method in methods:
            line = points(numbers[name], method)
            means = [number.mean for number in line.values()]
            errors = [number.standard_error or 0.0 for number in line.values()]
            axis.errorbar([k + 1 for k in line], means, errors, marker="o", label=method)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("gradients of the decoder a draw, K + 1")
        axis.set_ylabel("nats per image")
        axis.set_title(title)
    figure.axes[0].legend()
    return figure


def wanted(options: Sequence[str], files: Sequence[str], key: Key, start: str) -> Wanted:
    """What makes the run of a key from the weights of the run ``start``."""
    more = [SAMPLER, f"configs/samplers_vae/method/{key.method}.yaml", *files]
    settings = [f"posterior.num_steps={key.num_steps}", f"initialise.run={start}", *options]
    return Wanted(BASE, more, [f"seed={key.seed}", *settings])


def main() -> None:
    """Find the runs, draw."""
    parser, console = make_parser(__doc__, "samplers_vae.png"), Console()
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), metavar="K")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    files = [str(path) for path in options.files]
    first = {
        seed: Wanted(BASE, files, [f"seed={seed}", *options.assignments]) for seed in options.seeds
    }
    starts = find_all(first, console)
    keys = [
        Key(method, num_steps, seed)
        for method in options.methods
        for num_steps in options.steps
        for seed in starts
        if num_steps > 0 or method == WITHOUT_STEPS
    ]
    runs: Mapping[Key, Trained] = find_all(
        {
            key: wanted(options.assignments, files, key, starts[key.seed].folder.path.name)
            for key in keys
        },
        console,
        some_will_do=True,
    )
    numbers = {
        name: {key: run.mean("importance", name) for key, run in runs.items()} for name in NAMES
    }
    save(draw(numbers, options.methods), options.output, console)


if __name__ == "__main__":
    main()
