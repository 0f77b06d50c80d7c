"""plot_from_db.py: what it prints, draws and refuses."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import plot_from_db
from experiments.reporting.curves import curve_figure
from experiments.reporting.queries import load_metrics, load_runs
from tests.gap_runs import METHODS
from tests.tables import over_both, rows_of
from utils.results.database import ResultsDatabase, database_url
from utils.results.folder import RunFolder
from utils.results.methods import Method
from utils.results.records import Estimate, Metric, RunRecord

REPOSITORY = Path(__file__).parent.parent
CENTRED = (-1.5, -0.5, 0.5, 1.5)  # a run's data scatter around its mean


def add_run(
    root: Path,
    config_hash: str,
    seed: int,
    estimates: Mapping[str, float],
    *,
    num_layers: int = 1,
    **changes: Any,
) -> RunFolder:
    """A run folder with estimates ("log_px IWAE-5000": mean over data) and five epochs."""
    posterior = changes.get("posterior", "planar")
    known: dict[str, Any] = {
        "status": "finished",
        "dataset": "digits",
        "binarisation": "static",
        "posterior": posterior,
        "loss": "elbo",
        "started": "2024-05-01T10:00:00+00:00",
        "config": {
            "posterior": {"name": posterior, "num_layers": num_layers},
            "seed": seed,
            "runtime": {"device": f"cuda:{seed}"},
        },
    }
    record = RunRecord(changes.pop("experiment", "expA"), config_hash, seed, **(known | changes))
    folder = RunFolder(root / "runs" / record.id)
    folder.create()
    folder.write_status(record)
    for label, mean in estimates.items():
        name, by = label.split()
        method = METHODS.get(by, Method(by))
        folder.estimates.append(
            Estimate("estimation", *method, "test", name, datum, mean + offset, 0.1)
            for datum, offset in enumerate(CENTRED)
        )
    for step in range(1, 6):
        rows = [("train", "bound", -90.0 - seed + step), ("train", "kl", 20.0)]
        rows += [("validation", "bound", -91.0 - seed + step)]
        folder.metrics.append(Metric("train", step, split, name, v) for split, name, v in rows)
    return folder


PLANAR_10 = (-88.5, -88.0, -87.25)
PLANAR_20 = (-86.5, -86.75, -87.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two planar configurations of three seeds each, one Gaussian run."""
    for seed, mean in enumerate(PLANAR_10):
        values = {"elbo IWAE-5000": mean - 2, "log_px IWAE-5000": mean, "ess x": 7.0}
        add_run(tmp_path, "aaa", seed, values, num_layers=10)
    for seed, mean in enumerate(PLANAR_20):
        values = {"elbo IWAE-5000": mean - 2, "log_px IWAE-5000": mean, "ess x": 9.0}
        add_run(tmp_path, "bbb", seed, values, num_layers=20)
    values = {"elbo IWAE-5000": -90.0, "log_px IWAE-5000": -89.0}
    add_run(tmp_path, "ccc", 0, values, posterior="gaussian")
    rebuild(tmp_path)
    return tmp_path


def rebuild(root: Path) -> None:
    with closing(ResultsDatabase(database_url(root))) as database:
        assert database.rebuild(root).skipped == []


def plot(root: Path, command: str, *arguments: str) -> int:
    return plot_from_db.main([command, *arguments, "--results", str(root)])


# --- table --------------------------------------------------------------------------------------


def test_table_is_mean_and_standard_error_over_data_and_seeds(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(root, "table") == 0
    shown = capsys.readouterr()
    gaussian, planar_10, planar_20 = rows_of(shown.out)
    assert planar_10 == {
        "experiment": "expA",
        "data set": "digits",
        "binarisation": "static",
        "posterior": "planar",
        "loss": "elbo",
        "settings": "num_layers=10",
        "split": "test",
        "runs": "3",
        # by hand: s = 0.6292 of -90.5, -90, -89.25, and 1.2910 of the data
        "ELBO (IWAE-5000)": "-89.92 ± 0.74",
        "log p(x) (IWAE-5000)": "-87.92 ± 0.74",
    }
    assert planar_20["settings"] == "num_layers=20"
    assert planar_20["log p(x) (IWAE-5000)"] == over_both(PLANAR_20, CENTRED)
    assert gaussian["log p(x) (IWAE-5000)"] == "-89.00 ± 0.65"  # one run: over data
    assert (gaussian["settings"], gaussian["runs"]) == ("", "1")
    assert "nats, higher is better" in shown.out
    assert "digits test 4" in shown.out
    assert "not shown: ess" in shown.err


def test_table_as_csv_is_exact(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(root, "table", "--format", "csv", "-name", "log_px") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    label = "log p(x) (IWAE-5000)"
    assert [row["hash"] for row in rows] == ["ccc", "aaa", "bbb"]
    assert float(rows[1][label]) == pytest.approx(statistics.mean(PLANAR_10), rel=1e-14)
    seeds, data = statistics.variance(PLANAR_10) / 3, statistics.variance(CENTRED) / 4
    error = math.sqrt(seeds + data)
    assert float(rows[1][f"{label} s.e."]) == pytest.approx(error, rel=1e-12)
    # Student's quantiles for 2 and 3 degrees of freedom, by their shares of the variance
    reach = (4.302652729911275 * seeds + 3.182446305284263 * data) / error
    mean = statistics.mean(PLANAR_10)
    assert float(rows[1][f"{label} lower"]) == pytest.approx(mean - reach, rel=1e-12)
    assert float(rows[1][f"{label} upper"]) == pytest.approx(mean + reach, rel=1e-12)
    assert [row[f"{label} runs"] for row in rows] == ["1", "3", "3"]


def test_table_in_bits_per_dimension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, mean in (("planar", -64.0), ("gaussian", -128.0)):
        values = {"log_px IWAE-5000": mean * math.log(2), "ess x": 7.0}
        add_run(tmp_path, name, 0, values, posterior=name, x_size=64)
    rebuild(tmp_path)
    arguments = ("--units", "bits", "-name", "log_px", "ess", "--format", "latex")
    assert plot(tmp_path, "table", *arguments) == 0
    shown = capsys.readouterr().out
    error = statistics.stdev(CENTRED) / 2 / (64 * math.log(2))
    assert rf"$2.000 \pm {error:.3f}$" in shown or rf"$2.00 \pm {error:.2f}$" in shown
    assert r"$\mathbf{1.00}" in shown  # the lower one is the better one
    assert r"$7.00 \pm 0.65$" in shown  # ESS has no such unit
    assert "bits per dimension" in shown
    assert "& -log p(x), bits/dim (IWAE-5000) & ESS (x)" in shown
    add_run(tmp_path, "old", 0, {"log_px IWAE-5000": -9.0})
    rebuild(tmp_path)
    assert plot(tmp_path, "table", "--units", "bits") == 2
    assert "old-s0" in capsys.readouterr().err


def test_table_in_latex_is_escaped_and_has_the_best_in_bold(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(root, "ddd", 0, {"log_px IWAE-5000": -10.0}, posterior="50%_a&b", dataset="mnist")
    rebuild(root)
    assert plot(root, "table", "--format", "latex", "-name", "log_px", "ess") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\begin{tabular}{llllllllrr}" in lines
    rows = [line for line in lines if line.startswith("expA")]
    assert rows[0].endswith(r"& 1 & $-89.00 \pm 0.65$ & -- \\")
    assert rows[1].endswith(r"num\_layers=10 & test & 3 & $-87.92 \pm 0.74$ & $7.00 \pm 0.65$ \\")
    best = r"$\mathbf{-86.75} \pm 0.66$ & $9.00 \pm 0.65$ \\"  # ESS has no best
    assert rows[2].endswith(best)
    # alone on its data set it is the best of nothing
    assert r"50\%\_a\&b" in rows[3]
    assert "mathbf" not in rows[3]


def test_rows_that_look_alike_are_both_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, "aaa", 0, {"elbo e": -80.001}, posterior="a")
    add_run(tmp_path, "bbb", 0, {"elbo e": -80.004}, posterior="b")
    add_run(tmp_path, "ccc", 0, {"elbo e": math.nan}, posterior="c")
    rebuild(tmp_path)
    assert plot(tmp_path, "table", "--format", "latex") == 0
    shown = capsys.readouterr().out
    assert shown.count(r"$\mathbf{-80.00} \pm") == 2
    assert r"$\mathrm{nan}$" in shown


def test_the_highest_estimate_from_above_is_not_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, above in (("planar", -80.0), ("gaussian", -70.0)):
        add_run(tmp_path, name, 0, {"log_px draws-2000": above}, posterior=name)
    rebuild(tmp_path)
    assert plot(tmp_path, "table", "--format", "latex") == 0
    shown = capsys.readouterr().out
    assert "-70.00" in shown
    assert "mathbf" not in shown


def test_estimates_that_cannot_be_believed_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"log_px IWAE-100": -80.0, "elbo IWAE-100": -81.0, "k_hat IWAE-100": 0.5}
    add_run(tmp_path, "aaa", 0, values)  # k-hat -1, 0, 1, 2: of half of the data above 0.7
    add_run(tmp_path, "bbb", 0, values | {"k_hat IWAE-100": -1.0})
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 0  # though k-hat is not shown
    said = capsys.readouterr().out
    assert [row["log p(x) (IWAE-100)"] for row in rows_of(said)] == [
        "-80.00 ± 0.65 †50 %",
        "-80.00 ± 0.65",
    ]
    assert "†" not in rows_of(said)[0]["ELBO (IWAE-100)"]
    assert "†: the share of the data" in said


def test_nan_in_one_seed_is_not_averaged_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, "aaa", 0, {"elbo e": -80.0})
    add_run(tmp_path, "aaa", 1, {"elbo e": math.nan})
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["ELBO (e)"] == "nan"


def test_only_finished_runs_unless_all_are_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, "aaa", 0, {"elbo e": -80.0}, status="diverged")
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 2
    assert "no run is finished (1 diverged); --all" in capsys.readouterr().err
    add_run(tmp_path, "aaa", 1, {"elbo e": -82.0})
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert (row["runs"], row["ELBO (e)"]) == ("1", "-82.00 ± 0.65")
    assert plot(tmp_path, "table", "--all") == 0
    shown = capsys.readouterr().out
    assert rows_of(shown)[0]["ELBO (e)"] == over_both((-80.0, -82.0), CENTRED)
    assert "not finished (1 diverged)" in shown


def test_estimator_missing_in_some_runs_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        values = {"elbo IWAE-100": -80.0 + seed} | ({} if seed else {"elbo IWAE-20": -70.0})
        add_run(tmp_path, "aaa", seed, values)
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert list(row)[-2:] == ["ELBO (IWAE-20)", "ELBO (IWAE-100)"]  # by number, not by letter
    assert (row["ELBO (IWAE-20)"], row["runs"]) == ("-70.00 ± 0.65 (n=1)", "3")


def test_rows_are_of_runs_that_have_what_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, "aaa", 0, {"log_px IWAE-100": -80.0})
    add_run(tmp_path, "bbb", 0, {"elbo IWAE-100": -81.0})
    rebuild(tmp_path)
    assert plot(tmp_path, "table", "-name", "elbo") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["ELBO (IWAE-100)"] == "-81.00 ± 0.65"


def test_rows_of_a_configuration_that_two_experiments_share_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path, "aaa", 0, {"elbo IWAE-100": -80.0}, experiment="expA")
    for config_hash, num_layers in (("aaa", 1), ("bbb", 2)):
        estimates = {"elbo IWAE-100": -80.0}
        add_run(tmp_path, config_hash, 1, estimates, num_layers=num_layers, experiment="expB")
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 0
    rows = rows_of(capsys.readouterr().out)
    assert [(row["experiment"], row["settings"]) for row in rows] == [
        ("expA", "num_layers=1"),
        ("expB", "num_layers=1"),
        ("expB", "num_layers=2"),
    ]


def test_optima_that_were_measured_in_two_ways_have_a_heading_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, by in enumerate(("IWAE-100", "IWAE-5000")):
        folder = add_run(tmp_path, f"hash{number}", 0, {}, num_layers=number)
        method = METHODS[by]._replace(family="FFG", search="fast")
        folder.estimates.append(
            [Estimate("local_optimisation", *method, "test", "elbo", 0, -80.0 - number)]
        )
    rebuild(tmp_path)
    assert plot(tmp_path, "table", "-split", "test", "--format", "csv") == 0
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["ELBO (FFG (fast) by IWAE-100)"], second["ELBO (FFG (fast) by IWAE-5000)"]) == (
        "-80.0",
        "-81.0",
    )


def test_different_numbers_of_data_are_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = add_run(root, "eee", 0, {"elbo IWAE-5000": -80.0})
    method = METHODS["IWAE-5000"]
    folder.estimates.append([Estimate("estimation", *method, "test", "elbo", 99, -80.0)])
    rebuild(root)
    assert plot(root, "table") == 0
    assert "digits test 4 to 5, NOT the same for all numbers" in capsys.readouterr().out


def test_table_goes_to_a_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = root / "table.md"
    assert plot(root, "table", "--output", str(output), "-digits", "1") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "wrote" in shown.err
    assert "-87.9 ± 0.7" in output.read_text(encoding="utf-8")


# --- runs, metrics, curves ----------------------------------------------------------------------


def test_runs_are_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(root, "ddd", 0, {}, status="running", heartbeat="2024-05-01T10:00:00+00:00")
    add_run(root, "eee", 0, {}, status="failed", wall_seconds=3725.4)
    rebuild(root)
    assert plot(root, "runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("id", "experiment", "posterior", "loss", "dataset", "seed", "status", "started"),
        *("wall", "time"),
    ]
    assert len(lines) == 1 + 9
    words = {line.split()[0]: line.split() for line in lines[1:]}
    assert words["aaa-s1"][1:] == [
        *("expA", "planar", "elbo", "digits", "1", "finished", "2024-05-01T10:00:00")
    ]
    assert words["ddd-s0"][6] == "lost"
    assert words["eee-s0"][-1] == "1:02:05"


def test_metrics_are_exported_exactly(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = add_run(root, "ddd", 0, {}, experiment="expB")
    values = [0.1, math.nan, math.inf, 1 / 3]
    folder.metrics.append(
        Metric("train", step, "train", "odd", v) for step, v in enumerate(values)
    )
    rebuild(root)
    arguments = ["-experiment", "expB", "-run", "ddd-s0", "-name", "odd", "-split", "train"]
    assert plot(root, "metrics", *arguments) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["value"] for row in rows] == ["0.1", "nan", "inf", "0.3333333333333333"]
    assert rows[0] | {"value": ""} == {
        "run": "ddd-s0",
        "experiment": "expB",
        "hash": "ddd",
        "seed": "0",
        "posterior": "planar",
        "loss": "elbo",
        "status": "finished",
        "phase": "train",
        "step": "0",
        "split": "train",
        "name": "odd",
        "value": "",
    }


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_curves_are_drawn(root: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = root / f"curves.{suffix}"
    assert plot(root, "curves", "--output", str(output)) == 0
    assert capsys.readouterr().out == ""
    assert output.stat().st_size > 0
    if suffix == "png":
        with Image.open(output) as image:
            assert min(image.size) > 100
            dark, light = image.convert("L").getextrema()
            assert dark < light  # something is drawn on it


def test_curves_are_means_with_bands_of_one_standard_error(root: Path) -> None:
    with closing(ResultsDatabase(database_url(root), create=False)) as database:
        runs = load_runs(database)
        figure = curve_figure(load_metrics(database, runs, ["bound"]), runs)
    train, validation = figure.axes
    assert (train.get_title(), validation.get_title()) == (
        "train, train split",
        "train, validation split",
    )
    lines = {str(line.get_label()): line for line in train.get_lines()}
    planar = "planar, elbo, num_layers=10 (n=3)"
    assert set(lines) == {planar, planar.replace("10", "20"), "gaussian, elbo (n=1)"}
    # seeds 0, 1, 2 have -90 - seed + step: mean -91 + step, s = 1
    assert list(lines[planar].get_ydata()) == pytest.approx([-91.0 + step for step in range(1, 6)])
    band = train.collections[list(lines).index(planar)].get_paths()[0].vertices
    at_last = sorted({y for x, y in band if x == 5})
    error = 1 / math.sqrt(3)
    assert at_last == pytest.approx([-86 - error, -86 + error])


def test_curves_have_gaps_where_numbers_are_not_finite(root: Path) -> None:
    folder = add_run(root, "ddd", 0, {}, posterior="broken")
    folder.metrics.append([Metric("train", 6, "train", "bound", -math.inf)])
    rebuild(root)
    assert plot(root, "curves", "--output", str(root / "curves.png"), "-split", "train") == 0


# --- command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "-experiment", "expa"], "no experiment 'expa' here; there is: expA. Did you"),
        (["table", "-split", "train"], "no split 'train' here; there is: test"),
        (["table", "-name", "kl"], "there is: elbo, ess, log_px"),
        (["curves", "--output", "x.png", "-name", "loss"], "there is: bound, kl"),
        (["curves", "--output", "x.gif"], ".png, .pdf, .svg"),
        (["metrics", "-run", "aaa-s9"], "no id 'aaa-s9' here"),
        (["runs", "--db", "nonsense"], "is not a database URL"),
        (["runs", "--db", "sqlite:///none.sqlite"], "there is no results database none.sqlite"),
    ],
)
def test_nothing_to_show_is_said(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(root, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        *((command, "output", "a.csv") for command in ("runs", "metrics", "table", "gaps")),
        *((command, "output", "a.png") for command in ("curves", "images")),
        ("gaps", "figure", "a.png"),
    ],
)
def test_files_that_cannot_be_written_are_noticed_first(
    command: str, option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none" / name  # nor is there a database, which is not looked for
    assert plot(tmp_path, command, f"--{option}", str(path)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"plot_from_db.py: error: --{option} {path}: there is no folder {path.parent}\n"
    )
    (tmp_path / name).mkdir()
    assert plot(tmp_path, command, f"--{option}", str(tmp_path / name)) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_empty_database_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ResultsDatabase(database_url(tmp_path)).close()
    assert plot(tmp_path, "runs") == 2
    assert "is empty" in capsys.readouterr().err
    add_run(tmp_path, "aaa", 0, {})
    rebuild(tmp_path)
    assert plot(tmp_path, "table") == 2
    assert "no estimates in the one run chosen" in capsys.readouterr().err


def test_database_that_does_not_answer_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.sqlite").write_bytes(b"this is no database" * 100)
    assert plot(tmp_path, "runs") == 1
    assert "file is not a database" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tables"],
        ["table", "-forma", "csv"],
        ["table", "--format", "word"],
        ["table", "--digits", "-1"],
        ["curves"],
        ["runs", "--digits", "1"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plot_from_db.main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_rebuild_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(tmp_path, "rebuild") == 2
    assert "no run folders" in capsys.readouterr().err
    add_run(tmp_path, "aaa", 0, {"elbo e": -80.0})
    (tmp_path / "runs" / "empty").mkdir()
    assert plot(tmp_path, "rebuild") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "no status.json" in said.err
    assert "1 runs from" in said.err
    assert plot(tmp_path, "table") == 0


def test_results_folder_comes_from_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VI_RESULTS", str(root))
    assert plot_from_db.main(["runs"]) == 0
    assert "aaa-s0" in capsys.readouterr().out


def test_building_the_parser_imports_nothing_heavy() -> None:
    program = (
        "import sys, plot_from_db; plot_from_db.build_parser(); "
        "sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'sqlalchemy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_help_leads_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plot_from_db.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.index("examples:") < shown.index("options:")
    assert shown.count("  python plot_from_db.py ") == 2
    assert all(command.name in shown for command in plot_from_db.COMMANDS)


def test_a_reader_that_stops_early_is_no_error(root: Path) -> None:
    command = f"{sys.executable} plot_from_db.py metrics --results {root} | true"
    run = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.stderr == ""
