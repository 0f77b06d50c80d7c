"""Encoders and decoders: shapes, gradients, initialisation, and what each layer computes."""

from __future__ import annotations

import math
from typing import Annotated, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from models.networks import Encoder, decoders, encoders
from models.networks.layers import Activation, Nonlinearity
from utils.registry import Node

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
LATENT_DIM = 5
FUNCTIONS = {
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


def encoder_node(**options: object) -> Node:
    return TypeAdapter(Annotated[Encoder, encoders]).validate_python(options)


def decoder_node(**options: object) -> Node:
    return TypeAdapter(Annotated[nn.Module, decoders]).validate_python(options)


def build_decoder(x_shape: tuple[int, ...], num_parameters: int = 1, **options: object):
    return decoder_node(**options).build(
        latent_dim=LATENT_DIM, x_shape=x_shape, num_parameters=num_parameters
    )


def affine_layers(network: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return [module for module in network.modules() if isinstance(module, kinds)]


def assert_every_parameter_gets_a_gradient(network: nn.Module, output: Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def assert_rows_independent(network: nn.Module, inputs: Tensor) -> None:
    others = inputs.clone()
    others[1:] = torch.rand_like(inputs[1:])
    first = network.double()(inputs)[0]
    assert torch.equal(first, network(others)[0])
    # Alone in its batch other kernels may sum in another order: float64 rounding.
    torch.testing.assert_close(first, network(inputs[:1])[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("x_shape", SHAPES)
@pytest.mark.parametrize("name", encoders.names())
def test_encoder(name: str, x_shape: tuple[int, ...]) -> None:
    encoder = encoder_node(name=name).build(x_shape=x_shape)
    features = encoder(torch.rand(3, *x_shape))
    assert features.shape == (3, encoder.num_features)
    assert features.isfinite().all()
    if list(encoder.parameters()):
        assert_every_parameter_gets_a_gradient(encoder, features)
    assert_rows_independent(encoder, torch.rand(3, *x_shape, dtype=torch.float64))


@pytest.mark.parametrize("x_shape", SHAPES)
@pytest.mark.parametrize("name", decoders.names())
def test_decoder(name: str, x_shape: tuple[int, ...]) -> None:
    decoder = build_decoder(x_shape, num_parameters=2, name=name)
    parameters = decoder(torch.randn(3, LATENT_DIM))
    assert parameters.shape == (3, 2, *x_shape)
    assert parameters.isfinite().all()
    assert_every_parameter_gets_a_gradient(decoder, parameters)
    assert_rows_independent(decoder, torch.randn(3, LATENT_DIM, dtype=torch.float64))


@pytest.mark.parametrize("name", decoders.names())
def test_decoder_ends_without_an_activation(name: str) -> None:
    """Then, and only then, is the output linear in the last layer's weights."""
    decoder = build_decoder((1, 8, 8), name=name)
    z = torch.randn(3, LATENT_DIM)
    before = decoder(z)
    last = affine_layers(decoder)[-1]
    with torch.no_grad():
        last.weight.mul_(-30)
        last.bias.mul_(-30)
    torch.testing.assert_close(decoder(z), -30 * before)


@pytest.mark.parametrize("name", decoders.names())
def test_decoder_runs_under_vmap(name: str) -> None:
    """Local optimisation maps the log-joint over data points."""
    decoder = build_decoder((1, 8, 8), name=name)
    z = torch.randn(4, 3, LATENT_DIM)
    expected = torch.stack([decoder(rows) for rows in z])
    torch.testing.assert_close(torch.func.vmap(decoder)(z), expected)


@pytest.mark.parametrize("activation", get_args(Nonlinearity))
def test_decoder_can_be_differentiated_twice(activation: str) -> None:
    """Hamiltonian posteriors differentiate through gradients of the log-joint."""
    options = {"name": "convolutional", "channels": [2], "hidden": [3], "activation": activation}
    decoder = build_decoder((1, 4, 4), **options).double()
    z = torch.randn(1, LATENT_DIM, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda leaf: decoder(leaf).square().sum(), (z,))


@pytest.mark.parametrize("activation", get_args(Activation))
def test_mlp_applies_its_activation_after_every_hidden_layer(activation: str) -> None:
    options = {"name": "mlp", "hidden": [7, 6], "activation": activation}
    function = FUNCTIONS[activation]
    x, z = torch.randn(3, 1, 2, 2), torch.randn(3, LATENT_DIM)

    encoder = encoder_node(**options).build(x_shape=(1, 2, 2))
    first, second = affine_layers(encoder)
    expected = function(second(function(first(x.reshape(3, 4)))))
    assert encoder.num_features == 6
    torch.testing.assert_close(encoder(x), expected)

    decoder = build_decoder((1, 2, 2), **options)
    first, second, last = affine_layers(decoder)
    expected = last(function(second(function(first(z))))).reshape(3, 1, 1, 2, 2)
    torch.testing.assert_close(decoder(z), expected)


@pytest.mark.parametrize("activation", get_args(Nonlinearity))
def test_convolutional_builds_with_every_activation(activation: str) -> None:
    options = {"name": "convolutional", "activation": activation, "channels": [4, 6]}
    encoder = encoder_node(**options).build(x_shape=(1, 8, 8))
    decoder = build_decoder((1, 8, 8), **options)
    assert encoder(torch.rand(2, 1, 8, 8)).shape == (2, 256)
    assert decoder(torch.randn(2, LATENT_DIM)).shape == (2, 1, 1, 8, 8)


def test_gated_mlp_is_a_map_times_the_sigmoid_of_another() -> None:
    encoder = encoder_node(name="gated_mlp", hidden=[6]).build(x_shape=(1, 2, 2))
    (fused,) = affine_layers(encoder)
    (w, v), (b, c) = fused.weight.split(6), fused.bias.split(6)
    x = torch.randn(3, 1, 2, 2)
    rows = x.reshape(3, 4)
    expected = (rows @ w.T + b) * torch.sigmoid(rows @ v.T + c)
    torch.testing.assert_close(encoder(x), expected)


def test_without_hidden_layers_mlp_is_linear() -> None:
    encoder = encoder_node(name="mlp", hidden=[]).build(x_shape=(3, 4, 5))
    x = torch.randn(2, 3, 4, 5)
    assert encoder.num_features == 60
    assert torch.equal(encoder(x), x.reshape(2, 60))

    decoder = build_decoder((3, 4, 5), name="mlp", hidden=[])
    z, w = torch.randn(2, 2, LATENT_DIM)
    origin = decoder(torch.zeros_like(z))
    torch.testing.assert_close(decoder(z) + decoder(w), decoder(z + w) + origin)


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
def test_convolutional_decoder_gives_back_any_size(
    kernel_size: int, stride: int, padding: bool
) -> None:
    options = {
        "name": "convolutional",
        "channels": [2, 3],
        "strides": [stride, stride],
        "kernel_size": kernel_size,
        "padding": padding,
        "hidden": [4],
    }
    for height, width in [(17, 22), (18, 21), (19, 20), (28, 28)]:
        x_shape = (3, height, width)
        encoder = encoder_node(**options).build(x_shape=x_shape)
        decoder = build_decoder(x_shape, num_parameters=2, **options)
        assert encoder(torch.rand(1, *x_shape)).shape == (1, 4)
        assert decoder(torch.rand(1, LATENT_DIM)).shape == (1, 2, *x_shape)


@pytest.mark.parametrize("x_shape", SHAPES)
def test_convolutional_decoder_mirrors_the_encoder(x_shape: tuple[int, ...]) -> None:
    options = {"name": "convolutional", "channels": [4, 5, 6], "kernel_size": 5, "hidden": [9, 8]}
    encoder = encoder_node(**options).build(x_shape=x_shape)
    decoder = build_decoder(x_shape, **options)
    amortised = nn.Linear(encoder.num_features, LATENT_DIM)
    there = [*affine_layers(encoder), amortised]
    back = affine_layers(decoder)[::-1]
    for outwards, inwards in zip(back, there, strict=True):
        transposed = isinstance(outwards, nn.Linear)
        shape = outwards.weight.T.shape if transposed else outwards.weight.shape
        assert shape == inwards.weight.shape


@pytest.mark.parametrize(
    ("x_shape", "options", "flat_size", "num_features"),
    [
        (
            (1, 28, 28),
            {
                "channels": [16, 32, 32],
                "kernel_size": 5,
                "hidden": [450],
                "activation": "softplus",
            },
            512,
            450,
        ),
        (
            (1, 28, 28),
            {
                "channels": [32, 32, 64, 64, 64],
                "strides": [1, 2, 1, 2, 1],
                "kernel_size": 5,
                "hidden": [256],
                "activation": "gated",
            },
            7 * 7 * 64,
            256,
        ),
        (
            (3, 32, 32),
            {"channels": [64, 128, 256], "padding": False, "hidden": [], "activation": "elu"},
            1024,
            1024,
        ),
    ],
)
def test_published_convolutional_networks(
    x_shape: tuple[int, ...], options: dict[str, object], flat_size: int, num_features: int
) -> None:
    encoder = encoder_node(name="convolutional", **options).build(x_shape=x_shape)
    decoder = build_decoder(x_shape, name="convolutional", **options)
    flatten = next(m for m in encoder.modules() if isinstance(m, nn.Flatten))
    flattened: list[Tensor] = []
    flatten.register_forward_hook(lambda _, __, output: flattened.append(output))
    assert encoder(torch.rand(1, *x_shape)).shape == (1, num_features)
    assert flattened[0].shape == (1, flat_size)
    assert decoder(torch.rand(1, LATENT_DIM)).shape == (1, 1, *x_shape)


@pytest.mark.parametrize(
    ("x_shape", "options", "smallest"),
    [
        ((1, 1, 10), {}, 4),
        ((1, 10, 1), {"kernel_size": 5}, 4),
        ((1, 4, 4), {"channels": [4, 4, 4]}, 8),
        ((1, 21, 32), {"channels": [4, 4, 4], "padding": False}, 22),
        ((1, 1, 10), {"strides": [1, 1], "kernel_size": 4}, 3),
    ],
)
def test_convolutional_refuses_small_images(
    x_shape: tuple[int, ...], options: dict[str, object], smallest: int
) -> None:
    options = {"name": "convolutional", **options}
    message = rf"x_shape .* at least {smallest} .*got \({x_shape[0]}, {x_shape[1]}, {x_shape[2]}\)"
    with pytest.raises(ValueError, match=message):
        encoder_node(**options).build(x_shape=x_shape)
    with pytest.raises(ValueError, match=message):
        build_decoder(x_shape, **options)
    square = (1, smallest, smallest)  # and what the message calls valid is valid
    encoder = encoder_node(**options).build(x_shape=square)
    assert encoder(torch.rand(1, *square)).isfinite().all()
    assert build_decoder(square, **options)(torch.rand(1, LATENT_DIM)).shape == (1, 1, *square)


def test_convolutional_refuses_strides_unlike_channels() -> None:
    node = encoder_node(name="convolutional", channels=[4, 4], strides=[2])
    with pytest.raises(ValueError, match=r"channels \[4, 4\]; got \[2\]"):
        node.build(x_shape=(1, 8, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "mlp", "hidden": [200, 0]},
        {"name": "mlp", "hidden": [-1]},
        {"name": "mlp", "hidden": 200},
        {"name": "mlp", "activation": "swish"},
        {"name": "mlp", "init": "zeros"},
        {"name": "gated_mlp", "hidden": [0]},
        {"name": "gated_mlp", "activation": "elu"},
        {"name": "convolutional", "channels": []},
        {"name": "convolutional", "channels": [4, 0]},
        {"name": "convolutional", "strides": [0, 1]},
        {"name": "convolutional", "kernel_size": 0},
    ],
)
def test_schema_refuses(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        encoder_node(**options)
    with pytest.raises(ValidationError):
        decoder_node(**options)


def assert_uniform(weight: Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    # A uniform variable's fourth moment is 9/5 σ⁴, so its variance has standard error σ² √(0.8/n).
    variance = bound**2 / 3
    standard_error = variance * math.sqrt(0.8 / weight.numel())
    assert abs(weight.square().mean() - variance) < 5 * standard_error


@pytest.mark.parametrize(
    ("num_maps", "options"),
    [
        (1, {"name": "mlp"}),
        (2, {"name": "gated_mlp"}),
        (1, {"name": "convolutional"}),
        (2, {"name": "convolutional", "activation": "gated", "channels": [16, 48]}),
    ],
)
def test_xavier_initialisation(num_maps: int, options: dict[str, object]) -> None:
    """Every map has its own bound, the two of a gate included; biases are zero."""
    encoder = encoder_node(init="xavier", **options).build(x_shape=(1, 28, 28))
    *layers, last = affine_layers(build_decoder((1, 28, 28), init="xavier", **options))
    hidden = [*affine_layers(encoder), *layers]
    for layer, num_chunks in [(last, 1), *((layer, num_maps) for layer in hidden)]:
        assert not layer.bias.any()
        output_axis = int(isinstance(layer, nn.ConvTranspose2d))
        for weight in layer.weight.chunk(num_chunks, dim=output_axis):
            assert_uniform(weight, math.sqrt(6 / (weight[0].numel() + weight[:, 0].numel())))


def test_default_initialisation_is_pytorchs() -> None:
    """U(-a, a) with a² = 1 / fan_in, biases too."""
    encoder = encoder_node(name="mlp", hidden=[100]).build(x_shape=(1, 28, 28))
    (layer,) = affine_layers(encoder)
    assert_uniform(layer.weight, 1 / 28)
    assert layer.bias.any()
