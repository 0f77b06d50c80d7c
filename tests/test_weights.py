"""Weights of other runs: which run and which epoch they are of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from experiments.runner.build import BuildError
from experiments.runner.earlier import epoch_path
from experiments.runner.resuming import Training
from experiments.runner.schema import Initialise, Part
from experiments.runner.weights import find_run, fix, load_into, settle
from models.generative import LinearGaussian
from models.networks.constant import Constant
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian
from models.posteriors.kernels import GaussianKernel
from models.posteriors.langevin import Langevin
from models.vae import VAE
from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.results.folder import RunFolder
from utils.results.methods import Method
from utils.results.records import MEMBERSHIP, Estimate, Link, RunRecord

CPU = torch.device("cpu")


def make_run(results: Path, name: str, status: Any = "finished", **known: Any) -> RunFolder:
    """The folder of a run of the experiment ``mine``, with a file for its weights."""
    record = RunRecord("mine", name, 0, status=status, **known)
    folder = RunFolder(results / "runs" / record.id)
    folder.create()
    folder.write_status(record)
    (folder.path / "last.pt").write_bytes(b"weights")
    return folder


def add_log_px(
    folder: RunFolder, split: str, *values: float, phase: str = "estimate", by: str = "e"
) -> None:
    folder.estimates.append(
        Estimate(phase, *Method(by), split, "log_px", datum, value)
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


def test_a_run_whose_log_px_is_nan_is_not_the_best(tmp_path):
    for name, value in (("a", math.nan), ("b", -9.0), ("c", math.nan)):
        add_log_px(make_run(tmp_path, name), "test", value)
    assert find_run(Initialise("best", "mine"), tmp_path) == "b-s0"


def test_an_estimate_from_above_makes_no_run_the_best(tmp_path):
    for name, below, above in (("a", -9.0, 5.0), ("b", -1.0, 0.0)):
        folder = make_run(tmp_path, name)
        add_log_px(folder, "test", below)
        add_log_px(folder, "test", above, by="exact_draws")
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


@pytest.mark.parametrize("file", ["status.json", "links.csv"])
def test_a_run_that_cannot_be_read_is_left_out(tmp_path, file):
    make_run(tmp_path, "good")
    broken = make_run(tmp_path, "broken")
    (broken.path / file).write_bytes(b"\xff\n")
    messages: list[str] = []
    assert find_run(Initialise("last", "mine"), tmp_path, messages.append) == "good-s0"
    (message,) = messages
    assert message.startswith("left out: ")
    assert str(broken.path / file) in message


def test_a_run_whose_results_were_cut_is_left_out(tmp_path):
    make_run(tmp_path, "good")
    cut = make_run(tmp_path, "cut")
    add_log_px(cut, "test", 0.0)
    cut.write_status(cut.read_status(), vouch=True)
    cut.estimates.truncate(0)
    messages: list[str] = []
    assert find_run(Initialise("best", "mine"), tmp_path, messages.append) == "good-s0"
    assert "estimates.csv" in messages[0]


def test_weights_of_another_seed_than_the_status_claims_are_refused(tmp_path, trained):
    state = checkpoint.load(trained.path / "last.pt", CPU)
    other = Training("k", 5, "")._asdict()
    checkpoint.save(state | {"training": other}, trained.path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is of another seed"):
        load_into(make_vae(), Initialise("a-s0", weights="last"), tmp_path, CPU)


@pytest.mark.parametrize("weights", ["last", 1])
def test_a_checkpoint_of_other_keys_is_named(tmp_path, trained, weights):
    for path in (trained.path / "last.pt", epoch_path(trained, 1)):
        checkpoint.save({"trainer": {"a": 1}}, path)
    with pytest.raises(CheckpointError, match=r"\.pt has other keys"):
        load_into(make_vae(), Initialise("a-s0", weights=weights), tmp_path, CPU)


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
    own = {  # the encoder here has no weights
        "encoder": {"amortiser"},
        "features": set(),
        "posterior": {"posterior", "expansion"},
    }
    assert loaded == own.get(part, {part})


@pytest.mark.parametrize("part", get_args(Part))
def test_what_is_learned_but_not_amortised_is_fixed_with_the_posterior(part):
    vae = make_vae()
    fix(vae, [part])
    (numbers,) = vae.expansion.parameters()  # the Langevin step's sizes
    assert numbers.requires_grad == (part != "posterior")
    assert vae.amortiser.weight.requires_grad == (part != "encoder")
