"""Planar and radial flows: bijections whose parameters are all numbers per datum.

A transition holds all layers of its flow: what depends on the context alone is computed for every
layer at once, and only what must wait for the layer before is a loop.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.paths import Target
from models.posteriors.protocol import (
    Move,
    State,
    Transition,
    posteriors,
    transitions,
)
from utils.types import Depth

UNIT = math.log(math.e - 1)
"""softplus(UNIT) = 1."""

LEAST = 1e-18


def axes(num_vectors: int, latent_dim: int) -> Tensor:
    """Unit vectors (num_vectors, D) along the coordinates in turn.

    Fresh layers point along different ones: layers that start alike get the same gradients and
    are slow to part.
    """
    return torch.eye(latent_dim)[torch.arange(num_vectors) % latent_dim]


@transitions.register("planar")
class Planar(Transition):
    """Planar flow z' = z + û tanh(wᵀz + b) (Rezende and Mohamed 2015, arXiv 1505.05770).

    û = u + (softplus(a) - 1 - a) w / ‖w‖² with a = wᵀu, so that wᵀû = softplus(a) - 1 > -1, which
    makes it a bijection; log|det J| = log(1 + (1 - tanh²(wᵀz + b)) wᵀû). Context (u, w, b) of
    each layer, 2D + 1 numbers. At w = 0 û has no limit: where ‖w‖ (1 + ‖u‖²)^½ is below the
    rounding of numbers near 1, û is u, so that at w = 0 a layer is the translation by u tanh(b).
    The initial context is the identity: w a unit vector and û = 0.
    """

    def __init__(self, latent_dim: int, *, num_layers: Depth = 1) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_layers = num_layers
        self.context_size = num_layers * (2 * latent_dim + 1)

    def initial_context(self) -> Tensor:
        """The identity, with w ≠ 0: there û's direction would be undefined."""
        w = axes(self.num_layers, self.latent_dim)
        return torch.cat([UNIT * w, w, torch.zeros(self.num_layers, 1)], dim=-1).flatten()

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        d = self.latent_dim
        u, w, b = context.unflatten(-1, (self.num_layers, -1)).split([d, d, 1], dim=-1)
        a = (w * u).sum(-1, keepdim=True)  # (B, K, 1)
        square = w.square().sum(-1, keepdim=True)
        rounding = torch.finfo(w.dtype).eps ** 2
        regular = square * (1 + u.square().sum(-1, keepdim=True)) > rounding
        slope = torch.where(regular, F.softplus(a), 1 + a)  # 1 + wᵀû
        u_hat = u + (slope - 1 - a) / torch.where(regular, square, 1.0) * w
        z, bends = state.z, []
        for layer in zip(u_hat.unbind(-2), w.unbind(-2), b.unbind(-2), strict=True):
            u_k, w_k, b_k = layer
            bend = ((z * w_k).sum(-1, keepdim=True) + b_k).tanh()  # (S, B, 1)
            z = torch.addcmul(z, u_k, bend)
            bends.append(bend)
        slope = slope.squeeze(-1)  # (B, K)
        # tanh² + (1 - tanh²) slope: both terms are positive, nothing cancels for wᵀû near -1.
        det = torch.lerp(slope, torch.ones_like(slope), torch.cat(bends, -1).square())
        return Move(state._replace(z=z), -det.log().sum(-1))


@transitions.register("radial")
class Radial(Transition):
    """Radial flow about centres c (Rezende and Mohamed 2015, arXiv 1505.05770, equation 14).

    z' = c + (z - c) (r + s) / (r + a) with r = ‖z - c‖ and a, s > 0: the paper's
    z + β h(r) (z - c), h = 1 / (a + r), whose bound β > -a holds since β = s - a. Then
    log|det J| = (D - 1) log((r + s) / (r + a)) + log((r² + 2ar + as) / (r + a)²).
    Context (c, softplus⁻¹(a), softplus⁻¹(s)) of each layer, D + 2 numbers. The initial context is
    the identity, a = s = 1, about a unit vector.
    """

    def __init__(self, latent_dim: int, *, num_layers: Depth = 1) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_layers = num_layers
        self.context_size = num_layers * (latent_dim + 2)

    def initial_context(self) -> Tensor:
        """The identity: a = s."""
        centres = axes(self.num_layers, self.latent_dim)
        return torch.cat([centres, torch.full((self.num_layers, 2), UNIT)], dim=-1).flatten()

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        d = self.latent_dim
        centres, raw = context.unflatten(-1, (self.num_layers, -1)).split([d, 2], dim=-1)
        # Products of less underflow in float32, and their logarithms are wanted.
        a, s = F.softplus(raw).clamp(min=LEAST).unbind(-1)  # (B, K) each
        z, radii = state.z, []
        for layer in zip(centres.unbind(-2), a.split(1, -1), s.split(1, -1), strict=True):
            centre, a_k, s_k = layer
            offset = z - centre  # (S, B, D)
            r = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)  # (S, B, 1)
            z = torch.addcmul(centre, offset, (r + s_k) / (r + a_k))
            radii.append(r)
        r = torch.cat(radii, -1)  # (S, B, K)
        # Sums of positive terms only: nothing cancels for β near -a.
        log_det = (
            (d - 1) * (r + s).log() + (r * (r + 2 * a) + a * s).log() - (d + 1) * (r + a).log()
        )
        return Move(state._replace(z=z), -log_det.sum(-1))


@posteriors.register("planar")
def planar(latent_dim: int, *, num_layers: Depth = 10) -> Chain:
    """Planar flow (Rezende and Mohamed 2015)."""
    return Chain(DiagonalGaussian(latent_dim), [Planar(latent_dim, num_layers=num_layers)])


@posteriors.register("radial")
def radial(latent_dim: int, *, num_layers: Depth = 10) -> Chain:
    """Radial flow (Rezende and Mohamed 2015)."""
    return Chain(DiagonalGaussian(latent_dim), [Radial(latent_dim, num_layers=num_layers)])
