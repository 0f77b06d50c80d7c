"""How long the steps of dynamics are: fixed, learned, or adapted between optimiser's steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.posteriors.parts import Part
from utils.registry import Registry
from utils.types import Fraction, PositiveFloat

LEAST = 1e-6  # of learned sizes: at 0 the gradient of a Langevin step is infinite


class StepSize(Part, ABC):
    """Step sizes of a move, one for each latent. Factories take the size ``latent_dim``."""

    amortised = False
    adapts: bool = False
    """Whether they follow what the move tells of acceptances."""

    @abstractmethod
    def forward(self, context: Tensor) -> Tensor:
        """Sizes (B or 1, D), above 0, given context (B, context_size)."""

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """Change the sizes by what the move told (``Transition.adapt``)."""


StepSizes = Callable[..., StepSize]
step_sizes: Registry[StepSize] = Registry("step_sizes", "models.posteriors")


@step_sizes.register("learned")
class LearnedSize(StepSize):
    """Learned with the bound, not amortised: a sigmoid between 1e-6 and ``largest``.

    Raises ValueError for a first size that is not between these.
    """

    def __init__(
        self, latent_dim: int, *, first: PositiveFloat = 0.1, largest: PositiveFloat = 0.5
    ) -> None:
        super().__init__()
        if not LEAST < first < largest:
            raise ValueError(
                f"`first` must be between {LEAST:g} and `largest`, {largest:g}; got {first:g}"
            )
        self.context_size = latent_dim
        self.first, self.largest = first, largest

    def initial_context(self) -> Tensor:
        """The sigmoid's inverse of the first size."""
        share = (self.first - LEAST) / (self.largest - LEAST)
        return torch.full((self.context_size,), math.log(share / (1 - share)))

    def forward(self, context: Tensor) -> Tensor:
        """See ``StepSize``."""
        return LEAST + (self.largest - LEAST) * context.sigmoid()


class Kept(StepSize, ABC):
    """Sizes kept in a buffer, the same for each datum."""

    sizes: Tensor

    def __init__(self, latent_dim: int, first: float) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.full((latent_dim,), first))

    def forward(self, context: Tensor) -> Tensor:
        """See ``StepSize``."""
        return self.sizes[None]


@step_sizes.register("fixed")
class Fixed(Kept):
    """The same all the time."""

    def __init__(self, latent_dim: int, *, first: PositiveFloat = 0.01) -> None:
        super().__init__(latent_dim, first)


@step_sizes.register("by_acceptance")
class ByAcceptance(Kept):
    """0.2 % shorter after a step that accepts too little, else longer; within [0.001, 0.5].

    The plain rule of Thin et al. 2021 (arXiv 2106.15921).
    """

    adapts = True

    def __init__(
        self, latent_dim: int, *, first: PositiveFloat = 0.01, acceptance: Fraction = 0.8
    ) -> None:
        super().__init__(latent_dim, first)
        self.acceptance = acceptance

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """By ``acceptance`` (S, B)."""
        enough = stats["acceptance"].mean() >= self.acceptance
        self.sizes.mul_(torch.where(enough, 1.002, 0.998)).clamp_(1e-3, 0.5)


@step_sizes.register("by_spread")
class BySpread(Kept):
    """Shorter where gradients spread more: η <- 0.9 η + 0.1 g / (1 + s), s their deviation.

    s is taken over samples and data, a latent at a time; g follows the acceptance, times 0.99
    where it is too low, else times 1.02. The variance-sensitive rule, and the default, of Thin
    et al. 2021 (arXiv 2106.15921).
    """

    adapts = True
    gain: Tensor

    def __init__(
        self, latent_dim: int, *, first: PositiveFloat = 0.01, acceptance: Fraction = 0.8
    ) -> None:
        super().__init__(latent_dim, first)
        self.acceptance = acceptance
        self.register_buffer("gain", torch.tensor(0.1))

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        """By ``acceptance`` (S, B) and ``gradient`` (S, B, D)."""
        spread = stats["gradient"].flatten(0, 1).std(0, correction=0)
        self.sizes.mul_(0.9).add_(0.1 * self.gain / (1 + spread))
        enough = stats["acceptance"].mean() >= self.acceptance
        self.gain.mul_(torch.where(enough, 1.02, 0.99))
