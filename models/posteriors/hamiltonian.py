"""Hamiltonian dynamics of the model itself inside the posterior (HVAE, Hamiltonian VI)."""

from __future__ import annotations

import math
from abc import ABC
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import dynamics
from models.networks.layers import Activation, Widths
from models.posteriors.auxiliary import ConditionalGaussian, Drop, Lift, partner_of
from models.posteriors.chain import Chain
from models.posteriors.gaussian import LOG_2PI, DiagonalGaussian, excess_of
from models.posteriors.parts import Composite, Part
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
from models.posteriors.step_sizes import LearnedSize, StepSizes, step_sizes
from utils.types import Depth, NonNegativeInt, NumSteps, PositiveFloat

TemperingName = Literal["none", "fixed_scale", "fixed_temperature", "free"]
StepSizePer = Literal["chain", "step"]
FIRST_ALPHA = 0.9  # of free tempering, as in the authors' code


class Tempering(Part):
    """By how much K steps cool a momentum: alpha_k = sqrt(b_{k-1} / b_k) <= 1, b_K = 1.

    Learned, not amortised (Caterini et al. 2018, arXiv 1805.11328). ``none`` has alpha_k = 1,
    ``free`` learns each alpha_k. The others learn T_0 > 1 and come down to T_K = 1 quadratically,
    T_k = T_0 + (1 - T_0) k²/K²: ``fixed_scale`` with T = 1/sqrt(b), the momentum's scale, as in
    the paper and in the authors' code for their Gaussian model, and ``fixed_temperature`` with
    T = 1/b, as in the same authors' code for MNIST.

    Raises ValueError where there are no steps to cool in, and for a first temperature 1/b_0 that
    is not above 1.
    """

    amortised = False

    def __init__(self, name: TemperingName, num_steps: int, first_temperature: float) -> None:
        super().__init__()
        if name != "none" and num_steps == 0:
            raise ValueError(f"`tempering: {name}` needs steps, and `num_steps` is 0")
        if name.startswith("fixed") and first_temperature <= 1:
            raise ValueError(f"`first_temperature` must be above 1; got {first_temperature:g}")
        self.name, self.num_steps, self.first_temperature = name, num_steps, first_temperature
        self.context_size = {"none": 0, "free": num_steps}.get(name, 1)

    def initial_context(self) -> Tensor:
        """log(T_0 - 1), or the sigmoid's inverse of each alpha."""
        if self.name in ("none", "free"):
            first = math.log(FIRST_ALPHA / (1 - FIRST_ALPHA))
        else:
            t = self.first_temperature
            first = math.log((math.sqrt(t) if self.name == "fixed_scale" else t) - 1)
        return torch.full((self.context_size,), first)

    def forward(self, context: Tensor) -> Tensor:
        """log alpha_k (K, B), none of them above 0, for context (B, context_size)."""
        if self.name == "none":
            return context.new_zeros(self.num_steps, len(context))
        if self.name == "free":
            return F.logsigmoid(context).T
        way = torch.arange(self.num_steps + 1, dtype=context.dtype, device=context.device)
        log_rest = (1 - (way / self.num_steps).square()).log()  # of 1 ... 0
        log_t = F.softplus(context + log_rest).T  # (K + 1, B), exactly 0 at the end
        log_scale = log_t if self.name == "fixed_scale" else 0.5 * log_t
        return log_scale.diff(dim=0)


class Dynamics(Composite, Transition, ABC):
    """K leapfrog steps on -log f, f the target of its stage, each followed by cooling.

    After a step the momentum is scaled by alpha_k, so that log|det| = D Σ log alpha_k (Caterini
    et al. 2018, arXiv 1805.11328). K + 1 gradients a draw.

    Args:
        latent_dim: D, also the momentum's.
        num_steps: K.
        step_size: how long steps are; null: learned, 0.1 at first and below 0.5.
        step_size_per: one vector of D sizes for the whole ``chain`` of steps, or one a ``step``.
        tempering: ``none``, ``fixed_scale``, ``fixed_temperature`` or ``free``; see ``Tempering``.
        first_temperature: 1/b_0 to begin with, where tempering is fixed.

    Raises ValueError for step sizes that adapt to acceptances: there are none.
    """

    uses_target = True
    reversible = True

    def __init__(
        self,
        latent_dim: int,
        *,
        num_steps: NumSteps = 5,
        step_size: Annotated[StepSizes, step_sizes] | None = None,
        step_size_per: StepSizePer = "chain",
        tempering: TemperingName = "none",
        first_temperature: PositiveFloat = 1.5,
    ) -> None:
        super().__init__()
        make = LearnedSize if step_size is None else step_size
        self.latent_dim, self.num_steps = latent_dim, num_steps
        num_sizes = num_steps if step_size_per == "step" else min(num_steps, 1)
        self.step_sizes = nn.ModuleList(make(latent_dim=latent_dim) for _ in range(num_sizes))
        if any(size.adapts for size in self.step_sizes):
            raise ValueError(
                "`step_size` would adapt to acceptances, and these leapfrog steps are neither "
                "accepted nor refused; take `learned` or `fixed`"
            )
        self.tempering = Tempering(tempering, num_steps, first_temperature)
        self.join()

    def own_parts(self) -> list[Part]:
        """See ``Composite``."""
        return [*self.step_sizes, self.tempering]

    def log_alphas(self, context: Tensor) -> Tensor:
        """log alpha_k (K, B), given context (B, context_size)."""
        return self.tempering(self.split(context)[-1])

    def integrate(
        self, z: Tensor, momentum: Tensor, context: Tensor, target: Target
    ) -> tuple[Tensor, Tensor]:
        """Position and momentum (S, B, D) after the steps."""
        for size, cooling in self._steps(context):
            point, momentum = dynamics.leapfrog(target.evaluate(z), momentum, size, 1, target)
            z = point.z
            if cooling is not None:
                momentum = momentum * cooling
        return z, momentum

    def integrate_back(
        self, z: Tensor, momentum: Tensor, context: Tensor, target: Target
    ) -> tuple[Tensor, Tensor]:
        """The inverse of ``integrate``: a step of a negative size undoes one."""
        for size, cooling in reversed(self._steps(context)):
            if cooling is not None:
                momentum = momentum / cooling
            point, momentum = dynamics.leapfrog(target.evaluate(z), momentum, -size, 1, target)
            z = point.z
        return z, momentum

    def _steps(self, context: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """The size (B or 1, D) of each step, and alpha_k (B, 1) where there is tempering."""
        *own, _ = self.split(context)
        sizes = [size(part) for size, part in zip(self.step_sizes, own, strict=True)]
        tempered = self.tempering.context_size > 0
        return [
            (sizes[step % len(sizes)], log_alpha.exp()[:, None] if tempered else None)
            for step, log_alpha in enumerate(self.log_alphas(context))
        ]


@transitions.register("leapfrog")
class Leapfrog(Dynamics):
    """Tempered leapfrog steps of z and its partner, the momentum; log_ratio = -D Σ log alpha."""

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``. Raises ValueError when there is no partner as large as z."""
        momentum = partner_of(state, self.latent_dim)
        z, momentum = self.integrate(state.z, momentum, context, target)
        return Move(State(z, momentum), self._log_ratio(z, context))

    def _log_ratio(self, z: Tensor, context: Tensor) -> Tensor:
        log_ratio = -self.latent_dim * self.log_alphas(context).sum(0)  # (B,)
        return log_ratio.expand(z.shape[:-1])

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``: nothing is drawn."""
        momentum = partner_of(state, self.latent_dim)
        z, momentum = self.integrate_back(state.z, momentum, context, target)
        return Move(State(z, momentum), self._log_ratio(z, context))


@transitions.register("hamiltonian")
class Hamiltonian(Dynamics):
    """Hamiltonian dynamics from a fresh momentum N(0, I / b_0), dropped against N(0, I).

    log_ratio = log N(gamma; 0, I) - log N(rho_K; 0, I), rho_0 = gamma / sqrt(b_0): the momentum's
    density and the log-determinant of tempering cancel (Caterini et al. 2018, arXiv 1805.11328).
    """

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``; a partner, if there is one, is left alone."""
        noise = torch.randn_like(state.z)
        momentum = noise * self._first_scale(context)
        z, momentum = self.integrate(state.z, momentum, context, target)
        kinetic = 0.5 * noise.square().sum(-1)
        log_ratio = 0.5 * momentum.square().sum(-1) - kinetic
        excess = excess_of(-kinetic - 0.5 * self.latent_dim * LOG_2PI, self.latent_dim)
        return Move(state._replace(z=z), log_ratio, excess=excess)

    def _first_scale(self, context: Tensor) -> Tensor | float:
        """1 / sqrt(b_0) (B, 1)."""
        if self.tempering.context_size == 0:
            return 1.0
        return (-self.log_alphas(context).sum(0)).exp()[:, None]

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        last = torch.randn_like(state.z)
        z, momentum = self.integrate_back(state.z, last, context, target)
        noise = momentum / self._first_scale(context)
        log_ratio = 0.5 * (last.square() - noise.square()).sum(-1)
        return Move(state._replace(z=z), log_ratio)


@posteriors.register("hamiltonian")
def hamiltonian(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: NumSteps = 5,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    step_size_per: StepSizePer = "chain",
    tempering: TemperingName = "free",
    first_temperature: PositiveFloat = 1.5,
) -> Chain:
    """Hamiltonian VAE: leapfrog steps on the model's own density (Caterini et al. 2018).

    arXiv 1805.11328: z_0 ~ base, a momentum is added, K leapfrog steps follow log p(x, z), each
    cools the momentum, which is dropped. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        step_size: how long steps are; null: learned, 0.1 at first and below 0.5.
        step_size_per: ``chain`` has one vector of step sizes, ``step`` one each.
        tempering: ``none``; ``free`` (each alpha_k learned); or from a learned first temperature
            down to 1 quadratically, in 1/sqrt(b) (``fixed_scale``, as in the paper) or in 1/b
            (``fixed_temperature``, as in the authors' code for MNIST).
        first_temperature: 1/b_0 to begin with, where tempering is fixed.
    """
    dynamics = Hamiltonian(
        latent_dim,
        num_steps=num_steps,
        step_size=step_size,
        step_size_per=step_size_per,
        tempering=tempering,
        first_temperature=first_temperature,
    )
    return Chain(DiagonalGaussian(latent_dim) if base is None else base, [dynamics])


@posteriors.register("hamiltonian_vi")
def hamiltonian_vi(
    latent_dim: int,
    *,
    num_iterations: Depth = 1,
    num_steps: Depth = 5,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
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
        step_size: how long steps are; null: learned, 0.1 at first and below 0.5.
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
        dynamics = Leapfrog(latent_dim, num_steps=num_steps, step_size=step_size)
        layers += [Lift(density=density()), dynamics, Drop(density=density())]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
