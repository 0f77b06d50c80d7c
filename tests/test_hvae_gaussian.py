"""The experiment hvae_gaussian: its methods, and figures of finished runs that train nothing."""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path

import pytest

from experiments.drawing import Trained, Wanted, finished
from experiments.hvae_gaussian import figure
from experiments.hvae_gaussian.published import PUBLISHED, PUBLISHED_THETA
from experiments.hvae_gaussian.runs import ADDITIONAL, BASE, METHODS, measure
from experiments.sweeping.sweep_file import read
from main import main
from utils import checkpoint

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ROOT / "configs" / "hvae_gaussian" / "sweep.yaml"
TINY = [
    "data.num_points=50",
    "model.num_points=50",
    "data.num_train=2",
    "training.epochs=2",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation.estimators=[{name: exact}]",
]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)


def settings(dim: int, seed: int) -> list[str]:
    return [f"data.dim={dim}", f"data.data_seed={seed}", f"seed={seed}", *TINY]


def train(method: str, dim: int, seed: int = 0) -> Trained:
    wanted = Wanted(BASE, [f"{ADDITIONAL}/{method}.yaml"], settings(dim, seed))
    _, _, *arguments = shlex.split(wanted.command)
    assert main([*arguments, "-q"]) == 0
    run = finished(*wanted)
    assert run is not None
    return run


def draw(monkeypatch, output: Path, *options: str) -> None:
    command = ["figure", "--output", str(output), *options, "-set", *TINY]
    monkeypatch.setattr(sys, "argv", command)
    figure.main()


def test_the_sweep_has_each_method_and_each_method_a_file():
    files = {path.stem for path in (ROOT / ADDITIONAL).glob("*.yaml")}
    assert files - {"reduced", "without_half"} == METHODS.keys()
    (axis,) = (axis for axis in read(SWEEP).stage.axes if axis.name == "method")
    assert [choice.label for choice in axis.choices] == list(METHODS)
    assert PUBLISHED.keys() | PUBLISHED_THETA.keys() <= METHODS.keys()


@pytest.mark.slow
def test_figures_are_of_finished_runs(tmp_path, monkeypatch, capsys):
    methods = ("hvae_1", "hvae_1_untempered", "vb", "planar_1_without_half")
    for method in methods:
        train(method, 3)
    capsys.readouterr()
    output = tmp_path / "figures"
    draw(monkeypatch, output, "--dims", "3", "4", "--seeds", "0", "--methods", *methods)
    for name in ("errors", "curves", "tempering", "bounds"):
        assert (output / f"{name}.png").stat().st_size > 1000
    printed = capsys.readouterr()
    for name in ("exact maximum", "HVAE, K = 1", "mean-field VB", "planar, K = 1, without ½"):
        assert re.search(rf"^\| 3 \| {name} \|", printed.out, re.MULTILINE), name
    assert "nan" not in printed.out
    assert "| 4 |" not in printed.out
    assert f"{ADDITIONAL}/vb.yaml -set data.dim=4" in printed.err
    assert f"{ADDITIONAL}/vb.yaml -set data.dim=3" not in printed.err


def test_missing_runs_are_told_with_their_command_and_not_trained(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        draw(monkeypatch, tmp_path / "figures", "--dims", "2", "3", "--methods", "vb", "full")
    assert stop.value.code == 2
    first, *commands, last = capsys.readouterr().err.splitlines()
    assert first.endswith("12 of 12 runs are missing or not finished; make them:")
    wanted = Wanted(BASE, [f"{ADDITIONAL}/vb.yaml"], settings(2, 0))
    assert commands[0].strip() == wanted.command
    assert len(commands) == 10
    assert last == "  and 2 more; bash experiments/hvae_gaussian/run.sh makes them all"
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_found_with_what_it_learned():
    files = [f"{ADDITIONAL}/vb.yaml"]
    assert finished(BASE, files, settings(2, 0)) is None
    run = train("vb", 2)
    state = checkpoint.load(run.folder.path / "last.pt", "cpu")["trainer"]["vae"]
    found = run.built.vae.state_dict()
    assert found.keys() == state.keys()
    assert all(found[name].equal(value) for name, value in state.items())


@pytest.mark.parametrize("method", ["vb", "planar_1_without_half"])
def test_measures_are_those_of_the_exact_answers(method):
    run = train(method, 3)
    exact = run.mean("exact", "log_px")
    result = measure(run)
    # Two steps from σ = 20, so far from both the truth and the maximum.
    assert result.shortfall > 0
    assert result.gap > 0
    assert len(result.curve) == 2
    assert all(math.isfinite(value) and value > 0 for value in result.curve)
    top = run.built.vae.model
    x = run.splits["train"][:1].double()
    top.maximise(x)
    if method == "vb":
        assert math.isclose(result.shortfall, top.log_px(x).item() - exact, rel_tol=1e-4)
    assert result.best.scale < result.errors.scale
