"""Chains that look at their target: how often, with which gradients, and what they tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from estimators.importance import ImportanceSampling
from models.generative import GenerativeModel, LinearGaussian
from models.losses import AVO, ELBO, IWAE, Bound, Loss
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.hamiltonian import Hamiltonian
from models.posteriors.langevin import Langevin
from models.posteriors.metropolis import MetropolisLangevin
from models.posteriors.paths import GeometricPath, Target, traced, untraced
from models.posteriors.protocol import Move, State, Transition
from models.posteriors.schedules import Free, Linear, Schedule, Sigmoidal, beta_schedules
from models.posteriors.step_sizes import LearnedSize
from tests.components import CONTEXT, X, normal, reseed
from utils.compiled import compiled, has_compiler

NUM_STEPS = 3


def leapfrogs() -> Chain:
    """Three leapfrog steps, each with a momentum and a target of its own."""
    steps = [
        Hamiltonian(2, num_steps=1, step_size=partial(LearnedSize, first=0.2))
        for _ in range(NUM_STEPS)
    ]
    return Chain(DiagonalGaussian(2), steps, schedule=Free(NUM_STEPS)).double()


def langevin() -> Chain:
    """Three unadjusted Langevin steps."""
    steps = [Langevin(2, step_size=partial(LearnedSize, first=0.05)) for _ in range(NUM_STEPS)]
    return Chain(DiagonalGaussian(2), steps, schedule=Sigmoidal(NUM_STEPS)).double()


def metropolis() -> Chain:
    """Three Langevin steps under Metropolis's rule, long enough to be refused at times."""
    steps = [
        MetropolisLangevin(2, step_size=partial(LearnedSize, first=0.25)) for _ in range(NUM_STEPS)
    ]
    return Chain(DiagonalGaussian(2), steps, schedule=Linear(NUM_STEPS)).double()


CHAINS = (leapfrogs, langevin, metropolis)
every_chain = pytest.mark.parametrize("make", CHAINS)


def contexts(posterior: Chain, num_data: int = 3) -> Tensor:
    """Off their start, with a base off the posterior."""
    start = posterior.initial_context().double().repeat(num_data, 1)
    start[:, :4] = CONTEXT[:1]
    return start + 0.1 * normal(*start.shape)


class Counted(LinearGaussian):
    """A model that counts how often its likelihood is evaluated."""

    def __init__(self) -> None:
        super().__init__((1, 1, 3), latent_dim=2)
        self.count = 0

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.count += 1
        return super().log_likelihood(x, z)


@every_chain
@pytest.mark.parametrize("loss", [ELBO(num_samples=2), IWAE(num_samples=2)])
def test_k_steps_and_the_bound_cost_k_plus_1_evaluations(make, loss):
    model, posterior = Counted().double(), make()
    bound = loss(model, posterior, X, contexts(posterior).requires_grad_())
    assert model.count == NUM_STEPS + 1
    bound.loss.sum().backward()
    assert model.count == NUM_STEPS + 1
    with torch.no_grad():
        ImportanceSampling(num_samples=2)(model, posterior, X, contexts(posterior))
    assert model.count == 2 * (NUM_STEPS + 1)


@every_chain
def test_the_bound_has_the_same_terms_as_one_that_evaluates_anew(make, linear_gaussian):
    posterior = make()
    context = contexts(posterior)
    reseed(1)
    draw = posterior(context, linear_gaussian.log_joint(X), 4)
    reseed(1)
    bound = ELBO(num_samples=4)(linear_gaussian, posterior, X, context)
    log_likelihood = linear_gaussian.log_likelihood(X, draw.state.z)
    torch.testing.assert_close(bound.metrics["log_likelihood"], log_likelihood.mean(0).detach())
    log_w = linear_gaussian.log_joint(X)(draw.state.z) - draw.log_q
    torch.testing.assert_close(bound.value, log_w.mean(0).detach())


@every_chain
def test_draws_are_properly_weighted(make, linear_gaussian: LinearGaussian):
    """E[f(z) / q] = 1 for a density f narrower than the draws: light weights, 4.5 errors."""
    posterior = make()
    context, log_joint, samples = contexts(posterior), linear_gaussian.log_joint(X), 40_000
    with torch.no_grad():
        pilot = posterior(context, log_joint, 4_000).state.z
        draw = posterior(context, log_joint, samples)
        f = torch.distributions.Normal(pilot.mean(0), 0.5 * pilot.std(0))
        weights = (f.log_prob(draw.state.z).sum(-1) - draw.log_q).exp()
        error = weights.std(0) / math.sqrt(samples)
        assert (error < 0.1).all()  # a log_ratio that is wrong by a nat shows
        assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


def bound_at_seed(loss: Loss, model: GenerativeModel, posterior: Chain, context: Tensor) -> Bound:
    reseed(3)
    return loss(model, posterior, X, context)


@pytest.mark.parametrize("make", [leapfrogs, langevin])
def test_gradients_go_through_gradients(make, linear_gaussian: LinearGaussian):
    """Of base, step sizes, schedule and decoder, against central differences."""
    posterior, loss = make(), IWAE(num_samples=5)
    context = contexts(posterior).requires_grad_()
    flat = linear_gaussian.weight.data.view(-1)
    bound = bound_at_seed(loss, linear_gaussian, posterior, context)
    inputs = (context, linear_gaussian.weight)
    of_context, of_weight = torch.autograd.grad(bound.loss.sum(), inputs)

    def difference(numbers: Tensor) -> Tensor:
        """Of minus the bound, when numbers (in place) are changed a little."""
        before, step, ends = numbers.clone(), 1e-5, []
        for sign in (1, -1):
            numbers.copy_(before + sign * step)
            end = bound_at_seed(loss, linear_gaussian, posterior, context.detach())
            ends.append(-end.value.sum())
        numbers.copy_(before)
        return (ends[0] - ends[1]) / (2 * step)

    for index in range(context.shape[1]):
        expected = difference(context.data[:, index])
        assert expected != 0
        torch.testing.assert_close(of_context[:, index].sum(), expected, atol=1e-7, rtol=1e-6)
    for index in range(len(flat)):
        expected = difference(flat[index])
        torch.testing.assert_close(of_weight.view(-1)[index], expected, atol=1e-7, rtol=1e-6)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("loss", [ELBO(num_samples=2), IWAE(num_samples=3)])
def test_the_score_term_makes_gradients_of_choices_unbiased(loss, linear_gaussian):
    """Against differences of the mean bound; without the term it is off by many errors."""
    num_data, step = 60_000, 0.05
    posterior, x = metropolis(), X[:1].expand(num_data, -1, -1, -1)
    start = contexts(posterior, 1)
    direction = torch.zeros_like(start)
    direction[:, 4:] = 1.0  # all step sizes

    def losses(shift: float) -> tuple[Bound, Tensor]:
        reseed(5)
        context = (start + shift * direction).repeat(num_data, 1).requires_grad_()
        bound = loss(linear_gaussian, posterior, x, context)
        return bound, context

    bound, context = losses(0.0)
    (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
    mean, error = mean_and_error((gradient * direction).sum(-1))
    difference = (losses(-step)[0].value - losses(step)[0].value) / (2 * step)
    expected, noise = mean_and_error(difference)
    assert abs(mean - expected) < 4.5 * math.hypot(error, noise)
    # The draws' own path alone.
    reseed(5)
    context = start.repeat(num_data, 1).requires_grad_()
    draw = posterior(context, linear_gaussian.log_joint(x), loss.num_samples)
    plain = (draw.log_w.detach().softmax(0) * draw.log_w).sum(0)
    if isinstance(loss, ELBO):
        plain = draw.log_w.mean(0)
    (pathwise,) = torch.autograd.grad(-plain.sum(), context)
    alone, error = mean_and_error((pathwise * direction).sum(-1))
    assert abs(alone - expected) > 6 * math.hypot(error, noise)


class Tells(Transition):
    """Leaves z alone; counts in a buffer what it has been told."""

    told: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("told", torch.zeros(2))

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        log_ratio = torch.zeros_like(state.z[..., 0])
        return Move(state, log_ratio, stats={"one": torch.ones_like(log_ratio)})

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        self.told += torch.stack([stats["one"].mean(), torch.ones(())])


def test_what_transitions_tell_reaches_metrics_and_adapt(linear_gaussian: LinearGaussian):
    posterior = Chain(DiagonalGaussian(2), [Tells(), MetropolisLangevin(2), Tells()])
    context = posterior.double().initial_context().double().repeat(3, 1)
    for loss in (ELBO(num_samples=2), IWAE(num_samples=2)):
        bound = loss(linear_gaussian, posterior, X, context)
        assert [list(told) for told in bound.stats] == [
            ["one"],
            ["acceptance", "gradient"],
            ["one"],
        ]
        assert torch.equal(bound.metrics["one"], torch.ones(3))
        torch.testing.assert_close(
            bound.metrics["acceptance"], bound.stats[1]["acceptance"].mean(0)
        )
    posterior.adapt(bound.stats)
    assert [t.told.tolist() for t in (posterior.transitions[0], posterior.transitions[2])] == [
        [1, 1],
        [1, 1],
    ]


def test_only_who_says_so_sees_a_target_and_the_kth_sees_the_kth(linear_gaussian):
    seen: list[Tensor] = []

    class Looks(Tells):
        uses_target = True

        def forward(self, state: State, context: Tensor, target: Target) -> Move:
            seen.append(target(state.z))
            return super().forward(state, context, target)

    class Peeps(Tells):
        def forward(self, state: State, context: Tensor, target: Target) -> Move:
            target.evaluate(state.z)
            raise AssertionError

    posterior = Chain(
        DiagonalGaussian(2), [Tells(), Looks(), Tells(), Looks()], schedule=Linear(2)
    ).double()
    context, log_joint = CONTEXT.clone(), linear_gaussian.log_joint(X)
    z = posterior(context, log_joint, 5).state.z
    log_start, log_end = posterior.log_base(context)(z), log_joint(z)
    for beta, log_density in zip((1 / 3, 2 / 3), seen, strict=True):
        torch.testing.assert_close(log_density, beta * log_end + (1 - beta) * log_start)
    with pytest.raises(TypeError, match="uses_target"):
        Chain(DiagonalGaussian(2), [Peeps()]).double()(context, log_joint)


def test_a_schedule_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"for 3 transitions.*there are 1"):
        Chain(DiagonalGaussian(2), [Langevin(2)], schedule=Linear(3))


@pytest.mark.parametrize("name", beta_schedules.names())
@pytest.mark.parametrize("num_targets", [1, 4])
def test_schedules_rise_from_exactly_0_to_exactly_1(name, num_targets):
    schedule: Schedule = beta_schedules[name].factory(num_targets)
    context = schedule.initial_context().repeat(1000, 1)
    even = torch.linspace(0, 1, num_targets + 2)[:, None]
    torch.testing.assert_close(
        schedule(context), even.expand_as(schedule(context)), atol=1e-3, rtol=0
    )
    for scale in (1.0, 10.0):
        betas = schedule(context + scale * torch.randn_like(context))
        assert betas.shape in [(num_targets + 2, 1000), (num_targets + 2, 1)]
        assert (betas[0] == 0).all()
        assert (betas[-1] == 1).all()
        assert (betas.diff(dim=0) >= 0).all()


def test_a_path_evaluates_each_position_once_and_knows_what_was_chosen():
    calls = []

    def log_density(z: Tensor) -> Tensor:
        calls.append(z)
        return -0.5 * z.square().sum(-1)

    path = GeometricPath(lambda z: z.sum(-1), log_density)
    z, other, first = normal(4, 3, 2), normal(4, 3, 2), torch.rand(4, 3) < 0.5
    target = path.at(torch.tensor(0.25).double())
    point = target.evaluate(z)
    torch.testing.assert_close(point.gradient, 0.75 - 0.25 * z)
    target.evaluate(other)
    chosen = target.choose(first, z, other)
    again = path.at(torch.tensor(0.5).double()).evaluate(chosen)
    torch.testing.assert_close(again.gradient, 0.5 - 0.5 * chosen)
    torch.testing.assert_close(path.end(chosen), -0.5 * chosen.square().sum(-1))
    assert len(calls) == 2


def test_values_and_gradients_are_the_same_without_a_graph(linear_gaussian: LinearGaussian):
    log_density, z = linear_gaussian.log_joint(X), normal(4, 3, 2)
    for one, other in zip(traced(log_density, z), untraced(log_density, z), strict=True):
        torch.testing.assert_close(one.detach(), other)
        assert not other.requires_grad


def test_no_graph_is_kept_where_gradients_are_not_recorded(linear_gaussian: LinearGaussian):
    posterior = leapfrogs()
    with torch.no_grad():
        draw = posterior(contexts(posterior), linear_gaussian.log_joint(X), 2)
    assert not draw.log_q.requires_grad
    assert not draw.log_w.requires_grad
    assert not draw.state.z.requires_grad


def test_numbers_that_are_learned_belong_to_the_posterior():
    posterior = leapfrogs()
    assert not list(posterior.parameters())
    amortiser, expansion = posterior.amortiser(5), posterior.expansion()
    assert amortiser.out_features == 4  # mean and log-variance
    features = torch.randn(3, 5)
    context = expansion(amortiser(features))
    learned = context[:, 4:]
    assert torch.equal(learned, posterior.initial_context()[4:].expand(3, -1))
    (gradient,) = torch.autograd.grad(learned.sum(), [next(expansion.parameters())])
    assert torch.equal(gradient, torch.full((2,), 3.0))


@pytest.mark.parametrize("loss", [ELBO(), IWAE(num_samples=1)])
def test_one_draw_of_a_chain_with_choices_is_cautioned_against(loss):
    assert "no baseline" in loss.caution(metropolis())
    assert loss.caution(langevin()) is None
    assert type(loss)(num_samples=2).caution(metropolis()) is None


def test_losses_that_cannot_do_without_reparameterisation_refuse_choices():
    for loss in (IWAE(gradient="dreg"), AVO()):
        with pytest.raises(ValueError, match="discrete choices"):
            loss.check(metropolis())


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@every_chain
def test_a_training_step_compiles(make, linear_gaussian: LinearGaussian):
    """The gradient of a gradient by torch.compile is that of the plain program."""
    from torch._inductor import config

    posterior, model = make(), linear_gaussian
    loss, context = ELBO(num_samples=2), contexts(posterior).requires_grad_()

    def step(context: Tensor) -> Tensor:
        return loss(model, posterior, X, context).loss.sum()

    def refuse(reason: str) -> None:
        raise AssertionError(reason)

    results = []
    with config.patch(fallback_random=True):  # the compiler's own noise is another
        for program in (step, compiled(step, refuse)):
            reseed(0)
            value = program(context)
            results.append(torch.autograd.grad(value, (context, model.weight)))
    torch.testing.assert_close(*results)
