"""Draw how the means of posteriors move over training, and print what is told in the end.

python -m experiments.collapse_toy.figure [--methods elbo hvi_avo] [--seeds 0 1] [--output FILE]

The plane is that of He et al. 2019 (arXiv 1901.05534): the mean of the model's posterior p(z|x),
by quadrature, against that of the encoder's q(z|x). The figure, collapse_toy.png in the results
folder, shows the first seed. It trains nothing: of runs that are missing it says the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from estimators.usage import portray
from experiments.drawing import Trained, find_all, make_parser, over_seeds, runs_by_method, save
from experiments.reporting.curves import COLOURS
from experiments.reporting.tables import Cell, Heading, Table, Text, to_markdown
from experiments.runner.earlier import epoch_path
from models.generative import GenerativeModel
from models.vae import VAE
from utils import checkpoint
from utils.console import Console
from utils.results.methods import INFORMATION
from utils.seeding import isolated

BASE = "configs/collapse_toy/base.yaml"
ADDITIONAL = "configs/collapse_toy/additional"
METHODS: Mapping[str, str] = {
    "elbo": "ELBO",
    "kl_warmup": "ELBO, KL warm-up",
    "encoder_steps": "ELBO, encoder steps",
    "iwae": "IWAE-10",
    "hvi_elbo": "HVI, ELBO",
    "hvi_avo": "HVI, AVO",
}
REACH, STEP = 8.0, 0.05
"""Of the grid of z, which ends far beyond the mass of the prior."""
NUM_PATHS = 12
"""Data whose way is drawn, evenly around the circle."""
NUM_DRAWS = 200


class Means(NamedTuple):
    """Of the model's and of the encoder's posterior, (N,) each, after an epoch."""

    epoch: int
    model: Tensor
    encoder: Tensor


class Result(NamedTuple):
    """What a run tells of its data x (N, 2), in nats, and how its means moved."""

    elbo: float
    log_px: float
    information: float
    x: Tensor
    path: Sequence[Means]


def posterior_mean(model: GenerativeModel, x: Tensor) -> Tensor:
    """E[z|x] (N,) under the model of one latent, by quadrature, for x (N, C, H, W)."""
    grid = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=x.dtype)
    log_joint = model.log_joint(x)(grid[:, None, None].expand(-1, len(x), -1))  # (places, N)
    return (log_joint.softmax(0) * grid[:, None]).sum(0)


def measure(run: Trained) -> Result:
    """The estimates of a run, and the means after each epoch that it kept."""
    x, vae = run.splits["test"], run.built.vae
    with isolated(0), torch.no_grad():
        path = [_means(epoch, vae, x) for epoch in _kept_epochs(run)]
    return Result(
        run.mean("importance", "elbo"),
        run.mean("importance", "log_px"),
        run.mean(INFORMATION, "mutual_information"),
        x.flatten(1),
        path,
    )


def _kept_epochs(run: Trained) -> Iterator[int]:
    """Put each epoch's weights into the run's VAE, one after the other."""
    for path in sorted(epoch_path(run.folder, 0).parent.glob("*.pt")):
        state = checkpoint.load(path, "cpu")
        run.built.vae.load_state_dict(state["vae"])
        yield state["epoch"]


def _means(epoch: int, vae: VAE, x: Tensor) -> Means:
    portraits = portray(vae.model, vae.posterior, x, vae.context(x), NUM_DRAWS)
    return Means(epoch, posterior_mean(vae.model, x), portraits.moments.mean[:, 0])


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "collapse_toy.png"), Console()
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    files = {method: [f"{ADDITIONAL}/{method}.yaml"] for method in options.methods}
    runs = find_all(runs_by_method(BASE, files, options), console)
    results = {
        method: [measure(runs[method, seed]) for seed in options.seeds]
        for method in options.methods
    }
    print(to_markdown(_table(results)))
    save(_draw(results), options.output, console)


def _table(results: Mapping[str, Sequence[Result]]) -> Table:
    columns = ("ELBO", "log p(x)", "mutual information", "of each seed")
    rows: list[list[Cell]] = []
    for method, found in results.items():
        told = [result.information for result in found]
        rows.append(
            [
                Text(METHODS[method]),
                over_seeds([result.elbo for result in found]),
                over_seeds([result.log_px for result in found]),
                over_seeds(told),
                Text(", ".join(f"{value:.2f}" for value in told)),
            ]
        )
    return Table([Heading("method"), *(Heading(name, True) for name in columns)], rows)


def _draw(results: Mapping[str, Sequence[Result]]) -> Figure:
    """A panel a method, of the first seed: the way of some data, and where all are in the end."""
    num_columns = min(3, len(results))
    num_rows = -(-len(results) // num_columns)
    figure = Figure((3.4 * num_columns, 3.4 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True).flat
    for axis, (method, (result, *_)) in zip(axes, results.items(), strict=False):
        _panel(axis, result)
        axis.set_title(f"{METHODS[method]}: {result.information:.2f} nats", fontsize=10)
    figure.supxlabel("mean of the model's posterior")
    figure.supylabel("mean of the encoder's posterior")
    return figure


def _panel(axis: Axes, result: Result) -> None:
    axis.axline((0, 0), slope=1, color="0.8", linewidth=1, zorder=0)
    angle = torch.atan2(result.x[:, 1], result.x[:, 0])
    around = angle.argsort()[:: max(1, len(angle) // NUM_PATHS)]
    model = torch.stack([means.model[around] for means in result.path])  # (epochs, data)
    encoder = torch.stack([means.encoder[around] for means in result.path])
    axis.plot(model, encoder, color=COLOURS[0], linewidth=0.7, alpha=0.7)
    end = result.path[-1]
    axis.scatter(end.model, end.encoder, c=angle, cmap="twilight", s=7, zorder=3)


if __name__ == "__main__":
    main()
