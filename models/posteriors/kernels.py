"""Stochastic transitions whose reverse is learned, and the hierarchical posteriors of them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.auxiliary import ConditionalGaussian, Drop, Lift
from models.posteriors.chain import Chain
from models.posteriors.gaussian import LOG_2PI, DiagonalGaussian
from models.posteriors.paths import Target
from models.posteriors.protocol import (
    Density,
    Draw,
    Move,
    State,
    Transition,
    posteriors,
    transitions,
)
from utils.types import Depth, NonNegativeInt, PositiveInt

# A kernel that were ever more certain would give its reverse ever steeper densities.
LEAST_NOISE = 1e-3
# A fresh kernel is N((1 - g) z, 1 - (1 - g)²), a small step that leaves N(0, I) as it is.
GATE = 0.02
NOISE = math.sqrt(1 - (1 - GATE) ** 2)
GATE_BIAS = math.log(GATE / (1 - GATE))  # the sigmoid's inverse
NOISE_BIAS = math.log(math.expm1(NOISE - LEAST_NOISE))  # the softplus's inverse


Start = Literal["small_step", "random"]


class GatedGaussian(Density):
    """N(z'; g m + (1 - g) z, diag(σ²)), (m, g, σ) from a net of z and h.

    g = sigmoid(.), σ = softplus(.) + 0.001; the "stochastic refinement" of Huang et al. 2018
    (arXiv 1809.01818). With ``start: small_step`` it begins near the identity, where it leaves
    N(0, I) alone; with ``random`` at PyTorch's default weights, as public code does.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Widths,
        activation: Activation,
        shared_size: int,
        start: Start,
    ) -> None:
        super().__init__()
        self.size = latent_dim
        self.uses_shared = shared_size > 0
        self.net = ConditionedMLP(latent_dim, shared_size, 3 * latent_dim, hidden, activation)
        if start == "random":
            self.net.last.reset_parameters()
            return
        with torch.no_grad():
            _, gate, noise = self.net.last.bias.chunk(3)
            gate.fill_(GATE_BIAS)
            noise.fill_(NOISE_BIAS)

    def _moments(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (S, B, D) each."""
        m, gate, noise = self.net(z, h).chunk(3, dim=-1)
        return torch.lerp(z, m, gate.sigmoid()), F.softplus(noise) + LEAST_NOISE

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        """See ``Density``."""
        mean, scale = self._moments(given, context)
        noise = torch.randn_like(mean)
        return Draw(torch.addcmul(mean, noise, scale), self._log_density(noise, scale))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        """See ``Density``."""
        mean, scale = self._moments(given, context)
        return self._log_density((z - mean) / scale, scale)

    def _log_density(self, noise: Tensor, scale: Tensor) -> Tensor:
        return -0.5 * (noise.square().sum(-1) + self.size * LOG_2PI) - scale.log().sum(-1)


@transitions.register("gaussian_kernel")
class GaussianKernel(Transition):
    """Gaussian Markov kernel z' ~ q(z'|z, h) with a learned reverse r(z|z', h).

    log_ratio = log q(z'|z, h) - log r(z|z', h) (Ranganath et al. 2016, arXiv 1511.02386). q and r
    are of one form with weights of their own, N(g m + (1 - g) z, σ²) with (m, g, σ) from a net of
    z and h (Huang et al. 2018, arXiv 1809.01818). A fresh kernel is a small step that leaves
    N(0, I) alone, and r is its exact reverse there, unless ``start`` is ``random``.
    """

    has_density = True
    reversible = True

    def __init__(
        self,
        latent_dim: int,
        *,
        hidden: Widths = (40,),
        activation: Activation = "leaky_relu",
        shared_size: NonNegativeInt = 0,
        start: Start = "small_step",
    ) -> None:
        super().__init__()
        self.uses_shared = shared_size > 0
        self.forwards = GatedGaussian(latent_dim, hidden, activation, shared_size, start)
        self.reverse = GatedGaussian(latent_dim, hidden, activation, shared_size, start)

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``; the target is not looked at."""
        z, log_q, _ = self.forwards.sample(state.z, context)
        log_r = self.reverse.log_prob(state.z, z, context)
        return Move(state._replace(z=z), log_q - log_r)

    def score(self, before: State, after: State, context: Tensor, target: Target) -> Tensor:
        """See ``Transition``."""
        log_q = self.forwards.log_prob(after.z, before.z, context)
        return log_q - self.reverse.log_prob(before.z, after.z, context)

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        z, log_r, _ = self.reverse.sample(state.z, context)
        log_q = self.forwards.log_prob(state.z, z, context)
        return Move(state._replace(z=z), log_q - log_r)


class Exchange(Transition):
    """z and its partner v change places; log_ratio = 0."""

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        assert state.v is not None
        return Move(State(state.v, state.z), torch.zeros_like(state.z[..., 0]))


@posteriors.register("hvi")
def hvi(
    latent_dim: int,
    *,
    num_layers: Depth = 5,
    hidden: Widths = (40,),
    activation: Activation = "leaky_relu",
    shared_size: NonNegativeInt | None = None,
    start: Start = "small_step",
) -> Chain:
    """Hierarchical variational inference: a chain of Gaussian kernels (Huang et al. 2018).

    arXiv 1809.01818: z_0 ~ N(mean, diag) and z_t ~ q_t(z_t|z_{t-1}, h), with learned reverses
    r_t(z_{t-1}|z_t, h); log q = log q_0 + Σ log q_t - log r_t. Train it by ``elbo`` or by ``avo``.

    Args:
        latent_dim: D.
        num_layers: T kernels.
        hidden: widths of the nets of each q_t and r_t.
        activation: nonlinearity of the nets, and of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
        start: what a fresh kernel does, a ``small_step`` that leaves N(0, I) alone, or ``random``.
    """
    shared_size = latent_dim if shared_size is None else shared_size
    kernels = [
        GaussianKernel(
            latent_dim, hidden=hidden, activation=activation, shared_size=shared_size, start=start
        )
        for _ in range(num_layers)
    ]
    return Chain(DiagonalGaussian(latent_dim), kernels, shared_size)


@posteriors.register("hvm")
def hvm(
    latent_dim: int,
    *,
    partner_size: PositiveInt | None = None,
    hidden: Widths = (200,),
    activation: Activation = "elu",
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """Hierarchical variational model: a Gaussian given a Gaussian v (Ranganath et al. 2016).

    arXiv 1511.02386: v ~ N(mean, diag), z ~ q(z|v, h) a factorised Gaussian, r(v|z, h) the
    learned reverse; log q = log q(v) + log q(z|v, h) - log r(v|z, h). The chain starts with v,
    lifts z and drops v. In the paper q(v) and r(v|z) may also be flows.

    Args:
        latent_dim: D.
        partner_size: V, numbers of v; null: D.
        hidden: widths of the nets of q(z|v, h) and r(v|z, h).
        activation: nonlinearity of the nets, and of h.
        shared_size: size of h, a linear map of the encoder's features; null: D.
    """
    shared_size = latent_dim if shared_size is None else shared_size
    size = latent_dim if partner_size is None else partner_size

    def conditional(given: int, drawn: int) -> Density:
        return ConditionalGaussian(
            given,
            partner_size=drawn,
            hidden=hidden,
            activation=activation,
            shared_size=shared_size,
        )

    layers = [
        Lift(density=conditional(size, latent_dim)),
        Exchange(),
        Drop(density=conditional(latent_dim, size)),
    ]
    return Chain(DiagonalGaussian(size), layers, shared_size)
