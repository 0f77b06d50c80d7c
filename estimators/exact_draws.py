"""Criteria of sampling benchmarks, for targets from which exact draws can be had."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from estimators.discrepancy import median_distance, mmd2, mode_coverage, sinkhorn_divergence
from estimators.importance import Moments, pareto_k_hat, reliable
from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.unconditional import Unconditional
from utils.types import PositiveInt

LARGEST_SAMPLE = slice(1000)  # of a discrepancy, whose cost is that of its pairs
FEW = slice(300)  # for the width of its kernel, and for optimal transport, which takes many steps
EPSILON = 0.1  # of transport, as a share of the target's median squared distance


@estimators.register("exact_draws")
class ExactDraws(Estimator):
    """A target's exact draws against a sampler: log Z from above, ESS, discrepancy, coverage.

    The chain is read backwards from N draws of f/Z, by the very kernels that it has forwards; with
    w the weight of such a path, E[1/w] = 1/Z. Criteria of Blessing et al. 2024
    (arXiv 2406.07423), each for itself for every datum, that is for so many repetitions:

    ``log_px`` -log mean 1/w, with its standard error: log Z, leaning upwards where the sampler
    misses mass, as ``importance`` leans downwards. ``eubo`` mean log w, an upper bound on log Z.
    ``ess`` N / (mean w · mean 1/w), the effective sample size as the target's draws see it, so
    that a mode that the sampler misses counts. ``reliable``: whether k-hat of 1/w lets believe
    the first. ``mmd2`` the squared maximum mean discrepancy of unweighted draws, the kernel's
    width the median distance, of 1000 draws at most. ``sinkhorn`` the Sinkhorn divergence of 300
    of them, ε a tenth of the target's median squared distance; of an exact sampler it is above
    zero, and nothing but noise where the target has no variance to speak of, such as the funnel.
    ``mode_coverage`` the entropy of the modes that the sampler's draws are in, over that of all
    modes alike; where these are known.
    ``gradients`` how many gradients of the target a draw costs.

    Args:
        num_samples: N, forwards and backwards each.
        chunk_size: rows (samples times data) at once; bounds memory.
    """

    name: ClassVar[str] = "exact_draws"

    def __init__(self, *, num_samples: PositiveInt = 2000, chunk_size: PositiveInt = 4000) -> None:
        self.num_samples, self.chunk_size = num_samples, chunk_size
        self.settings = {"num_samples": num_samples}

    def check(self, model: GenerativeModel, posterior: Chain) -> None:
        """Refuse targets without exact draws, and chains that cannot be read backwards."""
        if not (isinstance(model, Unconditional) and model.has_draws):
            raise ValueError(
                f"estimator `exact_draws`: {type(model).__name__} has no exact draws of z; it is "
                "for toy energies and targets of sampling benchmarks that can be drawn from"
            )
        try:
            posterior.check_reversible()
        except ValueError as error:
            raise ValueError(f"estimator `exact_draws`: {error}") from error

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
        assert isinstance(model, Unconditional)
        num_data, counted = len(x), _Counted(model.log_joint(x))
        weights, inverses = Moments(num_data, x.device), Moments(num_data, x.device)
        kept, exact, drawn = [], [], []
        step = max(1, self.chunk_size // num_data)
        for start in range(0, self.num_samples, step):
            size = min(step, self.num_samples - start)
            exact.append(model.draw(size * num_data).unflatten(0, (size, num_data)))
            kept.append(posterior.log_w_backwards(context, model.log_joint(x), exact[-1]))
            weights.add(kept[-1])
            inverses.add(-kept[-1])
            drawn.append(posterior(context, counted, size).state.z)
        log_z, error = inverses.log_px
        k_hat = pareto_k_hat(-torch.cat(kept))
        mine, theirs = torch.cat(drawn), torch.cat(exact)
        width = median_distance(mine[FEW], theirs[FEW])
        epsilon = EPSILON * median_distance(theirs[FEW], theirs[:0]).square()
        ess = (self.num_samples * (-weights.log_px.value - inverses.log_px.value).exp()).double()
        stats = {
            "eubo": weights.elbo,
            "ess": Quantity(ess),
            "reliable": reliable(k_hat, self.num_samples),
            "mmd2": Quantity(mmd2(mine[LARGEST_SAMPLE], theirs[LARGEST_SAMPLE], width)),
            "sinkhorn": Quantity(sinkhorn_divergence(mine[FEW], theirs[FEW], epsilon)),
            "gradients": Quantity(torch.full_like(ess, counted.gradients / len(drawn))),
        }
        modes = model.modes_of(mine)
        if modes is not None:
            stats["mode_coverage"] = Quantity(mode_coverage(*modes))
        return Estimate(Quantity(-log_z, error), stats)


class _Counted:
    """A log-density that counts how often a gradient of it is wanted."""

    def __init__(self, log_density: LogDensity) -> None:
        self._log_density, self.gradients = log_density, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.gradients += z.requires_grad
        return self._log_density(z)
