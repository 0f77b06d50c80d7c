"""Linear inverse autoregressive flow, and the convex combination of several."""

from __future__ import annotations

import torch
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
from utils.types import PositiveInt


@transitions.register("convex_linear")
class ConvexLinear(Transition):
    """z' = L z, L = Σ_c y_c L_c unit lower triangular (Tomczak and Welling 2017, 1706.02326).

    y = softmax of C numbers; log_ratio = 0. On a diagonal Gaussian it gives any Gaussian. Context:
    what lies below the diagonals of the C matrices, D(D-1)/2 numbers each, and for C > 1 the C
    numbers of the softmax. The initial context is the identity.
    """

    def __init__(self, latent_dim: int, *, num_matrices: PositiveInt = 1) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_matrices = num_matrices
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("below", rows * latent_dim + columns, persistent=False)
        # The softmax of one number is 1, whatever the number.
        num_logits = num_matrices if num_matrices > 1 else 0
        self._sizes = [num_logits, num_matrices * len(rows)]
        self.context_size = sum(self._sizes)

    def _below(self, context: Tensor) -> Tensor:
        """L - I, (B, D, D)."""
        logits, entries = context.split(self._sizes, dim=-1)
        if self.num_matrices > 1:
            entries = entries.unflatten(-1, (self.num_matrices, -1))  # (B, C, D(D-1)/2)
            entries = (logits.softmax(-1).unsqueeze(-1) * entries).sum(-2)
        flat = context.new_zeros(*context.shape[:-1], self.latent_dim**2)
        index = self.get_buffer("below").expand(entries.shape)
        return flat.scatter(-1, index, entries).unflatten(-1, (self.latent_dim, self.latent_dim))

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        rows = state.z.movedim(0, 1)  # (B, S, D)
        z = torch.baddbmm(rows, rows, self._below(context).mT).movedim(0, 1)
        return Move(state._replace(z=z), torch.zeros_like(z[..., 0]))


@posteriors.register("linear_iaf")
def linear_iaf(latent_dim: int) -> Chain:
    """Linear IAF, a full-covariance Gaussian (Tomczak and Welling 2017)."""
    return Chain(DiagonalGaussian(latent_dim), [ConvexLinear(latent_dim)])


@posteriors.register("cc_linear_iaf")
def cc_linear_iaf(latent_dim: int, *, num_matrices: PositiveInt = 5) -> Chain:
    """Convex combination of linear IAFs, a full-covariance Gaussian (Tomczak and Welling 2017)."""
    layer = ConvexLinear(latent_dim, num_matrices=num_matrices)
    return Chain(DiagonalGaussian(latent_dim), [layer])
