from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from estimators.annealed import AnnealedImportanceSampling
from estimators.best import Best, Combined
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


def test_k_hat_of_few_draws_or_broken_weights_is_nan():
    assert pareto_k_hat(torch.randn(24, 1)).isnan().all()
    broken = torch.randn(100, 2)
    broken[3, 0], broken[3, 1] = math.nan, math.inf
    assert pareto_k_hat(broken).isnan().all()


@pytest.mark.parametrize("num_draws", [25, 100, 1000, 5000])
@pytest.mark.parametrize("spread", [500, 1000, 5000, 100_000])
def test_k_hat_is_large_where_one_weight_is_all_there_is(num_draws, spread):
    """Weights in float64 end at e^-745: what lies below must not read as a light tail."""
    even = (0.5 + torch.arange(num_draws).double())[:, None] / num_draws
    quantiles = torch.cat([even, even.logit(), even.log1p()], 1)
    log_w = spread * torch.cat([quantiles, torch.randn(num_draws, 5).double() / 4], 1)
    assert (pareto_k_hat(log_w) > 0.7).all()
    assert (pareto_k_hat(log_w.float()) > 0.7).all()


def test_k_hat_grows_with_the_tail():
    """Of a Pareto tail of shape s, up to what float64 cannot hold."""
    shapes = torch.tensor([0.1, 0.5, 2, 10, 100, 1000, 10_000], dtype=torch.float64)
    k_hat = pareto_k_hat(-shapes * torch.rand(1000, 1, dtype=torch.float64).log())
    assert (k_hat[:-1] <= k_hat[1:]).all()
    assert k_hat[-1] == math.inf


def test_k_hat_of_equal_weights_is_zero_up_to_rounding():
    log_w = torch.full((5000, 4), -123.4)
    log_w[:, 1] += 3e-5 * torch.randn(5000)  # a few units of the last place
    log_w[:, 2] += 1e-9
    log_w[2500:, 3] = -math.inf  # a tail of equal weights, whatever lies below
    for some in (log_w, log_w.double(), log_w.double() + 1e-13 * torch.randn(5000, 4).double()):
        assert (pareto_k_hat(some) == 0).all()


def test_k_hat_of_few_weights_above_equal_ones_is_infinite():
    log_w = torch.zeros(1000, 3).double()
    log_w[:5, 0] = 3.0
    log_w[5:, 1] = -math.inf  # five weights, and nothing else
    log_w[:, 2] = -math.inf
    assert (pareto_k_hat(log_w) == math.inf).all()


def test_weights_that_are_not_there_have_an_infinite_error(linear_gaussian: LinearGaussian):
    class Impossible(LinearGaussian):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z) - math.inf

    model = Impossible((1, 1, 3), latent_dim=2).double()
    (value, error), stats = ImportanceSampling(num_samples=50)(model, gaussian(2), X, CONTEXT)
    assert (value == -math.inf).all()
    assert (error == math.inf).all()
    assert (stats["ess"].value == 0).all()
    assert (stats["reliable"].value == 0).all()


def test_one_weight_of_zero_makes_the_bound_minus_infinity(linear_gaussian: LinearGaussian):
    """But leaves log p(x), whatever the chunks."""

    class Half(LinearGaussian):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z).masked_fill(z[..., 0] < 0, -math.inf)

    model = Half((1, 1, 3), latent_dim=2).double()
    estimator = ImportanceSampling(num_samples=500, chunk_size=30)
    (value, error), stats = estimator(model, gaussian(2), X, CONTEXT)
    assert value.isfinite().all()
    assert error.isfinite().all()
    bound, its_error = stats["elbo"]
    assert (bound == -math.inf).all()
    assert (its_error == math.inf).all()


@pytest.mark.parametrize(("scale", "reliable"), [(0.7, 1), (0.001, 0)])
def test_reliability_is_that_of_k_hat(scale, reliable):
    """A standard normal q has bounded weights; of a posterior so narrow, a few draws have all."""
    model = LinearGaussian((1, 1, 3), latent_dim=2, scale=scale).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.8], [0.3, 1.2], [0.5, 0.8]]))
    context = torch.zeros(3, 4).double()
    _, stats = ImportanceSampling(num_samples=5000)(model, gaussian(2), X, context)
    assert ((stats["k_hat"].value < 0.7) == bool(reliable)).all()
    for name in ("reliable", "reliable_a", "reliable_b"):
        assert (stats[name].value == reliable).all()


def test_halves_are_every_other_draw(linear_gaussian: LinearGaussian):
    """Whatever the chunks, of which one may hold a single draw."""
    for chunk_size in (3, 21, 1000):
        reseed(2)
        estimator = ImportanceSampling(num_samples=51, chunk_size=chunk_size)
        _, stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
        reseed(2)
        step = max(1, chunk_size // 3)
        log_joint = linear_gaussian.log_joint(X)
        log_w = []
        for start in range(0, 51, step):
            stage = gaussian(2)(CONTEXT, log_joint, min(step, 51 - start))
            log_w.append(log_joint(stage.state.z) - stage.log_q)
        for first, name in enumerate(("log_px_a", "log_px_b")):
            w = torch.cat(log_w)[first::2].exp()
            value, error = stats[name]
            torch.testing.assert_close(value, w.mean(0).log())
            torch.testing.assert_close(error, w.std(0) / w.mean(0) / math.sqrt(len(w)))


def test_a_single_draw_has_no_halves(linear_gaussian: LinearGaussian):
    for num_samples in (1, 2):
        estimator = ImportanceSampling(num_samples=num_samples)
        _, stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
        for name in ("log_px_a", "log_px_b", "reliable_a", "reliable_b"):
            assert (name in stats) is estimator.has_halves is (num_samples > 1)


def test_the_combination_is_within_its_error_and_the_maximum_leans(linear_gaussian):
    """400 replications: 95 % intervals hold log p(x), on either side of it (binomial 5 sigma)."""
    repeats = 400
    x, context = X[:1].repeat(repeats, 1, 1, 1), CONTEXT[:1].repeat(repeats, 1)
    short = {"num_chains": 60, "num_distributions": 3, "num_leapfrog": 2, "chunk_size": 10**6}
    of = [ImportanceSampling(num_samples=300), AnnealedImportanceSampling(False, **short)]
    exact = linear_gaussian.log_px(X[:1]).detach()
    (value, error), stats = Combined(of=of)(linear_gaussian, gaussian(2), x, context)
    z_score = (value - exact) / error
    inside = (z_score.abs() < 1.96).double().mean().item()
    assert abs(inside - 0.95) < 5 * math.sqrt(0.05 * 0.95 / repeats)
    above = (z_score > 0).double().mean().item()
    assert abs(above - 0.5) < 5 * 0.5 / math.sqrt(repeats)
    ratio = (value - exact).exp()  # unbiased
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(repeats)
    own = torch.stack([stats[estimator.label].value for estimator in of])
    excess = own.max(0).values - exact
    assert excess.mean() > 5 * excess.std() / math.sqrt(repeats)
    shares = torch.stack([stats[f"weight of {estimator.label}"].value for estimator in of])
    torch.testing.assert_close(shares.sum(0), torch.ones(repeats).double())
    assert stats["reliable"].value.mean() > 0.9


def test_the_combination_is_built_of_a_configuration(linear_gaussian: LinearGaussian):
    ais = {"name": "ais", "num_distributions": 3, "num_chains": 20}
    node = make_node(estimators, {"name": "combined", "of": [{"name": "importance"}, ais]})
    estimator = node.build(compile_step=False, rounded_forces=False)
    assert estimator.label == "combined(IWAE-5000, AIS-3x20 (posterior, adaptive))"
    value, error = estimator(linear_gaussian, gaussian(2), X, CONTEXT).log_px
    assert ((value - linear_gaussian.log_px(X)).abs() < 5 * error).all()


def test_the_combination_wants_several_that_have_halves():
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "combined", "of": [{"name": "ais"}, {"name": "max"}]})
    smc = AnnealedImportanceSampling(False, resample_below=0.5)
    for other in (smc, ImportanceSampling(num_samples=1)):
        with pytest.raises(ValueError, match="no independent halves"):
            Combined(of=[ImportanceSampling(), other])
    with pytest.raises(ValueError, match=r"`combined`: .* lists one estimator twice"):
        Combined(of=[ImportanceSampling(), ImportanceSampling()])
    with pytest.raises(ValueError, match="simulated"):
        Combined(of=[ImportanceSampling(), BidirectionalMonteCarlo(False)])


class Fixed(Estimator):
    """Gives what it was told, with an error of a tenth unless it is ``exact``."""

    def __init__(self, name: str, *values: float, exact: bool = False) -> None:
        self.name, self.values, self.exact = name, torch.tensor(values), exact

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


def test_the_maximum_is_believed_where_the_largest_is(linear_gaussian: LinearGaussian):
    class Doubtful(Fixed):
        def __call__(self, *args, **kwargs) -> Estimate:
            log_px, _ = super().__call__(*args, **kwargs)
            return Estimate(log_px, {"reliable": Quantity(torch.tensor([0.0, 0.0, 1.0]).double())})

    of = [Doubtful("a", -1.0, -5.0, -3.0), Fixed("b", -2.0, -4.0, -4.0)]  # b does not say
    _, stats = Best(of=of)(linear_gaussian, gaussian(2), X, CONTEXT)
    assert stats["reliable"].value.tolist() == [0, 1, 1]


def test_the_maximum_is_built_of_a_configuration(linear_gaussian: LinearGaussian):
    ais = {"name": "ais", "num_distributions": 10, "num_chains": 20}
    node = make_node(estimators, {"name": "max", "of": [{"name": "importance"}, ais]})
    estimator = node.build(compile_step=False, rounded_forces=False)
    assert estimator.label == "max(IWAE-5000, AIS-10x20 (posterior, adaptive))"
    (value, error), stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    torch.testing.assert_close(
        value,
        torch.maximum(stats["IWAE-5000"].value, stats["AIS-10x20 (posterior, adaptive)"].value),
    )
    assert ((value - linear_gaussian.log_px(X)).abs() < 5 * error + 0.2).all()


def test_the_maximum_wants_several_that_need_no_simulated_data():
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "importance"}]})
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "ais"}, {"name": "max"}]})
    with pytest.raises(ValidationError):
        make_node(estimators, {"name": "max", "of": [{"name": "ais"}, {"name": "exact"}]})
    with pytest.raises(ValueError, match="lists one estimator twice"):
        Best(of=[Fixed("a"), Fixed("a")])
    with pytest.raises(ValueError, match="simulated"):
        Best(of=[Exact(), BidirectionalMonteCarlo(False)])


def test_the_maximum_checks_its_parts():
    class Refusing(Fixed):
        def check(self, model, posterior) -> None:
            raise ValueError("not for this model")

    with pytest.raises(ValueError, match="not for this model"):
        Best(of=[Fixed("a"), Refusing("b")]).check(LinearGaussian((1, 1, 3)), gaussian(2))
