"""Chains that resample: unbiased as sets, dependent as draws, and refused where that matters."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from estimators.exact_draws import ExactDraws
from estimators.importance import ImportanceSampling
from estimators.particles import Particles
from models.generative import LinearGaussian
from models.losses import AVO, ELBO, IWAE, LogVariance
from models.posteriors.chain import Chain
from models.resampling import systematic
from models.targets import GaussianMixture
from tests.components import X, initial, make_posterior, normal, perturbed
from tests.tiny_runs import QUICKSTART, run


class Draws(NamedTuple):
    """The weights that an estimator looks at."""

    log_w: Tensor


NO_DATA = torch.zeros(200, 0, 1, 1).double()
MOVES: dict[str, dict[str, Any]] = {
    "annealed_mala": {
        "name": "annealed_mala", "num_steps": 4, "step_size": {"name": "fixed", "first": 0.4}
    },
    "langevin": {"name": "langevin", "num_steps": 4, "step_size": {"name": "fixed", "first": 0.2}},
    "uha": {"name": "uha", "num_steps": 4, "step_size": {"name": "fixed", "first": 0.4}},
    "cmcd": {"name": "cmcd", "num_steps": 4, "hidden": [8]},
    "dds": {"name": "dds", "num_steps": 4, "hidden": [8]},
}  # fmt: skip
every_chain = pytest.mark.parametrize("of", MOVES.values(), ids=list(MOVES))


def particles(of: dict[str, Any], below: float) -> Chain:
    return perturbed(make_posterior({"name": "particles", "of": of, "below": below}), scale=0.02)


def mixture() -> GaussianMixture:
    return GaussianMixture((0, 1, 1), num_modes=3, extent=1.5, places_seed=1).double()


@pytest.mark.parametrize("below", [0.0, 0.7, 1.0])
@every_chain
@torch.no_grad()
def test_a_sets_mean_weight_is_z_in_the_mean_over_200_sets(of: dict[str, Any], below: float):
    """log Z = 0; each of 200 data of one context is a set of 30 draws, a seed of its own."""
    posterior, target = particles(of, below), mixture()
    draw = posterior(initial(posterior, 200), target.log_joint(NO_DATA), 30)
    means = draw.log_w.exp().mean(0)
    error = means.std().item() / math.sqrt(200)
    assert error < 0.1
    assert abs(means.mean().item() - 1) < 4.5 * error
    share = torch.tensor([len(z.unique(dim=0)) for z in draw.state.z.movedim(1, 0)]).min() / 30
    assert (share == 1) == (below == 0 or draw.state.z.isnan().any())


@every_chain
@torch.no_grad()
def test_resampling_evaluates_no_place_twice(of: dict[str, Any]):
    """K + 1 as without it, but for steps that do not look at the place that they reach."""
    counts = []
    for below in (0.0, 1.0):
        calls: list[Tensor] = []
        posterior = particles(of, below)

        def counted(z: Tensor, calls: list[Tensor] = calls) -> Tensor:
            calls.append(z)
            return mixture().log_f(z)

        draw = posterior(initial(posterior, 2), counted, 5)
        assert draw.log_w.shape == (5, 2)
        counts.append(len(calls))
    assert counts == [5, 5]


@torch.no_grad()
def test_after_resampling_at_the_last_target_all_weights_are_alike():
    """A chain without a schedule: every target is p(x, z), so the last weights are the set's."""
    moves = [{"name": "langevin", "step_size": {"name": "fixed", "first": 0.1}}] * 2
    of = {"name": "chain", "base": {"name": "diagonal"}, "transitions": moves}
    posterior = particles(of, 1.0)
    log_w = posterior(initial(posterior, 3), mixture().log_f, 20).log_w
    torch.testing.assert_close(log_w, log_w[:1].expand_as(log_w))


def test_heirs_are_in_proportion_to_weights():
    weights = normal(7, 500).softmax(0)
    ancestors = systematic(weights)
    counts = torch.nn.functional.one_hot(ancestors, 7).sum(0).T  # (7, 500)
    assert ((counts - 7 * weights).abs() < 1 + 1e-9).all()
    off = counts.double() - 7 * weights
    error = off.std(1) / math.sqrt(500)
    assert (off.mean(1).abs() < 4.5 * error).all()


def test_what_needs_independent_draws_refuses_them(linear_gaussian: LinearGaussian):
    posterior = particles(MOVES["langevin"], 0.5)
    for loss in (ELBO(), IWAE(), AVO(), LogVariance()):
        with pytest.raises(ValueError, match="these draws are resampled"):
            loss.check(posterior)
    for estimator in (ImportanceSampling(), ExactDraws()):
        with pytest.raises(ValueError, match="these draws are resampled"):
            estimator.check(mixture(), posterior)
    Particles().check(linear_gaussian, posterior)


def test_flows_have_no_target_after_which_to_resample():
    with pytest.raises(ValueError, match="`of` has no move that looks at a target"):
        make_posterior({"name": "particles", "of": {"name": "planar"}})


def test_sets_give_log_px_and_a_lower_bound(linear_gaussian: LinearGaussian):
    posterior = particles(MOVES["uha"], 0.7)
    got = Particles(num_samples=20, num_sets=400)(
        linear_gaussian, posterior, X, initial(posterior, 3)
    )
    exact, bound = linear_gaussian.log_px(X), got.stats["set_bound"]
    assert got.log_px.standard_error is not None
    assert bound.standard_error is not None
    assert (got.log_px.standard_error < 0.5).all()
    assert ((got.log_px.value - exact).abs() < 5 * got.log_px.standard_error).all()
    assert (bound.value < exact + 4.5 * bound.standard_error).all()
    assert (bound.value <= got.log_px.value + 1e-9).all()


def test_sets_of_which_one_has_all_the_weight_are_not_believed(linear_gaussian: LinearGaussian):
    class Uneven:
        """Draws alike within a set; the first set outweighs the others at the first datum."""

        calls = 0

        def __call__(self, context: Tensor, log_joint: object, num_samples: int) -> Draws:
            self.calls += 1
            first = [0.0 if self.calls == 1 else -50.0, 0.0]
            return Draws(torch.tensor(first).expand(num_samples, 2))

    got = Particles(num_samples=3, num_sets=20)(
        linear_gaussian, Uneven(), X[:2], torch.zeros(2, 0)
    )
    assert got.stats["ess"].value.tolist() == pytest.approx([1, 20])
    assert got.stats["reliable"].value.tolist() == [0, 1]


@pytest.mark.usefixtures("results_here")
def test_a_trained_chain_is_measured_as_particles(tmp_path, capsys):
    of = "{name: langevin, num_steps: 2, step_size: {name: learned}}"
    shared = ["-config", QUICKSTART, "-set", "data.name=digits", "training.max_data=40"]
    shared += ["training.epochs=1", "evaluation.max_data=3", "runtime.tensorboard=false"]
    few = "evaluation.estimators=[{name: importance, num_samples: 20}]"
    assert run(*shared, f"posterior={of}", "experiment=plain", few) == 0
    particles = f"posterior={{name: particles, of: {of}}}"
    given = ["phases=[estimate]", "initialise={run: last, experiment: plain}", particles]
    sets = "evaluation.estimators=[{name: particles, num_samples: 5, num_sets: 4}]"
    assert run(*shared, *given, sets) == 0
    assert "particles-5x4" in capsys.readouterr().out
    assert run(*shared, particles, sets) == 2
    assert "`loss`: these draws are resampled" in capsys.readouterr().err
