"""What a person sees of a sweep: a line a change, failures at the end, lists."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.reporting.tables import Heading, Table, Text, to_text
from experiments.sweeping.planning import Plan, PlannedRun
from experiments.sweeping.pool import Job
from experiments.sweeping.standing import Standing, log_path
from utils.console import Console, duration_text


class Progress:
    """Says each change of state in a line, with the time left where it can be told."""

    def __init__(self, console: Console, total: int, done: int, num_slots: int) -> None:
        self._console, self._total, self._num_slots = console, total, num_slots
        self._done = done

    def __call__(self, event: str, job: Job, jobs: Sequence[Job]) -> None:
        """Say what has happened to a job."""
        ended = sum(other.state in ("done", "failed", "blocked") for other in jobs)
        width = len(str(self._total))
        line = f"{time.strftime('%H:%M:%S')}  {self._done + ended:{width}}/{self._total}"
        line += f"  {event:7}  {job.run.label}"
        if event == "begun":
            line += f"  ({job.run.id})"
        if job.message:
            line += f": {job.message}"
        if event == "done" and job.seconds:
            line += f"  {duration_text(job.seconds)}"
            if seconds := seconds_left(jobs, self._num_slots, time.monotonic()):
                line += f"  ETA {duration_text(seconds)}"
        say = self._console.error if event in ("failed", "blocked") else self._console.info
        say(line)


def seconds_left(jobs: Sequence[Job], num_slots: int, now: float) -> float:
    """How long the rest takes if each job takes as long as those before; 0 where it is unknown."""
    known = [job.seconds for job in jobs if job.state == "done" and job.seconds]
    if not known:
        return 0.0
    mean = sum(known) / len(known)
    waiting = sum(job.state == "waiting" for job in jobs) * mean
    running = sum(max(mean - (now - job.began), 0.0) for job in jobs if job.state == "running")
    return (waiting + running) / num_slots


def failures(jobs: Sequence[Job]) -> str:
    """The table of what failed and what was not begun therefore; empty where nothing did."""
    failed = [job for job in jobs if job.state in ("failed", "blocked")]
    if not failed:
        return ""
    rows = [
        [
            Text(job.run.id),
            Text(job.run.label),
            Text("-" if job.code is None else str(job.code)),
            Text(job.message),
            Text(str(log_path(job.run.folder)) if job.code is not None else "-"),
        ]
        for job in failed
    ]
    headings = [Heading(text) for text in ("run", "point", "exit code", "why", "log")]
    return to_text(Table(headings, rows))


def plan_table(plan: Plan, standings: Mapping[str, Standing]) -> str:
    """Every run with its state, how many there are of each, and points that are one run."""
    rows = [
        [Text(run.id), Text(run.label), Text(standing.state), Text(standing.message)]
        for run in plan.runs
        for standing in (standings[run.id],)
    ]
    headings = [Heading(text) for text in ("run", "point", "state", "")]
    counts = Counter(standings[run.id].state for run in plan.runs)
    shown = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [to_text(Table(headings, rows)), f"{len(plan.runs)} runs: {shown}\n"]
    return "".join([*lines, *(f"{text}\n" for text in repetitions(plan))])


def repetitions(plan: Plan) -> list[str]:
    """What is said of points that are one run."""
    return [
        f"{point or 'a point'} is the same run as {_name(run)}: done once"
        for point, run in plan.repeated
    ]


def _name(run: PlannedRun) -> str:
    return run.label if run.label == run.id else f"{run.label} ({run.id})"
