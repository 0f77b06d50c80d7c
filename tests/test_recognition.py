"""Finished runs are recognised without PyTorch, and only where nothing else could be meant."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from experiments.runner import recognition
from experiments.runner.earlier import Claim
from tests.finished_runs import QUICKSTART, ROOT, SMALL, Copy, finished_run
from utils.config.layers import Layer

pytestmark = pytest.mark.usefixtures("results_here")

CLAIM = Claim("0123456789-s0", "e", {"a": "b"}, [1])
LAYER = Layer.of({"seed": 1, "training": {"epochs": 2}})


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Copy:
    return finished_run(tmp_path_factory.mktemp("original") / "results")


@pytest.fixture
def copy(original, tmp_path, capsys) -> Copy:
    capsys.readouterr()
    return original.copied(tmp_path / "results")


def test_a_finished_run_is_recognised_without_pytorch(copy):
    program = "import sys, main; sys.exit(main.main(sys.argv[1:]) or 'torch' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        program,
        "-config",
        QUICKSTART,
        "--results",
        str(copy.results),
    ]
    done = subprocess.run([*command, "-set", *SMALL], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"already finished" in done.stderr
    assert b"ELBO" in done.stdout


@pytest.fixture
def long_ways(monkeypatch) -> list[bool]:
    """Grows by one whenever main.py has not recognised a run."""
    taken: list[bool] = []
    short = recognition.skip_finished

    def skip_finished(*arguments) -> bool:
        skipped = short(*arguments)
        if not skipped:
            taken.append(True)
        return skipped

    monkeypatch.setattr(recognition, "skip_finished", skip_finished)
    return taken


def test_both_ways_say_the_same(copy, capsys, long_ways):
    said = []
    for known in (True, False):
        if not known:
            (copy.results / recognition.FILE).unlink()
        assert copy.run() == 0
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    assert len(long_ways) == 1


def test_it_counts_for_the_experiment_that_asks_and_is_stored(copy, long_ways):
    for _ in range(2):
        copy.folder.links.path.unlink(missing_ok=True)
        (copy.results / "results.sqlite").unlink()
        assert copy.run("experiment=other", "labels={axis: choice}") == 0
        assert [link.target for link in copy.folder.links.read()] == ["other"]
        assert [label.value for label in copy.folder.labels.read()] == ["choice"]
        assert (copy.results / "results.sqlite").exists()
    assert len(long_ways) == 1


def test_what_was_not_meant_takes_the_long_way(copy, long_ways):
    assert copy.run() == 0
    assert not long_ways
    for options in (("--resume", "never"), ("--dry-run",), ("--max-time", "1h")):
        assert copy.run(options=options) == 0
    assert len(long_ways) == 3


def test_under_other_source_nothing_is_known(tmp_path, monkeypatch):
    recognition.remember(LAYER, CLAIM, tmp_path)
    assert recognition.recall(LAYER, tmp_path) == CLAIM
    monkeypatch.setattr(recognition, "digest_of_all", lambda: "other")
    assert recognition.recall(LAYER, tmp_path) is None
    recognition.remember(LAYER, CLAIM, tmp_path)
    assert list(json.loads((tmp_path / recognition.FILE).read_text())) == ["other"]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2, "training": {"epochs": 2}},
        {"seed": True, "training": {"epochs": 2}},
        {"seed": 1.0, "training": {"epochs": 2}},
        {"seed": "1", "training": {"epochs": 2}},
        {"seed": 1, "training": {"epochs": 2, "clip": None}},
    ],
)
def test_another_configuration_is_another(tmp_path, other):
    recognition.remember(LAYER, CLAIM, tmp_path)
    assert recognition.recall(Layer.of(other), tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\udc80"])
def test_a_damaged_file_is_none(tmp_path, content):
    path = tmp_path / recognition.FILE
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert recognition.recall(LAYER, tmp_path) is None
    path.write_text(json.dumps({recognition.digest_of_all(): []}))
    assert recognition.recall(LAYER, tmp_path) is None
    recognition.remember(LAYER, CLAIM, tmp_path)
    assert recognition.recall(LAYER, tmp_path) == CLAIM
    assert list(tmp_path.iterdir()) == [path]


def test_what_depends_on_files_is_not_remembered(copy, tmp_path):
    before = (copy.results / recognition.FILE).read_text()
    run = copy.folder.path.name
    assert copy.run(f"initialise.run={run}", "phases=[estimate]") == 0
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from models.posteriors.gaussian import gaussian\n"
        "from models.posteriors.protocol import posteriors\n"
        "posteriors.register('mine')(gaussian)\n"
    )
    assert copy.run(options=("-plugin", str(plugin))) == 0
    assert (copy.results / recognition.FILE).read_text() == before
