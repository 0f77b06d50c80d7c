"""Processes on this machine, in slots of cores and GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from experiments.sweeping.planning import PlannedRun
from experiments.sweeping.standing import log_path
from utils.processes import Child, die_with
from utils.results.records import utc_now

PROGRAM = (sys.executable, str(Path(__file__).resolve().parents[2] / "main.py"))
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class LocalProcess(Child):
    """A run on this machine, which is asked for a checkpoint when this process dies."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as file:
            super().__init__(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),
            )


class LocalLauncher:
    """Begins runs as processes of this one.

    Args:
        slots: what the environment of a run in each slot has over that of this process.
        program: what stands before the run's arguments.
    """

    def __init__(
        self, slots: Sequence[Mapping[str, str]], program: Sequence[str] | None = None
    ) -> None:
        self.num_slots = len(slots)
        self._slots = slots
        self._program = tuple(program or PROGRAM)

    def begin(self, run: PlannedRun, slot: int) -> LocalProcess:
        """Begin it; its output goes to the end of its log."""
        write_heading(run)
        command = (*self._program, *run.arguments)
        return LocalProcess(command, log_path(run.folder), self._slots[slot])


def write_heading(run: PlannedRun) -> None:
    """Say in the run's log when and by what command it begins."""
    run.folder.create()
    with log_path(run.folder).open("a", encoding="utf-8") as log:
        log.write(f"# {utc_now()} {run.command}\n")


def make_slots(
    jobs: int, gpus: Sequence[str], per_gpu: int, environment: Mapping[str, str], cores: int
) -> list[dict[str, str]]:
    """The environments of slots: a share of the cores each, unless it is said already, and a GPU.

    One slot without a GPU has the whole machine as it is.
    """
    devices = [gpu for _ in range(per_gpu) for gpu in gpus] or [""] * jobs
    threads = str(max(1, cores // len(devices)))
    slots = []
    for device in devices:
        slot = {} if len(devices) == 1 else dict.fromkeys(THREADS, threads)
        slot = {name: value for name, value in slot.items() if name not in environment}
        if device:
            slot["CUDA_VISIBLE_DEVICES"] = device
        slots.append(slot)
    return slots


def visible_gpus(numbers: Sequence[str], environment: Mapping[str, str], count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to be for each GPU, by its number here (``1`` or ``cuda:1``).

    Raises ValueError where there is no GPU of a number.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = given.split(",") if given else [str(number) for number in range(count)]
    chosen = []
    for text in numbers:
        digits = text.strip().removeprefix("cuda:")
        if not digits.isdecimal():
            raise ValueError(f"{text!r} is no GPU; write --gpus 0,1")
        if int(digits) >= count:
            there = f"the last is {count - 1}" if count else "there is none"
            raise ValueError(f"there is no GPU {digits} here: {there}")
        chosen.append(names[int(digits)])
    return chosen
