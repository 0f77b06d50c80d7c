"""Refinements: contexts made better for each datum, and draws that are weighted as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.runner.weights import fix
from models.generative import LinearGaussian
from models.networks.constant import Constant
from models.networks.mlp import mlp_encoder
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian
from models.refinements import Refinement, refinements
from models.refinements.ascent import Ascent
from models.refinements.learned import Iterative
from models.vae import VAE
from tests.components import CONTEXT, X, make_node, make_posterior, perturbed

NAMES = refinements.names()
NUM_DRAWS = 4000
SMALL = {"iterative": {"hidden": [6]}, "ascent": {"num_steps": 3}}


@pytest.fixture
def posterior() -> Chain:
    return make_posterior({"name": "gaussian"})


def made(name: str, posterior: Chain) -> Refinement:
    node = make_node(refinements, {"name": name, **SMALL[name]})
    return perturbed(node.build(context_size=posterior.context_size), 0.2)


def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are the mean: the ELBO is a smooth function of the context."""
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.zeros(*shape, **options))
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_properly_weighted_whatever_the_refinement(name, posterior, linear_gaussian):
    """From a start that is wider than p(z|x), so that no weight is large."""
    exact = linear_gaussian.exact_posterior(X)
    spread = exact.covariance.diagonal().sqrt().expand_as(exact.mean)
    start = posterior.base.placed(exact.mean + 0.2, 2 * spread)
    repeats = (NUM_DRAWS, 1)  # a refinement of its own for each draw
    x, start = X.repeat(*repeats, 1, 1), start.repeat(repeats)
    log_joint = linear_gaussian.log_joint(x)
    context = made(name, posterior)(start, posterior, log_joint)
    assert (context - start).abs().min() > 0
    w = (posterior(context, log_joint).log_w[0] - linear_gaussian.log_px(x)).exp()
    ratios = w.view(NUM_DRAWS, len(X))
    error = ratios.std(0) / NUM_DRAWS**0.5
    assert (((ratios.mean(0) - 1) / error).abs() < 4.5).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_datum_is_refined_alone(name, posterior, linear_gaussian, monkeypatch):
    still(monkeypatch)
    refinement = made(name, posterior)
    together = refinement(CONTEXT, posterior, linear_gaussian.log_joint(X))
    for index in range(len(X)):
        one = slice(index, index + 1)
        alone = refinement(CONTEXT[one], posterior, linear_gaussian.log_joint(X[one]))
        torch.testing.assert_close(alone, together[one])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_whether_gradients_are_recorded(
    name, posterior, linear_gaussian, monkeypatch
):
    still(monkeypatch)
    refinement, log_joint = made(name, posterior), linear_gaussian.log_joint(X)
    with torch.no_grad():
        unrecorded = refinement(CONTEXT, posterior, log_joint)
    assert not unrecorded.requires_grad
    recorded = refinement(CONTEXT.clone().requires_grad_(), posterior, log_joint)
    torch.testing.assert_close(recorded.detach(), unrecorded)


def test_ascent_ends_at_the_best_bound(posterior, linear_gaussian, monkeypatch):
    """By noise that is a design, ±1 in each direction: so averaged, a Gaussian's ELBO is exact."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2).double()
    design = signs[:, None].expand(len(signs), len(X), 2)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: design)
    monkeypatch.setattr(torch, "randn_like", lambda values: design)
    log_joint = linear_gaussian.log_joint(X)
    with torch.no_grad():
        ascent = Ascent(num_steps=600, lr=0.05, num_samples=len(signs))
        context = ascent(CONTEXT, posterior, log_joint)
        bound = posterior(context, log_joint, len(signs)).log_w.mean(0)
    torch.testing.assert_close(bound, linear_gaussian.factorised_bound(X), rtol=0, atol=1e-6)


def test_training_differentiates_through_the_steps(posterior, linear_gaussian, monkeypatch):
    still(monkeypatch)
    ascent = Ascent(num_steps=3, lr=0.1)

    def end(start: Tensor, weight: Tensor) -> Tensor:
        model = LinearGaussian((1, 1, 3), latent_dim=2, scale=0.7).double()
        del model.weight
        model.weight = weight
        return ascent(start, posterior, model.log_joint(X))

    weight = linear_gaussian.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(end, (CONTEXT.clone().requires_grad_(), weight))


def test_steps_that_are_not_unrolled_are_constants(posterior, linear_gaussian):
    start = CONTEXT.clone().requires_grad_()
    ascent = Ascent(num_steps=3, unrolled=False)
    ascent(start, posterior, linear_gaussian.log_joint(X)).sum().backward()
    assert start.grad.eq(1).all()
    assert linear_gaussian.weight.grad is None


def test_long_gradients_are_clipped_datum_by_datum(posterior, linear_gaussian, monkeypatch):
    still(monkeypatch)
    log_joint = linear_gaussian.log_joint(X * 1000)
    step = Ascent(num_steps=1, lr=1.0, clip=2.0)(CONTEXT, posterior, log_joint) - CONTEXT
    torch.testing.assert_close(step.norm(dim=-1), torch.full((3,), 2.0).double())


def test_the_net_looks_at_gradients_as_constants(posterior, linear_gaussian):
    iterative = perturbed(Iterative(4, hidden=(6,), num_steps=2))
    iterative(CONTEXT, posterior, linear_gaussian.log_joint(X)).sum().backward()
    assert linear_gaussian.weight.grad is None
    assert all(p.grad.abs().max() > 0 for p in iterative.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_chains_that_look_at_their_target_are_refined_too(name, linear_gaussian):
    chain = make_posterior({"name": "langevin", "num_steps": 2})
    refinement = made(name, chain)
    context = chain.initial_context().double().expand(3, -1)
    log_joint = linear_gaussian.log_joint(X)
    recorded = refinement(context.clone().requires_grad_(), chain, log_joint)
    with torch.no_grad():
        unrecorded = refinement(context, chain, log_joint)
    assert recorded.requires_grad and unrecorded.isfinite().all()


def test_the_net_is_a_part_of_the_encoder():
    vae = VAE(
        LinearGaussian((1, 1, 3), latent_dim=2),
        mlp_encoder((1, 1, 3), hidden=(4,)),
        gaussian(2),
        Iterative(4, hidden=(3,)),
    )
    fix(vae, ["encoder"])
    learned = {name for name, weight in vae.named_parameters() if weight.requires_grad}
    assert learned == {f"model.{name}" for name, _ in vae.model.named_parameters()}


def test_a_constant_encoder_can_be_refined():
    vae = VAE(LinearGaussian((1, 1, 3), latent_dim=2), Constant(), gaussian(2), Ascent())
    context = vae.context(X.float())
    assert (context[0] - context[1]).abs().max() > 0
