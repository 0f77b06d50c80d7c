"""Runs that were killed or stopped: started again, they give the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.tiny_runs import ROOT, as_running, only_folder, run, tiny
from utils.checkpoint import previous_of
from utils.results.folder import RunFolder

pytestmark = pytest.mark.usefixtures("results_here")

LONG = "training.epochs=40"


class Started:
    """main.py in a process of its own; ``end`` waits for it."""

    def __init__(self, arguments: Sequence[str], tmp_path: Path) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end()
        environment = {**os.environ, "VI_RESULTS": str(tmp_path / "results")}
        command = [sys.executable, "main.py", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=self._log
        )

    def end(self) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        code = self.process.wait()
        with self._log as log:
            log.seek(0)
            return code, log.read()

    def kill(self) -> None:
        self.process.kill()
        self.end()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> RunFolder:
    """A run that nothing stopped, to compare with."""
    here = tmp_path_factory.mktemp("straight")
    assert run(*tiny(LONG, options=["--results", str(here / "results")])) == 0
    return only_folder(here)


def same_numbers(one: RunFolder, other: RunFolder) -> bool:
    return all(
        (one.path / name).read_bytes() == (other.path / name).read_bytes()
        for name in ("metrics.csv", "estimates.csv")
    )


def epochs_written(tmp_path: Path) -> int:
    files = list((tmp_path / "results").glob("runs/*/metrics.csv"))
    return 0 if not files else files[0].read_text().count("loss")


@pytest.mark.parametrize("kill_after", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_point_and_started_again_gives_the_same_bytes(
    tmp_path, straight, kill_after
):
    process = Started(tiny(LONG), tmp_path)
    wait_for(lambda: epochs_written(tmp_path) >= kill_after)
    process.kill()
    folder = only_folder(tmp_path)
    assert folder.read_status().status == "running"  # nobody was there to say otherwise
    assert run(*tiny(LONG)) == 0
    assert same_numbers(folder, straight)


@pytest.fixture
def signals_are_harmless() -> Iterator[None]:
    """Outside a run, so that one that comes too late fails its test and ends nothing."""
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in wanted}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_are_harmless")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_signals_leave_a_checkpoint_and_say_how_to_go_on(tmp_path, capsys, straight, number, code):
    def send() -> None:
        wait_for(lambda: epochs_written(tmp_path) >= 2)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert run(*tiny(LONG)) == code
    sender.join()
    assert "go on with" in capsys.readouterr().err
    folder = only_folder(tmp_path)
    assert folder.read_status().status == "interrupted"
    assert run(*tiny(LONG)) == 0
    assert same_numbers(folder, straight)


def test_a_run_cut_off_in_its_estimates_gives_the_same_bytes(tmp_path, straight):
    assert run(*tiny(LONG)) == 0
    folder = only_folder(tmp_path)
    whole = (folder.path / "estimates.csv").read_text()
    cut = whole.index(",130,")  # within the third batch of 64
    (folder.path / "estimates.csv").write_text(whole[:cut])
    folder.write_status(as_running(folder))
    assert run(*tiny(LONG)) == 0
    assert same_numbers(folder, straight)


def test_two_at_the_same_moment(tmp_path):
    processes = [Started(tiny(LONG), tmp_path) for _ in range(2)]
    outcomes = [process.end() for process in processes]
    codes = sorted(code for code, _ in outcomes)
    # The slower one finds the run taken or, where it was very slow, finished.
    assert codes in ([0, 75], [0, 0]), outcomes
    for code, messages in outcomes:
        if code == 75:
            assert "is being run by" in messages
    assert only_folder(tmp_path).read_status().status == "finished"


def test_corrupt_checkpoint_falls_back_to_the_previous_one(tmp_path, capsys, straight):
    process = Started(tiny(LONG), tmp_path)
    wait_for(lambda: epochs_written(tmp_path) >= 5)
    # Not killed, which may come while one checkpoint replaces the other.
    process.process.send_signal(signal.SIGTERM)
    assert process.end()[0] == 75
    folder = only_folder(tmp_path)
    last = folder.path / "last.pt"
    content = bytearray(last.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 200):  # more than what is padding
        content[place] ^= 0xFF
    last.write_bytes(content)
    assert run(*tiny(LONG)) == 0
    assert "unreadable checkpoint" in capsys.readouterr().err
    assert same_numbers(folder, straight)


def test_no_readable_checkpoint_is_an_error_that_says_what_to_do(tmp_path, capsys):
    assert run(*tiny()) == 0
    folder = only_folder(tmp_path)
    folder.write_status(as_running(folder))
    for path in (folder.path / "last.pt", previous_of(folder.path / "last.pt")):
        path.write_bytes(b"nonsense")
    assert run(*tiny()) == 1
    assert "--resume never" in capsys.readouterr().err
