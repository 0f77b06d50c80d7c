"""Workers that share a run's data: the numbers of one process, whatever becomes of the others."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from experiments.runner import plugins
from experiments.runner.workers import PROGRAM, Workers, device_of
from tests.components import SEED
from tests.test_interrupted import Started, wait_for
from tests.tiny_runs import QUICKSTART, run
from utils.results.folder import RunFolder
from utils.results.recorder import Recorder

pytestmark = pytest.mark.usefixtures("results_here")

# An x of 7 numbers: batches of 3 do not begin where a processor's vectors do.
FEW = "{name: linear_gaussian, dim: 7, num_train: 9, num_validation: 9, num_test: 8}"
ANNEALED = "num_chains: 4, num_distributions: 10, num_leapfrog: 2"
IMPORTANCE = "{name: importance, num_samples: 20}"
ESTIMATORS = f"[{IMPORTANCE}, {{name: ais, {ANNEALED}}}, {{name: bdmc, {ANNEALED}}}]"
FAMILIES = "{FFG: {name: gaussian}, AF: {name: aux_real_nvp, hidden: [6], partner_hidden: [4]}}"
WHOLE = [
    f"seed={SEED}",
    f"data={FEW}",
    "model={latent_dim: 2, likelihood: {name: gaussian}, decoder: {hidden: [8]}}",
    "encoder.hidden=[8]",
    "training.epochs=1",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "phases=[train, local_optimisation, estimate]",
    f"evaluation={{batch_size: 3, num_simulated: 5, estimators: {ESTIMATORS}}}",
    f"local_optimisation={{batch_size: 3, families: {FAMILIES}, estimator: {{num_samples: 20}}}}",
    "local_optimisation.setting={name: fast, max_steps: 60, num_samples: 4}",
]
NUM_LOCAL = 2 * 3  # batches of two families
ONE_BATCH = [*WHOLE, "phases=[estimate]", "evaluation.estimators=[{name: importance}]"]
ONE_BATCH += ["evaluation.batch_size=8"]
SECONDS = 300.0  # until what must happen has happened, on a busy machine


def whole(*assignments: str) -> list[str]:
    return ["-config", QUICKSTART, "-set", *WHOLE, *assignments]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunFolder:
    """What one process measures."""
    results = tmp_path_factory.mktemp("alone")
    assert run(*whole(), "--results", str(results)) == 0
    return only(results)


def only(results: Path) -> RunFolder:
    (folder,) = (results / "runs").iterdir()
    return RunFolder(folder)


@pytest.fixture
def folder(tmp_path) -> Callable[[], RunFolder]:
    return lambda: only(tmp_path / "results")


def same_numbers(one: RunFolder, other: RunFolder) -> bool:
    return all(
        (one.path / name).read_bytes() == (other.path / name).read_bytes()
        for name in ("metrics.csv", "estimates.csv")
    )


@pytest.fixture
def killing(monkeypatch) -> Callable[[int, int], None]:
    """Has as many workers as are wanted killed as soon as they have been given a batch."""

    def arrange(first: int, count: int) -> None:
        original, given = Workers._give, itertools.count()

        def giving(self, worker, job) -> None:
            dies = first <= next(given) < first + count
            if dies:
                os.kill(worker.pid, signal.SIGSTOP)  # or it might be done by then
            original(self, worker, job)
            if dies:
                os.kill(worker.pid, signal.SIGKILL)

        monkeypatch.setattr(Workers, "_give", giving)

    return arrange


def test_two_workers_measure_what_one_process_does_even_if_one_is_killed(
    alone, folder, killing, capsys
):
    killing(3, 1)
    assert run(*whole("runtime.workers=2")) == 0
    assert "a worker was killed by SIGKILL at " in capsys.readouterr().err
    assert same_numbers(folder(), alone)
    assert folder().path.name == alone.path.name
    assert not (folder().path / "local").exists()


@pytest.mark.parametrize(
    "tries",
    [
        pytest.param([(2, 2)], marks=pytest.mark.slow),
        # The last batch that is there may be torn, and is done again: the second stop is in the
        # estimates.
        pytest.param([(1, 2), (3, NUM_LOCAL - 1 + 2)], marks=pytest.mark.slow),
    ],
)
def test_stopped_and_taken_up_by_another_number_of_workers(
    alone, folder, monkeypatch, capsys, tries
):
    """Each try is so many workers, and after how many batches it is stopped."""
    original = Recorder.add_estimates
    for workers, stopped_after in tries:
        written = itertools.count(1)

        def add(self, rows, written=written, stopped_after=stopped_after) -> None:
            original(self, rows)
            if next(written) == stopped_after:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Recorder, "add_estimates", add)
        assert run(*whole(f"runtime.workers={workers}")) == 75
        assert "go on with" in capsys.readouterr().err
        assert folder().read_status().status == "interrupted"
    if tries == [(2, 2)]:
        assert list((folder().path / "local").iterdir())  # what the workers were at
    monkeypatch.setattr(Recorder, "add_estimates", original)
    assert run(*whole()) == 0
    assert same_numbers(folder(), alone)


def test_a_batch_that_kills_its_workers_ends_the_run_and_loses_nothing(
    folder, killing, monkeypatch, capsys
):
    with monkeypatch.context():
        killing(0, 9)
        assert run("-config", QUICKSTART, "-set", *ONE_BATCH, "runtime.workers=2") == 1
    messages = capsys.readouterr().err
    assert "2 workers were killed by SIGKILL at " in messages
    assert "fewer runtime.workers or smaller batches" in messages
    assert folder().read_status().status == "failed"


FAILING = '''
from estimators.protocol import Estimator, estimators


@estimators.register("failing")
class Failing(Estimator):
    """Refuses all data."""

    name = "failing"

    def __call__(self, model, posterior, x, context, z=None):
        raise ValueError("not with me")
'''


@pytest.fixture
def plugin(tmp_path) -> Iterator[str]:
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    yield str(path)
    plugins.use({})


def test_what_a_worker_raises_is_told_as_if_it_were_raised_here(folder, plugin, capsys):
    """In a component of a plugin, so that these are known to workers."""
    fails = "evaluation.estimators=[{name: failing}]"
    arguments = ["-config", QUICKSTART, "-set", *ONE_BATCH, fails, "runtime.workers=2"]
    assert run(*arguments, "--plugin", plugin, "--debug") == 1
    messages = capsys.readouterr().err
    assert "failed: ValueError: not with me" in messages
    assert "in __call__" in messages  # the worker's own traceback
    assert folder().read_status().message == "ValueError: not with me"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells children")
def test_no_worker_outlives_a_run_that_is_killed(tmp_path):
    long = "evaluation.estimators=[{name: ais, num_distributions: 100000}]"
    arguments = ["-config", QUICKSTART, "-set", *ONE_BATCH, long, "runtime.workers=2"]
    process = Started(arguments, tmp_path)
    try:
        wait_for(lambda: workers_of(process.process.pid) != [], SECONDS)
        (worker,) = workers_of(process.process.pid)
    finally:
        process.kill()
    wait_for(lambda: not is_alive(worker), SECONDS)


def workers_of(pid: int) -> list[int]:
    """Of a process, the workers that have not ended: it has other children, which come and go."""
    statuses = {int(path.parent.name): state(path) for path in Path("/proc").glob("[0-9]*/stat")}
    living = [
        child for child, (letter, parent) in statuses.items() if parent == pid and letter != "Z"
    ]
    return [child for child in living if is_worker(child)]


def is_worker(pid: int) -> bool:
    """Not where it is gone, or where its program has not begun yet."""
    try:
        return PROGRAM[-1].encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(pid: int) -> bool:
    return state(Path(f"/proc/{pid}/stat"))[0] != "Z"


def state(path: Path) -> tuple[str, int]:
    """Its letter and the parent of a process; Z where it is gone."""
    try:
        letter, parent = path.read_text().rpartition(") ")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return letter, int(parent)


def test_each_worker_takes_the_next_gpu_unless_one_is_named():
    def chosen(device: str) -> list[str]:
        return [str(device_of(slot, torch.device(device), 2)) for slot in range(3)]

    assert chosen("cuda") == ["cuda:0", "cuda:1", "cuda:0"]
    assert chosen("cuda:1") == ["cuda:1"] * 3
    assert chosen("cpu") == ["cpu"] * 3
