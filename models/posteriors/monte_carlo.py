"""Monte-Carlo VAEs: chains of Langevin and Metropolis moves from the base to p(x, z), trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Widths
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.langevin import Langevin
from models.posteriors.metropolis import MetropolisHamiltonian, MetropolisLangevin, Rule
from models.posteriors.protocol import Density, Transition, bases, posteriors
from models.posteriors.schedules import Linear, Schedule, beta_schedules
from models.posteriors.step_sizes import BySpread, StepSizes, step_sizes
from utils.types import Depth, Fraction, NonNegativeInt, NumSteps

Schedules = Callable[..., Schedule]


def _annealed(
    base: Density | None,
    make: Callable[[], Transition],
    schedule: Schedules | None,
    num_steps: int,
    latent_dim: int,
    shared_size: int,
    score_hidden: Widths | None,
) -> Chain:
    """A base, K moves, their targets, and a learned score of these."""
    score_net = None
    if score_hidden is not None:
        score_net = ConditionedMLP(latent_dim, shared_size, latent_dim, score_hidden, "gelu")
    return Chain(
        DiagonalGaussian(latent_dim) if base is None else base,
        [make() for _ in range(num_steps)],
        shared_size,
        schedule=(Linear if schedule is None else schedule)(num_targets=num_steps),
        score_net=score_net,
    )


@posteriors.register("langevin")
def langevin(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: NumSteps = 5,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    reverse_hidden: Widths | None = None,
    score_hidden: Widths | None = None,
    shared_size: NonNegativeInt | None = None,
    skip_below: Fraction | None = None,
) -> Chain:
    """L-MCVAE: unadjusted Langevin steps from the base towards p(x, z) (Thin et al. 2021).

    arXiv 2106.15921: the k-th of K steps follows q0^(1 - b_k) p(x, z)^b_k; each is weighed against
    the same kernel read backwards, or a learned reverse. Costs K + 1 gradients of the decoder.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: the paper's, ``by_spread`` for an acceptance of 0.9 that is not applied.
        reverse_hidden: widths of the net of each learned reverse (200 in the paper); null: none.
        score_hidden: widths of a net s(z, h) that stands for d log p(x, z) / dz in the drifts
            (10 D twice in the authors' code, a net a step), at first zero. Then there are no
            gradients of the decoder on the way, K + 1 values alone, and weights are as exact. It
            learns by the bound and, with ``loss.score_matching``, by what it is meant to say.
            Null: the gradient itself.
        shared_size: size of h, a linear map of the encoder's features, which the nets see; null:
            D where there are nets.
        skip_below: refuse steps whose acceptance would be no more; heuristic. Null: none.
    """
    size = partial(BySpread, acceptance=0.9) if step_size is None else step_size
    if shared_size is None:
        shared_size = 0 if reverse_hidden is None and score_hidden is None else latent_dim
    of_reverse = 0 if reverse_hidden is None and score_hidden is not None else shared_size
    step = partial(
        Langevin,
        latent_dim,
        step_size=size,
        reverse_hidden=reverse_hidden,
        shared_size=of_reverse,
        skip_below=skip_below,
    )
    return _annealed(base, step, schedule, num_steps, latent_dim, shared_size, score_hidden)


@posteriors.register("annealed_mala")
def annealed_mala(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: NumSteps = 3,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    rule: Rule = "metropolis",
    num_leapfrog: Depth | None = None,
    score_hidden: Widths | None = None,
    shared_size: NonNegativeInt | None = None,
) -> Chain:
    """A-MCVAE: annealed importance sampling with Langevin moves, trained (Thin et al. 2021).

    arXiv 2106.15921: the k-th of K moves leaves q0^(1 - b_k) p(x, z)^b_k invariant. Its choices
    are not reparameterised: the losses add a score term, whose baseline wants two samples or
    more. Costs K + 1 gradients of the decoder a draw.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        schedule: of b; null: ``linear``.
        step_size: null: the paper's, ``by_spread`` for an acceptance of 0.8.
        rule: ``metropolis`` or ``barker``.
        num_leapfrog: null: Langevin moves; else Hamiltonian ones of so many steps, by Metropolis.
        score_hidden: as of ``langevin``: a net that proposes in the gradient's place. Moves are
            accepted by p(x, z) itself.
        shared_size: size of h, which that net sees; null: D where there is one.

    Raises ValueError for Hamiltonian moves by Barker's rule, and for an h that nothing would see.
    """
    size = BySpread if step_size is None else step_size
    if score_hidden is None and shared_size:
        raise ValueError("`shared_size` is for a learned score; give `score_hidden`, too")
    if shared_size is None:
        shared_size = 0 if score_hidden is None else latent_dim
    finish = partial(
        _annealed,
        base,
        schedule=schedule,
        num_steps=num_steps,
        latent_dim=latent_dim,
        shared_size=shared_size,
        score_hidden=score_hidden,
    )
    if num_leapfrog is None:
        move = partial(MetropolisLangevin, latent_dim, step_size=size, rule=rule)
        return finish(move)
    if rule != "metropolis":
        raise ValueError(f"`rule: {rule}` is for Langevin moves; leave `num_leapfrog` out")
    trajectory = partial(
        MetropolisHamiltonian, latent_dim, num_leapfrog=num_leapfrog, step_size=size
    )
    return finish(trajectory)
