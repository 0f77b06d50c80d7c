"""Ways of the inverse temperature b from 0 to 1, along which a chain's targets change."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from models import schedules
from models.posteriors.parts import Part
from utils.registry import Registry


class Schedule(Part, ABC):
    """b_0 = 0 < b_1 < ... < b_K < b_{K+1} = 1: the k-th transition that looks sees f_{b_k}.

    At 0 is the base and at 1 p(x, z), which closes the weight, so that K transitions have the K
    numbers between (Thin et al. 2021, arXiv 2106.15921). Factories take the size ``num_targets``,
    K. Learned numbers are the same for each datum until local optimisation.
    """

    amortised = False

    def __init__(self, num_targets: int) -> None:
        super().__init__()
        self.num_targets = num_targets

    @abstractmethod
    def forward(self, context: Tensor) -> Tensor:
        """b (K + 2, B or 1), ends included and exact, given context (B, context_size)."""


beta_schedules: Registry[Schedule] = Registry("beta_schedules", "models.posteriors")


@beta_schedules.register("linear")
class Linear(Schedule):
    """b_k = k / (K + 1); nothing is learned."""

    def forward(self, context: Tensor) -> Tensor:
        """See ``Schedule``."""
        return context.new_tensor(schedules.linear(self.num_targets + 1))[:, None]


@beta_schedules.register("sigmoidal")
class Sigmoidal(Schedule):
    """b_k = (σ(a t_k) - σ(-a)) / (σ(a) - σ(-a)), t_k evenly from -1 to 1; log a is learned.

    Starts almost linear, at log a = -3 (Thin et al. 2021, arXiv 2106.15921).
    """

    context_size = 1

    def initial_context(self) -> Tensor:
        """log a."""
        return torch.tensor([-3.0])

    def forward(self, context: Tensor) -> Tensor:
        """See ``Schedule``."""
        slope = context[:, 0].exp()
        even = context.new_tensor(schedules.linear(self.num_targets + 1)[1:-1])[:, None]
        # σ(x) - σ(-a) by tanh: no cancellation where the slope is small.
        inner = 0.5 + 0.5 * (0.5 * slope * (2 * even - 1)).tanh() / (0.5 * slope).tanh()
        return _with_ends(inner)


@beta_schedules.register("free")
class Free(Schedule):
    """Each of the K + 1 steps of b is learned: b_k - b_{k-1} = softmax(.)_k; starts linear."""

    def __init__(self, num_targets: int) -> None:
        super().__init__(num_targets)
        self.context_size = num_targets + 1

    def forward(self, context: Tensor) -> Tensor:
        """See ``Schedule``."""
        inner = context.softmax(-1).cumsum(-1)[:, :-1].clamp(max=1.0)  # rounding can exceed it
        return _with_ends(inner.T)


def _with_ends(inner: Tensor) -> Tensor:
    """b (K, B) with exact 0 and 1 around it."""
    return F.pad(F.pad(inner, (0, 0, 1, 0)), (0, 0, 0, 1), value=1.0)
