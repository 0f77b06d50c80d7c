"""Fully connected nets of a position and the shared context h, inside flows and kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.networks.layers import UNITS, Activation, Widths, dense_layers


def check_shared(h: Tensor, shared_size: int) -> None:
    """Raise ValueError when the chain's shared context ``h`` has not the size expected here."""
    if h.shape[-1] != shared_size:
        raise ValueError(
            f"`shared_size` is {shared_size} here, but the chain's is {h.shape[-1]}; "
            f"they must agree"
        )


class ConditionedMLP(nn.Module):
    """Net of [z, unit(h)]: z (S, B, num_inputs), h (B, shared_size) -> (S, B, num_outputs).

    ``h`` comes from the chain as a linear map of the encoder's features, so the nonlinearity that
    the papers put on it (Cremer et al. 2018, arXiv 1801.03558) is applied here; it is that of the
    hidden layers. The last layer starts at zero, so that what it parametrises starts at a place
    of the caller's choice.
    """

    def __init__(
        self,
        num_inputs: int,
        shared_size: int,
        num_outputs: int,
        hidden: Widths,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.shared_size = shared_size
        self.unit = UNITS[activation].build()
        width = num_inputs + shared_size
        self.layers = nn.Sequential(*dense_layers(width, hidden, activation, "default"))
        self.last = nn.Linear([width, *hidden][-1], num_outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Outputs (S, B, num_outputs). Raises ValueError when ``h`` has another size."""
        check_shared(h, self.shared_size)
        if self.shared_size == 0:
            return self.last(self.layers(z))
        h = self.unit(h).expand(*z.shape[:-1], -1)  # (S, B, shared_size)
        return self.last(self.layers(torch.cat([z, h], dim=-1)))
