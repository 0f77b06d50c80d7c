"""Processes on the nodes of a Ray cluster; Ray is an extra, imported here alone."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runner.app import ExitCode, UsageError
from experiments.sweeping.local import PROGRAM, LocalProcess, write_heading
from experiments.sweeping.planning import PlannedRun
from experiments.sweeping.standing import log_path

ROOT = Path(__file__).resolve().parents[2]
DIED = -1000
"""The exit code of a run whose node has died: no signal's number."""
STOP_SECONDS = 60.0
CONNECT_SECONDS = 10.0
LOOPBACK = "127.0.0.1"


class RayLauncher:
    """Begins runs as Ray tasks: a share of a GPU each where there are any, else of the CPUs.

    Args:
        address: of the cluster; None starts one on this machine, which only it can reach.
        jobs: runs side by side; None: as many as there are CPUs or shares of GPUs.
        per_gpu: runs side by side on a GPU.

    Raises UsageError where Ray is not installed or does not answer.
    """

    def __init__(self, address: str | None, jobs: int | None, per_gpu: int) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError(
                "--launcher ray needs Ray, which is not installed: python -m pip install "
                "'plumbline[ray]', or ray alone"
            ) from None
        self._ray = ray
        try:
            self._connect(address)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster at {address}: {error}") from error
        room = ray.cluster_resources()
        cpus, gpus = int(room.get("CPU", 1)), int(room.get("GPU", 0))
        self.num_slots = jobs or (gpus * per_gpu if gpus else cpus) or 1
        share = int(10_000 / per_gpu) / 10_000 if gpus else 0  # Ray counts in ten-thousandths
        num_cpus = max(1, cpus // self.num_slots)
        self._attempt = ray.remote(num_cpus=num_cpus, num_gpus=share, max_retries=0)(attempt)

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {"address": address}
        if address is None:
            options = {"include_dashboard": False, "_node_ip_address": LOOPBACK}
        elif found := re.fullmatch(r"([^/:]+):(\d+)", address):
            # Ray itself tries for minutes.
            socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
        if address is not None and address.startswith(
            "127."
        ):  # Ray would look for the driver at the machine's own
            options["_node_ip_address"] = address.rpartition(":")[0]
        environment = {"PYTHONPATH": str(ROOT)}
        self._ray.init(
            **options,
            log_to_driver=False,
            logging_level="error",
            runtime_env={"env_vars": environment},
        )

    def begin(self, run: PlannedRun, slot: int) -> RayProcess:
        """Begin it on whatever node has room."""
        write_heading(run)
        command = (*PROGRAM, *run.arguments)
        wanted = {
            key: os.environ[key] for key in ("VI_DB", "VI_DATA", "VI_RESULTS") if key in os.environ
        }
        log = log_path(run.folder).resolve()
        return RayProcess(
            self._ray, self._attempt.remote(command, str(log), str(Path.cwd()), wanted)
        )


class RayProcess:
    """One try at a run, as a Ray task."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> int | None:
        """The exit code; ``DIED`` where the node or its worker is gone; None until then."""
        done, _ = self._ray.wait([self._reference], timeout=0)
        if not done:
            return None
        try:
            code: int = self._ray.get(self._reference)
        except self._ray.exceptions.TaskCancelledError:
            return ExitCode.TRY_AGAIN
        except self._ray.exceptions.RayTaskError as error:
            raise UsageError(str(error.cause)) from error
        except self._ray.exceptions.RayError:
            return DIED
        return code

    def stop(self) -> None:
        """Ask for a checkpoint."""
        self._ray.cancel(self._reference, force=False)

    def kill(self) -> None:
        """End it at once."""
        self._ray.cancel(self._reference, force=True)


def attempt(command: Sequence[str], log: str, folder: str, environment: Mapping[str, str]) -> int:
    """On a node: do the run and return its exit code; a cancelled task asks it for a checkpoint.

    Raises FileNotFoundError where the node does not see the results.
    """
    if not Path(log).exists():
        raise FileNotFoundError(
            f"{os.uname().nodename} does not see {log}: results must lie where all nodes see "
            "them, or each node would write its own"
        )
    os.chdir(folder)
    process = LocalProcess(command, Path(log), environment)
    try:
        while (code := process.poll()) is None:
            time.sleep(0.1)
    except KeyboardInterrupt:  # how Ray cancels
        process.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is None:
            process.kill()
        raise
    return code
