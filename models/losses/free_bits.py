"""Free bits: nats of the KL that cost nothing (Kingma et al. 2016, arXiv 1606.04934, section C.8).

In place of the sum of the base's KL_g = KL(q0(z_g|x) ‖ N(0, I)) over groups g of dimensions, the
loss has Σ_g max(λ, mean of KL_g over the minibatch). What transitions add to a chain's KL stays as
it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.losses.protocol import Annealing, LogTerms, Weight
from models.posteriors.chain import Chain
from models.posteriors.protocol import Stage

LOG_2PI = math.log(2 * math.pi)


class FreeBits(NamedTuple):
    """λ nats of each group of so many dimensions, in their order; the last may be smaller."""

    nats: float
    group_size: int = 1

    def check(self, posterior: Chain) -> None:
        """Raise ValueError where the dimensions of the posterior's base are not independent."""
        base = posterior.base
        context = posterior.initial_context()[None, : base.context_size]
        if base.log_prob_each(context.new_zeros(1, 1, base.size), context) is None:
            raise ValueError(
                "`free_bits` needs a base with a density for each dimension, such as `diagonal`, "
                f"and {type(base).__name__} has none; leave it out"
            )

    def refund(
        self, posterior: Chain, first: Stage, context: Tensor, annealed: Annealing, weight: Weight
    ) -> Tensor:
        """What to add to a loss (B,): λ - KL_g for each group whose mean KL_g is below λ.

        KL_g is that of the draws themselves, ``annealed`` as it is in the loss; so of groups
        below the floor no gradient is left, and those above it keep theirs.

        Args:
            posterior: the chain, whose first stage is ``first``.
            first: the base's draws.
            context: (B, P); of a base whose score is left out, a constant.
            annealed: what the loss makes of log-terms, given its warm-up's ``weight``.
            weight: of the warm-up.
        """
        z = first.state.z
        log_q = posterior.base.log_prob_each(z, context[..., : posterior.base.context_size])
        assert log_q is not None
        log_prior = -0.5 * (z.square() + LOG_2PI)  # (S, B, D)
        terms = LogTerms(torch.zeros_like(log_prior), log_prior, log_q)
        kl = self._grouped((log_q - log_prior).detach()).mean((0, 1))  # (G,)
        counted = self._grouped(annealed(terms, weight).log_w).mean(0)  # (B, G), -KL_g
        return ((counted + self.nats) * (kl < self.nats)).sum(-1)

    def _grouped(self, values: Tensor) -> Tensor:
        return torch.stack([of.sum(-1) for of in values.split(self.group_size, -1)], -1)


def free_bits_of(nats: float | None, group_size: int | None) -> FreeBits | None:
    """Free bits as a loss's options give them. Raises ValueError for a group of no nats."""
    if nats is None and group_size is not None:
        raise ValueError("`free_bits_group` groups what `free_bits` frees; set both")
    return None if nats is None else FreeBits(nats, group_size or 1)
