"""What every posterior must hold, whoever wrote it."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from models.generative import LinearGaussian
from models.losses import ELBO, IWAE
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, FullGaussian, StandardNormal, gaussian
from models.posteriors.hamiltonian import hamiltonian
from models.posteriors.protocol import posteriors
from tests.components import POSTERIORS, X, make_node, perturbed, reseed

LATENT, FEATURES = 4, 6
every_posterior = pytest.mark.parametrize("options", POSTERIORS)


def build(options: dict, latent_dim: int = LATENT) -> Chain:
    node = make_node(posteriors, options)
    return node.build(latent_dim=latent_dim, num_features=FEATURES).double()


def log_joint(z: Tensor) -> Tensor:
    """A smooth correlated target, unnormalised."""
    return -0.5 * (z.square().sum(-1) + (z[..., :1] * z[..., 1:2] - 0.3).square().sum(-1))


def contexts(posterior: Chain, num_data: int, spread: float = 0.1) -> Tensor:
    initial = posterior.initial_context().double()
    return initial + spread * torch.randn(num_data, len(initial), dtype=torch.float64)


def test_every_posterior_can_be_built_without_required_options_or_has_a_config():
    covered = {parameter.values[0]["name"] for parameter in POSTERIORS}
    # Draws of `particles` are none alone; tests of its own see to it.
    assert covered | {"particles"} == set(posteriors.names())


@every_posterior
def test_shapes_and_dtype(options):
    posterior = build(options)
    draw = posterior(contexts(posterior, 3), log_joint, 5)
    assert draw.state.z.shape == (5, 3, LATENT)
    assert draw.log_q.shape == (5, 3)
    assert draw.state.z.dtype == draw.log_q.dtype == torch.float64
    assert draw.state.v is None  # what was lifted has been dropped
    assert draw.log_q.isfinite().all()
    single = build(options).float()
    draw = single(contexts(single, 2).float(), log_joint, 1)
    assert draw.log_q.dtype == torch.float32


@every_posterior
def test_every_parameter_and_context_number_gets_a_gradient(options):
    # Zero-initialised last layers hide the layers below them. An orthogonal matrix of as many
    # columns as rows is known without its last column, and Sylvester flows have eight by default.
    posterior = perturbed(build(options, latent_dim=9), scale=0.1)
    context = contexts(posterior, 3).requires_grad_()
    draw = posterior(context, log_joint, 20)
    (log_joint(draw.state.z) - draw.log_q).mean().backward()
    named = {"context": context, **dict(posterior.named_parameters())}
    for name, parameter in named.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    unused = (context.grad == 0).all(0)
    assert not unused.any(), f"context numbers {unused.nonzero().flatten().tolist()} do nothing"


@every_posterior
def test_data_points_do_not_see_each_other(options):
    posterior = perturbed(build(options), scale=0.1)  # fresh nets of zeros would hide the context
    context = contexts(posterior, 3)
    changed = context.clone()
    changed[1] += 0.3
    reseed(1)
    before = posterior(context, log_joint, 4)
    reseed(1)
    after = posterior(changed, log_joint, 4)
    for kept in (0, 2):
        torch.testing.assert_close(before.state.z[:, kept], after.state.z[:, kept])
        torch.testing.assert_close(before.log_q[:, kept], after.log_q[:, kept])
    assert not torch.allclose(before.log_q[:, 1], after.log_q[:, 1])


@every_posterior
def test_same_seed_same_draw_and_save_and_load(options):
    posterior, other = build(options), build(options)
    file = io.BytesIO()
    torch.save(posterior.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    context = contexts(posterior, 2)
    draws = []
    for chain in (posterior, posterior, other):
        reseed(4)
        draws.append(chain(context, log_joint, 3))
    for draw in draws[1:]:
        assert torch.equal(draws[0].state.z, draw.state.z)
        assert torch.equal(draws[0].log_q, draw.log_q)


@every_posterior
def test_amortiser_starts_at_the_initial_context(options):
    posterior = build(options)
    to_context = nn.Sequential(posterior.amortiser(FEATURES), posterior.expansion()).double()
    context = to_context(torch.zeros(2, FEATURES, dtype=torch.float64))
    assert context.shape == (2, posterior.context_size)
    assert context.isfinite().all()


def test_a_posterior_without_amortised_numbers_has_an_empty_amortiser():
    """And no warning: those are errors in tests."""
    posterior = hamiltonian(2, base=StandardNormal(2))
    assert posterior.context_size > 0
    assert posterior.amortiser(FEATURES)(torch.ones(3, FEATURES)).shape == (3, 0)


@every_posterior
@torch.no_grad()
def test_draws_are_properly_weighted(options):
    """E[f(z) / q] = ∫ f = 1 within 4.5 standard errors, for a Gaussian f narrower than q.

    f has the mean of q's draws and half their deviation, so its weights are light and q needs no
    fit. The errors are about 0.01. They are never above 0.1, so a log_ratio that is wrong by a
    nat always shows: it moves the mean by at least 0.6.
    """
    posterior = perturbed(build(options, latent_dim=2), scale=0.05)
    context = contexts(posterior, 3, spread=0.2)
    pilot = posterior(context, log_joint, 4000).state.z
    f = Normal(pilot.mean(0), 0.5 * pilot.std(0))
    samples = 40_000
    draw = posterior(context, log_joint, samples)
    weights = (f.log_prob(draw.state.z).sum(-1) - draw.log_q).exp()
    error = weights.std(0) / math.sqrt(samples)
    assert (error < 0.1).all()
    assert ((weights.mean(0) - 1).abs() < 4.5 * error).all()


@every_posterior
@torch.no_grad()
def test_bounds_are_ordered(options, linear_gaussian: LinearGaussian):
    """ELBO <= IWAE of the same draws, and the mean of IWAE <= log p(x), without a fit."""
    posterior = perturbed(build(options, latent_dim=2), scale=0.1)
    repeats = 300
    context = contexts(posterior, 1, spread=0.2).repeat(repeats, 1)
    x = X[:1].repeat(repeats, 1, 1, 1)
    values = []
    for loss in (ELBO(num_samples=16), IWAE(num_samples=16)):
        reseed(1)
        values.append(loss(linear_gaussian, posterior, x, context).value)
    elbo, iwae = values
    assert (elbo < iwae).all()
    excess = iwae - linear_gaussian.log_px(X[:1])
    assert excess.mean() < 4.5 * excess.std() / math.sqrt(repeats)


@pytest.mark.parametrize("base", [DiagonalGaussian(3), FullGaussian(3)], ids=["diagonal", "full"])
def test_gaussian_bases_against_torch(base):
    context = 0.5 * torch.randn(4, base.context_size, dtype=torch.float64)
    nothing = torch.empty(6, 4, 0).double()
    z, log_q, _ = base.sample(nothing, context)
    torch.testing.assert_close(log_q, base.log_prob(z, nothing, context))
    mean = context[:, :3]
    if isinstance(base, FullGaussian):
        lower = torch.zeros(4, 3, 3, dtype=torch.float64)
        rows, columns = torch.tril_indices(3, 3, offset=-1)
        lower[:, rows, columns] = context[:, 6:]
        lower = lower + torch.diag_embed(context[:, 3:6].exp())
    else:
        lower = torch.diag_embed((0.5 * context[:, 3:]).exp())
    torch.testing.assert_close(log_q, MultivariateNormal(mean, scale_tril=lower).log_prob(z))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_trained_gaussian_meets_the_closed_form(linear_gaussian: LinearGaussian, covariance):
    """Best FFG loses KL = ½ (Σ log Λ_ii - log|Λ|), Λ the posterior precision; full loses nothing.

    Sticking-the-landing gradients vanish at the full optimum, so that it is met exactly; the
    diagonal one is met up to the optimiser's noise, a hundredth of the gap.
    """
    x = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2]]).double().view(2, 1, 1, 3)
    posterior = gaussian(2, covariance=covariance)
    context = posterior.initial_context().double().repeat(2, 1).requires_grad_()
    optimiser = torch.optim.Adam([context], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    loss = ELBO(num_samples=64, gradient="stl")
    for _ in range(500):
        optimiser.zero_grad()
        loss(linear_gaussian, posterior, x, context).loss.sum().backward()
        optimiser.step()
        schedule.step()
    log_px, factorised = linear_gaussian.log_px(x), linear_gaussian.factorised_bound(x)
    gap = (log_px - factorised).min()
    assert gap > 0.1  # the test can tell the two apart
    expected = factorised if covariance == "diagonal" else log_px
    q_mean = context[:, :2]
    if covariance == "diagonal":
        scale = torch.diag_embed((0.5 * context[:, 2:]).exp())
    else:
        scale = torch.diag_embed(context[:, 2:4].exp())
        scale = scale + torch.tensor([[0.0, 0], [1, 0]]).double() * context[:, 4:, None]
    q = MultivariateNormal(q_mean, scale_tril=scale)
    p = MultivariateNormal(*linear_gaussian.exact_posterior(x))
    bound = linear_gaussian.log_px(x) - torch.distributions.kl_divergence(q, p)
    tolerance = 0.01 * gap.item() if covariance == "diagonal" else 1e-6
    torch.testing.assert_close(bound, expected, atol=tolerance, rtol=0)
