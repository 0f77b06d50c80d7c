"""Couplings, splines and masked nets against independent computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.generative import LinearGaussian
from models.losses import ELBO
from models.networks.conditioned import ConditionedMLP
from models.posteriors.autoregressive import InverseAutoregressive, iaf
from models.posteriors.auxiliary import Drop, Lift, aux_real_nvp
from models.posteriors.chain import Chain
from models.posteriors.coupling import coupling, real_nvp
from models.posteriors.protocol import State
from models.posteriors.spline import (
    Bins,
    inverse_rational_quadratic,
    make_bins,
    rational_quadratic,
    spline,
    spline_coupling,
)
from tests.components import NO_TARGET, normal, perturbed

X = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2]]).double().view(2, 1, 1, 3)
SHARED = 3


# ---- partners, starts and inverses (log-determinants: test_transitions.py) ---------------------


@pytest.mark.parametrize("make", [coupling, spline_coupling, InverseAutoregressive])
def test_a_partner_is_carried_along(make):
    v = normal(2, 2, 3)
    move = make(4).double()(State(normal(2, 2, 4), v), normal(2, 0), NO_TARGET)
    assert move.state.v is v


@pytest.mark.parametrize(
    ("transition", "factor"),
    [
        (coupling(5), 1.0),
        (spline_coupling(5), 1.0),
        (coupling(5, scale="sigmoid"), 1 / (1 + math.exp(-2))),
        (InverseAutoregressive(5, forget_bias=1.5), 1 / (1 + math.exp(-1.5))),
    ],
    ids=["exponential", "spline", "sigmoid", "iaf"],
)
def test_start_is_the_identity_or_a_known_scale(transition, factor):
    transition.double()
    z = normal(4, 3, 5)
    move = transition(State(z), normal(3, 0), NO_TARGET)
    ratio = move.state.z / z
    moved = ratio[..., 2:]  # the couplings leave two of five
    torch.testing.assert_close(moved, torch.full_like(moved, factor))
    num_moved = 5 if isinstance(transition, InverseAutoregressive) else 3
    expected = torch.full((4, 3), -num_moved * math.log(factor)).double()
    torch.testing.assert_close(move.log_ratio, expected, atol=1e-6, rtol=0)


INVERTIBLE: dict[str, Callable[[], Chain]] = {
    "real_nvp": lambda: real_nvp(2, num_layers=3, hidden=(8,), scale="exponential", shared_size=2),
    "spline": lambda: spline(2, num_layers=3, hidden=(8,), num_bins=6, bound=3.0, shared_size=2),
    "iaf": lambda: iaf(2, num_layers=3, hidden=(8, 8), shared_size=2),
    "aux_real_nvp": lambda: aux_real_nvp(2, hidden=(8,), partner_hidden=(8,), shared_size=2),
}


@pytest.mark.parametrize("name", INVERTIBLE)
def test_a_layer_backwards_and_forwards_again_is_where_it_was(name):
    for flow in perturbed(INVERTIBLE[name](), scale=0.3).transitions:
        if isinstance(flow, Lift | Drop):
            continue
        after = State(2 * normal(50, 3, 2), normal(50, 3, 2))
        h = normal(3, 2)
        back = flow.retrace(after, h, NO_TARGET)
        again = flow(back.state, h, NO_TARGET)
        torch.testing.assert_close(again.state.z, after.z, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(again.state.v, after.v, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(again.log_ratio, back.log_ratio, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", ["real_nvp", "spline", "iaf"])
@torch.no_grad()
def test_densities_through_the_inverse_integrate_to_one(name):
    """∫ q(z) dz on a grid: log|det| too large or small would show."""
    posterior = perturbed(INVERTIBLE[name](), scale=0.1)
    context = torch.cat([0.3 * normal(1, 4), normal(1, 2)], -1)

    def log_q(z: Tensor) -> Tensor:
        return -posterior.log_w_backwards(context, lambda z: torch.zeros_like(z[..., 0]), z)

    draw = posterior(context, NO_TARGET, 20_000)
    mean, deviation = draw.state.z.mean((0, 1)), draw.state.z.std((0, 1))
    side = torch.linspace(-8, 8, 300, dtype=torch.float64)
    grid = mean + deviation * torch.cartesian_prod(side, side)  # (N, 2)
    cell = (deviation * (side[1] - side[0])).prod()
    total = (log_q(grid[:, None]).exp().sum() * cell).item()
    # Kinks in the splines' slopes make the sum converge slowly: 2e-4 off here at most,
    # and 2e-6 for the other flows.
    assert total == pytest.approx(1, abs=1e-3)
    few = slice(100)
    torch.testing.assert_close(log_q(draw.state.z[few]), draw.log_q[few], atol=1e-8, rtol=1e-8)


# ---- zuko as an oracle -------------------------------------------------------------------------


def zuko_affine(zuko: Any, shift: Tensor, log_scale: Tensor) -> Any:
    """Its map x exp(a) + b at a given log-scale, through the inverse of its soft bound on a."""
    bound = -math.log(1e-3)
    raw = log_scale / (1 - log_scale.abs() / bound)
    return zuko.transforms.MonotonicAffineTransform(shift=shift, scale=raw)


@pytest.mark.parametrize("scale", ["sigmoid", "exponential"])
@pytest.mark.parametrize("flip", [False, True])
def test_affine_coupling_against_zuko(scale, flip):
    zuko = pytest.importorskip("zuko")
    transition = perturbed(
        coupling(5, hidden=(8,), scale=scale, shared_size=SHARED, flip=flip), scale=0.3
    )
    z, h = normal(4, 3, 5), normal(3, SHARED)

    def meta(given: Tensor) -> Any:
        raw, shift = transition.bijection.net(given, h).chunk(2, -1)
        log_scale = (raw + 2).sigmoid().log() if scale == "sigmoid" else 2 * (raw / 2).tanh()
        return zuko_affine(zuko, shift, log_scale)

    stays = torch.tensor([True, True, False, False, False]) ^ flip
    image, log_det = zuko.transforms.CouplingTransform(meta, stays).call_and_ladj(z)
    move = transition(State(z), h, NO_TARGET)
    torch.testing.assert_close(move.state.z, image, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(-move.log_ratio, log_det.sum(-1), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
def test_iaf_against_zuko(reverse):
    zuko = pytest.importorskip("zuko")
    transition = perturbed(
        InverseAutoregressive(5, hidden=(12, 12), shared_size=SHARED, reverse=reverse), scale=0.3
    )
    z, h = normal(4, 3, 5), normal(3, SHARED)

    def meta(x: Tensor) -> Any:
        mean, raw = transition.net(x, h).chunk(2, -1)
        gate = (raw + 2).sigmoid()
        return zuko_affine(zuko, (1 - gate) * mean, gate.log())

    oracle = zuko.transforms.AutoregressiveTransform(meta, passes=5)
    image, log_det = oracle.call_and_ladj(z)
    move = transition(State(z), h, NO_TARGET)
    torch.testing.assert_close(move.state.z, image, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(-move.log_ratio, log_det.sum(-1), atol=1e-8, rtol=1e-8)
    # Five passes invert it, which they do only if output i sees no input from i on.
    torch.testing.assert_close(oracle.inv(move.state.z), z, atol=1e-8, rtol=1e-8)


def test_spline_against_zuko():
    zuko = pytest.importorskip("zuko")
    raw, x = normal(6, 23, 4), 4 * normal(6, 4)
    bins = make_bins(raw, 8, 3.0)
    theirs = Bins(*(field.mT for field in bins))  # (6, 4, 8)
    numbers = torch.zeros(3, 6, 4, 8).double()
    oracle = zuko.transforms.MonotonicRQSTransform(*numbers[:2], numbers[2, ..., 1:], bound=3.0)
    end = torch.full((6, 4, 1), 3.0).double()
    oracle.horizontal = torch.cat([theirs.x, end], -1)  # its own soft bounds on raw differ
    oracle.vertical = torch.cat([theirs.y, end], -1)
    oracle.derivatives = torch.cat([theirs.left_slope, torch.ones_like(end)], -1)
    expected, log_slope = oracle.call_and_ladj(x)
    got = rational_quadratic(x, bins, 3.0)
    assert (x.abs() > 3).any() and (x.abs() < 3).any()
    torch.testing.assert_close(got.value, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(got.log_slope, log_slope, atol=1e-8, rtol=1e-8)


# ---- splines -----------------------------------------------------------------------------------


def test_bins_fill_the_square_and_respect_the_minima():
    bins = make_bins(30 * normal(23, 50), 8, 2.0)
    for left, length in ((bins.x, bins.width), (bins.y, bins.height)):
        torch.testing.assert_close(length.sum(0), torch.full((50,), 4.0).double())
        torch.testing.assert_close((left + length)[:-1], left[1:])
        assert (length > 0.999 * 4e-3).all()
    assert (bins.left_slope >= 1e-3).all()
    assert (bins.left_slope[0] == 1).all() and (bins.right_slope[-1] == 1).all()


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_spline_and_its_inverse_everywhere(size):
    """Edges of bins and of the interval, both tails, and nets that have run away."""
    bins = make_bins(size * normal(14, 7), 5, 2.0)
    within = torch.linspace(-3, 3, 301, dtype=torch.float64)[:, None].expand(-1, 7)
    x = torch.cat([within, bins.x]).sort(0).values  # (306, 7)
    repeated = Bins(*(field.expand(len(x), -1, -1) for field in bins))
    y, log_slope = rational_quadratic(x, repeated, 2.0)
    assert y.isfinite().all() and log_slope.isfinite().all()
    assert (y.diff(dim=0) >= 0).all()
    outside = x.abs() >= 2
    assert torch.equal(y[outside], x[outside])
    assert (log_slope[outside] == 0).all()
    # The flattest slopes are about 1e-6: their inverse blows up the rounding of y.
    tolerance = {0.0: 1e-10, 1.0: 1e-10, 30.0: 1e-6}[size]
    back = inverse_rational_quadratic(y, repeated, 2.0)
    torch.testing.assert_close(back.value, x, atol=tolerance, rtol=tolerance)
    assert (back.log_slope[outside] == 0).all() and back.log_slope.isfinite().all()


def test_gradients_of_extreme_splines_are_finite():
    raw = (100 * normal(4, 23, 3)).requires_grad_()
    x = torch.tensor([-1e6, -2.0, -0.3, 2.0]).double()[:, None].repeat(1, 3).requires_grad_()
    value, log_slope = rational_quadratic(x, make_bins(raw, 8, 2.0), 2.0)
    (value.sum() + log_slope.sum()).backward()
    assert x.grad.isfinite().all() and raw.grad.isfinite().all()


# ---- masked nets -------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [(12,), (3, 20), (9, 9, 9)])
def test_iaf_jacobian_is_triangular_and_full_below(reverse, hidden):
    transition = perturbed(
        InverseAutoregressive(6, hidden=hidden, shared_size=SHARED, reverse=reverse)
    )
    h = normal(1, SHARED)

    def one(u: Tensor, context: Tensor) -> Tensor:
        return transition(State(u[None, None]), context, NO_TARGET).state.z[0, 0]

    jacobian, by_h = torch.autograd.functional.jacobian(one, (normal(6), h))
    order = jacobian.flip(0, 1) if reverse else jacobian
    assert torch.equal(order, order.tril())
    if min(hidden) >= 6:  # narrower layers cannot tell all the latents apart
        assert (order.tril(-1).abs().sum(-1)[1:] > 0).all()
        below = torch.ones(6, 6).tril(-1).bool()
        assert (order[below].abs() > 0).all()
    assert (by_h.abs().sum(dim=(1, 2)) > 0).all()  # every latent, the first too, sees h


def test_iaf_of_one_latent_sees_h_alone():
    transition = perturbed(InverseAutoregressive(1, hidden=(4, 4), shared_size=SHARED))
    z, h = normal(5, 2, 1), normal(2, SHARED)
    outputs = transition.net(z, h)
    torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs))
    assert not torch.allclose(outputs[:, 0], outputs[:, 1])


# ---- nets --------------------------------------------------------------------------------------


def test_conditioned_net_is_that_of_the_paper():
    """Cremer et al. 2018: h = ELU(linear map of the features), ELU layers on [z, h], linear."""
    net = perturbed(ConditionedMLP(2, 3, 4, (5, 6), "elu"))
    z, h = normal(7, 2, 2), normal(2, 3)
    first, _, second, _ = net.layers
    for sample in range(7):
        inputs = torch.cat([z[sample], nn.functional.elu(h)], -1)
        hidden = nn.functional.elu(inputs @ first.weight.T + first.bias)
        hidden = nn.functional.elu(hidden @ second.weight.T + second.bias)
        expected = hidden @ net.last.weight.T + net.last.bias
        torch.testing.assert_close(net(z, h)[sample], expected)


# ---- training ----------------------------------------------------------------------------------


def test_iaf_closes_the_gap_that_a_factorised_gaussian_leaves(linear_gaussian: LinearGaussian):
    """The best FFG loses ½ (Σ log Λ_ii - log|Λ|), Λ the posterior precision; IAF need not."""
    posterior = iaf(2, num_layers=1, hidden=(16,), forget_bias=2.0, shared_size=0).double()
    x = X[:1]
    context = posterior.initial_context().double()[None].requires_grad_()
    optimiser = torch.optim.Adam([context, *posterior.parameters()], lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.99)
    loss = ELBO(num_samples=64)
    for _ in range(300):
        optimiser.zero_grad()
        loss(linear_gaussian, posterior, x, context).loss.sum().backward()
        optimiser.step()
        schedule.step()
    precision = torch.linalg.inv(linear_gaussian.exact_posterior(x).covariance)
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert gap > 0.1
    with torch.no_grad():
        draw = posterior(context, linear_gaussian.log_joint(x), 20_000)
        log_w = linear_gaussian.log_joint(x)(draw.state.z) - draw.log_q
    error = log_w.std() / math.sqrt(20_000)
    lost = linear_gaussian.log_px(x) - log_w.mean()
    assert -4.5 * error < lost < 0.1 * gap
