"""log p(x) by sets of draws that may depend on each other within a set."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from estimators.annealed import enough
from estimators.importance import Moments
from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.types import PositiveInt

NumSets = Annotated[int, Ge(2), Le(10**9)]
"""Of one set there is no error."""


@estimators.register("particles")
class Particles(Estimator):
    """Sets of S draws of the posterior, each of which is a sequential Monte Carlo run.

    A set's mean weight is p(x) in the mean, however its draws depend on each other; sets are
    independent. So ``log_px`` is the log of the mean over sets and draws, its error from the
    spread over sets, ``set_bound`` the mean log of a set's mean weight, a lower bound on log p(x)
    (Naesseth et al. 2018, arXiv 1705.11140), ``ess`` how many sets the weights are worth, and
    ``reliable`` 1 where that is three or more, and 5 % of all or more.

    Args:
        num_samples: S, draws of a set.
        num_sets: how many.
    """

    name: ClassVar[str] = "particles"

    def __init__(self, *, num_samples: PositiveInt = 100, num_sets: NumSets = 50) -> None:
        self.num_samples, self.num_sets = num_samples, num_sets
        self.settings = {"num_samples": num_samples, "num_sets": num_sets}

    @torch.no_grad()
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``."""
        log_joint, sets = model.log_joint(x), Moments(len(x), x.device)
        for _ in range(self.num_sets):
            log_w = posterior(context, log_joint, self.num_samples).log_w.double()  # (S, B)
            sets.add(log_w.logsumexp(0, keepdim=True) - math.log(len(log_w)))
        said = {"ess": Quantity(sets.ess), "reliable": enough(sets.ess, self.num_sets)}
        return Estimate(sets.log_px, {"set_bound": sets.elbo, **said})
