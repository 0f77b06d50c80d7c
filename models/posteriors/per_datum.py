"""A posterior in which each data point has weights of its own: what local flows are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from models.posteriors.autoregressive import MaskedLinear
from models.posteriors.chain import Chain


class StackedLinear(nn.Module):
    """B affine maps side by side: row b of x goes through the b-th.

    x (..., B, in) ↦ x Wᵀ + bias with weights (B, out, in) and biases (B, out), each a copy of the
    given ones to begin with. ``mask`` (out, in) is common to all.
    """

    mask: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, mask: Tensor | None, size: int
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().repeat(size, 1, 1))
        self.bias = None if bias is None else nn.Parameter(bias.detach().repeat(size, 1))
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., B, out)."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        rows = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)  # (B, S, in)
        if self.bias is None:
            outputs = rows @ weight.mT
        else:
            outputs = torch.baddbmm(self.bias[:, None], rows, weight.mT)
        return outputs.transpose(0, 1).reshape(*x.shape[:-1], -1)


# What hides a part of the weights, for each kind of layer that may hold weights.
MASKS: Mapping[type[nn.Module], Callable[[Any], Tensor | None]] = {
    nn.Linear: lambda layer: None,
    MaskedLinear: lambda layer: layer.mask,
}


def per_datum(posterior: Chain, num_data: int) -> Chain:
    """A copy of ``posterior`` in which each of B data points has its own copy of the weights.

    In one copy of the whole chain every linear layer is replaced by B of them. What the chain
    shares between its parts stays shared, and the target is seen by all data at once. The B data
    points are then B separate problems (Cremer et al. 2018, arXiv 1801.03558). Losses and
    estimators take the chain as any other, for the contexts (B, P) of these data in this order.

    Raises ValueError for weights outside linear layers.
    """
    chain = deepcopy(posterior)
    layers = list(chain.named_modules(remove_duplicate=False))  # by each of their names
    stacked: dict[nn.Module, StackedLinear] = {}
    for name, layer in layers:
        if type(layer) in MASKS:
            if layer not in stacked:
                assert isinstance(layer, nn.Linear)
                mask = MASKS[type(layer)](layer)
                stacked[layer] = StackedLinear(layer.weight, layer.bias, mask, num_data)
            parent, _, attribute = name.rpartition(".")
            setattr(chain.get_submodule(parent), attribute, stacked[layer])
    own = {weight for layer in stacked.values() for weight in layer.parameters()}
    for name, weight in chain.named_parameters():
        if weight not in own:
            raise ValueError(
                f"`{name}` of the posterior is a weight outside of a linear layer, and there is "
                f"no way to give each datum its own; take scope `context`"
            )
    return chain
