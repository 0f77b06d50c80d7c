"""Learned annealed chains and diffusion samplers: limits, cost forms, what they share and cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from models.networks.control import Control
from models.posteriors.auxiliary import Lift
from models.posteriors.chain import Chain
from models.posteriors.controlled import ControlledGaussian, refresh
from models.posteriors.gaussian import StandardNormal
from models.posteriors.monte_carlo import langevin
from models.posteriors.per_datum import StackedLinear, per_datum
from models.posteriors.protocol import Stage
from models.posteriors.samplers import cmcd, dds, gbs, ldvi, mcd, pis, uha
from models.posteriors.step_sizes import LearnedSize
from tests.components import initial, normal, perturbed, reseed

SMALL = {"hidden": [8], "num_steps": 3}


def log_joint(z: Tensor) -> Tensor:
    """A smooth correlated density, unnormalised."""
    return -0.5 * z.square().sum(-1) - 0.1 * (z.sum(-1) - 0.3).pow(4)


def drawn(posterior: Chain, num_samples: int = 5) -> Stage:
    reseed(3)
    draw: Stage = posterior(initial(posterior, 2), log_joint, num_samples)
    return draw


@pytest.mark.parametrize("make", [mcd, cmcd])
def test_without_a_push_it_is_langevin_read_backwards(make):
    plain = langevin(2, num_steps=3, step_size=LearnedSize).double()
    draws = [drawn(plain), drawn(make(2, **SMALL).double())]
    torch.testing.assert_close(draws[0].state.z, draws[1].state.z)
    torch.testing.assert_close(draws[0].log_q, draws[1].log_q)


@pytest.mark.parametrize("rule", ["exact", "euler"])
@pytest.mark.parametrize("pushed", ["reverse", "both"])
def test_without_a_push_ldvi_is_uha(rule, pushed):
    plain = uha(2, num_steps=3, refresh=rule).double()
    learned = ldvi(2, refresh=rule, pushed=pushed, **SMALL).double()
    draws = [drawn(plain), drawn(learned)]
    torch.testing.assert_close(draws[0].state.z, draws[1].state.z)
    torch.testing.assert_close(draws[0].log_q, draws[1].log_q)


def test_an_exact_refresh_keeps_the_standard_normal():
    """The pair's log-density is that of N(0, I) afterwards as it was before."""
    standard = StandardNormal(2)
    posterior = Chain(standard, [Lift(density=standard), refresh(2, first=0.3)]).double()
    draw = drawn(posterior)
    assert draw.state.v is not None
    torch.testing.assert_close(draw.log_q, _log_normal(draw.state.z) + _log_normal(draw.state.v))


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("make", [dds, pis])
def test_kernel_ratios_are_the_published_cost_forms(make, scale):
    """log w of DDS (Vargas et al. 2023, eq. 25) and PIS (Zhang and Chen 2022, eq. 8).

    Both costs are a sum over steps of ½ |push|² + push · noise in units of the noise, and a
    terminal log N(z; 0, scale² I) - log f(z).
    """
    posterior = perturbed(make(2, scale=scale, sees_score=False, **SMALL), scale=0.3)
    context = initial(posterior, 2) + 0.3 * normal(2, posterior.context_size)
    stages = list(posterior.stages(context, log_joint, 5))
    cost = torch.zeros(5, 2).double()
    for transition, (before, after) in zip(
        posterior.transitions, itertools.pairwise(stages), strict=True
    ):
        assert isinstance(transition, ControlledGaussian)
        n, z = transition.numbers, before.state.z
        push = n.push * transition.control(z, context, transition.step) / n.scale
        noise = (after.state.z - n.keep * z) / n.scale - push
        cost = cost + (0.5 * push.square() + push * noise).sum(-1)
    z = stages[-1].state.z
    log_reference = _log_normal(z / scale) - 2 * math.log(scale)
    torch.testing.assert_close(stages[-1].log_q, cost + log_reference)


@pytest.mark.parametrize("make", [ldvi, mcd, cmcd, dds, gbs])
def test_one_net_of_all_steps_stays_one_where_each_datum_has_its_own(make):
    posterior = perturbed(make(2, **SMALL), scale=0.2)
    own = per_datum(posterior, 2)
    nets = {module for module in own.modules() if isinstance(module, Control)}
    assert len(nets) == (2 if make is gbs else 1)
    assert any(isinstance(module, StackedLinear) for module in own.modules())
    assert not any(type(module) is nn.Linear for module in own.modules())
    torch.testing.assert_close(drawn(posterior).log_q, drawn(own).log_q)


@pytest.mark.parametrize("make", [uha, ldvi, mcd, cmcd, dds, gbs])
def test_costs_a_gradient_a_step_and_one_more(make):
    """Each position is evaluated once; the last value of a DDS is the loss's own."""
    calls = []

    def counted(z: Tensor) -> Tensor:
        calls.append(z)
        return log_joint(z)

    options = {"num_steps": 3} if make is uha else SMALL
    posterior = make(2, **options).double()
    draw = posterior(initial(posterior, 2), counted, 5)
    assert draw.log_w.shape == (5, 2)
    assert len(calls) == 4


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="`pushed` is for a net; give `hidden`"):
        refresh(2, pushed="both")
    with pytest.raises(ValueError, match="`shared_size` is for a net; give `hidden`"):
        refresh(2, shared_size=2)
    with pytest.raises(ValueError, match="`first` must be between 0 and 1; got 1"):
        refresh(2, first=1.0)
