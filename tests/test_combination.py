"""Several estimates of p(x) as one: by hand, and unbiased where the maximum is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from estimators.combination import combine


def halves(*estimators: tuple[float, float]) -> Tensor:
    """(E, 2, 1) of each estimator's halves A and B."""
    return torch.tensor(estimators, dtype=torch.float64)[..., None]


def test_each_half_is_weighted_by_what_the_other_suggests():
    """By hand: weights 4:1 by half A, 1:1 by half B."""
    values = halves((1.0, 2.0), (3.0, 4.0)).log()
    log_px, error, weight = combine(values, halves((0.1, 0.2), (0.2, 0.2)))
    from_b, from_a = 0.8 * 2 + 0.2 * 4, 0.5 * 1 + 0.5 * 3
    mean = (from_a + from_b) / 2
    assert log_px.item() == pytest.approx(math.log(mean))
    parts = [0.8 * 2 * 0.2, 0.2 * 4 * 0.2, 0.5 * 1 * 0.1, 0.5 * 3 * 0.2]
    assert error.item() == pytest.approx(math.hypot(*parts) / 2 / mean)
    assert weight.flatten().tolist() == pytest.approx([0.65, 0.35])


def test_one_estimator_is_the_mean_of_its_halves():
    log_px, error, weight = combine(halves((1.0, 3.0)).log(), halves((0.1, 0.2)))
    assert log_px.item() == pytest.approx(math.log(2))
    assert error.item() == pytest.approx(math.hypot(0.1, 0.6) / 4)
    assert weight.item() == 1


@pytest.mark.parametrize(
    ("errors", "weights"),
    [
        (((0.0, 0.0), (0.1, 0.1)), (1.0, 0.0)),
        (((0.0, 0.0), (0.0, 1e-9)), (0.5, 0.5)),  # both constant up to rounding
        (((math.inf, math.inf), (0.1, 0.1)), (0.0, 1.0)),
        (((math.nan, math.nan), (0.1, 0.1)), (0.0, 1.0)),
        (((math.inf, 0.1), (0.1, 0.1)), (0.25, 0.75)),
        (((math.nan, math.inf), (math.nan, math.nan)), (0.5, 0.5)),  # nothing to judge by
    ],
)
def test_weights_where_errors_are_zero_or_unknown(errors, weights):
    log_px, error, weight = combine(halves((-1.0, -1.0), (-1.0, -1.0)), halves(*errors))
    assert log_px.item() == pytest.approx(-1.0)
    assert weight.flatten().tolist() == pytest.approx(weights, abs=1e-9)
    known = any(map(math.isfinite, errors[0] + errors[1]))
    assert not error.isnan()
    assert known or error.isinf()


def test_an_unreliable_half_gives_no_weight_unless_all_are():
    values, errors = halves((-1.0, -1.0), (-2.0, -2.0)), halves((0.1, 0.1), (0.2, 0.2))
    alone = combine(values, errors, halves((0, 0), (1, 1)) > 0)
    assert alone.weight.flatten().tolist() == [0, 1]
    assert alone.log_px.item() == pytest.approx(-2)
    once = combine(values, errors, halves((0, 1), (1, 1)) > 0)
    assert once.weight.flatten().tolist() == pytest.approx([0.4, 0.6])
    nobody = combine(values, errors, halves((0, 0), (0, 0)) > 0)
    assert torch.equal(nobody.log_px, combine(values, errors).log_px)


def test_what_is_not_available_is_left_out():
    good = (-1.0, -1.0)
    for bad in (math.nan, math.inf):
        values = halves((-3.0, bad), good)
        combined = combine(values, torch.full_like(values, 0.1))
        assert combined.log_px.item() == pytest.approx(-1)
        assert combined.weight.flatten().tolist() == [0, 1]
    nothing = combine(halves((math.nan, -1.0)), halves((0.1, 0.1)))
    assert all(tensor.isnan().all() for tensor in nothing)


def test_no_weight_at_all_is_an_estimate_of_zero():
    values = halves((-math.inf, -math.inf))
    combined = combine(values, torch.full_like(values, math.inf))
    assert combined.log_px.item() == -math.inf
    assert combined.standard_error.item() == math.inf


def test_it_is_unbiased_and_the_maximum_is_not():
    """Three estimators that are log-normal means of few draws: E[p̂] = p; the largest leans."""
    spread = torch.tensor([0.5, 0.7, 1.0], dtype=torch.float64)[:, None, None, None]
    noise = torch.randn(3, 2, 8, 20_000, dtype=torch.float64)
    w = (spread * noise - 0.5 * spread.square()).exp()  # (E, 2, draws, B), mean 1
    mean, deviation = w.mean(2), w.std(2) / math.sqrt(8)
    log_px = combine(mean.log(), deviation / mean).log_px
    largest = mean.mean(1).max(0).values

    def z_score(estimates: Tensor) -> float:
        return ((estimates.mean() - 1) / estimates.std() * math.sqrt(estimates.numel())).item()

    assert abs(z_score(log_px.exp())) < 5
    assert z_score(largest) > 50
