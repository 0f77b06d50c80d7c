"""Monte-Carlo VAEs: weights, choices, step sizes that adapt."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models import dynamics
from models.generative import LinearGaussian
from models.losses import ELBO, IWAE, linear_warmup
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, StandardNormal
from models.posteriors.langevin import Langevin
from models.posteriors.metropolis import MetropolisHamiltonian, MetropolisLangevin
from models.posteriors.monte_carlo import annealed_mala, langevin
from models.posteriors.paths import Remembered
from models.posteriors.protocol import State
from models.posteriors.schedules import Free
from models.posteriors.step_sizes import ByAcceptance, BySpread, Fixed, LearnedSize
from tests.components import CONTEXT, X, perturbed, reseed

LONG, LONGER = partial(Fixed, first=0.2), partial(Fixed, first=0.5)
POSTERIORS: dict[str, Chain] = {
    "langevin": langevin(2, num_steps=3, step_size=LONG),
    "langevin, free": langevin(2, num_steps=3, step_size=LONG, schedule=Free),
    "langevin, learned reverse": perturbed(
        langevin(2, num_steps=3, step_size=LONG, reverse_hidden=[4]), scale=0.1
    ),
    "langevin, learned score": perturbed(
        langevin(2, num_steps=3, step_size=LONG, score_hidden=[4]), scale=0.1
    ),
    "metropolis": annealed_mala(2, num_steps=3, step_size=LONG),
    "barker": annealed_mala(2, num_steps=3, step_size=LONG, rule="barker"),
    "hamiltonian": annealed_mala(
        2, num_steps=2, step_size=partial(Fixed, first=0.5), num_leapfrog=2
    ),
    "metropolis, learned score": perturbed(
        annealed_mala(2, num_steps=3, step_size=LONG, score_hidden=[4])
    ),
    "hamiltonian, learned score": perturbed(
        annealed_mala(
            2,
            num_steps=2,
            step_size=partial(Fixed, first=0.5),
            num_leapfrog=2,
            score_hidden=[4],
        )
    ),
}
every_posterior = pytest.mark.parametrize("posterior", POSTERIORS.values(), ids=list(POSTERIORS))


def contexts(posterior: Chain) -> Tensor:
    start = posterior.initial_context().double().repeat(3, 1)
    start[:, :4] = CONTEXT
    return start


@every_posterior
def test_draws_are_properly_weighted(posterior: Chain, linear_gaussian: LinearGaussian):
    """E[f(z) / q] = 1 for a density f narrower than the draws: light weights, 4.5 errors."""
    posterior.double()
    context, log_joint, samples = contexts(posterior), linear_gaussian.log_joint(X), 40_000
    with torch.no_grad():
        pilot = posterior(context, log_joint, 4_000).state.z
        f = torch.distributions.Normal(pilot.mean(0), 0.5 * pilot.std(0))
        draw = posterior(context, log_joint, samples)
        weights = (f.log_prob(draw.state.z).sum(-1) - draw.log_q).exp()
        error = weights.std(0) / math.sqrt(samples)
        assert (error < 0.1).all()  # a log_ratio that is wrong by a nat shows
        assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


@pytest.mark.parametrize("make", [langevin, annealed_mala])
def test_without_steps_it_is_its_base(make, linear_gaussian: LinearGaussian):
    values = []
    for posterior in (make(2, num_steps=0), Chain(DiagonalGaussian(2))):
        reseed(2)
        loss = ELBO(num_samples=5)
        values.append(loss(linear_gaussian, posterior, X, contexts(posterior)).value)
    assert torch.equal(*values)


def test_a_langevin_step_weighs_its_kernel_against_itself_read_backwards():
    """log m(z'|z) - log m(z|z'), m(z'|z) = N(z + η ∇log f(z), 2 η)."""

    def log_f(z: Tensor) -> Tensor:
        return -0.1 * z.pow(4).sum(-1) - z.prod(-1).square()

    step, z = Langevin(2), torch.randn(5, 3, 2).double()
    context = torch.tensor([-0.5, 0.7]).double().expand(3, 2)
    size = step.size(context)
    move = step(State(z), context, Remembered(log_f))

    def log_kernel(start: Tensor, end: Tensor) -> Tensor:
        start = start.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_f(start).sum(), start)
        kernel = torch.distributions.Normal(start + size * gradient, (2 * size).sqrt())
        return kernel.log_prob(end).sum(-1).detach()

    expected = log_kernel(z, move.state.z) - log_kernel(move.state.z, z)
    torch.testing.assert_close(move.log_ratio, expected)


def test_a_learned_reverse_starts_as_the_kernel_read_backwards(linear_gaussian):
    plain = langevin(2, num_steps=1, step_size=LONG).double()
    learned = langevin(2, num_steps=1, step_size=LONG, reverse_hidden=[8]).double()
    draws = []
    for posterior in (plain, learned):
        reseed(0)
        draws.append(posterior(contexts(posterior), linear_gaussian.log_joint(X), 5))
    torch.testing.assert_close(draws[0].log_q, draws[1].log_q)


@pytest.mark.parametrize("name", ["metropolis", "barker", "hamiltonian"])
def test_weights_are_those_of_annealed_importance_sampling(name, linear_gaussian):
    """log w = Σ_k (b_{k+1} - b_k) (log p(x, z_k) - log q0(z_k)) (Neal 2001)."""
    posterior = POSTERIORS[name].double()
    context, log_joint = contexts(posterior), linear_gaussian.log_joint(X)
    stages = list(posterior.stages(context, log_joint, 6))
    betas = torch.linspace(0, 1, len(stages) + 1).tolist()
    log_base = posterior.log_base(context)
    expected = sum(
        (after - before) * (log_joint(stage.state.z) - log_base(stage.state.z))
        for (before, after), stage in zip(pairwise(betas), stages, strict=True)
    )
    torch.testing.assert_close(stages[-1].log_w, expected, atol=1e-6, rtol=0)
    moved = [(a.state.z != b.state.z).any(-1) for a, b in pairwise(stages)]
    assert torch.cat(moved).any() and not torch.cat(moved).all()  # some of either


@pytest.mark.parametrize("name", ["metropolis", "barker", "hamiltonian"])
def test_the_choices_have_their_log_probability(name, linear_gaussian: LinearGaussian):
    """log_choice is log p where z moved, and log(1 - p) where it stayed."""
    posterior = POSTERIORS[name].double()
    log_choice = torch.zeros(50, 3).double()
    before, *stages = posterior.stages(contexts(posterior), linear_gaussian.log_joint(X), 50)
    for stage in stages:
        probability = stage.stats["acceptance"]
        moved = (stage.state.z != before.state.z).any(-1)
        log_choice = log_choice + torch.where(moved, probability, 1 - probability).log()
        torch.testing.assert_close(stage.log_choice, log_choice)
        before = stage


def test_the_rules_satisfy_detailed_balance():
    """p(t) = t p(1/t): the chance of a move, weighed by its density, is that of the way back."""
    log_ratio = torch.linspace(-8, 8, 33).double()
    for rule in (dynamics.metropolis, dynamics.barker):
        _, there = rule(log_ratio)
        _, back = rule(-log_ratio)
        torch.testing.assert_close(there, log_ratio.exp() * back)
        accepted, _ = rule(torch.full((5,), math.nan))
        assert not accepted.any()
    accepted, probability = dynamics.barker(torch.zeros(40_000))
    assert abs(accepted.double().mean() - 0.5) < 4.5 * 0.5 / 200
    assert (probability == 0.5).all()


@pytest.mark.parametrize("loss", [ELBO, IWAE])
def test_baselines_of_the_other_samples_lower_the_variance(loss, linear_gaussian, monkeypatch):
    """Against the same term with the whole log-weight as its signal."""
    num_data = 4_000
    posterior = annealed_mala(2, num_steps=3, step_size=partial(LearnedSize, first=0.2)).double()
    x = X[:1].expand(num_data, -1, -1, -1)
    spread = []
    for baseline in (True, False):
        if not baseline:
            name = "_less_others" if loss is ELBO else "_gain"
            monkeypatch.setattr(f"models.losses.bounds.{name}", lambda log_w: log_w)
        reseed(1)
        context = contexts(posterior)[:1].repeat(num_data, 1).requires_grad_()
        bound = loss(num_samples=4)(linear_gaussian, posterior, x, context)
        (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
        spread.append(gradient[:, 4:].sum(-1).var())
    assert spread[0] < 0.5 * spread[1]


@pytest.mark.parametrize(("rule", "first"), [(ByAcceptance, 0.02), (BySpread, 0.002)])
def test_step_sizes_adapt_to_the_acceptance(rule, first):
    """On N(0, diag(1, 0.2²)), from steps too short; then the mean acceptance is near 0.8."""
    scale = torch.tensor([1.0, 0.2])
    move = MetropolisLangevin(2, step_size=partial(rule, first=first, acceptance=0.8))
    posterior = Chain(StandardNormal(2), [move])

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * (z / scale).square().sum(-1)

    told = []
    context = torch.zeros(100, 0)
    with torch.no_grad():
        for _ in range(1500):
            stage = posterior(context, log_joint)
            posterior.adapt([stage.stats])
            told.append(stage.stats["acceptance"].mean().item())
    early, late = sum(told[:10]) / 10, sum(told[-300:]) / 300
    assert early > 0.95
    assert abs(late - 0.8) < 0.05
    sizes = move.step_size.sizes
    if rule is BySpread:
        assert sizes[0] > 2 * sizes[1]  # short where the gradients spread


def test_sizes_that_are_kept_are_no_context_and_in_the_state():
    posterior = langevin(2, num_steps=2)
    assert posterior.context_size == 4
    assert [name for name in posterior.state_dict() if "step_size" in name] == [
        f"transitions.{k}.step_size.{name}" for k in range(2) for name in ("sizes", "gain")
    ]


def test_steps_that_would_hardly_be_accepted_may_be_skipped(linear_gaussian: LinearGaussian):
    posterior = langevin(2, num_steps=1, step_size=LONG, skip_below=0.7).double()
    stages = list(posterior.stages(contexts(posterior), linear_gaussian.log_joint(X), 50))
    skipped = stages[1].stats["acceptance"] <= 0.7
    assert skipped.any() and not skipped.all()
    stayed = (stages[1].state.z == stages[0].state.z).all(-1)
    assert torch.equal(stayed, skipped)
    assert torch.equal(stages[1].log_q[skipped], stages[0].log_q[skipped])


class Counted(LinearGaussian):
    """Counts how often its likelihood is evaluated."""

    count = 0

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.count += 1
        return super().log_likelihood(x, z)


def test_a_trajectory_costs_one_gradient_a_step():
    model = Counted((1, 1, 3), latent_dim=2).double()
    moves = [MetropolisHamiltonian(2, num_leapfrog=4) for _ in range(2)]
    posterior = Chain(DiagonalGaussian(2), moves).double()
    ELBO(num_samples=2)(model, posterior, X, contexts(posterior))
    assert model.count == 2 * 4 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rule": "barker", "num_leapfrog": 2}, "`rule: barker` is for Langevin moves")],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        annealed_mala(2, **options)


@pytest.mark.parametrize("loss", [ELBO, IWAE])
@pytest.mark.parametrize("name", ["langevin, free", "metropolis"])
def test_constant_forces_train_the_model_by_the_draw_alone(name, loss, linear_gaussian):
    """Value and contexts' gradients stay; the model's is that of log p(x, z), z a constant."""
    posterior, weights = POSTERIORS[name].double(), [linear_gaussian.weight, linear_gaussian.bias]
    found = []
    for constant_forces in (None, True):
        reseed(3)
        context = contexts(posterior).requires_grad_()
        bound = loss(num_samples=3, constant_forces=constant_forces)(
            linear_gaussian, posterior, X, context
        )
        found.append((bound, torch.autograd.grad(bound.loss.sum(), [context, *weights])))
    (plain, usual), (constant, gradients) = found
    torch.testing.assert_close(constant.value, plain.value)
    torch.testing.assert_close(gradients[0], usual[0])
    assert not torch.allclose(gradients[1], usual[1])
    reseed(3)
    draw = posterior(contexts(posterior), linear_gaussian.log_joint(X), 3).detach()
    shares = draw.log_w.detach().softmax(0) if loss is IWAE else torch.full((3, 3), 1 / 3)
    log_joint = linear_gaussian.log_joint(X)(draw.state.z)
    expected = torch.autograd.grad(-(shares * log_joint).sum(), weights)
    torch.testing.assert_close(gradients[1:], expected)
    assert all(weight.requires_grad for weight in weights)


@pytest.mark.parametrize("loss", [ELBO, IWAE])
def test_a_ramp_scales_the_score_term_alone(loss, linear_gaussian: LinearGaussian):
    posterior = POSTERIORS["metropolis"].double()
    ramp = linear_warmup(anneals="choices", begin=1, epochs=10)
    assert [ramp.weight(epoch) for epoch in (1, 2, 11)] == [0.0, 0.1, 1.0]
    found = {}
    for weight in (0.0, 0.5, 1.0):
        reseed(4)
        context = contexts(posterior).requires_grad_()
        bound = loss(num_samples=3, warmup=ramp)(linear_gaussian, posterior, X, context, weight)
        found[weight] = (bound.loss, *torch.autograd.grad(bound.loss.sum(), context))
    for half, none, whole in zip(found[0.5], found[0.0], found[1.0], strict=True):
        torch.testing.assert_close(half, (none + whole) / 2)
    assert not torch.allclose(found[0.0][1], found[1.0][1])
    assert torch.equal(found[0.0][0], found[1.0][0])
