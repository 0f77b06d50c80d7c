"""A posterior in which each data point has weights of its own: what local flows are made of."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.posteriors.chain import Chain
from models.posteriors.protocol import Base, LogDensity, Move, State, Transition

M = TypeVar("M", bound=nn.Module)
Weights = dict[str, Tensor]


def per_datum(posterior: Chain, num_data: int) -> Chain:
    """A chain like ``posterior`` in which each of B data points has its own copy of the weights.

    A base or transition with weights is replaced by one that holds B copies of them, (B, ...)
    each; those without stay as they are, for all that they need is in the context. The B data
    points are then B separate problems (Cremer et al. 2018, arXiv 1801.03558). Losses and
    estimators take the chain as any other, for the contexts (B, P) of these data in this order.
    """

    def stacked(part: M) -> M:
        return _with_weights(part, lambda weight: weight.expand(num_data, *weight.shape))

    base: Base = posterior.base
    if _has_weights(base):
        base = PerDatumBase(stacked(base))
    transitions: list[Transition] = [
        PerDatum(stacked(part)) if _has_weights(part) else part  # type: ignore[arg-type,misc]
        for part in posterior.transitions
    ]
    return Chain(base, transitions, posterior.shared_size)


def select(posterior: Chain, indices: Tensor) -> Chain:
    """The chain of some of the data of a ``per_datum`` chain: copies, in the order given."""
    return _with_weights(posterior, lambda weight: weight[indices])


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _with_weights(module: M, change: Callable[[Tensor], Tensor]) -> M:
    """A copy of ``module`` whose weights are copies of ``change(weight)``."""
    changed = deepcopy(module)
    for part in changed.modules():
        for name, weight in part.named_parameters(recurse=False):
            copy = change(weight.detach()).clone(memory_format=torch.contiguous_format)
            setattr(part, name, nn.Parameter(copy))
    return changed


def _no_target(z: Tensor) -> NoReturn:
    raise NotImplementedError(
        "a transition that has weights and looks at the target density cannot have them per "
        "datum: optimise with scope `context`"
    )


class PerDatum(Transition):
    """B copies of a transition side by side: datum b is moved by the b-th.

    The weights of ``transition`` are stacked, (B, ...) each; its buffers are common to all.
    """

    def __init__(self, transition: Transition) -> None:
        super().__init__()
        self.transition = transition
        self.context_size = transition.context_size
        self.uses_shared = transition.uses_shared

    @property
    def amortised_size(self) -> int:
        """See ``Transition``."""
        return self.transition.amortised_size

    def initial_context(self) -> Tensor:
        """See ``Transition``."""
        return self.transition.initial_context()

    def expansion(self) -> nn.Module:
        """See ``Transition``."""
        return self.transition.expansion()

    def forward(self, state: State, context: Tensor, log_target: LogDensity) -> Move:
        """See ``Transition``. Raises NotImplementedError where it evaluates ``log_target``."""

        def move_one(weights: Weights, z: Tensor, v: Tensor | None, own: Tensor) -> dict[str, Any]:
            inputs = (State(z, v), own, _no_target)
            move: Move = functional_call(self.transition, weights, inputs)
            partner = {} if move.state.v is None else {"v": move.state.v}
            return {"z": move.state.z, **partner, "ratio": move.log_ratio, "stats": move.stats}

        weights: Weights = dict(self.transition.named_parameters())
        v = None if state.v is None else state.v.unsqueeze(2)
        moved = vmap(
            move_one,
            in_dims=(0, 1, None if v is None else 1, 0),
            out_dims=1,
            randomness="different",
        )(weights, state.z.unsqueeze(2), v, context.unsqueeze(1))  # z, v (S, B, 1, .)
        stats = {name: values.squeeze(2) for name, values in moved["stats"].items()}
        partner = moved["v"].squeeze(2) if "v" in moved else None
        return Move(State(moved["z"].squeeze(2), partner), moved["ratio"].squeeze(2), stats)


class _Method(nn.Module):
    """A method of a module as a module, for ``functional_call``, which calls ``forward`` only."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.module, self.name)(*inputs)


class PerDatumBase(Base):
    """B copies of a base side by side, with stacked weights as in ``PerDatum``."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base
        self.context_size = base.context_size

    def initial_context(self) -> Tensor:
        """See ``Base``."""
        return self.base.initial_context()

    def sample(self, context: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
        """See ``Base``."""

        def sample_one(weights: Weights, own: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(_Method(self.base, "sample"), weights, (own, num_samples))

        mapped = vmap(sample_one, in_dims=(0, 0), out_dims=1, randomness="different")
        z, log_q = mapped(self._weights(), context.unsqueeze(1))
        return z.squeeze(2), log_q.squeeze(2)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """See ``Base``."""

        def log_prob_one(weights: Weights, z: Tensor, own: Tensor) -> Tensor:
            return functional_call(_Method(self.base, "log_prob"), weights, (z, own))

        mapped = vmap(log_prob_one, in_dims=(0, 1, 0), out_dims=1)
        return mapped(self._weights(), z.unsqueeze(2), context.unsqueeze(1)).squeeze(2)

    def _weights(self) -> Weights:
        return dict(self.base.named_parameters(prefix="module"))
