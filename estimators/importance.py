"""Importance sampling with the posterior as proposal (IWAE-K), streamed in chunks."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.rows import in_pieces, rows_in_cache
from utils.types import PositiveInt

K_HAT_DRAWS = 100_000  # k-hat describes the weights' tail; more draws would only cost memory
FEWEST_DRAWS = 25  # for k-hat: a tail of five
SMALLEST_EXCEEDANCE = 1e-300  # of a tail weight, the largest being 1: float64 ends not far below
EQUAL_WEIGHTS = 0.01  # nats; float32 rounds log p(x) of -10,000 nats to some 0.001


class Moments:
    """Running log-moments of log weights (S, B), chunk after chunk, in float64."""

    def __init__(self, num_data: int, device: torch.device) -> None:
        empty = torch.zeros(num_data, dtype=torch.float64, device=device)
        self.count = 0
        self.log_sum = empty - math.inf  # log Σ w
        self.log_sum_squares = empty - math.inf  # log Σ w²
        self.mean = empty  # of log w
        self.squares = empty  # Σ (log w - mean)²
        self.impossible = empty > 0  # whether a weight is zero

    def add(self, log_w: Tensor) -> None:
        """Fold in a chunk (S', B); mean and squares by Chan et al. (1983)'s update."""
        if len(log_w) == 0:
            return
        log_w = log_w.double()
        self.impossible = self.impossible | (log_w == -math.inf).any(0)
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, (2 * log_w).logsumexp(0))
        size, total = len(log_w), self.count + len(log_w)
        chunk_mean = log_w.mean(0)
        delta = chunk_mean - self.mean
        self.squares = self.squares + (log_w - chunk_mean).square().sum(0)
        self.squares = self.squares + delta.square() * (self.count * size / total)
        self.mean = self.mean + delta * (size / total)
        self.count = total

    @property
    def ess(self) -> Tensor:
        """Effective sample size (Σw)²/Σw² (B,); 0 where no draw weighs anything."""
        return (2 * self.log_sum - self.log_sum_squares).exp().nan_to_num(nan=0.0)

    @property
    def log_px(self) -> Quantity:
        """Log mean weight, and its error: infinite where no draw weighs anything."""
        error = (1 / self.ess - 1 / self.count).clamp_min(0).mul(self._bessel).sqrt()
        return Quantity(self.log_sum - math.log(self.count), error)

    @property
    def elbo(self) -> Quantity:
        """Mean log weight: minus infinity, with an infinite error, where one weight is zero."""
        mean = self.mean.masked_fill(self.impossible, -math.inf)
        error = (self.squares / self.count / self.count * self._bessel).sqrt()
        return Quantity(mean, error.masked_fill(self.impossible, math.inf))

    @property
    def _bessel(self) -> float:
        return self.count / (self.count - 1) if self.count > 1 else math.nan  # no error bar


@estimators.register("importance")
class ImportanceSampling(Estimator):
    """IWAE-K: log (1/K) Σ_k p(x, z_k) / q(z_k|x), a lower bound in expectation (1509.00519).

    Args:
        num_samples: K.
        chunk_size: rows (samples times data points) drawn at once; bounds memory whatever K. On a
            CPU the decoder takes them in pieces that its cache holds.

    Per datum it gives ``log_px`` with its delta-method standard error sqrt((1/ESS - 1/K) K/(K-1)),
    ``elbo`` (mean log weight) with its own, the effective sample size ``ess`` = (Σw)²/Σw², and
    ``k_hat``, the shape of the weights' Pareto tail (Vehtari et al. 2024, arXiv 1507.02646) of the
    first 100,000 draws. ``reliable`` is 1 where k_hat <= min(1 - 1/log10 K, 0.7): elsewhere
    ``log_px`` may be too low by many times its error. ``log_px_a``, ``log_px_b``, ``reliable_a``
    and ``reliable_b`` are those of every other draw, for ``combine``.
    """

    name = "importance"
    measures_posterior: ClassVar[bool] = True

    def __init__(self, *, num_samples: PositiveInt = 5000, chunk_size: PositiveInt = 4000) -> None:
        self.num_samples = num_samples
        self.chunk_size = chunk_size
        self.settings = {"num_samples": num_samples}

    def check(self, model: GenerativeModel, posterior: Chain) -> None:
        """Refuse draws that depend on each other."""
        try:
            posterior.check_independent()
        except ValueError as error:
            raise ValueError(f"estimator `importance`: {error}; measure by `particles`") from error

    @property
    def has_halves(self) -> bool:
        """One draw has none."""
        return self.num_samples > 1

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
        # Pieces of a chunk, not smaller chunks: what a seed draws stays what it was.
        log_joint = in_pieces(model.log_joint(x), rows_in_cache(x))
        whole, *halves = (Moments(len(x), x.device) for _ in range(3))
        # One piece: many small ones among the chunks would keep their memory from being reused.
        size = min(self.num_samples, K_HAT_DRAWS)
        first_draws = torch.empty(size, len(x), dtype=torch.float64, device=x.device)
        step = max(1, self.chunk_size // len(x))
        for start in range(0, self.num_samples, step):
            stage = posterior(context, log_joint, min(step, self.num_samples - start))
            log_w = stage.log_w  # (S', B)
            whole.add(log_w)
            for first, half in enumerate(halves):
                half.add(log_w[(start + first) % 2 :: 2])
            free = first_draws[start : start + len(log_w)]
            free.copy_(log_w[: len(free)])
        k_hat = pareto_k_hat(first_draws)
        stats = {
            "elbo": whole.elbo,
            "ess": Quantity(whole.ess),
            "k_hat": Quantity(k_hat),
            "reliable": reliable(k_hat, whole.count),
        }
        if self.has_halves:
            for first, (name, half) in enumerate(zip("ab", halves, strict=True)):
                k_hat = pareto_k_hat(first_draws[first::2])
                stats[f"log_px_{name}"] = half.log_px
                stats[f"reliable_{name}"] = reliable(k_hat, half.count)
        return Estimate(whole.log_px, stats)


def reliable(k_hat: Tensor, num_draws: int) -> Quantity:
    """1 where weights with this k-hat (B,) can be believed, else 0."""
    return Quantity((k_hat <= largest_reliable_k_hat(num_draws)).double())


def pareto_k_hat(log_w: Tensor) -> Tensor:
    """Pareto shape k-hat (B,) of log weights (S, B): a number wherever there are 25 or more draws.

    Zero where the weights of the tail are equal up to rounding: it has no shape, and there is
    nothing to fear. Infinity where they differ by more than float64 can hold, or where the tail
    is a few weights above many equal ones, zeros among them: few weights are all there is. NaN
    for fewer than 25 draws, and where a weight is NaN or infinite.
    """
    if len(log_w) < FEWEST_DRAWS:
        return torch.full_like(log_w[0], math.nan, dtype=torch.float64)
    device, log_w = log_w.device, log_w.double().cpu()
    tail_size = math.floor(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    tail = log_w.topk(tail_size + 1, dim=0).values  # (M+1, B), falling; the last is the cutoff
    tail = tail - tail[0]
    # The fit divides by the first quartile of the exceedances.
    quartile = tail[-1 - math.floor(tail_size / 4 + 0.5)].exp() - tail[-1].exp()
    equal = tail[-2] > -EQUAL_WEIGHTS
    k_hat = torch.full_like(quartile, math.inf).masked_fill(equal, 0.0)
    for index in (~equal & (quartile > SMALLEST_EXCEEDANCE)).nonzero().flatten().tolist():
        k_hat[index] = _fitted_shape(log_w[:, index])
    return k_hat.masked_fill(~(log_w < math.inf).all(0), math.nan).to(device)


def _fitted_shape(log_w: Tensor) -> float:
    """k-hat of log weights (S,) in float64 by arviz-stats."""
    # Imported late: scipy, behind it, would slow every start of the program.
    from arviz_stats.base import array_stats

    with np.errstate(all="ignore"):  # the smoothed weights, which nobody needs, may underflow
        _, k_hat = array_stats.psislw(-log_w.numpy())  # it takes log likelihoods, -log w
    return float(k_hat)


def largest_reliable_k_hat(num_draws: int) -> float:
    """The largest k-hat of weights whose mean and error can be believed: min(1 - 1/log10 S, 0.7).

    Vehtari et al. 2024, arXiv 1507.02646.
    """
    return min(1 - 1 / math.log10(max(num_draws, 2)), 0.7)
