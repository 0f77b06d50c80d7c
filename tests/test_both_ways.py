"""Chains read backwards from exact draws, and along paths that are constants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.posteriors.chain import Chain
from models.posteriors.protocol import posteriors
from tests.components import POSTERIORS, make_node, make_posterior, normal, perturbed

LOG_Z, SCALE, LATENT = math.log(3.0), 1.3, 2


def log_joint(z: Tensor) -> Tensor:
    """3 N(0, 1.3² I): wider than the bases, so that inverse weights are light."""
    squares = (z / SCALE).square() + math.log(2 * math.pi * SCALE**2)
    return LOG_Z - 0.5 * squares.sum(-1)


def built(options: dict) -> Chain:
    posterior: Chain = make_node(posteriors, options).build(latent_dim=LATENT, num_features=3)
    return posterior


def is_reversible(options: dict) -> bool:
    return all(transition.reversible for transition in built(options).transitions)


def has_density(options: dict) -> bool:
    return all(transition.has_density for transition in built(options).transitions)


REVERSIBLE = [given for given in POSTERIORS if is_reversible(given.values[0])]
WITH_DENSITY = [given for given in POSTERIORS if has_density(given.values[0])]


def test_the_samplers_are_among_them():
    names = {given.values[0]["name"] for given in REVERSIBLE}
    samplers = {"uha", "ldvi", "mcd", "cmcd", "dds", "pis", "gbs", "langevin", "annealed_mala"}
    assert names >= samplers | {"gaussian", "hvi", "hamiltonian", "hamiltonian_vi"}
    names = {given.values[0]["name"] for given in WITH_DENSITY}
    assert names >= {"gaussian", "hvi", "langevin", "mcd", "cmcd", "dds", "pis", "gbs"}
    assert not names & {"uha", "ldvi", "annealed_mala", "planar"}


@pytest.mark.parametrize("options", REVERSIBLE)
@torch.no_grad()
def test_backwards_from_exact_draws_inverse_weights_have_mean_one_over_z(options: dict):
    posterior = perturbed(make_posterior(options), scale=0.02)
    context = posterior.initial_context().double()[None]
    z = SCALE * normal(20_000, 1, LATENT)
    log_w = posterior.log_w_backwards(context, log_joint, z)
    inverse = (LOG_Z - log_w).exp()
    error = inverse.std() / math.sqrt(len(inverse))
    assert error < 0.05
    assert (inverse.mean() - 1).abs() < 4.5 * error
    bound_error = log_w.std() / math.sqrt(len(log_w))
    assert log_w.mean() > LOG_Z - 4.5 * bound_error


@pytest.mark.parametrize("options", REVERSIBLE)
@torch.no_grad()
def test_backwards_costs_as_much_as_forwards(options: dict):
    """An evaluation of the target a place; the forward draw's last value is among its own."""
    counts = []

    def counted(z: Tensor) -> Tensor:
        counts[-1] += 1
        return log_joint(z)

    posterior = make_posterior(options)
    context = posterior.initial_context().double()[None]
    counts.append(0)
    draw = posterior(context, counted)
    assert draw.log_w.shape == (1, 1)
    counts.append(0)
    posterior.log_w_backwards(context, counted, draw.state.z)
    assert counts[1] == counts[0]


def test_what_cannot_be_read_backwards_is_named():
    posterior = make_posterior({"name": "planar"})
    with pytest.raises(
        ValueError, match=r"`transitions\[0\]` \(Planar\) cannot be read backwards"
    ):
        posterior.log_w_backwards(
            torch.zeros(1, posterior.context_size), log_joint, normal(1, 1, 2)
        )


@pytest.mark.parametrize("options", WITH_DENSITY)
def test_along_a_constant_path_log_q_is_that_of_the_draw(options: dict):
    """The draw is that of the same stream, and its log_q is recomputed out of the path."""
    posterior = perturbed(make_posterior(options), scale=0.1)
    context = posterior.initial_context().double()[None].repeat(3, 1).requires_grad_()
    state = torch.get_rng_state()
    *_, stage = posterior.along_constant_paths(context, log_joint, 5)
    torch.set_rng_state(state)
    draw = posterior(context, log_joint, 5)
    torch.testing.assert_close(stage.state.z, draw.state.z)
    torch.testing.assert_close(stage.log_q, draw.log_q)
    assert not stage.state.z.requires_grad


@pytest.mark.parametrize("options", WITH_DENSITY)
def test_no_gradient_goes_through_the_target(options: dict):
    posterior = perturbed(make_posterior(options), scale=0.1)
    context = posterior.initial_context().double()[None].requires_grad_()
    level = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    *_, stage = posterior.along_constant_paths(context, lambda z: level * log_joint(z), 5)
    stage.log_q.sum().backward()
    assert level.grad is None
