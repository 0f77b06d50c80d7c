"""Pictures of a VAE: reconstructions and prior samples as image grids."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from models.vae import VAE


def _grid(images: Tensor, columns: int) -> Tensor:
    """Tile images (N, C, H, W) in [0, 1] row by row, one pixel apart: (C, H', W')."""
    tiles = torch.nn.functional.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.5)
    rows = tiles.unflatten(0, (-1, columns))  # (R, columns, C, H, W)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, columns: int = 10) -> Tensor:
    """Grid (C, H', W'): data points (first row) over the means of one posterior draw each."""
    x = x[:columns]
    draw = vae.posterior(vae.context(x), vae.model.log_joint(x))
    return _grid(torch.cat([x, vae.model.mean(draw.state.z)[0]]), len(x))


@torch.no_grad()
def prior_samples(vae: VAE, columns: int = 10) -> Tensor:
    """Grid (C, H', W') of likelihood means at draws from the prior."""
    z = vae.model.sample_prior(1, columns * columns)
    return _grid(vae.model.mean(z)[0], columns)


def save_png(grid: Tensor, path: Path, zoom: int = 3) -> None:
    """Write a grid (1 or 3, H, W) as a PNG, each pixel ``zoom`` wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (grid.cpu() * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    size = (image.width * zoom, image.height * zoom)
    image.resize(size, Image.Resampling.NEAREST).save(path)
