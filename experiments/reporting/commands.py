"""What the commands of plot_from_db.py do: rows of the results database in, text or a figure out.

Each takes the parsed options; ``opened`` among them closes the database in the end. Results go to
stdout or a file, messages to stderr. Raised are ReportError and DatabaseError, for what one can
ask differently, SQLAlchemyError and OSError.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import write_results
from utils.results.folder import results_root

if TYPE_CHECKING:
    from pandas import DataFrame

    from utils.results.database import ResultsDatabase

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
    say(f"wrote {arguments.output}")


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
    say(f"wrote {arguments.output}")


def make_table(arguments: argparse.Namespace) -> None:
    """Print estimates: means over data and seeds."""
    from experiments.reporting import pivot, queries, reliability, summary, tables

    database = _database(arguments)
    runs, estimates, names, left_out = _estimates(arguments, database)
    for_programs = arguments.format == "csv"
    how = {"digits": arguments.digits, "units": arguments.units}
    estimates, said = _against(arguments, database, runs, estimates)
    if arguments.rows or arguments.columns:
        labels = queries.load_labels(database, runs)
        axes = pivot.Axes(arguments.rows or ["posterior"], arguments.columns or ["dataset"])
        placed = pivot.place(estimates, runs, labels, names, axes, **how)
        table = pivot.pivot_table(placed, axes)
    else:
        table = summary.estimate_table(estimates, runs, names, with_hash=for_programs, **how)
    table = replace(table, caption=(*said, *table.caption))
    _write(tables.FORMATS[arguments.format](table), arguments.output)
    if for_programs:
        say("\n".join(table.caption))
    inner = ("reliable", *reliability.HALVES, *reliability.RELIABLE_HALVES)
    if left_out := sorted(set(left_out) - set(inner)):
        say(f"not shown: {', '.join(left_out)} (-name)")


def draw_lines(arguments: argparse.Namespace) -> None:
    """Write a figure of estimates against a number that a sweep varies."""
    from experiments.reporting import curves, lines, pivot, queries

    curves.check_suffix(arguments.output)
    database = _database(arguments)
    runs, estimates, names, _ = _estimates(arguments, database)
    estimates, said = _against(arguments, database, runs, estimates)
    axes = pivot.Axes(arguments.lines or ["posterior"], [arguments.across], "--lines or --across")
    labels = queries.load_labels(database, runs)
    placed = pivot.place(estimates, runs, labels, names, axes, units=arguments.units)
    figure = lines.line_figure(placed, axes, arguments.scale, arguments.units)
    curves.save_figure(figure, arguments.output)
    say("\n".join((*said, *placed.notes, f"wrote {arguments.output}")))


def _against(
    arguments: argparse.Namespace, database: ResultsDatabase, runs: DataFrame, estimates: DataFrame
) -> tuple[DataFrame, list[str]]:
    """The estimates, or their differences where these are asked for, and what to say of that."""
    from experiments.reporting import differences, pivot, queries

    if not arguments.against:
        return estimates, []
    labels = queries.load_labels(database, runs)
    within = [axis for axis in getattr(arguments, "columns", ()) if axis != pivot.BOUND]
    return differences.against(estimates, runs, labels, arguments.against, within)


def _estimates(
    arguments: argparse.Namespace, database: ResultsDatabase
) -> tuple[DataFrame, DataFrame, list[str], list[str]]:
    """The runs chosen, their estimates, the names chosen, and those that there are beside them."""
    from experiments.reporting import queries, reliability, summary

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
    return runs, estimates, names, [name for name in present if name not in names]


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
        say("\n".join(table.caption))
    if arguments.figure is not None:
        draw = gap_figures.training_figure if arguments.over_training else gap_figures.bar_figure
        curves.save_figure(draw(lines), arguments.figure)
        say(f"wrote {arguments.figure}")


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
    say(f"wrote {arguments.output}")


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
        say(f"what was there is not a sound results database; it is kept as {aside}")
    rebuilt = database.rebuild(root)
    for reason in rebuilt.skipped:
        say(f"skipped: {reason}")
    if rebuilt.skipped:
        say(
            "of what was skipped the database keeps what it has: put back good copies of the "
            "files, or do the runs again with `--resume never`"
        )
    say(f"{len(rebuilt.imported)} runs from {root / 'runs'} are in {database.name}")


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
        say(f"wrote {output}")


def say(message: str) -> None:
    """Print a message, to stderr: stdout is for results."""
    print(message, file=sys.stderr)
