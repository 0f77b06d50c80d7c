"""What earlier tries have left: changed code, damaged results, claims that are not so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.runner.earlier import Destination, set_aside
from tests.finished_runs import Copy, finished_run
from tests.run_rows import sql
from utils import checkpoint
from utils.checkpoint import previous_of
from utils.console import Console

pytestmark = pytest.mark.usefixtures("results_here")

POSTERIOR = "models/posteriors/gaussian.py"
PHASES = ("train", "estimate")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Copy:
    return finished_run(tmp_path_factory.mktemp("original") / "results")


@pytest.fixture
def copy(original, tmp_path, capsys) -> Copy:
    capsys.readouterr()
    return original.copied(tmp_path / "results")


def under_other_code(copy: Copy, *phases: str, status: str = "finished") -> None:
    """Let the run have been made when the posterior was another."""

    def change(row: dict[str, Any]) -> None:
        row["status"] = status
        for phase in phases:
            row["code"][phase][POSTERIOR] = "old"

    copy.edit_status(change)


def rows(copy: Copy) -> tuple[int, ...]:
    tables = ("runs", "metrics", "estimates")
    return tuple(
        sql(copy.results, f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in tables
    )


def same_bytes(one: Copy, other: Copy) -> bool:
    files = ("metrics.csv", "estimates.csv")
    return all(
        (one.folder.path / f).read_bytes() == (other.folder.path / f).read_bytes() for f in files
    )


def as_cut_off(row: dict[str, Any]) -> None:
    row["status"] = "running"


def test_the_status_tells_what_each_phase_stands_on(copy):
    code = copy.folder.read_status().code
    assert set(code) == set(PHASES)
    assert all(POSTERIOR in code[phase] for phase in PHASES)
    assert "estimators/importance.py" in code["estimate"]
    assert not {"estimators/importance.py", "models/posteriors/spline.py"} & set(code["train"])
    (row,) = sql(copy.results, "SELECT code FROM runs")
    assert json.loads(row["code"]) == code


def test_unchanged_code_is_not_spoken_of(copy, capsys):
    assert copy.run() == 0
    assert "the code" not in capsys.readouterr().err


def test_a_run_whose_setting_aside_was_cut_off_is_not_taken_for_another(copy, monkeypatch):
    moved = []
    monkeypatch.setattr(shutil, "move", lambda item, target: moved.append(item.name))
    set_aside(copy.folder, Destination(copy.results, ""), Console(-1))
    assert moved[-1] == "status.json"
    assert {"metrics.csv", "last.pt", "config.yaml"} <= set(moved)


def test_a_full_disk_leaves_the_stored_configuration(copy, capsys):
    copy.edit_status(as_cut_off)
    config = copy.folder.path / "config.yaml"
    before = config.read_bytes()
    config.with_suffix(".yaml.tmp").symlink_to("/dev/full")
    assert copy.run() == 1
    assert "No space left on device" in capsys.readouterr().err
    assert config.read_bytes() == before


def test_an_epoch_that_was_passed_before_it_was_to_be_kept_is_told(copy, capsys):
    copy.edit_status(as_cut_off)
    assert copy.run("runtime.keep_epochs=[1, 2]") == 0
    assert "training has passed 2 and kept no weights of that" in capsys.readouterr().err


def test_a_try_that_ended_before_it_computed_anything_leaves_no_doubt(copy, capsys):
    def as_at_the_start(row: dict[str, Any]) -> None:
        row |= {"status": "failed", "code": {}}  # by a full disk, say

    copy.edit_status(as_at_the_start)
    for name in ("metrics.csv", "estimates.csv", "last.pt", "previous_last.pt"):
        (copy.folder.path / name).unlink(missing_ok=True)
    assert copy.run() == 0
    assert "does not record its code" not in capsys.readouterr().err
    assert set(copy.folder.read_status().code) == set(PHASES)


@pytest.mark.parametrize("phases", [PHASES, ("estimate",)])
def test_a_finished_run_says_which_code_has_changed_and_how_to_do_it_again(copy, capsys, phases):
    under_other_code(copy, *phases)
    assert copy.run() == 0
    said = capsys.readouterr()
    assert "ELBO" in said.out  # the results are shown all the same
    (line,) = [line for line in said.err.splitlines() if "the code" in line]
    named = POSTERIOR if phases == PHASES else f"{POSTERIOR} (estimate)"
    assert f"the code has changed since: {named}. " in line
    assert "python main.py -config" in line
    assert "--resume never`" in line


def test_a_run_made_before_code_was_recorded_says_so_once(copy, capsys):
    copy.edit_status(lambda row: row.pop("code"))
    assert copy.run() == 0
    said = capsys.readouterr().err
    assert said.count("does not record its code") == 1
    assert "warning" not in said


def test_done_again_it_has_todays_code(copy, capsys):
    under_other_code(copy, *PHASES)
    assert copy.run(options=("--resume", "never")) == 0
    capsys.readouterr()
    assert copy.run() == 0
    assert "the code" not in capsys.readouterr().err


def test_a_run_that_goes_on_under_other_code_says_so_and_stays_marked(copy, capsys):
    under_other_code(copy, *PHASES, status="running")
    assert copy.run() == 0
    said = capsys.readouterr().err
    assert f"the code has changed since the run was cut off: {POSTERIOR}" in said
    assert copy.run() == 0
    assert f"the code has changed since: {POSTERIOR}. " in capsys.readouterr().err
    code = copy.folder.read_status().code
    assert code["train"][POSTERIOR] == "old"  # it had ended by then
    assert code["estimate"][POSTERIOR].startswith("old+")


def test_a_training_of_other_code_is_not_taken_over(copy, capsys):
    under_other_code(copy, "train")
    assert copy.run("evaluation.max_data=4") == 0
    said = capsys.readouterr().err
    assert f"has trained the same, but with other code ({POSTERIOR})" in said
    assert "its weights are taken" not in said


def test_a_training_whose_measuring_code_has_changed_is_taken_over(copy, capsys):
    under_other_code(copy, "estimate")
    assert copy.run("evaluation.max_data=4") == 0
    assert "its weights are taken" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["metrics.csv", "estimates.csv"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "changed"])
def test_a_finished_run_with_damaged_results_is_not_believed(copy, capsys, file, damage):
    path = copy.folder.path / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        other = {"cut": content[:-30], "emptied": b"", "changed": content.replace(b"1", b"2")}
        path.write_bytes(other[damage])
    before = rows(copy)
    assert copy.run() == 1
    said = capsys.readouterr().err
    assert f"{path} is not what it was when the run finished" in said
    assert "--resume never" in said
    assert copy.report("rebuild") == 0
    said = capsys.readouterr().err
    assert f"skipped: {path}" in said
    assert "the database keeps what it has" in said
    assert rows(copy) == before  # the database has what the folder has lost
    assert copy.run(options=("--resume", "never")) == 0
    assert rows(copy) == before


@pytest.mark.parametrize("file", ["metrics.csv", "estimates.csv"])
def test_of_an_older_run_no_row_in_the_database_is_lost(copy, capsys, file):
    copy.edit_status(lambda row: row.pop("files"))
    path = copy.folder.path / file
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    before = rows(copy)
    assert copy.report("rebuild") == 0
    assert "the database has" in capsys.readouterr().err
    assert rows(copy) == before


@pytest.mark.parametrize(
    "text", ["", '{"experiment": "quick', "null", "[]", '"x"', "{}", "config", "1e999", "\x00"]
)
def test_a_run_whose_status_cannot_be_read_counts_as_cut_off(copy, original, capsys, text):
    if text == "config":
        copy.edit_status(lambda row: row.pop("config"))
    else:
        copy.folder.status_path.write_text(text)
    assert copy.run() == 0
    said = capsys.readouterr().err
    assert f"{copy.folder.status_path} " in said
    assert "taken as cut off" in said
    assert "resumed after epoch 2" in said
    assert "does not record its code" in said
    assert copy.folder.read_status().code == {}
    assert same_bytes(copy, original)
    (kept,) = copy.folder.path.glob("status.json.damaged-*")
    assert kept.read_text() == text or text == "config"


def test_a_status_of_another_run_is_not_believed(copy, original, capsys):
    assert copy.run("seed=1") == 0
    first, second = sorted((copy.results / "runs").iterdir())
    (first / "status.json").write_bytes((second / "status.json").read_bytes())
    capsys.readouterr()
    assert copy.run() == 0
    assert f"is the status of run {second.name}" in capsys.readouterr().err


def test_a_garbage_line_is_named_with_its_remedy(copy, capsys):
    copy.edit_status(as_cut_off)
    path = copy.folder.estimates.path
    path.write_bytes(path.read_bytes() + b"nonsense\n")
    size = copy.folder.metrics.size()
    assert copy.run() == 1
    said = capsys.readouterr().err
    num_lines = path.read_bytes().count(b"\n")
    assert f"{path}:{num_lines}: 1 cells, not 10" in said
    assert "--resume never" in said
    assert copy.folder.metrics.size() == size  # nothing was cut before


def test_rows_that_are_missing_in_the_middle_are_noticed(copy, capsys):
    copy.edit_status(as_cut_off)
    path = copy.folder.estimates.path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert copy.run() == 1
    assert f"{path} has lost rows" in capsys.readouterr().err


def test_metrics_that_are_not_those_of_the_checkpoint_are_noticed(copy, capsys):
    copy.edit_status(as_cut_off)
    path = copy.folder.metrics.path
    path.write_bytes(path.read_bytes().replace(b"bound", b"round"))
    assert copy.run() == 1
    said = capsys.readouterr().err
    assert f"{path} is not what it was when the checkpoint was written" in said


def spoil(path: Path, how: str) -> None:
    state = checkpoint.load(path, "cpu")
    trainer = state["trainer"]
    name = next(iter(trainer["vae"]))
    if how == "keys":
        trainer["vae"]["other"] = trainer["vae"].pop(name)
    elif how == "shapes":
        trainer["vae"][name] = torch.zeros(7, 7)
    elif how == "types":
        trainer["vae"][name] = "weights"
    elif how == "no trainer":
        del state["trainer"]
    elif how == "optimiser":
        trainer["optimiser"]["state"][0]["exp_avg"] = torch.zeros(5, 5, 5)
    elif how == "history":
        trainer["history"] = torch.zeros(3)
    elif how == "noise":
        trainer["noise"] = {"cpu": torch.zeros(3)}
    elif how == "validations":
        trainer["validations"] = [7]
    elif how == "another training":
        state["training"]["seed"] = 77
    checkpoint.save(state, path)


@pytest.mark.parametrize(
    "how",
    [
        "keys",
        "shapes",
        "types",
        "no trainer",
        "optimiser",
        "history",
        "noise",
        "validations",
        "another training",
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_with_what_to_do(copy, capsys, how):
    copy.edit_status(as_cut_off)
    last = copy.folder.path / "last.pt"
    spoil(last, how)
    previous_of(last).unlink(missing_ok=True)
    before = rows(copy)
    assert copy.run() == 1
    said = capsys.readouterr().err
    assert f"checkpoint not used: {last} " in said
    assert "--resume never" in said
    assert "Error" not in said
    assert rows(copy) == before


class Strange:
    """What no checkpoint holds."""


def test_pytorchs_advice_is_not_passed_on(copy, capsys):
    copy.edit_status(as_cut_off)
    last = copy.folder.path / "last.pt"
    previous_of(last).unlink(missing_ok=True)
    torch.save({"trainer": Strange()}, last)
    assert copy.run() == 1
    said = capsys.readouterr().err
    assert f"{last} holds what no checkpoint of this program does" in said
    assert "weights_only" not in said


def test_estimates_without_a_checkpoint_are_kept_when_training_starts_again(
    copy, original, capsys
):
    for path in copy.folder.path.glob("*.pt"):
        path.unlink()
    copy.folder.status_path.write_text("")
    assert copy.run() == 0
    assert f"{copy.folder.path / 'last.pt'} is gone" in capsys.readouterr().err
    (kept,) = (copy.results / "replaced").iterdir()
    name = "estimates.csv"
    assert (kept / name).read_bytes() == (original.folder.path / name).read_bytes()
    assert same_bytes(copy, original)
