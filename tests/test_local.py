"""Local optimisation: exact optima, independence of the data, resuming, and its settings."""

from __future__ import annotations

import io
import math
import shutil

import pytest
import torch
from torch import Tensor

from estimators.importance import ImportanceSampling
from models.generative import DeepLatentGaussian, LinearGaussian
from models.likelihoods import Bernoulli
from models.local import (
    LocalOptimum,
    LocalSearch,
    LocalSettings,
    fast,
    local_optimise,
    local_settings,
    paper,
)
from models.local import search as search_module
from models.losses import AVO, ELBO, IWAE
from models.networks.mlp import mlp_decoder
from models.posteriors.chain import Chain
from models.posteriors.coupling import real_nvp
from models.posteriors.gaussian import gaussian
from models.posteriors.kernels import hvi
from tests.components import (
    POSTERIORS,
    breaking_compiler,
    initial,
    make_posterior,
    perturbed,
    reseed,
    small_af,
)

X = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2], [2.0, 0.1, 0.3]]).double().view(3, 1, 1, 3)


def go_on(num_active: int) -> bool:
    return True


def tensors(result: LocalOptimum) -> dict[str, Tensor]:
    weights = dict(result.posterior.named_parameters())
    return {"context": result.context, "values": result.values, "steps": result.steps, **weights}


# The optimum


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_optimum_on_the_linear_gaussian_model(linear_gaussian: LinearGaussian, covariance):
    """L[q*] is known: the best factorised bound, and log p(x) with a full covariance matrix."""
    posterior = gaussian(2, covariance=covariance)
    settings = fast(window=150)
    found = local_optimise(
        settings.loss, linear_gaussian, posterior, X, initial(posterior, 3), settings
    )
    exact = linear_gaussian.factorised_bound(X)
    log_px = linear_gaussian.log_px(X)
    assert (log_px - exact).min() > 0.1  # the test can tell the two apart
    expected = exact if covariance == "diagonal" else log_px
    assert found.converged.all()
    estimate = ImportanceSampling(num_samples=4000)(
        linear_gaussian, found.posterior, X, found.context
    )
    elbo, error = estimate.stats["elbo"]
    assert error is not None
    assert ((elbo - expected).abs() < 4.5 * error + 0.01).all()
    assert ((found.values - expected).abs() < 0.1).all()


def test_flow_weights_of_each_datum_close_the_gap(linear_gaussian: LinearGaussian):
    """A coupling of its own turns a factorised Gaussian into any Gaussian of two dimensions."""
    posterior = real_nvp(2, num_layers=2, hidden=(16,)).double()
    settings = fast(weight_lr=0.01, max_steps=300)
    found = local_optimise(
        settings.loss, linear_gaussian, posterior, X, initial(posterior, 3), settings
    )
    estimate = ImportanceSampling(num_samples=4000)(
        linear_gaussian, found.posterior, X, found.context
    )
    elbo, error = estimate.stats["elbo"]
    assert error is not None
    assert (elbo > linear_gaussian.factorised_bound(X) + 0.05).all()
    assert (elbo < linear_gaussian.log_px(X) + 4.5 * error).all()


def test_any_loss_can_be_optimised(linear_gaussian: LinearGaussian):
    """The best IWAE-5 bound of a factorised Gaussian lies between its best ELBO and log p(x)."""
    posterior, settings = gaussian(2), fast(num_samples=5, window=150)
    found = local_optimise(
        IWAE(num_samples=5, gradient="dreg"),
        linear_gaussian,
        posterior,
        X,
        initial(posterior, 3),
        settings,
    )
    num_draws = 4000
    wide = IWAE(num_samples=5)(
        linear_gaussian,
        posterior,
        X.repeat(num_draws, 1, 1, 1),
        found.context.repeat(num_draws, 1),
    ).value.view(num_draws, 3)
    mean, error = wide.mean(0), wide.std(0) / math.sqrt(num_draws)
    assert (mean > linear_gaussian.factorised_bound(X) + 4.5 * error).all()
    assert (mean < linear_gaussian.log_px(X) + 4.5 * error).all()


@pytest.mark.parametrize("scope", ["posterior", "context"])
@pytest.mark.parametrize("options", POSTERIORS)
def test_every_posterior_gets_no_worse(options, scope, linear_gaussian: LinearGaussian):
    posterior = make_posterior(options)
    perturbed(posterior, scale=0.03)  # nets that end in zeros would hide the context
    before = {name: weight.clone() for name, weight in posterior.named_parameters()}
    settings = fast(lr=0.05, weight_lr=5e-4, max_steps=12, min_gain=1e-9)
    context = initial(posterior, 3)
    found = local_optimise(
        settings.loss, linear_gaussian, posterior, X, context, settings, scope=scope
    )
    assert found.steps.tolist() == [12, 12, 12]
    assert not found.converged.any()
    assert not torch.equal(found.context, context)
    for name, weight in posterior.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.requires_grad
        assert weight.grad is None
    if scope == "context":
        assert found.posterior is posterior
    else:
        copies = dict(found.posterior.named_parameters())
        assert all(len(weight) == 3 for weight in copies.values())
        assert len(copies) == len(before)
    measure = ImportanceSampling(num_samples=1000)
    first = measure(linear_gaussian, posterior, X, context).stats["elbo"]
    last = measure(linear_gaussian, found.posterior, X, found.context).stats["elbo"]
    assert first.standard_error is not None
    assert last.standard_error is not None
    error = (first.standard_error.square() + last.standard_error.square()).sqrt()
    assert (last.value > first.value - 4.5 * error).all()
    gain = (last.value - first.value).mean()  # small where the context reaches z through a net
    assert gain > -4.5 * error.norm() / len(error)


# Data points are apart


@pytest.mark.parametrize("make", [small_af, lambda: gaussian(2)], ids=["aux_real_nvp", "gaussian"])
def test_all_at_once_is_each_alone(make, linear_gaussian: LinearGaussian, common_noise):
    posterior, settings = make(), fast(num_samples=3, window=8, max_steps=16)
    context = initial(posterior, 3) + 0.1 * torch.arange(3).double()[:, None]

    def optimise(chosen: slice) -> dict[str, Tensor]:
        common_noise()
        return tensors(
            local_optimise(
                settings.loss, linear_gaussian, posterior, X[chosen], context[chosen], settings
            )
        )

    together = optimise(slice(None))
    for index in range(3):
        alone = optimise(slice(index, index + 1))
        for name, values in alone.items():
            torch.testing.assert_close(together[name][index], values[0], msg=name)


def test_the_model_gets_no_gradients_and_is_left_as_it_was():
    decoder = mlp_decoder(2, (1, 2, 2), 1, hidden=(5,))
    model = DeepLatentGaussian(2, (1, 2, 2), decoder, Bernoulli())
    before = [weight.clone() for weight in model.parameters()]
    fixed = next(model.parameters()).requires_grad_(False)
    posterior, settings = gaussian(2), fast(max_steps=3)
    x = torch.ones(2, 1, 2, 2)
    local_optimise(settings.loss, model, posterior, x, torch.zeros(2, 4), settings)
    for weight, old in zip(model.parameters(), before, strict=True):
        assert weight.grad is None
        assert torch.equal(weight, old)
        assert weight.requires_grad == (weight is not fixed)


# Stopping and going on


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_resumed_is_uninterrupted_bit_for_bit(stop_after, linear_gaussian, monkeypatch):
    """Stopped within a round (chunks of two of five data), saved to a file, and gone on with."""
    monkeypatch.setattr(search_module, "STRETCH", 4)
    posterior, settings = small_af(), fast(num_samples=3, window=6, max_steps=12)
    x = torch.cat([X, X[:2] + 0.5])

    def search() -> LocalSearch:
        made = LocalSearch(
            settings.loss, linear_gaussian, posterior, x, initial(posterior, 5), settings
        )
        made.chunk_size = 2
        return made

    reseed(3)
    straight = search()
    assert straight.run(go_on)
    reseed(3)
    first, calls = search(), iter(range(100))
    assert not first.run(lambda num_active: next(calls) < stop_after)
    file = io.BytesIO()
    torch.save({"search": first.state(), "noise": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    reseed(999)  # another process has another global state
    second = search()
    second.restore(saved["search"])
    torch.set_rng_state(saved["noise"])
    assert second.run(go_on)
    assert next(calls) == stop_after + 1
    expected = tensors(straight.result())
    for name, values in tensors(second.result()).items():
        assert torch.equal(values, expected[name]), name


def test_what_has_left_leaves_its_values_alone(linear_gaussian: LinearGaussian):
    """In memory and in checkpoints; and a state of other data, or of another search, fits none."""
    posterior, settings = small_af(), fast(num_samples=3, window=6, max_steps=200)

    def search(num_data: int = 3) -> LocalSearch:
        context = initial(posterior, num_data)
        return LocalSearch(
            settings.loss, linear_gaussian, posterior, X[:num_data], context, settings
        )

    first = search()
    assert first.fits(first.state())
    first._data["searching"] = torch.tensor([True, False, True])
    first._data["active"] = first._data["searching"].clone()
    first._judge()
    state = first.state()
    for name, table in state["tables"].items():
        rows = 3 if name == "values" else int(state["data"]["searching"].sum())
        assert {len(values) for values in table.values()} == {rows}, name
    assert search().fits(state)
    assert not search(2).fits(state)
    assert not search().fits(state | {"tables": search().state()["tables"]})
    assert not search().fits({"step": "one"})
    other = LocalSearch(
        settings.loss, linear_gaussian, gaussian(2), X, initial(gaussian(2), 3), settings
    )
    assert not other.fits(state)
    second = search()
    second.restore(state)
    reseed(1)
    assert second.run(go_on)
    reseed(1)
    assert first.run(go_on)
    whole = tensors(first.result())
    for name, values in tensors(second.result()).items():
        torch.testing.assert_close(values, whole[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_settings_are_registered_and_say_how_they_deviate():
    assert set(local_settings.names()) >= {"paper", "fast"}
    assert paper().label == "paper"
    assert fast(num_samples=7, min_gain=0.2).label == "fast, num_samples=7, min_gain=0.2"
    assert isinstance(paper().loss, ELBO)
    assert (paper().start, fast().start) == ("initial", "encoder")


def test_the_settings_of_the_paper_are_as_published():
    """Adam at 1e-3, plain ELBO of 100 samples, 10 windows of 100 steps (Cremer et al. 2018)."""
    settings = paper()
    assert (settings.num_samples, settings.loss.num_samples) == (100, 100)
    assert not settings.loss.stop_score
    assert (settings.lr, settings.weight_lr, settings.betas) == (1e-3, 1e-3, (0.9, 0.999))
    assert {settings.schedule(position) for position in (0.0, 0.5, 1.0)} == {1.0}
    assert (settings.window, settings.growth) == (100, 1)
    assert (settings.patience, settings.min_gain, settings.comparisons) == (10, 0.0, 0)
    assert (settings.restart, settings.starts) == (False, 1)


def compiled_and_eager(
    model: LinearGaussian, posterior: Chain, settings: LocalSettings
) -> tuple[list[dict[str, Tensor]], list[str]]:
    """What the search finds with the compiler and without, and what it said."""
    results, messages = [], []
    for compile_step in (True, False):
        reseed(2)
        context = initial(posterior, 3)
        search = LocalSearch(
            settings.loss, model, posterior, X, context, settings,
            compile_step=compile_step, warn=messages.append,
        )  # fmt: skip
        assert search.run(go_on)
        results.append(tensors(search.result()))
    return results, messages


@pytest.mark.parametrize("stage", ["forward", "backward"])
@pytest.mark.parametrize("good_calls", [0, 2])
def test_compiler_failure_falls_back_to_eager(linear_gaussian, monkeypatch, stage, good_calls):
    """Whichever pass fails and however late: the very optimum of a search without a compiler."""
    monkeypatch.setattr(torch, "compile", breaking_compiler(stage, good_calls))
    results, messages = compiled_and_eager(linear_gaussian, small_af(), fast(max_steps=5))
    for name, values in results[0].items():
        assert torch.equal(values, results[1][name]), name
    assert messages == [f"torch.compile failed, going on without it: broken in the {stage} pass"]


def test_only_the_largest_number_of_data_is_compiled(linear_gaussian, monkeypatch):
    """Each size would cost half a minute: what is left of the data goes without."""
    sizes = []

    def compiler(function, **options):
        def call(bench, x):
            sizes.append(len(x))
            return function(bench, x)

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    settings, x = fast(num_samples=3, max_steps=2), torch.cat([X, X[:2]])
    search = LocalSearch(
        settings.loss, linear_gaussian, gaussian(2), x, initial(gaussian(2), 5), settings,
        compile_step=True,
    )  # fmt: skip
    search.chunk_size = search._largest = 4
    assert search.run(go_on)
    assert set(sizes) == {4}
    assert search.result().steps.tolist() == [2] * 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("make", [small_af, lambda: gaussian(2)], ids=["aux_real_nvp", "gaussian"])
def test_compiled_search_is_the_eager_one(make, linear_gaussian: LinearGaussian):
    settings = fast(num_samples=4, max_steps=30)
    # The compiler's own noise is another.
    with torch._inductor.config.patch(fallback_random=True):
        (compiled, eager), messages = compiled_and_eager(linear_gaussian, make(), settings)
    assert not messages
    for name, values in compiled.items():
        torch.testing.assert_close(values, eager[name], msg=name)


def test_a_loss_that_depends_on_nothing_freed_is_refused(linear_gaussian: LinearGaussian):
    posterior = hvi(2, num_layers=2, hidden=[3], shared_size=0).double()
    loss, context = AVO(avo_probability=1.0), initial(posterior, 3)
    with pytest.raises(ValueError, match="nothing that scope `context` frees"):
        local_optimise(loss, linear_gaussian, posterior, X, context, fast(max_steps=3), "context")
