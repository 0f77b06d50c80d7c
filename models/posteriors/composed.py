"""Posteriors composed in YAML: any base, any transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from models.posteriors.chain import Chain
from models.posteriors.protocol import Density, Transition, bases, posteriors, transitions
from models.posteriors.schedules import Schedule, beta_schedules
from utils.seeding import isolated
from utils.types import NonNegativeInt


@posteriors.register("chain")
def chain(
    *,
    base: Annotated[Density, bases],
    transitions: Sequence[Annotated[Transition, transitions]] = (),
    shared_size: NonNegativeInt = 0,
    schedule: Annotated[Callable[..., Schedule], beta_schedules] | None = None,
) -> Chain:
    """Any base followed by any transitions, composed in YAML (`--list transitions`).

    Args:
        base: where z starts.
        transitions: what moves it, in order.
        shared_size: size of h, a linear map of the encoder's features, for the transitions whose
            own ``shared_size`` is not 0; those must equal it.
        schedule: how the targets of the transitions that look at one go from the base to
            p(x, z) (`--list beta_schedules`); null: all of them see p(x, z).

    Raises ValueError, with the place in the list, when the transitions do not fit together.
    """
    num_targets = sum(transition.uses_target for transition in transitions)
    if schedule is not None and num_targets == 0:
        raise ValueError(
            "`schedule` is for transitions that look at a target (such as `leapfrog`), and there "
            "is none; leave it out"
        )
    betas = None if schedule is None else schedule(num_targets=num_targets)
    composed = Chain(base, transitions, shared_size, betas)
    _try_out(composed)
    return composed


def _try_out(posterior: Chain) -> None:
    """Run a chain once, on a standard normal target: what does not fit together says so."""
    context = posterior.initial_context()[None]
    index = 0
    with isolated(seed=0):
        stages = posterior.stages(context, lambda z: -0.5 * z.square().sum(-1))
        stage = next(stages)
        try:
            for index, stage in enumerate(stages, start=1):  # noqa: B007
                pass
        except ValueError as error:
            name = type(posterior.transitions[index]).__name__
            raise ValueError(f"`transitions[{index}]` ({name}): {error}") from error
    if stage.state.v is not None:
        raise ValueError("`transitions` must end without a partner v: put a `drop` after the last")
