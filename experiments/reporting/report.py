"""One static page about some experiments: what was run, bounds, gaps, curves, images, settings.

Nothing in it needs a network or a script: pictures stand in it as SVG or base64, folded parts are
HTML's own. What people named is escaped by jinja2.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.reporting import (
    ReportError,
    curves,
    gap_estimates,
    gap_figures,
    gap_table,
    gaps,
    queries,
    reliability,
    run_list,
    summary,
)
from experiments.reporting.curves import COLOURS, PANEL_HEIGHT, PANEL_WIDTH
from experiments.reporting.labels import configuration_labels
from experiments.reporting.tables import Table, to_csv
from utils.config.sources import block
from utils.results.database import ResultsDatabase

PAGE = Path(__file__).with_name("report.html")
ENDED_BADLY = ("failed", "diverged", "interrupted")
MOST_PANELS = 8  # of scatter plots, so that the page stays a page
MOST_IMAGES = 12
LARGEST_IMAGE = 2_000_000  # bytes


T = TypeVar("T")


class Picture(NamedTuple):
    """A picture as a data URL, and what it shows."""

    url: str
    label: str


@dataclass(frozen=True)
class Section:
    """A part of the page: a table, pictures, or a word on why there are none."""

    title: str
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    note: str = ""
    csv: str = ""
    """Of the exact numbers, for programs."""

    @property
    def common(self) -> str:
        """What all rows of the table have in common, so that it need not stand in each."""
        return (
            ""
            if self.table is None
            else ", ".join(
                f"{self.table.headings[place].label} {self.table.rows[0][place].text()}"
                for place in sorted(_alike(self.table))
            )
        )

    @property
    def differing(self) -> Table | None:
        """The other columns."""
        if self.table is None:
            return None
        left_out = _alike(self.table)

        def kept(items: Sequence[T]) -> list[T]:
            return [item for place, item in enumerate(items) if place not in left_out]

        return replace(
            self.table, headings=kept(self.table.headings), rows=list(map(kept, self.table.rows))
        )


def _alike(table: Table) -> set[int]:
    """The places of the columns of words in which all rows say the same."""
    return {
        place
        for place, heading in enumerate(table.headings)
        if not heading.is_number and len({row[place].text() for row in table.rows}) == 1
    }


def report(database: ResultsDatabase, experiments: Sequence[str]) -> str:
    """The page as HTML, of all or the given experiments. Raises ReportError for none."""
    runs = queries.load_runs(database, experiments)
    done = runs[runs["status"] == "finished"]
    sections = [
        _section("Estimates", lambda: _estimates(database, done)),
        _section("Gaps", lambda: _gaps(database, done)),
        _section("Learning curves", lambda: _curves(database, done)),
        _section("Images", lambda: _images(done)),
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["csv_url"] = lambda text: _data_url("text/csv", text.encode())
    now = datetime.now(UTC)
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        title=", ".join(dict.fromkeys(runs["experiment"])),
        made=f"{now:%Y-%m-%d %H:%M} UTC",
        runs=run_list.run_table(runs, now),
        failures=runs[runs["status"].isin(ENDED_BADLY)].to_dict("records"),
        data=_data(runs),
        sections=sections,
        differences=_differences(runs),
        configurations=_configurations(runs),
    )


def _section(title: str, make: Callable[[], Section]) -> Section:
    try:
        return make()
    except ReportError as error:
        return Section(title, note=str(error))


def _estimates(database: ResultsDatabase, runs: pd.DataFrame) -> Section:
    names = [*summary.BOUNDS, *reliability.ABOUT, *reliability.MARKED]
    estimates = queries.of_posteriors(queries.load_estimates(database, runs, sorted({*names})))
    present = summary.default_names(sorted(set(estimates["name"])))
    if estimates.empty or not set(present) & set(summary.BOUNDS):
        raise ReportError("There are no estimates of finished runs.")
    table = summary.estimate_table(estimates, runs, present)
    exact = summary.estimate_table(estimates, runs, present, with_hash=True)
    return Section("Estimates", table, csv=to_csv(exact))


def _gaps(database: ResultsDatabase, runs: pd.DataFrame) -> Section:
    estimates = gap_estimates.load(database, runs)
    measured = gaps.measure(estimates, runs)
    runs = runs[runs["id"].isin([entry.run for entry in measured])]
    lines = gap_table.summarise(measured, runs, 2)
    boundless = gap_estimates.without_bound(estimates)
    table, exact = (
        gap_table.gap_table(lines, runs, boundless, with_hash=with_hash)
        for with_hash in (False, True)
    )
    try:
        bars = [_svg(gap_figures.bar_figure(lines), "gaps, stacked")]
    except ReportError as error:
        return Section("Gaps", table, note=str(error), csv=to_csv(exact))
    data = _svg(_data_figure(measured, runs), "bounds and gaps, datum by datum")
    return Section("Gaps", table, [*bars, data], csv=to_csv(exact))


def _data_figure(measured: Sequence[gaps.Measured], runs: pd.DataFrame) -> Figure:
    """Datum by datum: L[q] and L[q*] against log p(x), and the histogram of both gaps."""
    shown = [entry for entry in measured if gaps.AMORTISATION in entry.values][:MOST_PANELS]
    described = runs.set_index("id")
    size = (2 * PANEL_WIDTH, PANEL_HEIGHT * len(shown))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for (scatter, histogram), entry in zip(axes, shown, strict=True):
        run, log_px = described.loc[entry.run], entry.log_px.values.value
        title = f"{run['posterior']}, seed {run['seed']}, {entry.split}"
        ends = [np.nanmin(entry.values["elbo"].value), np.nanmax(log_px)]
        scatter.plot(ends, ends, color="black", linewidth=0.8)
        bounds = {f"L[q*_{entry.own}]": entry.optima[str(entry.own)], "L[q]": entry.values["elbo"]}
        for (label, values), colour in zip(bounds.items(), COLOURS, strict=False):
            scatter.scatter(log_px, values.value, s=9, color=colour, label=label, alpha=0.7)
        scatter.set(title=title, xlabel="log p(x), one point a datum", ylabel="bound (nats)")
        scatter.legend(fontsize="small")
        both = {name: entry.values[name].value for name in (gaps.APPROXIMATION, gaps.AMORTISATION)}
        finite = {name: gap[np.isfinite(gap)] for name, gap in both.items()}
        bins = np.histogram_bin_edges(np.concatenate([*finite.values()]), bins=20)
        for (name, gap), colour in zip(finite.items(), COLOURS, strict=False):
            histogram.hist(gap, bins=bins, color=colour, label=name, alpha=0.6)
        histogram.set(title=title, xlabel="gap (nats)", ylabel="data")
        histogram.legend(fontsize="small")
    return figure


def _curves(database: ResultsDatabase, runs: pd.DataFrame) -> Section:
    metrics = queries.load_metrics(database, runs, ["bound"])
    metrics = metrics[metrics["phase"] == "train"]
    if metrics.empty:
        raise ReportError("No finished run has trained.")
    of = runs[runs["id"].isin(metrics["run"])]
    return Section("Learning curves", pictures=[_svg(curves.curve_figure(metrics, of), "bound")])


def _images(runs: pd.DataFrame) -> Section:
    """The image grids that runs have left in their folders."""
    pictures: list[Picture] = []
    for run in runs.to_dict("records"):
        for path in sorted(Path(run["folder"]).glob("figures/*.png")):
            if len(pictures) < MOST_IMAGES and path.stat().st_size <= LARGEST_IMAGE:
                label = f"{path.stem}: {run['posterior']}, {run['id']}"
                pictures.append(Picture(_data_url("image/png", path.read_bytes()), label))
    if not pictures:
        raise ReportError("The folders of these runs hold no images here.")
    return Section("Images", pictures=pictures)


def _data(runs: pd.DataFrame) -> list[str]:
    columns = ["dataset", "binarisation", "data_checksum"]
    return [
        f"{dataset}, binarisation {binarisation or '-'}, SHA-256 {checksum or '-'}"
        for dataset, binarisation, checksum in runs[columns]
        .drop_duplicates()
        .itertuples(index=False)
    ]


def _differences(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Each configuration, and the settings in which it differs from the others."""
    labels = configuration_labels(runs, ())
    return list(labels.items()) if len(labels) > 1 else []


def _configurations(runs: pd.DataFrame) -> list[tuple[str, str]]:
    first = runs.drop_duplicates("hash").to_dict("records")
    return [
        (
            f"{run['hash']}: {run['posterior']}, {run['loss']}, {run['dataset']}",
            block(run["config"]),
        )
        for run in first
    ]


def _svg(figure: Figure, label: str) -> Picture:
    text = io.BytesIO()
    with rc_context({"svg.hashsalt": "plumbline"}):  # the same figure gives the same bytes
        figure.savefig(text, format="svg", metadata={"Date": None})
    return Picture(_data_url("image/svg+xml", text.getvalue()), label)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
