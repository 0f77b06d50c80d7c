"""The transport loss: flows learn to take particles from one annealed target to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.losses.protocol import (
    Bound,
    LogTerms,
    Loss,
    Samples,
    Weight,
    by_position,
    losses,
    stat_metrics,
    trial_context,
)
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.posteriors.protocol import Segment
from utils.seeding import isolated
from utils.types import PositiveInt


@losses.register("transport")
class Transport(Loss):
    """Each flow learns where the particles are (CRAFT, Matthews et al. 2022, arXiv 2201.13117).

    Of the flows that lie between moves at f_{k-1} and at f_k, Σ_s W_s (log q'_s - log f_k(z'_s)):
    W_s ∝ f_{k-1}(z_s) / q_s are normalised weights of the S draws before them, z' and log q' what
    the flows make of these. It is the KL divergence of the image of f_{k-1} to f_k, but for a
    constant. Draws, weights, moves and targets are constants, so no gradient goes through choices
    or through what lies before, and dependent draws will do (`particles`, as in the paper).

    With ``steps_each`` one flow after the other learns, from the draws that those before have
    learned to make, as in its forerunner AFT (Arbel et al. 2021, arXiv 2102.07501). That has three
    sets of particles, to learn from, to stop by and to measure with; here each step draws its own,
    so that no flow can overfit, and measuring draws others.

    It trains flows alone: base, schedule and model stay as they are, or are learned by another
    run (`initialise`). Where flows take h or numbers of the datum, the encoder learns through
    them, and with its features the base moves, unless it is among ``training.fixed``. ``value``
    is the log of the mean weight, a lower bound on log p(x).

    Args:
        num_samples: S, at least 2.
        steps_each: of the flows between two moves, one after the other; the last ones learn to
            the end. Null: all learn in each step.
    """

    trains_model = False

    def __init__(
        self, *, num_samples: Samples = 16, steps_each: PositiveInt | None = None
    ) -> None:
        self.num_samples, self.steps_each = num_samples, steps_each
        self._taken = 0
        # Here and not where they are defined: this loads the compiler, which cannot trace them.
        self._by_position = torch.compiler.disable(by_position)
        self._segments = torch.compiler.disable(_segments)
        self._learners = torch.compiler.disable(self._learning)

    def check(self, posterior: Chain) -> None:
        """Try ``posterior`` out on a target of its own.

        Raises ValueError where it has no flows, or where a partner is with z at a target.
        """
        with isolated(seed=0):
            context = trial_context(posterior).requires_grad_()
            segments = _segments(posterior, context, lambda z: -0.5 * z.square().sum(-1), 2)
        if any(segment.stage.state.v is not None for segment in segments):
            raise ValueError("transport takes z to z; here another variable (`lift`) is with it")
        if not any(_learns(segment) for segment in segments):
            raise ValueError("transport trains flows, and this posterior has none; take elbo")

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        segments = self._segments(posterior, context, model.log_joint(x), self.num_samples)
        loss = sum(self._cost(segment) for segment in self._learners(segments))
        last = segments[-1].stage.detach()
        stats = [told for segment in segments for told in segment.stats]
        with torch.no_grad():
            terms = LogTerms.of(model, x, last)
            value = terms.log_w.logsumexp(0) - math.log(self.num_samples)
        metrics = {**terms.metrics(), **stat_metrics(stats)}
        return Bound(loss if isinstance(loss, Tensor) else -value, value, metrics, stats)

    def _learning(self, segments: Sequence[Segment]) -> list[Segment]:
        """Those that learn in this step, which is counted."""
        able = [segment for segment in segments if _learns(segment)]
        if self.steps_each is None or not able:
            return able
        turn = min(self._taken // self.steps_each, len(able) - 1)
        self._taken += 1
        return [able[turn]]

    def state(self) -> dict[str, Any]:
        """See ``Loss``."""
        return {"taken": self._taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``Loss``."""
        self._taken = state.get("taken", 0)

    def _cost(self, segment: Segment) -> Tensor:
        stage = segment.stage
        log_f = self._by_position(segment.target, stage.state.z)
        return (segment.shares * (stage.log_q - log_f)).sum(0)


def _segments(
    posterior: Chain, context: Tensor, log_joint: LogDensity, num_samples: int
) -> list[Segment]:
    return list(posterior.segments(context, log_joint, num_samples))


def _learns(segment: Segment) -> bool:
    return segment.stage.state.z.requires_grad
