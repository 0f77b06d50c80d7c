"""Trainings that are taken over: of the same configuration, seed, data and code, and undamaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.runner.adoption import Wanted, adopt_training
from experiments.runner.earlier import epoch_path
from experiments.runner.resuming import Training, training_of
from utils import checkpoint
from utils.checkpoint import CheckpointError
from utils.results.folder import RunFolder
from utils.results.records import Metric, RunRecord

CONFIG = {"model": {"latent_dim": 2}, "runtime": {"keep_epochs": [1]}}
CODE = {"python": "3.11", "torch": "2.6", "models/vae.py": "abc"}


def trained(results: Path, name: str, **changes: Any) -> RunFolder:
    """The folder of a finished run with a checkpoint, and one of its first epoch."""
    known = {"data_checksum": "x", "config": CONFIG, "code": {"train": CODE}} | changes
    record = RunRecord("mine", name, 0, status="finished", **known)
    folder = RunFolder(results / "runs" / record.id)
    folder.create()
    folder.metrics.append([Metric("train", 1, "train", "loss", 0.5)])
    training = training_of(record, ())._asdict()
    state = {"trainer": {}, "metrics_bytes": folder.metrics.size(), "training": training}
    checkpoint.save(state, folder.path / "last.pt")
    epoch_path(folder, 1).parent.mkdir()
    checkpoint.save({"epoch": 1, "training": training}, epoch_path(folder, 1))
    folder.write_status(record, vouch=True)
    return folder


def adopt(
    results: Path, changes: Any = None, seed: int = 0, checksum: str = "x", code: Any = None
) -> tuple[RunFolder, str | None, list[str]]:
    """A new run's folder, the run whose training it takes over, and what it was told."""
    config = CONFIG | (changes or {})
    messages: list[str] = []
    record = RunRecord("mine", "new", seed, data_checksum=checksum, config=config)
    target = RunFolder(results / "runs" / record.id)
    target.create()
    kept = config["runtime"]["keep_epochs"]
    wanted = Wanted(training_of(record, ()), (), code or CODE, kept)
    return target, adopt_training(target, wanted, results, messages.append), messages


@pytest.mark.parametrize("changes", [{}, {"evaluation": {"max_data": 5}}])
def test_a_training_is_copied_where_it_is_the_same(tmp_path, changes):
    source = trained(tmp_path, "a")
    target, found, messages = adopt(tmp_path, changes)
    assert (found, messages) == ("a-s0", [])
    assert target.metrics.read() == source.metrics.read()
    for file in ("last.pt", "epochs/000001.pt"):
        assert (target.path / file).read_bytes() == (source.path / file).read_bytes()


@pytest.mark.parametrize(
    "wanted",
    [
        {"seed": 1},
        {"checksum": "y"},
        {"changes": {"model": {"latent_dim": 3}}},
        {"changes": {"runtime": {"keep_epochs": [1, 2]}}},
    ],
)
def test_another_training_is_left(tmp_path, wanted):
    trained(tmp_path, "a")
    target, found, messages = adopt(tmp_path, **wanted)
    assert (found, messages) == (None, [])
    assert list(target.path.iterdir()) == []


def test_a_training_with_other_code_is_left_and_one_line_says_why(tmp_path):
    trained(tmp_path, "a")
    trained(tmp_path, "b")
    _, found, messages = adopt(tmp_path, code=CODE | {"models/vae.py": "new"})
    assert found is None
    expected = "a-s0 has trained the same, but with other code (models/vae.py)"
    assert messages == [f"{expected}: its weights are not taken"]


def test_a_training_of_unknown_code_is_left_and_one_line_says_why(tmp_path):
    trained(tmp_path, "a", code={})
    _, found, (message,) = adopt(tmp_path)
    assert found is None
    assert "under which code is not recorded" in message


def test_of_two_trainings_that_with_the_same_code_is_taken(tmp_path):
    trained(tmp_path, "a", code={"train": CODE | {"torch": "2.5"}})
    trained(tmp_path, "b")
    assert adopt(tmp_path)[1:] == ("b-s0", [])


@pytest.mark.parametrize("file", ["last.pt", "epochs/000001.pt"])
def test_a_status_that_merely_claims_a_training_is_found_out(tmp_path, file):
    liar = trained(tmp_path, "a", data_checksum="other")
    claimed = trained(tmp_path, "b")
    (claimed.path / file).write_bytes((liar.path / file).read_bytes())
    target, found, (message,) = adopt(tmp_path)
    assert found is None
    assert "is of another training" in message
    assert file in message
    assert not (target.path / "last.pt").exists()


@pytest.mark.parametrize("damage", ["checkpoint", "no metrics", "fewer metrics", "old and fewer"])
def test_a_damaged_training_is_named_and_the_next_one_taken(tmp_path, damage):
    broken, _ = trained(tmp_path, "a"), trained(tmp_path, "b")
    if damage == "checkpoint":
        (broken.path / "last.pt").write_bytes(b"weights")
    elif damage == "no metrics":
        broken.metrics.path.unlink()
    else:
        broken.metrics.truncate(0)
    if damage == "old and fewer":  # made before a status told what the files were
        text = broken.status_path.read_text().replace('"files"', '"something else"')
        broken.status_path.write_text(text)
    target, found, (message,) = adopt(tmp_path)
    assert found == "b-s0"
    assert message.startswith("a-s0 has trained the same but is damaged: ")
    assert checkpoint.load(target.path / "last.pt", "cpu")


@pytest.mark.parametrize(
    "said",
    [torch.zeros(2), "x", {"key": "k"}, {"key": torch.zeros(2), "seed": 0, "data_checksum": ""}],
)
def test_a_checkpoint_that_says_nonsense_of_its_training_is_refused(said):
    with pytest.raises(CheckpointError, match="does not say of which training it is"):
        Training.said_by({"training": said})


def test_a_checkpoint_says_of_which_training_it_is():
    training = Training("k", 0, "x")
    assert Training.said_by({"training": training._asdict()}) == training
    assert Training.said_by({}) is None
