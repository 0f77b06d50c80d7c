"""Auxiliary variables: lifted, moved with z, scored and dropped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from models.generative import LinearGaussian
from models.posteriors.auxiliary import (
    ConditionalGaussian,
    Drop,
    Lift,
    PartnerCoupling,
    aux_real_nvp,
)
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, gaussian
from models.posteriors.protocol import Density, Draw, State
from tests.components import NO_TARGET, normal, perturbed, reseed

X = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2]]).double().view(2, 1, 1, 3)
SHARED = 3


def test_partner_coupling_moves_v_given_z_then_z_given_v():
    transition = perturbed(PartnerCoupling(3, partner_size=2, hidden=(6,), shared_size=SHARED))
    z, v, h = normal(1, 1, 3), normal(1, 1, 2), normal(1, SHARED)

    def joint(zv: Tensor) -> Tensor:
        state = transition(State(zv[None, None, :3], zv[None, None, 3:]), h, NO_TARGET).state
        return torch.cat([state.z[0, 0], state.v[0, 0]])

    move = transition(State(z, v), h, NO_TARGET)
    jacobian = torch.autograd.functional.jacobian(joint, torch.cat([z[0, 0], v[0, 0]]))
    expected = -torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(move.log_ratio[0, 0], expected, atol=1e-8, rtol=1e-8)
    # v' = v s(z) + m(z): diagonal in v; z' sees all of v, and z through s, m and v'.
    by_v = jacobian[3:, 3:]
    assert torch.equal(by_v, by_v.diagonal().diag())
    assert (jacobian[:3, 3:].abs() > 0).all()
    assert (jacobian[3:, :3].abs() > 0).all()


def test_q_af_with_identity_flow_and_r_equal_to_q_is_the_gaussian(linear_gaussian):
    posterior = perturbed(aux_real_nvp(2, hidden=(8,), partner_hidden=(8, 8)))
    lift, *couplings, drop = posterior.transitions
    drop.density.load_state_dict(lift.density.state_dict())
    with torch.no_grad():
        for layer in couplings:
            for part in (layer.move_v, layer.move_z):
                part.net.last.weight.zero_()
                part.net.last.bias.copy_(torch.tensor([90.0, 90, 0, 0]))  # σ = 1, no shift
    context = 0.5 * normal(2, posterior.context_size)
    reseed(8)
    draw = posterior(context, linear_gaussian.log_joint(X), 50)
    reseed(8)
    plain = gaussian(2)(context[:, :4], linear_gaussian.log_joint(X), 50)
    torch.testing.assert_close(draw.state.z, plain.state.z)
    torch.testing.assert_close(draw.log_q, plain.log_q, atol=1e-10, rtol=0)


def test_q_af_log_q_is_the_sum_of_the_papers_terms():
    posterior = perturbed(aux_real_nvp(3, hidden=(8,), partner_hidden=(8,)), scale=0.3)
    context = normal(2, posterior.context_size)
    h = context[:, 6:]
    base, lifted, *moved, last = posterior.stages(context, NO_TARGET, 4)

    def log_normal(density: ConditionalGaussian, v: Tensor, z: Tensor) -> Tensor:
        mean, log_variance = density.net(z, h).chunk(2, -1)
        return Normal(mean, (0.5 * log_variance).exp()).log_prob(v).sum(-1)

    mean, log_variance = context[:, :6].chunk(2, -1)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(base.state.z).sum(-1)
    lift, *couplings, drop = posterior.transitions
    z, v = lifted.state
    assert torch.equal(z, base.state.z)
    expected = expected + log_normal(lift.density, v, z)
    for layer, stage in zip(couplings, moved, strict=True):
        raw, shift = layer.move_v.net(z, h).chunk(2, -1)
        v = v * (raw + 2).sigmoid() + shift
        expected = expected - (raw + 2).sigmoid().log().sum(-1)
        raw, shift = layer.move_z.net(v, h).chunk(2, -1)
        z = z * (raw + 2).sigmoid() + shift
        expected = expected - (raw + 2).sigmoid().log().sum(-1)
        torch.testing.assert_close(stage.state, State(z, v))
    expected = expected - log_normal(drop.density, v, z)  # at the very v that the flow made
    assert last.state.v is None
    torch.testing.assert_close(last.log_q, expected)


def test_drop_scores_the_v_it_drops():
    """A fresh draw from r would give the same number for every v, up to noise."""
    drop = Drop(density=perturbed(ConditionalGaussian(2, hidden=(5,))))
    z = normal(1, 1, 2).expand(50, 1, 2)
    v = (5 * normal(50, 1, 2)).requires_grad_()
    log_ratio = drop(State(z, v), normal(1, 0), NO_TARGET).log_ratio
    mean, log_variance = drop.density.net(z, normal(1, 0)).chunk(2, -1)
    expected = -Normal(mean, (0.5 * log_variance).exp()).log_prob(v).sum(-1)
    torch.testing.assert_close(log_ratio, expected)
    (gradient,) = torch.autograd.grad(log_ratio.sum(), v)
    torch.testing.assert_close(gradient, (v - mean) * (-log_variance).exp())


class Thermal(Density):
    """N(0, T I): what a Hamiltonian posterior lifts a momentum from; no net, no h."""

    def __init__(self, size: int, temperature: float) -> None:
        super().__init__()
        self.size = size
        self.scale = math.sqrt(temperature)

    def sample(self, given: Tensor, context: Tensor) -> Draw:
        v = self.scale * torch.randn_like(given)
        return Draw(v, self.log_prob(v, given, context))

    def log_prob(self, z: Tensor, given: Tensor, context: Tensor) -> Tensor:
        return Normal(0.0, self.scale).log_prob(z).sum(-1)


def nets_that_differ() -> tuple[Density, Density]:
    """r is beside q, and narrower: a wider one would give the weights heavy tails."""
    q, r = (perturbed(ConditionalGaussian(2, hidden=(6,)), scale=0.05) for _ in range(2))
    with torch.no_grad():
        r.net.last.bias += torch.tensor([0.4, -0.4, -0.3, -0.3])
    return q, r


@pytest.mark.parametrize(
    "densities", [nets_that_differ, lambda: (Thermal(2, 2.0), Thermal(2, 1.0))]
)
def test_lift_and_drop_with_other_densities_keep_the_weights_proper(
    densities, linear_gaussian: LinearGaussian
):
    """E[w] = p(x) within 4.5 standard errors, r ≠ q; and the bound is looser than without v."""
    q, r = densities()
    posterior = Chain(DiagonalGaussian(2), [Lift(density=q), Drop(density=r)])
    mean, covariance = linear_gaussian.exact_posterior(X)
    wide = covariance.diagonal().log().expand(2, -1) + 0.2  # a broad q0 has light-tailed weights
    context = torch.cat([mean, wide], -1).detach()
    samples = 40_000
    log_joint = linear_gaussian.log_joint(X)
    with torch.no_grad():
        draw = posterior(context, log_joint, samples)
        log_w = log_joint(draw.state.z) - draw.log_q - linear_gaussian.log_px(X)
    ratio = log_w.exp()
    error = ratio.std(0) / math.sqrt(samples)
    assert (error < 0.03).all()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * error).all()
    q0 = MultivariateNormal(mean, torch.diag_embed(wide.exp()))
    plain = -torch.distributions.kl_divergence(q0, MultivariateNormal(mean, covariance))
    assert (log_w.mean(0) < plain - 4.5 * log_w.std(0) / math.sqrt(samples)).all()


def test_moving_v_without_scoring_it_would_show(linear_gaussian: LinearGaussian):
    """q_AF with every part away from its start: E[w] = p(x) within 4.5 standard errors."""
    posterior = perturbed(aux_real_nvp(2, hidden=(6,), partner_hidden=(6,)), scale=0.1)
    mean, covariance = linear_gaussian.exact_posterior(X)
    # The sigmoids shrink v and z by 0.88 twice. So r is as narrow as the v that they leave, else
    # the weights' tails are heavy, and the base makes up for it, and is broader.
    with torch.no_grad():
        posterior.transitions[-1].density.net.last.bias[2:] += 4 * math.log(0.88)
    wide = covariance.diagonal().log().expand(2, -1) + 1.0
    h = normal(2, posterior.shared_size)
    context = torch.cat([mean / 0.88**2, wide, h], -1).detach()
    samples = 40_000
    log_joint = linear_gaussian.log_joint(X)
    with torch.no_grad():
        draw = posterior(context, log_joint, samples)
        ratio = (log_joint(draw.state.z) - draw.log_q - linear_gaussian.log_px(X)).exp()
    error = ratio.std(0) / math.sqrt(samples)
    assert (error < 0.03).all()
    assert ((ratio.mean(0) - 1).abs() < 4.5 * error).all()
