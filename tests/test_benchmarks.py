"""Every benchmark runs, if only for a moment: what it says of speed is not looked at.

A new benchmark is called with ``--quick``, unless ``ARGUMENTS`` say otherwise.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import benchmarks
from benchmarks import demo_gap, nats
from benchmarks.laws import LAWS, Law
from models.local import paper
from models.posteriors.gaussian import gaussian
from tests.finished_runs import finished_run

MODULES = [
    importlib.import_module(f"benchmarks.{info.name}")
    for info in pkgutil.iter_modules(benchmarks.__path__)
]
ARGUMENTS = {
    "ais": "--rounds 1 --rows 20 --no-compile --no-memory",
    "avo": "--rounds 1",
    "hvae": "--rounds 1 --no-compile",
    "hvae_gaussian": "--rounds 1 --no-compile --dim 2",
    "local": "--quick --rounds 1 --no-compile --num-data 2",
    "mcvae": "--rounds 1 --batch 2",
    "operations": "--steps 1",
    "optima": "--num-data 1 --max-steps 2",
    "posteriors": "--rounds 1 planar",
    "replicas": "--quick --numbers 1 2",
    "samplers": "--rounds 1 --batch 2 --steps 1",
    "scaling": "--quick --only IWAE",
    "size": "",
    "startup": "--rounds 1",
    "toys": "--rounds 1 --no-compile",
    "training": "--rounds 1 --no-compile",
    "workers": "--workers 1 2 --threads 1 --data 2 --batches 1 --rounds 1",
    "usage": "--rounds 1 --num-train 200 --posteriors gaussian",
}
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "ais": {"CHAINS": 10, "IMAGES": 2, "STEPS": 400},
    "avo": {"STEPS": 1},
    "hvae": {"STEPS": 1},
    "hvae_gaussian": {"NUM_STEPS": 1},
    "local": {
        "FAMILIES": {"FFG": gaussian},
        "REFERENCE_STEPS": 1,
        "paper": partial(paper, max_steps=100),
    },
    "operations": {"ROUNDS": 1, "NUM_TRAIN": 300},
    "optima": {"DIMENSIONS": (2,), "NOISES": (1.0,)},
    "posteriors": {"STEPS": 1},
    "samplers": {"METHODS": ("mcd",), "STEPS": 1},
    "toys": {"STEPS": 2},
    "training": {"NUM_TRAIN": 200, "NUM_VALIDATION": 100},
}
"""What no argument changes."""
SLOW = ("local", "mcvae", "scaling", "startup", "workers")
OF_RUNS = (demo_gap, nats)  # these look at runs that are there


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


PROGRAMS = [
    pytest.param(module, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for module in MODULES
    if hasattr(module, "main") and module not in OF_RUNS
    for name in [name_of(module)]
]


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name_of(module), *arguments])
    module.main()


@pytest.mark.parametrize("module", PROGRAMS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # a training of one epoch may say so
def test_a_benchmark_runs(module, monkeypatch, capfd):
    name = name_of(module)
    for constant, value in SMALLER.get(name, {}).items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    call(module, monkeypatch, *ARGUMENTS.get(name, "--quick").split())
    assert len(capfd.readouterr().out.splitlines()) > 1


def test_bounds_against_time_of_a_run(tmp_path, monkeypatch, capsys):
    few = {name: nats.METHODS[name][:1] for name in ("IWAE-K", "AIS from the prior")}
    monkeypatch.setattr(nats, "METHODS", few)
    run, output = finished_run(tmp_path / "results"), tmp_path / "figure.png"
    capsys.readouterr()
    options = ("--results", str(run.results), "--num-data", "2", "--output", str(output))
    call(nats, monkeypatch, run.folder.path.name, *options)
    assert output.stat().st_size > 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(few)
    output.unlink()
    call(nats, monkeypatch, run.folder.path.name, *options, "--forces", "--weights", "1")
    assert output.stat().st_size > 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + 2 + 1  # a path, two kinds of forces, their difference
    assert "bf16 - float32, 5 distributions" in said[-1]


@pytest.mark.usefixtures("results_here")
def test_the_demo_s_gaps_name_the_runs_that_they_lack(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(demo_gap, monkeypatch, "--seeds", "0")
    assert capsys.readouterr().err.count("main.py") == 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all laws, so that runs are made up once."""
    return tmp_path_factory.mktemp("laws")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.name}, {law.unit}")
def test_the_smallest_size_of_a_law_works(law: Law, root: Path):
    law.prepare(root, law.sizes[0])()
