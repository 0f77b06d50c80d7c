"""What all networks are stacked from: affine maps, nonlinearities and initialisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from models.networks.protocol import Encoder
from utils.types import PositiveInt

Widths = Sequence[PositiveInt]
Activation = Literal["elu", "gelu", "leaky_relu", "relu", "softplus", "tanh"]
Nonlinearity = Literal[Activation, "gated"]
Init = Literal["default", "xavier"]
Shape = tuple[int, int, int]
Affine = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


class Unit(NamedTuple):
    """A nonlinearity and how many affine maps one of its outputs consumes."""

    build: Callable[[], nn.Module]
    num_maps: int


UNITS: dict[str, Unit] = {
    "elu": Unit(nn.ELU, 1),
    "gated": Unit(lambda: nn.GLU(dim=1), 2),  # (W x + b) · sigmoid(V x + c)
    "gelu": Unit(nn.GELU, 1),
    "leaky_relu": Unit(nn.LeakyReLU, 1),
    "relu": Unit(nn.ReLU, 1),
    "softplus": Unit(nn.Softplus, 1),
    "tanh": Unit(nn.Tanh, 1),
}


class LayeredEncoder(Encoder):
    """An encoder that is a stack of layers."""

    def __init__(self, layers: Sequence[nn.Module], num_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, num_features) of x (B, C, H, W)."""
        return self.layers(x)


def dense_layers(
    num_inputs: int, hidden: Widths, activation: Nonlinearity, init: Init
) -> list[nn.Module]:
    """Fully connected layers of the given widths, each followed by its nonlinearity."""
    unit = UNITS[activation]
    layers: list[nn.Module] = []
    for width in hidden:
        linear = nn.Linear(num_inputs, unit.num_maps * width)
        layers += [initialised(linear, init, unit.num_maps), unit.build()]
        num_inputs = width
    return layers


def initialised(layer: Affine, init: Init, num_maps: int = 1, output_axis: int = 0) -> Affine:
    """The layer, with its weights and biases drawn as ``init`` says.

    Args:
        layer: an affine map, or ``num_maps`` equally wide ones that are fused.
        init: ``default`` is PyTorch's own; ``xavier`` draws weights from U(-a, a) with
            a² = 6 / (fan_in + fan_out), and sets biases to zero (Glorot and Bengio 2010).
        num_maps: how many maps are fused; ``fan_out`` is that of each alone.
        output_axis: the weight's axis of outputs; 1 in transposed convolutions.
    """
    _INITIALISERS[init](layer, num_maps, output_axis)
    return layer


def _default(layer: Affine, num_maps: int, output_axis: int) -> None:
    """PyTorch drew them when it built the layer."""


def _xavier(layer: Affine, num_maps: int, output_axis: int) -> None:
    for weight in layer.weight.detach().chunk(num_maps, dim=output_axis):
        nn.init.xavier_uniform_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


_INITIALISERS: dict[str, Callable[[Affine, int, int], None]] = {
    "default": _default,
    "xavier": _xavier,
}
