"""Score matching: what a chain's learned score is meant to say (Thin et al. 2021, 2106.15921).

Adds to a loss the mean of ‖s(z, h) - d log p(x, z) / dz‖² over the places z that the chain's own
draws have come to. The right score is known up to rounding, so that the explicit form will do
(Hyvärinen 2005, eq. 2); no trace of a Jacobian is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.paths import untraced
from models.posteriors.protocol import Stage


class ScoreMatching(NamedTuple):
    """The term and its weight: places and the right scores are constants in it.

    So it trains the net, and through h the amortiser and the encoder; neither the base's numbers
    nor the model, which would learn to have a score that is easily told.
    """

    weight: float

    def check(self, posterior: Chain) -> None:
        """Raise ValueError where the posterior has no score to learn."""
        if posterior.score_net is None:
            raise ValueError(
                "`score_matching` trains the learned score of a posterior, and this one has none; "
                "give it `score_hidden`, or leave the option out"
            )

    def error(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        stages: Sequence[Stage],
    ) -> Tensor:
        """‖s - score‖² (B,), in nats², mean over draws and ``stages``.

        Costs one gradient of log p(x, z), of first order, at all places together. A compiler
        cannot trace it.
        """
        z = torch.cat([stage.state.z for stage in stages]).detach()  # (stages S, B, D)
        _, score = untraced(model.log_joint(x), z)
        return (posterior.learned_score(z, context) - score).square().sum(-1).mean(0)
