"""Lists, tables, learning curves and images out of the results database."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.reporting import commands
from experiments.reporting.commands import say
from utils.cli import Parser, add_option, called_as, parse
from utils.results.folder import results_root
from utils.startup import importing, until_ctrl_c

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError

EXAMPLES = """\
Tables, curves, pictures and reports of finished runs.
examples:
  python plot_from_db.py table -experiment quickstart --format markdown
  python plot_from_db.py curves -experiment quickstart --output curves.png

Reads the results database. Results go to stdout, messages to stderr. Every option may be written
with one dash or two. `plot_from_db.py COMMAND --help` tells a command's options.
"""


class Command(NamedTuple):
    """A subcommand: what it says of itself, what it does, what adds its own options."""

    name: str
    summary: str
    run: Callable[[argparse.Namespace], None]
    options: tuple[Callable[[Parser], None], ...]


def _experiment(parser: Parser) -> None:
    text = "only these experiments"
    add_option(parser, "experiment", nargs="+", default=[], metavar="NAME", help=text)


def _run(parser: Parser) -> None:
    add_option(parser, "run", nargs="+", default=[], metavar="ID", help="only these runs")


def _name(parser: Parser) -> None:
    text = (
        "only these names (default: all metrics; curves: bound; table and lines: elbo and log_px)"
    )
    add_option(parser, "name", nargs="+", default=[], metavar="NAME", help=text)


def _picture(parser: Parser) -> None:
    text = "only these: samples, reconstructions, traversals, trajectories (default: all)"
    add_option(parser, "name", nargs="+", default=[], metavar="NAME", help=text)


def _one_split(parser: Parser) -> None:
    text = "of the data shown (default: test, else validation, else train)"
    add_option(parser, "split", metavar="SPLIT", help=text)


def _split(parser: Parser) -> None:
    add_option(parser, "split", nargs="+", default=[], metavar="SPLIT", help="only these splits")


def _all(parser: Parser) -> None:
    add_option(parser, "all", action="store_true", help="also runs that are not finished")


def _format(default: str) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        text = f"form of the table (default: {default})"
        choices = ("text", "markdown", "latex", "csv")
        add_option(parser, "format", choices=choices, default=default, help=text)

    return add


def _digits(parser: Parser) -> None:
    text = "decimals shown at most; the error may allow fewer (default: 2)"
    choices = range(10)
    add_option(parser, "digits", type=int, choices=choices, default=2, metavar="N", help=text)


def _units(parser: Parser) -> None:
    text = "units of bounds: nats (default), or bits per dimension of x, -log p / (D log 2)"
    add_option(parser, "units", choices=("nats", "bits"), default="nats", help=text)


def _axes(parser: Parser) -> None:
    text = "what stands in the rows: labels of a sweep, or posterior, loss, dataset, ..."
    add_option(parser, "rows", nargs="+", default=[], metavar="AXIS", help=text)
    text = (
        "what stands across, such as 'data set', or 'bound' for each quantity; the best of each "
        "column is in bold (LaTeX)"
    )
    add_option(parser, "columns", nargs="+", default=[], metavar="AXIS", help=text)


def _against(parser: Parser) -> None:
    text = (
        "show differences from the run with these values on the same data (and of the same "
        "column) with the same seed, such as posterior=gaussian loss=elbo"
    )
    add_option(parser, "against", nargs="+", default=[], metavar="AXIS=VALUE", help=text)


def _lines(parser: Parser) -> None:
    text = "the label of a sweep, or column, whose numbers stand along the figure's x-axis"
    add_option(parser, "across", required=True, metavar="AXIS", help=text)
    text = "a line for each value of these (default: posterior); one of a single point is level"
    add_option(parser, "lines", nargs="+", default=[], metavar="AXIS", help=text)
    text = "of the x-axis (default: linear)"
    add_option(parser, "scale", choices=("linear", "log"), default="linear", help=text)


def _log_px(parser: Parser) -> None:
    text = (
        "log p(x) of each datum from its estimates: combined, an average without selection on "
        "noise (the default), or max, the largest, as in the papers"
    )
    choices = ("combined", "max")
    add_option(parser, "log_px", choices=choices, default="combined", help=text)


def _output(parser: Parser) -> None:
    add_option(parser, "output", type=Path, metavar="FILE", help="write here, not to stdout")


def _figure(parser: Parser) -> None:
    text = "where to write the figure: .png, .pdf or .svg"
    add_option(parser, "output", type=Path, required=True, metavar="FILE", help=text)


def _page(parser: Parser) -> None:
    text = "where to write the page: .html"
    add_option(parser, "output", type=Path, required=True, metavar="FILE", help=text)


def _also_figure(parser: Parser) -> None:
    text = "also draw the gaps into this file: .png, .pdf or .svg"
    add_option(parser, "figure", type=Path, metavar="FILE", help=text)


def _over_training(parser: Parser) -> None:
    text = (
        "only runs that measure a kept epoch of another run (initialise.weights); a row an epoch"
    )
    add_option(parser, "over_training", action="store_true", help=text)


def _destination(parser: Parser) -> None:
    group = parser.add_argument_group("where the results are")
    text = "the results folder (default: $VI_RESULTS, else results)"
    add_option(group, "results", metavar="DIR", help=text)
    text = (
        "the database, an SQLAlchemy URL (default: $VI_DB, else results.sqlite in the results "
        "folder); leave a password out of it and set $PGPASSWORD or ~/.pgpass for PostgreSQL"
    )
    add_option(group, "db", metavar="URL", help=text)


COMMANDS = (
    Command("runs", "list the runs", commands.list_runs, (_experiment, _format("text"), _output)),
    Command(
        "metrics",
        "export metrics as CSV",
        commands.export_metrics,
        (_experiment, _run, _name, _split, _output),
    ),
    Command(
        "curves",
        "draw learning curves, mean ± standard error over seeds",
        commands.draw_curves,
        (_experiment, _name, _split, _all, _figure),
    ),
    Command(
        "units",
        "draw the KL of each dimension of z, sorted: which of them are used",
        commands.draw_units,
        (_experiment, _run, _split, _all, _figure),
    ),
    Command(
        "table",
        "tabulate estimates: means over data and seeds, with their errors",
        commands.make_table,
        (
            *(_experiment, _name, _split, _all, _axes, _against, _units, _digits),
            *(_format("markdown"), _output),
        ),
    ),
    Command(
        "lines",
        "draw estimates against a number that a sweep varies",
        commands.draw_lines,
        (_experiment, _name, _split, _all, _lines, _against, _units, _figure),
    ),
    Command(
        "gaps",
        "tabulate inference gaps, and draw them: approximation and amortisation",
        commands.tabulate_gaps,
        (
            *(_experiment, _split, _all, _over_training, _log_px, _digits),
            *(_format("markdown"), _output, _also_figure),
        ),
    ),
    Command(
        "report",
        "write one page about experiments: runs, bounds, gaps, curves, images, settings",
        commands.write_report,
        (_experiment, _page),
    ),
    Command(
        "images",
        "show samples, reconstructions and ways through the latent space, runs side by side",
        commands.show_images,
        (_experiment, _run, _picture, _one_split, _all, _figure),
    ),
    Command("rebuild", "make the database out of the run folders", commands.rebuild, ()),
)


def build_parser() -> Parser:
    """The command line."""
    usage = "%(prog)s COMMAND [options]"
    parser = Parser(prog=called_as("plot_from_db.py"), usage=usage, description=EXAMPLES)
    children = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog=parser.prog
    )
    for command in COMMANDS:
        child = children.add_parser(
            command.name, help=command.summary, description=command.summary
        )
        for add in (*command.options, _destination):
            add(child)
        child.set_defaults(run_command=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 usage or nothing to show."""
    arguments = parse(build_parser(), argv)
    with importing("plot_from_db.py"):
        from sqlalchemy.exc import SQLAlchemyError

        from experiments.reporting import ReportError
        from utils.results.database import DatabaseError, database_url, first_line, masked

    try:
        _check_files(arguments)
        with ExitStack() as arguments.opened:
            arguments.run_command(arguments)
    except (ReportError, DatabaseError) as error:
        say(f"plot_from_db.py: error: {error}")
        return 2
    except SQLAlchemyError as error:
        name = masked(database_url(results_root(arguments.results), arguments.db))
        say(f"plot_from_db.py: error: {name}: {first_line(error)}{_remedy(error)}")
        return 1
    except OSError as error:
        say(f"plot_from_db.py: error: {error}")
        return 1
    return 0


def _remedy(error: SQLAlchemyError) -> str:
    from sqlalchemy.exc import DBAPIError

    from utils.results.database import is_damage

    damaged = isinstance(error, DBAPIError) and is_damage(error)
    return "; `python plot_from_db.py rebuild` makes it anew" if damaged else ""


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise ReportError when a file that is to be written cannot be: before any work is done."""
    from experiments.reporting import ReportError

    for option in ("output", "figure"):
        path: Path | None = getattr(arguments, option, None)
        if path is None:
            continue
        if not path.parent.is_dir():
            raise ReportError(f"--{option} {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise ReportError(f"--{option} {path} is a folder; name a file in it")


def program() -> int:
    """The whole program."""
    return until_ctrl_c(main)


if __name__ == "__main__":
    sys.exit(program())
