"""plot_from_db.py gaps: bars, and gaps over training."""

from __future__ import annotations

import statistics
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from experiments.reporting import gap_estimates
from experiments.reporting.curves import COLOURS
from experiments.reporting.gap_figures import bar_figure, training_figure
from experiments.reporting.gap_table import Line, summarise
from experiments.reporting.gaps import measure
from experiments.reporting.queries import load_runs
from tests.gap_runs import (
    AF,
    ESTIMATED,
    FFG,
    GAPS,
    OPTIMISED,
    Read,
    add_run,
    initialised,
    on,
    plot,
    settings,
    shifted,
    shown,
    table,
)
from tests.tables import over_both
from utils.results.database import ResultsDatabase, database_url


def read_lines(root: Path, *, over_training: bool = False) -> list[Line]:
    with closing(ResultsDatabase(database_url(root), create=False)) as database:
        runs = load_runs(database)
        runs = gap_estimates.over_training(runs) if over_training else runs
        estimates = gap_estimates.load(database, runs)
        return summarise(measure(estimates, runs, convention="max"), runs)


def is_drawn(figure: Path) -> bool:
    """Whether the colours of approximation and amortisation gap cover some of the figure."""
    with Image.open(figure) as image:
        colours = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
    counts = {colour: count for count, colour in colours}
    return all(counts.get(ImageColor.getrgb(colour), 0) > 50 for colour in COLOURS[:2])


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A Gaussian and a flow on two splits; one run without gaps; one with a negative gap."""
    rows = {**ESTIMATED, **OPTIMISED}
    add_run(tmp_path, "aaa", {**rows, **on("train", rows)})
    flow = {name.replace("gaussian (", "aux_real_nvp ("): v for name, v in rows.items()}
    optimum = "local_optimisation/aux_real_nvp (fast)/test/elbo"
    add_run(tmp_path, "bbb", shifted(flow, 2.5, optimum), config=settings(AF))
    add_run(tmp_path, "ccc", OPTIMISED, config=settings(model={"latent_dim": 50}))
    return tmp_path


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_bars_are_written_beside_the_table(several: Path, suffix: str, capsys: Read) -> None:
    figure = several / f"bars.{suffix}"
    assert plot(several, "--figure", str(figure)) == 0
    said = capsys.readouterr()
    assert "| approximation gap |" in said.out
    assert f"wrote {figure}" in said.err
    assert figure.stat().st_size > 5000
    assert suffix != "png" or is_drawn(figure)


def test_bars_are_stacked_gaps_with_errors(several: Path) -> None:
    figure = bar_figure(read_lines(several))
    axis = figure.axes[0]
    approximation, amortisation = (
        [(bar.get_x(), bar.get_width()) for bar in container.patches]
        for container in axis.containers
        if hasattr(container, "patches") and len(container.patches)
    )
    # the flow first, in the order of names, with its negative gap left of zero
    assert approximation == [(0.0, -1.0), (0.0, 1.5), (0.0, 1.5)]
    assert amortisation == [(0.0, 4.5), (1.5, 2.0), (1.5, 2.0)]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    flow, *gaussian = labels
    assert flow == "aux_real_nvp, test"
    assert gaussian == ["gaussian, test\nlatent_dim=8", "gaussian, train\nlatent_dim=8"]


def long_lines(root: Path, **key: str) -> list[Line]:
    """Five lines that differ in a dozen settings each."""
    add_run(root, "aaa", {**ESTIMATED, **OPTIMISED})
    (line,) = read_lines(root)
    settings = ", ".join(f"posterior.transitions.{i}.step_size=1e-0{i}" for i in range(10))
    settings += ", families.AF.hidden=[200, 200], nobreak=" + "x" * 60
    return [
        replace(line, key={**line.key, **key, "settings": f"latent_dim={i}, {settings}"})
        for i in range(5)
    ]


def fits(figure: Figure) -> bool:
    """Whether all that is drawn lies within the figure."""
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox().extents  # in inches
    return bool(drawn.min() >= 0.0 and (drawn[2:] <= figure.get_size_inches()).all())


def test_bars_have_room_beside_long_settings(tmp_path: Path) -> None:
    figure = bar_figure(long_lines(tmp_path))
    assert fits(figure)
    axis = figure.axes[0]
    labels = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(labels))
    assert axis.get_window_extent().width > 3.0 * figure.dpi
    assert "step_size=1e-09" in axis.get_yticklabels()[0].get_text()  # an exponent stays whole


def test_a_dollar_in_settings_is_no_formula(tmp_path: Path, capsys: Read) -> None:
    for number, where in enumerate(("/a", "/$b_{$")):  # would be a formula, and a broken one
        config = settings(data={"name": "own", "path": where})
        add_run(tmp_path, f"hash{number}", {**ESTIMATED, **OPTIMISED}, config=config)
    assert plot(tmp_path, "--figure", str(tmp_path / "bars.png")) == 0


def test_panels_have_room_below_long_settings(tmp_path: Path) -> None:
    lines = long_lines(tmp_path, epoch="1")
    lines = [
        replace(line, key={**line.key, "trained run": f"run {i}"}) for i, line in enumerate(lines)
    ]
    figure = training_figure(lines)
    assert fits(figure)
    titles = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))
    assert all(axis.get_window_extent().height > 2.0 * figure.dpi for axis in figure.axes)


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """Epochs 1, 10 and 100 of two trained runs, with gaps that grow on the test split."""
    for trained, posterior in (("aaa", FFG), ("bbb", AF)):
        config = settings(posterior, phases=["train"])
        add_run(tmp_path, trained, {}, config=config, experiment="expF")
        for power, epoch in enumerate((1, 10, 100)):
            rows = {
                name.replace("gaussian (", f"{posterior['name']} ("): values
                for name, values in {**ESTIMATED, **OPTIMISED}.items()
            }
            worse = shifted(rows, -power, "estimate/IWAE-5000/test/elbo")
            config = settings(
                posterior,
                phases=["local_optimisation", "estimate"],
                initialise=initialised(f"{trained}-s0", epoch),
            )
            # hashes have no order; the rows must have one
            name = f"{999 - epoch}{trained}"
            both = {**worse, **on("train", rows)}
            add_run(tmp_path, name, both, config=config, experiment="expF")
    return tmp_path


def test_gaps_over_training(followed: Path, capsys: Read) -> None:
    # neither of these is about an epoch
    add_run(followed, "ccc", {**ESTIMATED, **OPTIMISED})
    config = settings(phases=["local_optimisation"], initialise=initialised("aaa-s0"))
    add_run(followed, "ddd", OPTIMISED, config=config)
    rows = shown(followed, capsys, "--over-training", "-split", "test")
    assert [(row["trained run"], row["posterior"], row["epoch"]) for row in rows] == [
        ("bbb", "aux_real_nvp", "1"),
        ("bbb", "aux_real_nvp", "10"),
        ("bbb", "aux_real_nvp", "100"),
        ("aaa", "gaussian", "1"),
        ("aaa", "gaussian", "10"),
        ("aaa", "gaussian", "100"),
    ]
    assert all("settings" not in row for row in rows)  # an epoch is none, nor is the trained run
    assert [row["amortisation gap"] for row in rows[3:]] == [
        "2.00 ± 0.58",
        "3.00 ± 0.58",
        "4.00 ± 0.58",
    ]
    assert len(table(followed, capsys, "--over-training")) == 12


def test_figure_over_training(followed: Path, capsys: Read) -> None:
    output = followed / "training.png"
    assert plot(followed, "--over-training", "--figure", str(output)) == 0
    assert is_drawn(output)
    flow, gaussian = training_figure(read_lines(followed, over_training=True)).axes
    assert (flow.get_title(), gaussian.get_title()) == ("aux_real_nvp", "gaussian")
    lines = {str(line.get_label()): line for line in gaussian.get_lines()}
    line = lines["amortisation gap, test"]
    assert list(line.get_xdata()) == [1, 10, 100]
    assert list(line.get_ydata()) == [2.0, 3.0, 4.0]
    assert list(lines["amortisation gap, train"].get_ydata()) == [2.0, 2.0, 2.0]
    assert (line.get_linestyle(), lines["inference gap, train"].get_linestyle()) == ("--", "-")
    bands = [band.get_paths()[0].vertices for band in gaussian.collections]
    error = statistics.stdev(GAPS["amortisation gap"]) / 2
    at_last = [sorted({y for x, y in band if x == 100}) for band in bands]
    assert any(band == pytest.approx([4.0 - error, 4.0 + error]) for band in at_last)


def test_gaps_over_training_are_means_over_seeds(tmp_path: Path, capsys: Read) -> None:
    bounds = "estimate/IWAE-5000/test/elbo"
    for epoch in (1, 10):
        for seed in (0, 1):
            config = settings(
                phases=["local_optimisation", "estimate"],
                initialise=initialised(f"aaa-s{seed}", epoch),
            )
            rows = shifted({**ESTIMATED, **OPTIMISED}, -seed, bounds)
            add_run(tmp_path, f"{epoch}m", rows, seed=seed, config=config)
    rows = shown(tmp_path, capsys, "--over-training")
    assert [(row["trained run"], row["epoch"], row["runs"]) for row in rows] == [
        ("aaa", "1", "2"),
        ("aaa", "10", "2"),
    ]
    assert {row["amortisation gap"] for row in rows} == {
        over_both((0.0, 1.0), GAPS["amortisation gap"])
    }
    assert all("settings" not in row for row in rows)
    (panel,) = training_figure(read_lines(tmp_path, over_training=True)).axes
    assert panel.get_title() == "gaussian"


def test_another_seeds_weights_are_another_trained_run(tmp_path: Path, capsys: Read) -> None:
    for seed, trained in ((0, "aaa-s0"), (1, "aaa-s0")):
        config = settings(phases=["local_optimisation"], initialise=initialised(trained, 1))
        rows = {**ESTIMATED, **OPTIMISED}
        add_run(tmp_path, f"m{seed}", rows, seed=seed, config=config)
    rows = shown(tmp_path, capsys, "--over-training")
    assert [(row["trained run"], row["runs"]) for row in rows] == [("aaa", "1"), ("aaa-s0", "1")]
