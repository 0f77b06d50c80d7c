"""Generative models p(x, z): a prior, a decoder and a likelihood; and one with exact answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.likelihoods import Likelihood, likelihoods
from models.networks import decoders
from models.posteriors.paths import LogDensity, untraced
from utils.registry import Registry
from utils.types import PositiveFloat, PositiveInt

LOG_2PI = math.log(2 * math.pi)


class Sample(NamedTuple):
    """An ancestral draw: z (N, D) from the prior and x (N, C, H, W) given z."""

    z: Tensor
    x: Tensor


class GenerativeModel(nn.Module, ABC):
    """p(x, z) = p(z) p(x|z). All that a posterior sees of it is ``log_joint(x)``."""

    has_x: ClassVar[bool] = True
    has_exact_log_px: ClassVar[bool] = False
    has_factorised_bound: ClassVar[bool] = False
    execution_options: ClassVar[frozenset[str]] = frozenset()
    """Options that say where its data lie: no part of a run's identity."""

    def __init__(self, latent_dim: int, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.x_shape = tuple(x_shape)

    def check_x(self, x: Tensor) -> None:
        """Raise ValueError, with what to set, unless the model can describe x (N, C, H, W)."""

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) (S, B) in nats, for z (S, B, D)."""
        return -0.5 * z.square().sum(-1) - 0.5 * self.latent_dim * LOG_2PI

    @abstractmethod
    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) (S, B) in nats, for x (B, C, H, W) and z (S, B, D)."""

    def log_joint(self, x: Tensor) -> LogDensity:
        """The function z (S, B, D) -> log p(x, z) (S, B)."""
        return lambda z: self.log_prior(z) + self.log_likelihood(x, z)

    def likelihood_gradient(self, x: Tensor, z: Tensor) -> Tensor:
        """d log p(x|z) / dz (S, B, D) without a graph: a force, of which no value is read."""
        return untraced(lambda z: self.log_likelihood(x, z), z)[1]

    @abstractmethod
    def mean(self, z: Tensor) -> Tensor:
        """E[x|z] (S, B, C, H, W), for z (S, B, D)."""

    @abstractmethod
    def sample_x(self, z: Tensor) -> Tensor:
        """Draw x (S, B, C, H, W) given z (S, B, D)."""

    def sample_prior(self, num_samples: int, num_data: int) -> Tensor:
        """Draw z (S, B, D) from the prior; to be overridden together with ``log_prior``."""
        parameter = next(self.parameters())
        shape = (num_samples, num_data, self.latent_dim)
        return torch.randn(shape, dtype=parameter.dtype, device=parameter.device)

    def sample(self, num_samples: int) -> Sample:
        """Draw N independent pairs (z, x) from the model."""
        z = self.sample_prior(1, num_samples)
        return Sample(z[0], self.sample_x(z)[0])

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log p(x) (B,) in nats and in float64, where ``has_exact_log_px``.

        Raises ValueError for a model without a closed form.
        """
        raise ValueError(f"{type(self).__name__} has no exact log p(x); estimate it instead")

    @property
    def log_px_error(self) -> float:
        """Standard error of ``log_px``: 0 unless it was itself computed by sampling."""
        return 0.0

    def factorised_bound(self, x: Tensor) -> Tensor:
        """Best ELBO (B,) in float64 of any factorised Gaussian, where ``has_factorised_bound``.

        Raises ValueError for a model without a closed form.
        """
        raise ValueError(f"{type(self).__name__} has no closed form; use local optimisation")


models: Registry[GenerativeModel] = Registry("models", "models")


class DeepLatentGaussian(GenerativeModel):
    """z ~ N(0, I), x ~ likelihood(decoder(z)) (Kingma and Welling 2014, arXiv 1312.6114)."""

    def __init__(
        self,
        latent_dim: int,
        x_shape: Sequence[int],
        decoder: nn.Module,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(latent_dim, x_shape)
        self.decoder = decoder
        self.likelihood = likelihood

    def check_x(self, x: Tensor) -> None:
        """As the likelihood says."""
        self.likelihood.check(x)

    def _parameters_of(self, z: Tensor) -> Tensor:
        # The one place where samples and data points are flattened into rows of a network.
        return self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])  # (S, B, P, C, H, W)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) through one pass of the decoder over all S * B rows."""
        return self.likelihood.log_prob(x, self._parameters_of(z))

    @torch.enable_grad()
    def likelihood_gradient(self, x: Tensor, z: Tensor) -> Tensor:
        """The likelihood's score, back through the decoder."""
        leaf = z.detach().requires_grad_()
        parameters = self._parameters_of(leaf)
        score = self.likelihood.score(x, parameters.detach())
        (gradient,) = torch.autograd.grad(parameters, leaf, score)
        return gradient

    def mean(self, z: Tensor) -> Tensor:
        """Mean of the likelihood."""
        return self.likelihood.mean(self._parameters_of(z))

    def sample_x(self, z: Tensor) -> Tensor:
        """Draw from the likelihood."""
        return self.likelihood.sample(self._parameters_of(z))


@models.register("deep_latent_gaussian")
def deep_latent_gaussian(
    x_shape: Sequence[int],
    *,
    latent_dim: PositiveInt = 50,
    decoder: Annotated[Callable[..., nn.Module], decoders],
    likelihood: Annotated[Likelihood, likelihoods],
) -> DeepLatentGaussian:
    """VAE decoder: standard normal prior, a network, a likelihood (Kingma and Welling 2014)."""
    network = decoder(
        latent_dim=latent_dim, x_shape=x_shape, num_parameters=likelihood.num_parameters
    )
    return DeepLatentGaussian(latent_dim, x_shape, network, likelihood)


class Gaussian(NamedTuple):
    """A Gaussian a data point: mean (B, D) and one covariance (D, D) for all."""

    mean: Tensor
    covariance: Tensor


class _Solution(NamedTuple):
    """What the closed forms of a linear-Gaussian model are made of, in float64.

    ``left`` (B, X) = x - mean - W m; ``variance`` = scale²; ``lower`` (D, D), Cholesky's factor of
    M; ``mean`` m (B, D) of the posterior.
    """

    left: Tensor
    variance: Tensor
    lower: Tensor
    mean: Tensor


@models.register("linear_gaussian")
class LinearGaussian(GenerativeModel):
    """Probabilistic PCA, x = W z + mean + scale * noise: log p(x) and posterior are exact.

    p(x) = N(mean, W Wᵀ + scale² I) and p(z|x) = N(M⁻¹ Wᵀ (x - mean), scale² M⁻¹) with
    M = WᵀW + scale² I (Tipping and Bishop 1999). The yardstick of every bound and estimator.
    With ``learn`` false its parameters stay as they were drawn, so that only the posterior is
    fitted (a learned W turns until a factorised posterior loses nothing); with ``learn_scale``
    false the scale alone does. Null: as ``learn`` says.
    """

    has_exact_log_px = True
    has_factorised_bound = True

    def __init__(
        self,
        x_shape: Sequence[int],
        *,
        latent_dim: PositiveInt = 2,
        scale: PositiveFloat = 1.0,
        learn: bool = True,
        learn_scale: bool | None = None,
    ) -> None:
        super().__init__(latent_dim, x_shape)
        size = math.prod(x_shape)
        self.weight = nn.Parameter(torch.randn(size, latent_dim) / math.sqrt(latent_dim))
        self.bias = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.requires_grad_(learn)
        if learn_scale is not None:
            self.log_scale.requires_grad_(learn_scale)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log N(x; W z + mean, scale² I)."""
        residual = x.flatten(1) - self._mean(z)  # (S, B, X)
        size = residual.shape[-1]
        squares = residual.square().sum(-1) * (-2 * self.log_scale).exp()
        return -0.5 * (squares + size * (LOG_2PI + 2 * self.log_scale))

    def _mean(self, z: Tensor) -> Tensor:
        return z @ self.weight.T + self.bias

    def mean(self, z: Tensor) -> Tensor:
        """W z + mean."""
        return self._mean(z).unflatten(-1, self.x_shape)

    def sample_x(self, z: Tensor) -> Tensor:
        """Draw x = W z + mean + scale * noise."""
        mean = self.mean(z)
        return mean + self.log_scale.exp() * torch.randn_like(mean)

    def _solve(self, x: Tensor) -> _Solution:
        # All in float64: in float32, log p(x) of an image is off by up to half a nat.
        weight, variance = self.weight.double(), (2 * self.log_scale.double()).exp()
        residual = x.flatten(1).double() - self.bias.double()
        identity = torch.eye(self.latent_dim, dtype=torch.float64, device=weight.device)
        lower = torch.linalg.cholesky(weight.T @ weight + variance * identity)
        mean = torch.cholesky_solve(weight.T @ residual.T, lower).T
        return _Solution(residual - mean @ weight.T, variance, lower, mean)

    def log_px(self, x: Tensor) -> Tensor:
        """Exact log N(x; mean, W Wᵀ + scale² I) (B,), in float64 whatever the parameters are.

        With r = x - mean and m the posterior's mean, rᵀ (W Wᵀ + scale² I)⁻¹ r is
        |r - W m|² / scale² + |m|², of which neither term cancels; the determinant is
        |M| scale^(2 (X - D)).
        """
        left, variance, lower, mean = self._solve(x)
        size = left.shape[1]
        squares = left.square().sum(-1) / variance + mean.square().sum(-1)
        log_det = 2 * lower.diagonal().log().sum() + (size - self.latent_dim) * variance.log()
        return -0.5 * (squares + log_det + size * LOG_2PI)

    def exact_posterior(self, x: Tensor) -> Gaussian:
        """The exact p(z|x) of each datum, in float64."""
        _, variance, lower, mean = self._solve(x)
        return Gaussian(mean, variance * torch.cholesky_inverse(lower))

    def factorised_bound(self, x: Tensor) -> Tensor:
        """The best ELBO (B,) of a factorised Gaussian: log p(x) - ½ (Σ_i log Λ_ii - log|Λ|).

        Λ = M / scale² is the posterior precision; the optimum has the exact mean and variances
        1/Λ_ii. In float64.
        """
        lower = self._solve(x).lower
        gap = 0.5 * lower.square().sum(1).log().sum() - lower.diagonal().log().sum()
        return self.log_px(x) - gap
