"""Iterative amortised inference: a net that looks at gradients and says where to go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.networks.layers import Activation, Widths, dense_layers
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.refinements.protocol import Refinement, elbo_gradient, refinements
from utils.types import Depth, PositiveInt

SMALLEST = 1e-8  # of a gradient whose logarithm is taken
GATE = 2.0  # logit of what is kept of the context at first


@refinements.register("iterative")
class Iterative(Refinement):
    """Iterative amortised inference (Marino et al. 2018, arXiv 1807.09356).

    context <- g context + (1 - g) f, where the gate g and f (P numbers each) are given by a net of
    the context, of the logarithm of the ELBO's gradient by it, number by number, and of its sign.
    Gradients are constants to the net, which is one for all steps. It learns from where the last
    step ends (in the paper, from the mean over all steps).

    Args:
        context_size: P.
        num_steps: how many.
        hidden: widths of the net.
        activation: its nonlinearity.
        num_samples: draws of each gradient.
    """

    def __init__(
        self,
        context_size: int,
        *,
        num_steps: Depth = 5,
        hidden: Widths = (512, 512),
        activation: Activation = "elu",
        num_samples: PositiveInt = 10,
    ) -> None:
        super().__init__()
        self.num_steps, self.num_samples = num_steps, num_samples
        layers = dense_layers(3 * context_size, hidden, activation, "default")
        last = nn.Linear([3 * context_size, *hidden][-1], 2 * context_size)
        with torch.no_grad():
            last.bias[:context_size] = GATE
        self.net = nn.Sequential(*layers, last)

    def forward(self, context: Tensor, posterior: Chain, log_joint: LogDensity) -> Tensor:
        """See ``Refinement``."""
        for _ in range(self.num_steps):
            gradient = elbo_gradient(context, posterior, log_joint, self.num_samples).detach()
            size = gradient.abs().clamp_min(SMALLEST).log()
            seen = torch.cat([context, size, gradient.sign()], dim=-1)
            gate, target = self.net(seen).chunk(2, dim=-1)
            context = target + gate.sigmoid() * (context - target)
        return context
