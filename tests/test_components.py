"""Hygiene of every registered loss, estimator, warm-up, optimiser and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from estimators.protocol import estimators
from experiments.runner.optimisers import optimisers, schedules
from experiments.runner.schema import REGISTRIES
from models.generative import LinearGaussian
from models.losses import losses, warmups
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian
from models.posteriors.protocol import Stage, Transition
from models.targets import GaussianMixture
from tests.components import (
    POSTERIORS,
    initial,
    make_node,
    make_posterior,
    standard_log_prob,
)

X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.2]]).double().view(2, 1, 1, 3)
NEEDED: dict[str, dict[str, Any]] = {  # for options without a default, or with a slow one
    "avo": {"base_weight": 1.0},
    "ais": {"num_distributions": 20},
    "bdmc": {"num_distributions": 20},
    **{
        name: {"of": [{"name": "importance", "num_samples": n} for n in (100, 200)]}
        for name in ("combined", "max")
    },
    "linear": {"epochs": 5},
    "cyclical": {"period": 4},
    "multi_step": {"milestones": [2, 4]},
}

ESTIMATED = {  # what an estimator takes that does not take every model
    "exact_draws": GaussianMixture((0, 1, 1), num_modes=3, extent=1.0).double(),
}


def has_nothing_to_learn(transition: Transition) -> bool:
    return transition.context_size == 0 and not list(transition.parameters())


REFUSES: dict[str, Callable[[Chain, list[Stage]], bool]] = {  # which posteriors
    "avo": lambda posterior, stages: (
        len(stages) == 1
        or any(stage.state.v is not None for stage in stages)
        or posterior.makes_choices
        or any(map(has_nothing_to_learn, posterior.transitions))
    ),
    "log_variance": lambda posterior, stages: (
        not all(transition.has_density for transition in posterior.transitions)
    ),
    "fab": lambda posterior, stages: (
        not all(
            transition.reversible and not transition.has_density and not transition.uses_target
            for transition in posterior.transitions
        )
    ),
    "transport": lambda posterior, stages: (
        all(transition.uses_target for transition in posterior.transitions)
        or any(
            transition.uses_target and stage.state.v is not None
            for transition, stage in zip(posterior.transitions, stages, strict=False)
        )
    ),
}


REFUSES["fab_replay"] = REFUSES["fab"]


def of(registry) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", registry.names())


def build(registry, name: str, **sizes: Any) -> Any:
    return make_node(registry, {"name": name, **NEEDED.get(name, {})}).build(**sizes)


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=list(REGISTRIES))
def test_every_component_says_in_one_line_what_it_is(registry):
    for entry in registry:
        assert entry.summary.endswith((".", ")")), entry.name
        assert len(entry.summary) < 100, entry.name


def refused(name: str, posterior: Chain) -> bool:
    """Whether the loss is expected to refuse the posterior; a loss that states nothing may not."""
    stages = list(posterior.stages(initial(posterior, 1), standard_log_prob))
    return name in REFUSES and REFUSES[name](posterior, stages)


@of(losses)
@pytest.mark.parametrize("options", POSTERIORS)
def test_every_loss_takes_every_posterior_but_those_it_is_known_to_refuse(
    linear_gaussian: LinearGaussian, name, options
):
    posterior = make_posterior(options)
    context = initial(posterior, 2).requires_grad_()
    loss = build(losses, name)
    if refused(name, posterior):
        with pytest.raises(ValueError):
            loss.check(posterior)
        return
    loss.check(posterior)
    bound = loss(linear_gaussian, posterior, X, context)
    assert bound.loss.shape == bound.value.shape == (2,)
    assert not bound.value.requires_grad
    for metric in bound.metrics.values():
        assert metric.shape == (2,)
        assert not metric.requires_grad
    bound.loss.sum().backward()
    posterior.adapt(bound.stats)  # one mapping for each transition
    if context.grad is None:  # flows of weights alone, before which all is constant
        assert name == "transport" or (
            # An annealed step leaves h alone, and a fixed base takes nothing else.
            name in ("avo", "log_variance") and posterior.base.context_size == 0
        )
    else:
        assert context.grad.isfinite().all()
    if loss.trains_model:
        assert linear_gaussian.weight.grad.abs().sum() > 0
    else:
        assert linear_gaussian.weight.grad is None


@of(losses)
def test_every_loss_takes_most_posteriors(name):
    taken = [not refused(name, make_posterior(*case.values)) for case in POSTERIORS]
    # Of flows no move has a density, of what else there is no density of the whole is known.
    least = {"log_variance": 1 / 4, "fab": 1 / 20, "fab_replay": 1 / 20}.get(name, 1 / 2)
    assert sum(taken) > len(taken) * least


@of(estimators)
def test_an_estimators_settings_are_its_options_but_for_those_of_time_and_memory(name):
    estimator = build(estimators, name, compile_step=False, rounded_forces=False)
    options = {option.name for option in estimators[estimator.name].options}
    assert set(estimator.settings) == options - {"chunk_size"}
    assert set(estimator.method.options) <= set(estimator.settings)


@of(estimators)
def test_every_estimator_gives_a_number_a_datum(linear_gaussian: LinearGaussian, name):
    estimator = build(estimators, name, compile_step=False, rounded_forces=False)
    posterior, model = gaussian(2), ESTIMATED.get(name, linear_gaussian)
    estimator.check(model, posterior)
    context = posterior.initial_context().double().repeat(2, 1)
    z = linear_gaussian.exact_posterior(X).mean.detach() if estimator.simulates else None
    arguments = (X, context) if z is None else (X, context, z)
    estimate = estimator(model, posterior, *arguments)
    for quantity in (estimate.log_px, *estimate.stats.values()):
        assert quantity.value.shape == (2,)
        assert not quantity.value.requires_grad
    error = estimate.log_px.standard_error
    exact = model.log_px(X)
    assert ((estimate.log_px.value - exact).abs() <= 5 * error + 1e-9).all()


@of(warmups)
def test_every_warmup_ends_at_one(name):
    warmup = build(warmups, name)
    weights = [warmup.weight(epoch) for epoch in range(1, int(warmup.length) + 3)]
    assert all(0 <= weight <= 1 for weight in weights)
    assert weights[-1] == weights[-2] == 1
    assert weights[0] < 1


@of(optimisers)
def test_every_optimiser_goes_downhill(name):
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimiser = build(optimisers, name, parameters=[parameter])
    before = parameter.square().sum().item()
    for _ in range(20):
        optimiser.zero_grad()
        parameter.square().sum().backward()
        optimiser.step()
    assert parameter.square().sum().item() < before


@of(schedules)
def test_every_schedule_starts_at_one_and_stays_positive(name):
    schedule = build(schedules, name, epochs=10, has_validation=True)
    assert schedule(1, []) == 1
    assert all(0 < schedule(epoch, []) <= 1 for epoch in range(1, 11))
