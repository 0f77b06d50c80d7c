"""Many runs: expand a sweep file, do its runs on any engine, tabulate what finished."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from utils import cli
from utils.startup import importing, stop, until_ctrl_c

DESCRIPTION = """\
Does many runs that one file describes, here or on a cluster, and tabulates them.
examples:
  python sweep.py configs/quickstart/sweep.yaml --jobs 2
  python sweep.py configs/expA/sweep.yaml --vary data digits --seeds 0-2 --dry-run

A sweep file has main.py's config, additional_configs and set, and what varies: grid, zip, seeds.
Finished runs are skipped, runs that were cut off go on; docs/sweeps.md explains the rest.

exit codes: 0 all done, 1 a run failed, 2 usage or configuration, 75 stopped by a signal with
checkpoints (run it again), 130 Ctrl-C (the second one does not wait for checkpoints).
"""


def parser() -> cli.Parser:
    """The command line, grouped by what the options are for."""
    examples, notes = DESCRIPTION.split("\n\n", 1)
    main = cli.Parser(prog=cli.called_as("sweep.py"), description=examples, epilog=notes)
    main.add_argument("file", metavar="FILE", help="the sweep file (YAML)")
    _add_changes(main.add_argument_group("changes to the sweep"))
    _add_actions(main.add_argument_group("actions (instead of running it)"))
    _add_engine(main.add_argument_group("where and how it runs"))
    group = main.add_argument_group("output")
    cli.add_option(group, "results", metavar="DIR", help="default: $VI_RESULTS, else results/")
    cli.add_option(
        group, "db", metavar="URL", help="the database (default: $VI_DB, else SQLite there)"
    )
    cli.add_option(group, "q", "quiet", action="store_true", help="only warnings and tables")
    cli.add_option(group, "v", "verbose", action="store_true", help="say more")
    cli.add_option(group, "debug", action="store_true", help="show tracebacks")
    return main


def _add_changes(group: Any) -> None:
    cli.add_option(
        group, "seeds", metavar="SEED", nargs="*", default=[],
        help="these seeds instead, such as 0 1 or 0-4",
    )  # fmt: skip
    cli.add_option(
        group, "vary", metavar=("AXIS", "CHOICE"), nargs="+", action="append", default=[],
        help="only these choices of an axis or, where the axis is a key, these values",
    )  # fmt: skip
    cli.add_option(
        group, "additional_configs", metavar="PATH", nargs="*", action="extend", default=[],
        help="files merged over every run's",
    )  # fmt: skip
    cli.add_option(
        group, "set", metavar="KEY=VALUE", nargs="*", action="extend", default=[],
        help="values over every run's",
    )  # fmt: skip


def _add_actions(group: Any) -> None:
    actions = group.add_mutually_exclusive_group()
    cli.add_option(actions, "dry_run", action="store_true", help="list the runs, begin nothing")
    cli.add_option(
        actions, "commands", action="store_true", help="print the commands of what is to be done"
    )
    cli.add_option(actions, "status", action="store_true", help="how far each run is")


def _add_engine(group: Any) -> None:
    cli.add_option(
        group, "launcher", choices=("local", "slurm", "ray"), default="local",
        help="this machine (default), a Slurm cluster, or Ray",
    )  # fmt: skip
    cli.add_option(
        group, "jobs", metavar="N", type=int,
        help="runs side by side, each with its share of the cores (default: 1; Slurm and Ray: "
        "as many as they have room for)",
    )  # fmt: skip
    cli.add_option(group, "gpus", metavar="LIST", help="GPUs by number, such as 0,1: a run each")
    cli.add_option(
        group, "per_gpu", metavar="N", type=int, default=1, help="runs side by side on each GPU"
    )
    cli.add_option(
        group, "slurm", metavar="OPTION=VALUE", nargs="+", action="extend", default=[],
        help="options of sbatch over the file's, such as time=4:00:00 partition=gpu",
    )  # fmt: skip
    cli.add_option(
        group, "address", help="of a Ray cluster (default: $RAY_ADDRESS, else one is started here)"
    )
    cli.add_option(
        group, "retry_failed", action="store_true", help="also runs that failed or diverged before"
    )
    cli.add_option(
        group, "max_time", metavar="TIME",
        help="after 55m, 1h30m or so each try writes a checkpoint and goes back to the queue",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, plan, act; what went wrong becomes a message and an exit code."""
    options: Namespace = cli.parse(parser(), arguments)
    with importing("sweep.py", options.debug):
        import plot_from_db
        from experiments.sweeping import app

    def takes(words: Sequence[str]) -> bool:
        try:
            cli.parse(plot_from_db.build_parser(), words)
        except SystemExit:  # it has said why
            return False
        return True

    given = sys.argv[1:] if arguments is None else arguments
    command = [*cli.called_as("sweep.py").split(), *given]
    return app.run(options, command, app.Reports(takes, plot_from_db.main))


def program() -> int:
    """The whole program: until runs begin, nothing is to be saved when a signal comes."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    return until_ctrl_c(main)


if __name__ == "__main__":
    sys.exit(program())
