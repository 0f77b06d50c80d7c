"""Hamiltonian Monte Carlo from given places: where the true posterior leads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.dynamics import hamiltonian
from models.posteriors.paths import LogDensity, Point, Remembered

NUM_LEAPFROG = 10
TUNING_MOVES = 40
FIRST_STEP = 0.1
ACCEPTANCE = 0.65  # best for Hamiltonian Monte Carlo (Neal 2011, arXiv 1206.1901)


class Chain(NamedTuple):
    """Where one chain a datum has been.

    z (T + 1, B, D), the start included; log f(z) (T + 1, B) in nats; the moves' mean probability
    of acceptance (B,); the step sizes (B,).
    """

    z: Tensor
    log_density: Tensor
    acceptance: Tensor
    step_size: Tensor


@torch.no_grad()
def run_chain(
    log_density: LogDensity, start: Tensor, num_moves: int, num_leapfrog: int = NUM_LEAPFROG
) -> Chain:
    """Run Hamiltonian Monte Carlo of ``num_moves`` moves from ``start`` (1, B, D).

    Step sizes, one a datum, are tuned on other chains from the same start, and then fixed, so
    that the chain leaves f invariant.
    """
    target = Remembered(log_density)
    log_step = torch.full_like(start[..., :1], FIRST_STEP).log()  # (1, B, 1)
    point = target.evaluate(start)
    for move in range(1, TUNING_MOVES + 1):  # by Robbins and Monro
        point, probability = _move(target, point, log_step.exp(), num_leapfrog)
        log_step = log_step + (probability - ACCEPTANCE)[..., None] / move**0.5
    points, acceptance = [target.evaluate(start)], torch.zeros_like(start[0, :, 0])
    for _ in range(num_moves):
        point, probability = _move(target, points[-1], log_step.exp(), num_leapfrog)
        points.append(point)
        acceptance = acceptance + probability[0] / num_moves
    z, values = (torch.cat([p[i] for p in points]) for i in (0, 1))
    return Chain(z, values, acceptance, log_step.exp()[0, :, 0])


def _move(
    target: Remembered, point: Point, step_size: Tensor, num_leapfrog: int
) -> tuple[Point, Tensor]:
    """The next place, and the probability (1, B) with which the proposal is accepted."""
    proposal = hamiltonian(point, step_size, num_leapfrog, target)
    accepted = proposal.accepted[..., None]
    log_density = torch.where(proposal.accepted, proposal.point.log_density, point.log_density)
    gradient = torch.where(accepted, proposal.point.gradient, point.gradient)
    moved = Point(torch.where(accepted, proposal.point.z, point.z), log_density, gradient)
    return moved, proposal.probability
