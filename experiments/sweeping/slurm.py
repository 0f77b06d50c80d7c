"""A sweep as arrays of Slurm: scripts that people can read and edit, and their submission."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.runner.app import ExitCode, UsageError
from experiments.sweeping.local import PROGRAM
from experiments.sweeping.planning import PlannedRun
from experiments.sweeping.sweep_file import Sweep
from utils.console import Console
from utils.results.records import stamp

DEFAULTS: Mapping[str, str] = {"signal": "B:USR1@90", "open-mode": "append"}
"""Options of sbatch: 90 seconds before its time is over a run is asked for a checkpoint."""

FUNCTIONS = """\
# A node that does not see this folder does not see the results either, and would write its own.
if [ ! -e "$SWEEP" ]; then
    echo "$(hostname) does not see $SWEEP: results must lie where all nodes see them" >&2
    exit 2
fi

# run ID COMMAND ...: one run, its output at the end of its log, signals passed on to it.
run() {
    local log="$RUNS/$1/run.log"
    shift
    mkdir -p "$(dirname "$log")"
    printf '# %s %s (job %s)\\n' "$(date -u +%FT%TZ)" "$*" "${SLURM_JOB_ID:-}" >>"$log"
    child=
    trap 'kill -USR1 "$child" 2>/dev/null' USR1
    trap 'kill -TERM "$child" 2>/dev/null' TERM
    "$@" >>"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        wait "$child" || : # a signal ends this, not the run
    done
    code=0
    wait "$child" || code=$?
}

# 75 means: stopped with a checkpoint, or busy elsewhere. Slurm requeues it by itself where the
# administrator has said so (RequeueExit), and is asked to where not.
finish() {
    if [ "$code" = 75 ] && ! scontrol show config | grep -Eq '^RequeueExit .*\\b75\\b'; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    fi
    exit "$code"
}
"""


def submit(
    sweep: Sweep,
    due: Sequence[PlannedRun],
    jobs: int | None,
    given: Sequence[str],
    root: Path,
    console: Console,
) -> ExitCode:
    """Write the scripts into ``root/sweeps`` and hand them to sbatch.

    Runs that start from the weights of others are an array of their own, which waits for theirs.
    ``given`` are options of sbatch, ``time=1:00:00``; ``jobs`` is how many go on at once. Raises
    UsageError where there is no sbatch or it refuses.
    """
    if not due:
        console.info(f"{sweep.name}: nothing is to be done")
        return ExitCode.DONE
    for program in ("sbatch", "scontrol"):
        if shutil.which(program) is None:
            raise UsageError(
                f"--launcher slurm needs {program}, which is not in the PATH: it belongs to a "
                "cluster's login node (Debian: apt install slurm-client); --launcher local runs "
                "the sweep here, --commands prints its commands for any other queue"
            )
    options = {**DEFAULTS, **sweep.slurm, **_parsed(given)}
    folder = (root / "sweeps" / f"{sweep.name}-{stamp()}").resolve()
    folder.mkdir(parents=True)
    before: str | None = None
    for number, runs in enumerate(_levels(due)):
        path = folder / f"array-{number}.sh"
        path.write_text(script(sweep.name, runs, jobs, options, folder, root), encoding="utf-8")
        before = _sbatch(path, before)
        console.info(f"job {before}: {len(runs)} runs, {path}")
    console.info("`sweep.py FILE --status` says how far they are, `squeue` what Slurm does")
    return ExitCode.DONE


def script(
    name: str,
    runs: Sequence[PlannedRun],
    jobs: int | None,
    options: Mapping[str, str | int],
    folder: Path,
    root: Path,
) -> str:
    """The array's script: one case a run."""
    at_once = "" if jobs is None else f"%{jobs}"
    directives = {
        "job-name": shlex.quote(name),
        "array": f"0-{len(runs) - 1}{at_once}",
        "output": shlex.quote(f"{folder}/%A_%a.out"),
        **options,
    }
    cases = []
    for number, run in enumerate(runs):
        words = shlex.join([run.id, *PROGRAM, *run.arguments])
        cases += [f"{number}) # {run.label}", f"    run {words} ;;"]
    lines = [
        "#!/usr/bin/env bash",
        f"# The sweep {name} as an array of Slurm, written by sweep.py. It may be edited, and",
        "# submitted by `sbatch` again: finished runs are skipped, others go on.",
        *(f"#SBATCH --{key}={value}" for key, value in directives.items()),
        "set -u",
        f"SWEEP={shlex.quote(str(folder))}",
        f"RUNS={shlex.quote(str((root / 'runs').resolve()))}",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 2",
        "",
        FUNCTIONS,
        'case "$SLURM_ARRAY_TASK_ID" in',
        *cases,
        "esac",
        "finish",
    ]
    return "\n".join(lines) + "\n"


def _levels(due: Sequence[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """The runs that wait for none of the others, then those that wait for these, and so on."""
    rest = list(due)
    while rest:
        ids = {run.id for run in rest}
        ready = [run for run in rest if run.parent not in ids]
        yield ready
        rest = [run for run in rest if run.parent in ids]


def _parsed(given: Sequence[str]) -> dict[str, str]:
    options = {}
    for text in given:
        name, equals, value = text.removeprefix("--").partition("=")
        if not equals or not name.replace("-", "").isalnum() or not value.isprintable():
            raise UsageError(f"--slurm {text}: write an option of sbatch as time=1:00:00")
        options[name] = value
    return options


def _sbatch(path: Path, before: str | None) -> str:
    """Submit a script; returns the job's number."""
    command = ["sbatch", "--parsable"]
    command += [] if before is None else [f"--dependency=afterany:{before}"]
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UsageError(f"sbatch refuses {path}: {''.join(reason)}")
    return done.stdout.strip().split(";")[0]
