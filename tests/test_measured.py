"""Targets made of data sets: their densities, piece by piece, and their stated log Z."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Binomial, Gamma, MultivariateNormal, Normal, Poisson

import models.measured
from estimators.annealed import AnnealedImportanceSampling
from estimators.exact import Exact
from estimators.exact_draws import ExactDraws
from models.generative import LOG_2PI
from models.measured import Brownian, LogGaussianCox, LogisticRegression, Measured, Seeds
from models.posteriors.gaussian import gaussian
from models.unconditional import Unconditional
from tests.components import normal
from tests.tiny_runs import QUICKSTART, run
from utils.data.base import DataError
from utils.data.sampler_targets import FILES, SamplerTargets

SHAPE = (0, 1, 1)


def with_files(make: Callable[[], Measured]) -> Measured:
    """The model in float64, or a skipped test where its data are not there."""
    try:
        return make().double()
    except DataError as error:
        if "not found" not in str(error):
            raise
        pytest.skip(f"needs files: set VI_DATA to the folder that holds {error}")


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of the right columns with other numbers in them, so that no file is needed."""
    trials = torch.randint(5, 80, (21,)).double()
    missing = torch.where(torch.arange(30) % 3 == 1, math.nan, 1.0)
    tables = {
        "seeds": {
            "r": (trials * uniform(21)).round(),
            "n": trials,
            "x1": torch.randint(2, (21,)).double(),
            "x2": torch.randint(2, (21,)).double(),
        },
        "brownian": {"observed": normal(30) * missing},
        "pines_126": {"x": uniform(126), "y": uniform(126)},
        **{
            name: {"x": 3 + 2 * normal(40, 3), "y": torch.randint(2, (40,)).double()}
            for name in ("ionosphere", "credit")
        },
    }
    monkeypatch.setattr(models.measured, "read", lambda name, root: tables[name])


def check(model: Measured, expected: Callable[[Tensor], Tensor], scale: float = 0.5) -> None:
    """Against a density written down by torch.distributions; and its gradient."""
    model.double()
    z = scale * normal(4, 2, model.latent_dim)
    # Constants that were read are kept as float32 numbers.
    torch.testing.assert_close(model.log_f(z), expected(z), rtol=1e-5, atol=1e-4)
    leaf = z[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(model.log_f, leaf, fast_mode=True)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("of", "scale"), [("ionosphere", 1.0), ("credit", 10.0)])
def test_logistic_regression(of: Any, scale: float):
    table = models.measured.read(of, None)
    model, x, y = LogisticRegression(SHAPE, of=of), table["x"], table["y"]
    x = (x - x.mean(0) * (scale == 1)) / x.std(0, correction=0)

    def expected(z: Tensor) -> Tensor:
        p = (z[..., :1] + z[..., 1:] @ x.T).sigmoid()
        log_p = torch.where(y == 1, p, 1 - p).log().sum(-1)
        return log_p + Normal(0.0, scale).log_prob(z).sum(-1)

    check(model, expected)
    prior = Normal(0.0, torch.tensor(scale).double())
    z = normal(3, 1, 4)
    torch.testing.assert_close(model.log_prior(z), prior.log_prob(z).sum(-1))


@pytest.mark.usefixtures("made_up")
def test_seeds():
    table = models.measured.read("seeds", None)

    def expected(z: Tensor) -> Tensor:
        tau, a, b = z[..., 0].exp(), z[..., 1:5], z[..., 5:]
        one, two = table["x1"], table["x2"]
        logits = (a[..., :1] + a[..., 1:2] * one + a[..., 2:3] * two) + a[..., 3:] * one * two + b
        log_r = Binomial(table["n"], logits=logits).log_prob(table["r"]).sum(-1)
        log_tau = Gamma(torch.tensor(0.01).double(), 0.01).log_prob(tau) + tau.log()
        log_b = Normal(0.0, tau.rsqrt()[..., None]).log_prob(b).sum(-1)
        return log_r + log_tau + log_b + Normal(0.0, 10.0).log_prob(a).sum(-1)

    check(Seeds(SHAPE), expected)


@pytest.mark.usefixtures("made_up")
def test_brownian():
    y = models.measured.read("brownian", None)["observed"]
    seen = y.isfinite()

    def expected(z: Tensor) -> Tensor:
        raw, x = z[..., :2], z[..., 2:]
        scales = torch.nn.functional.softplus(raw)
        steps = torch.cat([x[..., :1], x[..., 1:] - x[..., :-1]], -1)
        log_walk = Normal(0.0, scales[..., :1]).log_prob(steps).sum(-1)
        log_y = Normal(x, scales[..., 1:]).log_prob(y.nan_to_num())[..., seen].sum(-1)
        log_scales = torch.distributions.LogNormal(0.0, 2.0).log_prob(scales)
        return log_walk + log_y + (log_scales + raw.sigmoid().log()).sum(-1)

    check(Brownian(SHAPE), expected)


@pytest.mark.usefixtures("made_up")
def test_log_gaussian_cox():
    """A Poisson's density of counts of mean e^f / 1600, less its part without f."""
    table = models.measured.read("pines_126", None)
    cells = (40 * table["x"]).long() * 40 + (40 * table["y"]).long()
    counts = torch.zeros(1600).double()
    for cell in cells.tolist():
        counts[cell] += 1
    places = torch.tensor(list(itertools.product(range(40), repeat=2))).double()
    distances = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
    prior = MultivariateNormal(
        torch.full((1600,), math.log(126) - 1.91 / 2).double(),
        1.91 * (-33 * distances / 40).exp(),
    )
    constant = counts * math.log(1600) + (counts + 1).lgamma()

    def expected(z: Tensor) -> Tensor:
        log_counts = Poisson(z.exp() / 1600).log_prob(counts) + constant
        return prior.log_prob(z) + log_counts.sum(-1)

    check(LogGaussianCox(SHAPE), expected)


def test_brownian_log_z_is_that_of_quadrature_over_its_scales():
    """Given both scales y is Gaussian; the sum over a grid in log s and log o."""
    model = with_files(lambda: Brownian(SHAPE))
    seen = model.get_buffer("seen") > 0
    y, time = model.get_buffer("observed")[seen], 1 + seen.nonzero()[:, 0].double()
    grid = torch.linspace(-9, 5, 281, dtype=torch.float64)
    log_s, log_o = torch.meshgrid(grid, grid, indexing="ij")
    walk = torch.minimum(time[:, None], time)
    covariance = (2 * log_s).exp()[..., None, None] * walk
    covariance = covariance + (2 * log_o).exp()[..., None, None] * torch.eye(len(y)).double()
    log_y = MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
    log_scales = -0.5 * ((log_s / 2).square() + (log_o / 2).square()) - LOG_2PI - 2 * math.log(2)
    log_z = (log_y + log_scales).flatten().logsumexp(0) + 2 * (grid[1] - grid[0]).log()
    assert abs(log_z.item() - model.log_z) < 1e-4
    assert model.log_px_error == 0


class FromLaplace(Unconditional):
    """f(m + A u) |det A| of a density whose mode is m, A Aᵀ its inverse curvature there.

    Of the same integral, and near N(0, I) where f is near a Gaussian, so that annealing has little
    left to do.
    """

    log_z = math.nan  # what is asked for

    def __init__(self, of: Measured) -> None:
        super().__init__(of.latent_dim, SHAPE, 1.0)
        self.of = of
        score, curvature = torch.func.grad(of.log_f), torch.func.jacrev(torch.func.grad(of.log_f))
        mode, gain = torch.zeros(of.latent_dim).double(), 1.0
        while gain > 1e-6:  # Newton's steps, halved until they rise
            step = torch.linalg.solve(-curvature(mode), score(mode))
            gain = (step @ score(mode)).item()
            while of.log_f(mode + step) < of.log_f(mode):
                step = step / 2
            mode = mode + step
        upper = torch.linalg.cholesky(-curvature(mode)).mT
        identity = torch.eye(len(mode)).double()
        map_ = torch.linalg.solve_triangular(upper, identity, upper=True)
        self.log_det = map_.diagonal().log().sum().item()
        self.mode, self.map = nn.Parameter(mode, False), nn.Parameter(map_, False)

    def log_f(self, z: Tensor) -> Tensor:
        """See ``Unconditional``."""
        return self.of.log_f(self.mode + z @ self.map.mT) + self.log_det


REPEATS = 8
FROM_PRIOR = {
    "ionosphere": lambda: LogisticRegression(SHAPE, of="ionosphere"),
    "sonar": lambda: LogisticRegression(SHAPE, of="sonar"),
    "credit": lambda: LogisticRegression(SHAPE, of="credit"),
    "seeds": lambda: Seeds(SHAPE),
}
FROM_LAPLACE = {
    "cancer": lambda: LogisticRegression(SHAPE, of="cancer"),
    "pines, 126": lambda: LogGaussianCox(SHAPE),
    "pines, 127": lambda: LogGaussianCox(SHAPE, points=127),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", FROM_PRIOR.values(), ids=list(FROM_PRIOR))
def test_stated_log_z_against_long_smc(make: Callable[[], Measured]):
    model = with_files(make)
    check_log_z(model, model, num_distributions=300, num_chains=200)


@pytest.mark.slow
@pytest.mark.parametrize("make", FROM_LAPLACE.values(), ids=list(FROM_LAPLACE))
def test_stated_log_z_against_smc_from_laplace(make: Callable[[], Measured]):
    """Where the prior is too far off; a few seconds, and minutes of 1600 numbers."""
    model = with_files(make)
    check_log_z(model, FromLaplace(model), num_distributions=32, num_chains=32, num_leapfrog=5)


def check_log_z(stated: Measured, target: Unconditional, **options: Any) -> None:
    """The mean of Z over independent runs, whose spread is its error."""
    estimator = AnnealedImportanceSampling(
        False,
        path="prior",
        schedule="adaptive",
        resample_below=0.5,
        chunk_size=10**6,
        **options,
    )
    posterior = gaussian(target.latent_dim)
    context = posterior.initial_context().repeat(REPEATS, 1)
    x = torch.zeros(REPEATS, *SHAPE)
    found = estimator(target.float(), posterior, x, context).log_px.value
    relative = (found - found.logsumexp(0) + math.log(REPEATS)).exp()
    log_z = found.logsumexp(0).item() - math.log(REPEATS)
    error = math.hypot(relative.std().item() / math.sqrt(REPEATS), stated.log_px_error)
    assert error < 0.3 + stated.log_px_error
    # Of so few runs Student's t has wide tails: 7 errors of 7 degrees are 4.5 of a normal.
    assert abs(log_z - stated.log_z) < 8.5 * error


def test_the_tables_are_those_that_log_z_is_stated_for():
    sizes = {"ionosphere": 35, "sonar": 61, "credit": 25, "cancer": 31}
    for name, size in sizes.items():
        model = with_files(lambda name=name: LogisticRegression(SHAPE, of=name))
        assert model.latent_dim == size
    assert with_files(lambda: Seeds(SHAPE)).latent_dim == 26
    for points in (126, 127):
        model = with_files(lambda points=points: LogGaussianCox(SHAPE, points=points))
        assert model.get_buffer("counts").sum() == points
    assert model.log_z - with_files(lambda: LogGaussianCox(SHAPE)).log_z == pytest.approx(10.7)


@pytest.mark.usefixtures("made_up")
def test_a_stated_log_z_has_its_error_and_no_draws():
    model = LogisticRegression(SHAPE)
    posterior, x = gaussian(model.latent_dim), torch.zeros(2, *SHAPE)
    estimate = Exact()(model, posterior, x, torch.zeros(2, posterior.context_size))
    assert estimate.log_px.value.tolist() == [model.log_z] * 2
    assert estimate.log_px.standard_error is not None
    assert estimate.log_px.standard_error.tolist() == [0.012] * 2
    with pytest.raises(ValueError, match="LogisticRegression has no exact draws of z"):
        ExactDraws().check(model, posterior)
    with pytest.raises(ValueError, match="LogisticRegression cannot be drawn from"):
        model.sample(3)


def test_a_missing_table_says_where_it_should_be(tmp_path):
    with pytest.raises(DataError, match=r"sampler_targets/ionosphere\.npz: not found") as caught:
        LogisticRegression(SHAPE, root=str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "docs/howto/data.md" in str(caught.value)
    assert "--download" not in str(caught.value)


def test_a_wrong_table_is_refused(tmp_path):
    folder = tmp_path / "sampler_targets"
    folder.mkdir()
    (folder / "seeds.csv").write_bytes(b"r,n,x1,x2\n" + b"1,2,0,0\n" * 30)
    with pytest.raises(DataError, match="wrong content: sha256"):
        SamplerTargets(str(tmp_path)).read("seeds")
    (folder / "seeds.csv").write_bytes(b"r,n\n")
    with pytest.raises(DataError, match=f"truncated: 4 of {FILES['seeds'].num_bytes}"):
        SamplerTargets(str(tmp_path)).read("seeds")


@pytest.mark.usefixtures("results_here")
def test_a_run_without_its_table_ends_with_the_code_of_missing_data(tmp_path, capsys):
    given = ["data={name: nothing}", "encoder={name: constant}", f"model.root={tmp_path}"]
    model = ["model.name=seeds", "training.epochs=1"]
    assert run("-config", QUICKSTART, "-set", *given, *model) == 3
    assert "sampler_targets/seeds.csv: not found" in capsys.readouterr().err


@pytest.mark.usefixtures("results_here")
def test_where_a_table_lies_is_no_part_of_a_runs_identity(tmp_path, capsys):
    if not os.environ.get("VI_DATA"):
        pytest.skip("needs files: set VI_DATA to the folder that holds sampler_targets")
    ids = []
    for root in ([], [f"model.root={os.environ['VI_DATA']}"]):
        given = ["data={name: nothing}", "encoder={name: constant}", "model={name: seeds}"]
        assert run("-config", QUICKSTART, "--dry-run", "-set", *given, *root) == 0
        said = capsys.readouterr()
        ids.append([word for word in (said.out + said.err).split() if word.endswith("-s0")][:1])
    assert ids[0]
    assert ids[0] == ids[1]
