"""Importance sampling with the posterior as proposal (IWAE-K), streamed in chunks."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.types import PositiveInt

K_HAT_DRAWS = 100_000  # k-hat describes the weights' tail; more draws would only cost memory


class _Moments:
    """Running log-moments of log weights (S, B), chunk after chunk, in float64."""

    def __init__(self, num_data: int, device: torch.device) -> None:
        empty = torch.zeros(num_data, dtype=torch.float64, device=device)
        self.count = 0
        self.log_sum = empty - math.inf  # log Σ w
        self.log_sum_squares = empty - math.inf  # log Σ w²
        self.mean = empty  # of log w
        self.squares = empty  # Σ (log w - mean)²

    def add(self, log_w: Tensor) -> None:
        """Fold in a chunk (S', B); mean and squares by Chan et al. (1983)'s update."""
        log_w = log_w.double()
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, (2 * log_w).logsumexp(0))
        size, total = len(log_w), self.count + len(log_w)
        chunk_mean = log_w.mean(0)
        delta = chunk_mean - self.mean
        self.squares = self.squares + (log_w - chunk_mean).square().sum(0)
        self.squares = self.squares + delta.square() * (self.count * size / total)
        self.mean = self.mean + delta * (size / total)
        self.count = total


@estimators.register("importance")
class ImportanceSampling(Estimator):
    """IWAE-K: log (1/K) Σ_k p(x, z_k) / q(z_k|x), a lower bound in expectation (1509.00519).

    Args:
        num_samples: K.
        chunk_size: rows (samples times data points) through the decoder at once; bounds memory
            whatever K.

    Per datum it gives ``log_px`` with its delta-method standard error sqrt((1/ESS - 1/K) K/(K-1)),
    ``elbo`` (mean log weight) with its own, the effective sample size ``ess`` = (Σw)²/Σw², and
    ``k_hat``, the shape of the weights' Pareto tail: reliable below min(1 - 1/log10 K, 0.7)
    (Vehtari et al. 2024, arXiv 1507.02646), by arviz-stats on the first 100,000 draws.
    """

    measures_posterior: ClassVar[bool] = True

    def __init__(self, *, num_samples: PositiveInt = 5000, chunk_size: PositiveInt = 4000) -> None:
        self.num_samples = num_samples
        self.chunk_size = chunk_size
        self.label = f"IWAE-{num_samples}"

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
        log_joint = model.log_joint(x)
        moments = _Moments(len(x), x.device)
        kept: list[Tensor] = []
        step = max(1, self.chunk_size // len(x))
        for start in range(0, self.num_samples, step):
            stage = posterior(context, log_joint, min(step, self.num_samples - start))
            log_w = stage.log_w  # (S', B)
            moments.add(log_w)
            if start < K_HAT_DRAWS:
                kept.append(log_w)
        return self._estimate(moments, torch.cat(kept)[:K_HAT_DRAWS])

    def _estimate(self, moments: _Moments, kept: Tensor) -> Estimate:
        k = self.num_samples
        log_ess = 2 * moments.log_sum - moments.log_sum_squares
        bessel = k / (k - 1) if k > 1 else math.nan  # one draw has no error bar
        log_px_error = ((-log_ess).exp() - 1 / k).clamp_min(0).mul(bessel).sqrt()
        elbo_error = (moments.squares / k / k * bessel).sqrt()
        return Estimate(
            Quantity(moments.log_sum - math.log(k), log_px_error),
            {
                "elbo": Quantity(moments.mean, elbo_error),
                "ess": Quantity(log_ess.exp()),
                "k_hat": Quantity(pareto_k_hat(kept)),
            },
        )


def pareto_k_hat(log_w: Tensor) -> Tensor:
    """Pareto shape k-hat (B,) of log weights (S, B); NaN where there is no tail to fit."""
    # Imported late: scipy, behind it, would slow every start of the program.
    from arviz_stats.base import array_stats

    columns = log_w.double().cpu().numpy().T  # (B, S)
    k_hat = np.full(len(columns), np.nan)
    for index, column in enumerate(columns):
        if len(column) < 25 or not np.isfinite(column).all():
            continue
        # Weights that are equal up to rounding have no tail to fit, and the fit says so.
        with np.errstate(all="ignore"), suppress(ValueError):
            _, k_hat[index] = array_stats.psislw(-column)  # it takes log likelihoods, -log w
    return torch.from_numpy(k_hat)
