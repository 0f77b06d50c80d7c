"""Posteriors composed in YAML: any base, any transitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from torch import nn

from models.posteriors.chain import Chain
from models.posteriors.protocol import Density, Transition, bases, posteriors, transitions
from models.posteriors.schedules import Schedule, beta_schedules
from utils.registry import Entry, Registry
from utils.seeding import isolated
from utils.types import Fraction, NonNegativeInt


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


class _Others(Registry[nn.Module]):
    """All but that which is made of another: a schema that held itself would have no end."""

    def __iter__(self) -> Iterator[Entry[nn.Module]]:
        return (entry for entry in posteriors if entry.name != "particles")

    def __getitem__(self, name: str) -> Entry[nn.Module]:
        return posteriors[name]


others = _Others("posteriors", "models.posteriors")


@posteriors.register("particles")
def particles(*, of: Annotated[Chain, others], below: Fraction = 0.5) -> Chain:
    """Sequential Monte Carlo by the moves of another posterior (Del Moral et al. 2006).

    After each move that looks at a target f the S draws of a datum are resampled, systematically,
    in proportion to f(z) exp(-log_q), where their effective share is low. The S draws are one
    then: their mean weight is p(x) in the mean, and no standard error can be had of them. So
    losses and importance sampling refuse it; the estimator `particles` takes several sets. Weights
    are those of ``of``, which `initialise` gives; nothing is trained here.

    Args:
        of: the posterior whose moves are taken.
        below: effective share of S draws; 1: always, 0: never.

    Raises ValueError where no move looks at a target.
    """
    if not any(transition.uses_target for transition in of.transitions):
        raise ValueError("`of` has no move that looks at a target, after which to resample")
    of.resample_below = below
    return of


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
