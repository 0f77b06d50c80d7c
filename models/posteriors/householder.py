"""Householder flow: reflections that turn a diagonal Gaussian into one with covariances."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.posteriors.bijections import axes
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

SHORTEST = 1e-12


def reflect(vectors: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., S, D) after the reflections I - 2 v vᵀ / ‖v‖² along vectors (..., T, D) in turn.

    With unit vectors as the rows of V, the product of the reflections is I - Vᵀ L⁻¹ V, where
    L = I/2 + the strictly lower part of V Vᵀ: with y = L⁻¹ V z, row t of L y = V z reads
    y_t = 2 v_tᵀ (z - Σ_{s<t} y_s v_s), the t-th reflection's step. One triangular solve, however
    many reflections. A vector shorter than ``SHORTEST`` reflects nothing.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)  # (..., T, 1)
    # Either a unit vector or zero: one that is neither would not keep volumes.
    unit = vectors / length.where(length > SHORTEST, math.inf)
    identity = torch.eye(unit.shape[-2], dtype=unit.dtype, device=unit.device)
    lower = (unit @ unit.mT).tril(-1) + 0.5 * identity  # (..., T, T)
    steps = torch.linalg.solve_triangular(lower, unit @ rows.mT, upper=False)  # (..., T, S)
    return rows - steps.mT @ unit


class Successors(nn.Module):
    """Map of v_1 (B, D) to all vectors (B, T * D): v_{t+1} = linear_t(v_t).

    The linear maps' biases are the given later vectors (T - 1, D).
    """

    def __init__(self, later: Tensor) -> None:
        super().__init__()
        links = [nn.Linear(len(bias), len(bias)) for bias in later]
        with torch.no_grad():
            for link, bias in zip(links, later, strict=True):
                link.bias.copy_(bias)
        self.links = nn.ModuleList(links)

    def forward(self, first: Tensor) -> Tensor:
        """All vectors, one after the other."""
        vectors = [first]
        for link in self.links:
            vectors.append(link(vectors[-1]))
        return torch.cat(vectors, dim=-1)


@transitions.register("householder")
class Householder(Transition):
    """Householder flow z_t = (I - 2 v_t v_tᵀ / ‖v_t‖²) z_{t-1} (Tomczak and Welling 2016).

    arXiv 1611.09630. It keeps volumes: log_ratio = 0. On a diagonal Gaussian it gives a Gaussian
    with covariances, any one from T = D reflections on; on an isotropic centred one it does
    nothing. Context: T vectors of D numbers. Amortised as in the paper, v_1 is linear in the
    features and v_{t+1} in v_t. A reflection cannot be near the identity; initially each flips
    the sign of one coordinate, which leaves N(0, I) alone.
    """

    def __init__(self, latent_dim: int, *, num_reflections: Depth = 1) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_reflections = num_reflections
        self.context_size = num_reflections * latent_dim

    @property
    def amortised_size(self) -> int:
        """The first vector; each of the others depends on the one before."""
        return self.latent_dim

    def initial_context(self) -> Tensor:
        """Unit vectors along the coordinates in turn."""
        return axes(self.num_reflections, self.latent_dim).flatten()

    def expansion(self) -> nn.Module:
        """Each vector from the one before."""
        return Successors(axes(self.num_reflections, self.latent_dim)[1:])

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        vectors = context.unflatten(-1, (self.num_reflections, self.latent_dim))
        z = reflect(vectors, state.z.movedim(0, 1)).movedim(0, 1)
        return Move(state._replace(z=z), torch.zeros_like(z[..., 0]))


@posteriors.register("householder")
def householder(latent_dim: int, *, num_reflections: Depth = 10) -> Chain:
    """Householder flow, a full-covariance Gaussian (Tomczak and Welling 2016)."""
    flow = Householder(latent_dim, num_reflections=num_reflections)
    return Chain(DiagonalGaussian(latent_dim), [flow])
