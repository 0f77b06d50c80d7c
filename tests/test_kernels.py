"""Gaussian kernels and the hierarchical posteriors made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.func import functional_call, stack_module_state, vmap

from models.posteriors.kernels import LEAST_NOISE, GatedGaussian, GaussianKernel, hvi, hvm
from models.posteriors.protocol import Density, State
from tests.components import perturbed

LATENT, SHARED = 3, 2


def log_target(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1)


def make_kernel() -> GaussianKernel:
    kernel = GaussianKernel(LATENT, hidden=[7], activation="tanh", shared_size=SHARED)
    return perturbed(kernel, scale=0.4)


def brute_force(density: GatedGaussian, start: Tensor, end: Tensor, h: Tensor) -> Tensor:
    """log N(end; g m + (1 - g) start, σ²), sample by sample, datum by datum."""
    result = torch.empty(start.shape[:2], dtype=start.dtype)
    for s in range(len(start)):
        for b in range(len(h)):
            first, _, last = *density.net.layers, density.net.last
            hidden = torch.tanh(first(torch.cat([start[s, b], torch.tanh(h[b])])))
            m, gate, noise = last(hidden).split(LATENT)
            g, sigma = torch.sigmoid(gate), torch.log1p(noise.exp()) + LEAST_NOISE
            normal = Normal(g * m + (1 - g) * start[s, b], sigma)
            result[s, b] = normal.log_prob(end[s, b]).sum()
    return result


def test_log_ratio_is_that_of_the_two_densities():
    kernel = make_kernel()
    z, h = torch.randn(4, 2, LATENT).double(), torch.randn(2, SHARED).double()
    move = kernel(State(z), h, log_target)
    forwards = brute_force(kernel.forwards, z, move.state.z, h)
    backwards = brute_force(kernel.reverse, move.state.z, z, h)
    torch.testing.assert_close(move.log_ratio, forwards - backwards)
    assert not torch.allclose(forwards, backwards, atol=0.1)


def test_draws_have_the_moments_of_the_density():
    """4.5 standard errors of mean and variance of a Gaussian."""
    kernel, draws = make_kernel(), 20_000
    z, h = torch.randn(1, 1, LATENT).double(), torch.randn(1, SHARED).double()
    mean, scale = (moment[0, 0] for moment in kernel.forwards._moments(z, h))
    ends = kernel(State(z.expand(draws, 1, LATENT)), h, log_target).state.z[:, 0]
    assert ((ends.mean(0) - mean).abs() < 4.5 * scale / draws**0.5).all()
    variance = ends.var(0) / scale.square()
    assert ((variance - 1).abs() < 4.5 * (2 / draws) ** 0.5).all()


def test_a_fresh_kernel_is_a_small_step_that_reverses_itself_on_the_prior():
    """log N(z) + log_ratio = log N(z'), so that untrained weights are as finite as the base's."""
    kernel = GaussianKernel(LATENT, shared_size=SHARED).double()
    z, h = torch.randn(5, 2, LATENT).double(), torch.randn(2, SHARED).double()
    move = kernel(State(z), h, log_target)
    before, after = log_target(z), log_target(move.state.z)
    # The initial biases are float32 numbers: 6e-8, times slopes of about 10.
    torch.testing.assert_close(before + move.log_ratio, after, atol=1e-5, rtol=0)
    assert 0.1 < (move.state.z - z).std() < 0.6


def test_a_random_start_has_the_weights_of_a_linear_layer():
    """Uniform on ±1/√40, the last layer's too; no gate and no noise of its own."""
    posterior = hvi(LATENT, num_layers=2, start="random")
    for kernel in posterior.transitions:
        for density in (kernel.forwards, kernel.reverse):
            numbers = torch.cat([p.detach().flatten() for p in density.net.last.parameters()])
            assert 0.15 < numbers.abs().max() <= 40**-0.5
            assert 0.07 < numbers.std() < 0.11  # 1/√120


def test_noise_has_a_least_size():
    kernel = GaussianKernel(LATENT)
    with torch.no_grad():
        for density in (kernel.forwards, kernel.reverse):
            density.net.last.bias.fill_(-100.0)  # no gate and no noise: z' = z
    move = kernel(State(torch.randn(4, 2, LATENT)), torch.empty(2, 0), log_target)
    assert move.log_ratio.isfinite().all()
    # The reverse step is the step itself, seen from the other end: only rounding is left of it,
    # 1e-7 in units of noise of 1e-3, times a few.
    torch.testing.assert_close(move.log_ratio, torch.zeros(4, 2), atol=0.02, rtol=0)


def test_a_batch_of_densities_is_its_rows():
    kernel = make_kernel()
    z, end = torch.randn(2, 3, LATENT).double(), torch.randn(2, 3, LATENT).double()
    h = torch.randn(3, SHARED).double()
    whole = kernel.forwards.log_prob(end, z, h)
    for s in range(2):
        for b in range(3):
            alone = kernel.forwards.log_prob(
                end[s : s + 1, b : b + 1], z[s, b][None, None], h[b][None]
            )
            torch.testing.assert_close(whole[s, b], alone[0, 0])


def test_stacked_copies_draw_noise_of_their_own():
    """Local optimisation gives each datum its own kernel: vmap over copies."""
    copies = [make_kernel() for _ in range(3)]
    parameters, buffers = stack_module_state(copies)
    z, h = torch.randn(3, 4, 1, LATENT).double(), torch.randn(3, 1, SHARED).double()

    def one(parameters, buffers, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        move = functional_call(copies[0], (parameters, buffers), (State(z), h, log_target))
        return move.state.z, move.log_ratio

    ends, log_ratios = vmap(one, randomness="different")(parameters, buffers, z, h)
    for index, copy in enumerate(copies):
        log_q = copy.forwards.log_prob(ends[index], z[index], h[index])
        log_r = copy.reverse.log_prob(z[index], ends[index], h[index])
        torch.testing.assert_close(log_ratios[index], log_q - log_r)


def test_hvi_adds_up_base_and_kernels():
    posterior = hvi(LATENT, num_layers=3, hidden=[7], activation="tanh", shared_size=SHARED)
    perturbed(posterior, scale=0.4)
    context = 0.5 * torch.randn(2, 2 * LATENT + SHARED).double()
    stages = list(posterior.stages(context, log_target, 4))
    h = context[:, 2 * LATENT :]
    expected = posterior.log_base(context)(stages[0].state.z)
    torch.testing.assert_close(stages[0].log_q, expected)
    for kernel, before, after in zip(posterior.transitions, stages, stages[1:], strict=False):
        start, end = before.state.z, after.state.z
        expected = expected + brute_force(kernel.forwards, start, end, h)
        expected = expected - brute_force(kernel.reverse, end, start, h)
        torch.testing.assert_close(after.log_q, expected)


@pytest.mark.parametrize("partner", [1, 3, 4])
def test_hvm_is_its_three_densities(partner):
    posterior = hvm(
        LATENT, partner_size=partner, hidden=[7], activation="tanh", shared_size=SHARED
    )
    perturbed(posterior, scale=0.4)
    context = 0.5 * torch.randn(2, 2 * partner + SHARED).double()
    first, lifted, _, last = posterior.stages(context, log_target, 4)
    v, z = first.state.z, last.state.z
    assert v.shape == (4, 2, partner)
    assert z.shape == (4, 2, LATENT)
    assert last.state.v is None
    assert torch.equal(lifted.state.v, z)  # type: ignore[arg-type]
    h = context[:, 2 * partner :]

    def log_normal(density: Density, end: Tensor, given: Tensor) -> Tensor:
        mean, log_variance = density.net(given, h).chunk(2, -1)
        return Normal(mean, (0.5 * log_variance).exp()).log_prob(end).sum(-1)

    lift, _, drop = posterior.transitions
    log_v = posterior.log_base(context)(v)
    expected = log_v + log_normal(lift.density, z, v) - log_normal(drop.density, v, z)
    torch.testing.assert_close(last.log_q, expected)


def test_a_fresh_hvm_is_the_prior():
    """q(z|v) and r(v|z) start at N(0, I), so log q = log q(z) there, whatever v."""
    posterior = hvm(LATENT).double()
    draw = posterior(posterior.initial_context().double()[None], log_target, 5)
    z = draw.state.z
    torch.testing.assert_close(draw.log_q, Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_shared_sizes_must_agree():
    kernel = GaussianKernel(LATENT, shared_size=SHARED)
    with pytest.raises(ValueError, match="`shared_size` is 2 here"):
        kernel(State(torch.randn(1, 1, LATENT)), torch.zeros(1, 3), log_target)
