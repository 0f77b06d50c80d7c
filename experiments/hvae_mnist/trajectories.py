"""Draw where Hamiltonian Monte Carlo leads from the encoder's draw of test images, VAE and HVAE.

python -m experiments.hvae_mnist.trajectories [--images 6] [--moves 8] [--output FILE]

A row is an image: x, the decoded draw z ~ q_0(z|x) of the encoder, and the decoded places after
each move. The chains leave p(z|x) of their model invariant: from a good draw they wander among
likely codes, from a bad one log p(x, z) rises at first, which the curves show. It trains nothing:
of runs that are missing it says the commands that make them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.drawing import Trained, Wanted, find_all, make_parser, save
from experiments.reporting.curves import COLOURS
from experiments.runner.images import grid, pixels
from experiments.runner.trajectories import Chain, run_chain
from utils.console import Console
from utils.seeding import isolated

BASE = "configs/hvae_mnist/base.yaml"
FILES: Mapping[str, list[str]] = {
    "VAE": [],
    "HVAE": ["configs/hvae_mnist/additional/hvae.yaml"],
}
NUM_CURVES = 100  # images whose log p(x, z) is averaged
COLUMN_WIDTH = 0.5  # inches an image


def main() -> None:
    """Find the runs, run the chains, draw, print."""
    parser, console = make_parser(__doc__, "hvae_mnist/trajectories.png"), Console()
    parser.add_argument("--images", type=int, default=6, metavar="N", help="rows of images")
    parser.add_argument("--moves", type=int, default=8, metavar="N", help="of each chain")
    options = parser.parse_args()
    settings = [f"seed={options.seeds[0]}", *options.assignments]
    wanted = {
        name: Wanted(BASE, [*files, *options.files], settings) for name, files in FILES.items()
    }
    runs = find_all(wanted, console)
    x = next(iter(runs.values())).splits["test"][:NUM_CURVES]
    chains = {name: from_the_encoder(run, x, options.moves) for name, run in runs.items()}
    save(_draw(runs, chains, x[: options.images]), options.output, console)
    print("| model | log p(x, z) of the draw | after the last move | accepted | step size |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, chain in chains.items():
        first, last = (chain.log_density[place].mean().item() for place in (0, -1))
        accepted, size = chain.acceptance.mean().item(), chain.step_size.median().item()
        print(f"| {name} | {first:.1f} | {last:.1f} | {accepted:.0%} | {size:.3f} |")


@torch.no_grad()
def from_the_encoder(run: Trained, x: Tensor, num_moves: int) -> Chain:
    """Chains on log p(x, z) from draws of the base q_0(z|x), which no dynamics have moved yet."""
    vae = run.built.vae
    log_joint = vae.model.log_joint(x)
    with isolated(0):
        draw = next(vae.posterior.stages(vae.context(x), log_joint))
        return run_chain(log_joint, draw.state.z, num_moves)


def _draw(runs: Mapping[str, Trained], chains: Mapping[str, Chain], x: Tensor) -> Figure:
    columns = 1 + len(next(iter(chains.values())).z)
    size = (COLUMN_WIDTH * columns * len(runs), COLUMN_WIDTH * len(x) + 2.8)
    figure = Figure(size, layout="constrained")
    ratios = [COLUMN_WIDTH * len(x) + 0.4, 2.4]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axis, (name, run) in zip(above.subplots(1, len(runs)), runs.items(), strict=True):
        places = chains[name].z[:, : len(x)]
        with torch.no_grad():
            means = run.built.vae.model.mean(places)  # (T + 1, N, C, H, W)
        shown = torch.cat([x[None], means]).transpose(0, 1).flatten(0, 1)
        axis.imshow(pixels(grid(shown, columns)).numpy(), interpolation="none")
        axis.set(xticks=[], yticks=[], title=f"{name}: x, draw, after each move")
    _curves(below.subplots(), chains)
    return figure


def _curves(axis: Axes, chains: Mapping[str, Chain]) -> None:
    for (name, chain), colour in zip(chains.items(), COLOURS, strict=False):
        values = chain.log_density  # (T + 1, N)
        mean, error = values.mean(1), values.std(1) / values.shape[1] ** 0.5
        moves = range(len(values))
        axis.plot(moves, mean, color=colour, label=name)
        axis.fill_between(moves, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="moves", ylabel="log p(x, z) in nats")
    axis.set_title(f"mean ± standard error over {values.shape[1]} images", fontsize="small")
    axis.legend()


if __name__ == "__main__":
    main()
