"""The noise of a whole batch, where a process computes some of its rows only.

So the processes that share a batch draw what one process would, each number once, and their
random streams stay alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS: Mapping[Any, Callable[..., Tensor]] = {torch.randn: torch.randn, torch.rand: torch.rand}
LIKE: Mapping[Any, Callable[..., Tensor]] = {
    torch.randn_like: torch.randn,
    torch.rand_like: torch.rand,
}
RANDOM = frozenset((
    "_fused_dropout", "_sample_dirichlet", "_standard_gamma", "alpha_dropout", "bernoulli",
    "binomial", "cauchy", "dropout", "dropout1d", "dropout2d", "dropout3d", "exponential",
    "feature_alpha_dropout", "feature_dropout", "geometric", "gumbel_softmax", "log_normal",
    "multinomial", "native_dropout", "normal", "poisson", "rand", "rand_like", "randint",
    "randint_like", "randn", "randn_like", "random", "randperm", "rrelu", "rrelu_with_noise",
    "uniform",
))  # fmt: skip
"""Names of PyTorch's functions that draw; in place they end with an underscore."""


class Rows(NamedTuple):
    """Rows ``start`` to ``stop`` of a batch of ``total``."""

    start: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def of(self, whole: Tensor, dim: int = 0) -> Tensor:
        """These rows of a tensor whose dimension ``dim`` is the whole batch; a view."""
        return whole.narrow(dim, self.start, self.size)


class WholeNoise(TorchFunctionMode):
    """Inside the block every draw is that of the whole batch, of which ``rows`` are given.

    ``torch.randn``, ``rand`` and their ``_like`` of shape (S, B, ...) draw for all rows; a lone
    number, such as the coin of a minibatch, is the same for all. A block is entered once, and
    torch.compile does not know it.

    Raises ValueError, which names the function, where it cannot be known which numbers of a draw
    belong to which row.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See the class."""
        options = dict(kwargs or {})
        if func in DRAWS:
            size = options.pop("size", args)
            shape = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
            return self._draw(DRAWS[func], tuple(shape), options)
        if func in LIKE:
            like = options.pop("input", None) if not args else args[0]
            given = {name: value for name, value in options.items() if value is not None}
            given.pop("memory_format", None)
            options = {"dtype": like.dtype, "device": like.device, **given}
            return self._draw(LIKE[func], tuple(like.shape), options)
        name = getattr(func, "__name__", "")
        if name.removesuffix("_") in RANDOM:
            raise ValueError(
                f"a component draws by `{name}`, and of its draws it is not known which are of "
                "which data point; torch.randn and torch.rand of shape (S, B, ...) can be shared "
                "among replicas"
            )
        return func(*args, **options)

    def _draw(
        self, draw: Callable[..., Tensor], shape: tuple[int, ...], options: Mapping[str, Any]
    ) -> Tensor:
        rows = self._rows
        if not shape:
            return draw(shape, **options)
        if len(shape) < 2 or shape[1] != rows.size:
            raise ValueError(
                f"a component draws noise of shape {shape} for {rows.size} data points, which "
                "replicas cannot share: the second dimension must be that of the data"
            )
        return rows.of(draw((shape[0], rows.total, *shape[2:]), **options), dim=1)
