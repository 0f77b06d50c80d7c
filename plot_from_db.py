"""Lists, tables, learning curves and images out of the results database."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.cli import Parser, add_option, parse, write_results
from utils.results.folder import results_root
from utils.startup import importing

if TYPE_CHECKING:
    from pandas import DataFrame
    from sqlalchemy.exc import SQLAlchemyError

    from utils.results.database import ResultsDatabase

EXAMPLES = """\
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


# pandas, matplotlib and SQLAlchemy are imported where they are used, so that help answers at once.


def list_runs(arguments: argparse.Namespace) -> None:
    """Print one line a run."""
    from datetime import UTC, datetime

    from experiments.reporting import queries, run_list, tables

    runs = queries.load_runs(_database(arguments), arguments.experiment)
    table = run_list.run_table(runs, datetime.now(UTC))
    _write(tables.FORMATS[arguments.format](table), arguments.output)


def export_metrics(arguments: argparse.Namespace) -> None:
    """Print metrics as CSV."""
    from experiments.reporting import queries

    database = _database(arguments)
    runs = queries.load_runs(database, arguments.experiment)
    runs = queries.choose(runs, "id", arguments.run)
    metrics = queries.load_metrics(database, runs, arguments.name)
    metrics = queries.choose(metrics, "split", arguments.split)
    described = runs[["id", "experiment", "hash", "seed", "posterior", "loss", "status"]]
    frame = described.rename(columns={"id": "run"}).merge(metrics, on="run")
    _write(frame.to_csv(index=False, na_rep="nan", lineterminator="\n"), arguments.output)


def draw_curves(arguments: argparse.Namespace) -> None:
    """Write a figure of metrics over epochs."""
    from experiments.reporting import curves, queries

    curves.check_suffix(arguments.output)
    database = _database(arguments)
    runs = queries.load_runs(database, arguments.experiment)
    runs = runs if arguments.all else queries.finished(runs)
    metrics = queries.load_metrics(database, runs, arguments.name or ["bound"])
    metrics = queries.choose(metrics, "split", arguments.split)
    curves.save_figure(curves.curve_figure(metrics, runs), arguments.output)
    _say(f"wrote {arguments.output}")


def draw_units(arguments: argparse.Namespace) -> None:
    """Write a figure of the KL of each dimension of z."""
    from experiments.reporting import curves, queries, units

    curves.check_suffix(arguments.output)
    database = _database(arguments)
    runs = queries.load_runs(database, arguments.experiment)
    runs = queries.choose(runs, "id", arguments.run)
    runs = runs if arguments.all else queries.finished(runs)
    estimates = queries.load_estimates(database, runs, [units.KL])
    estimates = queries.choose(estimates, "split", arguments.split)
    runs = runs[runs["id"].isin(estimates["run"])]
    curves.save_figure(units.unit_figure(estimates, runs), arguments.output)
    _say(f"wrote {arguments.output}")


def make_table(arguments: argparse.Namespace) -> None:
    """Print estimates: means over data and seeds."""
    from experiments.reporting import pivot, queries, reliability, summary, tables

    database = _database(arguments)
    runs = queries.load_runs(database, arguments.experiment)
    runs = runs if arguments.all else queries.finished(runs)

    def chosen(estimates: DataFrame) -> DataFrame:
        if arguments.split:
            return queries.choose(estimates, "split", arguments.split)
        return queries.of_posteriors(estimates)

    present = sorted(set(chosen(queries.estimate_names(database, runs))["name"]))
    names = arguments.name or summary.default_names(present)
    queries.check_choice("name", names, present)
    needed = {*names, *reliability.ABOUT, *reliability.MARKED}
    estimates = chosen(queries.load_estimates(database, runs, sorted(needed)))
    for_programs = arguments.format == "csv"
    how = {"digits": arguments.digits, "units": arguments.units}
    if arguments.rows or arguments.columns:
        labels = queries.load_labels(database, runs)
        axes = pivot.Axes(arguments.rows or ["posterior"], arguments.columns or ["dataset"])
        table = pivot.pivot_table(estimates, runs, labels, names, axes, **how)
    else:
        table = summary.estimate_table(estimates, runs, names, with_hash=for_programs, **how)
    _write(tables.FORMATS[arguments.format](table), arguments.output)
    if for_programs:
        _say("\n".join(table.caption))
    inner = ("reliable", *reliability.HALVES, *reliability.RELIABLE_HALVES)
    if left_out := sorted(set(present) - {*names, *inner}):
        _say(f"not shown: {', '.join(left_out)} (-name)")


def tabulate_gaps(arguments: argparse.Namespace) -> None:
    """Print inference gaps and what they are made of; draw them where a figure is wanted."""
    from experiments.reporting import (
        curves,
        gap_estimates,
        gap_figures,
        gap_table,
        gaps,
        queries,
        tables,
    )

    if arguments.figure is not None:
        curves.check_suffix(arguments.figure)
    database = _database(arguments)
    runs = queries.load_runs(database, arguments.experiment)
    runs = runs if arguments.all else queries.finished(runs)
    runs = gap_estimates.over_training(runs) if arguments.over_training else runs
    estimates = gap_estimates.load(database, runs)
    measured = gaps.measure(estimates, runs, convention=arguments.log_px, splits=arguments.split)
    runs = runs[runs["id"].isin([entry.run for entry in measured])]
    lines = gap_table.summarise(measured, runs, arguments.digits)
    for_programs = arguments.format == "csv"
    boundless = gap_estimates.without_bound(estimates)
    table = gap_table.gap_table(lines, runs, boundless, with_hash=for_programs)
    _write(tables.FORMATS[arguments.format](table), arguments.output)
    if for_programs:
        _say("\n".join(table.caption))
    if arguments.figure is not None:
        draw = gap_figures.training_figure if arguments.over_training else gap_figures.bar_figure
        curves.save_figure(draw(lines), arguments.figure)
        _say(f"wrote {arguments.figure}")


def write_report(arguments: argparse.Namespace) -> None:
    """Write one page of HTML about some experiments."""
    from experiments.reporting import ReportError
    from experiments.reporting.report import report

    if arguments.output.suffix.lower() not in (".html", ".htm"):
        raise ReportError(f"--output {arguments.output}: a report is HTML; name it .html")
    _write(report(_database(arguments), arguments.experiment), arguments.output)


def show_images(arguments: argparse.Namespace) -> None:
    """Write a figure of what the models of some runs make, side by side."""
    from experiments.reporting import curves, images, queries

    curves.check_suffix(arguments.output)
    root = results_root(arguments.results)
    runs = queries.load_runs(_database(arguments), arguments.experiment)
    wanted = [Path(name).name for name in arguments.run]  # its folder will do, too
    runs = queries.choose(runs, "id", wanted)
    runs = runs if arguments.all else queries.finished(runs)
    kinds = arguments.name or list(images.KINDS)
    queries.check_choice("picture", kinds, list(images.KINDS))
    figure = images.draw(runs, root, kinds, arguments.split)
    curves.save_figure(figure, arguments.output)
    _say(f"wrote {arguments.output}")


def rebuild(arguments: argparse.Namespace) -> None:
    """Make the database out of the run folders."""
    from utils.results.database import DatabaseError, database_url
    from utils.results.rebuilding import database_for_rebuilding

    root = results_root(arguments.results)
    if not (root / "runs").is_dir():
        raise DatabaseError(f"there are no run folders in {root / 'runs'}")
    database, aside = database_for_rebuilding(database_url(root, arguments.db))
    arguments.opened.callback(database.close)
    if aside is not None:
        _say(f"what was there is not a sound results database; it is kept as {aside}")
    rebuilt = database.rebuild(root)
    for reason in rebuilt.skipped:
        _say(f"skipped: {reason}")
    if rebuilt.skipped:
        _say(
            "of what was skipped the database keeps what it has: put back good copies of the "
            "files, or do the runs again with `--resume never`"
        )
    _say(f"{len(rebuilt.imported)} runs from {root / 'runs'} are in {database.name}")


def _experiment(parser: Parser) -> None:
    text = "only these experiments"
    add_option(parser, "experiment", nargs="+", default=[], metavar="NAME", help=text)


def _run(parser: Parser) -> None:
    add_option(parser, "run", nargs="+", default=[], metavar="ID", help="only these runs")


def _name(parser: Parser) -> None:
    text = "only these names (default: all metrics; curves: bound; table: elbo and log_px)"
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
    text = "what stands across, such as 'data set'; the best of each column is in bold (LaTeX)"
    add_option(parser, "columns", nargs="+", default=[], metavar="AXIS", help=text)


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
    Command("runs", "list the runs", list_runs, (_experiment, _format("text"), _output)),
    Command(
        "metrics",
        "export metrics as CSV",
        export_metrics,
        (_experiment, _run, _name, _split, _output),
    ),
    Command(
        "curves",
        "draw learning curves, mean ± standard error over seeds",
        draw_curves,
        (_experiment, _name, _split, _all, _figure),
    ),
    Command(
        "units",
        "draw the KL of each dimension of z, sorted: which of them are used",
        draw_units,
        (_experiment, _run, _split, _all, _figure),
    ),
    Command(
        "table",
        "tabulate estimates: means over data and seeds, with their errors",
        make_table,
        (
            *(_experiment, _name, _split, _all, _axes, _units, _digits),
            *(_format("markdown"), _output),
        ),
    ),
    Command(
        "gaps",
        "tabulate inference gaps, and draw them: approximation and amortisation",
        tabulate_gaps,
        (
            *(_experiment, _split, _all, _over_training, _log_px, _digits),
            *(_format("markdown"), _output, _also_figure),
        ),
    ),
    Command(
        "report",
        "write one page about experiments: runs, bounds, gaps, curves, images, settings",
        write_report,
        (_experiment, _page),
    ),
    Command(
        "images",
        "show samples, reconstructions and ways through the latent space, runs side by side",
        show_images,
        (_experiment, _run, _picture, _one_split, _all, _figure),
    ),
    Command("rebuild", "make the database out of the run folders", rebuild, ()),
)


def build_parser() -> Parser:
    """The command line."""
    usage = "%(prog)s COMMAND [options]"
    parser = Parser(prog="plot_from_db.py", usage=usage, description=EXAMPLES)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog=parser.prog
    )
    for command in COMMANDS:
        child = commands.add_parser(
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
        _say(f"plot_from_db.py: error: {error}")
        return 2
    except SQLAlchemyError as error:
        name = masked(database_url(results_root(arguments.results), arguments.db))
        _say(f"plot_from_db.py: error: {name}: {first_line(error)}{_remedy(error)}")
        return 1
    except OSError as error:
        _say(f"plot_from_db.py: error: {error}")
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


def _database(arguments: argparse.Namespace) -> ResultsDatabase:
    from utils.results.database import ResultsDatabase, database_url

    url = database_url(results_root(arguments.results), arguments.db)
    database: ResultsDatabase = arguments.opened.enter_context(
        closing(ResultsDatabase(url, create=False))
    )
    return database


def _write(text: str, output: Path | None) -> None:
    if output is None:
        write_results(text)
    else:
        output.write_text(text, encoding="utf-8")
        _say(f"wrote {output}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
