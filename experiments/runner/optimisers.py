"""Optimisers and learning-rate schedules that a configuration can name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Lt
from torch import nn
from torch.optim import Optimizer

from utils.eager import eager
from utils.registry import Registry
from utils.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Unique

Parameters = Iterable[nn.Parameter]
Beta = Annotated[float, Ge(0), Lt(1)]
Betas = tuple[Beta, Beta]

Adam, Adamax = eager(torch.optim.Adam), eager(torch.optim.Adamax)
RMSprop, SGD = eager(torch.optim.RMSprop), eager(torch.optim.SGD)

optimisers: Registry[Optimizer] = Registry("optimisers", "experiments.runner.optimisers")


@optimisers.register("adam")
def adam(
    parameters: Parameters,
    *,
    lr: PositiveFloat = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980)."""
    # Fused: one pass over each tensor; about a fifth of a small VAE's step on a CPU.
    return Adam(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


@optimisers.register("adamax")
def adamax(
    parameters: Parameters,
    *,
    lr: PositiveFloat = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Adamax, Adam with the infinity norm (Kingma and Ba 2015, arXiv 1412.6980)."""
    return Adamax(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=True)


@optimisers.register("rmsprop")
def rmsprop(
    parameters: Parameters,
    *,
    lr: PositiveFloat = 1e-3,
    alpha: Fraction = 0.99,
    eps: PositiveFloat = 1e-8,
    momentum: NonNegativeFloat = 0.0,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012)."""
    return RMSprop(
        parameters, lr=lr, alpha=alpha, eps=eps, momentum=momentum,
        weight_decay=weight_decay, foreach=True,
    )  # fmt: skip


@optimisers.register("sgd")
def sgd(
    parameters: Parameters,
    *,
    lr: PositiveFloat = 1e-2,
    momentum: NonNegativeFloat = 0.0,
    nesterov: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> Optimizer:
    """Stochastic gradient descent, with momentum if wanted."""
    return SGD(
        parameters, lr=lr, momentum=momentum, nesterov=nesterov,
        weight_decay=weight_decay, foreach=True,
    )  # fmt: skip


class Validation(NamedTuple):
    """The bound on the validation split after an epoch, or the mutual information, in nats."""

    epoch: int
    bound: float


Schedule = Callable[[int, Sequence[Validation]], float]
"""Epoch, counted from 1, and the validations before it -> factor on the learning rate."""

schedules: Registry[Schedule] = Registry("schedules", "experiments.runner.optimisers")


def num_plateaus(
    validations: Iterable[Validation], patience: int, min_delta: float = 0.0, after: float = 0.0
) -> int:
    """How often ``patience`` validations running did not gain more than ``min_delta`` nats.

    A gain is one over the last validation that was a gain. Those of epochs up to ``after`` may
    gain, but are not waited for.
    """
    best, waited, count = -math.inf, 0, 0
    for epoch, bound in validations:
        if bound > best + min_delta:
            best, waited = bound, 0
        elif epoch > after:
            waited += 1
        if waited == patience:
            count, waited = count + 1, 0
    return count


@schedules.register("constant")
def constant() -> Schedule:
    """The optimiser's learning rate throughout."""
    return lambda epoch, validations: 1.0


@schedules.register("iwae")
def iwae(*, num_stages: PositiveInt = 8) -> Schedule:
    """Stage i = 0, 1, ... lasts 3^i epochs at 10^(-i/7) (Burda et al. 2016, arXiv 1509.00519)."""

    def factor(epoch: int, validations: Sequence[Validation]) -> float:
        # Stages 0..i end after (3^(i+1) - 1) / 2 epochs; integers keep the edges exact.
        stage, end = 0, 1
        while epoch > end and stage < num_stages - 1:
            stage += 1
            end += 3**stage
        return 10 ** (-stage / 7)

    return factor


@schedules.register("cosine")
def cosine(epochs: int, *, final: Fraction = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` over the whole training (Loshchilov and Hutter 2017)."""

    def factor(epoch: int, validations: Sequence[Validation]) -> float:
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))

    return factor


@schedules.register("multi_step")
def multi_step(
    *, milestones: Annotated[list[PositiveInt], Unique], factor: PositiveFloat = 0.1
) -> Schedule:
    """Times `factor` after each milestone epoch."""
    return lambda epoch, validations: factor ** sum(epoch > milestone for milestone in milestones)


@schedules.register("plateau")
def plateau(
    has_validation: bool,
    *,
    factor: Annotated[float, Gt(0), Lt(1)] = 0.1,
    patience: PositiveInt = 10,
    min_delta: NonNegativeFloat = 0.0,
    lowest: Fraction = 0.0,
) -> Schedule:
    """Times `factor` whenever validation stands still, but not below `lowest`.

    Args:
        has_validation: whether there is a split to look at.
        factor: of the rate, each time.
        patience: validations (see ``training.evaluate_every``) without a gain, each time.
        min_delta: nats that a validation must exceed the last gain by, to be a gain.
        lowest: least product of the factors.

    Raises ValueError without a validation split.
    """
    if not has_validation:
        raise ValueError("`plateau` looks at validation, and the data have no such split")

    def product(epoch: int, validations: Sequence[Validation]) -> float:
        return max(lowest, factor ** num_plateaus(validations, patience, min_delta))

    return product
