from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch.distributions import MultivariateNormal

from models.generative import LinearGaussian


def test_exact_log_px_matches_quadrature_over_z(linear_gaussian: LinearGaussian):
    x = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -0.2]]).double().view(2, 1, 1, 3)
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)[:, None]  # (S, 1, 2)
    cell = (grid[1] - grid[0]) ** 2
    total = linear_gaussian.log_joint(x)(z.expand(-1, 2, -1)).exp().sum(0) * cell
    # The trapezoid rule of a smooth density that vanishes at the edges converges geometrically.
    torch.testing.assert_close(linear_gaussian.log_px(x), total.log(), atol=1e-8, rtol=0)


def test_posterior_is_joint_over_evidence(linear_gaussian: LinearGaussian):
    x = torch.randn(4, 1, 1, 3, dtype=torch.float64)
    z = torch.randn(5, 4, 2, dtype=torch.float64)
    mean, covariance = linear_gaussian.exact_posterior(x)
    expected = linear_gaussian.log_joint(x)(z) - linear_gaussian.log_px(x)
    torch.testing.assert_close(MultivariateNormal(mean, covariance).log_prob(z), expected)


def test_samples_have_the_marginal_moments(linear_gaussian: LinearGaussian):
    num = 20_000
    with torch.no_grad():
        z, x = linear_gaussian.sample(num)
        weight, bias = linear_gaussian.weight, linear_gaussian.bias
        covariance = weight @ weight.T + 0.49 * torch.eye(3)
        x = x.flatten(1)
        error = (x.mean(0) - bias).abs() / (covariance.diagonal() / num).sqrt()
        assert error.max() < 5
        # Var of a sample covariance entry of a Gaussian: (s_ii s_jj + s_ij²) / n
        diagonal = covariance.diagonal()
        spread = ((diagonal[:, None] * diagonal + covariance.square()) / num).sqrt()
        assert ((x.T.cov() - covariance).abs() / spread).max() < 5
    assert z.shape == (num, 2)


def test_prior_keeps_its_constant(linear_gaussian: LinearGaussian):
    at_zero = linear_gaussian.log_prior(torch.zeros(1, 1, 2))
    assert math.isclose(at_zero.item(), -math.log(2 * math.pi), rel_tol=1e-6)


def test_factorised_bound_is_the_kl_of_the_best_factorised_gaussian(linear_gaussian):
    """At mean and precision diagonal of the posterior; moving away from there only loses."""
    x = torch.randn(3, 1, 1, 3, dtype=torch.float64)
    mean, covariance = linear_gaussian.exact_posterior(x)
    p = MultivariateNormal(mean, covariance)
    variances = 1 / torch.linalg.inv(covariance).diagonal()

    def bound(shift: float, factor: float) -> torch.Tensor:
        q = MultivariateNormal(mean + shift, torch.diag(factor * variances))
        return linear_gaussian.log_px(x) - torch.distributions.kl_divergence(q, p)

    best = linear_gaussian.factorised_bound(x)
    torch.testing.assert_close(bound(0.0, 1.0), best)
    for shift, factor in ((0.1, 1.0), (0.0, 1.1), (0.0, 0.9)):
        assert (bound(shift, factor) < best).all()


def float32_model(size: int, latent_dim: int, scale: float) -> LinearGaussian:
    return LinearGaussian((1, 1, size), latent_dim=latent_dim, scale=scale).requires_grad_(False)


def by_many_digits(model: LinearGaussian, x: torch.Tensor) -> tuple[mpmath.mpf, mpmath.mpf]:
    """log p(x) and the best factorised bound from the X × X covariance, with 60 digits."""
    size, latent_dim = model.weight.shape
    weight = mpmath.matrix(model.weight.tolist())
    variance = mpmath.exp(2 * mpmath.mpf(model.log_scale.item()))
    covariance = weight * weight.T + variance * mpmath.eye(size)
    residual = mpmath.matrix((x.flatten().double() - model.bias.double()).tolist())
    squares = (residual.T * mpmath.lu_solve(covariance, residual))[0]
    log_det = mpmath.log(mpmath.det(covariance))
    log_px = -(squares + log_det + size * mpmath.log(2 * mpmath.pi)) / 2
    precision = weight.T * weight / variance + mpmath.eye(latent_dim)
    logs = [mpmath.log(precision[i, i]) for i in range(latent_dim)]
    return log_px, log_px - (sum(logs) - mpmath.log(mpmath.det(precision))) / 2


@pytest.mark.parametrize("scale", [10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4])
@pytest.mark.parametrize(("size", "latent_dim", "error"), [(20, 4, 1e-11), (3, 5, 1e-7)])
def test_closed_forms_are_exact_in_float32_models(size, latent_dim, error, scale):
    """Against 60 digits, on data of the model and far from it.

    With more latents than pixels, eigenvalues scale² of M lose digits to those of WᵀW.
    """
    model = float32_model(size, latent_dim, scale)
    x = torch.cat([model.sample(1).x, 10 * torch.randn(1, 1, 1, size)])
    with mpmath.workdps(60):
        exact = [by_many_digits(model, one) for one in x]
    log_px, bound = model.log_px(x), model.factorised_bound(x)
    assert log_px.dtype == bound.dtype == torch.float64
    assert log_px.tolist() == pytest.approx([float(value) for value, _ in exact], rel=error)
    assert bound.tolist() == pytest.approx([float(value) for _, value in exact], rel=error)


@pytest.mark.parametrize("scale", [0.1, 0.01, 1e-3, 1e-5])
def test_log_px_of_images_is_exact(scale):
    """784 pixels and 50 latents, against a singular value decomposition in float64."""
    model = float32_model(784, 50, scale)
    x = model.sample(3).x
    left, values, _ = torch.linalg.svd(model.weight.double())
    variances = (2 * model.log_scale.double()).exp().repeat(784)
    variances[:50] += values.square()
    rotated = (x.flatten(1).double() - model.bias.double()) @ left
    expected = torch.distributions.Normal(0.0, variances.sqrt()).log_prob(rotated).sum(-1)
    torch.testing.assert_close(model.log_px(x), expected, rtol=0, atol=1e-5)


def test_the_exact_posterior_of_a_narrow_model_is_exact():
    """Its covariance times Λ = M / scale² is the identity, and M times its mean Wᵀ (x - mean)."""
    model = float32_model(200, 20, 1e-3)
    x = model.sample(3).x
    mean, covariance = model.exact_posterior(x)
    weight, identity = model.weight.double(), torch.eye(20, dtype=torch.float64)
    variance = (2 * model.log_scale.double()).exp()
    gram = weight.T @ weight + variance * identity
    torch.testing.assert_close(covariance @ gram / variance, identity, rtol=0, atol=1e-10)
    residual = x.flatten(1).double() - model.bias.double()
    torch.testing.assert_close(mean @ gram, residual @ weight)


def test_log_px_has_gradients(linear_gaussian: LinearGaussian):
    """Those of the density by the covariance matrix itself."""
    x = torch.randn(2, 1, 1, 3, dtype=torch.float64)
    parameters = list(linear_gaussian.parameters())
    weight, bias, log_scale = (
        linear_gaussian.weight,
        linear_gaussian.bias,
        linear_gaussian.log_scale,
    )
    identity = torch.eye(3, dtype=torch.float64)
    covariance = weight @ weight.T + (2 * log_scale).exp() * identity
    expected = MultivariateNormal(bias, covariance).log_prob(x.flatten(1))
    torch.testing.assert_close(
        torch.autograd.grad(linear_gaussian.log_px(x).sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
    )


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("learn_scale", [None, True, False])
def test_the_scale_can_be_learned_or_fixed_alone(learn, learn_scale):
    model = LinearGaussian((1, 1, 3), learn=learn, learn_scale=learn_scale)
    assert model.weight.requires_grad == model.bias.requires_grad == learn
    assert model.log_scale.requires_grad == (learn if learn_scale is None else learn_scale)
