"""Hamiltonian Monte Carlo from given places: where the true posterior leads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.dynamics import hamiltonian
from models.posteriors.paths import LogDensity, Remembered

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
    target, z = Remembered(log_density), start
    log_step = torch.full_like(start[..., :1], FIRST_STEP).log()  # (1, B, 1)
    for move in range(1, TUNING_MOVES + 1):  # by Robbins and Monro
        z, probability = _move(target, z, log_step.exp(), num_leapfrog)
        log_step = log_step + (probability - ACCEPTANCE)[..., None] / move**0.5
    z, acceptance = start, torch.zeros_like(start[0, :, 0])
    places, values = [z], [target(z)]
    for _ in range(num_moves):
        z, probability = _move(target, z, log_step.exp(), num_leapfrog)
        places.append(z)
        values.append(target(z))
        acceptance = acceptance + probability[0] / num_moves
    return Chain(torch.cat(places), torch.cat(values), acceptance, log_step.exp()[0, :, 0])


def _move(
    target: Remembered, z: Tensor, step_size: Tensor, num_leapfrog: int
) -> tuple[Tensor, Tensor]:
    """The next place (1, B, D), and the probability (1, B) with which a proposal is accepted."""
    proposal = hamiltonian(target.evaluate(z), step_size, num_leapfrog, target)
    return target.choose(proposal.accepted, proposal.point.z, z), proposal.probability
