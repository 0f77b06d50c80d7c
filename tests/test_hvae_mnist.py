"""The experiment hvae_mnist: equal time for IWAE, and chains of HMC of finished runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from experiments.hvae_mnist import equal_time, trajectories
from experiments.hvae_mnist.equal_time import HVAE, IWAE, Choice, Pair, choose, to_yaml
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.sweeping.points import expand, vary
from experiments.sweeping.sweep_file import read
from main import main
from tests.test_sweeps import begun
from utils.config.loading import load
from utils.config.validation import validate

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "hvae_mnist"
DENSE = "configs/hvae_mnist/additional/dense.yaml"
TINY = [
    "data={name: digits}",
    "model.latent_dim=2",
    "model.decoder.hidden=[4]",
    "encoder.hidden=[4]",
    "training={epochs: 1, batch_size: 200, early_stopping: null}",
    "evaluation={max_data: 2}",
    "evaluation.estimators=[{name: importance, num_samples: 2}]",
    "runtime={tensorboard: false, threads: 1}",
]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("VI_RESULTS", str(tmp_path))
    monkeypatch.chdir(ROOT)


def call(module, monkeypatch, *options: str) -> None:
    words = [module.__name__, *options, "-additional_configs", DENSE, "-set", *TINY]
    monkeypatch.setattr(sys, "argv", words)
    module.main()


@pytest.mark.parametrize(
    ("hvae", "fixed", "each", "expected"),
    [(10.0, 2.0, 0.5, 16), (10.0, 2.0, 0.51, 16), (1.0, 0.9, 0.2, 1), (500.0, 1.0, 1.0, 499)],
)
def test_the_number_of_samples_brings_both_times_together(hvae, fixed, each, expected):
    choice = choose(lambda number: Pair(hvae, fixed + each * number))
    assert choice == Choice(expected, Pair(hvae, fixed + each * expected))


def test_the_number_is_corrected_where_costs_are_no_line():
    """The first line misses by far."""

    def measure(number: int) -> Pair:
        return Pair(30.0, 1.0 + 0.5 * number + 0.01 * number**2)

    errors = [abs(measure(number).iwae / 30 - 1) for number in range(1, 100)]
    assert choose(measure).num_samples == 1 + errors.index(min(errors))


def test_times_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="12 samples took no longer than 2"):
        choose(lambda number: Pair(1.0, 1.0))


def test_the_choice_is_a_configuration():
    assert yaml.safe_load(to_yaml(Choice(7, Pair(2.0, 1.9)))) == {
        "loss": {"name": "iwae", "num_samples": 7}
    }


@pytest.mark.parametrize("compiled", [False, True])
def test_times_are_of_steps_compiled_as_their_runs_would_be(monkeypatch, compiled):
    asked = []
    monkeypatch.setattr(equal_time, "Trainer", lambda *_, compile_step: asked.append(compile_step))
    monkeypatch.setattr(equal_time, "_seconds", lambda trainer: 1.0)
    switch = f"runtime.compile={'on' if compiled else 'off'}"
    equal_time.Epochs([ROOT / DENSE], [*TINY, switch]).measure(2)
    assert asked == [compiled, compiled]


@pytest.mark.slow
def test_what_has_been_measured_once_stays(tmp_path, monkeypatch, capsys):
    call(equal_time, monkeypatch)
    path = tmp_path / "hvae_mnist" / "equal_time.yaml"
    first = path.read_text()
    printed = capsys.readouterr().out
    assert printed == first
    assert re.match(r"# Measured: an epoch takes [\d.]+ s, one of the Hamiltonian VAE", first)
    config = validate(RunConfig, load(equal_time.BASE, [IWAE, path], (), DEFAULTS))
    assert config.loss.name == "iwae"
    monkeypatch.setattr(equal_time, "choose", lambda measure: Choice(99, Pair(1.0, 1.0)))
    call(equal_time, monkeypatch)
    assert path.read_text() == first
    call(equal_time, monkeypatch, "--again")
    assert "num_samples: 99" in path.read_text()


@pytest.mark.parametrize(
    ("variables", "steps", "last"),
    [
        ({}, ["1", "5", "10", "15", "20"], "experiments.hvae_mnist.trajectories"),
        ({"STEPS": "5", "SIZES": "chain"}, ["5"], "experiments.hvae_mnist.trajectories"),
        ({"STEPS": "1 20"}, ["1", "20"], "--vary"),
    ],
)
def test_the_script_measures_sweeps_and_draws_chains_of_five_steps(
    tmp_path, variables, steps, last
):
    commands = begun(tmp_path, ROOT / "experiments" / "hvae_mnist" / "run.sh", **variables)
    assert commands[0][:2] == ["-m", "experiments.hvae_mnist.equal_time"]
    _, swept = (words for words in commands if words[0] == "sweep.py")
    place = swept.index("posterior.num_steps") + 1
    assert swept[place : place + len(steps) + 1] == [*steps, "--vary"]
    assert last in commands[-1]


@pytest.mark.parametrize(("code", "sweeps"), [(1, 2), (75, 1)])
def test_the_script_goes_on_where_a_run_beside_has_failed_and_says_so(tmp_path, code, sweeps):
    script = ROOT / "experiments" / "hvae_mnist" / "run.sh"
    commands = begun(tmp_path, script, code=code, of="sweep_beside.yaml")
    assert [words[0] for words in commands].count("sweep.py") == sweeps


def test_the_sweep_does_with_one_step_what_differs_there():
    points = [str(point) for point in expand(read(CONFIGS / "sweep.yaml").stage)]
    assert len(points) == 2 + 4 * 3 * 2
    assert [point for point in points if point.startswith("posterior.num_steps=1,")] == [
        f"posterior.num_steps=1, posterior.tempering={of}, posterior.step_size_per=chain"
        for of in ("none", "fixed_temperature")
    ]


def test_what_has_been_measured_is_a_choice_of_the_sweep(tmp_path):
    """As the script takes it out of the file."""
    measured = to_yaml(Choice(7, Pair(2.0, 1.9))).strip()
    stage = read(CONFIGS / "sweep_beside.yaml").stage
    iwae = measured.rpartition("loss: ")[2]
    points = expand(vary(stage, {"loss": ["{name: elbo}", iwae]}))
    assert [[word.text for word in point.words] for point in points] == [
        ["loss={name: elbo}"], ["loss={name: iwae, num_samples: 7}"]
    ]  # fmt: skip


def test_chains_of_both_models_are_drawn(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        call(trajectories, monkeypatch)
    assert ended.value.code == 2
    commands = re.findall(r"python main.py (.*)", capsys.readouterr().err)
    assert [HVAE in command for command in commands] == [False, True]
    for command in commands:
        assert main([*shlex.split(command), "-q"]) == 0
    call(trajectories, monkeypatch, "--images", "3", "--moves", "2")
    assert (tmp_path / "hvae_mnist" / "trajectories.png").stat().st_size > 1000
    assert re.findall(r"^\| (H?VAE) \| -", capsys.readouterr().out, re.M) == ["VAE", "HVAE"]
