"""Checkpoints: whole or not at all, and named in plain words when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils import checkpoint
from utils.checkpoint import CheckpointError, alike, load_latest, previous_of


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 10**6])
def test_a_full_disk_is_called_so(tmp_path, size):
    path = tmp_path / "last.pt"
    checkpoint.save({"a": 1}, path)
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*last\.pt"):
        checkpoint.save({"a": torch.zeros(size)}, path)
    assert checkpoint.load(path, "cpu") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def bad_file(path: Path, how: str) -> None:
    checkpoint.save({"a": torch.zeros(100)}, path)
    content = bytearray(path.read_bytes())
    if how == "bits":
        for place in range(len(content) // 2, len(content) // 2 + 200):  # more than padding
            content[place] ^= 1
    elif how == "cut":
        del content[-50:]
    elif how == "empty":
        content.clear()
    elif how == "text":
        content[:] = b"nonsense"
    path.write_bytes(content)
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "object":
        torch.save({"a": Path("x")}, path)
    elif how == "list":
        torch.save([1], path)


@pytest.mark.parametrize(
    "how", ["bits", "cut", "empty", "text", "folder", "object", "list", "other keys"]
)
def test_what_is_no_checkpoint_is_named_in_plain_words(tmp_path, how):
    path = tmp_path / "last.pt"
    bad_file(path, how)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, "cpu", holds=["trainer"])
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    assert not {"weights_only", "Error", "pickle"} & set(message.replace(":", " ").split())


def test_one_that_is_not_wanted_is_told_and_the_previous_one_taken(tmp_path):
    path, messages = tmp_path / "last.pt", []
    checkpoint.save({"epoch": 1}, path)
    checkpoint.save({"epoch": 2}, path, keep_previous=True)

    def check(state):
        if state["epoch"] == 2:
            raise CheckpointError("is of another")

    assert load_latest(path, "cpu", messages.append, check) == {"epoch": 1}
    assert messages == [f"checkpoint not used: {path} is of another"]
    previous_of(path).unlink()
    with pytest.raises(CheckpointError, match="--resume never"):
        load_latest(path, "cpu", messages.append, check)


def test_alike_is_of_the_same_keys_types_shapes_and_dtypes():
    state = {"a": {"w": torch.zeros(2, 3)}, "n": 1}
    assert alike({"a": {"w": torch.ones(2, 3)}, "n": 5}, state)
    assert alike({"n": 5}, state, ["n"])
    for other in (
        {"a": {"w": torch.zeros(3, 2)}, "n": 1},
        {"a": {"w": torch.zeros(2, 3).double()}, "n": 1},
        {"a": {"w": [0.0]}, "n": 1},
        {"a": {"v": torch.zeros(2, 3)}, "n": 1},
        {"a": {"w": torch.zeros(2, 3)}, "n": 1.0},
        [],
    ):
        assert not alike(other, state)
