"""Local optimisation of narrow posteriors in float32: the optimum, or an honest word."""

from __future__ import annotations

import pytest
import torch

from benchmarks.optima import COVARIANCES, DIMENSIONS, NOISES, TOLERANCE, make_problem, solve
from models.local import fast
from models.posteriors.gaussian import gaussian

NUM_DATA = 4
slow = pytest.mark.slow


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    ("dimension", "noise"),
    [
        pytest.param(d, noise, marks=[] if d == 2 and noise in (1.0, 0.01) else [slow])
        for d in DIMENSIONS
        for noise in NOISES
    ],
)
def test_a_search_from_the_prior_finds_the_optimum_or_says_that_it_has_not(
    dimension, noise, covariance
):
    """Within 0.01 nats of the closed form wherever it says that no more than that is left."""
    settings = fast(min_gain=TOLERANCE)
    found = solve(make_problem(dimension, noise, covariance, NUM_DATA), settings)
    assert found.is_honest.all(), found.miss
    assert (found.miss > -1e-3).all()  # no bound is better than the best: float32 at noise 0.01


def test_what_adam_remembers_of_the_first_steps_does_not_hold_back_the_last_ones():
    """Four windows are enough for a posterior a hundred times narrower than the prior."""
    problem = make_problem(2, 0.01, "diagonal", NUM_DATA)
    assert (solve(problem, fast(min_gain=1e-9)).miss < 0.01).all()


def test_a_search_that_is_cut_short_has_not_converged():
    """Right to nats only, and flagged otherwise than what is right to a thousandth."""
    found = solve(make_problem(2, 0.03, "diagonal", NUM_DATA), fast(max_steps=200))
    assert (found.miss > 0.1).all()
    assert not found.optimum.converged.any()


def test_a_full_gaussian_moves_in_its_own_frame():
    """The move of a narrow one is that of a wide one, squeezed: L M for the same lower M."""
    posterior = gaussian(3, covariance="full")
    size = posterior.context_size
    move = torch.randn(2, size).double()
    move[:, :3] = 0  # the mean moves in z's own units
    base = posterior.base
    wide = base._split(posterior.moved(torch.zeros(2, size).double(), move))[2]  # from L = I
    context = torch.randn(2, size).double()
    scale = base._split(context)[2]
    torch.testing.assert_close(base._split(posterior.moved(context, move))[2], scale @ wide)
    torch.testing.assert_close(posterior.moved(context, 0 * move), context)
    assert posterior.moved(context, move).shape == context.shape
