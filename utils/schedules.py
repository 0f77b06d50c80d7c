"""Shapes of ways from 0 to 1, for annealing."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(num_steps: int) -> Tensor:
    """t/T for t = 0 ... T: (T+1,), float64."""
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def sigmoidal(num_steps: int) -> Tensor:
    """(s(t) - s(0)) / (s(T) - s(0)), s(t) = sigmoid(4 (2t/T - 1)): slow at both ends.

    As Grosse et al. 2015 (arXiv 1511.02543) anneal: (T+1,), float64.
    """
    curve = (8 * linear(num_steps) - 4).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])
