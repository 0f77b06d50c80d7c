"""The bootstrap with a memory: what it picks, its gradient, its cost, and that it is resumed."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.runner.build import BuildError, build
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trainer import Trainer
from models.losses import ReplayedBootstrap
from models.losses.bootstrap import log_density
from models.losses.replay import Memory
from models.posteriors.gaussian import gaussian
from tests.components import SEED, normal, reseed
from tests.test_fab import LINE, Blob
from tests.test_training import fit, weights
from utils import checkpoint
from utils.config.loading import load
from utils.config.validation import validate

BLOB = [
    "data={name: nothing, num_train: 24, num_test: 2}",
    "model={name: gaussian_mixture, dim: 2, num_modes: 3, extent: 2.0}",
    "encoder={name: constant}",
    "posterior={name: real_nvp, hidden: [4]}",
    "loss={name: fab_replay, num_samples: 8, num_steps: 3, num_batches: 4, num_first: 2}",
    "training={batch_size: 1, epochs: 3}",
    f"seed={SEED}",
]
X = torch.zeros(1, 0)
REPEATS = 50


def configure(*assignments: str) -> RunConfig:
    return validate(RunConfig, load(None, (), [*BLOB, *assignments], DEFAULTS))


def blob_memory(log_w: torch.Tensor) -> Memory:
    return Memory(torch.arange(len(log_w))[:, None].double(), log_w, torch.zeros_like(log_w))


def test_draws_are_picked_in_proportion_to_their_weights():
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 4.0]).double()
    memory = blob_memory(weights.log())
    picked = torch.cat([memory.pick(1) for _ in range(5000)]).bincount(minlength=5) / 5000
    error = (weights / 10 * (1 - weights / 10) / 5000).sqrt()
    assert ((picked - weights / 10).abs() <= 4.5 * error).all()
    assert sorted(memory.pick(5).tolist()) == [0, 1, 2, 3, 4]  # none twice


def test_weights_written_back_are_those_by_the_q_of_today():
    memory = blob_memory(normal(4).double())
    once = memory.revised(torch.tensor([2, 0]), torch.tensor([0.5, -1.0]).double())
    twice = once.revised(torch.tensor([2]), torch.tensor([0.25]).double())
    torch.testing.assert_close(twice.log_q, torch.tensor([-1, 0, 0.25, 0]).double())
    # p²/q of today: the weight of p² over the first path, log q of which was 0, less log q.
    torch.testing.assert_close(twice.log_w, memory.log_w - twice.log_q)


@pytest.mark.parametrize("num_distributions", [0, 2])
def test_its_gradient_is_that_of_the_integral_also_where_q_has_moved_on(num_distributions):
    """In the mean over memories made by another q; by quadrature."""
    model, posterior = Blob(), gaussian(1)
    place = posterior.base.placed
    before = place(torch.tensor([[0.0]]), torch.tensor([[1.2]])).double()
    after = place(torch.tensor([[0.1]]), torch.tensor([[1.1]])).double()

    def log_integral(context: torch.Tensor) -> torch.Tensor:
        z = LINE[:, None, None]
        logs = 2 * model.log_prior(z) - log_density(posterior, context)(z)
        return logs.logsumexp(0).sum()

    at = after.clone().requires_grad_()
    value = log_integral(at)
    (exact,) = torch.autograd.grad(value, at)
    exact = exact * (value - log_integral(before)).exp().detach()
    found = []
    for _ in range(REPEATS):
        loss = ReplayedBootstrap(
            num_samples=100,
            num_distributions=num_distributions,
            step_size=0.5,
            num_steps=1000,
            num_first=20,
            num_batches=20,
            largest_ratio=None,
        )
        loss(model, posterior, X, before)  # type: ignore[arg-type]
        context = after.clone().requires_grad_()
        bound = loss(model, posterior, X, context)  # type: ignore[arg-type]
        found.append(torch.autograd.grad(bound.loss.sum(), context)[0])
    gradients = torch.cat(found)
    error = gradients.std(0) / math.sqrt(REPEATS)
    # Drawn without replacement, a twentieth of the memory: a bias, below a tenth of the spread.
    assert ((gradients.mean(0) - exact[0]).abs() < 4.5 * error + 0.1 * gradients.std(0)).all()


def test_the_target_is_asked_once_in_so_many_steps():
    asked: list[int] = []

    class Counted(Blob):
        def log_prior(self, z: torch.Tensor) -> torch.Tensor:
            """Counts."""
            asked.append(z.shape[0])
            return super().log_prior(z)

    loss, posterior = ReplayedBootstrap(num_samples=5, num_steps=3, num_first=2), gaussian(1)
    context = posterior.initial_context()[None].double().requires_grad_()
    grown = []
    for _ in range(7):
        asked.clear()
        bound = loss(Counted(), posterior, X, context)  # type: ignore[arg-type]
        grown.append((len(asked) > 0, len(loss.state()["z"])))
        assert bound.value.isfinite().all()
    expected = [(True, 10), *[(False, 10)] * 2, (True, 15), *[(False, 15)] * 2, (True, 20)]
    assert grown == expected


def test_what_is_older_than_its_batches_is_forgotten():
    loss, posterior = (
        ReplayedBootstrap(num_samples=5, num_steps=1, num_batches=3, num_first=3),
        gaussian(1),
    )
    context = posterior.initial_context()[None].double().requires_grad_()
    kept = []
    for _ in range(3):
        loss(Blob(), posterior, X, context)  # type: ignore[arg-type]
        kept.append(loss.state()["z"])
    assert [len(z) for z in kept] == [15, 15, 15]
    assert torch.equal(kept[0][5:], kept[1][:10])


def test_a_draw_that_cannot_be_moves_nothing():
    """It may be picked where all others are, too."""

    class Half(Blob):
        def log_prior(self, z: torch.Tensor) -> torch.Tensor:
            """Nothing on the left."""
            return super().log_prior(z).where(z[..., 0] > 0, -math.inf)

    posterior = gaussian(1)
    loss = ReplayedBootstrap(num_samples=50, num_distributions=0, num_first=1, num_batches=1)
    context = posterior.initial_context()[None].double().requires_grad_()
    bound = loss(Half(), posterior, X, context)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(bound.loss.sum(), context)
    assert gradient.isfinite().all()


def test_validation_remembers_nothing():
    loss, posterior = ReplayedBootstrap(num_samples=5), gaussian(1)
    with torch.no_grad():
        loss(Blob(), posterior, X, posterior.initial_context()[None].double())  # type: ignore[arg-type]
    assert loss.state() == {}


@pytest.mark.parametrize("stop_at", [0, 4])
def test_resume_is_exact_with_what_is_remembered(tmp_path, stop_at):
    def make() -> Trainer:
        config = configure()
        data = config.data.build().load()
        built = build(config, data.x_shape)
        return Trainer(built.vae, built.loss, data, config.training, config.seed)

    straight, first = make(), make()
    expected = fit(straight, 3)
    before = fit(first, 1)
    if stop_at:
        assert not first.train_epoch(lambda step: step < stop_at)
    checkpoint.save(first.state(), tmp_path / "last.pt")
    reseed(999)
    second = make()
    second.restore(checkpoint.load(tmp_path / "last.pt", "cpu"))
    assert before + fit(second, 2) == expected
    assert torch.equal(weights(second), weights(straight))


@pytest.mark.parametrize(
    ("assignments", "shape", "words"),
    [
        (["model={name: linear_gaussian, latent_dim: 2}", "training.fixed=[model]"], (1, 1, 3),
         "fab_replay remembers draws"),
        (["runtime.replicas=2", "training.batch_size=2"], (0, 0, 0), "memory of its own"),
        (["phases=[train, local_optimisation]",
          "local_optimisation.loss={name: fab_replay}"], (0, 0, 0), "come and go"),
        (["loss.num_first=5"], (0, 0, 0), "`num_first` (5) is more than is remembered"),
    ],
)  # fmt: skip
def test_where_it_cannot_remember_it_is_refused(assignments, shape, words):
    with pytest.raises(BuildError) as raised:
        build(configure(*assignments), shape)
    assert words in str(raised.value)
