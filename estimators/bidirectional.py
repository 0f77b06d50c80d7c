"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from estimators.annealed import Annealer, Chains, cat
from estimators.protocol import Estimate, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain


@estimators.register("bdmc")
class BidirectionalMonteCarlo(Annealer):
    """BDMC (Grosse et al. 2015, arXiv 1511.02543): AIS forwards, and back from an exact draw.

    E[lower] <= log p(x) <= E[upper], for x drawn from the model together with z, which then is an
    exact draw from p(z|x). Chains that start at z and go the same way back, with the same moves,
    weigh 1/p(x) in the mean, so minus their log mean weight is an upper bound. The width says how
    far AIS with these options can be from the truth on data like the model's own.

    Options as in ``ais``; the bounds hold with resampling, too. ``log_px`` is the lower bound;
    further ``upper``, ``width`` = upper - lower, ``reliable``, 1 where the errors of both bounds
    can be believed, and of the forward chains ``ess``, ``acceptance`` and ``divergent``. All
    chains back begin at the same z, and the standard error of ``upper`` is given it.
    """

    name = "bdmc"
    simulates: ClassVar[bool] = True

    @torch.no_grad()
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``; raises ValueError without z, an exact draw from p(z|x)."""
        if z is None:
            raise ValueError("estimator `bdmc`: needs the z that x was simulated with")
        done = 0
        forward: list[Chains] = []
        reverse: list[Chains] = []
        for path, plan in self.chunks(model, posterior, x, context):
            chunk = z[done : done + len(path.x)]
            done += len(path.x)
            forward.append(self.run(path, path.draw(self.num_chains), plan))
            end = path.coordinates(chunk).expand(self.num_chains, *chunk.shape).contiguous()
            reverse.append(self.run(path, end, plan.reversed()))
        forwards, backwards = cat(forward), cat(reverse)
        lower, lower_error = forwards.log_mean
        log_reverse, upper_error = backwards.log_mean
        both = forwards.reliable.value * backwards.reliable.value
        stats = {
            "upper": Quantity(-log_reverse, upper_error),
            "width": Quantity(-log_reverse - lower, torch.hypot(lower_error, upper_error)),
            "reliable": Quantity(both),
        }
        return Estimate(Quantity(lower, lower_error), {**stats, **forwards.stats})
