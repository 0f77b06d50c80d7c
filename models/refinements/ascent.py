"""Semi-amortised inference: the encoder's context is where a search begins."""

from __future__ import annotations

import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.refinements.protocol import Refinement, elbo_gradient, refinements
from utils.types import Depth, Fraction, PositiveFloat, PositiveInt


@refinements.register("ascent")
class Ascent(Refinement):
    """Semi-amortised: steps of ascent on the datum's ELBO (Kim et al. 2018, arXiv 1802.02550).

    v <- momentum v + clip(gradient), context <- context + lr v. Training differentiates through
    the steps, so that model and encoder learn to be refined. A step draws anew and costs a
    gradient of the decoder; its derivative, one of second order.

    Args:
        num_steps: how many (20 in the paper).
        lr: the paper's 1 for the mean of a batch of 50 is 0.02 for each datum.
        momentum: share of the velocity that is kept.
        clip: largest norm of a datum's gradient.
        num_samples: draws a step; with the paper's 1 their noise can cost more than is gained.
        unrolled: false: the steps are constants, and only where they end is learned.
    """

    def __init__(
        self,
        *,
        num_steps: Depth = 20,
        lr: PositiveFloat = 0.02,
        momentum: Fraction = 0.5,
        clip: PositiveFloat = 5.0,
        num_samples: PositiveInt = 10,
        unrolled: bool = True,
    ) -> None:
        super().__init__()
        self.num_steps, self.lr, self.momentum = num_steps, lr, momentum
        self.clip, self.num_samples, self.unrolled = clip, num_samples, unrolled

    def forward(self, context: Tensor, posterior: Chain, log_joint: LogDensity) -> Tensor:
        """See ``Refinement``."""
        velocity = torch.zeros_like(context)
        for _ in range(self.num_steps):
            gradient = elbo_gradient(context, posterior, log_joint, self.num_samples)
            if not self.unrolled:
                gradient = gradient.detach()
            velocity = self.momentum * velocity + self._clipped(gradient)
            context = context + self.lr * velocity
        return context

    def _clipped(self, gradient: Tensor) -> Tensor:
        square = gradient.square().sum(-1, keepdim=True)
        # The root of what is clipped alone: at a gradient of zero it has no derivative.
        return gradient * (self.clip * square.clamp_min(self.clip**2).rsqrt())
