"""Maximum likelihood where log p(x) is exact: what experiments put beside what is learned."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from models.generative import GenerativeModel

M = TypeVar("M", bound=GenerativeModel)


def most_likely(model: M, x: Tensor) -> M:
    """The model itself, in float64, at the parameters of the greatest log p(x) of x (N, C, H, W).

    By L-BFGS from where they are: a local maximum. Raises ValueError for a model without a closed
    form of log p(x).
    """
    x, model = x.double(), model.double()
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -model.log_px(x).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.requires_grad_(False)
