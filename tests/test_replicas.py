"""Training shared by several processes: the numbers of one, whatever becomes of them."""

from __future__ import annotations

import copy
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from experiments.runner.build import BuildError, build
from experiments.runner.messages import Stop
from experiments.runner.replicas import Replicas
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.sharing import Share
from experiments.runner.trainer import DivergedError, Trainer
from models.losses import ELBO, IWAE, Loss
from tests.components import POSTERIORS, SEED, X, make_posterior, perturbed, reseed
from tests.test_interrupted import Started, epochs_written, wait_for
from tests.test_workers import SECONDS, is_alive, workers_of
from tests.tiny_runs import only_folder, run, tiny
from utils import seeding
from utils.compiled import differentiated
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.base import Data
from utils.results.folder import RunFolder
from utils.results.recorder import Recorder
from utils.shared_noise import RANDOM, Rows, WholeNoise

R = TypeVar("R")


class Turns:
    """Stands for a group of processes: threads that take turns, each with a stream of its own."""

    def __init__(self, size: int) -> None:
        self.size, self._turn, self._failed = size, 0, False
        self._changed = threading.Condition()
        self._given: list[list[Tensor]] = []

    def run(self, work: Callable[[Share], R]) -> list[R]:
        """What each rank's work returns; raises what one raises."""
        begun = seeding.get_state()
        results: dict[int, R] = {}
        errors: list[BaseException] = []

        def of(rank: int) -> None:
            num_sums = 0

            def add(vector: Tensor) -> None:
                nonlocal num_sums
                if rank == 0:
                    self._given.append([])
                self._given[num_sums].append(vector.clone())
                state = seeding.get_state()
                self._pass_on(rank)
                self._wait(rank)
                seeding.set_state(state)
                vector.copy_(torch.stack(self._given[num_sums]).sum(0))
                num_sums += 1

            try:
                self._wait(rank)
                seeding.set_state(begun)
                results[rank] = work(Share(rank, self.size, add))
            except BaseException as error:
                errors.append(error)
                self._failed = True
            self._pass_on(rank)

        threads = [threading.Thread(target=of, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[rank] for rank in range(self.size)]

    def _pass_on(self, rank: int) -> None:
        with self._changed:
            self._turn = (rank + 1) % self.size
            self._changed.notify_all()

    def _wait(self, rank: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == rank or self._failed)
        if self._failed:
            raise RuntimeError("another rank has failed")


LOSSES: Mapping[str, Callable[[], Loss]] = {
    "elbo": lambda: ELBO(num_samples=2),
    "iwae": lambda: IWAE(num_samples=3),
}


@pytest.mark.parametrize(("loss", "size"), [("elbo", 2), ("iwae", 4)])
@pytest.mark.parametrize("options", POSTERIORS)
def test_every_posterior_gives_the_gradients_of_one_process(linear_gaussian, options, loss, size):
    """Of three rows, of which the first of four processes has none."""
    reseed()
    bound, posterior = LOSSES[loss](), perturbed(make_posterior(options), 0.1)
    try:
        bound.check(posterior)
    except ValueError as error:
        pytest.skip(str(error))
    encoder = nn.Linear(3, posterior.context_size).double()
    with torch.no_grad():
        encoder.bias.copy_(posterior.initial_context())
    modules = nn.ModuleList([linear_gaussian, posterior, encoder])

    def step(share: Share | None = None) -> list[Tensor]:
        model, chain, net = mine = copy.deepcopy(modules)
        parameters = list(mine.parameters())

        def objective(x: Tensor, weight: Tensor) -> Any:
            of = bound(model, chain, x, net(x.flatten(1)), weight)
            metrics = {"loss": of.loss.detach(), "bound": of.value, **of.metrics}
            return of.loss.mean(), (metrics, of.stats)

        if share is None:
            differentiate = differentiated(objective, lambda *_: None)
        else:
            differentiate = share.differentiated(objective, lambda: None, parameters)
        value, (metrics, stats) = differentiate(X, torch.tensor(1.0))
        gradients = [torch.zeros(()) if p.grad is None else p.grad for p in parameters]
        told = [of for each in stats for of in each.values()]
        return [value, *metrics.values(), *told, *gradients]

    begun = seeding.get_state()
    expected, ended = step(), torch.get_rng_state()
    seeding.set_state(begun)
    for got in Turns(size).run(step):
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert torch.equal(torch.get_rng_state(), ended)


SMALL = [
    "model={latent_dim: 2, decoder: {hidden: [8]}}",
    "encoder.hidden=[8]",
    "training={batch_size: 32, epochs: 2, max_data: 65, optimiser: {lr: 0.01}}",
    f"seed={SEED}",
]


def configure(*assignments: str) -> RunConfig:
    return validate(RunConfig, load(None, (), [*SMALL, *assignments], DEFAULTS))


@pytest.fixture(scope="module")
def digits() -> Data:
    whole: Data = configure().data.build().load()
    assert whole.intensities is not None
    splits = {name: x[:100].double() for name, x in whole.splits.items()}
    return whole._replace(splits=splits, intensities=whole.intensities[:100].double())


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("size", "assignments"),
    [
        # Clipped at most steps; the last batch of an epoch has one row for three processes.
        (3, ["training.clip_grad_norm=5", "training.encoder_steps=2", "training.lr_warmup=2",
             "loss.warmup={name: linear, epochs: 3}",
             "refinement={name: ascent, num_steps: 2, num_samples: 2}"]),
        (2, ["posterior={name: annealed_mala, num_steps: 2}", "loss.num_samples=2"]),
        (2, ["posterior={name: langevin, num_steps: 2}", "training.fixed=[model]",
             "loss={name: log_variance, num_samples: 4}"]),
        (2, ["posterior={name: planar}", "loss={name: avo, avo_probability: 0.5}"]),
    ],
)  # fmt: skip
def test_several_train_as_one_does(digits, size, assignments):
    """Weights, step sizes, moments, metrics and streams, of images that are drawn afresh."""
    config = configure(*assignments)

    def fit(share: Share | None = None) -> dict[str, Any]:
        built = build(config, digits.x_shape)
        trainer = Trainer(*(built.vae, built.loss, digits, config.training, 1), share=share)
        for _ in range(2):
            assert trainer.train_epoch(lambda step: True)
            trainer.report()
        return trainer.state()

    expected = fit()
    names = expected.pop("names")
    for state in Turns(size).run(fit):
        assert state.pop("names") == names
        torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(state["noise"]["cpu"], expected["noise"]["cpu"])


@pytest.mark.usefixtures("in_float64")
def test_all_stop_alike_where_one_row_breaks(digits):
    config = configure("training.optimiser.lr=1e-3", "training.max_data=32")
    broken = digits._replace(intensities=None, splits={"train": digits.splits["train"].clone()})
    broken.splits["train"][3] = math.nan

    def fit(share: Share) -> str:
        built = build(config, digits.x_shape)
        trainer = Trainer(*(built.vae, built.loss, broken, config.training, 1), share=share)
        with pytest.raises(DivergedError) as raised:
            trainer.train_epoch(lambda step: True)
        return str(raised.value)

    assert set(Turns(2).run(fit)) == {"`loss` is nan at epoch 1, step 1 of 1"}


def test_draws_of_all_processes_are_those_of_one():
    reseed()
    begun = torch.get_rng_state()
    z = torch.zeros(4, 5, 3)
    draws: Sequence[Callable[[Tensor], Tensor]] = (
        torch.randn_like,
        lambda of: torch.randn(*of.shape[:2], 7, dtype=of.dtype),
        lambda of: torch.rand(of.shape[:2]),
        lambda of: torch.rand_like(of, dtype=torch.float64),
    )
    expected, coin = [draw(z) for draw in draws], torch.rand(())
    parts = []
    for rows in (Rows(0, 2, 5), Rows(2, 5, 5)):
        torch.set_rng_state(begun)
        with WholeNoise(rows):
            parts.append([draw(rows.of(z, 1)) for draw in draws])
            assert torch.rand(()) == coin
    for one, other, whole in zip(*parts, expected, strict=True):
        assert torch.equal(torch.cat([one, other], 1), whole)


@pytest.mark.parametrize(
    "draw",
    [
        lambda z: torch.normal(z, 1.0),
        lambda z: torch.empty_like(z).exponential_(),
        lambda z: torch.distributions.Normal(z, 1.0).rsample(),
        lambda z: torch.bernoulli(z.sigmoid()),
        lambda z: torch.randn(z.shape[1:]),
        lambda z: torch.randn(4),
    ],
)
def test_draws_that_cannot_be_shared_are_refused(draw):
    with WholeNoise(Rows(0, 2, 5)), pytest.raises(ValueError, match="replicas"):
        draw(torch.zeros(4, 2, 3))


def test_all_functions_that_draw_are_known():
    """By PyTorch's own mark; those with dropout inside, which nobody asks of them, aside."""
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    drawing = set()
    for name in (name.removeprefix("aten::") for name in names if name.startswith("aten::")):
        packet = getattr(torch.ops.aten, name, None)
        overloads = [] if packet is None else [getattr(packet, of) for of in packet.overloads()]
        if any(torch.Tag.nondeterministic_seeded in of.tags for of in overloads):
            drawing.add(name.removesuffix("_").removesuffix("_functional"))
    with_dropout = ("attention", "rnn", "lstm", "gru", "cudnn", "sdp", "mem_eff", "nested")
    known = {name for name in drawing if not any(part in name for part in with_dropout)}
    assert {"normal", "randn_like"} < known <= RANDOM


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["loss.free_bits=0.5"], "of the mean over a minibatch"),
        (["training.batch_size=1"], "cannot share a step of 1 data points"),
        (["runtime.compile=on"], "a compiled step cannot share its noise"),
    ],
)
def test_what_several_cannot_do_as_one_is_refused(assignments, message):
    with pytest.raises(BuildError, match=message) as raised:
        build(configure("runtime.replicas=2", *assignments), (1, 8, 8))
    assert str(raised.value).startswith("`runtime.replicas`")
    build(configure("runtime.replicas=2", "phases=[estimate]", *assignments), (1, 8, 8))


SHARED = ["training.epochs=4", "training.optimiser.lr=1e-4", "phases=[train]"]


def shared(number: int = 2) -> list[str]:
    return tiny(*SHARED, f"runtime.replicas={number}")


@pytest.fixture
def after_epoch(monkeypatch) -> Callable[[int, Callable[[], None]], None]:
    """Has something done when the metrics of an epoch have been written."""
    original = Recorder.add_metrics

    def arrange(wanted: int, event: Callable[[], None]) -> None:
        def add(self, phase, epoch, split, *rest) -> None:
            original(self, phase, epoch, split, *rest)
            if (epoch, split) == (wanted, "train"):
                event()

        monkeypatch.setattr(Recorder, "add_metrics", add)

    return arrange


@pytest.mark.usefixtures("results_here")
def test_two_that_are_stopped_and_go_on_measure_what_one_does(tmp_path, capsys, after_epoch):
    """Up to the rounding of sums."""
    after_epoch(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(*shared()) == 75
    assert only_folder(tmp_path).read_status().status == "interrupted"
    after_epoch(0, lambda: None)
    assert run(*shared()) == 0
    assert "resumed after epoch 1" in capsys.readouterr().err
    assert workers_of(os.getpid()) == []
    assert run(*shared(1), "--results", str(tmp_path / "alone")) == 0
    folder, alone = only_folder(tmp_path), only(tmp_path / "alone")
    assert alone.path.name == folder.path.name
    for one, other in zip(folder.metrics.read(), alone.metrics.read(), strict=True):
        assert one[:-1] == other[:-1]
        assert one.value == pytest.approx(other.value, rel=1e-3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("results_here")
def test_one_that_is_killed_ends_the_run_and_the_next_gives_the_same_bytes(
    tmp_path, capsys, after_epoch
):
    after_epoch(0, lambda: None)
    assert run(*shared(), "--results", str(tmp_path / "straight")) == 0
    straight = only(tmp_path / "straight")

    def kill() -> None:
        (replica,) = workers_of(os.getpid())
        os.kill(replica, signal.SIGKILL)

    after_epoch(2, kill)
    assert run(*shared()) == 1
    assert "a replica was killed by SIGKILL" in capsys.readouterr().err
    folder = only_folder(tmp_path)
    assert folder.read_status().status == "failed"
    after_epoch(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(*shared()) == 75
    assert "resumed after epoch" in capsys.readouterr().err
    after_epoch(0, lambda: None)
    assert run(*shared()) == 0
    whole = [(of.path / "metrics.csv").read_bytes() for of in (folder, straight)]
    assert whole[0] == whole[1]


def only(results: Path) -> RunFolder:
    (folder,) = (results / "runs").iterdir()
    return RunFolder(folder)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells children")
def test_no_replica_outlives_a_run_that_is_killed(tmp_path):
    process = Started(tiny("training.epochs=100000", "runtime.replicas=2"), tmp_path)
    try:
        wait_for(lambda: epochs_written(tmp_path) >= 1, SECONDS)
        (replica,) = workers_of(process.process.pid)
    finally:
        process.kill()
    wait_for(lambda: not is_alive(replica), SECONDS)


@pytest.mark.slow
@pytest.mark.usefixtures("results_here")
def test_what_a_replica_raises_is_told_as_if_it_were_raised_here(capsys, monkeypatch):
    monkeypatch.setattr(Replicas, "train_epoch", _nonsense)
    assert run(*shared()) == 1
    assert "failed: AttributeError" in capsys.readouterr().err


def _nonsense(self: Replicas, trainer: Trainer, keep_going: Callable[[int], bool]) -> bool:
    for process in self._processes:
        process.send(Stop())
    return trainer.train_epoch(keep_going)
