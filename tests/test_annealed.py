"""AIS, SMC and BDMC where log p(x) is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from estimators.annealed import (
    AnnealedImportanceSampling,
    Chains,
    Plan,
    _resample,
    move,
    run_pilot,
)
from estimators.annealing import (
    PATHS,
    SCHEDULES,
    GaussianPath,
    Path,
    Pilot,
    PriorPath,
    compiled_slope,
    interpolate,
)
from estimators.bidirectional import BidirectionalMonteCarlo
from estimators.protocol import estimators
from models.generative import DeepLatentGaussian, LinearGaussian
from models.likelihoods import Bernoulli
from models.networks.mlp import mlp_decoder
from models.posteriors.gaussian import gaussian
from models.posteriors.paths import PLAIN, SlopedPath
from tests.components import CONTEXT, POSTERIORS, X, make_node, make_posterior, reseed


def ais(**options) -> AnnealedImportanceSampling:
    small = {"num_chains": 300, "num_distributions": 20, "num_leapfrog": 4}
    plain = {"path": "prior", "schedule": "linear"}
    return AnnealedImportanceSampling(False, **{**small, **plain, **options})


def small_vae(dtype: torch.dtype = torch.float32) -> DeepLatentGaussian:
    shape = (1, 14, 14)
    return DeepLatentGaussian(4, shape, mlp_decoder(4, shape, 1), Bernoulli()).to(dtype)


@pytest.mark.parametrize("below", [None, 0.9], ids=["ais", "smc"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("path", PATHS)
def test_meets_the_exact_answer(linear_gaussian: LinearGaussian, path, schedule, below):
    estimator = ais(path=path, schedule=schedule, resample_below=below)
    log_px, stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    exact = linear_gaussian.log_px(X).detach()
    assert ((log_px.value - exact).abs() < 4.5 * log_px.standard_error).all()
    assert (log_px.standard_error < 0.1).all()
    assert ((stats["acceptance"].value - 0.65).abs() < 0.2).all()
    assert (stats["ess"].value > 30).all()


@pytest.mark.parametrize("path", PATHS)
def test_a_step_size_spares_the_pilot_run(linear_gaussian: LinearGaussian, path, monkeypatch):
    def none(*arguments: object) -> Pilot:
        raise AssertionError("there is no pilot")

    monkeypatch.setattr("estimators.annealed.run_pilot", none)
    estimator = ais(path=path, step_size=0.3)
    log_px, stats = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    exact = linear_gaussian.log_px(X).detach()
    assert ((log_px.value - exact).abs() < 4.5 * log_px.standard_error).all()
    assert (log_px.standard_error < 0.1).all()
    monkeypatch.undo()
    by_pilot = ais(path=path)(linear_gaussian, gaussian(2), X, CONTEXT).stats
    assert not torch.allclose(stats["acceptance"].value, by_pilot["acceptance"].value)


def test_a_step_size_and_an_adaptive_schedule_are_refused_together():
    with pytest.raises(ValueError, match="take `linear` or `sigmoidal`"):
        ais(schedule="adaptive", step_size=0.1)


@pytest.mark.parametrize("below", [None, 0.7], ids=["ais", "smc"])
@pytest.mark.parametrize("path", PATHS)
def test_small_runs_are_unbiased_and_lower_bounds(linear_gaussian: LinearGaussian, path, below):
    """E[exp(log_px)] = p(x) and E[log_px] < log p(x), over runs too short to be good."""
    repeats = 1500
    x, context = X[:1].repeat(repeats, 1, 1, 1), CONTEXT[:1].repeat(repeats, 1)
    exact = linear_gaussian.log_px(X[:1]).detach()
    estimator = ais(
        path=path,
        num_chains=3,
        num_distributions=4,
        num_leapfrog=2,
        resample_below=below,
        chunk_size=10**6,
    )
    excess = estimator(linear_gaussian, gaussian(2), x, context).log_px.value - exact
    error = excess.exp().std() / math.sqrt(repeats)
    assert abs(excess.exp().mean() - 1) < 5 * error
    assert error < 0.07
    assert excess.mean() < -5 * excess.std() / math.sqrt(repeats)


def test_more_distributions_rise_to_log_px(linear_gaussian: LinearGaussian):
    repeats = 200
    x, context = X.repeat(repeats, 1, 1, 1), CONTEXT.repeat(repeats, 1)
    means = []
    for num_distributions in (2, 8, 32):
        estimator = ais(num_chains=2, num_distributions=num_distributions, chunk_size=10**6)
        means.append(estimator(linear_gaussian, gaussian(2), x, context).log_px.value.mean())
    assert means == sorted(means)
    assert abs(linear_gaussian.log_px(X).mean() - means[-1]) < 0.2


@pytest.mark.parametrize("path", PATHS)
def test_bounds_from_both_sides(linear_gaussian: LinearGaussian, path):
    """lower <= log p(x) <= upper in the mean over simulated data, and closer with more steps."""
    with torch.no_grad():
        z, x = linear_gaussian.sample(500)
        exact = linear_gaussian.log_px(x)
    widths = []
    for num_distributions in (3, 30):
        estimator = BidirectionalMonteCarlo(
            False,
            path=path,
            schedule="linear",
            num_chains=4,
            num_distributions=num_distributions,
            num_leapfrog=4,
            chunk_size=10**6,
        )
        lower, stats = estimator(linear_gaussian, gaussian(2), x, CONTEXT[:1].expand(500, 4), z)
        for bound, sign in ((lower.value, 1), (stats["upper"].value, -1)):
            gap = sign * (exact - bound)
            assert gap.mean() > -4 * gap.std() / math.sqrt(500)
        torch.testing.assert_close(stats["width"].value, stats["upper"].value - lower.value)
        widths.append(stats["width"].value.mean())
    assert widths[0] > 2 * widths[1] > 0


@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_the_way_back_is_the_reverse(linear_gaussian: LinearGaussian, path):
    """Crooks's identity, E_forward[√(w/p)] = E_back[√(w' p)] for w' from exact draws.

    It holds for reversible moves alone, and unlike the means of w and w' it has no heavy tail.
    """
    num_chains = 20_000
    annealer = AnnealedImportanceSampling(
        False,
        path=path,
        schedule="linear",
        num_chains=num_chains,
        num_distributions=6,
        num_leapfrog=2,
        chunk_size=10**6,
    )
    ((way, plan),) = annealer.chunks(linear_gaussian, gaussian(2), X, CONTEXT)
    exact = linear_gaussian.log_px(X)
    forward = annealer.run(way, way.draw(num_chains), plan).log_w - exact
    mean, covariance = linear_gaussian.exact_posterior(X)
    noise = torch.randn(num_chains, 3, 2, dtype=torch.float64)
    z = mean + noise @ torch.linalg.cholesky(covariance).T
    back = annealer.run(way, way.coordinates(z), plan.reversed()).log_w + exact
    one, other = (0.5 * forward).exp(), (0.5 * back).exp()
    error = ((one.var(0) + other.var(0)) / num_chains).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() < 4.5 * error).all()
    assert (error < 0.01).all()


@pytest.mark.parametrize("schedule", ["linear", "adaptive"])
@pytest.mark.parametrize("below", [None, 0.9])
def test_the_upper_bound_is_unbiased_for_one_over_px(
    linear_gaussian: LinearGaussian, below, schedule
):
    """E[exp(-upper)] = 1/p(x) over exact draws, though all chains back start at the same one.

    The path starts narrower than the posterior, so that the weights have a variance.
    """
    repeats = 3000
    exact = linear_gaussian.log_px(X[:1]).detach()
    mean, covariance = linear_gaussian.exact_posterior(X[:1])
    variance = 0.4 / covariance.inverse().diagonal()
    start = torch.cat([mean, variance.log().expand_as(mean)], -1)
    x, context = X[:1].repeat(repeats, 1, 1, 1), start.repeat(repeats, 1)
    noise = torch.randn(repeats, 2, dtype=torch.float64)
    z = mean + noise @ torch.linalg.cholesky(covariance).T
    estimator = BidirectionalMonteCarlo(
        False,
        path="posterior",
        schedule=schedule,
        num_chains=3,
        num_distributions=4,
        num_leapfrog=2,
        resample_below=below,
        chunk_size=10**6,
    )
    upper = estimator(linear_gaussian, gaussian(2), x, context, z).stats["upper"].value
    weights = (exact - upper).exp()
    error = weights.std() / math.sqrt(repeats)
    assert abs(weights.mean() - 1) < 5 * error
    assert error < 0.05


def test_bidirectional_chunks_keep_each_z_with_its_x(linear_gaussian: LinearGaussian):
    """Chunk by chunk the draws are those of one chunk after the other, whole estimates of it."""
    estimator = BidirectionalMonteCarlo(
        False, num_chains=4, num_distributions=3, num_leapfrog=2, chunk_size=8
    )
    with torch.no_grad():
        z, x = linear_gaussian.sample(6)
    context = CONTEXT[:1].expand(6, 4)

    def estimates(size: int) -> list[Tensor]:
        reseed(4)
        pieces = []
        for start in range(0, 6, size):
            some = slice(start, start + size)
            log_px, stats = estimator(
                linear_gaussian, gaussian(2), x[some], context[some], z[some]
            )
            pieces.append(torch.stack([*log_px, *stats["upper"], *stats["width"]]))
        return torch.cat(pieces, -1)

    whole = estimates(6)
    torch.testing.assert_close(whole, estimates(2))
    _, lower_error, _, upper_error, _, width_error = whole
    assert (upper_error != lower_error).all()
    torch.testing.assert_close(width_error, torch.hypot(lower_error, upper_error))


def test_bidirectional_needs_the_exact_draw(linear_gaussian: LinearGaussian):
    with pytest.raises(ValueError, match="simulated"):
        BidirectionalMonteCarlo(False)(linear_gaussian, gaussian(2), X, CONTEXT)


def test_standard_error_covers(linear_gaussian: LinearGaussian):
    """95 % intervals of AIS and of SMC hold the truth about as often (binomial 5 sigma)."""
    repeats = 400
    x, context = X[:1].repeat(repeats, 1, 1, 1), CONTEXT[:1].repeat(repeats, 1)
    exact = linear_gaussian.log_px(X[:1]).detach()
    for below in (None, 0.9):
        estimator = ais(
            num_chains=200, num_distributions=8, resample_below=below, chunk_size=10**6
        )
        value, error = estimator(linear_gaussian, gaussian(2), x, context).log_px
        inside = ((value - exact).abs() < 1.96 * error).double().mean().item()
        assert abs(inside - 0.95) < 5 * math.sqrt(0.05 * 0.95 / repeats)


def test_mean_error_and_effective_size_by_hand():
    """Weights 1, 2, 3 of chains that are their own; then the last two born of one; then none."""
    log_w = torch.tensor([1.0, 2.0, 3.0]).double().log()[:, None].repeat(1, 3)
    log_w[:, 2] = -math.inf
    ancestors = torch.tensor([[0, 0, 0], [1, 1, 1], [2, 1, 2]])
    zeros = torch.zeros(3).double()
    chains = Chains(log_w, torch.tensor([0.0, -1.0, 0.0]).double(), ancestors, zeros, zeros)
    value, error = chains.log_mean
    assert value.tolist() == pytest.approx([math.log(2), math.log(2) - 1, -math.inf])
    # Normalised to a mean of 1 the weights are 0.5, 1 and 1.5; the sums of the second 0.5 and 2.5.
    variances = [0.5 / 6, (0.25 + 2.25 + 1) / 6, math.inf]
    assert error.square().tolist() == pytest.approx(variances)
    assert chains.stats["ess"].value.tolist() == pytest.approx([36 / 14, 36 / 14, 0])


def some_chains(log_w: Tensor, ancestors: Tensor | None = None) -> Chains:
    """Chains (C, B) that were not resampled unless ``ancestors`` says so."""
    zeros = torch.zeros(log_w.shape[1]).double()
    own = torch.arange(len(log_w))[:, None].expand(log_w.shape)
    return Chains(log_w, zeros, own if ancestors is None else ancestors, zeros, zeros)


@pytest.mark.parametrize(("num_chains", "needed"), [(20, 3), (100, 5)])
def test_errors_of_few_effective_chains_are_not_reliable(num_chains, needed):
    """By equal weights of some chains, or by the heirs of some."""
    rows = torch.arange(num_chains)[:, None]
    some = torch.tensor([needed - 1, needed, 0])
    log_w = torch.where(rows < some, 0.0, -math.inf).double()
    assert some_chains(log_w).reliable.value.tolist() == [0, 1, 0]
    heirs = rows % torch.tensor([needed - 1, needed + 1])
    equal = torch.zeros(num_chains, 2).double()
    assert some_chains(equal, heirs).reliable.value.tolist() == [0, 1]


def test_halves_of_the_chains_have_means_and_errors_of_their_own():
    log_w = torch.randn(5, 3).double()
    stats = some_chains(log_w).halves
    for name, w in (("a", log_w[:2].exp()), ("b", log_w[2:].exp())):
        value, error = stats[f"log_px_{name}"]
        torch.testing.assert_close(value, w.mean(0).log())
        torch.testing.assert_close(error, w.std(0) / w.mean(0) / math.sqrt(len(w)))
    one_chain = some_chains(log_w[:2]).halves["log_px_b"]
    assert torch.equal(one_chain.value, log_w[1])
    assert one_chain.standard_error.isnan().all()


def test_resampled_chains_have_no_halves(linear_gaussian: LinearGaussian):
    small = {"num_chains": 4, "num_distributions": 3, "num_leapfrog": 1}
    for below, halves in ((None, True), (0.5, False)):
        stats = ais(**small, resample_below=below)(linear_gaussian, gaussian(2), X, CONTEXT).stats
        assert ("log_px_a" in stats) is halves
        assert stats.keys() >= {"reliable", "ess", "acceptance", "divergent"}


def test_only_uneven_chains_are_resampled():
    """Systematically, so that four chains of shares 1/2, 1/4, 1/4 and 0 have certain heirs."""
    shares = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    before = shares.double().log()
    chosen, log_w, log_z = _resample(before, torch.tensor([0.5, 0.5, 0.5]).double(), 0.7)
    assert chosen.T.tolist() == [[0, 1, 2, 3], [0, 0, 1, 2], [1, 1, 1, 1]]
    assert torch.equal(log_w, torch.zeros(4, 3).double())
    assert log_z.tolist() == pytest.approx([0.5, 0.5 + math.log(1), 0.5 + math.log(1 / 4)])
    chosen, log_w, log_z = _resample(before, log_z, 0.6)  # the second has ESS / C = 2/3
    assert chosen.T.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 1, 1, 1]]
    assert torch.equal(log_w[:, 1], before[:, 1])


def test_jitter_moves_chains_whose_orbits_close(linear_gaussian: LinearGaussian):
    """Six leapfrog steps of size 1 turn a standard normal's orbit by 6 · 60°."""
    path = PriorPath(linear_gaussian, X)
    with torch.no_grad():
        start = path.draw(50)
        target = SlopedPath(path.log_start, path.slope, PLAIN).at(torch.zeros(3).double())
        end = move(target, start, torch.ones(3).double(), 6)
    far = (end.u - start).norm(dim=-1) > 0.1
    assert far.double().mean() > 0.7


def test_acceptance_is_the_mean_over_all_moves(linear_gaussian: LinearGaussian):
    annealer = AnnealedImportanceSampling(False, num_chains=5, num_distributions=4, num_leapfrog=2)
    path = PriorPath(linear_gaussian, X)
    betas = torch.linspace(0, 1, 5).double()[:, None].expand(-1, 3)
    with torch.no_grad():
        plan = Plan(betas, torch.full_like(betas, 1e-6))  # steps too short to be rejected
        chains = annealer.run(path, path.draw(5), plan)
    torch.testing.assert_close(chains.acceptance, torch.ones(3).double(), atol=1e-4, rtol=0)
    assert (chains.divergent == 0).all()


def test_divergent_trajectories_are_counted(linear_gaussian: LinearGaussian):
    """Where a quarter of all moves have steps by far too long, they are the share."""
    annealer = AnnealedImportanceSampling(False, num_chains=5, num_distributions=5, num_leapfrog=9)
    path = PriorPath(linear_gaussian, X)
    betas = torch.linspace(0, 1, 6).double()[:, None].expand(-1, 3)
    steps = torch.full_like(betas, 1e-6)
    steps[2] = 1e3
    with torch.no_grad():
        chains = annealer.run(path, path.draw(5), Plan(betas, steps))
    torch.testing.assert_close(chains.divergent, torch.full((3,), 0.25).double())


@pytest.mark.parametrize("options", POSTERIORS)
def test_starts_from_every_posterior(linear_gaussian: LinearGaussian, options):
    posterior = make_posterior(options)
    context = posterior.initial_context().double().repeat(3, 1)
    context = context + 0.1 * torch.randn_like(context)
    value, error = ais(path="posterior")(linear_gaussian, posterior, X, context).log_px
    exact = linear_gaussian.log_px(X).detach()
    assert ((value - exact).abs() < 5 * error).all()
    assert all(parameter.grad is None for parameter in posterior.parameters())


def test_same_seed_same_numbers_and_no_gradients(linear_gaussian: LinearGaussian):
    values = []
    for _ in range(2):
        reseed(3)
        estimator = ais(schedule="adaptive", resample_below=0.5)
        with torch.no_grad():
            values.append(estimator(linear_gaussian, gaussian(2), X, CONTEXT).log_px.value)
    assert torch.equal(*values)
    assert not values[0].requires_grad
    assert all(parameter.grad is None for parameter in linear_gaussian.parameters())


def test_chunks_hold_whole_data(linear_gaussian: LinearGaussian):
    x, context = X.repeat(3, 1, 1, 1)[:7], CONTEXT.repeat(3, 1)[:7]
    estimator = ais(chunk_size=2 * 300 + 1)  # chunks of 2, 2, 2 and 1
    value, error = estimator(linear_gaussian, gaussian(2), x, context).log_px
    assert ((value - linear_gaussian.log_px(x).detach()).abs() < 4.5 * error).all()


class Counted(LinearGaussian):
    """Counts how often, and on how many rows, its likelihood is asked."""

    def __init__(self) -> None:
        super().__init__((1, 1, 3), latent_dim=2)
        self.rows: list[int] = []

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.rows.append(z[..., 0].numel())
        return super().log_likelihood(x, z)


def test_chunks_bound_the_rows_of_the_decoder():
    model = Counted()
    x, context = X.float().repeat(3, 1, 1, 1)[:7], CONTEXT.float()[:1].expand(7, 4)
    ais(num_distributions=2, chunk_size=2 * 300 + 1)(model, gaussian(2), x, context)
    assert max(model.rows) == 2 * 300


@pytest.mark.parametrize("below", [None, 1.0], ids=["ais", "smc"])
@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_evaluated_twice(path, below):
    """The likelihood is asked once at the start and once a leapfrog step, resampled or not."""
    model = Counted()
    annealer = ais(
        path=path, num_chains=7, num_distributions=11, num_leapfrog=5, resample_below=below
    )
    with torch.no_grad():
        ((way, plan),) = annealer.chunks(model, gaussian(2), X.float(), CONTEXT.float())
        model.rows.clear()
        annealer.run(way, way.draw(7), plan)
    assert model.rows == [7 * 3] * (1 + 5 * 10)


def test_broken_densities_are_rejections():
    """NaN or infinite likelihoods weigh nothing; what is left is the answer."""

    class Broken(LinearGaussian):
        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            log_likelihood = super().log_likelihood(x, z)
            log_likelihood = log_likelihood.masked_fill(z[..., 0] > 0.5, math.nan)
            return log_likelihood.masked_fill(z[..., 0] < -1.0, math.inf)

    model = Broken((1, 1, 3), latent_dim=1).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    value, error = ais(num_leapfrog=3)(model, gaussian(1), X, CONTEXT[:, :2]).log_px
    grid = torch.linspace(-1, 0.5, 10_001, dtype=torch.float64).view(-1, 1, 1)
    log_joint = LinearGaussian.log_likelihood(model, X, grid) + model.log_prior(grid)
    exact = (log_joint.logsumexp(0) + math.log(1.5 / 10_001)).detach()
    assert ((value - exact).abs() < 5 * error + 1e-4).all()


def test_float32_is_accurate_enough():
    """One model in single and double precision, log p(x) about -130 nats."""
    reseed(1)
    double = small_vae(torch.float64)
    single = small_vae()
    single.load_state_dict(double.state_dict())
    x = (torch.rand(2, 1, 14, 14) < 0.3).double()
    context = torch.zeros(2, 8)
    options = {"num_chains": 150, "num_distributions": 20, "num_leapfrog": 3}
    first, first_error = ais(**options)(double, gaussian(4), x, context.double()).log_px
    second, second_error = ais(**options)(single, gaussian(4), x.float(), context).log_px
    assert (first < -100).all()
    assert second.dtype == torch.float64
    error = torch.hypot(first_error, second_error)
    assert (error < 0.1).all()
    assert ((first - second).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", PATHS)
def test_values_and_gradients_are_those_of_the_path(name):
    model = small_vae(torch.float64)
    x = (torch.rand(2, 1, 14, 14) < 0.3).double()
    path: Path = PATHS[name](model, gaussian(4), x, torch.zeros(2, 8).double())
    u = path.draw(5).detach()
    beta, at = torch.tensor([0.3, 0.8]).double(), u.clone().requires_grad_()
    log_density = path.log_start(at) + beta * path.slope(at)
    with torch.no_grad():
        target = SlopedPath(path.log_start, path.slope, PLAIN).at(beta)
        on_the_way, point = target.gradient(u), target.evaluate(u)
    torch.testing.assert_close(point.log_density, log_density.detach())
    torch.testing.assert_close(point.gradient, *torch.autograd.grad(log_density.sum(), at))
    assert torch.equal(on_the_way, point.gradient)
    assert not point.log_density.requires_grad
    assert not point.gradient.requires_grad
    both = path.log_start(u) + path.slope(u)
    z = u if name == "prior" else path.mean + path.scale * u  # type: ignore[attr-defined]
    torch.testing.assert_close(path.coordinates(z), u)
    jacobian = 0.0 if name == "prior" else path.scale.log().sum(-1)  # type: ignore[attr-defined]
    torch.testing.assert_close(both, model.log_joint(x)(z) + jacobian)
    assert torch.autograd.gradcheck(path.slope, u.requires_grad_())


def test_posterior_path_starts_with_its_moments(linear_gaussian: LinearGaussian):
    """Those of 256 draws; a posterior without any width is given a little."""
    context = torch.tensor([[0.5, -2.0, -3.0, 1.0], [1.0, 3.0, -2.0, -40.0]]).double()
    mean, scale = context[:, :2], (0.5 * context[:, 2:]).exp()
    path = PATHS["posterior"](linear_gaussian, gaussian(2), X[:2], context)
    assert isinstance(path, GaussianPath)
    wide = scale > 1e-4
    assert ((path.mean - mean).abs() <= 4.5 * scale / 16).all()
    assert ((path.scale / scale - 1).abs() < 4.5 / math.sqrt(2 * 256))[wide].all()
    assert (path.scale[~wide] == 1e-4).all()


@pytest.mark.slow
def test_compiled_is_eager():
    model = small_vae()
    path = PriorPath(model, (torch.rand(2, 1, 14, 14) < 0.3).float())
    compiled = compiled_slope(torch.device("cpu"))(path)
    with torch.no_grad():
        for num_chains in (5, 7):
            u = path.draw(num_chains)
            eager, both = PLAIN.both(path.slope, u), compiled.both(path.slope, u)
            alone = compiled.gradient(path.slope, u)
            for one, other in zip((*eager, eager[1]), (*both, alone), strict=True):
                torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-5)


def test_a_compiler_that_fails_is_told_once_and_done_without(monkeypatch, linear_gaussian):
    def broken(*arguments: object) -> None:
        raise RuntimeError("no compiler here\nlong trace")

    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    forces: list[int] = []
    honest = GaussianPath.slope_gradient
    monkeypatch.setattr(
        GaussianPath, "slope_gradient", lambda path, u: forces.append(len(u)) or honest(path, u)
    )
    estimator = AnnealedImportanceSampling(True, num_chains=5, num_distributions=3)
    with pytest.warns(RuntimeWarning, match="going on without it: no compiler here$"):
        estimate = estimator(linear_gaussian, gaussian(2), X, CONTEXT)
    assert estimate.log_px.value.isfinite().all()
    assert 5 in forces  # beside those of the pilot run: no value is computed on the way
    estimator(linear_gaussian, gaussian(2), X, CONTEXT)  # warnings are errors


def test_schedules_rise_from_0_to_1():
    levels = torch.tensor([[0.0, 0.0], [0.01, 0.3], [0.1, 1.0], [1.0, 1.0]]).double()
    pilot = Pilot(levels, torch.zeros_like(levels))
    for schedule in SCHEDULES.values():
        betas = schedule(12, pilot)
        assert betas.shape == (13, 2)
        assert (betas[0] == 0).all()
        assert (betas[-1] == 1).all()
        assert (betas.diff(dim=0) > 0).all()
    adaptive = SCHEDULES["adaptive"](12, pilot)
    torch.testing.assert_close(adaptive[[4, 8, 12], 0], levels[1:, 0])
    torch.testing.assert_close(adaptive[[6, 12], 1], levels[1:3, 1])
    quarter = (1 / (1 + math.exp(2)) - 1 / (1 + math.exp(4))) / math.tanh(2)
    assert SCHEDULES["sigmoidal"](12, pilot)[3, 0] == pytest.approx(quarter)


def test_interpolates_column_by_column():
    knots = torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]])
    values = torch.tensor([[1.0, 5.0], [2.0, 6.0], [4.0, 9.0]])
    x = torch.tensor([[0.0, 0.0], [0.25, 0.5], [0.75, 1.0], [1.0, 1.0]])
    expected = torch.tensor([[1.0, 5.0], [1.5, 5.5], [3.0, 6.0], [4.0, 6.0]])
    torch.testing.assert_close(interpolate(x, knots, values), expected)


def test_pilot_spaces_levels_by_conditional_ess():
    """A sharp likelihood: levels begin far closer to 0 than they are near 1, and end."""
    model = LinearGaussian((1, 1, 3), latent_dim=2, scale=0.01).double()
    with torch.no_grad():
        pilot = run_pilot(PriorPath(model, X), 5)
    steps = pilot.betas.diff(dim=0)
    assert (pilot.betas[0] == 0).all()
    assert (pilot.betas[-1] == 1).all()
    assert (steps[0] < 1e-3).all()
    assert (steps.max(0).values > 100 * steps[0]).all()
    assert 20 < len(steps) < 200


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "AIS-500x100"),
        ({"num_distributions": 50, "num_chains": 7}, "AIS-50x7"),
        ({"path": "posterior", "schedule": "adaptive"}, "AIS-500x100 (posterior, adaptive)"),
        ({"path": "posterior", "schedule": "sigmoidal"}, "AIS-500x100 (posterior, sigmoidal)"),
        ({"num_leapfrog": 3}, "AIS-500x100 (3 leapfrog)"),
        ({"resample_below": 0.5}, "AIS-500x100 (resampled below ESS 0.5)"),
    ],
)
def test_label_tells_the_settings(options, label):
    plain = {"path": "prior", "schedule": "linear"}
    assert AnnealedImportanceSampling(False, **{**plain, **options}).label == label


def test_the_default_is_the_best_and_the_published_protocol_has_a_name(linear_gaussian):
    node = make_node(estimators, {"name": "ais_paper"})
    assert node.build(compile_step=False, rounded_forces=False).label == "AIS-500x100"
    for name in ("ais", "bdmc"):
        label = (
            make_node(estimators, {"name": name})
            .build(compile_step=False, rounded_forces=False)
            .label
        )
        assert label == f"{name.upper()}-500x100 (posterior, adaptive)"


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
def test_the_default_path_is_right_where_the_posterior_is_narrow(noise):
    """From the factorised Gaussian nearest to the posterior; from the prior it would be nats off.

    In float32, against the closed form, with the noise of both estimates in the tolerance.
    """
    model = LinearGaussian((1, 1, 10), latent_dim=5, scale=noise).requires_grad_(False)
    x = model.sample(10).x
    mean, covariance = model.exact_posterior(x)
    log_variance = -covariance.inverse().diagonal().log().expand_as(mean)
    context = torch.cat([mean, log_variance], -1).float()
    estimator = AnnealedImportanceSampling(
        False, num_chains=50, num_distributions=100, num_leapfrog=5
    )
    (value, error), stats = estimator(model, gaussian(5), x, context)
    excess = (value - model.log_px(x)).exp() - 1  # unbiased, in relative errors
    assert stats["reliable"].value.mean() > 0.5
    believed = stats["reliable"].value > 0
    assert (excess.abs() < 6 * error)[believed].all()
