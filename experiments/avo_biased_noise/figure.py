"""Draw the noise scale that each method learns, and its posterior, beside the exact ones.

python -m experiments.avo_biased_noise.figure [--seeds 0 1] [--output FILE]

The figure goes to avo_biased_noise.png in the results folder; that of the documentation is made
with ``--output docs/figures/avo_biased_noise.png``.

Trains nothing: of runs of configs/avo_biased_noise that are missing it says the command. log p(x)
and the posterior are exact, so the maximum-likelihood noise scale of the training data is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, find_all, make_parser, over_seeds, runs_by_method, save
from experiments.most_likely import most_likely
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from models.energies import AbsoluteValue
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/avo_biased_noise/base.yaml"
ADDITIONAL = "configs/avo_biased_noise/additional"
METHODS: Mapping[str, str] = {
    "gaussian_elbo": "FFG, ELBO",
    "hvi_elbo": "HVI, ELBO",
    "hvi_avo": "HVI, AVO",
}
SHOWN = 1.0
"""The x whose posterior is drawn."""
NUM_DRAWS = 100_000


def model_of(run: Trained) -> AbsoluteValue:
    """The run's generative model, which has to be of that kind."""
    model = run.built.vae.model
    assert isinstance(model, AbsoluteValue)
    return model


def main() -> None:
    """Find the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "avo_biased_noise.png"), Console()
    options = parser.parse_args()
    files = {method: [f"{ADDITIONAL}/{method}.yaml"] for method in METHODS}
    found = find_all(runs_by_method(BASE, files, options), console)
    runs = {method: [found[method, seed] for seed in options.seeds] for method in METHODS}
    splits = runs["hvi_avo"][0].splits
    best = most_likely(AbsoluteValue(splits["train"].shape[1:]), splits["train"])
    print(to_markdown(_table(runs, best, splits)))
    with isolated(0), torch.no_grad():
        figure = _draw(runs, best, splits["train"])
    save(figure, options.output, console)


def _table(
    runs: Mapping[str, Sequence[Trained]], best: AbsoluteValue, splits: Mapping[str, Tensor]
) -> Table:
    columns = ("noise scale", "of maximum likelihood (%)", "exact test log p(x)", "test ELBO")
    exact = best.log_px(splits["test"].double()).mean().item()
    best_scale, none = _scale(best), Number(None, None, 0)
    first = [Number(best_scale, None, 1, 3), Number(100.0, None, 1, 0), Number(exact, None, 1, 4)]
    rows: list[list[Cell]] = [[Text("maximum likelihood"), *first, none]]
    for method, name in METHODS.items():
        scales = [_scale(model_of(run)) for run in runs[method]]
        share = over_seeds([100 * scale / best_scale for scale in scales], 0)
        bounds = [
            over_seeds([run.mean(*number) for run in runs[method]], 4)
            for number in (("exact", "log_px"), ("importance", "elbo"))
        ]
        rows.append([Text(name), over_seeds(scales), share, *bounds])
    return Table([Heading("method"), *(Heading(column, True) for column in columns)], rows)


def _scale(model: AbsoluteValue) -> float:
    return model.log_scale.exp().item()


def _draw(runs: Mapping[str, Sequence[Trained]], best: AbsoluteValue, x: Tensor) -> Figure:
    figure = Figure((13, 3), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(METHODS))
    scales = torch.linspace(0.6 * _scale(best), 2 * _scale(best), 60)
    log_px = [_log_likelihood(x, scale.item()) for scale in scales]
    first.plot(scales, log_px, color="black")
    first.axvline(_scale(best), color="black", linestyle=":", label="maximum likelihood")
    for colour, (method, name) in enumerate(METHODS.items()):
        learned = [_scale(model_of(run)) for run in runs[method]]
        heights = [_log_likelihood(x, scale) for scale in learned]
        first.plot(learned, heights, "o", color=f"C{colour}", label=name)
    first.set_xlabel("noise scale")
    first.set_ylabel("exact log p(x), training data")
    first.legend(fontsize=7)
    for colour, (axis, method) in enumerate(zip(others, METHODS, strict=True)):
        _draw_posterior(axis, runs[method][0], best, f"C{colour}")
        axis.set_title(f"{METHODS[method]}: p(z | x = {SHOWN:g})", fontsize=9)
    others[0].legend(fontsize=7)
    return figure


def _log_likelihood(x: Tensor, scale: float) -> float:
    return AbsoluteValue(x.shape[1:], scale=scale).double().log_px(x.double()).mean().item()


def _draw_posterior(axis: Axes, run: Trained, best: AbsoluteValue, colour: str) -> None:
    """q as a histogram, the exact posteriors of the learned and of the best model as lines."""
    vae, model = run.built.vae, model_of(run)
    x = torch.full((1, 1, 1, 1), SHOWN)
    z = vae.posterior(vae.context(x), model.log_joint(x), NUM_DRAWS).state.z.flatten()
    side = torch.linspace(-4, 4, 401)
    bins = torch.linspace(-4, 4, 101).tolist()
    axis.hist(z.numpy(), bins=bins, density=True, color=colour, alpha=0.4, label="q")
    for one, style, label in ((model, "-", "exact, learned noise"), (best, ":", "exact, best")):
        log_joint = one.log_joint(x)(side[:, None, None])[:, 0]
        axis.plot(side, (log_joint - one.log_px(x)).exp(), f"k{style}", label=label)
    axis.set_xlabel("z")
    axis.margins(y=0.4)  # room for the legend


if __name__ == "__main__":
    main()
