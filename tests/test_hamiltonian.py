"""Hamiltonian posteriors: the integrator, tempering, limits, weights, gradients, local optima."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.local import LocalOptimum, fast, local_optimise
from models.losses import AVO, ELBO, IWAE
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, FullGaussian
from models.posteriors.hamiltonian import (
    Hamiltonian,
    Leapfrog,
    Tempering,
    hamiltonian,
    hamiltonian_vi,
)
from models.posteriors.kernels import hvi
from models.posteriors.paths import Remembered, Target
from models.posteriors.protocol import State
from models.posteriors.step_sizes import ByAcceptance, BySpread, Fixed, LearnedSize
from tests.components import CONTEXT, X, normal, perturbed, reseed

TEMPERINGS: dict[str, dict[str, Any]] = {
    "none": {"tempering": "none"},
    "fixed in scale": {"tempering": "fixed_scale", "first_temperature": 2.0},
    "fixed in temperature": {
        "tempering": "fixed_temperature",
        "first_temperature": 2.0,
    },
    "free": {"tempering": "free"},
    "free, a size a step": {"tempering": "free", "step_size_per": "step"},
}
every_tempering = pytest.mark.parametrize("options", TEMPERINGS.values(), ids=list(TEMPERINGS))


def quartic() -> Target:
    """A correlated density with tails lighter than a Gaussian's."""
    return Remembered(lambda z: -0.5 * z.square().sum(-1) - 0.1 * (z.sum(-1) - 0.3).pow(4))


def contexts(posterior: Chain, base: Tensor = CONTEXT) -> Tensor:
    """The base's numbers given, the others off their start."""
    start = posterior.initial_context().double().repeat(len(base), 1)
    start = start + 0.2 * normal(*start.shape)
    start[:, : base.shape[1]] = base
    return start


def test_leapfrog_reversed_returns_to_the_start():
    transition = Leapfrog(3, num_steps=7, step_size=partial(LearnedSize, first=0.2))
    context = transition.initial_context().double().repeat(2, 1)
    z, v = normal(4, 2, 3), normal(4, 2, 3)
    there = transition(State(z, v), context, quartic()).state
    assert (there.z - z).abs().max() > 0.1
    back = transition(State(there.z, -there.v), context, quartic()).state
    torch.testing.assert_close(back.z, z, atol=1e-10, rtol=0)
    torch.testing.assert_close(back.v, -v, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["fixed_scale", "fixed_temperature"])
def test_fixed_tempering_by_both_conventions(name):
    """alpha_k = T_k / T_{k-1} for T = 1/sqrt(b), its square root for T = 1/b; T_k quadratic."""
    num_steps, first = 4, 3.0
    top, power = (math.sqrt(first), 1.0) if name == "fixed_scale" else (first, 0.5)
    t = top + (1 - top) * torch.arange(num_steps + 1).double().square() / num_steps**2
    tempering = Tempering(name, num_steps, first).double()
    log_alphas = tempering(tempering.initial_context().double()[None])
    # The initial context is a float32 number.
    torch.testing.assert_close(
        log_alphas.exp()[:, 0], (t[1:] / t[:-1]) ** power, rtol=0, atol=1e-6
    )
    assert log_alphas.sum().item() == pytest.approx(-0.5 * math.log(first), abs=1e-6)


def test_free_tempering_starts_at_the_published_alphas():
    tempering = Tempering("free", 4, 1.5)
    alphas = tempering(tempering.initial_context()[None]).exp()
    torch.testing.assert_close(alphas, torch.full((4, 1), 0.9))


def test_learned_step_sizes_stay_within_their_bounds():
    size = LearnedSize(3, first=0.1, largest=0.5)
    torch.testing.assert_close(size(size.initial_context()[None]), torch.full((1, 3), 0.1))
    sizes = size(30 * torch.randn(50, 3))
    assert (sizes >= 0).all()
    assert (sizes <= 0.5).all()


def test_without_steps_it_is_its_base(linear_gaussian: LinearGaussian):
    posterior = hamiltonian(2, num_steps=0, tempering="none")
    values = []
    for chain in (posterior, Chain(posterior.base)):
        reseed(2)
        values.append(ELBO(num_samples=5)(linear_gaussian, chain, X, CONTEXT).value)
    assert torch.equal(*values)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_with_steps_of_length_zero_it_is_its_base(linear_gaussian, num_steps):
    size = partial(Fixed, first=0.0)
    posterior = hamiltonian(2, num_steps=num_steps, tempering="none", step_size=size)
    draws = []
    for chain in (posterior, Chain(posterior.base)):
        reseed(2)
        draws.append(chain(CONTEXT, linear_gaussian.log_joint(X), 5))
    assert torch.equal(draws[0].state.z, draws[1].state.z)
    assert torch.equal(draws[0].log_q, draws[1].log_q)


@every_tempering
def test_the_momentum_is_a_lift_and_a_drop(options, linear_gaussian: LinearGaussian):
    """log q + log N(v_0; 0, T_0) - log N(v_K; 0, I) around the leapfrog transition."""
    alone, within = Leapfrog(2, num_steps=3, **options), Hamiltonian(2, num_steps=3, **options)
    context = contexts(Chain(DiagonalGaussian(2), [alone]))[:, 4:]
    z = normal(4, 3, 2)
    reseed(0)
    move = within(State(z), context, Remembered(linear_gaussian.log_joint(X)))
    reseed(0)
    scale = (-alone.log_alphas(context).sum(0)).exp()[:, None]
    lift = torch.distributions.Normal(torch.zeros(3, 2).double(), scale.expand(3, 2))
    v = torch.randn_like(z) * scale
    kept = alone(State(z, v), context, Remembered(linear_gaussian.log_joint(X)))
    drop = torch.distributions.Normal(0.0, 1.0)
    expected = lift.log_prob(v).sum(-1) + kept.log_ratio - drop.log_prob(kept.state.v).sum(-1)
    torch.testing.assert_close(move.state.z, kept.state.z)
    torch.testing.assert_close(move.log_ratio, expected)


@every_tempering
@pytest.mark.parametrize("base", [DiagonalGaussian, FullGaussian])
def test_draws_are_properly_weighted(options, base, linear_gaussian: LinearGaussian):
    """E[f(z) / q] = 1 for a density f narrower than the draws: light weights, 4.5 errors."""
    posterior = hamiltonian(
        2, base=base(2), num_steps=3, step_size=partial(LearnedSize, first=0.2), **options
    )
    context, samples = contexts(posterior), 40_000
    with torch.no_grad():
        log_joint = linear_gaussian.log_joint(X)
        pilot = posterior(context, log_joint, 4_000).state.z
        f = torch.distributions.Normal(pilot.mean(0), 0.5 * pilot.std(0))
        draw = posterior(context, log_joint, samples)
        weights = (f.log_prob(draw.state.z).sum(-1) - draw.log_q).exp()
        error = weights.std(0) / math.sqrt(samples)
        assert (error < 0.1).all()  # a log_ratio that is wrong by a nat shows
        assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


@pytest.mark.parametrize(
    "posterior",
    [
        hamiltonian(2, num_steps=2, tempering="free", step_size_per="step"),
        hamiltonian(2, num_steps=2, tempering="fixed_scale"),
        perturbed(hamiltonian_vi(2, num_iterations=2, num_steps=2, hidden=(4,)), scale=0.2),
    ],
    ids=["free", "fixed", "learned reverse"],
)
def test_gradients_through_the_dynamics(posterior: Chain, linear_gaussian: LinearGaussian):
    """Of base, step sizes, temperatures, nets and decoder, against central differences."""
    posterior.double()
    context = contexts(posterior).requires_grad_()
    named = {"context": context, **dict(posterior.named_parameters())}
    named |= dict(linear_gaussian.named_parameters())
    loss = ELBO(num_samples=3)

    def value() -> Tensor:
        reseed(4)
        return loss(linear_gaussian, posterior, X, context).loss.sum()

    gradients = torch.autograd.grad(value(), list(named.values()))
    for (name, tensor), gradient in zip(named.items(), gradients, strict=True):
        direction = torch.randn_like(tensor)
        ends = []
        for sign in (1, -2):  # up, and then down
            tensor.data.add_(direction, alpha=sign * 1e-5)
            ends.append(value().detach())
        tensor.data.add_(direction, alpha=1e-5)
        expected = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(
            (gradient * direction).sum(), expected, atol=1e-6, rtol=1e-6, msg=name
        )


@pytest.mark.parametrize("posterior", [Chain(DiagonalGaussian(2)), hamiltonian(2, num_steps=3)])
def test_analytic_entropies_keep_the_mean_and_the_gradients(
    posterior: Chain, linear_gaussian: LinearGaussian
):
    """And lower the variance where q is narrow: there log p hardly differs between draws."""
    num_data = 20_000
    x = X[:1].expand(num_data, -1, -1, -1)
    narrow = torch.tensor([[0.1, 0.3, -6.0, -6.0]]).double()
    context = contexts(posterior, narrow)
    context[:, 4:] = posterior.initial_context()[4:]
    if posterior.transitions:
        context[:, 4:6] = -8.0  # steps so short that the momentum hardly changes
    context = context.repeat(num_data, 1).requires_grad_()
    results = []
    for entropy in (None, "analytic"):
        reseed(1)
        loss = ELBO(entropy=entropy)  # type: ignore[arg-type]
        bound = loss(linear_gaussian, posterior, x, context)
        (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
        results.append((bound.value, gradient))
    (sampled, one), (analytic, other) = results
    torch.testing.assert_close(one, other)
    difference = sampled - analytic
    error = difference.std() / math.sqrt(num_data)
    assert difference.mean().abs() < 4.5 * error
    if not posterior.transitions:
        assert analytic.var() < 0.1 * sampled.var()


def test_analytic_entropy_needs_one_that_is_known():
    class Unknown(DiagonalGaussian):
        def sample(self, given: Tensor, context: Tensor):
            return super().sample(given, context)._replace(excess=None)

    loss = ELBO(entropy="analytic")
    loss.check(hvi(2))
    with pytest.raises(ValueError, match=r"`entropy: analytic` needs.*Unknown"):
        loss.check(Chain(Unknown(2)))


def test_local_optimisation_frees_steps_and_temperatures_of_each_datum(
    linear_gaussian: LinearGaussian, common_noise
):
    """All data at once are the data one at a time."""
    posterior = hamiltonian(2, num_steps=2, tempering="free").double()
    settings = fast(num_samples=10, max_steps=30)

    def search(rows: slice) -> LocalOptimum:
        common_noise()
        context = posterior.initial_context().double().repeat(3, 1)[rows]
        return local_optimise(
            settings.loss, linear_gaussian, posterior, X[rows], context, settings
        )

    together = search(slice(None))
    alone = torch.cat([search(slice(b, b + 1)).context for b in range(3)])
    torch.testing.assert_close(together.context, alone, atol=1e-6, rtol=1e-6)
    moved = (together.context - posterior.initial_context())[:, 4:]
    assert (moved.abs() > 1e-3).all()
    assert not torch.allclose(moved[0], moved[1])


def test_it_takes_every_loss(linear_gaussian: LinearGaussian):
    posterior = hamiltonian(2, num_steps=2)
    context = contexts(posterior).requires_grad_()
    for loss in (IWAE(num_samples=3, gradient="dreg"), AVO(avo_probability=1.0, base_weight=1.0)):
        loss.check(posterior)
        bound = loss(linear_gaussian, posterior, X, context)
        (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0, "tempering": "free"}, "`tempering: free` needs steps"),
        (
            {"step_size": partial(LearnedSize, first=0.5)},
            "`first` must be between 1e-06 and `largest`, 0.5; got 0.5",
        ),
        ({"tempering": "fixed_scale", "first_temperature": 1.0}, "must be above 1; got 1"),
        ({"step_size": ByAcceptance}, "leapfrog steps are neither accepted nor refused"),
        ({"step_size": BySpread}, "leapfrog steps are neither accepted nor refused"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hamiltonian(2, **options)


def test_a_momentum_of_another_size_is_refused():
    z, v = torch.zeros(1, 1, 2), torch.zeros(1, 1, 3)
    transition = Leapfrog(2)
    with pytest.raises(ValueError, match="needs a partner v of size 2; got one of size 3"):
        transition(State(z, v), transition.initial_context()[None], quartic())
