from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.losses import ELBO, IWAE, Loss, cyclical_warmup, linear_warmup
from models.posteriors.gaussian import gaussian
from tests.components import reseed

X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.2]]).double().view(2, 1, 1, 3)
CONTEXT = torch.tensor([[0.1, 0.3, -0.5, -0.2], [-0.2, 0.4, 0.1, -0.6]]).double()


def exact_elbo(model: LinearGaussian, x: Tensor, context: Tensor) -> Tensor:
    """log p(x) - KL(q || p(z|x)) of a factorised Gaussian, in closed form."""
    mean, log_variance = context.chunk(2, -1)
    posterior = model.exact_posterior(x)
    q = torch.distributions.MultivariateNormal(mean, torch.diag_embed(log_variance.exp()))
    p = torch.distributions.MultivariateNormal(posterior.mean, posterior.covariance)
    return model.log_px(x) - torch.distributions.kl_divergence(q, p)


def gradients(loss: Loss, model: LinearGaussian, repeats: int) -> tuple[Tensor, Tensor, Tensor]:
    """Context gradients (repeats, B, P), mean weight gradient and its standard error."""
    contexts, weights = [], []
    posterior = gaussian(2)
    for _ in range(repeats):
        context = CONTEXT.clone().requires_grad_()
        bound = loss(model, posterior, X, context)
        inputs = [context, model.weight]
        by_context, by_weight = torch.autograd.grad(bound.loss.sum(), inputs)
        contexts.append(by_context)
        weights.append(by_weight)
    stacked = torch.stack(weights)
    return torch.stack(contexts), stacked.mean(0), stacked.std(0) / math.sqrt(repeats)


def test_elbo_meets_its_closed_form(linear_gaussian: LinearGaussian):
    samples = 20_000
    bound = ELBO(num_samples=samples)(linear_gaussian, gaussian(2), X, CONTEXT)
    log_w = bound.value
    # One draw's spread, from independent single-sample bounds.
    singles = torch.stack(
        [ELBO()(linear_gaussian, gaussian(2), X, CONTEXT).value for _ in range(300)]
    )
    error = singles.std(0) / math.sqrt(samples)
    assert ((log_w - exact_elbo(linear_gaussian, X, CONTEXT)).abs() < 5 * error).all()


@pytest.mark.parametrize("gradient", ["plain", "stl"])
def test_elbo_gradient_is_unbiased(linear_gaussian: LinearGaussian, gradient):
    context = CONTEXT.clone().requires_grad_()
    (exact,) = torch.autograd.grad(-exact_elbo(linear_gaussian, X, context).sum(), context)
    draws, _, _ = gradients(ELBO(num_samples=20, gradient=gradient), linear_gaussian, 300)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 4.5 * error).all()


@pytest.mark.parametrize("loss", [ELBO, IWAE])
def test_stl_gradient_vanishes_at_the_posterior(linear_gaussian: LinearGaussian, loss):
    mean, covariance = linear_gaussian.exact_posterior(X)
    lower = torch.linalg.cholesky(covariance)
    context = torch.cat(
        [mean, lower.diagonal().log().expand(2, -1), lower[1:, :1].expand(2, -1)], -1
    ).detach().requires_grad_()  # fmt: skip
    posterior = gaussian(2, covariance="full")
    for gradient, vanishes in (("stl", True), ("plain", False)):
        bound = loss(num_samples=3, gradient=gradient)(linear_gaussian, posterior, X, context)
        (got,) = torch.autograd.grad(bound.loss.sum(), context)
        assert (got.abs().max() < 1e-12) == vanishes
    torch.testing.assert_close(bound.value, linear_gaussian.log_px(X))


@pytest.mark.parametrize("gradient", ["plain", "dreg"])
def test_iwae_gradients_agree_with_finite_differences(linear_gaussian, gradient):
    """Common noise makes the finite difference of E[L_K] as exact as the sample is large."""
    samples, repeats, step = 5, 20_000, 1e-4
    posterior = gaussian(2)

    def mean_bound(context: Tensor) -> tuple[Tensor, Tensor]:
        reseed(1)
        wide = context.repeat(repeats, 1)
        value = IWAE(num_samples=samples)(
            linear_gaussian, posterior, X[:1].repeat(repeats, 1, 1, 1), wide
        ).value
        return value.mean(), value

    base = CONTEXT[:1]
    context = base.repeat(repeats, 1).requires_grad_()
    x = X[:1].repeat(repeats, 1, 1, 1)
    bound = IWAE(num_samples=samples, gradient=gradient)(linear_gaussian, posterior, x, context)
    (draws,) = torch.autograd.grad(bound.loss.sum(), context)
    for index in range(base.shape[-1]):
        shift = torch.zeros_like(base)
        shift[0, index] = step
        up, ups = mean_bound(base + shift)
        down, downs = mean_bound(base - shift)
        difference = -(up - down) / (2 * step)
        pair_error = ((ups - downs) / (2 * step)).std() / math.sqrt(repeats)
        error = (draws[:, index].var() / repeats + pair_error.square()).sqrt()
        assert (draws[:, index].mean() - difference).abs() < 4.5 * error


@pytest.mark.parametrize("anneals", ["kl", "entropy", "alpha"])
def test_dreg_is_unbiased_in_a_warmup(linear_gaussian: LinearGaussian, anneals):
    """Less the plain gradient, which backpropagation gives, of the same draws."""
    repeats, warmup = 4000, linear_warmup(anneals=anneals, epochs=10)
    x, context = X[:1].expand(repeats, 1, 1, 3), CONTEXT[:1].repeat(repeats, 1).requires_grad_()
    draws = []
    for gradient in ("plain", "dreg"):
        reseed(4)
        loss = IWAE(num_samples=3, gradient=gradient, warmup=warmup)
        bound = loss(linear_gaussian, gaussian(2), x, context, 0.1)
        draws.append(torch.autograd.grad(bound.loss.sum(), context)[0])
    off = draws[0] - draws[1]
    assert (off.mean(0).abs() < 4.5 * off.std(0) / math.sqrt(repeats)).all()


def test_dreg_leaves_the_model_gradient_alone(linear_gaussian: LinearGaussian):
    results = []
    for gradient in ("plain", "dreg"):
        reseed(3)
        loss = IWAE(num_samples=8, gradient=gradient)
        bound = loss(linear_gaussian, gaussian(2), X, CONTEXT.clone().requires_grad_())
        results.append(torch.autograd.grad(bound.loss.sum(), linear_gaussian.weight))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_a_draw_without_weight_adds_nothing_to_iwae(linear_gaussian, gradient, monkeypatch):
    """As if it had not been drawn, but for the count in the value."""

    class Broken(LinearGaussian):
        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            fourth = torch.arange(len(z))[:, None] == 3
            return super().log_likelihood(x, z).masked_fill(fourth, -math.inf)

    model = Broken((1, 1, 3), latent_dim=2).double()
    model.load_state_dict(linear_gaussian.state_dict())
    noise = torch.randn(4, 2, 2, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: noise[: shape[0]])
    values, derivatives = [], []
    for num_samples in (3, 4):
        context = CONTEXT.clone().requires_grad_()
        loss = IWAE(num_samples=num_samples, gradient=gradient)
        bound = loss(model, gaussian(2), X, context)
        inputs = [context, model.weight, model.log_scale]
        derivatives.append(torch.autograd.grad(bound.loss.sum(), inputs))
        values.append(bound.value)
    torch.testing.assert_close(*derivatives)
    torch.testing.assert_close(values[1], values[0] + math.log(3 / 4))


def test_dreg_signal_to_noise_grows_and_plain_falls(linear_gaussian: LinearGaussian):
    """Rainforth et al. 2018 (arXiv 1802.04537): sqrt(1/K) for plain, sqrt(K) for DReG."""
    ratios = {}
    for gradient in ("plain", "dreg"):
        for samples in (4, 256):
            draws, _, _ = gradients(
                IWAE(num_samples=samples, gradient=gradient), linear_gaussian, 400
            )
            ratios[gradient, samples] = (draws.mean(0).abs() / draws.std(0)).mean()
    assert ratios["dreg", 256] > 2 * ratios["dreg", 4]
    assert ratios["plain", 256] < ratios["plain", 4]


def test_bounds_are_ordered(linear_gaussian: LinearGaussian):
    log_px = linear_gaussian.log_px(X)
    wide = CONTEXT.repeat(2000, 1)
    x = X.repeat(2000, 1, 1, 1)
    previous = torch.full((2,), -math.inf).double()
    for samples in (1, 2, 8, 64):
        value = IWAE(num_samples=samples)(linear_gaussian, gaussian(2), x, wide).value
        mean, spread = value.view(-1, 2).mean(0), value.view(-1, 2).std(0) / math.sqrt(2000)
        assert (mean > previous - 4 * spread).all()
        assert (mean < log_px + 4 * spread).all()
        previous = mean
    assert (log_px - previous < 0.05).all()


def test_iwae_value_is_logmeanexp_and_iwae_1_is_the_elbo(linear_gaussian: LinearGaussian):
    reseed(5)
    one = IWAE(num_samples=1)(linear_gaussian, gaussian(2), X, CONTEXT)
    reseed(5)
    elbo = ELBO()(linear_gaussian, gaussian(2), X, CONTEXT)
    torch.testing.assert_close(one.value, elbo.value)
    torch.testing.assert_close(one.loss, elbo.loss)


@pytest.mark.parametrize("anneals", ["entropy", "kl", "alpha"])
def test_warmup_scales_what_it_names(linear_gaussian: LinearGaussian, anneals):
    loss = ELBO(warmup=linear_warmup(anneals=anneals, epochs=10))
    bounds = {}
    for weight in (0.0, 0.5, 1.0):
        reseed(7)
        bounds[weight] = loss(linear_gaussian, gaussian(2), X, CONTEXT, weight)
    log_likelihood, kl = (bounds[1.0].metrics[name] for name in ("log_likelihood", "kl"))
    reseed(7)
    log_q = gaussian(2)(CONTEXT, linear_gaussian.log_joint(X)).log_q.mean(0)
    without = {  # what is left of the loss at weight 0
        "entropy": -log_likelihood - (log_q - kl),
        "kl": -log_likelihood,
        "alpha": log_q,
    }
    torch.testing.assert_close(bounds[0.0].loss, without[anneals])
    torch.testing.assert_close(bounds[1.0].loss, kl - log_likelihood)
    torch.testing.assert_close(bounds[0.5].loss, (bounds[0.0].loss + bounds[1.0].loss) / 2)
    torch.testing.assert_close(bounds[0.5].value, bounds[1.0].value)  # never annealed


def test_annealed_iwae_is_the_bound_of_annealed_weights(linear_gaussian: LinearGaussian):
    """Gradients by backpropagation through its logsumexp; the value is never annealed."""
    loss = IWAE(num_samples=5, warmup=linear_warmup(anneals="kl", epochs=10))
    context, posterior = CONTEXT.clone().requires_grad_(), gaussian(2)
    inputs = [context, *linear_gaussian.parameters()]
    reseed(9)
    bound = loss(linear_gaussian, posterior, X, context, 0.3)
    reseed(9)
    draw = posterior(context, linear_gaussian.log_joint(X), 5)
    log_likelihood = linear_gaussian.log_likelihood(X, draw.state.z)
    log_ratio = linear_gaussian.log_prior(draw.state.z) - draw.log_q
    annealed = (log_likelihood + 0.3 * log_ratio).logsumexp(0)
    torch.testing.assert_close(
        torch.autograd.grad(bound.loss.sum(), inputs),
        torch.autograd.grad(-annealed.sum(), inputs, retain_graph=True),
    )
    expected = (log_likelihood + log_ratio).logsumexp(0).detach() - math.log(5)
    torch.testing.assert_close(bound.value, expected)


def test_warmup_schedules():
    linear = linear_warmup(epochs=4)
    assert [linear.weight(epoch) for epoch in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert linear.length == 4
    late = linear_warmup(epochs=4, start=0.2, begin=2)
    weights = [late.weight(epoch) for epoch in range(1, 8)]
    assert weights == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.8, 1, 1])
    assert late.length == 6
    cyclical = cyclical_warmup(period=4, num_cycles=2, ramp=0.5)
    assert [cyclical.weight(e) for e in range(1, 10)] == [0.5, 1, 1, 1, 0.5, 1, 1, 1, 1]
