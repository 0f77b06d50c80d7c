"""Posteriors of small data sets as targets: their data lie in files, their log Z was computed."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.generative import LOG_2PI, models
from models.unconditional import Unconditional
from utils.data.sampler_targets import SamplerTargets, Table, TableName


class Known(NamedTuple):
    """log Z in nats, and its standard error where it was computed by sampling."""

    log_z: float
    error: float = 0.0


class Measured(Unconditional, ABC):
    """The posterior of a data set in a file, unnormalised: f(z) = p(data, z).

    Nothing draws from it exactly; ``log_z`` is stated, with ``log_px_error``. The data are read
    when it is made: from ``root``, else $VI_DATA, else ./data. Raises DataError where they are
    missing or others.
    """

    has_draws = False
    execution_options: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        latent_dim: int,
        x_shape: Sequence[int],
        known: Known,
        prior_scale: float = 1.0,
    ) -> None:
        super().__init__(latent_dim, x_shape, prior_scale)
        self._known = known

    def keep(self, **tensors: Tensor) -> None:
        """Hold tensors as constants that go where the model goes."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float(), persistent=False)

    @property
    def log_z(self) -> float:
        """As it was computed."""
        return self._known.log_z

    @property
    def log_px_error(self) -> float:
        """See ``GenerativeModel``."""
        return self._known.error


def read(name: TableName, root: str | None) -> dict[str, Tensor]:
    """The columns of a table, in float64."""
    table: Mapping[str, Table] = SamplerTargets(root).read(name)
    return {key: torch.from_numpy(column) for key, column in table.items()}


Regression = Literal["ionosphere", "sonar", "credit", "cancer"]
REGRESSIONS: Mapping[Regression, tuple[Known, float]] = {  # and the prior's deviation
    "ionosphere": (Known(-111.617, 0.012), 1.0),
    "sonar": (Known(-108.39, 0.02), 1.0),
    "credit": (Known(-585.099, 0.002), 10.0),
    "cancer": (Known(-77.55, 0.08), 10.0),
}


@models.register("logistic_regression")
class LogisticRegression(Measured):
    """Bayesian logistic regression on a small table of UCI's: 35, 61, 25 or 31 weights.

    p(data, z) = N(z; 0, s² I) Π_n σ(y_n (1, x_n)ᵀz). `ionosphere` and `sonar` have standardised
    columns and s = 1; `credit` and `cancer` have columns over their deviations and s = 10, which
    public code leaves out: its log Z of `credit` is -504.49, and `cancer`, which is separable,
    has none. log Z: -111.617 ± 0.012, -108.39 ± 0.02, -585.099 ± 0.002, -77.55 ± 0.08, by long
    SMC and importance sampling, computed for this program.

    Args:
        of: which table.
        root: of the folder `sampler_targets`; null: $VI_DATA, else ./data.
    """

    signed: Tensor

    def __init__(
        self, x_shape: Sequence[int], *, of: Regression = "ionosphere", root: str | None = None
    ) -> None:
        table = read(of, root)
        x, y = table["x"], table["y"]
        known, scale = REGRESSIONS[of]
        if scale == 1:  # of these the columns are standardised
            x = x - x.mean(0)
        spread = x.std(0, correction=0)
        x = x / torch.where(spread > 0, spread, 1.0)
        design = torch.cat([torch.ones(len(x), 1), x], dim=1)
        super().__init__(design.shape[1], x_shape, known, scale)
        sign = torch.where(y > y.min(), 1.0, -1.0)
        self.keep(signed=sign[:, None] * design)

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        return self.log_prior(z) + F.logsigmoid(z @ self.signed.T).sum(-1)


@models.register("seeds")
class Seeds(Measured):
    """How many of some seeds germinate (Crowder 1978): a random effect a plate, 26 numbers.

    r_i ~ Bin(n_i, σ(a_0 + a_1 x_1 + a_2 x_2 + a_12 x_1 x_2 + b_i)) on 21 plates, a ~ N(0, 10²),
    b_i ~ N(0, 1/τ), τ ~ Γ(0.01, rate 0.01); z = (log τ, a_0, a_1, a_2, a_12, b). log Z = -73.405
    ± 0.009, by SMC, computed for this program.

    Args:
        root: of the folder `sampler_targets`; null: $VI_DATA, else ./data.
    """

    positive: Tensor
    trials: Tensor
    design: Tensor

    SHAPE = 0.01  # and rate of τ
    PRIOR = 10.0  # of a

    def __init__(self, x_shape: Sequence[int], *, root: str | None = None) -> None:
        table = read("seeds", root)
        r, n, one, two = (table[name] for name in ("r", "n", "x1", "x2"))
        super().__init__(5 + len(r), x_shape, Known(-73.405, 0.009))
        design = torch.stack([torch.ones_like(one), one, two, one * two], dim=1)
        self.keep(positive=r, trials=n, design=design)
        choices = torch.lgamma(n + 1) - torch.lgamma(r + 1) - torch.lgamma(n - r + 1)
        gamma = self.SHAPE * math.log(self.SHAPE) - math.lgamma(self.SHAPE)
        normal = 0.5 * (4 + len(r)) * LOG_2PI + 4 * math.log(self.PRIOR)
        self._constant = choices.sum().item() + gamma - normal

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        log_tau, a, b = z[..., 0], z[..., 1:5], z[..., 5:]
        logits = a @ self.design.T + b
        log_p = self.positive * logits - self.trials * F.softplus(logits)
        tau = log_tau.exp()
        log_prior = self.SHAPE * (log_tau - tau) - 0.5 * (a / self.PRIOR).square().sum(-1)
        effects = 0.5 * (b.shape[-1] * log_tau - tau * b.square().sum(-1))
        return log_p.sum(-1) + log_prior + effects + self._constant


@models.register("brownian")
class Brownian(Measured):
    """A Brownian motion of 30 steps, seen with noise but for ten of them: 32 numbers.

    x_1 ~ N(0, s²), x_t ~ N(x_{t-1}, s²), y_t ~ N(x_t, o²), s and o ~ LogNormal(0, 2²), as of
    inference gym; z = (u, v, x), s = softplus(u), o = softplus(v). log Z = 1.187749, by quadrature
    over s and o.

    Args:
        root: of the folder `sampler_targets`; null: $VI_DATA, else ./data.
    """

    observed: Tensor
    seen: Tensor

    SPREAD = 2.0  # deviation of log s and log o

    def __init__(self, x_shape: Sequence[int], *, root: str | None = None) -> None:
        y = read("brownian", root)["observed"]
        super().__init__(2 + len(y), x_shape, Known(1.187749))
        self.keep(observed=y.nan_to_num(), seen=y.isfinite())

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        raw, x = z[..., :2], z[..., 2:]
        scales = F.softplus(raw)
        log_scales = scales.log()
        log_prior = -0.5 * ((log_scales / self.SPREAD).square() + LOG_2PI) - log_scales
        log_prior = log_prior - math.log(self.SPREAD) + F.logsigmoid(raw)  # ds/du = σ(u)
        steps = torch.cat([x[..., :1], x.diff(dim=-1)], dim=-1) / scales[..., :1]
        off = (self.observed - x) * self.seen / scales[..., 1:]
        log_walk = -0.5 * steps.square().sum(-1) - x.shape[-1] * log_scales[..., 0]
        log_seen = -0.5 * off.square().sum(-1) - self.seen.sum() * log_scales[..., 1]
        count = x.shape[-1] + self.seen.sum()
        return log_prior.sum(-1) + log_walk + log_seen - 0.5 * count * LOG_2PI


SIDE = 40
PINES: Mapping[Literal[126, 127], Known] = {126: Known(501.8, 0.1), 127: Known(512.5, 1.0)}


@models.register("log_gaussian_cox")
class LogGaussianCox(Measured):
    """Log-Gaussian Cox process on a grid of 40 by 40: where pines stand (Møller et al. 1998).

    f ~ N(log 126 - 1.91 / 2, K), K = 1.91 exp(-33 d / 40) over the distance d in cells, and
    Σ (y f - e^f / 1600), y the counts of cells: 1600 numbers, not whitened. log Z = 501.8 ± 0.1 by
    SMC from Laplace's approximation. With the first point doubled, as in some public code, it is
    512.5, by one run: such results are not comparable.

    Args:
        points: 126, or 127.
        root: of the folder `sampler_targets`; null: $VI_DATA, else ./data.
    """

    counts: Tensor
    inverse: Tensor

    VARIANCE = 1.91

    def __init__(
        self, x_shape: Sequence[int], *, points: Literal[126, 127] = 126, root: str | None = None
    ) -> None:
        table = read("pines_126" if points == 126 else "pines_127", root)
        cells = [(table[name] * SIDE).long().clamp(max=SIDE - 1) for name in ("x", "y")]
        counts = torch.bincount(cells[0] * SIDE + cells[1], minlength=SIDE**2)
        super().__init__(SIDE**2, x_shape, PINES[points])
        even = torch.arange(SIDE, dtype=torch.float64)
        grid = torch.cartesian_prod(even, even)
        distances = (grid[:, None] - grid).square().sum(-1).sqrt()
        covariance = self.VARIANCE * (-33 / 40 * distances).exp()
        lower = torch.linalg.cholesky(covariance)
        self.level = math.log(126) - 0.5 * self.VARIANCE
        self._constant = -lower.diagonal().log().sum().item() - 0.5 * SIDE**2 * LOG_2PI
        self.keep(counts=counts, inverse=torch.cholesky_inverse(lower))

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        off = z - self.level
        squares = ((off @ self.inverse) * off).sum(-1)
        log_counts = (self.counts * z - z.exp() / SIDE**2).sum(-1)
        return log_counts - 0.5 * squares + self._constant
