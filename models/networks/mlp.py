"""Fully connected encoders and decoders."""

from __future__ import annotations

import math

from torch import nn

from models.networks.layers import (
    Activation,
    Init,
    LayeredEncoder,
    Nonlinearity,
    Shape,
    Widths,
    dense_layers,
    initialised,
)
from models.networks.protocol import Encoder, decoders, encoders


@encoders.register("mlp")
def mlp_encoder(
    x_shape: Shape,
    *,
    hidden: Widths = (200, 200),
    activation: Activation = "elu",
    init: Init = "default",
) -> Encoder:
    """Fully connected layers, each with its activation; none: the pixels are the features."""
    return _encoder(x_shape, hidden, activation, init)


@encoders.register("gated_mlp")
def gated_mlp_encoder(
    x_shape: Shape, *, hidden: Widths = (300, 300), init: Init = "default"
) -> Encoder:
    """Fully connected layers h = (W x + b) · sigmoid(V x + c), with no other nonlinearity.

    Tomczak and Welling 2016 (arXiv 1611.09630). W and V are one matrix product.
    """
    return _encoder(x_shape, hidden, "gated", init)


@decoders.register("mlp")
def mlp_decoder(
    latent_dim: int,
    x_shape: Shape,
    num_parameters: int,
    *,
    hidden: Widths = (200, 200),
    activation: Activation = "elu",
    init: Init = "default",
) -> nn.Module:
    """Fully connected layers with activations, then a linear one; no hidden one: linear in z."""
    return _decoder(latent_dim, (num_parameters, *x_shape), hidden, activation, init)


@decoders.register("gated_mlp")
def gated_mlp_decoder(
    latent_dim: int,
    x_shape: Shape,
    num_parameters: int,
    *,
    hidden: Widths = (300, 300),
    init: Init = "default",
) -> nn.Module:
    """Fully connected layers h = (W z + b) · sigmoid(V z + c), then a linear one."""
    return _decoder(latent_dim, (num_parameters, *x_shape), hidden, "gated", init)


def _encoder(x_shape: Shape, hidden: Widths, activation: Nonlinearity, init: Init) -> Encoder:
    size = math.prod(x_shape)
    layers = [nn.Flatten(), *dense_layers(size, hidden, activation, init)]
    return LayeredEncoder(layers, num_features=[size, *hidden][-1])


def _decoder(
    latent_dim: int,
    output_shape: tuple[int, ...],
    hidden: Widths,
    activation: Nonlinearity,
    init: Init,
) -> nn.Module:
    linear = nn.Linear([latent_dim, *hidden][-1], math.prod(output_shape))
    return nn.Sequential(
        *dense_layers(latent_dim, hidden, activation, init),
        initialised(linear, init),
        nn.Unflatten(1, output_shape),
    )
