"""Sweeps on Ray: two nodes on loopback, one of which is killed."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.runner.app import UsageError
from experiments.sweeping import on_ray, pool
from experiments.sweeping.on_ray import RayLauncher
from experiments.sweeping.pool import Pool
from tests.sweep_files import plan_of, program

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HEAD, OTHER = ({"node_ip_address": f"127.0.0.{number}"} for number in (2, 3))
"""Addresses on loopback; Ray takes 127.0.0.1 itself for a name of the machine."""

BODY = """
here = {here!r}
def stop(*_): open(f"{{here}}/stopped{{seed}}", "w"); sys.exit(75)
signal.signal(signal.SIGTERM, stop)
open(f"{{here}}/begun{{seed}}-{{os.getpid()}}", "w")
while not os.path.exists(here + "/go"): time.sleep(0.05)
open(f"{{here}}/done{{seed}}", "x")  # which fails the second time
"""


@pytest.fixture
def cluster() -> Iterator[object]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **HEAD})
    yield made
    ray.shutdown()
    made.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def alive(folder: Path) -> list[Path]:
    """The programs that go on."""
    return [
        path for path in folder.glob("begun*") if Path("/proc", path.name.split("-")[1]).exists()
    ]


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, address: str, jobs: int) -> Pool:
    monkeypatch.setattr(on_ray, "PROGRAM", program(folder, BODY.format(here=str(folder))))
    monkeypatch.setattr(pool, "SHORT_SECONDS", 0.1)
    plan = plan_of(folder, "config: base.yaml\nseeds: 0-5")
    return Pool(RayLauncher(address, jobs, 1), plan.runs, lambda *_: None)


def test_a_node_that_dies_costs_no_run(tmp_path, monkeypatch, cluster):
    node = cluster.add_node(num_cpus=2, **OTHER)
    sweep = prepared(tmp_path, monkeypatch, cluster.address, 3)

    def kill_it() -> None:
        wait_for(lambda: len(list(tmp_path.glob("begun*"))) == 3)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: len(alive(tmp_path)) == 1)  # its runs do not outlive it
        (tmp_path / "go").touch()

    thread = threading.Thread(target=kill_it)
    thread.start()
    sweep.carry_out()
    thread.join()
    assert [job.state for job in sweep.jobs] == ["done"] * 6
    assert sum(job.deaths for job in sweep.jobs) == 2
    assert len(list(tmp_path.glob("begun*"))) == 8


def test_ctrl_c_asks_the_runs_for_checkpoints(tmp_path, monkeypatch, cluster):
    sweep = prepared(tmp_path, monkeypatch, cluster.address, 1)

    def press() -> None:
        wait_for(lambda: len(list(tmp_path.glob("begun*"))) == 1)
        sweep._handle(signal.SIGINT, None)

    thread = threading.Thread(target=press)
    thread.start()
    sweep.carry_out()
    thread.join()
    assert {job.state for job in sweep.jobs} == {"stopped"}
    wait_for((tmp_path / "stopped0").exists)


def test_a_cluster_that_is_not_there_is_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.2", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UsageError, match=f"no Ray cluster at 127.0.0.2:{port}"):
            RayLauncher(f"127.0.0.2:{port}", 1, 1)
