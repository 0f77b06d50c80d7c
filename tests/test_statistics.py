"""Means and their errors: by hand, and how often the 95 % interval holds the truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch

from experiments.reporting.statistics import Mean, Values, mean_of, seed_mean

REPLICATIONS = 200


def values(*numbers: float, error: float = math.nan, first: int = 0) -> Values:
    data = np.arange(first, first + len(numbers))
    return Values(data, np.array(numbers), np.full(len(numbers), error))


# --- by hand ------------------------------------------------------------------------------------


def test_one_run_has_the_spread_over_its_data() -> None:
    numbers = (1.5, 2.0, 4.0, -3.25)
    mean = mean_of([values(*numbers, error=0.01)])
    assert mean.mean == pytest.approx(statistics.mean(numbers), rel=1e-15)
    assert mean.standard_error == pytest.approx(statistics.stdev(numbers) / 2, rel=1e-15)
    assert mean.reach == pytest.approx(3.182446305284263, rel=1e-12)  # Student's t, 3 degrees


def test_numbers_a_run_have_the_spread_over_runs() -> None:
    numbers = [1.5, 2.0, 4.0, -3.25]
    mean = seed_mean(numbers)
    assert mean.mean == pytest.approx(statistics.mean(numbers), rel=1e-15)
    assert mean.standard_error == pytest.approx(statistics.stdev(numbers) / 2, rel=1e-15)
    assert seed_mean([2.0])[:3] == (2.0, None, 1)
    assert seed_mean([-math.inf, 1.0])[:2] == (-math.inf, None)


def test_the_components_of_two_runs_on_the_same_data() -> None:
    """y = 10 + a + d + e with a = ±1, d = ±3, and e = ±0.5 that sum to 0 in rows and columns."""
    runs = [values(10 + 1 + 3 + 0.5, 10 + 1 - 3 - 0.5), values(10 - 1 + 3 - 0.5, 10 - 1 - 3 + 0.5)]
    mean = mean_of(runs)
    # mean squares of runs, data and the rest, by hand: 4 × 1², 4 × 3², 4 × 0.5²; R N = 4
    assert mean.standard_error == pytest.approx(math.sqrt((4 - 1 + 36) / 4), rel=1e-14)
    assert (mean.mean, mean.num_runs) == (10.0, 2)


def test_the_error_is_at_least_that_of_monte_carlo() -> None:
    assert mean_of([values(1.0, 1.0, error=0.2)]).standard_error == pytest.approx(
        0.2 / math.sqrt(2)
    )
    runs = [values(1.0, 1.0, error=0.2)] * 2
    assert mean_of(runs).standard_error == pytest.approx(0.1)
    unknown = Values(np.arange(2), np.ones(2), np.array([0.2, math.nan]))  # as the one known
    assert mean_of([unknown]).standard_error == pytest.approx(0.2 / math.sqrt(2))


def test_nothing_is_known_of_the_error_of_a_single_number() -> None:
    assert mean_of([values(1.0, error=0.1)]).standard_error is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_not_averaged_away(bad: float) -> None:
    for runs in ([values(1.0, bad)], [values(1.0, bad), values(1.0, 2.0)]):
        mean = mean_of(runs)
        assert repr(mean.mean) == repr(bad)
        assert mean.standard_error is None


def test_the_mean_is_over_the_data_that_all_runs_have() -> None:
    runs = [values(1.0, 2.0, 30.0), values(2.0, 3.0, 40.0, first=1)]
    assert mean_of(runs).mean == pytest.approx((2 + 30 + 2 + 3) / 4)
    assert mean_of(runs, same_data=False).mean == pytest.approx((11 + 15) / 2)
    assert math.isnan(mean_of([values(1.0), values(1.0, first=1)]).mean)


def test_differences_are_paired() -> None:
    first, second = values(1.0, 2.0, error=0.3), values(1.5, 7.0, error=0.4, first=1)
    data, value, error = first.minus(second)
    assert (data.tolist(), value.tolist(), error.tolist()) == ([1], [0.5], [0.5])


# --- coverage: in 90 to 99 % of replications the interval holds the truth ------------------------


def coverage(truth: float, replicate: Callable[[np.random.Generator], Mean]) -> float:
    """How often the interval holds the truth, in replications with a stream of their own."""
    generator = np.random.default_rng(torch.initial_seed())
    held = 0
    for _ in range(REPLICATIONS):
        mean = replicate(generator)
        assert mean.standard_error is not None
        held += abs(mean.mean - truth) <= mean.reach * mean.standard_error
    return held / REPLICATIONS


def check(share: float) -> None:
    """Between 90 and 99 %, give or take five binomial standard errors at these."""
    assert 0.90 - 5 * math.sqrt(0.9 * 0.1 / REPLICATIONS) < share
    assert share < 0.99 + 5 * math.sqrt(0.99 * 0.01 / REPLICATIONS)


@pytest.mark.parametrize("num_data", [2, 10, 100])
def test_coverage_of_one_run_over_data(num_data: int) -> None:
    """Data of different Monte-Carlo errors, some larger than the spread of the data."""

    def replicate(generator: np.random.Generator) -> Mean:
        error = 0.1 * generator.gamma(2.0, size=num_data)
        value = generator.normal(-90.0, 0.2, num_data) + error * generator.normal(size=num_data)
        return mean_of([Values(np.arange(num_data), value, error)])

    check(coverage(-90.0, replicate))


@pytest.mark.parametrize("num_runs", [2, 3, 10])
@pytest.mark.parametrize(
    ("of_run", "of_datum", "of_both", "monte_carlo"),
    [
        (0.0, 5.0, 0.3, 0.1),  # seeds make no difference
        (0.1, 5.0, 0.3, 0.3),  # a bound: the data differ by far more than the seeds do
        (0.1, 1.0, 0.2, 0.2),  # a gap: of one size
        (0.5, 0.5, 0.1, 0.0),  # the seeds are what matters
        (0.0, 0.1, 0.0, 1.0),  # all is Monte-Carlo error
    ],
)
def test_coverage_of_several_seeds_on_the_same_data(
    num_runs: int, of_run: float, of_datum: float, of_both: float, monte_carlo: float
) -> None:
    shape = num_runs, 50

    def replicate(generator: np.random.Generator) -> Mean:
        value = (
            0.5
            + generator.normal(0.0, of_run, (num_runs, 1))
            + generator.normal(0.0, of_datum, shape[1])
            + generator.normal(0.0, math.hypot(of_both, monte_carlo), shape)
        )
        error = np.full(shape[1], monte_carlo)
        return mean_of([Values(np.arange(shape[1]), row, error) for row in value])

    check(coverage(0.5, replicate))


@pytest.mark.parametrize(
    ("num_runs", "of_run"), [(1, 0.0), *((n, s) for n in (2, 3, 10) for s in (0.0, 0.05))]
)
def test_coverage_of_widths_of_data_that_each_seed_simulates(num_runs: int, of_run: float) -> None:
    """Widths of BDMC: skewed over data, with an error of their own, less than 0 now and then."""
    num_data, monte_carlo = 20, 0.2

    def replicate(generator: np.random.Generator) -> Mean:
        runs = []
        for _ in range(num_runs):
            value = generator.normal(0.0, of_run) + generator.gamma(2.0, 0.03, num_data)
            value = value + generator.normal(0.0, monte_carlo, num_data)
            runs.append(Values(np.arange(num_data), value, np.full(num_data, monte_carlo)))
        return mean_of(runs, same_data=False)

    check(coverage(0.06, replicate))


@pytest.mark.parametrize("num_runs", [1, 2, 3, 10])
def test_coverage_of_paired_gaps_of_an_exact_model(num_runs: int) -> None:
    """x = z + noise, both normal, and q too narrow, so that KL(q || p(z|x)) is known.

    log p(x) is by importance sampling with q, L[q] the mean log weight of other draws.
    """
    num_data, num_samples, scale = 40, 400, 0.8  # the scale in posterior standard deviations

    def replicate(generator: np.random.Generator) -> Mean:
        x = generator.normal(0.0, math.sqrt(2), num_data)
        gaps = []
        for _ in range(num_runs):
            log_px, _ = importance(generator, x, scale, num_samples)
            _, elbo = importance(generator, x, scale, num_samples)
            gaps.append(log_px.minus(elbo))
        return mean_of(gaps)

    check(coverage((scale**2 - 1) / 2 - math.log(scale), replicate))


def importance(
    generator: np.random.Generator, x: np.ndarray, scale: float, num_samples: int
) -> tuple[Values, Values]:
    """log p(x) and L[q], each with its error, for p(z) = N(0, 1), p(x|z) = N(z, 1)."""
    noise = generator.normal(size=(num_samples, len(x)))
    z = x / 2 + scale * math.sqrt(0.5) * noise
    log_w = -(z**2 + (x - z) ** 2) / 2 - math.log(2 * math.pi) / 2
    log_w = log_w + noise**2 / 2 + math.log(scale * math.sqrt(0.5))
    w = np.exp(log_w)
    data, root = np.arange(len(x)), math.sqrt(num_samples)
    log_px = Values(data, np.log(w.mean(0)), w.std(0, ddof=1) / w.mean(0) / root)
    return log_px, Values(data, log_w.mean(0), log_w.std(0, ddof=1) / root)
