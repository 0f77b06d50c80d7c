"""Posteriors composed in YAML: any base, any transitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.protocol import Base, Transition, bases, posteriors, transitions
from utils.seeding import isolated
from utils.types import NonNegativeInt

LOG_2PI = math.log(2 * math.pi)


@bases.register("standard")
class StandardNormal(Base):
    """N(0, I), the same for each datum; no context."""

    context_size = 0

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def sample(self, context: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
        """S independent draws a datum."""
        z = torch.randn(
            num_samples,
            context.shape[0],
            self.latent_dim,
            dtype=context.dtype,
            device=context.device,
        )  # (S, B, D)
        return z, self.log_prob(z, context)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """Log-density with all its constants."""
        return -0.5 * (z.square().sum(-1) + self.latent_dim * LOG_2PI)


@posteriors.register("chain")
def chain(
    *,
    base: Annotated[Base, bases],
    transitions: Sequence[Annotated[Transition, transitions]] = (),
    shared_size: NonNegativeInt = 0,
) -> Chain:
    """Any base followed by any transitions, composed in YAML (`--list transitions`).

    Args:
        base: where z starts.
        transitions: what moves it, in order.
        shared_size: size of h, a linear map of the encoder's features, for the transitions whose
            own ``shared_size`` is not 0; those must equal it.

    Raises ValueError, with the place in the list, when the transitions do not fit together.
    """
    composed = Chain(base, transitions, shared_size)
    _try_out(composed)
    return composed


def _try_out(posterior: Chain) -> None:
    """Run a chain once, on a standard normal target: what does not fit together says so."""
    context = posterior.initial_context()[None]
    place = 0
    with isolated(seed=0):
        stages = posterior.stages(context, lambda z: -0.5 * z.square().sum(-1))
        stage = next(stages)
        try:
            for place, stage in enumerate(stages, start=1):  # noqa: B007
                pass
        except ValueError as error:
            name = type(posterior.transitions[place]).__name__
            raise ValueError(f"`transitions[{place}]` ({name}): {error}") from error
    if stage.state.v is not None:
        raise ValueError("`transitions` must end without a partner v: put a `drop` after the last")
