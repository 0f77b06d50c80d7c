"""Annealed variational objectives: closed forms, whose gradient goes where, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.losses import AVO, ELBO, losses
from models.losses.annealing import linear_warmup
from models.losses.avo import SCHEDULES
from models.posteriors.auxiliary import Lift
from models.posteriors.chain import Chain
from models.posteriors.kernels import LEAST_NOISE, GatedGaussian, hvi
from tests.components import POSTERIORS, make_node, make_posterior, perturbed, reseed

X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.2]]).double().view(2, 1, 1, 3)
ALWAYS, NEVER = {"avo_probability": 1.0}, {"avo_probability": 0.0}


def make_hvi(num_layers: int) -> Chain:
    return perturbed(hvi(2, num_layers=num_layers, hidden=[6], shared_size=3), scale=0.3)


def make_context(posterior: Chain, num_data: int = 2) -> Tensor:
    initial = posterior.initial_context().double()
    noise = torch.randn(num_data, len(initial), dtype=torch.float64)
    return (initial + 0.3 * noise).requires_grad_()


def seeded(seed: int, loss: Callable[..., Tensor], coins: int = 0) -> Tensor:
    reseed(seed)
    torch.rand(coins)
    return loss()


def by_hand(
    model: LinearGaussian, posterior: Chain, x: Tensor, context: Tensor, alphas: list[float]
) -> Tensor:
    """L_1 ... L_T (T, B), one sample, straight from the definition."""
    constant = context.detach()
    own = constant[:, : posterior.base.context_size]
    z, log_q, _ = posterior.base.sample(torch.empty(1, len(x), 0), own)
    shared = constant[:, posterior.base.context_size :]
    result = []
    for alpha, kernel in zip(alphas, posterior.transitions, strict=True):
        before, log_q = z.detach(), log_q.detach()
        z, log_forwards, _ = kernel.forwards.sample(before, shared)
        log_reverse = kernel.reverse.log_prob(before, z, shared)
        log_f = alpha * model.log_joint(x)(z) + (1 - alpha) * posterior.log_base(constant)(z)
        result.append((log_q + log_forwards - log_reverse - log_f).squeeze(0))
        log_q = log_q + log_forwards - log_reverse
    return torch.stack(result)


@pytest.mark.parametrize("alphas", ["linear", "sigmoidal", [0.1, 0.7, 1.0]])
def test_it_is_the_mean_of_the_layers_own_losses(linear_gaussian: LinearGaussian, alphas):
    posterior = make_hvi(3)
    context = make_context(posterior)
    numbers = SCHEDULES[alphas](3)[1:] if isinstance(alphas, str) else alphas
    layers = seeded(1, lambda: by_hand(linear_gaussian, posterior, X, context, numbers), coins=1)
    loss = AVO(alphas=alphas, **ALWAYS)
    bound = seeded(1, lambda: loss(linear_gaussian, posterior, X, context))
    torch.testing.assert_close(bound.loss, layers.mean(0))
    torch.testing.assert_close(bound.value, -layers[-1])
    for t, kernel in enumerate(posterior.transitions):
        weights = list(kernel.parameters())
        expected = torch.autograd.grad(layers[t].sum() / 3, weights, retain_graph=True)
        got = torch.autograd.grad(bound.loss.sum(), weights, retain_graph=True)
        torch.testing.assert_close(got, expected)


def test_schedules():
    assert SCHEDULES["linear"](4) == [0, 0.25, 0.5, 0.75, 1.0]
    for num_layers in (1, 2, 5):
        alphas = SCHEDULES["sigmoidal"](num_layers)
        steps = [1 / (1 + math.exp(-4 * (2 * t / num_layers - 1))) for t in range(num_layers + 1)]
        shares = [(step - steps[0]) / (steps[-1] - steps[0]) for step in steps]
        assert alphas == pytest.approx(shares)
        assert alphas[-1] == 1


def test_one_layer_has_the_gradient_of_the_elbo(linear_gaussian: LinearGaussian):
    posterior = make_hvi(1)
    context = make_context(posterior)
    weights = list(posterior.parameters())
    results = []
    for loss, coins in ((ELBO(num_samples=3), 1), (AVO(num_samples=3, **ALWAYS), 0)):
        bound = seeded(2, lambda loss=loss: loss(linear_gaussian, posterior, X, context), coins)
        gradients = torch.autograd.grad(bound.loss.sum(), weights)
        results.append((bound.loss, bound.value, dict(bound.metrics), *gradients))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "hvi", "num_layers": 3},
        {"name": "iaf", "num_layers": 3, "hidden": [6]},
        {"name": "real_nvp", "num_layers": 3, "hidden": [6]},
    ],
    ids=lambda options: options["name"],
)
def test_a_layer_is_trained_by_its_own_loss_alone(linear_gaussian: LinearGaussian, options):
    posterior = perturbed(make_posterior(options), scale=0.3)
    context = make_context(posterior)
    log_joint = linear_gaussian.log_joint(X)
    _, *stages = posterior.stages(context, log_joint, 4, detach=True)
    for t, stage in enumerate(stages):
        own_loss = (stage.log_q - log_joint(stage.state.z)).sum()
        for other, transition in enumerate(posterior.transitions):
            gradients = torch.autograd.grad(
                own_loss, list(transition.parameters()), retain_graph=True, allow_unused=True
            )
            if other == t:
                assert any(gradient is not None for gradient in gradients)
            else:
                assert all(gradient is None for gradient in gradients)


def test_the_chain_without_stops_is_the_same_chain(linear_gaussian: LinearGaussian):
    posterior = make_hvi(3)
    context = make_context(posterior)
    log_joint = linear_gaussian.log_joint(X)
    whole, stopped = (
        seeded(3, lambda d=d: list(posterior.stages(context, log_joint, 4, detach=d)))
        for d in (False, True)
    )
    for one, other in zip(whole, stopped, strict=True):
        assert torch.equal(one.state.z, other.state.z)
        assert torch.equal(one.log_q, other.log_q)


@pytest.mark.parametrize("base_weight", [0.0, 0.5])
def test_base_and_decoder_learn_from_the_base_bound_alone(linear_gaussian, base_weight):
    posterior = make_hvi(3)
    context = make_context(posterior)
    warmup = linear_warmup(anneals="kl", epochs=10)
    loss = AVO(base_weight=base_weight, warmup=warmup, **ALWAYS)
    bound = seeded(4, lambda: loss(linear_gaussian, posterior, X, context, 0.3))
    bound.loss.sum().backward()
    for parameter in posterior.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    others = (context, *linear_gaussian.parameters())
    if base_weight == 0:
        assert all(tensor.grad is None for tensor in others)
        return
    base = Chain(posterior.base)
    own = context.detach()[:, :4].requires_grad_()
    base_elbo = ELBO(warmup=warmup)
    elbo = seeded(4, lambda: base_elbo(linear_gaussian, base, X, own, 0.3), coins=1)
    expected = torch.autograd.grad(
        base_weight * elbo.loss.sum(), (own, *linear_gaussian.parameters())
    )
    torch.testing.assert_close(context.grad[:, :4], expected[0])
    assert (context.grad[:, 4:] == 0).all()  # h, which the kernels take as a constant
    for parameter, gradient in zip(linear_gaussian.parameters(), expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_numbers_per_datum_of_a_flow_are_its_own_parameters(linear_gaussian: LinearGaussian):
    planar = {"name": "planar", "num_layers": 1}
    posterior = make_posterior(
        {"name": "chain", "base": {"name": "diagonal"}, "transitions": [planar] * 2}
    )
    context = make_context(posterior)
    AVO(**ALWAYS)(linear_gaussian, posterior, X, context).loss.sum().backward()
    base = posterior.base.context_size
    assert (context.grad[:, :base] == 0).all()
    assert (context.grad[:, base:] != 0).all()
    assert linear_gaussian.weight.grad is None


def set_kernel(density: GatedGaussian, slope: float, bias: float, noise: float) -> None:
    """Make it N(slope z + bias, noise²) for a latent of one dimension, given linear nets."""
    with torch.no_grad():
        density.net.last.weight.copy_(torch.tensor([[slope], [0.0], [0.0]], dtype=torch.float64))
        raw = math.log(math.expm1(noise - LEAST_NOISE))
        density.net.last.bias.copy_(
            torch.tensor([bias, 50.0, raw], dtype=torch.float64)
        )  # the gate: 1 - 2e-22


@pytest.mark.parametrize("alphas", ["linear", [0.3, 0.5, 1.0]])
def test_conjugate_kernels_meet_every_target_exactly(alphas):
    """At the optimum each L_t is minus the log of f_t's integral, whatever the draws."""
    reseed(0)
    model = LinearGaussian((1, 1, 3), latent_dim=1, scale=0.7).double()
    x = X[:1]
    posterior = hvi(1, num_layers=3, hidden=[], shared_size=0).double()
    context = torch.tensor([[0.4, 0.6]], dtype=torch.float64)  # the base's mean and log-variance
    base_mean, base_variance = 0.4, math.exp(0.6)
    exact = model.exact_posterior(x)
    mean, variance = exact.mean.item(), exact.covariance.item()
    log_px = model.log_px(x).item()
    before = (base_mean, base_variance)
    numbers = SCHEDULES[alphas](3)[1:] if isinstance(alphas, str) else alphas
    log_integrals = []
    for alpha, kernel in zip(numbers, posterior.transitions, strict=True):
        precision = alpha / variance + (1 - alpha) / base_variance
        weighted = alpha * mean / variance + (1 - alpha) * base_mean / base_variance
        after = (weighted / precision, 1 / precision)
        squares = alpha * mean**2 / variance + (1 - alpha) * base_mean**2 / base_variance
        log_integrals.append(
            alpha * log_px
            - 0.5 * alpha * math.log(2 * math.pi * variance)
            - 0.5 * (1 - alpha) * math.log(2 * math.pi * base_variance)
            + 0.5 * math.log(2 * math.pi / precision)
            - 0.5 * (squares - weighted**2 / precision)
        )
        slope = 0.6 * math.sqrt(after[1] / before[1])
        noise = math.sqrt(after[1] * (1 - 0.6**2))
        set_kernel(kernel.forwards, slope, after[0] - slope * before[0], noise)
        back = slope * before[1] / after[1]
        noise = math.sqrt(before[1] * (1 - 0.6**2))
        set_kernel(kernel.reverse, back, before[0] - back * after[0], noise)
        before = after
    assert before == pytest.approx((mean, variance))
    with torch.no_grad():
        bound = AVO(num_samples=1, alphas=alphas)(
            model, posterior, x.repeat(50, 1, 1, 1), context.repeat(50, 1)
        )
    torch.testing.assert_close(bound.value, torch.full((50,), log_px).double())
    for t, log_integral in enumerate(log_integrals, start=1):
        torch.testing.assert_close(
            bound.metrics[f"layer_{t}"], torch.full((50,), -log_integral).double()
        )


def test_layers_trained_alone_come_closer_than_any_factorised_gaussian(linear_gaussian):
    """A base that is the prior and two layers with a target each; the posterior is correlated."""
    x = X[:1]
    posterior = hvi(2, num_layers=2, hidden=[20], shared_size=0).double()
    context = posterior.initial_context().double()[None]
    optimiser = torch.optim.Adam(posterior.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    loss = AVO(num_samples=32, **ALWAYS)

    @torch.no_grad()
    def gap() -> tuple[float, float]:
        many = context.repeat(10_000, 1)
        value = ELBO()(linear_gaussian, posterior, x.repeat(10_000, 1, 1, 1), many).value
        lost = linear_gaussian.log_px(x) - value
        return lost.mean().item(), lost.std().item() / math.sqrt(10_000)

    start, _ = gap()
    for _ in range(300):
        optimiser.zero_grad()
        loss(linear_gaussian, posterior, x, context).loss.sum().backward()
        optimiser.step()
        schedule.step()
    end, error = gap()
    factorised = (linear_gaussian.log_px(x) - linear_gaussian.factorised_bound(x)).item()
    assert start > 5 * factorised
    assert -5 * error < end < factorised - 5 * error


def test_a_step_without_the_coin_is_the_elbo(linear_gaussian: LinearGaussian):
    posterior = make_hvi(2)
    context = make_context(posterior)
    warmup = linear_warmup(anneals="kl", epochs=10)
    mixed, elbo = AVO(warmup=warmup, **NEVER), ELBO(warmup=warmup)
    assert mixed.weight(3) == 0.3
    weights = [context, *linear_gaussian.parameters(), *posterior.parameters()]
    results = []
    for loss, coins in ((mixed, 0), (elbo, 1)):
        bound = seeded(
            5, lambda loss=loss: loss(linear_gaussian, posterior, X, context, 0.3), coins
        )
        gradients = torch.autograd.grad(bound.loss.sum(), weights)
        results.append((bound.loss, bound.value, *gradients))
    torch.testing.assert_close(*results)


def test_the_coin_is_thrown_for_each_minibatch_from_the_global_generator(linear_gaussian):
    posterior = make_hvi(2)
    context = make_context(posterior)
    loss = AVO(avo_probability=0.2)

    def throw() -> bool:
        context.grad = None
        bound = loss(linear_gaussian, posterior, X, context)
        assert set(bound.metrics) == {"log_likelihood", "kl"}
        bound.loss.sum().backward()
        return context.grad is None

    reseed(6)
    throws = [throw() for _ in range(200)]
    assert abs(sum(throws) / 200 - 0.2) < 4.5 * math.sqrt(0.2 * 0.8 / 200)
    reseed(6)
    first = [throw() for _ in range(20)]
    state = torch.get_rng_state()
    rest = [throw() for _ in range(20)]
    assert first + rest == throws[:40]
    torch.set_rng_state(state)
    assert [throw() for _ in range(20)] == rest


def test_evaluation_throws_no_coin_and_reports_the_elbo(linear_gaussian: LinearGaussian):
    posterior = make_hvi(3)
    context = make_context(posterior)
    with torch.no_grad():
        elbo, avo = (
            seeded(7, lambda loss=loss: loss(linear_gaussian, posterior, X, context))
            for loss in (ELBO(num_samples=5), AVO(num_samples=5, avo_probability=0.5))
        )
    torch.testing.assert_close(avo.value, elbo.value)
    assert list(avo.metrics) == ["log_likelihood", "kl", "layer_1", "layer_2", "layer_3"]
    for name, metric in elbo.metrics.items():
        torch.testing.assert_close(avo.metrics[name], metric)
    torch.testing.assert_close(avo.metrics["layer_3"], -elbo.value)


def test_the_loss_of_a_datum_does_not_depend_on_the_others(linear_gaussian, monkeypatch):
    """The sum of the likelihood over a batch must not stand beside means over it."""
    row = torch.randn(2, 1, 2, dtype=torch.float64)
    posterior = make_hvi(3)
    context = make_context(posterior, num_data=1)
    monkeypatch.setattr(torch, "randn", lambda s, b, d, **_: row.expand(s, b, d))
    monkeypatch.setattr(torch, "randn_like", lambda like: row.expand_as(like))
    loss = AVO(num_samples=2, base_weight=1.0, **ALWAYS)
    alone = loss(linear_gaussian, posterior, X[:1], context).loss
    many = loss(linear_gaussian, posterior, X[:1].repeat(7, 1, 1, 1), context.repeat(7, 1)).loss
    torch.testing.assert_close(many, alone.repeat(7))


REFUSED = {"gaussian", "langevin", "annealed_mala", "stochastic_flow"}  # and what adds a partner


@pytest.mark.parametrize("options", POSTERIORS)
def test_it_trains_what_stays_in_z_and_refuses_the_rest(linear_gaussian, options):
    posterior = make_posterior(options)
    loss = AVO(num_samples=4, **ALWAYS)
    partner = any(isinstance(transition, Lift) for transition in posterior.transitions)
    if options["name"] in REFUSED or partner:
        with pytest.raises(
            ValueError, match=r"has none|\(Lift\)|\(Langevin\) has no parameters|discrete choices"
        ):
            loss.check(posterior)
        return
    loss.check(posterior)
    perturbed(posterior, scale=0.3)
    context = make_context(posterior)
    bound = loss(linear_gaussian, posterior, X, context)
    bound.loss.sum().backward()
    for parameter in posterior.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert linear_gaussian.weight.grad is None


def test_a_check_leaves_the_global_generator_alone():
    posterior = make_hvi(2)
    before = torch.get_rng_state()
    AVO().check(posterior)
    assert torch.equal(torch.get_rng_state(), before)


def test_alphas_must_fit():
    with pytest.raises(ValueError, match=r"rise to 1.*\[0\.5, 0\.9\]"):
        AVO(alphas=[0.5, 0.9])
    with pytest.raises(ValueError, match="rise to 1"):
        AVO(alphas=[])
    with pytest.raises(ValueError, match="rise to 1"):
        AVO(alphas=[0.5, 0.2, 1.0])
    AVO(alphas=[0.5, 1.0]).check(make_hvi(2))
    with pytest.raises(ValueError, match="2 numbers for 3 transitions"):
        AVO(alphas=[0.5, 1.0]).check(make_hvi(3))
    loss = make_node(losses, {"name": "avo", "alphas": [0.5, 1]}).build()
    assert list(loss.alphas) == [0.5, 1]


@pytest.mark.parametrize("base", ["diagonal", "full", "standard"])
def test_reflections_need_a_base_that_is_not_isotropic(base):
    householder = {"name": "householder", "num_reflections": 1}
    options = {"name": "chain", "base": {"name": base}, "transitions": [householder] * 3}
    posterior = make_posterior(options, latent_dim=4).float()
    if base == "standard":
        with pytest.raises(ValueError, match=r"`transitions\[0\]` \(Householder\) never changes"):
            AVO().check(posterior)
    else:
        AVO().check(posterior)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's, at breaks
def test_compiled_steps_are_the_eager_ones(linear_gaussian: LinearGaussian):
    """Both kinds of step, and a coin that falls on both sides though the function is compiled."""
    from torch._inductor import config

    posterior = make_hvi(2)
    context = make_context(posterior)
    weights = [context, *linear_gaussian.parameters(), *posterior.parameters()]
    loss = AVO(avo_probability=0.5, base_weight=0.0)

    def objective(context: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        bound = loss(linear_gaussian, posterior, X, context, weight)
        return bound.loss.mean(), bound.value

    compiled = torch.compile(objective)
    seen: set[bool] = set()
    for seed in range(40):  # both sides come up, but for once in 2^39
        if len(seen) == 2:
            break
        results = []
        for function in (objective, compiled):
            with config.patch(fallback_random=True):  # the compiler's own noise is another
                value = seeded(seed, lambda f=function: f(context, torch.tensor(1.0)))
            gradients = torch.autograd.grad(value[0], weights, allow_unused=True)
            results.append((value, gradients))
        torch.testing.assert_close(results[0][0], results[1][0])
        layerwise = [gradients[0] is None for _, gradients in results]
        assert layerwise[0] == layerwise[1]
        seen.add(layerwise[0])
        for eager, other in zip(results[0][1], results[1][1], strict=True):
            assert (eager is None) == (other is None)
            if eager is not None:
                torch.testing.assert_close(eager, other)
    assert seen == {True, False}
