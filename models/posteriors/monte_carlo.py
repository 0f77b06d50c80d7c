"""Monte-Carlo VAEs: chains of Langevin and Metropolis moves from the base to p(x, z), trained.

With flows between the moves they are stochastic normalizing flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from models.networks.conditioned import ConditionedMLP
from models.networks.layers import Activation, Widths
from models.posteriors.chain import Chain
from models.posteriors.coupling import coupling
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.langevin import Langevin
from models.posteriors.metropolis import MetropolisHamiltonian, MetropolisLangevin, Rule
from models.posteriors.protocol import Density, Transition, bases, posteriors
from models.posteriors.schedules import Linear, Schedule, beta_schedules
from models.posteriors.step_sizes import BySpread, StepSizes, step_sizes
from utils.types import Depth, Fraction, NonNegativeInt, NumSteps

Schedules = Callable[..., Schedule]


def annealed(
    latent_dim: int,
    base: Density | None,
    layers: Sequence[Transition],
    schedule: Schedules | None,
    shared_size: int = 0,
    score_hidden: Widths | None = None,
) -> Chain:
    """A base (null: a diagonal Gaussian), moves, a schedule (null: linear) of their targets.

    With ``score_hidden``, a learned score of these.
    """
    num_targets = sum(layer.uses_target for layer in layers)
    score_net = None
    if score_hidden is not None:
        score_net = ConditionedMLP(latent_dim, shared_size, latent_dim, score_hidden, "gelu")
    return Chain(
        DiagonalGaussian(latent_dim) if base is None else base,
        layers,
        shared_size,
        schedule=(Linear if schedule is None else schedule)(num_targets=num_targets),
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
    steps = [
        Langevin(
            latent_dim,
            step_size=size,
            reverse_hidden=reverse_hidden,
            shared_size=of_reverse,
            skip_below=skip_below,
        )
        for _ in range(num_steps)
    ]
    return annealed(latent_dim, base, steps, schedule, shared_size, score_hidden)


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
    more. Costs K + 1 gradients of the decoder a draw, K L + 1 with L leapfrog steps.

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
    if score_hidden is None and shared_size:
        raise ValueError("`shared_size` is for a learned score; give `score_hidden`, too")
    if shared_size is None:
        shared_size = 0 if score_hidden is None else latent_dim
    moves = [_metropolis(latent_dim, step_size, num_leapfrog, rule) for _ in range(num_steps)]
    return annealed(latent_dim, base, moves, schedule, shared_size, score_hidden)


@posteriors.register("stochastic_flow")
def stochastic_flow(
    latent_dim: int,
    *,
    base: Annotated[Density, bases] | None = None,
    num_steps: NumSteps = 3,
    num_layers: Depth = 2,
    hidden: Widths = (50,),
    activation: Activation = "tanh",
    shared_size: NonNegativeInt = 0,
    schedule: Annotated[Schedules, beta_schedules] | None = None,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
    num_leapfrog: Depth | None = None,
) -> Chain:
    """Couplings between Metropolis moves: a stochastic normalizing flow (Wu et al. 2020).

    arXiv 2002.06707: couplings take q0 to the first of K annealed targets, a move leaves that
    invariant, further couplings take it to the next, and the last ones to p(x, z). Costs 2 K
    gradients of the decoder a draw, for a move begins where couplings lead and not where the last
    one ended, and a value; a step of the loss ``transport`` K + 1 further gradients. With L
    leapfrog steps a move costs L + 1 gradients and not two.

    Args:
        base: of z_0; null: a diagonal Gaussian.
        num_steps: K.
        num_layers: couplings before, between and after the moves; they move the halves in turn.
        hidden: widths of each coupling's net.
        activation: nonlinearity of the nets.
        shared_size: numbers of the encoder's features, h, that the nets see besides z; 0: none.
        schedule: of b; null: ``linear``.
        step_size: null: ``by_spread`` for an acceptance of 0.8.
        num_leapfrog: null: Langevin moves; else Hamiltonian ones of so many steps.
    """

    def flow() -> list[Transition]:
        return [
            coupling(
                latent_dim,
                hidden=hidden,
                activation=activation,
                shared_size=shared_size,
                flip=layer % 2 == 1,
            )
            for layer in range(num_layers)
        ]

    layers = flow()
    for _ in range(num_steps):
        layers += [_metropolis(latent_dim, step_size, num_leapfrog), *flow()]
    return annealed(latent_dim, base, layers, schedule, shared_size)


def _metropolis(
    latent_dim: int,
    step_size: StepSizes | None,
    num_leapfrog: int | None,
    rule: Rule = "metropolis",
) -> Transition:
    size = BySpread if step_size is None else step_size
    if num_leapfrog is None:
        return MetropolisLangevin(latent_dim, step_size=size, rule=rule)
    if rule != "metropolis":
        raise ValueError(f"`rule: {rule}` is for Langevin moves; leave `num_leapfrog` out")
    return MetropolisHamiltonian(latent_dim, num_leapfrog=num_leapfrog, step_size=size)
