"""Auxiliary variables: adding one (lift), moving it with z, dropping it; and q_AF made of them."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.chain import Chain
from models.posteriors.coupling import ConditionalAffine, Scale
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.parts import Composite, Part
from models.posteriors.paths import Target
from models.posteriors.protocol import (
    Density,
    Draw,
    Move,
    State,
    Transition,
    conditionals,
    posteriors,
    transitions,
)
from utils.types import Depth, NonNegativeInt, PositiveInt


@conditionals.register("gaussian")
class ConditionalGaussian(Density):
    """N(v; mean(z, h), diag(variance(z, h))) from a net; starts at N(0, I)."""

    def __init__(
        self,
        latent_dim: int,
        *,
        partner_size: PositiveInt | None = None,
        hidden: Widths = (200, 200),
        activation: Activation = "elu",
        shared_size: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.size = latent_dim if partner_size is None else partner_size
        self.uses_shared = shared_size > 0
        self.gaussian = DiagonalGaussian(self.size)
        size = self.gaussian.context_size
        self.net = ConditionedMLP(latent_dim, shared_size, size, hidden, activation)

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """See ``Density``; ``context`` is h."""
        return self.gaussian.sample(given, self.net(given, context))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """See ``Density``; ``context`` is h."""
        return self.gaussian.log_prob(z, given, self.net(given, context))


def partner_of(state: State, size: int) -> Tensor:
    """The partner v (S, B, size) of a state. Raises ValueError when there is none such."""
    if state.v is None:
        raise ValueError(f"needs a partner v of size {size}, and there is none: `lift` first")
    if state.v.shape[-1] != size:
        raise ValueError(f"needs a partner v of size {size}; got one of size {state.v.shape[-1]}")
    return state.v


class OfPartner(Composite, Transition):
    """A transition that is made by a density of the partner, whose numbers are its own."""

    has_density = True
    reversible = True

    def __init__(self, *, density: Annotated[Density, conditionals]) -> None:
        super().__init__()
        self.density = density
        self.uses_shared = density.uses_shared
        self.join()

    def own_parts(self) -> list[Part]:
        """See ``Composite``."""
        return [self.density]


@transitions.register("lift")
class Lift(OfPartner):
    """Add a partner: z -> (z, v) with v ~ q(v | z, h); log_ratio = log q(v | z, h)."""

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``. Raises ValueError when z has a partner already."""
        if state.v is not None:
            raise ValueError("z has a partner v already: `drop` that first")
        v, log_q, excess = self.density.sample(state.z, context)
        return Move(State(state.z, v), log_q, excess=excess)

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """See ``Transition``."""
        return self.density.log_prob(partner_of(after, self.density.size), before.z, context)

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``: nothing is drawn."""
        before = State(state.z)
        return Move(before, self.score(before, state, context, target))


@transitions.register("drop")
class Drop(OfPartner):
    """Drop the partner: (z, v) -> z; log_ratio = -log r(v | z, h) at the very v that is dropped.

    Scored at another draw from r it would be r's entropy, and r would never learn of v.
    """

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``. Raises ValueError when there is no partner of r's size."""
        v = partner_of(state, self.density.size)
        return Move(State(state.z), -self.density.log_prob(v, state.z, context))

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """See ``Transition``."""
        return self(before, context, target).log_ratio

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        v, log_r, _ = self.density.sample(state.z, context)
        return Move(State(state.z, v), -log_r)


@transitions.register("partner_coupling")
class PartnerCoupling(Transition):
    """Affine coupling of z with its partner: first v given (z, h), then z given (v, h).

    v <- v · s₁(z, h) + m₁(z, h);  z <- z · s₂(v, h) + m₂(v, h);  log|det| = Σ log s₁ + Σ log s₂
    (Cremer et al. 2018, arXiv 1801.03558). Starts at the identity (``exponential``) or near it
    (``sigmoid``).
    """

    reversible = True

    def __init__(
        self,
        latent_dim: int,
        *,
        partner_size: PositiveInt | None = None,
        hidden: Widths = (200,),
        activation: Activation = "elu",
        scale: Scale = "sigmoid",
        shared_size: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.partner_size = latent_dim if partner_size is None else partner_size
        self.uses_shared = shared_size > 0
        options = (shared_size, hidden, activation, scale)
        self.move_v = ConditionalAffine(self.partner_size, latent_dim, *options)
        self.move_z = ConditionalAffine(latent_dim, self.partner_size, *options)

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``. Raises ValueError when there is no partner of the right size."""
        v, log_det_v = self.move_v(partner_of(state, self.partner_size), state.z, context)
        z, log_det_z = self.move_z(state.z, v, context)
        return Move(State(z, v), -(log_det_v + log_det_z))

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``: nothing is drawn."""
        v = partner_of(state, self.partner_size)
        z, log_det_z = self.move_z.inverse(state.z, v, context)
        v, log_det_v = self.move_v.inverse(v, z, context)
        return Move(State(z, v), -(log_det_v + log_det_z))


@posteriors.register("aux_real_nvp")
def aux_real_nvp(
    latent_dim: int,
    *,
    num_layers: Depth = 2,
    hidden: Widths = (200,),
    partner_hidden: Widths = (200, 200),
    activation: Activation = "elu",
    scale: Scale = "sigmoid",
    partner_size: PositiveInt | None = None,
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """q_AF: RealNVP between z and an auxiliary variable v (Cremer et al. 2018, 1801.03558).

    log q(z_K) = log q(z_0) + log q(v_0|z_0, h) - Σ log|det| - log r(v_K|z_K, h); in expectation
    it bounds the marginal log q(z_K|x) from above, so the bound on log p(x) is a little looser.

    Args:
        latent_dim: D.
        num_layers: couplings; each moves v and then z.
        hidden: widths of the couplings' nets.
        partner_hidden: widths of the nets of q(v|z, h) and r(v|z, h).
        activation: nonlinearity of the nets, and of h.
        scale: ``sigmoid`` (the paper's) or ``exponential`` (bounded).
        partner_size: V; null: D.
        shared_size: size of h, a map of the encoder's features; null: D.
    """
    shared_size = latent_dim if shared_size is None else shared_size

    def density() -> Density:
        return ConditionalGaussian(
            latent_dim,
            partner_size=partner_size,
            hidden=partner_hidden,
            activation=activation,
            shared_size=shared_size,
        )

    couplings = [
        PartnerCoupling(
            latent_dim,
            partner_size=partner_size,
            hidden=hidden,
            activation=activation,
            scale=scale,
            shared_size=shared_size,
        )
        for _ in range(num_layers)
    ]
    layers = [Lift(density=density()), *couplings, Drop(density=density())]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
