"""Bounds that take every posterior: the ELBO and IWAE, with several gradient estimators."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.losses.protocol import Bound, LogTerms, Loss, Warmup, Weight, losses, warmups
from models.posteriors.chain import Chain
from utils.types import PositiveInt


def _draw(
    model: GenerativeModel,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    num_samples: int,
    stop_score: bool,
) -> tuple[LogTerms, Tensor]:
    """Terms of S draws, and the base's draw z0 (S, B, D), the way to its context's gradient."""
    stages = list(
        posterior.stages(context, model.log_joint(x), num_samples, stop_score=stop_score)
    )
    z, log_q = stages[-1].state.z, stages[-1].log_q
    return LogTerms(model.log_likelihood(x, z), model.log_prior(z), log_q), stages[0].state.z


@losses.register("elbo")
class ELBO(Loss):
    """Evidence lower bound E_q[log p(x, z) - log q(z|x)], mean of S samples.

    Args:
        num_samples: S.
        gradient: ``plain``, or ``stl`` ("sticking the landing", Roeder et al. 2017,
            arXiv 1703.09194): without the base's score, whose mean is zero; its variance vanishes
            where a Gaussian q meets the posterior.
        warmup: what to anneal, and how.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 1,
        gradient: Literal["plain", "stl"] = "plain",
        warmup: Annotated[Warmup, warmups] | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient == "stl"
        self.warmup = warmup

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        terms, _ = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        loss = -self.annealed(terms, weight).mean(0)
        with torch.no_grad():
            return Bound(loss, terms.log_w.mean(0), terms.metrics())


@losses.register("iwae")
class IWAE(Loss):
    """Importance-weighted bound log (1/S) Σ_s w_s of S samples (Burda et al. 2016, 1509.00519).

    Args:
        num_samples: S.
        gradient: ``plain`` backpropagation; ``stl`` drops the base's score (biased for S > 1);
            ``dreg`` (doubly reparameterised, Tucker et al. 2018, arXiv 1810.04152, eq. 8) is
            unbiased and its signal-to-noise ratio grows with S. Both concern the base's context;
            decoder and transitions keep the ordinary gradient.
        warmup: what to anneal, and how.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 50,
        gradient: Literal["plain", "stl", "dreg"] = "plain",
        warmup: Annotated[Warmup, warmups] | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.stop_score = gradient != "plain"
        self.square_weights = gradient == "dreg"
        self.warmup = warmup

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        terms, z0 = _draw(model, posterior, x, context, self.num_samples, self.stop_score)
        annealed = self.annealed(terms, weight)  # (S, B)
        # d/dφ log Σ w = Σ w̃ dlog w/dφ, so this loss has IWAE's gradient; `value` has its value.
        normalised = annealed.detach().softmax(0)
        if self.square_weights and z0.requires_grad:
            z0.register_hook(lambda gradient: gradient * normalised[..., None])
        # A draw of weight 0 among others adds nothing, where 0 times -inf would be NaN.
        loss = -(normalised * annealed).masked_fill(normalised == 0, 0.0).sum(0)
        with torch.no_grad():
            value = torch.logsumexp(terms.log_w, 0) - math.log(self.num_samples)
            return Bound(loss, value, terms.metrics())
