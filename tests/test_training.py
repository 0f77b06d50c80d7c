from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trainer import DivergedError, Trainer
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.langevin import Proposal
from models.posteriors.metropolis import MetropolisLangevin
from models.posteriors.paths import Target
from models.posteriors.step_sizes import LearnedSize
from models.vae import VAE
from tests.components import SEED, breaking_compiler, reseed
from utils import checkpoint, seeding
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.base import Data

SMALL = [
    "model.latent_dim=2",
    "model.decoder.hidden=[8]",
    "encoder.hidden=[8]",
    "training.batch_size=32",
    "training.epochs=4",
    f"seed={SEED}",
]


def configure(*assignments: str) -> RunConfig:
    return validate(RunConfig, load(None, (), [*SMALL, *assignments], DEFAULTS))


@pytest.fixture(scope="module")
def data() -> Data:
    whole: Data = configure().data.build().load()
    assert whole.intensities is not None
    splits = {name: x[:100] for name, x in whole.splits.items()}
    return whole._replace(splits=splits, intensities=whole.intensities[:100])


def trainer(data: Data, *assignments: str, **options) -> Trainer:
    config = configure(*assignments)
    built = build(config, data.x_shape)
    return Trainer(built.vae, built.loss, data, config.training, config.seed, **options)


def go_on(step: int) -> bool:
    return True


def fit(fitted: Trainer, epochs: int) -> list:
    reports = []
    for _ in range(epochs):
        assert fitted.train_epoch(go_on)
        reports += fitted.report()
    return reports


def weights(fitted: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in fitted.parameters])


def test_training_may_go_through_the_first_images_alone(data, monkeypatch):
    """As many steps and images as asked for; more than there are is all of them."""
    seen: list[int] = []
    batch = Data.batch
    monkeypatch.setattr(
        Data, "batch", lambda self, at: (seen.extend(at.tolist()), batch(self, at))[1]
    )
    for asked, used in ((40, 40), (1000, 100)):
        fit(trainer(data, f"training.max_data={asked}"), 1)
        assert sorted(seen) == list(range(used))
        seen.clear()


def test_training_improves_the_bound(data):
    reports = fit(trainer(data, "training.optimiser.lr=0.01"), 4)
    validation = [r.values["bound"] for r in reports if r.split == "validation"]
    assert validation[-1] > validation[0] + 1


@pytest.mark.parametrize("stop_at", [0, 2])
@pytest.mark.parametrize("optimiser", ["adam", "adamax", "rmsprop", "sgd"])
def test_resume_is_exact_between_and_within_epochs(data, tmp_path, stop_at, optimiser):
    assignments = [
        f"training.optimiser.name={optimiser}",
        "training.optimiser.lr=0.001",
        "training.schedule.name=cosine",
        "loss.warmup={name: linear, epochs: 3}",
        "training.clip_grad_norm=100.0",
    ]
    straight = trainer(data, *assignments)
    expected = fit(straight, 3)

    first = trainer(data, *assignments)
    before = fit(first, 1)
    if stop_at:
        assert not first.train_epoch(lambda step: step < stop_at)
    checkpoint.save(first.state(), tmp_path / "last.pt")
    reseed(999)  # another process has another global state
    second = trainer(data, *assignments)
    second.restore(checkpoint.load(tmp_path / "last.pt", "cpu"))
    assert second.step == stop_at
    assert before + fit(second, 2) == expected
    assert torch.equal(weights(second), weights(straight))


def test_training_metrics_are_means_over_data(data):
    """Of an epoch of 98 and 2 images, each image counts the same."""
    fitted = trainer(data, "training.batch_size=98")
    bounds: list[Tensor] = []
    loss = fitted.loss

    class Recording(type(loss)):
        def __call__(self, *arguments):
            bound = loss(*arguments)
            if torch.is_grad_enabled():  # a step of training, no validation
                bounds.append(bound.value.double())
            return bound

    fitted.loss = Recording()
    (report, _) = fit(fitted, 1)
    assert [len(batch) for batch in bounds] == [98, 2]
    mean = torch.cat(bounds).mean().item()
    assert report.values["bound"] == pytest.approx(mean, rel=1e-6)  # float32 means a batch


def test_metrics_of_equal_batches_are_the_plain_mean_of_the_steps(data):
    fitted = trainer(data, "training.batch_size=20")
    (report, _) = fit(fitted, 1)
    plain = dict(zip(fitted._names, fitted._history.double().mean(0).tolist(), strict=True))
    assert {name: report.values[name] for name in plain} == plain


class Adaptive(MetropolisLangevin):
    """A step that is longer or shorter after each optimiser's step, by its acceptance."""

    factor: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim, step_size=partial(LearnedSize, first=0.1))
        self.register_buffer("factor", torch.ones(()))

    def propose(self, z: Tensor, context: Tensor, target: Target) -> Proposal:
        return super().propose(z, context + self.factor.log(), target)

    def adapt(self, stats: Mapping[str, Tensor]) -> None:
        self.factor *= 0.5 + stats["acceptance"].mean()


def test_resume_is_exact_with_transitions_that_adapt(data, tmp_path):
    def make() -> Trainer:
        config = configure()
        built = build(config, data.x_shape)
        with seeding.isolated(0):
            posterior = Chain(DiagonalGaussian(2), [Adaptive(2)])
            vae = VAE(built.vae.model, built.vae.encoder, posterior)
        return Trainer(vae, built.loss, data, config.training, config.seed)

    straight = make()
    expected = fit(straight, 3)
    assert straight.vae.posterior.transitions[0].factor != 1
    assert 0 < expected[0].values["acceptance"] < 1
    first = make()
    before = fit(first, 1)
    assert not first.train_epoch(lambda step: step < 2)
    checkpoint.save(first.state(), tmp_path / "last.pt")
    second = make()
    second.restore(checkpoint.load(tmp_path / "last.pt", "cpu"))
    assert before + fit(second, 2) == expected
    for name, tensor in straight.vae.state_dict().items():
        assert torch.equal(second.vae.state_dict()[name], tensor), name


@pytest.mark.parametrize("stop_at", [0, 2])
@pytest.mark.parametrize("until", ["null", "mutual_information"])
def test_resume_is_exact_with_steps_of_the_encoder(data, tmp_path, stop_at, until):
    assignments = ["training.encoder_steps=3", f"training.encoder_steps_until={until}"]
    straight = trainer(data, *assignments)
    expected = fit(straight, 3)
    assert len(straight.information) == (0 if until == "null" else 3)
    first = trainer(data, *assignments)
    before = fit(first, 1)
    if stop_at:
        assert not first.train_epoch(lambda step: step < stop_at)
    checkpoint.save(first.state(), tmp_path / "last.pt")
    reseed(999)  # another process has another global state
    second = trainer(data, *assignments)
    second.restore(checkpoint.load(tmp_path / "last.pt", "cpu"))
    assert second.information == first.information
    assert before + fit(second, 2) == expected
    assert torch.equal(weights(second), weights(straight))


@pytest.mark.parametrize("optimiser", ["adam", "adamax", "rmsprop", "sgd"])
def test_a_step_of_the_encoder_leaves_the_model_as_it_is(data, optimiser):
    """Momentum of earlier steps included."""
    fitted = trainer(
        data, f"training.optimiser={{name: {optimiser}, lr: 0.01}}", "training.encoder_steps=2"
    )
    fit(fitted, 1)
    before = {name: t.clone() for name, t in fitted.vae.state_dict().items()}
    fitted._encoder_step(torch.tensor(1.0))
    for name, tensor in fitted.vae.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("model."), name


def test_steps_of_the_encoder_are_counted_and_end_with_the_mutual_information(data, monkeypatch):
    options = ["training.encoder_steps=3", "training.encoder_steps_until=mutual_information"]
    fitted = trainer(data, *options, diagnostics=False)
    told = iter([0.1, 0.2, 0.2, 0.3])
    monkeypatch.setattr(
        "estimators.usage.summary", lambda *_: ({"mutual_information": next(told)}, [])
    )
    steps = 0
    original = fitted._encoder_step

    def counted(weight):
        nonlocal steps
        steps += 1
        original(weight)

    monkeypatch.setattr(fitted, "_encoder_step", counted)
    found = []
    for _ in range(4):
        steps = 0
        fit(fitted, 1)
        found.append(steps)
    assert found == [2 * fitted.num_steps] * 3 + [0]


def test_each_evaluation_tells_of_the_use_of_the_latent_dimensions(data):
    (_, report) = fit(trainer(data), 1)
    assert 0 <= report.values["active_units"] <= 2
    assert report.values["mutual_information"] <= math.log(100)
    assert math.isfinite(report.values["aggregate_kl"])
    assert len(report.vectors["dimension_kl"]) == 2
    (_, without) = fit(trainer(data, diagnostics=False), 1)
    assert not without.vectors
    assert without.values == {name: report.values[name] for name in without.values}
    assert "mutual_information" not in without.values


def test_where_z_can_tell_nothing_of_x_nothing_is_measured(data):
    sightless = trainer(data)
    sightless.vae.encoder.sees_x = False
    (_, blind) = fit(sightless, 1)
    one = data._replace(splits=data.splits | {"validation": data.splits["validation"][:1]})
    (_, single) = fit(trainer(one), 1)
    for report in (blind, single):
        assert not report.vectors
        assert "active_units" not in report.values


def test_evaluation_changes_nothing_else(data):
    often, never = trainer(data), trainer(data, "training.evaluate_every=3")
    fit(often, 2)
    fit(never, 2)
    assert torch.equal(weights(often), weights(never))


def test_seeds_change_the_run_and_streams_are_apart(data):
    first, second = trainer(data), trainer(data, f"seed={SEED + 1}")
    assert not torch.equal(weights(first), weights(second))
    orders = {
        tuple(seeding.permutation(10, seeding.derive(0, "order", e), first.device).tolist())
        for e in (1, 2, 3)
    }
    assert len(orders) == 3


def test_the_global_generator_is_left_alone(data):
    reseed(3)
    expected = torch.rand(1)
    reseed(3)
    fit(trainer(data), 1)
    assert torch.equal(torch.rand(1), expected)


def test_divergence_names_its_place(data):
    fitted = trainer(data)
    fit(fitted, 1)
    broken = data.splits["train"].clone()
    broken[:] = math.nan
    fitted.data = data._replace(intensities=None, splits={**data.splits, "train": broken})
    with pytest.raises(DivergedError, match=r"`loss` is nan at epoch 2, step 1 of 4"):
        fitted.train_epoch(go_on)


def test_weights_broken_by_the_last_step_are_noticed_before_anybody_saves_them(data):
    fitted = trainer(data)
    step = fitted.optimiser.step

    def breaking_step():
        step()
        with torch.no_grad():
            fitted.parameters[0].fill_(math.inf)

    fitted.optimiser.step = breaking_step
    with pytest.raises(DivergedError, match="not finite after epoch 1, step 1"):
        fitted.train_epoch(lambda number: number < 1)


def test_gradient_clipping_bounds_the_step(data):
    clipped = trainer(
        data, "training.clip_grad_norm=0.001", "training.optimiser={name: sgd, lr: 1.0}"
    )
    before = weights(clipped)
    clipped.train_epoch(lambda step: step < 1)
    assert (weights(clipped) - before).norm() <= 0.001 * (1 + 1e-4)  # float32 rounding


def validate_as(fitted: Trainer, bounds: Sequence[float]) -> None:
    """Let validation give these bounds, one after the other, and then the last one for ever."""
    rest = list(bounds)

    def evaluate(split: str) -> dict[str, float]:
        return {"bound": rest.pop(0) if len(rest) > 1 else rest[0]}

    fitted._evaluate = evaluate


def epochs_until_stopped(fitted: Trainer) -> int:
    while not fitted.finished:
        fit(fitted, 1)
    return fitted.epoch


@pytest.mark.parametrize(
    ("options", "bounds", "epoch"),
    [
        (["patience=2"], [-3, -2, -2, -2.5], 4),
        (["patience=5", "evaluate_every=3"], [-3], 18),  # the first one gains, five wait
        (["patience=2", "min_delta=0.5"], [-3, -2.6, -2.4, -2.2, -2.0, -1.8], 5),
        (["patience=2", "warmup=6"], [-3], 8),
        (["patience=2", "warmup=6"], [-3, -3, -3, -3, -3, -3, -3, -2], 10),
    ],
    ids=["plain", "seldom", "min_delta", "warmup", "gain after warmup"],
)
def test_patience_counts_validations(data, options, bounds, epoch):
    places = {
        "patience": "training.early_stopping.patience={}",
        "min_delta": "training.early_stopping.min_delta={}",
        "evaluate_every": "training.evaluate_every={}",
        "warmup": "loss.warmup={{name: linear, epochs: {}}}",
    }
    words = [option.split("=") for option in options]
    stopping = trainer(data, "training.epochs=50", *(places[k].format(v) for k, v in words))
    validate_as(stopping, bounds)
    assert epochs_until_stopped(stopping) == epoch


def test_the_least_gain_decides_when_to_stop_and_not_what_is_best(data):
    fitted = trainer(data, "training.early_stopping={patience: 3, min_delta: 1.0}")
    validate_as(fitted, [-3, -2.9, -2.8, -2.85])
    assert epochs_until_stopped(fitted) == 4
    assert fitted.best is not None
    assert (fitted.best.value, fitted.best.epoch) == (-2.8, 3)


def test_patience_survives_a_resume_and_begins_anew_from_an_old_checkpoint(data, tmp_path):
    def stopping() -> Trainer:
        return trainer(data, "training.epochs=50", "training.early_stopping.patience=4")

    first = stopping()
    validate_as(first, [-2])
    fit(first, 3)  # two of them without a gain
    checkpoint.save(first.state(), tmp_path / "last.pt")
    state = checkpoint.load(tmp_path / "last.pt", "cpu")
    for old, epoch in ((False, 5), (True, 7)):
        if old:
            del state["validations"]
        second = stopping()
        second.restore(state)
        validate_as(second, [-2])
        assert epochs_until_stopped(second) == epoch


def test_best_weights_are_those_of_the_best_epoch(data):
    fitted = trainer(data, "training.optimiser.lr=0.01")
    kept = {}
    for report in fit(fitted, 2):
        if report.split == "validation":
            kept[report.epoch] = report.values["bound"]
    assert fitted.best.value == max(kept.values())
    assert kept[fitted.best.epoch] == fitted.best.value
    fitted.best = fitted.best._replace(value=math.inf)  # nothing will be better
    best = {name: tensor.clone() for name, tensor in fitted.best.weights.items()}
    before = weights(fitted)
    fit(fitted, 1)
    assert not torch.equal(weights(fitted), before)
    assert all(torch.equal(fitted.best.weights[name], best[name]) for name in best)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("{name: multi_step, milestones: [1, 3], factor: 0.5}", [1, 0.5, 0.5, 0.25]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]),
        ("iwae", [1, 10 ** (-1 / 7), 10 ** (-1 / 7), 10 ** (-1 / 7)]),
    ],
)
def test_schedules(data, schedule, factors):
    assignment = schedule if schedule.startswith("{") else f"{{name: {schedule}}}"
    reports = fit(trainer(data, f"training.schedule={assignment}"), 4)
    rates = [r.values["lr"] for r in reports if r.split == "train"]
    assert rates == pytest.approx([1e-3 * factor for factor in factors])


def test_the_learning_rate_warms_up_whatever_the_schedule(data):
    assignments = [
        "training.schedule={name: multi_step, milestones: [2], factor: 0.5}",
        "training.lr_warmup=3",
    ]
    rates = [r.values["lr"] for r in fit(trainer(data, *assignments), 4) if r.split == "train"]
    assert rates == pytest.approx([1e-3 * f for f in (1 / 4, 2 / 4, 0.5 * 3 / 4, 0.5)])


def test_iwae_schedule_has_stages_of_powers_of_three():
    factor = configure("training.schedule.name=iwae").training.schedule.build(epochs=3280)
    stages = [round(-7 * math.log10(factor(epoch, []))) for epoch in range(1, 3281)]
    assert [stages.count(stage) for stage in range(8)] == [3**stage for stage in range(8)]
    assert stages == sorted(stages)
    assert round(-7 * math.log10(factor(5000, []))) == 7  # and stays there


PLATEAU = "training.schedule={name: plateau, factor: 0.5, patience: 2, lowest: 0.2}"


def test_the_rate_falls_when_validation_stands_still(data):
    fitted = trainer(data, PLATEAU, "training.epochs=10")
    validate_as(fitted, [-3, -2, -2.5, -2, -1, -1, -1, -1, -1, -1])
    rates = [r.values["lr"] for r in fit(fitted, 10) if r.split == "train"]
    # Epochs 3 and 4 do not gain, 6 and 7 neither, nor 8 and 9, but a quarter is near the lowest.
    factors = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]
    assert rates == pytest.approx([1e-3 * factor for factor in factors])


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_resumed_run_has_the_rates_of_one_that_nothing_stopped(data, tmp_path, stop_at):
    assignments = [PLATEAU, "training.lr_warmup=5"]
    bounds = [-3, -3, -3, -3, -2, -2, -2]

    def fit_from(fitted: Trainer, start: int, epochs: int) -> list:
        validate_as(fitted, bounds[start:])
        return fit(fitted, epochs)

    straight = trainer(data, *assignments)
    expected = fit_from(straight, 0, 7)
    first = trainer(data, *assignments)
    before = fit_from(first, 0, 3)
    if stop_at:
        assert not first.train_epoch(lambda step: step < stop_at)
    checkpoint.save(first.state(), tmp_path / "last.pt")
    second = trainer(data, *assignments)
    second.restore(checkpoint.load(tmp_path / "last.pt", "cpu"))
    assert before + fit_from(second, 3, 4) == expected
    assert torch.equal(weights(second), weights(straight))


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        "{name: elbo, warmup: {name: linear, anneals: entropy, epochs: 3}}",
        "{name: iwae, num_samples: 4}",
        "{name: iwae, num_samples: 4, gradient: dreg}",
    ],
    ids=["elbo", "iwae", "dreg"],
)
def test_compiled_gradients_are_the_eager_ones(data, loss):
    from torch._inductor import config

    fitted = trainer(data, f"loss={loss}")
    x, weight = data.splits["train"][:20], torch.tensor(0.4)
    gradients = []
    for objective in (fitted._objective, torch.compile(fitted._objective)):
        reseed(0)
        fitted.vae.zero_grad()
        with config.patch(fallback_random=True):  # the compiler's own noise is another
            objective(x, weight)[0].backward()
        gradients.append([p.grad.clone() for p in fitted.parameters])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)  # float32, another order


@pytest.mark.parametrize("stage", ["forward", "backward"])
@pytest.mark.parametrize("good_calls", [0, 2])
def test_compiler_failure_falls_back_to_eager(data, monkeypatch, stage, good_calls):
    """Whichever pass fails and however late: the very weights of a run without a compiler."""
    monkeypatch.setattr(torch, "compile", breaking_compiler(stage, good_calls))
    messages: list[str] = []
    compiled = trainer(data, compile_step=True, warn=messages.append)
    fit(compiled, 1)
    eager = trainer(data)
    fit(eager, 1)
    assert torch.equal(weights(compiled), weights(eager))
    assert messages == [f"torch.compile failed, going on without it: broken in the {stage} pass"]
