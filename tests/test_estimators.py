from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from estimators.best import Best
from estimators.bidirectional import BidirectionalMonteCarlo
from estimators.exact import Exact
from estimators.importance import ImportanceSampling, pareto_k_hat
from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models.generative import LinearGaussian
from models.posteriors.gaussian import gaussian
from tests.components import CONTEXT, X, make_node, reseed


def test_importance_sampling_meets_the_exact_answer(linear_gaussian: LinearGaussian):
    estimator = ImportanceSampling(num_samples=20_000, chunk_size=3000)
    log_px, stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    exact = Exact()(linear_gaussian, gaussian(2), X, CONTEXT).log_px.value
    assert ((log_px.value - exact).abs() < 4.5 * log_px.standard_error).all()
    assert (log_px.standard_error < 0.05).all()
    assert (stats["elbo"].value < exact).all()
    assert (stats["ess"].value < 20_000).all()
    assert (stats["k_hat"].value < 0.7).all()


def test_climbs_to_log_px(linear_gaussian: LinearGaussian):
    """The mean bound rises with the samples, and that of 1000 is short by Var[w] / 2000."""
    exact = linear_gaussian.log_px(X)
    bounds = []
    for samples in (1, 10, 100, 1000):
        estimator = ImportanceSampling(num_samples=samples)
        repeats = max(100, 4000 // samples)
        x, context = X.repeat(repeats, 1, 1, 1), CONTEXT.repeat(repeats, 1)
        value = estimator(linear_gaussian, gaussian(2), x, context).log_px.value
        short = (exact - value.view(repeats, 3)).mean(1)
        bounds.append((short.mean().item(), short.std().item() / math.sqrt(repeats)))
    for (first, first_error), (later, later_error) in pairwise(bounds):
        assert later - first < 4.5 * math.hypot(first_error, later_error)
    (first, first_error), *_, (last, last_error) = bounds
    assert first - last > 4.5 * math.hypot(first_error, last_error)
    assert abs(last) < 0.01 + 4.5 * last_error


def test_the_exact_posterior_has_equal_weights(linear_gaussian: LinearGaussian):
    mean, covariance = linear_gaussian.exact_posterior(X)
    lower = torch.linalg.cholesky(covariance)
    context = torch.cat(
        [mean, lower.diagonal().log().expand(3, -1), lower[1:, :1].expand(3, -1)], -1
    )
    estimator = ImportanceSampling(num_samples=64)
    log_px, stats = estimator(linear_gaussian, gaussian(2, covariance="full"), X, context)
    torch.testing.assert_close(log_px.value, linear_gaussian.log_px(X))
    torch.testing.assert_close(stats["ess"].value, torch.full((3,), 64.0).double())


def test_chunks_change_nothing_but_rounding(linear_gaussian: LinearGaussian):
    """Statistics of chunks add up to those of the whole, computed directly in the test."""
    log_w = []
    posterior = gaussian(2)

    reseed(2)
    estimate = ImportanceSampling(num_samples=50, chunk_size=21)(
        linear_gaussian, posterior, X, CONTEXT
    )
    reseed(2)
    for size in (7,) * 7 + (1,):
        stage = posterior(CONTEXT, linear_gaussian.log_joint(X), size)
        log_w.append(linear_gaussian.log_joint(X)(stage.state.z) - stage.log_q)
    w = torch.cat(log_w)
    torch.testing.assert_close(estimate.log_px.value, w.logsumexp(0) - math.log(50))
    torch.testing.assert_close(estimate.stats["elbo"].value, w.mean(0))
    torch.testing.assert_close(estimate.stats["elbo"].standard_error, w.std(0) / math.sqrt(50))
    weights = w.exp()
    relative = weights.std(0) / weights.mean(0) / math.sqrt(50)
    torch.testing.assert_close(estimate.log_px.standard_error, relative)
    torch.testing.assert_close(
        estimate.stats["ess"].value, weights.sum(0).square() / weights.square().sum(0)
    )


def test_standard_error_covers(linear_gaussian: LinearGaussian):
    """95 % intervals hold the truth in about 95 % of 600 repetitions (binomial 5 sigma)."""
    repeats = 600
    x, context = X[:1].repeat(repeats, 1, 1, 1), CONTEXT[:1].repeat(repeats, 1)
    estimate = ImportanceSampling(num_samples=2000, chunk_size=600_000)(
        linear_gaussian, gaussian(2), x, context
    )
    exact = linear_gaussian.log_px(X[:1])
    inside = (estimate.log_px.value - exact).abs() < 1.96 * estimate.log_px.standard_error
    assert abs(inside.double().mean().item() - 0.95) < 5 * math.sqrt(0.05 * 0.95 / repeats)


def test_one_sample_has_no_error_bar(linear_gaussian: LinearGaussian):
    estimate = ImportanceSampling(num_samples=1)(linear_gaussian, gaussian(2), X, CONTEXT)
    assert estimate.log_px.standard_error.isnan().all()
    assert estimate.log_px.value.isfinite().all()


@pytest.mark.parametrize("shape", [0.2, 0.9])
def test_k_hat_recovers_a_pareto_tail(shape):
    """Weights u^-k have a generalised Pareto tail of shape k.

    Its maximum-likelihood fit to M values has the standard error (1 + k) / √M. The fit's prior,
    worth ten values of shape 0.5, and weights that are none of the tail shift it by 0.02 or less.
    """
    num_draws, num_data = 20_000, 50
    u = torch.rand(num_draws, num_data, dtype=torch.float64)
    k_hat = pareto_k_hat(-shape * u.log())
    error = (1 + shape) / math.sqrt(3 * math.sqrt(num_draws))
    assert ((k_hat - shape).abs() < 4.5 * error + 0.02).all()
    assert abs(k_hat.mean() - shape) < 4.5 * error / math.sqrt(num_data) + 0.02


def test_k_hat_of_constant_or_few_weights_is_nan():
    assert pareto_k_hat(torch.zeros(100, 1)).isnan().all()
    assert pareto_k_hat(torch.randn(10, 1)).isnan().all()


class Fixed(Estimator):
    """Gives what it was told, with an error of a tenth unless it is ``exact``."""

    def __init__(self, label: str, *values: float, exact: bool = False) -> None:
        self.label, self.values, self.exact = label, torch.tensor(values), exact

    def __call__(self, model, posterior, x, context, z=None) -> Estimate:
        return Estimate(Quantity(self.values, None if self.exact else self.values.abs() / 10))


def test_the_maximum_is_taken_datum_by_datum(linear_gaussian: LinearGaussian):
    of = [Fixed("a", -1.0, -5.0, -3.0, math.nan), Fixed("b", -2.0, -4.0, -math.inf, -7.0)]
    estimator = Best(of=of)
    (value, error), stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    assert estimator.label == "max(a, b)"
    assert value.tolist() == [-1.0, -4.0, -3.0, -7.0]
    assert error.tolist() == pytest.approx([0.1, 0.4, 0.3, 0.7])
    assert stats["winner"].value.tolist() == [0, 1, 0, 1]
    assert stats["b"].value.tolist() == [-2.0, -4.0, -math.inf, -7.0]


def test_the_maximum_has_an_error_where_the_largest_has_one(linear_gaussian: LinearGaussian):
    of = [Fixed("a", -1.0, -5.0), Fixed("b", -2.0, -4.0, exact=True)]
    (value, error), _ = Best(of=of)(linear_gaussian, gaussian(2), X[:2], CONTEXT[:2])
    assert value.dtype == torch.float64
    assert error[0].item() == pytest.approx(0.1)
    assert error[1].isnan()


def test_the_maximum_is_built_of_a_configuration(linear_gaussian: LinearGaussian):
    ais = {"name": "ais", "num_distributions": 10, "num_chains": 20}
    node = make_node(estimators, {"name": "max", "of": [{"name": "importance"}, ais]})
    estimator = node.build(compile_step=False)
    assert estimator.label == "max(IWAE-5000, AIS-10x20)"
    (value, error), stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    torch.testing.assert_close(
        value, torch.maximum(stats["IWAE-5000"].value, stats["AIS-10x20"].value)
    )
    assert ((value - linear_gaussian.log_px(X)).abs() < 5 * error + 0.2).all()


def test_the_maximum_wants_several_that_need_no_simulated_data():
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "importance"}]})
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "ais"}, {"name": "max"}]})
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "ais"}, {"name": "exact"}]})
    with pytest.raises(ValueError, match="stands twice"):
        Best(of=[Fixed("a"), Fixed("a")])
    with pytest.raises(ValueError, match="simulated"):
        Best(of=[Exact(), BidirectionalMonteCarlo(False)])


def test_the_maximum_checks_its_parts():
    class Refusing(Fixed):
        def check(self, model) -> None:
            raise ValueError("not for this model")

    with pytest.raises(ValueError, match="not for this model"):
        Best(of=[Fixed("a"), Refusing("b")]).check(LinearGaussian((1, 1, 3)))
