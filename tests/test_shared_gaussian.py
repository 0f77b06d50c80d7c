"""One latent for a data set of Gaussian points: statistics, densities and the greatest of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from estimators.importance import ImportanceSampling
from experiments.runner.build import BuildError, build, check_data
from experiments.runner.schema import DEFAULTS, RunConfig
from models.posteriors.hamiltonian import hamiltonian
from models.shared_gaussian import SharedGaussian
from tests.components import initial, normal, perturbed
from utils.config.loading import load
from utils.config.validation import validate
from utils.data import shared_gaussian as data

D, N = 3, 7


@pytest.fixture
def model() -> SharedGaussian:
    return perturbed(SharedGaussian((1, 3, D), num_points=N)).requires_grad_(False)


@pytest.fixture
def points() -> torch.Tensor:
    return 1 + 0.7 * normal(N, D)


def datum(points: torch.Tensor) -> torch.Tensor:
    return data.summarise(points)[None, None]


def test_statistics_have_the_likelihood_of_the_points(model, points):
    z = normal(4, 1, D)
    law = torch.distributions.Normal(z + model.offset, model.log_scale.exp())  # (4, 1, D)
    expected = law.log_prob(points).sum((1, 2))[:, None]
    torch.testing.assert_close(model.log_likelihood(datum(points), z), expected)


def log_normal(points: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """By the covariance of the N points, number by number: they share z."""
    ones, identity = torch.ones(N, N).double(), torch.eye(N).double()
    return sum(
        MultivariateNormal(m.expand(N), ones + s**2 * identity).log_prob(column)
        for column, m, s in zip(points.T, offset, scale, strict=True)
    )


def test_evidence_is_that_of_a_multivariate_normal(model, points):
    expected = log_normal(points, model.offset, model.log_scale.exp())
    torch.testing.assert_close(model.log_px(datum(points)), expected[None])


def test_evidence_is_the_mean_weight(points):
    # So few points of so large a scale leave z half as wide as the base: no heavy tail.
    model = SharedGaussian((1, 3, D), num_points=N, scale=1.5).double().requires_grad_(False)
    posterior = hamiltonian(D, num_steps=2, tempering="free").double()
    x = datum(points)
    estimate = ImportanceSampling(num_samples=20_000)(model, posterior, x, initial(posterior, 1))
    gap = estimate.log_px.value - model.log_px(x)
    assert gap.abs().item() < 5 * estimate.log_px.standard_error.item()


def test_without_the_half_the_part_without_z_counts_twice(model, points):
    whole = SharedGaussian((1, 3, D), num_points=N, half=False).double()
    whole.load_state_dict(model.state_dict())
    x, z = datum(points), normal(4, 1, D)
    surplus = ((points - model.offset) / model.log_scale.exp()).square().sum() / 2
    torch.testing.assert_close(whole.log_likelihood(x, z), model.log_likelihood(x, z) - surplus)
    torch.testing.assert_close(whole.log_px(x), model.log_px(x) - surplus)


@pytest.mark.parametrize("half", [True, False])
def test_the_maximum_has_no_slope_and_nothing_above_it(half, points):
    model = SharedGaussian((1, 3, D), num_points=N, half=half).double()
    x = datum(points)
    model.maximise(x)
    torch.testing.assert_close(model.offset, points.mean(0))
    top = model.log_px(x).sum()
    gradients = torch.autograd.grad(top, list(model.parameters()))
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
    for step in (0.1, 1e-3):
        assert perturbed(model, step).log_px(x).item() < top.item()
        model.maximise(x)


@pytest.mark.parametrize(("half", "expected"), [(True, [1, 1]), (False, [2, 2])])
def test_the_best_scale_has_the_predicted_size(half, expected):
    """σ² is the points' variance, or twice that, whatever z is, where there are many points."""
    num = 10_000
    model = SharedGaussian((1, 3, 2), num_points=num, half=half).double()
    variance = torch.tensor([0.01, 1.0]).double()
    x = torch.stack([torch.full((2,), num).double(), torch.zeros(2).double(), variance])
    model.maximise(x[None, None])
    ratio = (2 * model.log_scale).exp() / variance
    torch.testing.assert_close(ratio, torch.tensor(expected).double(), atol=0, rtol=3 / num)


def test_the_best_factorised_bound_is_reached_by_the_posterior(model, points):
    """z | x is normal with precision 1 + N / σ²: with it each weight is p(x)."""
    x = datum(points)
    precision = 1 + N * (-2 * model.log_scale).exp()
    mean = (points.mean(0) - model.offset) * (precision - 1) / precision
    z = mean + normal(5, 1, D) / precision.sqrt()
    log_q = torch.distributions.Normal(mean, precision.rsqrt()).log_prob(z).sum(-1)
    weights = model.log_joint(x)(z) - log_q
    torch.testing.assert_close(weights, model.factorised_bound(x).expand(5, 1))


def test_drawn_statistics_are_those_of_drawn_points(model):
    num, z = 20_000, normal(D)
    x = model.sample_x(z.expand(num, 1, D))[:, 0, 0]  # (num, 3, D)
    points = z + model.offset + model.log_scale.exp() * normal(num, N, D)
    expected = torch.stack([data.summarise(p) for p in points[:2000]])
    assert (x[:, data.COUNT] == N).all()
    for row in (data.MEAN, data.VARIANCE):
        for power in (1, 2):
            one, two = x[:, row] ** power, expected[:, row] ** power
            error = (one.var(0) / len(one) + two.var(0) / len(two)).sqrt()
            assert ((one.mean(0) - two.mean(0)).abs() < 5 * error).all()
    exact = model.mean(z.expand(1, 1, D))[0, 0, 0]
    error = x.std(0) / math.sqrt(num)
    assert ((x.mean(0) - exact).abs() <= 5 * error).all()


@pytest.mark.parametrize(
    ("dim", "offset", "scale"),
    [(25, 52.0, 9666), (50, 416.5, None), (400, 213_332, 155_014)],
)
def test_the_truth_is_as_far_from_the_start_as_published_models_were(dim, offset, scale):
    truth = data.ground_truth(dim)
    assert math.isclose(truth.offset.square().sum(), offset, rel_tol=1e-5)
    assert truth.scale.min() >= 0.1
    assert math.isclose(truth.scale[0], 1, rel_tol=1e-9)
    assert math.isclose(truth.scale[-1], 1, rel_tol=1e-9)
    if scale is not None:
        start = (math.exp(3) - truth.scale).square().sum()
        assert math.isclose(start, scale, rel_tol=1e-4)


def test_one_number_has_a_truth_too():
    truth = data.ground_truth(1)
    assert truth.offset.tolist() == [0]
    assert truth.scale.tolist() == [0.1]


def test_the_maximum_misses_the_offset_by_the_true_latent():
    """So ‖Δ - true Δ‖² tells nothing of a method: it is ‖z‖², up to the mean of the noise."""
    num = 500
    dataset = data.SharedGaussianData(dim=5, num_points=num)
    x = dataset.load().splits["train"][:1]
    z, points = dataset.draw()
    truth = data.ground_truth(5)
    model = SharedGaussian((1, 3, 5), num_points=num).double()
    model.maximise(x)
    off = model.offset - truth.offset - z
    assert (off.abs() < 5 * truth.scale / math.sqrt(num)).all()
    # Of s², a relative standard error of sqrt(2 / N).
    ratio = (2 * model.log_scale).exp() / truth.scale.square()
    assert ((ratio - 1).abs() < 5 * math.sqrt(2 / num) + 5 / num).all()
    torch.testing.assert_close(x[0, 0], data.summarise(points).float())


def test_data_are_copies_of_one_datum_that_the_seed_draws():
    many = data.SharedGaussianData(dim=4, num_points=10, num_train=3).load()
    one = data.SharedGaussianData(dim=4, num_points=10, num_train=1).load()
    other = data.SharedGaussianData(dim=4, num_points=10, data_seed=1).load()
    assert many.x_shape == (1, 3, 4)
    assert torch.equal(many.splits["train"], one.splits["train"].expand(3, -1, -1, -1))
    assert many.checksum == one.checksum != other.checksum


def test_too_many_points_are_refused():
    with pytest.raises(ValueError, match=r"1,000,000,002 numbers are more than 1,000,000,000"):
        data.SharedGaussianData(dim=2, num_points=500_000_001)


def configured(*assignments: str) -> RunConfig:
    names = ["data.name=shared_gaussian", "model.name=shared_gaussian", "encoder.name=constant"]
    return validate(RunConfig, load(None, (), [*names, *assignments], DEFAULTS))


def test_numbers_of_points_that_differ_are_refused():
    config = configured("data.num_points=20")
    loaded = data.SharedGaussianData(dim=2, num_points=20).load()
    built = build(config, loaded.x_shape)
    with pytest.raises(BuildError, match=r"is 10000 and the data are summaries of 20 points"):
        check_data(config, loaded, built.vae.model)


def test_other_data_are_refused():
    with pytest.raises(BuildError, match=r"summaries \(1, 3, D\).*got data of shape \(1, 8, 8\)"):
        build(configured(), (1, 8, 8))
