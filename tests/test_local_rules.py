"""When a search ends: the published rule, comparisons of parameters, and data that break."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.local import LocalOptimum, LocalSettings, fast, local_optimise, paper
from models.local import settings as settings_module
from models.local.comparison import compare
from models.losses import Bound, Loss
from models.posteriors.gaussian import gaussian

# When a search ends


class _Scripted(Loss):
    """Bounds by a script: datum d = x at its call t has bound ``script(t, d)``; slope 1 in all."""

    def __init__(self, script: Callable[[int, int], float]) -> None:
        self.script = script
        self.sizes: list[int] = []

    def __call__(self, model, posterior, x, context, weight=1.0) -> Bound:
        values = [self.script(len(self.sizes), int(datum)) for datum in x.flatten()]
        self.sizes.append(len(x))
        value = torch.tensor(values, dtype=context.dtype)
        return Bound(context.sum(-1), value, {})


def scripted(
    script: Callable[[int, int], float], num_data: int, settings: LocalSettings
) -> tuple[LocalOptimum, _Scripted]:
    loss = _Scripted(script)
    x = torch.arange(num_data).double().view(-1, 1, 1, 1)
    context = torch.zeros(num_data, 4).double()
    model = LinearGaussian((1, 1, 1), latent_dim=2).double()
    return local_optimise(loss, model, gaussian(2), x, context, settings), loss


def published_rule(values: Iterator[float], window: int, patience: int) -> int:
    """Steps until more than ``patience`` windows running had no better mean; as public code."""
    best, waited, steps = -math.inf, 0, 0
    while True:
        mean = sum(next(values) for _ in range(window)) / window
        steps += window
        if mean > best:
            best, waited = mean, 0
        else:
            waited += 1
            if waited > patience:
                return steps


def noisy(step: int, datum: int) -> float:
    """Climbs for longer the larger the datum, with ripples that are not monotone."""
    return min(step, 60 * datum) + 3 * math.sin(step * 1.7 + datum)


def test_convergence_is_the_published_rule_for_each_datum():
    settings = paper(window=7, patience=3, lr=1e-3)
    found, loss = scripted(noisy, 5, settings)
    expected = [published_rule(iter([noisy(t, d) for t in range(2000)]), 7, 3) for d in range(5)]
    assert len(set(expected)) == 5
    assert found.steps.tolist() == expected
    assert found.converged.all()
    # Who has converged has left: the last datum is alone in the end, and nothing runs on.
    assert set(loss.sizes) <= {8, 4, 2, 1}  # rounded up to few sizes
    assert loss.sizes[0] == 8
    assert loss.sizes[-1] == 1
    assert len(loss.sizes) == max(expected)
    # and keeps its optimum: Adam's steps along a constant slope are the learning rate.
    walked = -1e-3 * torch.tensor(expected).double()
    torch.testing.assert_close(found.context, walked[:, None].expand(5, 4), atol=1e-6, rtol=0)


def test_samples_of_a_datum_count_as_rows_of_a_step(monkeypatch):
    monkeypatch.setattr(settings_module, "CPU_ROWS", 12)
    _, loss = scripted(noisy, 5, paper(num_samples=4, window=3, max_steps=3))
    assert set(loss.sizes) == {3, 2}


def test_the_most_steps_end_a_search_unconverged():
    found, _ = scripted(lambda step, datum: step, 2, paper(window=10, max_steps=35))
    assert found.steps.tolist() == [35, 35]
    assert found.values.tolist() == [32, 32]  # the last window is cut short
    assert not found.converged.any()
    found, _ = scripted(lambda step, datum: step, 2, paper(window=10, max_steps=4))
    assert found.steps.tolist() == [4, 4]
    torch.testing.assert_close(found.values, torch.full((2,), 1.5).double())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_datum_that_breaks_falls_back_and_the_others_go_on(broken):
    def script(step: int, datum: int) -> float:
        return broken if datum == 1 and step > 120 else float(-step)

    found, _ = scripted(script, 3, paper(window=100, patience=0, lr=1e-3))
    assert found.steps.tolist() == [200, 100, 200]
    assert found.converged.tolist() == [True, False, True]
    walked = -1e-3 * found.steps.double()
    torch.testing.assert_close(found.context, walked[:, None].expand(3, 4), atol=1e-6, rtol=0)
    assert found.values[1] == -49.5
    assert found.values.isfinite().all()


def test_parameters_that_break_are_noticed_where_the_bound_is_not(linear_gaussian):
    class Steep(_Scripted):
        def __call__(self, model, posterior, x, context, weight=1.0) -> Bound:
            bound = super().__call__(model, posterior, x, context)
            return bound._replace(
                loss=context.sum(-1) * torch.where(x.flatten() == 1, math.nan, 1)
            )

    x = torch.arange(2).double().view(-1, 1, 1, 1)
    settings = paper(window=10, max_steps=10)
    found = local_optimise(
        Steep(lambda step, datum: 0.0), linear_gaussian, gaussian(2), x,
        torch.zeros(2, 4).double(), settings,
    )  # fmt: skip
    assert found.steps.tolist() == [10, 0]
    assert (found.context[1] == 0).all()
    assert found.values.isnan().tolist() == [False, True]


# Comparisons of parameters


class _Walk(Loss):
    """Slope 1 in all numbers: Adam walks by its rate, and the bound is a function of how far.

    ``height`` is given the way (B,) walked so far, the data (B,), and noise (B,).
    """

    def __init__(self, height: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self.height = height
        self.num_steps = 0

    def __call__(self, model, posterior, x, context, weight=1.0) -> Bound:
        self.num_steps += torch.is_grad_enabled()
        way, data = -context.detach()[:, 0], x.flatten()
        noise = torch.randn(len(x), dtype=way.dtype)
        return Bound(context.sum(-1), self.height(way, data, noise), {})


def walked(
    height: Callable[[Tensor, Tensor, Tensor], Tensor], num_data: int, settings: LocalSettings
) -> tuple[LocalOptimum, _Walk]:
    loss = _Walk(height)
    x = torch.arange(num_data).double().view(-1, 1, 1, 1)
    context = torch.zeros(num_data, 4).double()
    model = LinearGaussian((1, 1, 1), latent_dim=2).double()
    return local_optimise(loss, model, gaussian(2), x, context, settings), loss


def way_of(found: LocalOptimum) -> Tensor:
    return -found.context[:, 0]


def cosine_walk(settings: LocalSettings, lengths: list[int]) -> float:
    """The mean place over the last half of each window, from which the next one begins."""
    place = 0.0
    for length in lengths:
        places = []
        for step in range(length):
            place += settings.lr * settings.schedule(step / length)
            places.append(place)
        place = sum(places[-length // 2 :]) / (length // 2)
    return place


def test_windows_double_and_end_in_the_mean_of_their_last_half():
    """Rates fall along a cosine in each window, and Adam starts afresh: its steps are the rate."""
    settings = fast(window=40, max_steps=60, lr=1e-3, min_gain=1e-9)
    assert settings.schedule(0.5) == pytest.approx(0.5)
    assert settings.schedule(1.0) == pytest.approx(0)
    found, _ = walked(lambda way, data, noise: way, 1, settings)
    expected = torch.tensor([cosine_walk(settings, [20, 40])]).double()
    torch.testing.assert_close(way_of(found), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=0)  # without noise


def test_converged_means_that_another_window_would_gain_less():
    """A bound that gains as much in each window, twice as long as the last, never converges."""
    gains = torch.tensor([0.1, 0.05, 0.01]).double()

    def height(way: Tensor, data: Tensor, noise: Tensor) -> Tensor:
        return gains[data.long()] * torch.log2(1 + way / 1e-6)

    found, _ = walked(height, 3, fast(window=40, max_steps=620, min_gain=0.05))
    assert found.converged.tolist() == [False, False, True]
    assert found.steps.tolist() == [620, 620, 60]  # against the start everything has gained


def test_a_gain_that_noise_hides_is_no_convergence():
    """Where nothing is gained, the noise of the difference decides what can be said."""

    def height(way: Tensor, data: Tensor, noise: Tensor) -> Tensor:
        return torch.where(data == 0, noise, 100 * noise * way)  # the first one's is common

    found, _ = walked(height, 2, fast(window=40, max_steps=60, min_gain=0.05))
    assert found.converged.tolist() == [True, False]
    assert found.steps.tolist() == [20, 60]


def test_more_pairs_are_drawn_where_they_may_show_convergence():
    """One datum needs no more, one more than there may be, one gains too much, one needs 400."""
    spread = torch.tensor([0.0, 100.0, 0.0, 0.14]).double()  # two errors of 400 pairs: 0.014
    gain = torch.tensor([0.0, 0.0, 1.0, 0.0]).double()
    calls = []

    def bounds(table: str, data: Tensor, count: int) -> Tensor:
        calls.append((table, data.tolist(), count, torch.rand(()).item()))
        signs = (-1.0) ** torch.arange(count).double()[:, None]
        return (signs * spread[data] + gain[data]) * (table == "tail") - 5

    comparison = compare(bounds, torch.arange(4), limit=0.015, most=800)
    assert comparison.is_within(0.015).tolist() == [True, False, False, True]
    assert [call[1:3] for call in calls[::2]] == [([0, 1, 2, 3], 100), ([3], 100), ([3], 200)]
    for tail, best in pairwise(calls):
        assert (tail[0] == "best") or (tail[1:] == best[1:])  # the same random numbers
    assert comparison.is_better().tolist()[2]
    value, error = comparison.bounds()
    torch.testing.assert_close(value, gain - 5)
    sizes = torch.tensor([100, 100, 100, 400]).double()
    expected = torch.where(comparison.is_better(), spread, 0) / (sizes - 1).sqrt()
    torch.testing.assert_close(error, expected, atol=1e-6, rtol=1e-6)


def test_a_bound_that_falls_gets_its_best_parameters_back_unconverged():
    found, _ = walked(lambda way, data, noise: -way, 2, fast(window=20, max_steps=140))
    assert (found.context == 0).all()
    assert not found.converged.any()
    assert (found.values == 0).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_datum_that_breaks_rests_and_goes_on_from_its_best(broken):
    """The second of two breaks within the second window, as far as it has come by then."""

    def height(way: Tensor, data: Tensor, noise: Tensor) -> Tensor:
        breaks = (data == 1) & (loss.num_steps > 21) & (loss.num_steps < 60)
        return torch.where(breaks & torch.tensor(torch.is_grad_enabled()), broken, way)

    loss = _Walk(height)
    x = torch.arange(2).double().view(-1, 1, 1, 1)
    model = LinearGaussian((1, 1, 1), latent_dim=2).double()
    for windows in ([20], [20, 40], [20, 40, 80]):
        loss.num_steps = 0
        settings = fast(window=40, max_steps=sum(windows), lr=1e-3, min_gain=1e-9)
        found = local_optimise(loss, model, gaussian(2), x, torch.zeros(2, 4).double(), settings)
        kept = [length for length in windows if length != 40]
        expected = [cosine_walk(settings, windows), cosine_walk(settings, kept)]
        torch.testing.assert_close(
            way_of(found), torch.tensor(expected).double(), rtol=1e-5, atol=0
        )
        assert not found.converged.any()
