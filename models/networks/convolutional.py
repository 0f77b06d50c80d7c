"""Convolutional encoder, and the decoder that is its mirror image.

Options of both, all listed from the pixels inwards: ``channels``, one entry a convolution;
``strides``, one each (null: 2 each); ``kernel_size``; ``padding``, whether edges get
(kernel_size - 1) // 2 zeros; ``hidden``, widths of the fully connected layers further in;
``activation``, where ``gated`` is a · sigmoid(b) of two maps a and b; ``init``.

Published networks in these options, for 28×28 the first two and for 32×32 the last:
    Caterini et al. 2018 (arXiv 1805.11328): channels [16, 32, 32], kernel_size 5, hidden [450],
    activation softplus.
    Van den Berg et al. 2018 (arXiv 1803.05649), nearly: channels [32, 32, 64, 64, 64],
    strides [1, 2, 1, 2, 1], kernel_size 5, hidden [256], activation gated.
    Cremer et al. 2018 (arXiv 1801.03558), without its BatchNorm: channels [64, 128, 256],
    kernel_size 4, padding false, hidden [], activation elu.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

from annotated_types import MinLen
from torch import nn

from models.networks.layers import (
    UNITS,
    Init,
    LayeredEncoder,
    Nonlinearity,
    Shape,
    Widths,
    dense_layers,
    initialised,
)
from models.networks.protocol import Encoder, decoders, encoders
from utils.types import PositiveInt

PerLayer = Annotated[Sequence[PositiveInt], MinLen(1)]


class Level(NamedTuple):
    """One strided convolution, from ``outer`` (C, H, W) on the pixels' side to ``inner``."""

    outer: Shape
    inner: Shape
    kernel_size: int
    stride: int
    padding: int

    @property
    def left_over(self) -> tuple[int, int]:
        """Rows and columns that the strides leave out, for the mirror image to give back."""
        _, *sides = self.outer
        height, width = (
            (side + 2 * self.padding - self.kernel_size) % self.stride for side in sides
        )
        return height, width


@encoders.register("convolutional")
def convolutional_encoder(
    x_shape: Shape,
    *,
    channels: PerLayer = (32, 64),
    strides: PerLayer | None = None,
    kernel_size: PositiveInt = 4,
    padding: bool = True,
    hidden: Widths = (256,),
    activation: Nonlinearity = "elu",
    init: Init = "default",
) -> Encoder:
    """Strided convolutions, then fully connected layers, each with its activation.

    Raises ValueError for images that are too small and for strides that do not fit the channels.
    """
    unit = UNITS[activation]
    layers: list[nn.Module] = []
    levels = _levels(x_shape, channels, strides, kernel_size, padding)
    for level in levels:
        convolution = nn.Conv2d(
            level.outer[0],
            unit.num_maps * level.inner[0],
            kernel_size,
            level.stride,
            level.padding,
        )
        layers += [initialised(convolution, init, unit.num_maps), unit.build()]
    size = math.prod(levels[-1].inner)
    layers += [nn.Flatten(), *dense_layers(size, hidden, activation, init)]
    return LayeredEncoder(layers, num_features=[size, *hidden][-1])


@decoders.register("convolutional")
def convolutional_decoder(
    latent_dim: int,
    x_shape: Shape,
    num_parameters: int,
    *,
    channels: PerLayer = (32, 64),
    strides: PerLayer | None = None,
    kernel_size: PositiveInt = 4,
    padding: bool = True,
    hidden: Widths = (256,),
    activation: Nonlinearity = "elu",
    init: Init = "default",
) -> nn.Module:
    """The encoder of the same options backwards, with transposed convolutions; linear at the end.

    Raises ValueError for images that are too small and for strides that do not fit the channels.
    """
    unit = UNITS[activation]
    levels = _levels(x_shape, channels, strides, kernel_size, padding)
    widths = [*reversed(hidden), math.prod(levels[-1].inner)]
    layers = dense_layers(latent_dim, widths, activation, init)
    layers.append(nn.Unflatten(1, levels[-1].inner))
    for level in reversed(levels[1:]):
        layer = _transposed(level, unit.num_maps * level.outer[0])
        layers += [initialised(layer, init, unit.num_maps, output_axis=1), unit.build()]
    last = _transposed(levels[0], num_parameters * x_shape[0])
    layers += [initialised(last, init), nn.Unflatten(1, (num_parameters, x_shape[0]))]
    return nn.Sequential(*layers)


def _transposed(level: Level, num_outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        level.inner[0],
        num_outputs,
        level.kernel_size,
        level.stride,
        level.padding,
        output_padding=level.left_over,
    )


def _levels(
    x_shape: Shape,
    channels: Sequence[int],
    strides: Sequence[int] | None,
    kernel_size: int,
    padding: bool,
) -> list[Level]:
    strides = [2] * len(channels) if strides is None else strides
    if len(strides) != len(channels):
        raise ValueError(
            f"convolutional: strides must have one entry for each of the channels "
            f"{list(channels)}; got {list(strides)}"
        )
    pad = (kernel_size - 1) // 2 if padding else 0
    smallest = _smallest_side(strides, kernel_size, pad)
    if min(x_shape[1:]) < smallest:
        raise ValueError(
            f"convolutional: x_shape must be (channels, height, width) with height and width of "
            f"at least {smallest} for strides {list(strides)}, kernel_size {kernel_size} and "
            f"padding {padding}; got {tuple(x_shape)}"
        )
    shapes = [x_shape]
    for num_channels, stride in zip(channels, strides, strict=True):
        height, width = ((side + 2 * pad - kernel_size) // stride + 1 for side in shapes[-1][1:])
        shapes.append((num_channels, height, width))
    pairs = zip(pairwise(shapes), strides, strict=True)
    return [Level(outer, inner, kernel_size, stride, pad) for (outer, inner), stride in pairs]


def _smallest_side(strides: Sequence[int], kernel_size: int, padding: int) -> int:
    """Shortest side of which every convolution leaves a pixel and that no stride outruns."""
    side = 1
    for stride in reversed(strides):
        side = max(stride * side, stride * (side - 1) + kernel_size - 2 * padding)
    return side
