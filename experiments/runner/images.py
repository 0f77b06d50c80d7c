"""Pictures of a VAE as image grids: samples, reconstructions, ways through the latent space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from experiments.runner.trajectories import run_chain
from models.vae import VAE
from utils.results.folder import naming

SMALLEST_SIDE = 8  # pixels; below, data are vectors or statistics
EXTENT = 2.5  # deviations of the prior to each side of a traversal
NUM_DRAWS, NUM_DATA = 10, 100  # by which it is judged what a latent tells
MOVES_A_COLUMN = 2


def are_images(x_shape: Sequence[int]) -> bool:
    """Whether x of this shape (C, H, W) can be shown: grey or coloured, 8×8 or larger."""
    channels, *sides = x_shape
    return channels in (1, 3) and min(sides) >= SMALLEST_SIDE


def grid(images: Tensor, columns: int) -> Tensor:
    """Tile images (N, C, H, W) in [0, 1] row by row, one pixel apart: (C, H', W')."""
    tiles = torch.nn.functional.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.5)
    rows = tiles.unflatten(0, (-1, columns))  # (R, columns, C, H, W)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, columns: int = 10) -> Tensor:
    """Grid (C, H', W'): data points (first row) over the means of one posterior draw each."""
    x = x[:columns]
    draw = vae.posterior(vae.context(x), vae.model.log_joint(x))
    return grid(torch.cat([x, vae.model.mean(draw.state.z)[0]]), len(x))


@torch.no_grad()
def prior_samples(vae: VAE, columns: int = 10) -> Tensor:
    """Grid (C, H', W') of likelihood means at draws from the prior."""
    z = vae.model.sample_prior(1, columns * columns)
    return grid(vae.model.mean(z)[0], columns)


@torch.no_grad()
def traversals(vae: VAE, x: Tensor, columns: int = 10, rows: int = 10) -> Tensor:
    """Grid (C, H', W'): a row moves one latent through ±2.5, the others stay at a posterior draw.

    The draw is of the first datum. The latents are those that tell most of x, by the variance
    between data of the posterior's mean, the first row's most.
    """
    x = x[:NUM_DATA]
    draw = vae.posterior(vae.context(x), vae.model.log_joint(x), NUM_DRAWS)
    z = draw.state.z  # (S, B, D)
    told = z.mean(0).var(0, correction=0).argsort(descending=True)[:rows]
    places = z[:1, :1].repeat(len(told), columns, 1)  # (R, columns, D)
    way = torch.linspace(-EXTENT, EXTENT, columns, dtype=z.dtype, device=z.device)
    for row, latent in zip(places, told, strict=True):
        row[:, latent] = way
    return grid(vae.model.mean(places).flatten(0, 1), columns)


@torch.no_grad()
def trajectories(vae: VAE, x: Tensor, columns: int = 10, rows: int = 10) -> Tensor:
    """Grid (C, H', W'): a row is a datum, the mean of a posterior draw, and where HMC goes on.

    Hamiltonian Monte Carlo leaves p(z|x) invariant, so that a row shows which images the model
    takes for the datum's; between columns lie two moves of ten leapfrog steps.
    """
    x = x[:rows]
    log_joint = vae.model.log_joint(x)
    draw = vae.posterior(vae.context(x), log_joint)
    chain = run_chain(log_joint, draw.state.z, MOVES_A_COLUMN * (columns - 2))
    means = vae.model.mean(chain.z[::MOVES_A_COLUMN])  # (columns - 1, B, C, H, W)
    return grid(torch.cat([x[None], means]).transpose(0, 1).flatten(0, 1), columns)


KINDS: Mapping[str, Callable[[VAE, Tensor], Tensor]] = {
    "samples": lambda vae, x: prior_samples(vae),
    "reconstructions": reconstructions,
    "traversals": traversals,
    "trajectories": trajectories,
}
"""What can be shown of a VAE and data x (N, C, H, W), as grids (C, H', W')."""


def save_png(image: Tensor, path: Path, zoom: int = 3) -> None:
    """Write a grid (1 or 3, H, W) as a PNG, each pixel ``zoom`` wide.

    Raises OSError, naming the file, when it cannot be written.
    """
    picture = Image.fromarray(pixels(image).numpy())
    size = (picture.width * zoom, picture.height * zoom)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize(size, Image.Resampling.NEAREST).save(path)


def pixels(image: Tensor) -> Tensor:
    """Bytes (H, W, 3) of a grid (1 or 3, H, W) in [0, 1]."""
    return (image.cpu() * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0)
