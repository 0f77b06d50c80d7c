"""What may be computed in bf16: forces within trajectories; and what may not: any value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from estimators.annealed import (
    AnnealedImportanceSampling,
    may_round,
    no_pilot,
    run_pilot,
)
from estimators.annealing import PATHS, GaussianPath, Path, PriorPath
from estimators.bidirectional import BidirectionalMonteCarlo
from experiments.runner.build import rounds_forces
from experiments.runner.provenance import device_name
from experiments.runner.schema import Runtime
from models.generative import DeepLatentGaussian, LinearGaussian
from models.likelihoods import Bernoulli, likelihoods
from models.networks.mlp import mlp_decoder
from models.posteriors.gaussian import gaussian
from models.posteriors.paths import PLAIN, Differentiator, untraced
from tests.components import CONTEXT, X
from utils import precision
from utils.precision import has_bf16, in_bf16

CPU = torch.device("cpu")


def path_of(model: LinearGaussian | DeepLatentGaussian, name: str, x: Tensor) -> Path:
    context = torch.zeros(len(x), 2 * model.latent_dim).to(x)
    return PATHS[name](model, gaussian(model.latent_dim), x, context)


@pytest.fixture
def vae() -> DeepLatentGaussian:
    shape = (1, 8, 8)
    return DeepLatentGaussian(4, shape, mlp_decoder(4, shape, 1), Bernoulli())


@pytest.fixture(params=PATHS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def spied(monkeypatch: pytest.MonkeyPatch, path: type[Path]) -> dict[str, set[bool]]:
    """Whether autocast was on in each call of the path's value and of its gradient."""
    seen: dict[str, set[bool]] = {"slope": set(), "slope_gradient": set(), "log_start": set()}
    for method, calls in seen.items():
        honest = getattr(path, method)

        def spy(self: Path, u: Tensor, honest=honest, calls=calls) -> Tensor:
            calls.add(torch.is_autocast_enabled("cpu"))
            return honest(self, u)

        monkeypatch.setattr(path, method, spy)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_paths_own_gradient_is_autograds(vae, name, dtype):
    x = (torch.rand(3, 1, 8, 8) < 0.3).to(dtype)
    path = path_of(vae.to(dtype), name, x)
    u = path.draw(5)
    tight = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(path.slope_gradient(u), untraced(path.slope, u)[1], **tight)


@pytest.mark.parametrize("estimator", [AnnealedImportanceSampling, BidirectionalMonteCarlo])
def test_no_value_is_ever_rounded(vae, monkeypatch, name, estimator):
    monkeypatch.setattr("estimators.annealed.LARGEST_ROUNDING", float("inf"))
    seen = spied(monkeypatch, {"prior": PriorPath, "posterior": GaussianPath}[name])
    z, x = vae.sample(2)
    annealer = estimator(
        rounded_forces=True, path=name, num_chains=4, num_distributions=3, num_leapfrog=3
    )
    annealer(vae, gaussian(4), x, torch.zeros(2, 8), z)
    assert seen == {"slope": {False}, "log_start": {False}, "slope_gradient": {False, True}}


@pytest.mark.parametrize("below", [None, 0.9], ids=["ais", "smc"])
def test_weights_are_exact_whatever_the_forces(linear_gaussian, monkeypatch, name, below):
    """Forces that are off by half of themselves and more cost acceptance, and no bias."""
    path = {"prior": PriorPath, "posterior": GaussianPath}[name]
    honest = path.slope_gradient
    monkeypatch.setattr(
        path, "slope_gradient", lambda self, u: 0.6 * honest(self, u) + 0.3 * u.round()
    )
    annealer = AnnealedImportanceSampling(
        path=name, schedule="linear", step_size=0.3, num_chains=400, num_distributions=15,
        num_leapfrog=4, resample_below=below,
    )  # fmt: skip
    log_px, stats = annealer(linear_gaussian, gaussian(2), X, CONTEXT)
    exact = linear_gaussian.log_px(X).detach()
    assert ((log_px.value - exact).abs() < 4.5 * log_px.standard_error).all()
    assert (stats["ess"].value > 20).all()


def test_meets_the_exact_answer_in_bf16(linear_gaussian, monkeypatch, name):
    monkeypatch.setattr("estimators.annealed.LARGEST_ROUNDING", float("inf"))
    model, x = linear_gaussian.float(), X.float()
    annealer = AnnealedImportanceSampling(
        rounded_forces=True, path=name, num_chains=400, num_distributions=15, num_leapfrog=4
    )
    log_px, stats = annealer(model, gaussian(2), x, CONTEXT.float())
    exact = model.log_px(x).detach()
    assert ((log_px.value - exact).abs() < 4.5 * log_px.standard_error + 1e-5).all()
    assert ((stats["acceptance"].value - 0.65).abs() < 0.2).all()


@pytest.mark.parametrize(("scale", "may"), [(0.7, True), (0.003, False)])
def test_narrow_posteriors_are_not_rounded(scale, may):
    model = LinearGaussian((1, 1, 20), latent_dim=3, scale=scale)
    with torch.no_grad():
        path = PriorPath(model, model.sample(4).x)
        pilot = run_pilot(path, 10)
        assert may_round(path, pilot, 10) == may


@pytest.mark.parametrize("likelihood", likelihoods.names())
def test_every_likelihood_has_forces_in_bf16(likelihood):
    """Beside the rounding of a logit, which 8 bits tell to 0.4 %, they are those of float32."""
    made = likelihoods[likelihood].factory()
    decoder = mlp_decoder(4, (1, 8, 8), made.num_parameters)
    model = DeepLatentGaussian(4, (1, 8, 8), decoder, made)
    path = PriorPath(model, (torch.rand(3, 1, 8, 8) < 0.5).float())
    u = path.draw(20)
    exact, rounded = path.slope_gradient(u), in_bf16(path.slope_gradient, CPU)(u)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.2 * exact.norm()


def test_a_model_that_bf16_has_no_kernel_for_is_not_rounded(vae):
    class Special(DeepLatentGaussian):
        def likelihood_gradient(self, x: Tensor, z: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("\"special\" not implemented for 'BFloat16'")
            return super().likelihood_gradient(x, z)

    model = Special(4, (1, 8, 8), vae.decoder, vae.likelihood)
    with torch.no_grad():
        path = PriorPath(model, (torch.rand(2, 1, 8, 8) < 0.5).float())
        assert not may_round(path, run_pilot(path, 2), 2)


def test_nothing_is_rounded_without_a_pilot_run(vae):
    path = PriorPath(vae, torch.zeros(2, 1, 8, 8))
    assert not may_round(path, no_pilot(path, 0.1), 10)


def test_in_bf16_leaves_float64_alone():
    one, other = torch.randn(20, 30), torch.randn(30, 10)
    product = in_bf16(torch.mm, CPU)
    assert product(one, other).dtype == torch.bfloat16
    torch.testing.assert_close(
        product(one.double(), other.double()), one.double() @ other.double()
    )
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("flags", "has"), [({"amx_bf16": True}, True), ({"avx2": True, "amx_bf16": False}, False)]
)
def test_asks_the_processor(monkeypatch, flags, has):
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: flags)
    assert has_bf16(CPU) == has
    assert not has_bf16(torch.device("meta"))


@pytest.mark.parametrize("has", [True, False])
def test_a_run_rounds_where_it_may(monkeypatch, has):
    monkeypatch.setattr("experiments.runner.build.has_bf16", lambda device: has)
    assert rounds_forces(Runtime()) == has
    assert not rounds_forces(Runtime(precision="exact"))
    assert not rounds_forces(Runtime(device="cuda:99"))  # which only a run must have
    assert device_name(CPU, rounds_forces=has).endswith(", forces in bf16") == has


@pytest.mark.parametrize(
    ("chosen", "compiles"), [(None, [False, True]), (True, [True] * 2), (False, [False] * 2)]
)
def test_annealing_is_compiled_where_it_takes_long(vae, monkeypatch, chosen, compiles):
    """By the work of all the data that are given at once: three chunks of one datum."""
    monkeypatch.setattr("utils.compiled.has_compiler", lambda: True)
    num_parameters = sum(parameter.numel() for parameter in vae.parameters())
    monkeypatch.setattr("utils.compiled.USUAL_STEP", 2 * num_parameters)
    monkeypatch.setattr("utils.compiled.COMPILE_FROM_STEPS", 3 * 10 * 5 * 10 / 2)
    asked: list[int] = []

    def spy(device: torch.device, *, rounded: bool) -> Callable[[Path], Differentiator]:
        asked.append(num_chains)
        return lambda path: PLAIN

    monkeypatch.setattr("estimators.annealed.compiled_slope", spy)
    for num_chains in (9, 10):
        annealer = AnnealedImportanceSampling(
            chosen, schedule="linear", step_size=0.1, num_chains=num_chains,
            num_distributions=10, num_leapfrog=5, chunk_size=num_chains,
        )  # fmt: skip
        annealer(vae, gaussian(4), torch.zeros(3, 1, 8, 8), torch.zeros(3, 8))
    assert [num_chains in asked for num_chains in (9, 10)] == compiles
