"""Where searches begin, and which of several has found the best bound.

A search goes uphill from where it begins. Where the bound has several optima, several starts find
several of them, all at once as rows of one batch: row s B + b is datum b from start s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models import dynamics
from models.generative import GenerativeModel
from models.local.search import LocalOptimum
from models.local.settings import LocalSettings
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity, Remembered
from models.posteriors.per_datum import per_datum
from models.posteriors.protocol import Moments

PRIOR_DRAWS = 256  # for the prior's scale
NARROW = 0.2  # of the prior's scale: a search that begins narrow stays in its mode
SMALLEST_SCALE = 1e-4
MATCHED_DRAWS = 100
MOVES, LEAPFROGS = 60, 5  # of a short run of Hamiltonian Monte Carlo; its first half finds its way
ACCEPTANCE = 0.65  # what its step sizes aim at (Neal 2011, arXiv 1206.1901)


class Beginning(NamedTuple):
    """The posterior whose weights a search starts with, and its contexts (n B, P)."""

    posterior: Chain
    contexts: Tensor


class Chosen(NamedTuple):
    """The best of several starts for each datum.

    ``start`` (B,) is its number, 0 where no other is better by more than two standard errors of
    the difference; ``gain_over_first`` (B,) is by how many nats it is better.
    """

    optimum: LocalOptimum
    start: Tensor
    gain_over_first: Tensor


@torch.no_grad()
def beginning(
    settings: LocalSettings,
    model: GenerativeModel,
    x: Tensor,
    own: Chain,
    context: Tensor,
    family: Chain,
    is_own: bool,
) -> Beginning:
    """Where the search for a family's optimum begins, by ``settings.start`` and its ``starts``.

    Args:
        settings: how to search.
        model: p(x, z).
        x: (B, C, H, W).
        own: the posterior that the encoder was trained with.
        context: what the encoder gives for x, (B, P).
        family: with weights as they are drawn.
        is_own: whether ``family`` is a posterior like ``own``, so that it fits the encoder.

    Draws from the global generator.
    """
    posterior, given = family, [family.initial_context().to(x).repeat(len(x), 1)]
    if is_own:
        given.append(context)
    elif settings.start == "encoder" and not family.transitions:
        given.append(matched_context(model, family, x, own, context))
    if settings.start == "encoder":
        posterior = own if is_own else family
        given.reverse()
    return Beginning(posterior, starting_contexts(model, posterior, x, given, settings.starts))


@torch.no_grad()
def starting_contexts(
    model: GenerativeModel, posterior: Chain, x: Tensor, given: Sequence[Tensor], num_starts: int
) -> Tensor:
    """Contexts (n B, P) to begin at: first those ``given`` (B, P), then made ones.

    Made ones have the first one's context, with another base: a third of them the moments of a
    short run of Hamiltonian Monte Carlo, the others a narrow Gaussian around a draw from the
    prior, and one around its mirror image, in turn, so that two starts never lie on one side. A
    base that cannot be placed, or not in z, stays as it is. Draws from the global generator.
    """
    contexts = list(given[:num_starts])
    missing = num_starts - len(contexts)
    if missing == 0:
        return torch.cat(contexts)
    num_runs = missing // 3
    num_pairs = (missing - num_runs + 1) // 2
    scale = model.sample_prior(PRIOR_DRAWS, 1).std(0)  # (1, D)
    draws = model.sample_prior(num_pairs, len(x))
    means = torch.stack([draws, -draws], 1).flatten(0, 1)  # (2 pairs, B, D)
    moments = [(mean, NARROW * scale.expand_as(mean)) for mean in means[: missing - num_runs]]
    if num_runs > 0:
        moments += _moments(model.log_joint(x), model.sample_prior(num_runs, len(x)))
    contexts += [_placed(posterior, contexts[0], *pair) for pair in moments]
    return torch.cat(contexts)


@torch.no_grad()
def matched_context(
    model: GenerativeModel, posterior: Chain, x: Tensor, own: Chain, context: Tensor
) -> Tensor:
    """Context (B, P) of a lone Gaussian with the moments of the chain ``own`` at ``context``.

    Mean and variance of each number, of ``own``'s base where that is all, else of 100 draws from
    the global generator. Where these are not finite the initial context.
    """
    initial = posterior.initial_context().to(x).repeat(len(x), 1)
    moments = None if own.transitions else own.base.moments(context)
    if moments is None:
        z = own(context, model.log_joint(x), MATCHED_DRAWS).state.z  # (S, B, D)
        moments = Moments(z.mean(0), z.var(0))
    scale = moments.variance.sqrt().clamp_min(SMALLEST_SCALE)
    placed = _placed(posterior, initial, moments.mean, scale)
    return torch.where(placed.isfinite().all(-1, keepdim=True), placed, initial)


def _placed(posterior: Chain, context: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    base = posterior.base
    if base.size != mean.shape[-1]:
        return context  # a base over auxiliary variables
    return torch.cat([base.placed(mean, scale), context[:, base.context_size :]], -1)


def _moments(log_joint: LogDensity, z: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and scale (B, D) of the second half of a run from each of z (n, B, D)."""
    target, step_size = Remembered(log_joint), torch.full_like(z[..., :1], 0.1)
    draws = []
    for move in range(MOVES):
        proposal = dynamics.hamiltonian(target.evaluate(z), step_size, LEAPFROGS, target)
        z = target.choose(proposal.accepted, proposal.point.z, z)
        step_size = step_size * (0.5 * (proposal.probability[..., None] - ACCEPTANCE)).exp()
        if move >= MOVES // 2:
            draws.append(z)
    run = torch.stack(draws)  # (T, n, B, D)
    return list(zip(run.mean(0), run.std(0).clamp_min(SMALLEST_SCALE), strict=True))


def best_of(found: LocalOptimum, posterior: Chain, num_starts: int) -> Chosen:
    """The best row (B,) for each datum, of what a search has found from ``num_starts`` starts.

    ``posterior`` is what the search was given.
    """
    values = found.values.nan_to_num(nan=-torch.inf).view(num_starts, -1)  # (n, B)
    errors = found.errors.nan_to_num().view_as(values)
    best, winner = values.max(0)
    gain = best - values[0]
    error = errors[0].hypot(errors.gather(0, winner[None])[0])
    start = torch.where(gain > 2 * error, winner, 0)
    rows = start * values.shape[1] + torch.arange(values.shape[1], device=start.device)
    family = found.posterior
    if family is not posterior:  # each row has weights of its own
        family = per_datum(posterior, len(rows))
        weights = {name: copies[rows] for name, copies in found.posterior.named_parameters()}
        family.load_state_dict(weights, strict=False)  # buffers stay
    optimum = LocalOptimum(family, *(numbers[rows] for numbers in found[1:]))
    return Chosen(optimum, start, torch.where(start > 0, gain, 0.0))
