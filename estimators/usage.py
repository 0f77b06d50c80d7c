"""Which latent dimensions a posterior uses, and how much z tells of x: its collapse, measured.

The posterior of each datum is portrayed by a Gaussian: itself where the chain is a lone Gaussian,
else one of the moments of draws. From the portraits of N data follow

- of each dimension i, KL(q(z_i|x) ‖ N(0, 1)), mean over x, and Var_x E_q[z_i]: the unit is active
  where that exceeds 0.01 (Burda et al. 2016, arXiv 1509.00519);
- the mutual information I(x; z) of a datum's index and its draw, by
  E[log r(n|z_n)] + log N,  r(n|z) = q_n(z) / Σ_m q_m(z),
  which is a lower bound for whatever densities q_m (Barber and Agakov 2003), and exact where they
  are the posteriors themselves. It never exceeds log N;
- E_x KL(q(z|x) ‖ p(z)) - I, the KL of the aggregate q(z) = (1/N) Σ_n q(z|x_n) to the prior
  (Hoffman and Johnson 2016).

Moments of M draws are corrected for what M does to their mean, as of a Gaussian's draws, and
shrunk towards those of all data by as much as their spread is noise (James and Stein 1961), so
that a posterior that tells nothing of x has an I of about 0 and not of less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.protocol import Quantity
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.protocol import Density, Moments

ACTIVE = 0.01
"""The least variance, over data, of an active unit's posterior mean."""
BLOCK = 2**23
"""Numbers at once: pairs of draw and datum, times D."""


class Effort(NamedTuple):
    """How much work to do: data at most, draws of a portrait, draws of a datum's information.

    A lone Gaussian needs no draws for its portrait.
    """

    num_data: int
    num_portrait: int
    num_draws: int


QUICK = Effort(250, 16, 1)
"""For every evaluation in training: a hundredth of an epoch."""
FULL = Effort(5000, 100, 5)


class Classifier(NamedTuple):
    """A density with a context (N, .) for each datum, by which a draw is assigned to its datum."""

    density: Density
    context: Tensor

    def log_odds(self, z: Tensor, data: Tensor) -> Tensor:
        """log r(n|z) + log N (M,) in float64, for draws z (M, D) of the data n (M,)."""
        rows = max(1, BLOCK // max(1, self.context.numel()))
        pieces = zip(z.split(rows), data.split(rows), strict=True)
        return torch.cat([self._log_odds(*piece) for piece in pieces])

    def _log_odds(self, z: Tensor, data: Tensor) -> Tensor:
        pairs = self.density.log_prob_pairs(z, self.context).double()  # (M, N)
        own = pairs.gather(1, data[:, None])[:, 0]
        return own - pairs.logsumexp(1) + math.log(len(self.context))


@dataclass(frozen=True)
class Portraits:
    """A Gaussian for each of N data.

    ``moments`` (N, D) in float64 are of ``num_draws`` draws, or exact where that is None; then
    ``context`` (N, .) is that of the chain's base, else it is empty.
    """

    moments: Moments
    context: Tensor
    num_draws: int | None = None

    @classmethod
    def joined(cls, parts: Sequence[Portraits]) -> Portraits:
        """Those of several batches of data as one."""
        mean, variance = (torch.cat(of) for of in zip(*(p.moments for p in parts), strict=True))
        context = torch.cat([part.context for part in parts])
        return cls(Moments(mean, variance), context, parts[0].num_draws)

    def __len__(self) -> int:
        return len(self.context)

    def dimensions(self) -> Mapping[str, Quantity]:
        """By dimension (D,): ``dimension_kl`` in nats, ``dimension_spread``, ``active_units``.

        The KL is the mean over data, of the dimension's own (marginal) density; of one that is no
        Gaussian it is at least this. The spread is Var_x E_q[z_i], with an error for a Gaussian
        or any other spread over data; a unit is active (1) or not (0). Raises ValueError for one
        datum.
        """
        num = len(self)
        check_number(num)
        kl = self._kl()
        centred = self.moments.mean - self.moments.mean.mean(0)
        squares = centred.square()
        spread = squares.sum(0) / (num - 1) - self._noise().mean(0)
        return {
            "dimension_kl": Quantity(kl.mean(0), kl.std(0) / math.sqrt(num)),
            "dimension_spread": Quantity(spread, squares.std(0) / math.sqrt(num)),
            "active_units": Quantity((spread > ACTIVE).double()),
        }

    def classifier(self, posterior: Chain) -> Classifier:
        """By the posteriors themselves where they are Gaussians, else by shrunk portraits."""
        if self.num_draws is None:
            return Classifier(posterior.base, self.context)
        mean, variance = self.moments
        log_variance = variance.log()
        mean = _shrunk(mean, self._noise())
        # Var(log v̂) of M draws of a Gaussian is ψ'((M - 1) / 2).
        half = torch.full_like(variance, 0.5 * (self.num_draws - 1))
        log_variance = _shrunk(log_variance, torch.special.polygamma(1, half))
        density = DiagonalGaussian(mean.shape[1])
        return Classifier(density, density.placed(mean, (0.5 * log_variance).exp()))

    def _noise(self) -> Tensor:
        """Variances (N, D) of the means, for being estimated."""
        variance = self.moments.variance
        return torch.zeros_like(variance) if self.num_draws is None else variance / self.num_draws

    def _kl(self) -> Tensor:
        """KL(N(mean, variance) ‖ N(0, 1)) (N, D), without the bias of estimated moments."""
        mean, variance = self.moments
        log_variance = variance.log()
        if self.num_draws is not None:  # E[log v̂] = log v + ψ((M - 1) / 2) - log((M - 1) / 2)
            half = torch.tensor(0.5 * (self.num_draws - 1), dtype=torch.float64)
            log_variance = log_variance - (half.digamma() - half.log()).item()
        return 0.5 * (mean.square() - self._noise() + variance - 1 - log_variance)


def _shrunk(values: Tensor, noise: Tensor) -> Tensor:
    """Estimates (N, D), of variances ``noise`` (N, D), towards their means over data."""
    centre, noise = values.mean(0), noise.mean(0)
    share = (1 - noise / values.var(0).clamp_min(1e-300)).clamp(0, 1)
    return centre + share * (values - centre)


def check_number(num_data: int) -> None:
    """Raise ValueError for fewer than two data."""
    if num_data < 2:
        raise ValueError(
            f"active units and mutual information compare data, and there is {num_data} data "
            "point; take 2 or more"
        )


@torch.no_grad()
def portray(
    model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor, num_draws: int
) -> Portraits:
    """Portraits of x (B, C, H, W) with context (B, P); draws, where they need any, M >= 2."""
    own = context[..., : posterior.base.context_size]
    exact = None if posterior.transitions else posterior.base.moments(own.double())
    if exact is not None:
        return Portraits(exact, own)
    z = posterior(context, model.log_joint(x), num_draws).state.z.double()  # (M, B, D)
    variance, mean = torch.var_mean(z, 0)
    return Portraits(Moments(mean, variance.clamp_min(1e-30)), own[..., :0], num_draws)


@torch.no_grad()
def information(
    model: GenerativeModel,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    classifier: Classifier,
    first: int,
    num_draws: int,
) -> Mapping[str, Quantity]:
    """What z tells of each datum (B,), in nats: their means over all N data are what is asked.

    ``kl`` is of KL(q(z|x) ‖ p(z)), or for auxiliary variables of more; ``mutual_information`` of
    I(x; z) or less, at most log N; ``aggregate_kl``, their difference, of KL(q(z) ‖ p(z)) or more.

    Args:
        model, posterior, x, context: of data ``first``, ``first + 1``, ...
        classifier: of all N data.
        first: index of the first datum among them.
        num_draws: S of each datum.
    """
    stage = posterior(context, model.log_joint(x), num_draws)
    z = stage.state.z  # (S, B, D)
    data = torch.arange(first, first + len(x), device=z.device).expand(num_draws, -1)
    told = classifier.log_odds(z.flatten(0, 1), data.flatten()).view(num_draws, -1)
    kl = (stage.log_q - model.log_prior(z)).double()
    draws = {"kl": kl, "mutual_information": told, "aggregate_kl": kl - told}
    return {name: _mean(values) for name, values in draws.items()}


def _mean(draws: Tensor) -> Quantity:
    """Of draws (S, B); without an error where there is one."""
    num = len(draws)
    return Quantity(draws.mean(0), draws.std(0) / math.sqrt(num) if num > 1 else None)


def summary(
    model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor, effort: Effort = QUICK
) -> tuple[dict[str, float], list[float]]:
    """Active units, mutual information and KL of the aggregate; and the KL of each dimension.

    Of the first data of x (B, C, H, W) with context (B, P). Raises ValueError for one datum.
    """
    x, context = x[: effort.num_data], context[: effort.num_data]
    portraits = portray(model, posterior, x, context, effort.num_portrait)
    dimensions = portraits.dimensions()
    classifier = portraits.classifier(posterior)
    told = information(model, posterior, x, context, classifier, 0, effort.num_draws)
    means = {
        name: told[name].value.mean().item() for name in ("mutual_information", "aggregate_kl")
    }
    active = dimensions["active_units"].value.sum().item()
    return {"active_units": active, **means}, dimensions["dimension_kl"].value.tolist()
