"""The log-variance loss: it asks the weights of a chain's paths to be equal."""

from __future__ import annotations

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.losses.protocol import (
    Bound,
    LogTerms,
    Loss,
    Samples,
    Weight,
    losses,
    stat_metrics,
    stats_of,
)
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.posteriors.protocol import Stage


@losses.register("log_variance")
class LogVariance(Loss):
    """Half the variance of log w over S draws whose paths are constants (VarGrad).

    ½ Var_S[log w] of the datum, its gradient that of log q along the whole path at what was drawn:
    1/(S - 1) Σ_s (f_s - mean f) ∇ log q_s, f = -log w: the leave-one-out score estimator (Richter
    et al. 2020, arXiv 2010.10436), of chains the divergence of Nüsken and Richter 2021
    (arXiv 2005.05409). Its mean is the ELBO's gradient, but for a learned reverse, which gets
    another one with the same optimum. There it is zero whatever is drawn. No gradient goes
    through what the target says of the way, so there are none of second order, and what nets
    hold is not kept, so that memory hardly grows with the number of steps.

    Every transition must have a density (Gaussian kernels, Langevin steps, partners that are
    lifted and dropped). The model is a constant: it learns nothing, and must have nothing to
    learn, or be ``training.fixed``. ``value`` is the ELBO.

    Args:
        num_samples: S, at least 2.
    """

    trains_model = False

    def __init__(self, *, num_samples: Samples = 16) -> None:
        self.num_samples = num_samples
        # Here and not where it is defined: this loads the compiler, which cannot trace it.
        self._along = torch.compiler.disable(_along_constant_paths)

    def check(self, posterior: Chain) -> None:
        """Raise ValueError, with the place, for a transition whose moves have no density."""
        super().check(posterior)
        for index, transition in enumerate(posterior.transitions):
            if not transition.has_density:
                raise ValueError(
                    f"log_variance takes densities of moves, and those of `transitions[{index}]` "
                    f"({type(transition).__name__}) have none; take elbo or iwae"
                )

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        stages = self._along(posterior, context, model.log_joint(x), self.num_samples)
        last, stats = stages[-1], stats_of(stages)
        with torch.no_grad():
            terms = LogTerms.of(model, x, last)
            log_p = terms.log_likelihood + terms.log_prior
            value, told = terms.log_w.mean(0), {**terms.metrics(), **stat_metrics(stats)}
        variance = (log_p - last.log_q).var(0)  # (B,)
        metrics = {**told, "log_variance": variance.detach()}
        return Bound(0.5 * variance, value, metrics, stats)


def _along_constant_paths(
    posterior: Chain, context: Tensor, log_joint: LogDensity, num_samples: int
) -> list[Stage]:
    return list(posterior.along_constant_paths(context, log_joint, num_samples))
