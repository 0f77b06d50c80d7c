"""Blocks of two convolutions with a skip, between poolings and upsamplings.

The networks of Thin et al. 2021 (arXiv 2106.15921), for sides of 28, 32, 64 or any other that is
long enough. ``channels`` are listed from the pixels inwards, one a block; between blocks sides are
halved, odd ones rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.layers import UNITS, Activation, LayeredEncoder, Shape
from models.networks.protocol import Encoder, decoders, encoders
from utils.types import PositiveInt

Channels = Annotated[Sequence[PositiveInt], MinLen(1)]


class DoubleBlock(nn.Module):
    """x + f(x), f two 3×3 convolutions, each with its activation.

    Where f has more channels than x, x gets zeros; where it has fewer, x loses its last ones.
    """

    def __init__(self, num_inputs: int, num_outputs: int, activation: Activation) -> None:
        super().__init__()
        unit = UNITS[activation].build
        self.layers = nn.Sequential(
            nn.Conv2d(num_inputs, num_outputs, 3, padding=1),
            unit(),
            nn.Conv2d(num_outputs, num_outputs, 3, padding=1),
            unit(),
        )
        self.num_inputs, self.num_outputs = num_inputs, num_outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_inputs, H, W) -> (N, num_outputs, H, W)."""
        skip = x[:, : self.num_outputs]
        missing = max(0, self.num_outputs - self.num_inputs)
        return self.layers(x) + F.pad(skip, (0, 0, 0, 0, 0, missing))


@encoders.register("double_block")
def double_block_encoder(
    x_shape: Shape,
    *,
    channels: Channels = (16, 32, 64, 64),
    activation: Activation = "gelu",
) -> Encoder:
    """A block, then the maximum of each 2×2 pixels and a block, again and again.

    Raises ValueError for images that are too small.
    """
    sides = _sides(x_shape, len(channels))
    layers: list[nn.Module] = [DoubleBlock(x_shape[0], channels[0], activation)]
    for num_inputs, num_outputs in pairwise(channels):
        layers += [nn.MaxPool2d(2), DoubleBlock(num_inputs, num_outputs, activation)]
    layers.append(nn.Flatten())
    return LayeredEncoder(layers, num_features=channels[-1] * math.prod(sides))


@decoders.register("double_block")
def double_block_decoder(
    latent_dim: int,
    x_shape: Shape,
    num_parameters: int,
    *,
    channels: Channels = (16, 16, 32, 64),
    activation: Activation = "gelu",
) -> nn.Module:
    """A linear map, then twice the side by repeating pixels and a block, again and again; linear.

    The last upsampling goes to the image's own side. Raises ValueError for images that are too
    small.
    """
    height, width = _sides(x_shape, len(channels))
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels[-1] * height * width),
        nn.Unflatten(1, (channels[-1], height, width)),
    ]
    for level, (num_inputs, num_outputs) in enumerate(pairwise(reversed(channels)), start=1):
        is_last = level == len(channels) - 1
        size = x_shape[1:] if is_last else (height * 2**level, width * 2**level)
        layers += [nn.Upsample(size=size), DoubleBlock(num_inputs, num_outputs, activation)]
    layers += [
        nn.Conv2d(channels[0], num_parameters * x_shape[0], 1),
        nn.Unflatten(1, (num_parameters, x_shape[0])),
    ]
    return nn.Sequential(*layers)


def _sides(x_shape: Shape, num_blocks: int) -> tuple[int, int]:
    """Height and width of the innermost block."""
    halvings = 2 ** (num_blocks - 1)
    if min(x_shape[1:]) < halvings:
        raise ValueError(
            f"double_block: x_shape must be (channels, height, width) with height and width of "
            f"at least {halvings} for {num_blocks} channels; got {tuple(x_shape)}"
        )
    return x_shape[1] // halvings, x_shape[2] // halvings
