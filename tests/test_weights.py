"""Weights of other runs: which run and which epoch they are of, and trainings that are copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from experiments.build import BuildError
from experiments.schema import Initialise, Part
from experiments.weights import (
    adopt_training,
    epoch_path,
    find_run,
    fix,
    load_into,
    settle,
)
from models.generative import LinearGaussian
from models.networks.constant import Constant
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.kernels import GaussianKernel
from models.posteriors.langevin import Langevin
from models.vae import VAE
from utils import checkpoint
from utils.results.folder import RunFolder
from utils.results.methods import Method
from utils.results.records import MEMBERSHIP, Estimate, Link, Metric, RunRecord

CPU = torch.device("cpu")


def make_run(results: Path, name: str, status: Any = "finished", **known: Any) -> RunFolder:
    """The folder of a run of the experiment ``mine``, with a file for its weights."""
    record = RunRecord("mine", name, 0, status=status, **known)
    folder = RunFolder(results / "runs" / record.id)
    folder.create()
    folder.write_status(record)
    (folder.path / "last.pt").write_bytes(b"weights")
    return folder


def add_log_px(folder: RunFolder, split: str, *values: float, phase: str = "estimate") -> None:
    folder.estimates.append(
        Estimate(phase, *Method("e"), split, "log_px", datum, value)
        for datum, value in enumerate(values)
    )


def test_the_best_run_has_the_highest_mean_on_held_out_data(tmp_path):
    log_px = {
        "a": {"validation": [-9.0, -7.0], "test": [-2.0], "train": [-1.0]},
        "b": {"validation": [-7.5, -7.5], "test": [-9.0], "train": [-2.0]},
        "c": {"test": [-8.0], "train": [-0.5]},
        "d": {"train": [-9.0]},
        "e": {},
    }
    for name, splits in log_px.items():
        folder = make_run(tmp_path, name)
        for split, values in splits.items():
            add_log_px(folder, split, *values)
            add_log_px(folder, split, 0.0, phase="local_optimisation")
    assert find_run(Initialise("best", "mine"), tmp_path) == "b-s0"


def test_only_finished_runs_with_weights_are_taken(tmp_path):
    add_log_px(make_run(tmp_path, "good"), "test", -9.0)
    add_log_px(make_run(tmp_path, "stopped", "interrupted"), "test", -1.0)
    untrained = make_run(tmp_path, "untrained")
    add_log_px(untrained, "test", -1.0)
    (untrained.path / "last.pt").unlink()
    assert find_run(Initialise("best", "mine"), tmp_path) == "good-s0"
    assert find_run(Initialise("last", "mine"), tmp_path) == "good-s0"
    with pytest.raises(BuildError, match="stopped-s0 is interrupted, not finished"):
        find_run(Initialise("stopped-s0"), tmp_path)


def test_a_run_whose_status_cannot_be_read_is_left_out(tmp_path):
    make_run(tmp_path, "good")
    broken = make_run(tmp_path, "broken")
    broken.status_path.write_text("")
    with pytest.warns(RuntimeWarning, match="left out: .*broken-s0"):
        assert find_run(Initialise("last", "mine"), tmp_path) == "good-s0"


def test_a_run_is_of_every_experiment_that_asked_for_it(tmp_path):
    make_run(tmp_path, "a").links.append([Link("other", MEMBERSHIP)])
    assert find_run(Initialise("last", "other"), tmp_path) == "a-s0"
    with pytest.raises(BuildError, match="'third'"):
        find_run(Initialise("last", "third"), tmp_path)


@pytest.mark.parametrize(("asked", "taken"), [(None, "best"), ("last", "last"), (7, 7)])
def test_weights_are_those_that_the_run_was_evaluated_with_unless_asked_for(
    tmp_path, asked, taken
):
    make_run(tmp_path, "a", config={"evaluation": {"weights": "best"}})
    settled = settle(Initialise("last", "mine", weights=asked), tmp_path)
    assert settled == Initialise("a-s0", weights=taken)


def make_vae() -> VAE:
    layers = [GaussianKernel(2), Langevin(2)]
    posterior = Chain(DiagonalGaussian(2), layers)
    return VAE(LinearGaussian((1, 1, 3), latent_dim=2), Constant(), posterior)


def filled(vae: VAE, number: float) -> dict[str, Tensor]:
    return {name: torch.full_like(weight, number) for name, weight in vae.state_dict().items()}


@pytest.fixture
def trained(tmp_path) -> RunFolder:
    """Three epochs, whose weights are their numbers; the second is the best, the first is kept."""
    folder, vae = make_run(tmp_path, "a"), make_vae()
    best = {"epoch": 2, "weights": filled(vae, 2.0)}
    trainer = {"epoch": 3, "vae": filled(vae, 3.0), "best": best}
    checkpoint.save({"trainer": trainer}, folder.path / "last.pt")
    epoch_path(folder, 1).parent.mkdir()
    checkpoint.save({"epoch": 1, "vae": filled(vae, 1.0)}, epoch_path(folder, 1))
    return folder


@pytest.mark.parametrize(("weights", "epoch"), [("last", 3), ("best", 2), (1, 1)])
def test_weights_are_the_last_the_best_or_those_kept(tmp_path, trained, weights, epoch):
    vae = make_vae()
    assert load_into(vae, Initialise("a-s0", weights=weights), tmp_path, CPU) == epoch
    assert all((weight == epoch).all() for weight in vae.state_dict().values())


@pytest.mark.parametrize("part", get_args(Part))
def test_parts_are_loaded_alone(tmp_path, trained, part):
    vae = make_vae()
    load_into(vae, Initialise("a-s0", parts=[part], weights="last"), tmp_path, CPU)
    loaded = {name.split(".")[0] for name, w in vae.state_dict().items() if (w == 3).all()}
    own = {"encoder": {"amortiser"}, "posterior": {"posterior", "expansion"}}  # no encoder here
    assert loaded == own.get(part, {part})


@pytest.mark.parametrize("part", get_args(Part))
def test_what_is_learned_but_not_amortised_is_fixed_with_the_posterior(part):
    vae = make_vae()
    fix(vae, [part])
    (numbers,) = vae.expansion.parameters()  # the Langevin step's sizes
    assert numbers.requires_grad == (part != "posterior")
    assert vae.amortiser.weight.requires_grad == (part != "encoder")


CONFIG = {"model": {"latent_dim": 2}, "runtime": {"keep_epochs": [1]}}


@pytest.mark.parametrize(
    ("seed", "checksum", "changes", "adopted"),
    [
        (0, "x", {}, True),
        (0, "x", {"evaluation": {"max_data": 5}}, True),
        (1, "x", {}, False),
        (0, "y", {}, False),
        (0, "x", {"model": {"latent_dim": 3}}, False),
        (0, "x", {"runtime": {"keep_epochs": [1, 2]}}, False),
    ],
)
def test_a_training_is_copied_where_it_is_the_same(tmp_path, seed, checksum, changes, adopted):
    source = make_run(tmp_path, "a", data_checksum="x", config=CONFIG)
    source.metrics.append([Metric("train", 1, "train", "loss", 0.5)])
    checkpoint.save({"metrics_bytes": source.metrics.size()}, source.path / "last.pt")
    epoch_path(source, 1).parent.mkdir()
    epoch_path(source, 1).write_bytes(b"of an epoch")
    record = RunRecord("mine", "b", seed, data_checksum=checksum, config=CONFIG | changes)
    target = RunFolder(tmp_path / "runs" / record.id)
    target.create()
    found = adopt_training(target, record, (), tmp_path, print)
    if not adopted:
        assert found is None
        assert list(target.path.iterdir()) == []
        return
    assert found == "a-s0"
    assert target.metrics.read() == source.metrics.read()
    assert epoch_path(target, 1).read_bytes() == b"of an epoch"
    copied, original = (folder.path / "last.pt" for folder in (target, source))
    assert copied.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("damage", ["checkpoint", "no metrics", "fewer metrics"])
def test_a_damaged_training_is_named_and_the_next_one_taken(tmp_path, damage):
    for name in ("a", "b"):
        folder = make_run(tmp_path, name, config=CONFIG)
        folder.metrics.append([Metric("train", 1, "train", "loss", 0.5)])
        checkpoint.save({"metrics_bytes": folder.metrics.size()}, folder.path / "last.pt")
        epoch_path(folder, 1).parent.mkdir()
        epoch_path(folder, 1).write_bytes(b"of an epoch")
    broken = RunFolder(tmp_path / "runs" / "a-s0")
    if damage == "checkpoint":
        (broken.path / "last.pt").write_bytes(b"weights")
    elif damage == "no metrics":
        broken.metrics.path.unlink()
    else:
        broken.metrics.truncate(0)
    record, messages = RunRecord("mine", "c", 0, config=CONFIG), []
    target = RunFolder(tmp_path / "runs" / record.id)
    target.create()
    assert adopt_training(target, record, (), tmp_path, messages.append) == "b-s0"
    (message,) = messages
    assert message.startswith("a-s0 has trained the same but is damaged: ")
    assert checkpoint.load(target.path / "last.pt", CPU)
