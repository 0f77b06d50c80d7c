"""What chains are made of, and where the numbers come from that each part takes per datum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Part(nn.Module):
    """A part of a chain: it takes ``context_size`` numbers per datum out of the context.

    There are three kinds of numbers. Weights are parameters of nets, the same for each datum.
    Context is the datum's own, made by an encoder. Numbers that are *learned but not amortised*
    (step sizes, temperatures) are context that is the same for each datum until local
    optimisation frees them; a part says so by ``amortised = False``.
    """

    context_size: int = 0
    """How many numbers per datum it consumes."""

    amortised: bool = True
    """Whether an encoder makes these numbers; else one set of them is learned for all data."""

    @property
    def amortised_size(self) -> int:
        """How many numbers, linear in the encoder's features, the context is made of.

        Where these are not the context themselves, ``expansion`` makes it of them.
        """
        return self.context_size if self.amortised else 0

    def initial_context(self) -> Tensor:
        """Context (context_size,) of a fresh, unfitted datum."""
        return torch.zeros(self.context_size)

    def moved(self, context: Tensor, move: Tensor) -> Tensor:
        """``context`` (B, context_size) after a move (B, context_size) of an optimiser.

        A move of one is about as much in each of its numbers: where a context holds numbers in
        the units of another, the part says so here.
        """
        return context + move

    def initial_amortised(self) -> Tensor:
        """Amortised numbers (amortised_size,) of a fresh datum: the context's first ones."""
        return self.initial_context()[: self.amortised_size]

    def expansion(self) -> nn.Module:
        """New map from the amortised numbers (B, amortised_size) to context (B, context_size)."""
        return nn.Identity() if self.amortised else Learned(self.initial_context())


class Learned(nn.Module):
    """Numbers that are the same for each datum: (B, 0) -> (B, n)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(start.clone())

    def forward(self, nothing: Tensor) -> Tensor:
        """As many rows as ``nothing`` has."""
        return self.numbers.expand(len(nothing), -1)


class Shared(Part):
    """The numbers handed to every transition that asks for them: the papers' h."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.context_size = size


class NoNumbers(nn.Linear):
    """A linear map of no outputs: torch would warn that there is nothing to initialise."""

    def reset_parameters(self) -> None:
        """There are none."""


class Composite(Part, ABC):
    """A part made of parts; its numbers are theirs, in their order.

    Constructors call ``join`` once the parts are there.
    """

    @abstractmethod
    def own_parts(self) -> Sequence[Part]:
        """Those that take the numbers."""

    def join(self) -> None:
        """Settle ``context_size``."""
        self._sizes = [part.context_size for part in self.own_parts()]
        self.context_size = sum(self._sizes)

    def split(self, context: Tensor) -> list[Tensor]:
        """The numbers of each part, out of context (B, context_size or more)."""
        return list(context[..., : self.context_size].split(self._sizes, dim=-1))

    @property
    def amortised_size(self) -> int:
        """See ``Part``."""
        return sum(part.amortised_size for part in self.own_parts())

    def initial_context(self) -> Tensor:
        """See ``Part``."""
        return torch.cat([part.initial_context() for part in self.own_parts()])

    def initial_amortised(self) -> Tensor:
        """See ``Part``."""
        return torch.cat([part.initial_amortised() for part in self.own_parts()])

    def moved(self, context: Tensor, move: Tensor) -> Tensor:
        """See ``Part``: each part's own."""
        pieces = zip(self.own_parts(), self.split(context), self.split(move), strict=True)
        return torch.cat([part.moved(own, by) for part, own, by in pieces], dim=-1)

    def expansion(self) -> nn.Module:
        """The identity where all numbers are amortised; else each part's for its own numbers."""
        sizes = [part.amortised_size for part in self.own_parts()]
        if sizes == self._sizes:
            return nn.Identity()
        return _Piecewise(sizes, [part.expansion() for part in self.own_parts()])


class _Piecewise(nn.Module):
    """One map for each piece of the last axis, the results put together again."""

    def __init__(self, sizes: Sequence[int], maps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.maps = nn.ModuleList(maps)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map (B, sum of sizes) piece by piece."""
        pieces = zip(self.maps, numbers.split(self.sizes, dim=-1), strict=True)
        return torch.cat([piece_map(piece) for piece_map, piece in pieces], dim=-1)
