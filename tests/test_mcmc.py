"""Leapfrog and Metropolis against dynamics with known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models import dynamics


class Point(NamedTuple):
    z: Tensor
    log_density: Tensor
    gradient: Tensor


Evaluate = Callable[[Tensor], Point]


class Target(NamedTuple):
    evaluate: Evaluate
    gradient: Callable[[Tensor], Tensor]


def free_fall(z: Tensor) -> Point:
    """log f = -g z with g = 2, gradient the same everywhere."""
    return Point(z, -2.0 * z.sum(-1), torch.full_like(z, -2.0))


def oscillator(z: Tensor) -> Point:
    """A standard normal."""
    return Point(z, -0.5 * z.square().sum(-1), -z)


def quartic(z: Tensor) -> Point:
    """log f = -Σ z⁴/4 - z1 z2: neither linear nor separable."""
    log_density = -0.25 * z.pow(4).sum(-1) - z[..., 0] * z[..., 1]
    return Point(z, log_density, -z.pow(3) - z.flip(-1))


def target(evaluate: Evaluate) -> Target:
    return Target(evaluate, lambda z: evaluate(z).gradient)


def state(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def energy(point: Point, momentum: Tensor) -> Tensor:
    return 0.5 * momentum.square().sum(-1) - point.log_density


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_free_fall_is_exact(num_steps):
    z, v = state(3, 2, 1)
    end, last = dynamics.leapfrog(free_fall(z), v, 0.3, num_steps, target(free_fall))
    time = 0.3 * num_steps
    torch.testing.assert_close(end.z, z + v * time - time**2)
    torch.testing.assert_close(last, v - 2 * time)


def test_an_oscillator_turns_round():
    z, v = state(3, 2, 2)
    num_steps = 2000
    step = 2 * math.pi / num_steps
    end, last = dynamics.leapfrog(oscillator(z), v, step, num_steps, target(oscillator))
    torch.testing.assert_close(end.z, z, atol=1e-5, rtol=0)
    torch.testing.assert_close(last, v, atol=1e-5, rtol=0)


def test_energy_error_is_of_second_order():
    """Four times smaller for steps half as long, over the same time."""
    z, v = state(5, 3, 2)
    errors = []
    for num_steps in (50, 100, 200):
        end, last = dynamics.leapfrog(quartic(z), v, 1.0 / num_steps, num_steps, target(quartic))
        errors.append((energy(end, last) - energy(quartic(z), v)).abs().max())
    for coarse, fine in pairwise(errors):
        assert 3.8 < coarse / fine < 4.2


def test_is_reversible():
    z, v = state(4, 3, 2)
    end, last = dynamics.leapfrog(quartic(z), v, 0.1, 9, target(quartic))
    back, momentum = dynamics.leapfrog(end, -last, 0.1, 9, target(quartic))
    torch.testing.assert_close(back.z, z)
    torch.testing.assert_close(momentum, -v)


def test_keeps_volume():
    z, v = state(2)

    def flow(both: Tensor) -> Tensor:
        end, last = dynamics.leapfrog(quartic(both[:2]), both[2:], 0.3, 4, target(quartic))
        return torch.cat([end.z, last])

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([z, v]))
    torch.testing.assert_close(torch.linalg.det(jacobian), torch.ones((), dtype=torch.float64))


def test_asks_for_one_gradient_a_step_and_for_the_end_alone():
    gradients, points = [], []

    def gradient(z: Tensor) -> Tensor:
        gradients.append(z)
        return quartic(z).gradient

    def evaluate(z: Tensor) -> Point:
        points.append(z)
        return quartic(z)

    z, v = state(2, 2, 2)
    end, _ = dynamics.leapfrog(quartic(z), v, 0.1, 6, Target(evaluate, gradient))
    assert len(gradients) == 5
    assert len(points) == 1
    assert end.z is points[0]


def test_each_chain_has_its_step_size():
    z, v = state(2, 3, 2)
    steps = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
    together, _ = dynamics.leapfrog(quartic(z), v, steps, 3, target(quartic))
    for index in range(3):
        column = slice(index, index + 1)
        alone, _ = dynamics.leapfrog(
            quartic(z[:, column]), v[:, column], 0.1 * (index + 1), 3, target(quartic)
        )
        torch.testing.assert_close(together.z[:, column], alone.z)


def test_metropolis_accepts_as_often_as_it_says_and_never_nan():
    log_ratio = torch.tensor([0.5, -0.5, -math.inf, math.inf, math.nan])
    accepted, probability = dynamics.metropolis(log_ratio.expand(20_000, 5))
    expected = torch.tensor([1.0, math.exp(-0.5), 0.0, 1.0, 0.0])
    torch.testing.assert_close(probability[0], expected)
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((accepted.float().mean(0) - expected).abs() <= 5 * error).all()


def test_divergent_are_trajectories_whose_energy_is_lost():
    """Off by more than 1000 nats in either direction, or not a number; not what is rejected."""
    z = torch.ones(1, 4, 1, dtype=torch.float64)
    ends = torch.tensor([-990.0, -1100.0, 1100.0, math.nan], dtype=torch.float64)

    def flat(z: Tensor) -> Point:
        return Point(z, ends.expand(1, 4), torch.zeros_like(z))  # momenta stay as they are

    start = Point(z, torch.zeros(1, 4, dtype=torch.float64), torch.zeros_like(z))
    proposal = dynamics.hamiltonian(start, 0.1, 2, target(flat))
    assert proposal.divergent.tolist() == [[False, True, True, True]]
    assert proposal.accepted.tolist() == [[False, False, True, False]]


def test_keeps_a_gaussian():
    """From exact draws, moves with a coarse step leave mean, variance and fourth moment."""
    z = torch.randn(40_000, 1, 1, dtype=torch.float64)
    for _ in range(5):
        proposal = dynamics.hamiltonian(oscillator(z), 1.7, 3, target(oscillator))
        z = torch.where(proposal.accepted[..., None], proposal.point.z, z)
    assert 0.2 < proposal.probability.mean() < 0.95  # so that the rejections matter
    for power, moment, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)):
        assert abs(z.pow(power).mean() - moment) < 5 * math.sqrt(variance / len(z))
