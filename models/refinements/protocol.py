"""What makes an encoder's answer better for each datum, before the chain gets it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from models.posteriors.chain import Chain
from models.posteriors.paths import PLAIN, LogDensity
from utils.registry import Registry


class Refinement(nn.Module, ABC):
    """A map from context (B, P) to context (B, P) that may look at p(x, z), for each datum alone.

    Draws of the chain under the refined context are properly weighted, whatever it is: it depends
    on draws of its own, and none of those that are weighted.
    """

    @abstractmethod
    def forward(self, context: Tensor, posterior: Chain, log_joint: LogDensity) -> Tensor:
        """The refined context (B, P), which can be differentiated where gradients are recorded."""


def elbo_gradient(
    context: Tensor, posterior: Chain, log_joint: LogDensity, num_samples: int
) -> Tensor:
    """The gradient (B, P) of each datum's ELBO, of S draws, by its own context.

    Choices (Metropolis) are constants in it: their score, which the losses add, is left out.
    """

    def elbo(numbers: Tensor) -> Tensor:
        return posterior(numbers, log_joint, num_samples).log_w.mean(0)

    return PLAIN.gradient(elbo, context)


refinements: Registry[Refinement] = Registry("refinements", "models.refinements")
