"""Box plots: how far bounds and gradients of Monte-Carlo VAEs are from the exact ones on PCA.

python -m experiments.mcvae_ppca.figure [--seeds 0] [--data 50] [--repeats 200] [--output FILE]

The figure goes to mcvae_ppca.png in the results folder. Trains nothing: of runs of
configs/mcvae_ppca that are missing it says the command. log p(x) and its gradient are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, Wanted, find_all, make_parser, over_seeds, save
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from models.generative import LinearGaussian
from models.vae import VAE
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/mcvae_ppca/base.yaml"
ADDITIONAL = "configs/mcvae_ppca/additional"
METHODS: Mapping[str, str] = {
    "elbo": "no steps",
    "l_1_reverse": "L, K = 1, learned reverse",
    "l_2_reverse": "L, K = 2, learned reverse",
    "l_5": "L, K = 5",
    "l_10": "L, K = 10",
    "a_5": "A, K = 5",
    "a_10": "A, K = 10",
    "a_5_of_10": "A, K = 5, n = 10",
}
NUM_COORDINATES = 50
"""Of the model's mean, whose gradients are compared."""


class Errors(NamedTuple):
    """Over repetitions R: bound - log p(x) (R,) in nats, and gradient - exact gradient (R, 50)."""

    bound: Tensor
    gradient: Tensor

    @property
    def bias(self) -> Number:
        """Mean of the bound's error over repetitions."""
        return over_seeds(self.bound.tolist())

    @property
    def gradient_bias(self) -> float:
        """Mean error, its root mean square over coordinates, with the noise taken out."""
        variance = self.gradient.var(0) / len(self.gradient)
        return (self.gradient.mean(0).square() - variance).mean().clamp(min=0).sqrt().item()

    @property
    def gradient_spread(self) -> float:
        """Standard deviation of a gradient, root of the mean square over coordinates."""
        return self.gradient.var(0).mean().sqrt().item()


def measure(run: Trained, trained: VAE, x: Tensor, num_repeats: int) -> Errors:
    """Repeat the run's loss on one batch x, in float64, with model and encoder of ``trained``.

    The context is the encoder's Gaussian, since step sizes and temperatures are fixed.
    """
    model, posterior = cast(LinearGaussian, trained.model), run.built.vae.posterior.double()
    context = trained.context(x)
    bias = model.bias.requires_grad_(True)
    exact = model.log_px(x).mean()
    (exact_gradient,) = torch.autograd.grad(exact, bias)
    bounds, gradients = [], []
    with isolated(0):
        for _ in range(num_repeats):
            bound = run.built.loss(model, posterior, x, context)
            (gradient,) = torch.autograd.grad(-bound.loss.mean(), bias)
            bounds.append(bound.value.mean() - exact.detach())
            gradients.append((gradient - exact_gradient)[:NUM_COORDINATES])
    return Errors(torch.stack(bounds), torch.stack(gradients))


def main() -> None:
    """Find the runs, repeat, print the table, draw."""
    parser, console = make_parser(__doc__, "mcvae_ppca.png"), Console()
    parser.add_argument("--data", type=int, default=50, help="images; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    (seed,) = options.seeds
    settings = [f"seed={seed}", *options.assignments]
    first = Wanted(BASE, [f"{ADDITIONAL}/iwae.yaml", *options.files], settings)
    trained = find_all({"iwae": first}, console)["iwae"]
    settings = [f"initialise.run={trained.folder.path.name}", *settings]
    wanted = {
        method: Wanted(BASE, [f"{ADDITIONAL}/{method}.yaml", *options.files], settings)
        for method in options.methods
    }
    runs = find_all(wanted, console)
    vae, x = trained.built.vae.double(), trained.splits["test"][: options.data].double()
    results = {name: measure(run, vae, x, options.repeats) for name, run in runs.items()}
    print(to_markdown(_table(results)))
    save(_draw(results), options.output, console)


def _table(results: Mapping[str, Errors]) -> Table:
    columns = ("bound - log p(x)", "its deviation", "gradient: bias", "gradient: deviation")
    rows: list[list[Cell]] = []
    for method, errors in results.items():
        values = [errors.bound.std().item(), errors.gradient_bias, errors.gradient_spread]
        numbers = [Number(value, None, 1, 3) for value in values]
        rows.append([Text(METHODS[method]), errors.bias, *numbers])
    return Table([Heading("method"), *(Heading(name, True) for name in columns)], rows)


def _draw(results: Mapping[str, Errors]) -> Figure:
    """A box a method: bounds over repetitions; gradients over repetitions and coordinates."""
    figure = Figure((11, 5), layout="constrained")
    bounds = [errors.bound for errors in results.values()]
    gradients = [errors.gradient.flatten() for errors in results.values()]
    titles = ("bound - log p(x), nats", "gradient by the mean - exact gradient")
    axes = figure.subplots(1, 2)
    for axis, values, title in zip(axes, (bounds, gradients), titles, strict=True):
        names = [METHODS[method] for method in results]
        axis.boxplot([of.numpy() for of in values], tick_labels=names, showfliers=False)
        axis.axhline(0, color="0.7", linewidth=1, zorder=0)
        for name in axis.get_xticklabels():  # each ends below its box
            name.set(rotation=40, ha="right", rotation_mode="anchor")
        axis.set_title(title)
    return figure


if __name__ == "__main__":
    main()
