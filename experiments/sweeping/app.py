"""The actions of sweep.py."""

from __future__ import annotations

import os
import shlex
import signal
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from experiments.runner.app import ExitCode, UsageError, explain
from experiments.runner.asked import results_of
from experiments.runner.earlier import Destination
from experiments.sweeping import display, slurm
from experiments.sweeping.local import LocalLauncher, make_slots, visible_gpus
from experiments.sweeping.planning import Additions, Plan, PlannedRun, make_plan
from experiments.sweeping.points import Stage, expand, vary, with_seeds
from experiments.sweeping.pool import Job, Launcher, Pool
from experiments.sweeping.standing import (
    Standing,
    enrol_finished,
    last_line,
    log_path,
    look_at_all,
)
from experiments.sweeping.sweep_file import Sweep, read, seed_range
from utils.cli import write_results
from utils.config.sources import ConfigError, Origin, Problem
from utils.console import Console
from utils.results.database import check_login, check_url, database_url, masked
from utils.results.folder import results_root
from utils.types import duration


class Reports(NamedTuple):
    """What makes tables: plot_from_db.py's command line."""

    takes: Callable[[Sequence[str]], bool]
    """Whether it takes these words; says why where it does not."""
    make: Callable[[Sequence[str]], int]
    """Makes the report; returns its exit code."""


def run(options: Namespace, command: Sequence[str], reports: Reports) -> int:
    """Carry out what the command line asks for; turn failures into messages and exit codes."""
    console = Console(verbosity=options.verbose - options.quiet)
    again = shlex.join(masked(word) for word in command)
    try:
        return _act(options, again, reports, console)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        return explain(error, console, again)
    except KeyboardInterrupt:  # the runs have not begun, or have ended
        console.error("stopped")
        return ExitCode.CTRL_C


def _act(options: Namespace, again: str, reports: Reports, console: Console) -> int:
    root = results_of(options)
    destination = Destination(root, database_url(root, options.db), command=again)
    check_url(destination.database)
    if options.db:
        os.environ["VI_DB"] = options.db  # not as an argument, which every user of a machine sees
    sweep = read(options.file)
    _check_reports(sweep, options, reports)
    began = time.monotonic()
    plan = make_plan(
        sweep, expand(changed(sweep, options)), root, _additions(options), console.warn
    )
    standings = look_at_all(plan.runs)
    console.detail(f"{len(plan.runs)} runs planned in {time.monotonic() - began:.1f} s")
    if options.dry_run or options.status:
        write_results(display.plan_table(plan, _with_logs(plan, standings)))
        return ExitCode.DONE
    due = [run for run in plan.runs if _is_due(standings[run.id], options.retry_failed)]
    if options.commands:
        write_results("".join(f"{run.command}\n" for run in due))
        return ExitCode.DONE
    check_login(destination.database)
    for text in display.repetitions(plan):
        console.info(text)
    enrol_finished(plan.runs, standings, destination, console)
    if options.launcher == "slurm":
        return slurm.submit(sweep, due, options.jobs, options.slurm, root, console)
    return _carry_out(options, sweep, plan, due, standings, destination, reports, console)


def _words(text: str, options: Namespace) -> list[str]:
    """The words of a command of plot_from_db.py; ``{results}`` is the results folder."""
    root = str(results_root(options.results))
    return [word.replace("{results}", root) for word in shlex.split(text)]


def _check_reports(sweep: Sweep, options: Namespace, reports: Reports) -> None:
    """Raise ConfigError for a command that plot_from_db.py does not take."""
    problems = []
    for text in sweep.then:
        try:
            reason = "" if reports.takes(_words(text, options)) else text
        except ValueError as error:  # a quotation mark without its other one
            reason = f"{text}: {error}"
        if reason:
            problems.append(Problem(Origin(options.file), f"`then`: plot_from_db.py {reason}"))
    if problems:
        raise ConfigError(problems)


def changed(sweep: Sweep, options: Namespace) -> Stage:
    """What varies, with the choices and seeds of the command line.

    Raises UsageError and ConfigError for such as there are none of.
    """
    stage = sweep.stage
    wanted: dict[str, Sequence[str]] = {}
    for axis, *choices in options.vary:
        if not choices:
            raise UsageError(f"--vary {axis}: name at least one choice")
        if axis in wanted:
            raise UsageError(f"--vary {axis} is given twice; name all its choices after one")
        wanted[axis] = choices
    stage = vary(stage, wanted)
    try:
        seeds = [seed for text in options.seeds for seed in seed_range(text)]
    except ValueError as error:
        raise UsageError(f"--seeds: {error}") from None
    return with_seeds(stage, seeds) if seeds else stage


def _additions(options: Namespace) -> Additions:
    words = ["--results", options.results] if options.results else []
    if options.max_time is not None:
        try:
            duration(options.max_time)
        except ValueError as error:
            raise UsageError(f"--max-time: {error}") from None
        words += ["--max-time", options.max_time]
    return Additions(options.additional_configs, options.set, words)


def _with_logs(plan: Plan, standings: Mapping[str, Standing]) -> dict[str, Standing]:
    """Of those that go on, what they said last."""
    return {
        run.id: Standing("running", last_line(log_path(run.folder)))
        if standings[run.id].state == "running"
        else standings[run.id]
        for run in plan.runs
    }


def _is_due(standing: Standing, retry_failed: bool) -> bool:
    return standing.state in ("to do", "running") or (retry_failed and standing.state == "failed")


def _carry_out(
    options: Namespace,
    sweep: Sweep,
    plan: Plan,
    due: Sequence[PlannedRun],
    standings: Mapping[str, Standing],
    destination: Destination,
    reports: Reports,
    console: Console,
) -> int:
    earlier = [
        Job(run, "failed", message=standings[run.id].message)
        for run in plan.runs
        if standings[run.id].state == "failed" and run not in due
    ]
    launcher = _launcher(options, len(due)) if due else LocalLauncher([{}])
    num_done = len(plan.runs) - len(due) - len(earlier)
    console.info(f"{sweep.name}: {len(plan.runs)} runs, {num_done} finished, {len(due)} to do")
    progress = display.Progress(
        console, len(plan.runs), num_done + len(earlier), launcher.num_slots
    )
    pool = Pool(launcher, due, progress, [job.run.id for job in earlier])
    pool.carry_out()
    if pool.signal_number is not None:
        console.error(f"stopped; go on with\n  {destination.command}")
        ctrl_c = pool.signal_number == signal.SIGINT
        return ExitCode.CTRL_C if ctrl_c else ExitCode.TRY_AGAIN
    ended = [job.run for job in pool.jobs if job.state == "done"]
    enrol_finished(ended, look_at_all(ended), destination, console)
    code = ExitCode.DONE
    if failed := display.failures([*earlier, *pool.jobs]):
        console.error(failed.rstrip())
        code = ExitCode.FAILED
    if earlier:
        console.error("what failed in an earlier sweep is tried again with --retry-failed")
    return _report(sweep, plan, options, reports, code)


def _launcher(options: Namespace, num_due: int) -> Launcher:
    jobs = 1 if options.jobs is None else options.jobs
    if jobs < 1 or options.per_gpu < 1:
        raise UsageError("--jobs and --per-gpu must be at least 1")
    if options.launcher == "ray":
        from experiments.sweeping.on_ray import RayLauncher

        return RayLauncher(options.address, options.jobs, options.per_gpu)
    gpus: list[str] = []
    if options.gpus is not None:
        try:
            gpus = visible_gpus(options.gpus.split(","), os.environ, torch.cuda.device_count())
        except ValueError as error:
            raise UsageError(f"--gpus: {error}") from None
        if options.jobs is not None:
            raise UsageError("--jobs and --gpus: leave --jobs out; --per-gpu says how many")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return LocalLauncher(
        make_slots(min(jobs, num_due), gpus, options.per_gpu, os.environ, cores or 1)
    )


def _report(sweep: Sweep, plan: Plan, options: Namespace, reports: Reports, code: ExitCode) -> int:
    """Make the tables of what has finished."""
    for number, text in enumerate(sweep.then):
        words = _words(text, options)
        if not {"-experiment", "--experiment"} & set(words):
            words += ["-experiment", *plan.experiments]
        words += ["--results", options.results] if options.results else []
        if number:
            write_results("\n")
        if reports.make(words) != 0 and code == ExitCode.DONE:
            code = ExitCode.FAILED
    return code
