"""The scripts of experiments, with a stand-in for Python: what they hand to sweep.py."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import sweep
from tests.stand_in import told
from utils import cli

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(ROOT.glob("experiments/*/*.sh"))


def begun(
    folder: Path, script: Path, *files: str, code: int = 0, of: str = "", **variables: str
) -> list[list[str]]:
    """The commands that a script gives to Python; it ends with ``code`` as those ``of`` do."""
    commands = told(folder, ["bash", script, *files], code=code, of=of, **variables)
    return [words for _, *words in commands]


def swept(commands: list[list[str]]) -> list[Namespace]:
    """What sweep.py is given by those commands that start it."""
    return [
        cli.parse(sweep.parser(), words) for program, *words in commands if program == "sweep.py"
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_script_hands_its_variables_to_sweep_py(tmp_path, script):
    files = ["a.yaml", "b c.yaml"]
    variables = {"SEEDS": "3 5", "JOBS": "2", "EXTRA": "a=1 b=2"}
    sweeps = swept(begun(tmp_path, script, *files, **variables))
    assert sweeps
    for options in sweeps:
        assert (ROOT / options.file).exists()
        assert (options.seeds, options.jobs) == (["3", "5"], 2)
        assert options.additional_configs == files
        assert options.set[-2:] == ["a=1", "b=2"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_script_without_variables_does_one_run_after_the_other(tmp_path, script):
    for options in swept(begun(tmp_path, script)):
        assert (options.jobs, options.additional_configs) == (1, [])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_script_ends_where_one_of_its_commands_fails(tmp_path, script):
    assert len(begun(tmp_path, script, code=1)) == 1


def test_variables_say_what_varies(tmp_path):
    folder = ROOT / "experiments"
    ((_, *words),) = begun(tmp_path, folder / "expF" / "run.sh", DATA="digits x", EPOCHS="1 3")
    options = cli.parse(sweep.parser(), words)
    assert options.vary == [["data", "digits", "x"], ["initialise.weights", "1", "3"]]
    assert options.set == ["runtime.keep_epochs=[1,3]"]
    script = folder / "avo_beta_annealing" / "run.sh"
    ((_, *words),) = begun(tmp_path, script, LENGTHS="0 50", DATA="mnist")
    options = cli.parse(sweep.parser(), words)
    assert options.vary == [["data", "mnist"], ["annealing", "0", "50"]]


def test_results_are_written_at_once(monkeypatch):
    """So runs side by side do not write into each other's."""
    writes = []

    class Terminal(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            writes.append(bytes(data))
            return len(data)

    terminal = io.TextIOWrapper(io.BufferedWriter(Terminal()), line_buffering=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.write_results("a run\n  its numbers\n")
    assert writes == [b"a run\n  its numbers\n"]
