"""Draw the noise scale that each method learns, and its posterior, beside the exact ones.

python -m experiments.avo_biased_noise.figure [--output docs/figures/avo_biased_noise.png]

Does what is missing of the runs of configs/avo_biased_noise. log p(x) and the posterior are exact,
so the maximum-likelihood noise scale of the training data is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.avo_toy.runs import Trained, make_parser, trained
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


def most_likely(x: Tensor) -> AbsoluteValue:
    """The model whose noise scale maximises the exact log-likelihood of x, in float64."""
    x = x.double()
    model = AbsoluteValue(x.shape[1:]).double()
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -model.log_px(x).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.requires_grad_(False)


def main() -> None:
    """Find or do the runs, print the table, draw."""
    parser, console = make_parser(__doc__, "docs/figures/avo_biased_noise.png"), Console()
    options = parser.parse_args()
    runs = {
        method: [
            trained(
                BASE,
                [f"{ADDITIONAL}/{method}.yaml", *options.files],
                [f"seed={seed}", *options.assignments],
                console,
            )
            for seed in options.seeds
        ]
        for method in METHODS
    }
    splits = runs["hvi_avo"][0].splits
    best = most_likely(splits["train"])
    print(_table(runs, best, splits))
    with isolated(0), torch.no_grad():
        _draw(runs, best, splits["train"], options.output)
    console.info(f"wrote {options.output}")


def _table(
    runs: Mapping[str, Sequence[Trained]], best: AbsoluteValue, splits: Mapping[str, Tensor]
) -> str:
    exact = best.log_px(splits["test"].double()).mean().item()
    lines = [
        "| method | noise scale | of maximum likelihood | test log p(x), exact | test ELBO |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| maximum likelihood | {_scale(best):.3f} | 100 % | {exact:.4f} | |",
    ]
    for method, name in METHODS.items():
        scale = statistics.fmean(_scale(model_of(run)) for run in runs[method])
        log_px = statistics.fmean(run.numbers["exact/log_px"] for run in runs[method])
        elbo = statistics.fmean(run.numbers["IWAE-1000/elbo"] for run in runs[method])
        share = f"{scale / _scale(best):.0%}".replace("%", " %")
        lines.append(f"| {name} | {scale:.3f} | {share} | {log_px:.4f} | {elbo:.4f} |")
    return "\n".join(lines)


def _scale(model: AbsoluteValue) -> float:
    return model.log_scale.exp().item()


def _draw(
    runs: Mapping[str, Sequence[Trained]], best: AbsoluteValue, x: Tensor, output: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (first, *others) = plt.subplots(1, 1 + len(METHODS), figsize=(13, 3))
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
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def _log_likelihood(x: Tensor, scale: float) -> float:
    return AbsoluteValue(x.shape[1:], scale=scale).double().log_px(x.double()).mean().item()


def _draw_posterior(axis: object, run: Trained, best: AbsoluteValue, colour: str) -> None:
    """q as a histogram, the exact posteriors of the learned and of the best model as lines."""
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
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


if __name__ == "__main__":
    main()
