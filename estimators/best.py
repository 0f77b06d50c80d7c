"""Several estimates of log p(x) as one, datum by datum: their combination, and their largest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from estimators.combination import combine
from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.registry import Entry, Registry

LEFT_OUT = ("combined", "max", "exact", "exact_draws")


class _Others(Registry[Estimator]):
    """Those that estimate themselves: a schema that held itself would have no end."""

    def __iter__(self) -> Iterator[Entry[Estimator]]:
        return (entry for entry in estimators if entry.name not in LEFT_OUT)

    def __getitem__(self, name: str) -> Entry[Estimator]:
        return estimators[name]


others = _Others("estimators", "estimators")
Several = Annotated[list[Annotated[Estimator, others]], MinLen(2)]


class _OfSeveral(Estimator):
    """What is made of the estimates of at least two different estimators, ``of``."""

    def __init__(self, *, of: Several) -> None:
        self.of = of
        self.settings = {"of": [{"name": e.name, **e.settings} for e in of]}
        if len({estimator.label for estimator in of}) < len(of):
            raise ValueError(f"estimator `{self.name}`: {self.label} lists one estimator twice")
        for estimator in of:
            if estimator.simulates:
                message = f"estimator `{self.name}`: {estimator.label} needs simulated data"
                raise ValueError(message)

    def check(self, model: GenerativeModel, posterior: Chain) -> None:
        """Refuse what one of them refuses."""
        for estimator in self.of:
            estimator.check(model, posterior)

    def _estimates(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> Mapping[str, Estimate]:
        """Each one's estimate by its label."""
        return {e.label: e(model, posterior, x, context) for e in self.of}


@estimators.register("combined")
class Combined(_OfSeveral):
    """Several estimates as one that is unbiased for p(x): see ``combination.combine``.

    Each is weighted by the error that one half of its draws has, and the other half is weighted:
    so the combination does not lean upwards, as ``max`` does. Its standard error is about that of
    the best of them.

    Args:
        of: the estimators, at least two different ones, that need no simulated data and do not
            resample (``ais`` with ``resample_below``); not ``exact``, to which noisy ones add
            nothing.

    Besides ``log_px`` it gives each one's own estimate under its label; its mean weight, the same
    with ``weight of`` before it; and ``reliable``, 1 where at least one of them can be believed in
    both halves.
    """

    name = "combined"

    def __init__(self, *, of: Several) -> None:
        super().__init__(of=of)
        for estimator in of:
            if not estimator.has_halves:
                raise ValueError(
                    f"estimator `combined`: {estimator.label} has no independent halves of its "
                    "draws; leave it out, or take `max`"
                )

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``."""
        estimates = self._estimates(model, posterior, x, context)
        halves = [[e.stats[f"log_px_{half}"] for half in "ab"] for e in estimates.values()]
        believed = [[e.stats[f"reliable_{half}"] for half in "ab"] for e in estimates.values()]
        values = torch.stack([torch.stack([half.value for half in pair]) for pair in halves])
        errors = torch.stack([torch.stack([_error(half) for half in pair]) for pair in halves])
        reliable = torch.stack([torch.stack([one.value for one in pair]) for pair in believed]) > 0
        log_px, standard_error, weights = combine(values, errors, reliable)  # of (E, 2, B)
        stats = {label: estimate.log_px for label, estimate in estimates.items()}
        for label, weight in zip(estimates, weights, strict=True):
            stats[f"weight of {label}"] = Quantity(weight)
        stats["reliable"] = Quantity(reliable.all(1).any(0).double())
        return Estimate(Quantity(log_px, standard_error), stats)


@estimators.register("max")
class Best(_OfSeveral):
    """Per datum the largest of several estimates, as log p(x) in Cremer et al. 2018.

    That is the papers' convention, and it leans upwards: every estimate is a lower bound in
    expectation, but the largest of noisy numbers lies above them by about their noise. Its
    standard error does not tell of that. ``combined`` does not lean.

    Args:
        of: the estimators, at least two different ones, that need no simulated data; not
            ``exact``, to which noisy ones add nothing.

    Besides ``log_px`` it gives each one's own estimate under its label; ``winner``, the index in
    ``of`` of the one that was taken; and ``reliable``, 1 where that one can be believed, as far as
    it says so.
    """

    name = "max"

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``."""
        estimates = self._estimates(model, posterior, x, context)
        own = {label: estimate.log_px for label, estimate in estimates.items()}
        values = torch.stack([quantity.value.double() for quantity in own.values()])  # (N, B)
        errors = torch.stack([_error(quantity).double() for quantity in own.values()])
        winner = values.nan_to_num(nan=-torch.inf).argmax(0, keepdim=True)  # (1, B)
        largest = Quantity(values.gather(0, winner)[0], errors.gather(0, winner)[0])
        believed = torch.stack([_said(estimate) for estimate in estimates.values()])
        stats = {
            "winner": Quantity(winner[0].double()),
            "reliable": Quantity(believed.gather(0, winner)[0]),
        }
        return Estimate(largest, {**own, **stats})


def _said(estimate: Estimate) -> Tensor:
    """``reliable`` (B,); 1 where an estimator does not say."""
    said = estimate.stats.get("reliable")
    return torch.ones_like(estimate.log_px.value).double() if said is None else said.value


def _error(quantity: Quantity) -> Tensor:
    if quantity.standard_error is None:
        return torch.full_like(quantity.value, torch.nan)
    return quantity.standard_error
