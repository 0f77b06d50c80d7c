"""The exact answer, where the model has one."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain


@estimators.register("exact")
class Exact(Estimator):
    """Closed-form log p(x) and best factorised ELBO, for models that have them."""

    name = "exact"

    def check(self, model: GenerativeModel, posterior: Chain) -> None:
        """Refuse models without a closed form."""
        if not model.has_exact_log_px:
            raise ValueError(f"estimator `exact`: {type(model).__name__} has no exact log p(x)")

    @torch.no_grad()
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``; raises ValueError for a model without a closed form."""
        log_px = model.log_px(x)
        none = torch.zeros_like(log_px)
        stats = {}
        if model.has_factorised_bound:
            stats["best_factorised_elbo"] = Quantity(model.factorised_bound(x), none)
        return Estimate(Quantity(log_px, none + model.log_px_error), stats)
