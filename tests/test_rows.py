"""Rows of a network by the cache: pieces that change nothing but rounding."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from estimators import importance
from estimators.importance import ImportanceSampling
from tests.components import POSTERIORS, X, initial, make_posterior, reseed
from utils.rows import FEWEST, USUAL_CACHE, in_pieces, rows_in_cache


@pytest.mark.parametrize(
    ("rows", "sizes"), [(None, [7]), (21, [7]), (6, [2, 2, 2, 1]), (1, [1] * 7)]
)
def test_pieces_are_whole_samples_and_their_values_the_function(rows, sizes):
    seen: list[int] = []

    def log_density(z: Tensor) -> Tensor:
        seen.append(len(z))
        return -z.square().sum(-1)

    z = torch.randn(7, 3, 2).double().requires_grad_()
    value = in_pieces(log_density, rows)(z)
    assert seen == sizes
    torch.testing.assert_close(value, -z.square().sum(-1))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(gradient, -2 * z)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [(2**21, 2**21 // 3136), (2**18, FEWEST), (0, USUAL_CACHE // 3136)],
)
def test_rows_are_those_whose_outputs_the_cache_holds(monkeypatch, cache, expected):
    """Of 784 float32 pixels; at least 500; and something where the system does not say."""
    monkeypatch.setattr(os, "sysconf", lambda name: cache)
    assert rows_in_cache(torch.zeros(2, 1, 28, 28)) == max(FEWEST, expected)
    assert rows_in_cache(torch.zeros(2, 1, 28, 28, device="meta")) is None  # no CPU, no limit
    assert rows_in_cache(torch.zeros(2, 1, 1, 0)) == max(FEWEST, (cache or USUAL_CACHE) // 4)


def test_a_system_without_a_word_for_its_cache_has_the_usual_one(monkeypatch):
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert rows_in_cache(torch.zeros(1, 1, 2, 2)) == USUAL_CACHE // 16


@pytest.mark.parametrize("options", POSTERIORS)
def test_an_estimate_in_pieces_has_the_draws_of_one_without(options, linear_gaussian, monkeypatch):
    """The same seed, the same numbers, chains that look at their target among them."""
    posterior = make_posterior(options)
    estimates = []
    for rows in (None, 7):
        monkeypatch.setattr(importance, "rows_in_cache", lambda x, rows=rows: rows)
        reseed(2)
        estimator = ImportanceSampling(num_samples=30, chunk_size=33)
        estimates.append(estimator(linear_gaussian, posterior, X, initial(posterior, 3)))
    whole, pieces = estimates
    torch.testing.assert_close(pieces.log_px, whole.log_px)
    torch.testing.assert_close(pieces.stats["elbo"], whole.stats["elbo"])
