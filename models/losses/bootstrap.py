"""Flow annealed importance sampling bootstrap: a flow learns from what annealing makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from models import dynamics
from models.generative import GenerativeModel
from models.losses.protocol import (
    Bound,
    LogTerms,
    Loss,
    Samples,
    Weight,
    losses,
    stats_of,
    trial_context,
)
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity, Mixture, Remembered
from utils.seeding import isolated
from utils.types import Depth, NonNegativeInt, PositiveFloat


@losses.register("fab")
class FlowBootstrap(Loss):
    """Fit q to p by log ∫ p(x, z)² / q(z) dz, at draws that annealing makes of q's (FAB).

    Midgley et al. 2023 (arXiv 2208.01893): draws of q go through annealed importance sampling to
    p²/q, the least variance of that integral, by moves of Hamiltonian Monte Carlo at
    q^(1 - 2b) p^(2b). Its gradient is Σ_s W_s ∇(-log q(z_s)), W_s their normalised weights, z_s
    constants. It covers all of p's mass, also where the ELBO, which then is lower, keeps to one
    mode. `fab_replay` keeps earlier draws, as the paper does.

    It takes posteriors whose log q(z) is known at any z: Gaussians, couplings, splines, inverse
    autoregressive flows. It trains the posterior alone. ``value`` is the ELBO of the draws before
    they are annealed.

    Args:
        num_samples: S, at least 2.
        num_distributions: between q and p²/q, a move at each; 0: importance sampling from q.
        num_leapfrog: steps of a move, each of a gradient of p and one of q.
        step_size: of the moves; the metric ``acceptance`` says what it does.
    """

    trains_model = False

    def __init__(
        self,
        *,
        num_samples: Samples = 64,
        num_distributions: NonNegativeInt = 1,
        num_leapfrog: Depth = 5,
        step_size: PositiveFloat = 0.1,
    ) -> None:
        self.num_samples, self.num_distributions = num_samples, num_distributions
        self.num_leapfrog, self.step_size = num_leapfrog, step_size
        # Here and not where it is defined: this loads the compiler, which cannot trace it.
        self._anneal = torch.compiler.disable(self._annealed)

    def check(self, posterior: Chain) -> None:
        """Raise ValueError unless log q(z) is known: read backwards, nothing is drawn."""
        super().check(posterior)
        try:
            posterior.check_reversible()
        except ValueError as error:
            raise ValueError(f"fab needs log q(z) at any z: {error}") from error
        if any(move.uses_target for move in posterior.transitions) or _draws(posterior):
            raise ValueError(
                "fab needs log q(z) at any z, and this posterior draws on its way "
                "(kernels, partners, moves); take elbo or log_variance"
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
        z, log_w, told = self._batch(model, posterior, x, context)
        log_q = log_density(posterior, context)(z)
        return told._replace(loss=-(log_w.softmax(0) * log_q).sum(0))

    @torch.no_grad()
    def _batch(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, Bound]:
        """Annealed draws z (S, B, D), their log weights (S, B), and a bound without their loss."""
        log_q, log_joint = log_density(posterior, context), model.log_joint(x)
        stages = list(posterior.stages(context, log_joint, self.num_samples))
        terms = LogTerms.of(model, x, stages[-1])
        z, log_w, acceptance = self._anneal(log_q, log_joint, stages[-1].state.z)
        value, metrics = terms.log_w.mean(0), {**terms.metrics(), "acceptance": acceptance}
        return z, log_w, Bound(-value, value, metrics, stats_of(stages))

    def _annealed(
        self, log_q: LogDensity, log_p: LogDensity, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws z (S, B, D) after annealing, their log weights (S, B), the acceptance (B,)."""
        q, p, rise = Remembered(log_q), Remembered(log_p), 1 / (self.num_distributions + 1)
        log_w, probabilities = torch.zeros_like(z[..., 0]), []
        for step in range(1, self.num_distributions + 1):
            target = Mixture(q, p, torch.as_tensor(step * rise).to(z), _squared)
            start = target.evaluate(z)
            log_w = log_w + 2 * rise * (p(z) - q(z))
            move = dynamics.hamiltonian(start, self.step_size, self.num_leapfrog, target)
            z = target.choose(move.accepted, move.point.z, z)
            probabilities.append(move.probability.mean(0))
        log_w = log_w + 2 * rise * (p(z) - q(z))
        mean = torch.stack(probabilities).mean(0) if probabilities else torch.ones_like(z[0, :, 0])
        return z, log_w, mean


def log_density(posterior: Chain, context: Tensor) -> LogDensity:
    """log q(z | context) (S, B) of a chain that draws nothing on its way, at z (S, B, D)."""
    return lambda z: -posterior.log_w_backwards(context, _nothing, z)


@torch.no_grad()
def _draws(posterior: Chain) -> bool:
    """Whether two readings backwards from the same place differ."""
    context = trial_context(posterior)
    with isolated(seed=0):
        z, log_q = posterior(context, _nothing).state.z, log_density(posterior, context)
        return not torch.equal(log_q(z), log_q(z))


def _nothing(z: Tensor) -> Tensor:
    return torch.zeros_like(z[..., 0])


def _squared(log_q: Tensor, log_p: Tensor, beta: Tensor) -> Tensor:
    return log_q + 2 * beta * (log_p - log_q)
