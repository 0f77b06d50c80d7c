"""Learned annealed chains and diffusion samplers, as posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from models.networks.control import Control
from models.networks.layers import Activation, Widths
from models.posteriors.auxiliary import Drop, Lift
from models.posteriors.chain import Chain
from models.posteriors.controlled import (
    ControlledGaussian,
    ControlledLangevin,
    Numbers,
    Pushed,
    Refresh,
    Rule,
)
from models.posteriors.gaussian import StandardNormal
from models.posteriors.hamiltonian import Leapfrog
from models.posteriors.monte_carlo import Schedules, annealed
from models.posteriors.protocol import Density, Transition, bases, posteriors
from models.posteriors.schedules import beta_schedules
from models.posteriors.step_sizes import StepSizes, step_sizes
from utils.types import Depth, NonNegativeInt, PositiveFloat

TOTAL = 6.0  # of the rates of a diffusion's steps; N(0, I) then remembers exp(-3) of its start


def _control(
    latent_dim: int,
    num_inputs: int,
    num_steps: int,
    hidden: Widths,
    activation: Activation,
    shared_size: int | None,
    score: float | None = None,
) -> Control:
    """One net for all steps; it sees an h of D numbers unless told another size."""
    return Control(
        latent_dim,
        num_inputs,
        shared_size=latent_dim if shared_size is None else shared_size,
        num_steps=num_steps,
        hidden=hidden,
        activation=activation,
        score=score,
    )


def _with_momentum(
    latent_dim: int, refreshes: Sequence[Refresh], step_size: StepSizes | None
) -> list[Transition]:
    """A momentum is added, each refresh of it is followed by a leapfrog step, it is dropped."""
    layers: list[Transition] = [Lift(density=StandardNormal(latent_dim))]
    for refresh in refreshes:
        layers += [refresh, Leapfrog(latent_dim, num_steps=1, step_size=step_size)]
    return [*layers, Drop(density=StandardNormal(latent_dim))]


@posteriors.register("uha")
def uha(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: Depth = 5,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    refresh: Rule = "exact",
) -> Chain:
    """Uncorrected Hamiltonian annealing (Geffner and Domke 2021, arXiv 2107.04150; DAIS).

    A momentum is partly refreshed before each of K leapfrog steps, whose targets are
    q0^(1 - b_k) p(x, z)^b_k. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: learned, 0.1 at first and below 0.5.
        refresh: ``exact`` leaves N(0, I) as it is, ``euler`` is a step of dynamics with friction.
    """
    refreshes = [Refresh(latent_dim, None, k, rule=refresh) for k in range(num_steps)]
    layers = _with_momentum(latent_dim, refreshes, step_size)
    return annealed(latent_dim, base, layers, schedule)


@posteriors.register("ldvi")
def ldvi(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: Depth = 5,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    refresh: Rule = "exact",
    pushed: Pushed = "reverse",
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """UHA whose refreshed momenta have a learned reverse (Geffner and Domke 2023).

    Langevin diffusion variational inference, arXiv 2208.07743; with ``pushed: both`` the net is in
    both directions, underdamped CMCD (Vargas et al. 2024, arXiv 2307.01050).

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: learned, 0.1 at first and below 0.5.
        refresh: ``exact`` leaves N(0, I) as it is, ``euler`` is a step of dynamics with friction.
        pushed: ``reverse``, or ``both``.
        hidden: widths of the net, which all steps share.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
    """
    net = _control(latent_dim, 2 * latent_dim, num_steps, hidden, activation, shared_size)
    refreshes = [
        Refresh(latent_dim, net, k, pushed=pushed, rule=refresh) for k in range(num_steps)
    ]
    layers = _with_momentum(latent_dim, refreshes, step_size)
    return annealed(latent_dim, base, layers, schedule, net.shared_size)


def _diffused(
    pushed: Pushed,
    latent_dim: int,
    base: Density | None,
    num_steps: int,
    schedule: Schedules | None,
    step_size: StepSizes | None,
    net: Control,
) -> Chain:
    layers = [ControlledLangevin(latent_dim, net, k, pushed, step_size) for k in range(num_steps)]
    return annealed(latent_dim, base, layers, schedule, net.shared_size)


@posteriors.register("mcd")
def mcd(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: Depth = 5,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """Monte Carlo diffusion: Langevin steps with a learned reverse drift (Doucet et al. 2022).

    arXiv 2208.07698. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: learned, 0.1 at first and below 0.5.
        hidden: widths of the net, which all steps share.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
    """
    net = _control(latent_dim, latent_dim, num_steps, hidden, activation, shared_size)
    return _diffused("reverse", latent_dim, base, num_steps, schedule, step_size, net)


@posteriors.register("cmcd")
def cmcd(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: Depth = 5,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
    sees_score: bool = False,
) -> Chain:
    """Controlled Monte Carlo diffusion: one drift, learned, in both directions (Vargas et al.).

    2024, arXiv 2307.01050. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: learned, 0.1 at first and below 0.5.
        hidden: widths of the net, which all steps share.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
        sees_score: whether the drift has a learned multiple of the target's gradient.
    """
    score = 0.0 if sees_score else None
    net = _control(latent_dim, latent_dim, num_steps, hidden, activation, shared_size, score)
    return _diffused("both", latent_dim, base, num_steps, schedule, step_size, net)


def _rates(num_steps: int) -> list[float]:
    """c_k, k = 0 ... K - 1, of sum ``TOTAL``; small at the end, where the target is."""
    shares = [
        math.cos(0.5 * math.pi * (k + 0.5) / (num_steps + 0.5)) ** 2 for k in range(num_steps)
    ]
    return [TOTAL * share / sum(shares) for share in shares]


@posteriors.register("dds")
def dds(
    latent_dim: int,
    *,
    num_steps: Depth = 16,
    scale: PositiveFloat = 1.0,
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
    sees_score: bool = True,
) -> Chain:
    """Denoising diffusion sampler from N(0, scale² I) (Vargas et al. 2023, arXiv 2302.13834).

    F = N(a z + b² scale² u, b² scale²), a² + b² = 1; its reverse, N(a z', b² scale²), leaves
    N(0, scale² I) as it is. Costs a value of the decoder a draw, and K gradients where these are
    seen.

    Args:
        num_steps: K.
        scale: deviation of the base.
        hidden: widths of the net, which all steps share.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
        sees_score: whether u has a learned multiple of d log (p(x, z) / N(z; 0, scale² I)) / dz,
            at first 0: at 1 from the start the weights have heavy tails.
    """
    numbers, precision = [], 1 / scale**2
    for rate in _rates(num_steps):
        keep, variance = math.exp(-0.5 * rate), -math.expm1(-rate) * scale**2
        deviation = math.sqrt(variance)
        numbers.append(Numbers(keep, variance, deviation, keep, 0.0, deviation, precision))
    score = 0.0 if sees_score else None
    net = _control(latent_dim, latent_dim, num_steps, hidden, activation, shared_size, score)
    return _of_kernels(latent_dim, scale, numbers, net)


@posteriors.register("pis")
def pis(
    latent_dim: int,
    *,
    num_steps: Depth = 16,
    scale: PositiveFloat = 1.0,
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
    sees_score: bool = True,
) -> Chain:
    """Path integral sampler: a Brownian motion from 0 with a learned drift (Zhang and Chen 2022).

    arXiv 2111.15141. Its first step is the base, so that K steps are K - 1 transitions; the
    reverse is the Brownian bridge to 0.

    Args:
        num_steps: K.
        scale: deviation of the undriven motion at its end.
        hidden: widths of the net, which all steps share.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
        sees_score: whether u has a learned multiple of d log (p(x, z) / N(z; 0, scale² I)) / dz,
            at first 0: at 1 from the start the weights have heavy tails.
    """
    variance, precision = scale**2 / num_steps, 1 / scale**2
    deviation, numbers = math.sqrt(variance), []
    for k in range(1, num_steps):
        keep_back, shrunk = k / (k + 1), math.sqrt(k / (k + 1))
        numbers.append(
            Numbers(1.0, variance, deviation, keep_back, 0.0, shrunk * deviation, precision)
        )
    score = 0.0 if sees_score else None
    net = _control(latent_dim, latent_dim, num_steps, hidden, activation, shared_size, score)
    return _of_kernels(latent_dim, deviation, numbers, net)


@posteriors.register("gbs")
def gbs(
    latent_dim: int,
    *,
    num_steps: Depth = 16,
    scale: PositiveFloat = 1.0,
    hidden: Widths = (64, 64),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt | None = None,
    sees_score: bool = True,
) -> Chain:
    """General bridge sampler: two learned drifts, forwards and backwards (Richter et al. 2024).

    arXiv 2307.01198. Kernels N(z + ½ s² u, s²) and N(z' + ½ s² v, s²), s = scale / sqrt(K).

    Args:
        num_steps: K.
        scale: deviation of the base, and of all noise together.
        hidden: widths of both nets, which all steps share.
        activation: their nonlinearity, and that of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
        sees_score: whether drifts have a learned multiple of d log p(x, z) / dz, at first 1.
    """
    deviation = scale / math.sqrt(num_steps)
    push = 0.5 * deviation**2
    numbers = [Numbers(1.0, push, deviation, 1.0, push, deviation)] * num_steps
    score = 1.0 if sees_score else None
    nets = [
        _control(latent_dim, latent_dim, num_steps, hidden, activation, shared_size, score)
        for _ in range(2)
    ]
    return _of_kernels(latent_dim, scale, numbers, *nets)


def _of_kernels(
    latent_dim: int,
    scale: float,
    numbers: Sequence[Numbers],
    net: Control,
    back: Control | None = None,
) -> Chain:
    base = StandardNormal(latent_dim, scale=scale)
    layers = [ControlledGaussian(latent_dim, n, k, net, back) for k, n in enumerate(numbers)]
    return Chain(base, layers, net.shared_size)
