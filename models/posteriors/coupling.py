"""Coupling layers: one part of the position is mapped, given the part that stays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.paths import Target
from models.posteriors.protocol import Move, State, Transition, posteriors, transitions
from utils.types import Depth, NonNegativeInt

# σ(2) = 0.88: close to the identity, and not yet so flat that the scale could not learn
# (Kingma and Dhariwal 2018, arXiv 1807.03039, use the same).
SIGMOID_BIAS = 2.0
# Scales stay in (e⁻², e²): a layer can neither collapse nor explode.
LOG_SCALE_BOUND = 2.0

Scale = Literal["sigmoid", "exponential"]
LOG_SCALES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda raw: -F.softplus(-(raw + SIGMOID_BIAS)),  # log σ(raw + bias)
    "exponential": lambda raw: LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND),
}


class Mapped(NamedTuple):
    """Image (S, B, M) of a bijection and its log|det Jacobian| (S, B)."""

    value: Tensor
    log_det: Tensor


class ConditionalBijection(nn.Module, ABC):
    """Invertible map of x (S, B, M) whose parameters are a net of what stays, ``given``, and h."""

    @abstractmethod
    def forward(self, x: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """Map x (S, B, M) given (S, B, N) and h (B, shared_size)."""

    @abstractmethod
    def inverse(self, y: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """The x (S, B, M) whose image is y, with log|det Jacobian| of the map there, not back."""


class ConditionalAffine(ConditionalBijection):
    """x' = x · s(given, h) + m(given, h), log|det| = Σ log s.

    ``sigmoid``: s = σ(l + 2) < 1, which starts at 0.88 (Cremer et al. 2018, arXiv 1801.03558);
    ``exponential``: s = exp(2 tanh(l / 2)), which starts at 1 (Dinh et al. 2017,
    arXiv 1605.08803). (l, m) starts at zero.
    """

    def __init__(
        self,
        num_moved: int,
        num_given: int,
        shared_size: int,
        hidden: Widths,
        activation: Activation,
        scale: Scale,
    ) -> None:
        super().__init__()
        self.net = ConditionedMLP(num_given, shared_size, 2 * num_moved, hidden, activation)
        self.log_scale = LOG_SCALES[scale]

    def forward(self, x: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """See ``ConditionalBijection``."""
        log_scale, shift = self._numbers(given, h)
        return Mapped(torch.addcmul(shift, x, log_scale.exp()), log_scale.sum(-1))

    def inverse(self, y: Tensor, given: Tensor, h: Tensor) -> Mapped:
        """See ``ConditionalBijection``."""
        log_scale, shift = self._numbers(given, h)
        return Mapped((y - shift) * (-log_scale).exp(), log_scale.sum(-1))

    def _numbers(self, given: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(given, h).chunk(2, dim=-1)
        return self.log_scale(raw), shift


class Halves(NamedTuple):
    """Sizes of the part that stays and of the part that moves."""

    given: int
    moved: int


def halves(latent_dim: int, flip: bool) -> Halves:
    """Sizes for D latents, D // 2 and the rest; the first half stays unless ``flip``.

    Raises ValueError when there is nothing to split.
    """
    if latent_dim < 2:
        raise ValueError(
            f"a coupling of halves needs `latent_dim` of at least 2; got {latent_dim}"
        )
    first, second = latent_dim // 2, latent_dim - latent_dim // 2
    return Halves(second, first) if flip else Halves(first, second)


class Coupling(Transition):
    """(z₁, z₂) -> (z₁, f(z₂; z₁, h)); with ``flip`` z₁ moves and z₂ stays."""

    reversible = True

    def __init__(
        self, latent_dim: int, bijection: ConditionalBijection, shared_size: int, flip: bool
    ) -> None:
        super().__init__()
        self.first = latent_dim // 2
        self.bijection = bijection
        self.uses_shared = shared_size > 0
        self.flip = flip

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``; the target is not looked at."""
        return self._by(self.bijection, state, context)

    def retrace(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``: nothing is drawn."""
        return self._by(self.bijection.inverse, state, context)

    def _by(self, way: Callable[..., Mapped], state: State, context: Tensor) -> Move:
        first, second = state.z[..., : self.first], state.z[..., self.first :]
        given, moved = (second, first) if self.flip else (first, second)
        mapped, log_det = way(moved, given, context)
        parts = [mapped, given] if self.flip else [given, mapped]
        return Move(state._replace(z=torch.cat(parts, dim=-1)), -log_det)


@transitions.register("coupling")
def coupling(
    latent_dim: int,
    *,
    hidden: Widths = (200,),
    activation: Activation = "elu",
    scale: Scale = "exponential",
    shared_size: NonNegativeInt = 0,
    flip: bool = False,
) -> Coupling:
    """Affine coupling of halves: z₂ · s(z₁, h) + m(z₁, h); `flip` moves z₁ instead.

    Starts at the identity (``exponential``) or near it (``sigmoid``). Raises ValueError for one
    latent dimension.
    """
    given, moved = halves(latent_dim, flip)
    bijection = ConditionalAffine(moved, given, shared_size, hidden, activation, scale)
    return Coupling(latent_dim, bijection, shared_size, flip)


@posteriors.register("real_nvp")
def real_nvp(
    latent_dim: int,
    *,
    num_layers: Depth = 4,
    hidden: Widths = (50,),
    activation: Activation = "tanh",
    scale: Scale = "sigmoid",
    shared_size: NonNegativeInt = 0,
) -> Chain:
    """RealNVP: affine couplings that move the halves in turn (Dinh et al. 2017, 1605.08803).

    By default sized like the flow without an auxiliary variable of Cremer et al. 2018 (arXiv
    1801.03558).

    Args:
        latent_dim: D.
        num_layers: couplings; each moves one half.
        hidden: widths of each coupling's net.
        activation: nonlinearity of the nets.
        scale: ``exponential`` (bounded) or ``sigmoid`` (at most 1, as Cremer et al. 2018).
        shared_size: numbers of the encoder's features, h, that the nets see besides z; 0: none.
    """
    layers = [
        coupling(
            latent_dim,
            hidden=hidden,
            activation=activation,
            scale=scale,
            shared_size=shared_size,
            flip=layer % 2 == 1,
        )
        for layer in range(num_layers)
    ]
    return Chain(DiagonalGaussian(latent_dim), layers, shared_size)
