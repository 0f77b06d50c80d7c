"""Where a chunk of data is optimised: their parameters as leaves, and Adam's moments of them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.per_datum import per_datum
from utils.eager import eager

Scope = Literal["posterior", "context"]
Table = dict[str, Tensor]

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's names for what it remembers of each number
Adam = eager(torch.optim.Adam)


class Workbench:
    """Room for some data.

    Adam moves the weights, and a ``move`` of the context that each step begins at zero:
    ``Chain.moved`` says what a move of one means, so that a step suits the base's scale.
    """

    def __init__(
        self,
        posterior: Chain,
        context: Tensor,
        size: int,
        scope: Scope,
        betas: tuple[float, float],
    ) -> None:
        self.posterior, weights = posterior, {}
        if scope == "posterior":
            self.posterior = per_datum(posterior, size)
            weights = dict(self.posterior.named_parameters())
        self.context = context.new_empty(size, context.shape[1])
        self.move = torch.zeros_like(self.context).requires_grad_()
        self.values: Table = {"context": self.context, **weights}
        self.tail = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.leaves: Table = {"context": self.move, **weights}
        groups: list[dict[str, Any]] = [{"params": [self.move]}]
        if weights:
            groups.append({"params": list(weights.values())})
        self.optimiser = Adam(groups, betas=betas, fused=True)
        for leaf in self.leaves.values():
            moments = {name: torch.zeros_like(leaf) for name in MOMENTS}
            step = torch.zeros((), device=leaf.device)
            self.optimiser.state[leaf] = {"step": step, **moments}

    def begin(self, step: int) -> None:
        """Go on ``step`` steps into Adam's."""
        for leaf in self.leaves.values():
            self.optimiser.state[leaf]["step"].fill_(step)

    def tables(self) -> dict[str, Table]:
        """Parameters, averages and Adam's moments, under the names that they are stored by."""
        state = self.optimiser.state
        moments = {
            moment: {name: state[leaf][moment] for name, leaf in self.leaves.items()}
            for moment in MOMENTS
        }
        return {"values": self.values, "tail": self.tail, **moments}

    def moved(self) -> Tensor:
        """The context that the leaves stand for, with its gradient."""
        return self.posterior.moved(self.context, self.move)

    def clear(self) -> None:
        """Forget the gradients."""
        for leaf in self.leaves.values():
            leaf.grad = None

    @torch.no_grad()
    def step(self, *rates: float) -> None:
        """Let Adam move context and weights at these rates."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=False):
            group["lr"] = rate
        self.optimiser.step()
        self.context.copy_(self.moved())
        self.move.zero_()

    @torch.no_grad()
    def average(self, count: int) -> None:
        """Let the tail be the mean of ``count`` steps' parameters, of which these are the last."""
        for name, tail in self.tail.items():
            tail.lerp_(self.values[name], 1 / count)

    def finite(self) -> Tensor:
        """Whether all parameters of a datum are finite (B,)."""
        each = [value.isfinite().unsqueeze(-1).flatten(1).all(1) for value in self.values.values()]
        return torch.stack(each).all(0)
