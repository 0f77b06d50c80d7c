"""Chains whose samples are particles of one another's making: sequential Monte Carlo."""

from __future__ import annotations

import torch
from torch import Tensor

from models.posteriors.paths import GeometricPath, Target
from models.posteriors.protocol import Stage, State
from models.resampling import systematic


def resampled(stage: Stage, target: Target, below: float) -> Stage:
    """The stage after systematic resampling where the effective share of its S draws is low.

    Draws go on in proportion to f(z) exp(-log_q), f the target of the move before, times
    N(v; 0, I) where there is a partner. ``log_q`` grows by the log of S times their share, so that
    the mean over S stays properly weighted; draws now depend on each other. No gradient goes
    through the choice. At 1 it is done whatever the share.
    """
    z, v = stage.state
    log_f = target.evaluate(z).log_density
    if v is not None:
        log_f = log_f - 0.5 * v.square().sum(-1)
    weights = (log_f - stage.log_q).detach().softmax(0)  # (S, B)
    effective = 1 / weights.square().sum(0)
    size = len(weights)
    uneven = (effective < below * size) | (below == 1)
    own = torch.arange(size, device=z.device)[:, None].expand(weights.shape)
    chosen = torch.where(uneven, systematic(weights), own)

    def pick(values: Tensor) -> Tensor:
        index = chosen if values.dim() == 2 else chosen[..., None].expand(values.shape)
        return values.gather(0, index)

    shares = torch.where(uneven, (size * weights).log(), 0.0)
    log_q = pick(stage.log_q + shares)
    picked = pick(z)
    _remember(stage.path, picked, chosen, z)
    return stage._replace(
        state=State(picked, None if v is None else pick(v)),
        log_q=log_q,
        log_choice=None if stage.log_choice is None else pick(stage.log_choice),
        excess=None,
    )


def _remember(path: GeometricPath, picked: Tensor, chosen: Tensor, z: Tensor) -> None:
    """Know the densities at the draws that go on, as z has been evaluated."""
    for density in (path.start, path.end):
        if density.known(z) is not None:
            density.pick(picked, chosen, z)
