from __future__ import annotations

import math

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
