"""Sylvester flows: planar flows with a bottleneck of M units, by three ways to orthonormality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from models.posteriors.bijections import axes
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.householder import reflect
from models.posteriors.paths import Target
from models.posteriors.protocol import (
    Move,
    State,
    Transition,
    posteriors,
    transitions,
)
from utils.types import Depth, PositiveInt

NumReflections = Annotated[int, Gt(0), Le(100)]
"""H of them are H steps a layer, one after the other; D reach every rotation of D latents."""


class Columns(ABC):
    """Orthonormal columns Q (B, K, D, M) of K layers, from ``size`` numbers a datum and layer."""

    num_columns: int
    size: int

    @abstractmethod
    def initial(self, num_layers: int) -> Tensor:
        """Numbers (K, size) of a fresh datum."""

    @abstractmethod
    def __call__(self, numbers: Tensor) -> Tensor:
        """Q (B, K, D, M) of numbers (B, K, size), with QᵀQ = I."""


class Orthogonalised(Columns):
    """The orthonormal factor of a free matrix A = QR (D x M), with R's diagonal positive.

    The paper instead iterates A <- A (I + (I - AᵀA) / 2), up to 100 times, to A (AᵀA)^(-1/2).
    Either reaches every Q. The factorisation is orthonormal whatever A's condition, where the
    iteration may stop short and log_ratio be wrong. A column that depends on those before it (a
    zero one does) leaves its place in Q open and has no gradient: whatever unit vector LAPACK
    puts there is first added to it, as a constant.
    """

    def __init__(self, latent_dim: int, num_ortho: int) -> None:
        if not 1 <= num_ortho <= latent_dim:
            raise ValueError(
                f"`num_ortho` must be 1 to {latent_dim} (`latent_dim`); got {num_ortho}"
            )
        self.latent_dim = latent_dim
        self.num_columns = num_ortho
        self.size = latent_dim * num_ortho

    def initial(self, num_layers: int) -> Tensor:
        """Columns along the coordinates in turn, from one layer to the next."""
        columns = axes(num_layers * self.num_columns, self.latent_dim)
        return columns.unflatten(0, (num_layers, -1)).mT.flatten(1)

    def __call__(self, numbers: Tensor) -> Tensor:
        """See ``Columns``."""
        matrix = numbers.unflatten(-1, (self.latent_dim, self.num_columns))
        q, r = torch.linalg.qr(_completed(matrix))
        # Signs fixed: else Q would jump where LAPACK's choice of them does.
        negative = r.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) < 0
        return torch.where(negative, -q, q)


def _completed(matrix: Tensor) -> Tensor:
    """The matrix (..., D, M), what its columns lack to be independent added as a constant."""
    constant = matrix.detach()
    q, r = torch.linalg.qr(constant)
    length = torch.linalg.vector_norm(constant, dim=-2)  # (..., M)
    rest = r.diagonal(dim1=-2, dim2=-1).abs()  # of each column, beside those before it
    precision = torch.finfo(matrix.dtype)
    least = precision.tiny**0.5  # the square of less is no number any more
    is_dependent = rest <= 4 * matrix.shape[-2] * precision.eps * length + least
    missing = length.where(length > least, 1.0).where(is_dependent, 0.0)
    return matrix + q * missing.unsqueeze(-2)


class Reflections(Columns):
    """M = D columns: the product of H Householder reflections."""

    def __init__(self, latent_dim: int, num_householder: int) -> None:
        self.num_columns = latent_dim
        self.num_householder = num_householder
        self.size = num_householder * latent_dim

    def initial(self, num_layers: int) -> Tensor:
        """Vectors along the coordinates in turn, from one layer to the next."""
        vectors = axes(num_layers * self.num_householder, self.num_columns)
        return vectors.unflatten(0, (num_layers, -1)).flatten(1)

    def __call__(self, numbers: Tensor) -> Tensor:
        """See ``Columns``."""
        vectors = numbers.unflatten(-1, (self.num_householder, self.num_columns))
        identity = torch.eye(self.num_columns, dtype=numbers.dtype, device=numbers.device)
        return reflect(vectors, identity)


class Alternating(Columns):
    """M = D columns: the identity in every other layer, the reversed order in the rest."""

    size = 0

    def __init__(self, latent_dim: int) -> None:
        self.num_columns = latent_dim

    def initial(self, num_layers: int) -> Tensor:
        """Nothing per datum."""
        return torch.zeros(num_layers, 0)

    def __call__(self, numbers: Tensor) -> Tensor:
        """See ``Columns``."""
        identity = torch.eye(self.num_columns, dtype=numbers.dtype, device=numbers.device)
        pair = torch.stack([identity, identity.flip(0)])
        which = torch.arange(numbers.shape[-2], device=numbers.device) % 2
        return pair[which].expand(*numbers.shape[:-1], -1, -1)


class Sylvester(Transition):
    """Sylvester flow z' = z + Q R1 tanh(R2 Qᵀz + b) (van den Berg et al. 2018, arXiv 1803.05649).

    Q (D x M) has orthonormal columns, R1 and R2 (M x M) are upper triangular with diagonals
    within (-1, 1) by tanh, so that log|det J| = Σ_i log(1 + (1 - tanh²)_i R1_ii R2_ii) > -∞.
    Context of each layer: Q's numbers; a matrix (M x M) with R1 on and above its diagonal and
    below it R2's transpose; R2's diagonal; b. The initial context is the identity by R1 = 0, with
    R2's diagonal at tanh(1): were it 0 too, no gradient would reach either.
    """

    def __init__(self, latent_dim: int, columns: Columns, num_layers: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.columns = columns
        self.num_layers = num_layers
        m = columns.num_columns
        self._sizes = [columns.size, m * m, m, m]
        self.context_size = num_layers * sum(self._sizes)

    def initial_context(self) -> Tensor:
        """The identity."""
        _, *sizes = self._sizes
        square, diagonal, shift = torch.zeros(self.num_layers, sum(sizes)).split(sizes, dim=-1)
        parts = [self.columns.initial(self.num_layers), square, diagonal + 1, shift]
        return torch.cat(parts, dim=-1).flatten()

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        numbers, square, diagonal, shift = context.unflatten(-1, (self.num_layers, -1)).split(
            self._sizes, dim=-1
        )
        m = self.columns.num_columns
        q = self.columns(numbers)  # (B, K, D, M)
        square = square.unflatten(-1, (m, m))
        diagonal1 = square.diagonal(dim1=-2, dim2=-1).tanh()  # (B, K, M)
        diagonal2 = diagonal.tanh()
        r1 = square.triu(1) + torch.diag_embed(diagonal1)  # (B, K, M, M)
        r2 = square.mT.triu(1) + torch.diag_embed(diagonal2)
        rows, bends = state.z.movedim(0, 1), []  # (B, S, D)
        for layer in zip(*(part.unbind(1) for part in (q, r1, r2, shift)), strict=True):
            q_k, r1_k, r2_k, b_k = layer
            bend = torch.baddbmm(b_k.unsqueeze(1), rows @ q_k, r2_k.mT).tanh()  # (B, S, M)
            rows = torch.baddbmm(rows, bend @ r1_k.mT, q_k.mT)
            bends.append(bend)
        # Above -1 where both tanh are rounded to ±1, too.
        least = torch.finfo(q.dtype).eps - 1
        slope = (diagonal1 * diagonal2).clamp_min(least).unsqueeze(1)  # (B, 1, K, M)
        log_det = torch.log1p((1 - torch.stack(bends, dim=2).square()) * slope).sum((-2, -1))
        return Move(state._replace(z=rows.movedim(1, 0)), -log_det.movedim(1, 0))


@transitions.register("sylvester_orthogonal")
def orthogonal_layers(
    latent_dim: int, *, num_layers: Depth = 1, num_ortho: PositiveInt = 1
) -> Sylvester:
    """Sylvester flow whose Q is an orthogonalised matrix (D x num_ortho)."""
    return Sylvester(latent_dim, Orthogonalised(latent_dim, num_ortho), num_layers)


@transitions.register("sylvester_householder")
def householder_layers(
    latent_dim: int, *, num_layers: Depth = 1, num_householder: NumReflections = 1
) -> Sylvester:
    """Sylvester flow whose Q (D x D) is a product of Householder reflections."""
    return Sylvester(latent_dim, Reflections(latent_dim, num_householder), num_layers)


@transitions.register("sylvester_triangular")
def triangular_layers(latent_dim: int, *, num_layers: Depth = 1) -> Sylvester:
    """Sylvester flow whose Q (D x D) is the identity and the reversed order in turn."""
    return Sylvester(latent_dim, Alternating(latent_dim), num_layers)


@posteriors.register("sylvester_orthogonal")
def sylvester_orthogonal(
    latent_dim: int, *, num_layers: Depth = 4, num_ortho: PositiveInt | None = None
) -> Chain:
    """Orthogonal Sylvester flow, O-SNF (van den Berg et al. 2018).

    Args:
        latent_dim: D.
        num_layers: K.
        num_ortho: M, the columns of Q, at most D; null: 8 (the paper's smallest), or D if less.

    Raises ValueError for num_ortho above latent_dim.
    """
    num_ortho = min(8, latent_dim) if num_ortho is None else num_ortho
    flow = orthogonal_layers(latent_dim, num_layers=num_layers, num_ortho=num_ortho)
    return Chain(DiagonalGaussian(latent_dim), [flow])


@posteriors.register("sylvester_householder")
def sylvester_householder(
    latent_dim: int, *, num_layers: Depth = 4, num_householder: NumReflections = 8
) -> Chain:
    """Householder Sylvester flow, H-SNF (van den Berg et al. 2018)."""
    flow = householder_layers(latent_dim, num_layers=num_layers, num_householder=num_householder)
    return Chain(DiagonalGaussian(latent_dim), [flow])


@posteriors.register("sylvester_triangular")
def sylvester_triangular(latent_dim: int, *, num_layers: Depth = 4) -> Chain:
    """Triangular Sylvester flow, T-SNF (van den Berg et al. 2018)."""
    return Chain(
        DiagonalGaussian(latent_dim), [triangular_layers(latent_dim, num_layers=num_layers)]
    )
