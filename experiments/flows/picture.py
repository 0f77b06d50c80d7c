"""Draw true posteriors of a VAE with two latents beside what each family makes of them.

python -m experiments.flows.picture [--output docs/figures/posteriors_2d.png]

The picture goes to posteriors_2d.png in the results folder; ``--output`` as above makes that of
docs/results.md.

Takes the finished run of configs/digits_2d/base.yaml and the test images that its factorised
Gaussian fits worst, and fits each family to each of them alone with the decoder fixed.
Log p(x) is by quadrature, so that the number over each picture is the family's exact loss.
"""

from __future__ import annotations

import argparse
import copy
from typing import NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Wanted, add_output, find_all, save
from experiments.runner.schema import DEFAULTS, RunConfig
from models.generative import GenerativeModel
from models.losses import ELBO, linear_warmup
from models.posteriors.chain import Chain
from utils.config.loading import load
from utils.config.validation import validate
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/digits_2d/base.yaml"
FAMILIES = ("gaussian", "planar", "aux_real_nvp", "iaf", "spline")
EXTENT, POINTS = 4.0, 241
NUM_DATA, NUM_STEPS, NUM_SAMPLES = 4, 2000, 64
"""Images drawn; steps and samples a step of each fit."""
FIRST_WEIGHTS = (1.0, 5.0)
"""Weights of the entropy at the first step of a family's fits; the better one is drawn."""


class Grid(NamedTuple):
    """Places z (N, 1, 2) on a square about the origin, and the area of each."""

    z: Tensor
    cell: float


def make_grid() -> Grid:
    """POINTS × POINTS cells within ±EXTENT standard deviations of the prior."""
    side = torch.linspace(-EXTENT, EXTENT, POINTS)
    return Grid(torch.cartesian_prod(side, side)[:, None], float(side[1] - side[0]) ** 2)


@torch.no_grad()
def exact_log_px(model: GenerativeModel, x: Tensor, grid: Grid) -> Tensor:
    """log p(x) (B,) by quadrature over the grid."""
    log_joint = torch.cat([model.log_joint(image[None])(grid.z) for image in x], dim=1)
    return log_joint.double().logsumexp(0) + torch.tensor(grid.cell).double().log()


class Fitted(NamedTuple):
    """Draws z (N, 2) of a fitted posterior and its ELBO in nats."""

    z: Tensor
    elbo: float


def fit(posterior: Chain, model: GenerativeModel, x: Tensor, first_weight: float) -> Fitted:
    """Fit context and weights to one image x (1, C, H, W) by the ELBO.

    The entropy's weight falls from ``first_weight`` to 1 over the first half. Above 1 a family
    first spreads over all modes, else it drops into the nearest one; which ends better depends on
    whether it can part again.
    """
    posterior = copy.deepcopy(posterior).requires_grad_(True)
    context = posterior.initial_context()[None].requires_grad_(True)
    weights = list(posterior.parameters())
    groups = [{"params": [context], "lr": 1e-2}, {"params": weights, "lr": 2e-3}]
    optimiser = torch.optim.Adam(groups[: 1 + bool(weights)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, NUM_STEPS)
    loss = ELBO(num_samples=NUM_SAMPLES, warmup=linear_warmup(anneals="entropy", epochs=1))
    for step in range(NUM_STEPS):
        weight = 1 + (first_weight - 1) * max(0.0, 1 - 2 * step / NUM_STEPS)
        optimiser.zero_grad()
        loss(model, posterior, x, context, weight).loss.sum().backward()
        # A flow's first steps can be wild.
        torch.nn.utils.clip_grad_norm_([context, *weights], 10.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        log_joint = model.log_joint(x)
        draw = posterior(context, log_joint, 20_000)
        elbo = (log_joint(draw.state.z) - draw.log_q).mean().item()
    return Fitted(draw.state.z[:, 0], elbo)


def main() -> None:
    """Fit, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_output(parser, "posteriors_2d.png")
    output = parser.parse_args().output
    console, grid = Console(), make_grid()
    run = find_all({"run": Wanted(BASE)}, console)["run"]
    vae, model, x = run.built.vae, run.built.vae.model, run.splits["test"]
    log_px = exact_log_px(model, x, grid)
    with isolated(0):
        amortised = ELBO(num_samples=500)(model, vae.posterior, x, vae.context(x)).value
        worst = (log_px - amortised).argsort(descending=True)[:NUM_DATA]
        rows: list[list[Fitted]] = []
        with console.progress("fit", NUM_DATA * len(FAMILIES)) as advance:
            for image in x[worst].split(1):
                rows.append([])
                for family in FAMILIES:
                    fits = [fit(_posterior(family), model, image, w) for w in FIRST_WEIGHTS]
                    rows[-1].append(max(fits, key=lambda fitted: fitted.elbo))
                    advance(sum(len(row) for row in rows))
    save(_draw(model, x[worst], log_px[worst], grid, rows), output, console)
    print(f"{output}: KL(q || p(z|x)) in nats, mean of {NUM_DATA} images")
    for index, family in enumerate(FAMILIES):
        gaps = [p - row[index].elbo for p, row in zip(log_px[worst].tolist(), rows, strict=True)]
        print(f"  {family:14} {sum(gaps) / len(gaps):.3f}")


def _posterior(family: str) -> Chain:
    layer = load(BASE, [f"configs/posterior/{family}.yaml"], (), DEFAULTS)
    posterior: Chain = validate(RunConfig, layer).posterior.build(latent_dim=2, num_features=1)
    return posterior


def _draw(
    model: GenerativeModel,
    x: Tensor,
    log_px: Tensor,
    grid: Grid,
    rows: list[list[Fitted]],
) -> Figure:
    shape = (len(x), len(FAMILIES) + 2)
    figure = Figure((1.9 * shape[1], 2.0 * shape[0]), layout="constrained")
    axes = figure.subplots(*shape)
    for line, image, truth, fits in zip(axes, x, log_px, rows, strict=True):
        with torch.no_grad():
            density = (model.log_joint(image[None])(grid.z)[:, 0] - truth).exp()
        density = density.view(POINTS, POINTS)
        line[0].imshow(image[0], cmap="gray_r")
        line[1].imshow(density.T, origin="lower", extent=[-EXTENT, EXTENT] * 2, cmap="viridis")
        window = _window(density)
        for axis, fitted in zip(line[2:], fits, strict=True):
            z = fitted.z.numpy()
            limits = [window[0], window[1]]
            axis.hist2d(z[:, 0], z[:, 1], bins=60, range=limits, cmap="viridis", density=True)
            axis.set_title(f"KL {truth.item() - fitted.elbo:.3f}", fontsize=8)
        for axis in line[1:]:
            axis.set_xlim(window[0])
            axis.set_ylim(window[1])
            axis.set_aspect("equal")
            axis.set_facecolor(colormaps["viridis"](0))
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis, name in zip(axes[0], ("x", "true posterior", *FAMILIES), strict=True):
        gap = axis.get_title()
        axis.set_title(f"{name}\n{gap}" if gap else name, fontsize=8)
    return figure


def _window(density: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square that holds all of a density (first axis z_1) above a thousandth of its peak."""
    cells = (density > 1e-3 * density.max()).nonzero().double()
    low, high = cells.min(0).values, cells.max(0).values
    centre, half = (low + high) / 2, float((high - low).max()) / 2 + 5
    step = 2 * EXTENT / (POINTS - 1)

    def side(c: float) -> tuple[float, float]:
        return (c - half) * step - EXTENT, (c + half) * step - EXTENT

    return side(float(centre[0])), side(float(centre[1]))


if __name__ == "__main__":
    main()
