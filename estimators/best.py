"""The largest of several lower bounds, datum by datum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.registry import Entry, Registry

LEFT_OUT = ("max", "exact")


class _Others(Registry[Estimator]):
    """Those that estimate; ``max`` is none: a schema that held itself would have no end."""

    def __iter__(self) -> Iterator[Entry[Estimator]]:
        return (entry for entry in estimators if entry.name not in LEFT_OUT)

    def __getitem__(self, name: str) -> Entry[Estimator]:
        return estimators[name]


others = _Others("estimators", "estimators")


@estimators.register("max")
class Best(Estimator):
    """Per datum the largest of several estimates, as log p(x) in Cremer et al. 2018.

    Every one of them is a lower bound in expectation; the maximum of noisy numbers leans upwards
    by about their noise.

    Args:
        of: the estimators, at least two different ones, that need no simulated data; not
            ``exact``, to which noisy ones add nothing.

    Besides ``log_px`` it gives each one's own estimate under its label, and ``winner``, the index
    in ``of`` of the one that was taken.
    """

    def __init__(self, *, of: Annotated[list[Annotated[Estimator, others]], MinLen(2)]) -> None:
        self.of = of
        self.label = f"max({', '.join(estimator.label for estimator in of)})"
        if len({estimator.label for estimator in of}) < len(of):
            raise ValueError(f"estimator `max`: one stands twice in {self.label}")
        for estimator in of:
            if estimator.simulates:
                raise ValueError(f"estimator `max`: {estimator.label} needs simulated data")

    def check(self, model: GenerativeModel) -> None:
        """Refuse what one of them refuses."""
        for estimator in self.of:
            estimator.check(model)

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``."""
        own = {e.label: e(model, posterior, x, context).log_px for e in self.of}
        values = torch.stack([quantity.value.double() for quantity in own.values()])  # (N, B)
        errors = torch.stack([_error(quantity).double() for quantity in own.values()])
        winner = values.nan_to_num(nan=-torch.inf).argmax(0, keepdim=True)  # (1, B)
        largest = Quantity(values.gather(0, winner)[0], errors.gather(0, winner)[0])
        return Estimate(largest, {**own, "winner": Quantity(winner[0].double())})


def _error(quantity: Quantity) -> Tensor:
    if quantity.standard_error is None:
        return torch.full_like(quantity.value, torch.nan)
    return quantity.standard_error
