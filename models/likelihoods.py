"""Likelihoods p(x | parameters): what the decoder's output maps mean.

Dimension letters: S samples, B data points, (C, H, W) an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from utils.registry import Registry
from utils.types import PositiveFloat

LOG_2PI = math.log(2 * math.pi)
PIXELS = (-3, -2, -1)
LOG_SCALE_LIMIT = 30.0
SOFTPLUS_LINEAR = 40.0  # where log(1 + eˡ) is l to the last bit of float64
MOST_LEVELS = 256
"""Of the grids that are tried when it is to be said which one would fit."""


class Likelihood(nn.Module, ABC):
    """Density of x given ``parameters`` (S, B, num_parameters, C, H, W), independent pixels."""

    num_parameters: int
    """Maps per pixel that the decoder must give."""

    def check(self, x: Tensor) -> None:
        """Raise ValueError, with what to set, unless this can be the density of x (N, C, H, W)."""

    @abstractmethod
    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x | parameters) (S, B) in nats, constants kept, of x (B, C, H, W)."""

    @torch.enable_grad()
    def score(self, x: Tensor, parameters: Tensor) -> Tensor:
        """d log p(x | parameters) / d parameters, of their shape and without a graph.

        By autograd; where the formula is short it is faster.
        """
        leaf = parameters.detach().requires_grad_()
        (score,) = torch.autograd.grad(self.log_prob(x, leaf).sum(), leaf)
        return score

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters] (S, B, C, H, W)."""

    @abstractmethod
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W); not reparameterised."""


likelihoods: Registry[Likelihood] = Registry("likelihoods", "models.likelihoods")


@likelihoods.register("bernoulli")
class Bernoulli(Likelihood):
    """Bernoulli pixels on logits l: log p(x) = Σ x l - log(1 + eˡ).

    For grey x in [0, 1] that is the negative cross-entropy, which is no normalised density, and
    for other x it has no bound: a run refuses both.
    """

    num_parameters = 1

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless every pixel is 0 or 1."""
        others = x[(x != 0) & (x != 1)]
        if len(others):
            is_grey = x.min() >= 0 and x.max() <= 1
            binarise = "set `data.binarisation` to static, dynamic or threshold, or "
            raise ValueError(
                f"`bernoulli` needs pixels of 0 or 1 and finds {others[0]:g}: "
                f"{binarise if is_grey else ''}take another `model.likelihood`"
            )

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x | parameters) (S, B) in nats."""
        logits = parameters.squeeze(2)  # (S, B, C, H, W)
        # Softplus has kernels for both derivatives; torch.func would take binary cross-entropy
        # apart into a dozen passes over the pixels.
        return (x * logits - F.softplus(logits, threshold=SOFTPLUS_LINEAR)).sum(PIXELS)

    @torch.no_grad()
    def score(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x minus the mean."""
        mean = self.mean(parameters)
        return torch.sub(x, mean, out=mean).unsqueeze(2)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters] (S, B, C, H, W)."""
        return parameters.squeeze(2).sigmoid()

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W) of zeros and ones."""
        return torch.bernoulli(self.mean(parameters))


@likelihoods.register("gaussian")
class Gaussian(Likelihood):
    """Gaussian pixels N(mean, scale²); one scale for all pixels, fixed or learned."""

    num_parameters = 1
    log_scale: Tensor

    def __init__(self, *, scale: PositiveFloat = 1.0, learn_scale: bool = False) -> None:
        super().__init__()
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x | parameters) (S, B) in nats."""
        squares = (x - parameters.squeeze(2)).square().sum(PIXELS)  # (S, B)
        log_normaliser = x[0].numel() * (self.log_scale + 0.5 * LOG_2PI)
        return -0.5 * squares * (-2 * self.log_scale).exp() - log_normaliser

    @torch.no_grad()
    def score(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x minus the mean, by the variance."""
        return (x - self.mean(parameters)).unsqueeze(2) * (-2 * self.log_scale).exp()

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters] (S, B, C, H, W)."""
        return parameters.squeeze(2)

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W), unbounded."""
        mean = parameters.squeeze(2)
        return mean + self.log_scale.exp() * torch.randn_like(mean)


@likelihoods.register("heteroscedastic_gaussian")
class HeteroscedasticGaussian(Likelihood):
    """Gaussian pixels N(mean, scale²), both given by the decoder for each pixel.

    scale² = min_scale² + exp(2 r) of the decoder's second map r. Without a floor the density of a
    pixel that is met exactly has no bound (Mattei and Frellsen 2018, arXiv 1802.04826).
    """

    num_parameters = 2

    def __init__(self, *, min_scale: PositiveFloat = 0.01) -> None:
        super().__init__()
        self.min_scale = min_scale

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x | parameters) (S, B) in nats."""
        mean, log_scale = self._split(parameters)
        noise = (x - mean) * (-log_scale).exp()
        return (-0.5 * (noise.square() + LOG_2PI) - log_scale).sum(PIXELS)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters] (S, B, C, H, W)."""
        return parameters[:, :, 0]

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W), unbounded."""
        mean, log_scale = self._split(parameters)
        return mean + log_scale.exp() * torch.randn_like(mean)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = parameters.unbind(2)  # (S, B, C, H, W) each
        raw = raw.clamp(max=LOG_SCALE_LIMIT)
        floor = raw.new_full((), 2 * math.log(self.min_scale))
        return mean, 0.5 * torch.logaddexp(2 * raw, floor)


def _off_grid(x: Tensor, num_levels: int) -> Tensor:
    """Which x are none of k / (num_levels - 1), but for float32's rounding."""
    steps = x.double() * (num_levels - 1)
    tolerance = 1e-3 + num_levels * torch.finfo(torch.float32).eps
    level = steps.round().clamp(0, num_levels - 1)
    return (steps - level).abs() > tolerance


@likelihoods.register("discretised_logistic")
class DiscretisedLogistic(Likelihood):
    """Logistic pixels rounded to the grid k / (num_levels - 1), k = 0 ... num_levels - 1.

    P(x) = σ(a) - σ(b), with a, b = (x ± δ/2 - mean) / scale and δ the grid's step; the lowest
    level takes the whole lower tail, the highest the whole upper one. Kingma et al. 2016
    (arXiv 1606.04934). The decoder gives mean and log-scale of each pixel; x must lie on the grid.
    """

    num_parameters = 2

    def __init__(self, *, num_levels: Annotated[int, Ge(2)] = 256) -> None:
        super().__init__()
        self.num_levels = num_levels

    @property
    def step(self) -> float:
        """δ, the distance of neighbouring levels."""
        return 1 / (self.num_levels - 1)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless every pixel is one of the levels."""
        levels = x.unique()
        others = levels[_off_grid(levels, self.num_levels)]
        if not len(others):
            return
        fitting = (n for n in range(2, MOST_LEVELS + 1) if not _off_grid(levels, n).any())
        fit = next(fitting, None)
        remedy = "take another `model.likelihood`"
        if fit is not None:
            remedy = f"set `model.likelihood.num_levels` to {fit}, or {remedy}"
        raise ValueError(
            f"`discretised_logistic` needs pixels on the {self.num_levels} levels from 0 to 1 "
            f"and finds {others[0]:g}: {remedy}"
        )

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log P(x | parameters) (S, B) in nats.

        No difference of near-equal numbers is taken:
        σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)).
        """
        mean, scale = self._split(parameters)
        distance = x - mean  # (S, B, C, H, W)
        log_not_above = F.logsigmoid((distance + 0.5 * self.step) / scale)
        log_not_below = F.logsigmoid((0.5 * self.step - distance) / scale)
        log_both = (-torch.expm1(-self.step / scale)).log()
        lowest, highest = x < 0.5 * self.step, x > 1 - 0.5 * self.step
        log_p = (
            log_not_above.masked_fill(highest, 0)
            + log_not_below.masked_fill(lowest, 0)
            + log_both.masked_fill(lowest | highest, 0)
        )
        return log_p.sum(PIXELS)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters] (S, B, C, H, W) of the rounded x: δ Σ_k P(x > k δ)."""
        mean, scale = self._split(parameters)
        total = torch.zeros_like(mean)
        for level in range(self.num_levels - 1):  # a loop: all at once takes 255 × the memory
            total = total + ((mean - (level + 0.5) * self.step) / scale).sigmoid()
        return total * self.step

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W) on the grid."""
        mean, scale = self._split(parameters)
        x = mean + scale * torch.rand_like(mean).logit()
        return (x / self.step).round().clamp(0, self.num_levels - 1) * self.step

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = parameters.unbind(2)  # (S, B, C, H, W) each
        # Where exp would leave float32's range, far from any scale that fits pixels in [0, 1].
        return mean, log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT).exp()
