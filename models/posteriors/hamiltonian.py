"""Hamiltonian dynamics of the model itself inside the posterior (HVAE, Hamiltonian VI)."""

from __future__ import annotations

import math
from abc import ABC
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks.layers import Activation, Widths
from models.posteriors.auxiliary import ConditionalGaussian, Drop, Lift, partner_of
from models.posteriors.chain import Chain
from models.posteriors.gaussian import LOG_2PI, DiagonalGaussian, excess_of
from models.posteriors.paths import Target
from models.posteriors.protocol import (
    Density,
    Move,
    State,
    Transition,
    bases,
    posteriors,
    transitions,
)
from utils import mcmc
from utils.types import NonNegativeInt, PositiveFloat, PositiveInt

Tempering = Literal["none", "fixed", "free"]
FixedIn = Literal["scale", "temperature"]
FIRST_ALPHA = 0.9  # of free tempering, as in the authors' code


class Steps(NamedTuple):
    """K leapfrog steps: sizes (K, B, D), and the logarithms of what scales momenta, (K, B)."""

    sizes: Tensor
    log_alphas: Tensor


class Dynamics(Transition, ABC):
    """K tempered leapfrog steps on -log f; the target is that of its stage.

    After each step the momentum is scaled by alpha_k = sqrt(b_{k-1} / b_k) <= 1, b_K = 1
    (Caterini et al. 2018, arXiv 1805.11328), so that log|det| = D Σ log alpha_k. Step sizes are
    bounded, in (0, ``largest_step``); they and the temperatures are learned, not amortised.

    Args:
        latent_dim: D, also the momentum's.
        num_steps: K; K + 1 gradients a draw.
        first_step: the step sizes to begin with.
        largest_step: their bound.
        step_sizes: ``common`` has one vector of D sizes for all steps, ``per_step`` K of them.
        tempering: ``none`` has b_k = 1; ``free`` learns each alpha_k; ``fixed`` learns b_0 and
            goes to 1 quadratically, T_k = T_0 + (1 - T_0) k²/K².
        fixed_in: what ``fixed`` means by T: the momentum's ``scale`` 1/sqrt(b), as in the paper
            and in the authors' code for their Gaussian model, or its ``temperature`` 1/b, as in
            the same authors' code for MNIST.
        first_temperature: 1/b_0 > 1 to begin with, of ``fixed``.

    Raises ValueError for a first step that is not below the largest, for tempering without steps,
    and for a first temperature that is not above 1.
    """

    amortised = False
    uses_target = True

    def __init__(
        self,
        latent_dim: int,
        *,
        num_steps: NonNegativeInt = 5,
        first_step: PositiveFloat = 0.1,
        largest_step: PositiveFloat = 0.5,
        step_sizes: Literal["common", "per_step"] = "common",
        tempering: Tempering = "none",
        fixed_in: FixedIn = "scale",
        first_temperature: PositiveFloat = 1.5,
    ) -> None:
        super().__init__()
        if first_step >= largest_step:
            raise ValueError(
                f"`first_step` must be below `largest_step`, {largest_step:g}; got {first_step:g}"
            )
        if tempering != "none" and num_steps == 0:
            raise ValueError(f"`tempering: {tempering}` needs steps; `num_steps` is 0")
        if tempering == "fixed" and first_temperature <= 1:
            raise ValueError(f"`first_temperature` must be above 1; got {first_temperature:g}")
        self.latent_dim, self.num_steps = latent_dim, num_steps
        self.first_step, self.largest_step = first_step, largest_step
        self.tempering, self.fixed_in = tempering, fixed_in
        self.first_temperature = first_temperature
        num_vectors = num_steps if step_sizes == "per_step" else min(num_steps, 1)
        num_temperatures = {"none": 0, "fixed": 1, "free": num_steps}[tempering]
        self._sizes = [num_vectors * latent_dim, num_temperatures]
        self.context_size = sum(self._sizes)

    def initial_context(self) -> Tensor:
        """Raw step sizes, then raw temperatures."""
        steps = torch.full((self._sizes[0],), _logit(self.first_step / self.largest_step))
        first = self.first_temperature
        top = math.sqrt(first) if self.fixed_in == "scale" else first
        raw = {"none": 0.0, "fixed": math.log(top - 1) if top > 1 else 0.0}
        raw["free"] = _logit(FIRST_ALPHA)
        return torch.cat([steps, torch.full((self._sizes[1],), raw[self.tempering])])

    def steps(self, context: Tensor) -> Steps:
        """The steps of each datum, given context (B, context_size)."""
        raw_sizes, raw = context[:, : self.context_size].split(self._sizes, dim=-1)
        sizes = self.largest_step * raw_sizes.sigmoid().unflatten(-1, (-1, self.latent_dim))
        sizes = sizes.movedim(0, 1).expand(self.num_steps, -1, -1)
        return Steps(sizes, self._log_alphas(raw).T)

    def _log_alphas(self, raw: Tensor) -> Tensor:
        """log alpha_k (B, K), none above 0."""
        if self.tempering == "none":
            return raw.new_zeros(len(raw), self.num_steps)
        if self.tempering == "free":
            return F.logsigmoid(raw)
        way = torch.arange(self.num_steps + 1, dtype=raw.dtype, device=raw.device)
        rest = 1 - (way / self.num_steps).square()  # 1 ... 0
        log_t = torch.log1p(raw.exp() * rest)  # (B, K + 1), exactly 0 at the end
        log_scale = log_t if self.fixed_in == "scale" else 0.5 * log_t
        return log_scale.diff(dim=-1)

    def integrate(
        self, z: Tensor, momentum: Tensor, steps: Steps, target: Target
    ) -> tuple[Tensor, Tensor]:
        """Position and momentum (S, B, D) after the steps."""
        for size, log_alpha in zip(*steps, strict=True):
            point, momentum = mcmc.leapfrog(target.evaluate(z), momentum, size, 1, target)
            z = point.z
            if self.tempering != "none":
                momentum = momentum * log_alpha.exp()[:, None]
        return z, momentum


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


@transitions.register("leapfrog")
class Leapfrog(Dynamics):
    """Tempered leapfrog steps of z and its partner, the momentum; log_ratio = -D Σ log alpha."""

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``. Raises ValueError when there is no partner as large as z."""
        momentum = partner_of(state, self.latent_dim)
        steps = self.steps(context)
        z, momentum = self.integrate(state.z, momentum, steps, target)
        log_ratio = -self.latent_dim * steps.log_alphas.sum(0)  # (B,)
        return Move(State(z, momentum), log_ratio.expand(z.shape[:-1]))


@transitions.register("hamiltonian")
class Hamiltonian(Dynamics):
    """Hamiltonian dynamics from a fresh momentum N(0, I / b_0), dropped against N(0, I).

    log_ratio = log N(gamma; 0, I) - log N(rho_K; 0, I), rho_0 = gamma / sqrt(b_0): the momentum's
    density and the log-determinant of tempering cancel (Caterini et al. 2018, arXiv 1805.11328).
    """

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``; a partner, if there is one, is left alone."""
        steps = self.steps(context)
        noise = torch.randn_like(state.z)
        momentum = noise
        if self.tempering != "none":
            momentum = noise * (-steps.log_alphas.sum(0)).exp()[:, None]
        z, momentum = self.integrate(state.z, momentum, steps, target)
        kinetic = 0.5 * noise.square().sum(-1)
        log_ratio = 0.5 * momentum.square().sum(-1) - kinetic
        excess = excess_of(-kinetic - 0.5 * self.latent_dim * LOG_2PI, self.latent_dim)
        return Move(state._replace(z=z), log_ratio, excess=excess)


@posteriors.register("hamiltonian")
def hamiltonian(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: NonNegativeInt = 5,
    first_step: PositiveFloat = 0.1,
    largest_step: PositiveFloat = 0.5,
    step_sizes: Literal["common", "per_step"] = "common",
    tempering: Tempering = "free",
    fixed_in: FixedIn = "scale",
    first_temperature: PositiveFloat = 1.5,
) -> Chain:
    """Hamiltonian VAE: leapfrog steps on the model's own density (Caterini et al. 2018).

    arXiv 1805.11328: z_0 ~ base, a momentum is added, K leapfrog steps follow log p(x, z), each
    cools the momentum, which is dropped. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        first_step: step sizes to begin with.
        largest_step: their bound.
        step_sizes: ``common`` (one vector) or ``per_step``.
        tempering: ``none``, ``fixed`` (quadratic) or ``free``.
        fixed_in: ``fixed`` is quadratic in the momentum's ``scale`` 1/sqrt(b), as in the paper,
            or in its ``temperature`` 1/b, as in the authors' code for MNIST.
        first_temperature: 1/b_0 to begin with, of ``fixed``.
    """
    dynamics = Hamiltonian(
        latent_dim,
        num_steps=num_steps,
        first_step=first_step,
        largest_step=largest_step,
        step_sizes=step_sizes,
        tempering=tempering,
        fixed_in=fixed_in,
        first_temperature=first_temperature,
    )
    return Chain(DiagonalGaussian(latent_dim) if base is None else base, [dynamics])


@posteriors.register("hamiltonian_vi")
def hamiltonian_vi(
    latent_dim: int,
    *,
    num_iterations: PositiveInt = 1,
    num_steps: PositiveInt = 5,
    first_step: PositiveFloat = 0.1,
    largest_step: PositiveFloat = 0.5,
    hidden: Widths = (200,),
    activation: Activation = "elu",
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """Hamiltonian variational inference: momenta with a learned reverse (Salimans et al. 2015).

    arXiv 1410.6460: in each iteration v ~ q(v|z, h), ``num_steps`` leapfrog steps follow
    log p(x, z), and v is dropped by r(v|z, h); q and r are Gaussians out of nets.

    Args:
        num_iterations: momenta, one after the other.
        num_steps: leapfrog steps with each.
        first_step: step sizes to begin with.
        largest_step: their bound.
        hidden: widths of the nets of q and r.
        activation: nonlinearity of the nets, and of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
    """
    shared_size = latent_dim if shared_size is None else shared_size

    def density() -> Density:
        return ConditionalGaussian(
            latent_dim, hidden=hidden, activation=activation, shared_size=shared_size
        )

    layers: list[Transition] = []
    for _ in range(num_iterations):
        dynamics = Leapfrog(
            latent_dim, num_steps=num_steps, first_step=first_step, largest_step=largest_step
        )
        layers += [Lift(density=density()), dynamics, Drop(density=density())]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
