"""Nets that push the steps of a chain: one for all of them, which knows the step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths

NUM_FREQUENCIES = 4
LARGEST_SCORE = 100.0  # a clipped score is still a function of z alone: weights stay proper


def time_features(num_steps: int) -> Tensor:
    """cos and sin of j π k / K, j = 1 ... 4: (K + 1, 8), a row for each step k of K."""
    step = torch.arange(num_steps + 1, dtype=torch.float64)[:, None] / num_steps
    angles = math.pi * step * torch.arange(1, NUM_FREQUENCIES + 1)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


class Control(nn.Module):
    """u(y, h, k) (S, B, D): what is added to the drift of step k, 0 ≤ k ≤ K; at first zero.

    A net of y (S, B, num_inputs), of the chain's shared context h (B, shared_size), and of the
    step. With ``score`` a learned multiple, by step, of a given gradient is added, clipped at
    ±100 number by number (Zhang and Chen 2022, arXiv 2111.15141).

    Args:
        latent_dim: D.
        num_inputs: size of y: D, or 2D for position and momentum.
        shared_size: size of h.
        num_steps: K.
        hidden: widths of the net.
        activation: its nonlinearity, and that of h.
        score: null: no score is seen; else the first multiple of it.
    """

    features: Tensor

    def __init__(
        self,
        latent_dim: int,
        num_inputs: int,
        *,
        shared_size: int,
        num_steps: int,
        hidden: Widths,
        activation: Activation,
        score: float | None = None,
    ) -> None:
        super().__init__()
        self.shared_size = shared_size
        self.register_buffer("features", time_features(num_steps), persistent=False)
        width = num_inputs + 2 * NUM_FREQUENCIES
        self.net = ConditionedMLP(width, shared_size, latent_dim, hidden, activation)
        self.multiple = None
        if score is not None:
            self.multiple = nn.Linear(2 * NUM_FREQUENCIES, latent_dim)
            nn.init.zeros_(self.multiple.weight)
            nn.init.constant_(self.multiple.bias, score)

    def forward(self, y: Tensor, h: Tensor, step: int, score: Tensor | None = None) -> Tensor:
        """The push (S, B, D); ``score`` (S, B, D) where it is seen."""
        rows = self.features[step].expand(*y.shape[:-1], -1)
        push = self.net(torch.cat([y, rows], dim=-1), h)
        if self.multiple is None:
            return push
        assert score is not None
        # Rows for each datum, so that local optimisation can give each datum a map of its own.
        multiple = self.multiple(rows[:1])
        return push + multiple * score.clamp(-LARGEST_SCORE, LARGEST_SCORE)
