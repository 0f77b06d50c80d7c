"""The transport loss: what flows between annealed targets cost, what learns and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.generative import LinearGaussian
from models.losses import ELBO, Transport
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.metropolis import MetropolisLangevin
from models.posteriors.paths import Target
from models.posteriors.protocol import Move, State, Transition
from models.posteriors.schedules import Linear
from models.posteriors.step_sizes import Fixed
from tests.components import CONTEXT, SEED, X, make_posterior, perturbed, reseed

FLOWS: list[dict[str, Any]] = [
    {"name": "stochastic_flow", "num_steps": 2, "hidden": [6]},
    {"name": "particles", "of": {"name": "stochastic_flow", "num_steps": 2, "hidden": [6]}},
    {"name": "real_nvp", "num_layers": 2, "hidden": [6]},
]
LOG_Z = 0.7
MEAN, SCALE = 1.5, 0.6  # of the target, a Gaussian; the base is N(0, 1)


class Affine(Transition):
    """z' = shift + scale z, both learned."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64))

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        log_det = self.log_scale * state.z.shape[-1]
        z = self.shift + self.log_scale.exp() * state.z
        return Move(State(z), -log_det.expand(z.shape[:-1]))


class Blob:
    """Z N(z; mean, scale²) without an x, as far as a loss asks for it."""

    def log_prior(self, z: Tensor) -> Tensor:
        """log f(z)."""
        residual = (z - MEAN) / SCALE
        log_p = -0.5 * residual.square() - math.log(SCALE) - 0.5 * math.log(2 * math.pi)
        return LOG_Z + log_p.sum(-1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Nothing is observed."""
        return torch.zeros_like(z[..., 0])

    def log_joint(self, x: Tensor) -> Any:
        """log f."""
        return self.log_prior


def between(beta: float) -> tuple[float, float]:
    """Mean and scale of f_beta."""
    precision = (1 - beta) + beta / SCALE**2
    return beta * MEAN / SCALE**2 / precision, precision**-0.5


def log_z_between(beta: float) -> float:
    """log of the integral of N(0, 1)^(1 - beta) (Z N(mean, scale²))^beta, by quadrature."""
    z = torch.linspace(-12, 12, 20_001).double()[:, None]
    log_base = -0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi)
    log_f = (1 - beta) * log_base + beta * Blob().log_prior(z)
    return (log_f.logsumexp(0) + math.log(24 / 20_000)).item()


def standard(num_data: int = 3) -> Tensor:
    """The context of N(0, 1)."""
    return DiagonalGaussian(1).initial_context().double().expand(num_data, -1)


def test_perfect_flows_cost_minus_log_z_of_where_they_lead():
    """Whatever is drawn, and wherever the move between them goes."""
    (first_mean, first_scale), beta = between(0.5), 0.5
    second = SCALE / first_scale
    flows = [Affine(first_mean, first_scale), Affine(MEAN - second * first_mean, second)]
    move = MetropolisLangevin(1, step_size=lambda latent_dim: Fixed(latent_dim, first=0.1))
    chain = Chain(
        DiagonalGaussian(1), [flows[0], move.double(), flows[1]], schedule=Linear(num_targets=1)
    )
    model, x = Blob(), torch.zeros(3, 0)
    bound = Transport(num_samples=5)(model, chain, x, standard())  # type: ignore[arg-type]
    expected = -log_z_between(beta) - LOG_Z
    torch.testing.assert_close(bound.loss, torch.full((3,), expected).double())
    torch.testing.assert_close(bound.value, torch.full((3,), LOG_Z).double())


def test_without_moves_it_is_the_negative_elbo_of_the_flow(linear_gaussian: LinearGaussian):
    chain = perturbed(make_posterior(FLOWS[2]))
    found = gradients(Transport(num_samples=4), linear_gaussian, chain)
    expected = gradients(ELBO(num_samples=4), linear_gaussian, chain)
    assert len(found) > 0
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def gradients(loss: Any, model: LinearGaussian, chain: Chain) -> dict[str, Tensor]:
    """Of the chain's weights, by name, at draws that are always the same."""
    reseed()
    chain.zero_grad()
    context = CONTEXT[:, : chain.context_size]
    loss(model, chain, X, context).loss.sum().backward()
    return {name: p.grad.clone() for name, p in chain.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("options", FLOWS, ids=lambda o: o["name"])
def test_flows_learn_and_nothing_else(options, linear_gaussian: LinearGaussian):
    chain = perturbed(make_posterior(options))
    context = chain.initial_context().double().repeat(3, 1).requires_grad_()
    bound = Transport(num_samples=4)(linear_gaussian, chain, X, context)
    assert bound.value.requires_grad is False and len(bound.stats) == len(chain.transitions)
    bound.loss.sum().backward()
    assert context.grad is None or context.grad.abs().max() == 0
    assert all(p.grad is None for p in linear_gaussian.parameters())
    for flow in chain.transitions:
        assert all(p.grad.isfinite().all() for p in flow.parameters())
        assert flow.uses_target or any(p.grad.abs().max() > 0 for p in flow.parameters())


@pytest.mark.parametrize("options", FLOWS, ids=lambda o: o["name"])
def test_segments_are_the_stages_of_the_same_draws(options, linear_gaussian: LinearGaussian):
    chain = perturbed(make_posterior(options))
    context = chain.initial_context().double().expand(3, -1)
    log_joint = linear_gaussian.log_joint(X)
    torch.manual_seed(SEED)
    *_, last = chain.stages(context, log_joint, 4)
    torch.manual_seed(SEED)
    *segments, end = chain.segments(context, log_joint, 4)
    assert len(segments) == sum(transition.uses_target for transition in chain.transitions)
    torch.testing.assert_close(end.stage.state.z, last.state.z)
    torch.testing.assert_close(end.stage.log_q, last.log_q)
    for segment in [*segments, end]:
        torch.testing.assert_close(segment.shares.sum(0), torch.ones(3).double())


@pytest.mark.parametrize(
    ("name", "message"), [("gaussian", "has none"), ("annealed_mala", "has none"), ("uha", "lift")]
)
def test_what_has_no_flows_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        Transport().check(make_posterior({"name": name}))


def test_dependent_draws_will_do():
    Transport().check(make_posterior(FLOWS[1]))


def test_flows_learn_one_after_the_other_where_each_has_its_steps():
    """Two steps for the first, the rest for the second; a count that a checkpoint keeps."""
    flows = [Affine(0.1, 1.0), Affine(0.2, 1.0)]
    move = MetropolisLangevin(1, step_size=lambda latent_dim: Fixed(latent_dim, first=0.1))
    chain = Chain(
        DiagonalGaussian(1), [flows[0], move.double(), flows[1]], schedule=Linear(num_targets=1)
    )
    model, x, loss = Blob(), torch.zeros(3, 0), Transport(num_samples=5, steps_each=2)
    learned = []
    for step in range(5):
        if step == 1:
            state, loss = loss.state(), Transport(num_samples=5, steps_each=2)
            loss.restore(state)
        chain.zero_grad()
        loss(model, chain, x, standard()).loss.sum().backward()  # type: ignore[arg-type]
        with torch.no_grad():  # as in validation, which does not count
            loss(model, chain, x, standard())  # type: ignore[arg-type]
        learned.append([flow.shift.grad is not None for flow in flows])
    assert learned == [[True, False]] * 2 + [[False, True]] * 3
