"""Local optimisation against closed forms: by how much it misses the optimum, and what it says.

python -m benchmarks.optima [--num-data 6] [--seed 0] [--min-gain 0.05] [--max-steps 3000]
                            [--without-restarts]

Linear-Gaussian models in float32, of noise 1 to 0.01; factorised and full Gaussians, from the
prior. The bounds of what is found and of the optimum are computed in float64, without sampling.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.generative import LinearGaussian
from models.local import LocalOptimum, LocalSettings, fast, local_optimise
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian

Covariance = Literal["diagonal", "full"]
DIMENSIONS, NOISES = (2, 20, 100), (1.0, 0.1, 0.03, 0.01)
COVARIANCES: tuple[Covariance, ...] = ("diagonal", "full")
TOLERANCE = 0.01  # nats, within which a search that calls itself converged must end


class Problem(NamedTuple):
    """A model in float32, data (B, C, H, W) drawn from it, and a family with a known optimum."""

    model: LinearGaussian
    x: Tensor
    posterior: Chain
    covariance: Covariance


class Found(NamedTuple):
    """What a search has found, and by how many nats (B,) its bound misses the optimum."""

    optimum: LocalOptimum
    miss: Tensor

    @property
    def is_honest(self) -> Tensor:
        """Whether a datum (B,) is within the tolerance, or not called converged."""
        return (self.miss <= TOLERANCE) | ~self.optimum.converged


def make_problem(dimension: int, noise: float, covariance: Covariance, num_data: int) -> Problem:
    """Draws model and data from the global generator."""
    size = max(10, 2 * dimension)
    model = LinearGaussian((1, 1, size), latent_dim=dimension, scale=noise, learn=False)
    x = model.sample(num_data).x
    return Problem(model, x, gaussian(dimension, covariance=covariance), covariance)


def solve(problem: Problem, settings: LocalSettings) -> Found:
    """Search from the prior, and compare with the closed form."""
    model, x, posterior, _ = problem
    context = posterior.initial_context().repeat(len(x), 1)
    found = local_optimise(settings.loss, model, posterior, x, context, settings)
    return Found(found, _miss(problem, found.context))


def _miss(problem: Problem, context: Tensor) -> Tensor:
    """L[q*] - L[q] (B,) of the Gaussians at ``context``, in float64.

    L[q] = log p(x) - KL(q, N(m, Λ⁻¹)). The best of all Gaussians leaves no divergence, the best
    factorised one, N(m, diag(1/Λ_ii)), the half sum of log Λ_ii less log|Λ|.
    """
    model = problem.model
    weight, residual = model.weight.double(), (problem.x.flatten(1) - model.bias).double()
    variance = (2 * model.log_scale.double()).exp()
    precision = weight.T @ weight / variance + torch.eye(model.latent_dim).double()  # Λ
    mean = torch.linalg.solve(precision, weight.T @ residual.T / variance).T  # (B, D)
    scale = _scale(problem, context.double())
    distance = context.double()[:, : model.latent_dim] - mean
    spread = (scale.mT @ precision @ scale).diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = torch.einsum("bi,ij,bj->b", distance, precision, distance)
    log_det = 2 * scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    divergence = 0.5 * (spread + squares - model.latent_dim - log_det - precision.logdet())
    if problem.covariance == "full":
        return divergence
    return divergence - 0.5 * (precision.diagonal().log().sum() - precision.logdet())


def _scale(problem: Problem, context: Tensor) -> Tensor:
    """L (B, D, D) of the covariance matrices L Lᵀ: the places of unit noise, less the mean."""
    dimension = problem.model.latent_dim
    if problem.covariance == "diagonal":
        return torch.diag_embed((0.5 * context[:, dimension:]).exp())
    lower = torch.tril_indices(dimension, dimension, offset=-1)
    scale = torch.diag_embed(context[:, dimension : 2 * dimension].exp())
    scale[:, lower[0], lower[1]] = context[:, 2 * dimension :]
    return scale


def main() -> None:
    """Print the grid."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--num-data", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-gain", type=float, default=fast().min_gain)
    parser.add_argument("--max-steps", type=int, default=fast().max_steps)
    parser.add_argument(
        "--without-restarts", action="store_true", help="let Adam keep its moments throughout"
    )
    options = parser.parse_args()
    settings = fast(min_gain=options.min_gain, max_steps=options.max_steps)
    settings = replace(settings, restart=not options.without_restarts)
    print(
        f"{settings.label}, seed {options.seed}, {options.num_data} data: nats below the optimum"
    )
    print("covariance    D  noise      mean     worst  converged  steps  honest")
    for covariance in COVARIANCES:
        for dimension in DIMENSIONS:
            for noise in NOISES:
                torch.manual_seed(options.seed)
                problem = make_problem(dimension, noise, covariance, options.num_data)
                found = solve(problem, settings)
                print(
                    f"{covariance:10} {dimension:4} {noise:6} {found.miss.mean():9.4f} "
                    f"{found.miss.max():9.4f} {found.optimum.converged.double().mean():10.0%} "
                    f"{found.optimum.steps.double().mean():6.0f}  "
                    f"{'yes' if found.is_honest.all() else 'NO'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
