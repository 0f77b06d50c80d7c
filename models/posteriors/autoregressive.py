"""Inverse autoregressive flow: masked nets whose outputs i see only inputs before i."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.conditioned import check_shared
from models.networks.layers import UNITS, Activation
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.paths import Target
from models.posteriors.protocol import Move, State, Transition, posteriors, transitions
from utils.types import Depth, FiniteFloat, NonNegativeInt, PositiveInt

SomeWidths = Annotated[Sequence[PositiveInt], MinLen(1)]


class MaskedLinear(nn.Linear):
    """x ↦ (mask ∘ W) x + b, for a constant mask (num_outputs, num_inputs) of zeros and ones."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., num_outputs)."""
        return F.linear(x, self.mask * self.weight, self.bias)


class MaskedMLP(nn.Module):
    """Net (m, l) of z (S, B, D) and h (B, shared_size) with (m_i, l_i) a function of z_<i and h.

    Input and output i have degree i, hidden units degrees 0 to D - 1 in even numbers; a hidden
    unit sees units of its own degree and below, an output those strictly below (Germain et al.
    2015, arXiv 1502.03509). Units of degree 0 see h alone: the first latent has its share of it.
    h is added, after a linear map, to the first hidden layer, which only a further layer mixes
    with z (van den Berg et al. 2018, arXiv 1803.05649). The last layer starts at zero.
    ``reverse`` turns the order of the latents around.
    """

    def __init__(
        self,
        latent_dim: int,
        shared_size: int,
        hidden: Sequence[int],
        activation: Activation,
        reverse: bool,
    ) -> None:
        super().__init__()
        self.shared_size = shared_size
        order = torch.arange(1, latent_dim + 1)
        order = order.flip(0) if reverse else order
        degrees = [order, *(torch.arange(width) * latent_dim // width for width in hidden)]
        unit = UNITS[activation].build
        first, *others = (
            nn.Sequential(MaskedLinear(below[:, None] >= above), unit())
            for above, below in pairwise(degrees)
        )
        self.first = first
        self.others = nn.Sequential(*others)
        self.last = MaskedLinear(order.repeat(2)[:, None] > degrees[-1])
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Without h there is nothing to add (and no initialisation for a matrix without columns).
        self.shared = nn.Linear(shared_size, hidden[0], bias=False) if shared_size else None

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Outputs (S, B, 2D), m before l. Raises ValueError when ``h`` has another size."""
        check_shared(h, self.shared_size)
        features = self.first(z)
        if self.shared is not None:
            features = features + self.shared(h)
        return self.last(self.others(features))


@transitions.register("inverse_autoregressive")
class InverseAutoregressive(Transition):
    """IAF layer: z'_i = g_i z_i + (1 - g_i) m_i with g = σ(l + forget_bias), log|det| = Σ log g.

    (m, l) comes from a masked net of z and h, so that one pass draws a sample (Kingma et al.
    2016, arXiv 1606.04934, its numerically stable form). Starts at z' = σ(forget_bias) z.
    Backwards it takes a pass for each latent.
    """

    reversible = True

    def __init__(
        self,
        latent_dim: int,
        *,
        hidden: SomeWidths = (320, 320),
        activation: Activation = "elu",
        forget_bias: FiniteFloat = 2.0,
        shared_size: NonNegativeInt = 0,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.net = MaskedMLP(latent_dim, shared_size, hidden, activation, reverse)
        self.forget_bias = forget_bias
        self.uses_shared = shared_size > 0

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``; the target is not looked at."""
        mean, minus_log_gate = self._numbers(state.z, context)
        z = torch.lerp(mean, state.z, (-minus_log_gate).exp())
        return Move(state._replace(z=z), minus_log_gate.sum(-1))

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``: nothing is drawn."""
        z, minus_log_gate = state.z, state.z
        for _ in range(z.shape[-1]):  # a latent is right once those before it in their order are
            mean, minus_log_gate = self._numbers(z, context)
            z = mean + (state.z - mean) * minus_log_gate.exp()
        return Move(state._replace(z=z), minus_log_gate.sum(-1))

    def _numbers(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(z, h).chunk(2, dim=-1)
        return mean, F.softplus(-(raw + self.forget_bias))


@posteriors.register("iaf")
def iaf(
    latent_dim: int,
    *,
    num_layers: Depth = 4,
    hidden: SomeWidths = (320, 320),
    activation: Activation = "elu",
    forget_bias: FiniteFloat = 1.0,
    shared_size: NonNegativeInt | None = 320,
) -> Chain:
    """Inverse autoregressive flow with context (Kingma et al. 2016, 1606.04934).

    By default sized like the baseline of van den Berg et al. 2018 (arXiv 1803.05649).

    Args:
        latent_dim: D.
        num_layers: masked nets; every second one takes the latents in reversed order.
        hidden: widths of each net; the context is added to the first.
        activation: nonlinearity of the nets.
        forget_bias: gates start at σ(forget_bias); the paper suggests 1 to 2.
        shared_size: numbers of the encoder's features, h, that the nets see; null: as many as
            latents.
    """
    shared_size = latent_dim if shared_size is None else shared_size
    layers = [
        InverseAutoregressive(
            latent_dim,
            hidden=hidden,
            activation=activation,
            forget_bias=forget_bias,
            shared_size=shared_size,
            reverse=layer % 2 == 1,
        )
        for layer in range(num_layers)
    ]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
