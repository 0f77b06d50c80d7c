"""Run one experiment: merge configurations, train, estimate, store.

The heavy imports wait until they are needed, so that --help answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from utils import cli
from utils.startup import importing, stop, until_ctrl_c

DESCRIPTION = """\
Does one run: trains a model with its posterior, measures bounds and gaps, stores all in results/.
examples:
  python main.py -config configs/quickstart/base.yaml
  python main.py -config configs/mnist_ffg/base.yaml -set training.epochs=100 seed=3 --dry-run

precedence: defaults < -config < -additional_configs, left to right < -set, left to right;
mappings merge, scalars and lists replace, a component whose name changes is replaced whole.

exit codes: 0 done or already finished, 1 failed, 2 usage or configuration, 3 data missing or
damaged, 4 diverged, 75 stopped by a signal or --max-time with a checkpoint, or busy elsewhere
(run it again), 130 Ctrl-C.
"""


def parser() -> cli.Parser:
    """The command line, grouped by what the options are for."""
    examples, notes = DESCRIPTION.split("\n\n", 1)
    main = cli.Parser(prog=cli.called_as("main.py"), description=examples, epilog=notes)
    group = main.add_argument_group("configuration")
    cli.add_option(group, "config", metavar="FILE", help="base configuration (YAML)")
    cli.add_option(
        group, "additional_configs", metavar="PATH", nargs="+", action="extend", default=[],
        help="files merged over it; a folder stands for its *.yaml by name",
    )  # fmt: skip
    cli.add_option(
        group, "set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
        help="single values, such as training.epochs=10 posterior.name=planar; name an element of "
        "a list as in evaluation.estimators[0].num_samples=100, append as in "
        "evaluation.splits+=[train]",
    )  # fmt: skip
    cli.add_option(
        group, "plugin", metavar="FILE", nargs="+", action="extend", default=[],
        help="Python files that register components of your own (in YAML: plugins: [FILE])",
    )  # fmt: skip
    group = main.add_argument_group("actions (instead of a run)").add_mutually_exclusive_group()
    cli.add_option(
        group, "dry_run", action="store_true", help="print the merged configuration, run nothing"
    )
    cli.add_option(
        group,
        "list",
        metavar="WHAT",
        nargs="?",
        const="",
        help="print what can be named in a configuration; with the name of a registry its "
        "components with their options, of a section (run, training, evaluation, ...) its keys",
    )
    cli.add_option(group, "download", metavar="DATASET", help="fetch and check a data set")
    group = main.add_argument_group("run control")
    cli.add_option(
        group, "resume", choices=("auto", "never"), default="auto",
        help="auto: skip what is finished, resume what was cut off; never: begin anew, and keep "
        "the old run under results/replaced (default: auto)",
    )  # fmt: skip
    cli.add_option(
        group, "max_time", metavar="TIME",
        help="after 55m, 1h30m or so write a checkpoint and end with exit code 75",
    )  # fmt: skip
    cli.add_option(
        group, "device", metavar="DEVICE",
        help="auto, cpu, cuda or cuda:1; short for -set runtime.device=...",
    )  # fmt: skip
    group = main.add_argument_group("output")
    cli.add_option(group, "results", metavar="DIR", help="default: $VI_RESULTS, else results/")
    cli.add_option(
        group, "db", metavar="URL",
        help="the database, an SQLAlchemy URL (default: $VI_DB, else SQLite in the results "
        "folder); leave a password out of it and set $PGPASSWORD or ~/.pgpass for PostgreSQL",
    )  # fmt: skip
    cli.add_option(group, "q", "quiet", action="store_true", help="only warnings and results")
    cli.add_option(group, "v", "verbose", action="store_true", help="print more messages")
    cli.add_option(group, "debug", action="store_true", help="show tracebacks")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, act, and translate what went wrong into a message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = cli.parse(parser(), arguments)
    command = [*cli.called_as("main.py").split(), *arguments]
    with importing("main.py", options.debug):
        from experiments.runner import recognition
    if recognition.skip_finished(options, command):
        return 0
    with importing("main.py", options.debug):
        from experiments.runner import app

    return app.run(options, command)


def program() -> int:
    """The whole program: until a run begins, nothing is to be saved when a signal comes."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    return until_ctrl_c(main)


if __name__ == "__main__":
    sys.exit(program())
