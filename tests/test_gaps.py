"""plot_from_db.py gaps: the table of inference gaps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.reporting.gap_table import shares_in_words
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
from tests.tables import over_both, rows_of, spread
from utils.results.database import ResultsDatabase, database_url

# --- one run ------------------------------------------------------------------------------------


def test_gaps_of_one_run_by_hand(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED})
    (row,) = shown(tmp_path, capsys)
    assert row == {
        "experiment": "expA",
        "data set": "digits",
        "binarisation": "static",
        "posterior": "gaussian",
        "loss": "elbo",
        "own family": "gaussian",
        "optimisation": "fast",
        "split": "test",
        "runs": "1",
        "data": "4",
        "log p(x)": "-87.5 ± 3.6",  # s² = 157/3 of -90, -79, -85, -96
        "L[q*_gaussian]": spread((-92.0, -80.0, -86.0, -98.0)),
        "L[q]": spread((-93.0, -83.0, -87.0, -101.0)),  # of the most samples, not of IWAE-50
        "approximation gap": "1.50 ± 0.29",  # s² = 1/3: paired, far below the spread of log p(x)
        "amortisation gap": "2.00 ± 0.58",
        "inference gap": "3.50 ± 0.65",
        "log p(x) by": "max: AIS-100x500 50 %, IWAE-5000 50 %",
    }


def test_csv_is_exact(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED})
    (row,) = table(tmp_path, capsys)
    assert row["hash"] == "aaa"
    for name, values in GAPS.items():
        assert float(row[name]) == pytest.approx(statistics.mean(values), rel=1e-14)
        error = statistics.stdev(values) / 2
        assert float(row[f"{name} s.e."]) == pytest.approx(error, rel=1e-14)
        assert row[f"{name} runs"] == "1"


def test_text_and_latex(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED})
    assert plot(tmp_path, "--format", "text", "--digits", "1") == 0
    text = capsys.readouterr().out
    assert "noisy lower bounds" in text
    assert "1.5 ± 0.3" in text
    assert "!" not in text
    output = tmp_path / "gaps.tex"
    assert plot(tmp_path, "--format", "latex", "--output", str(output)) == 0
    assert capsys.readouterr().out == ""
    latex = output.read_text(encoding="utf-8")
    assert r"L[q*\_gaussian] & L[q] & approximation gap &" in latex
    assert (
        r"& $1.50 \pm 0.29$ & $2.00 \pm 0.58$ & $3.50 \pm 0.65$ & max: AIS-100x500 50 \%" in latex
    )


def test_importance_sampling_with_the_optimum_may_win(tmp_path: Path, capsys: Read) -> None:
    better = {"local_optimisation/gaussian (fast)/test/log_px": (-89.0, -79.5, -85.75, math.nan)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **better})
    (row,) = shown(tmp_path, capsys)
    # NaN wins nothing
    assert row["log p(x) by"] == "max: IWAE-5000 50 %, AIS-100x500 25 %, gaussian (fast) 25 %"
    assert row["approximation gap"] == spread((3.0, 1.0, 1.0, 2.0))


def test_exact_always_wins(tmp_path: Path, capsys: Read) -> None:
    exact = {"estimate/exact/test/log_px": (-91.5, -79.5, -85.5, -96.5)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **exact})
    (row,) = shown(tmp_path, capsys)
    assert row["log p(x) by"] == "exact: exact 100 %"
    assert row["approximation gap"] == spread((0.5, 0.5, 0.5, 1.5))


def test_gaps_are_of_the_data_that_all_numbers_are_of(tmp_path: Path, capsys: Read) -> None:
    longer = {name: [*values, -1000.0] for name, values in ESTIMATED.items()}
    add_run(tmp_path, "aaa", {**longer, **OPTIMISED})
    (row,) = shown(tmp_path, capsys)
    assert row["data"] == "4"
    assert row["log p(x)"] == "-87.5 ± 3.6"
    assert row["log p(x) by"] == "max: AIS-100x500 50 %, IWAE-5000 50 %"


def test_nan_is_not_averaged_away(tmp_path: Path, capsys: Read) -> None:
    broken = {"local_optimisation/gaussian (fast)/test/elbo": (-92.0, math.nan, -86.0, -98.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **broken})
    (row,) = shown(tmp_path, capsys)
    assert row["approximation gap"].startswith("nan")
    assert row["inference gap"] == "3.50 ± 0.65"


def test_a_single_datum_has_no_error(tmp_path: Path, capsys: Read) -> None:
    rows = {name: values[:1] for name, values in {**ESTIMATED, **OPTIMISED}.items()}
    add_run(tmp_path, "aaa", shifted(rows, 5.0, "local_optimisation/gaussian (fast)/test/elbo"))
    (row,) = shown(tmp_path, capsys)
    assert row["approximation gap"] == "-3.00"  # unknown whether that is noise


def test_negative_gaps_beyond_their_error_are_flagged(tmp_path: Path, capsys: Read) -> None:
    # gaps -0.5, -1.5, -1.5, -0.5: -1 ± 0.289, more than twice; and the amortisation gap 4.5 ± 0.58
    optimum = "local_optimisation/gaussian (fast)/test/elbo"
    add_run(tmp_path, "aaa", shifted({**ESTIMATED, **OPTIMISED}, 2.5, optimum))
    # gaps 0, -1, -1, 0: -0.5 ± 0.289 is noise, less than twice
    add_run(tmp_path, "bbb", shifted({**ESTIMATED, **OPTIMISED}, 2.0, optimum))
    first, second = shown(tmp_path, capsys)
    assert first["approximation gap"] == "-1.00 ± 0.29 !"
    assert first["amortisation gap"] == "4.50 ± 0.58"
    assert second["approximation gap"] == "-0.50 ± 0.29"
    assert first["log p(x)"] == "-87.5 ± 3.6"  # negative, as it should be
    assert plot(tmp_path) == 0
    assert "has not converged or log p(x) is estimated too low" in capsys.readouterr().out


def test_width_of_bidirectional_monte_carlo(tmp_path: Path, capsys: Read) -> None:
    simulated = {
        "estimate/BDMC-100x500/simulated/log_px": (-10.0, -20.0),
        "estimate/BDMC-100x500/simulated/width": (0.1, 0.3),
    }
    both = {**ESTIMATED, **OPTIMISED, **on("train", {**ESTIMATED, **OPTIMISED})}
    add_run(tmp_path, "aaa", {**both, **simulated})
    rows = shown(tmp_path, capsys)
    assert [row["split"] for row in rows] == ["test", "train"]
    assert {row["width (BDMC-100x500)"] for row in rows} == {"0.20 ± 0.10"}
    assert {row["data"] for row in rows} == {"4"}


# --- families and settings ----------------------------------------------------------------------


def test_gaps_are_of_the_own_family(tmp_path: Path, capsys: Read) -> None:
    families = {"FFG": FFG, "AF": AF}
    by_both = {
        "local_optimisation/FFG (fast)/test/elbo": (-92.0, -80.0, -86.0, -98.0),
        "local_optimisation/AF (fast)/test/elbo": (-91.0, -79.5, -85.5, -97.0),
    }
    add_run(tmp_path, "aaa", {**ESTIMATED, **by_both}, config=settings(FFG, families))
    add_run(tmp_path, "bbb", {**ESTIMATED, **by_both}, config=settings(AF, families))
    flow, gaussian = shown(tmp_path, capsys)
    assert (flow["own family"], gaussian["own family"]) == ("AF", "FFG")
    assert flow["L[q*_AF]"] == gaussian["L[q*_AF]"] == spread((-91.0, -79.5, -85.5, -97.0))
    assert flow["approximation gap"] == spread((1.0, 0.5, 0.5, 1.0))
    assert gaussian["approximation gap"] == "1.50 ± 0.29"
    assert flow["inference gap"] == gaussian["inference gap"] == "3.50 ± 0.65"


def test_without_the_own_family_there_are_no_gaps(tmp_path: Path, capsys: Read) -> None:
    other = {"local_optimisation/AF (fast)/test/elbo": (-91.0, -79.5, -85.5, -97.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **other}, config=settings(FFG, {"AF": AF}))
    (row,) = shown(tmp_path, capsys)
    assert row["own family"] == "-"
    assert [row[name] for name in GAPS] == ["-", "-", "-"]
    assert row["L[q*_AF]"] == spread((-91.0, -79.5, -85.5, -97.0))
    assert plot(tmp_path, "--figure", str(tmp_path / "bars.png")) == 2
    assert "no gaps to draw" in capsys.readouterr().err


def test_each_setting_has_a_row(tmp_path: Path, capsys: Read) -> None:
    # a setting's label may have brackets of its own
    slow = {name.replace("(fast)", "(paper (lr=0.1))"): v for name, v in OPTIMISED.items()}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **shifted(slow, 0.5)})
    fast, paper = shown(tmp_path, capsys)
    assert (fast["optimisation"], paper["optimisation"]) == ("fast", "paper (lr=0.1)")
    assert (fast["approximation gap"], paper["approximation gap"]) == (
        "1.50 ± 0.29",
        "1.00 ± 0.29",
    )


def test_optimisations_that_did_not_end_by_their_own_rule_are_told(
    tmp_path: Path, capsys: Read
) -> None:
    rows = {
        **ESTIMATED,
        "local_optimisation/FFG (fast)/test/elbo": (-92.0, -80.0, -86.0, -98.0),
        "local_optimisation/AF (fast)/test/elbo": (-91.0, -79.5, -85.5, -97.0),
        # the fifth is no datum of these gaps
        "local_optimisation/FFG (fast)/test/converged": (1.0, 1.0, 1.0, 1.0, 0.0),
        "local_optimisation/AF (fast)/test/converged": (1.0, 0.0, 1.0, 1.0, 0.0),
    }
    config = settings(FFG, {"FFG": FFG, "AF": AF})
    add_run(tmp_path, "aaa", rows, config=config)
    more = {"local_optimisation/AF (fast)/test/converged": (0.0, 0.0, 1.0, 1.0)}
    add_run(tmp_path, "aaa", rows | more, config=config, seed=1)
    add_run(tmp_path, "bbb", {**ESTIMATED, **OPTIMISED})  # nothing known of it
    assert plot(tmp_path) == 0
    said = capsys.readouterr().out
    assert [row["converged"] for row in rows_of(said)] == ["AF 62 %, FFG 100 %", "-"]
    assert "converged: share of the data" in said


def test_optimisations_that_all_ended_by_their_own_rule_are_not_mentioned(
    tmp_path: Path, capsys: Read
) -> None:
    converged = {"local_optimisation/gaussian (fast)/test/converged": (1.0, 1.0, 1.0, 1.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **converged})
    assert plot(tmp_path) == 0
    assert "converged" not in capsys.readouterr().out


def test_splits_can_be_chosen(tmp_path: Path, capsys: Read) -> None:
    rows = {**ESTIMATED, **OPTIMISED}
    add_run(tmp_path, "aaa", {**rows, **on("train", rows)})
    (row,) = shown(tmp_path, capsys, "-split", "train")
    assert row["split"] == "train"
    assert plot(tmp_path, "-split", "validation") == 2
    assert "no split 'validation' here; there is: test, train" in capsys.readouterr().err


# --- several runs -------------------------------------------------------------------------------


def test_the_error_is_over_data_and_seeds(tmp_path: Path, capsys: Read) -> None:
    bounds = "estimate/IWAE-5000/test/elbo"
    for seed, worse in enumerate((0.0, -1.0, -3.0)):
        rows = shifted({**ESTIMATED, **OPTIMISED}, worse, bounds)
        add_run(tmp_path, "aaa", rows, seed=seed)
    (row,) = shown(tmp_path, capsys)
    assert (row["runs"], row["data"]) == ("3", "4")
    assert row["approximation gap"] == "1.50 ± 0.29"  # seeds make no difference
    seeds = (0.0, 1.0, 3.0)
    assert row["amortisation gap"] == over_both(seeds, GAPS["amortisation gap"])
    assert row["inference gap"] == over_both(seeds, GAPS["inference gap"])
    assert row["log p(x) by"] == "max: AIS-100x500 50 %, IWAE-5000 50 %"


def test_a_number_that_some_seeds_lack_is_counted(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED}, seed=0)
    only = {"estimate/AIS-100x500/test/log_px": ESTIMATED["estimate/AIS-100x500/test/log_px"]}
    add_run(tmp_path, "aaa", {**OPTIMISED, **only}, seed=1)
    (row,) = shown(tmp_path, capsys)
    assert row["runs"] == "2"
    assert row["amortisation gap"] == "2.00 ± 0.58 (n=1)"
    # log p(x) -79.5 and -97 at data 1 and 3: gaps 2, 0.5, 0.25, 1 there, 2, 1, 1, 2 in the other
    assert row["approximation gap"] == "1.31 ± 0.31"


def test_configurations_alike_are_told_apart(tmp_path: Path, capsys: Read) -> None:
    rows = {**ESTIMATED, **OPTIMISED}
    add_run(tmp_path, "aaa", rows)
    add_run(tmp_path, "bbb", rows, config=settings(encoder={"name": "mlp", "hidden": [500]}))
    add_run(tmp_path, "ccc", {}, config=settings(phases=["train"], model={"latent_dim": 50}))
    first, second = shown(tmp_path, capsys)
    assert (first["settings"], second["settings"]) == ("", "hidden=[500]")


def test_settings_name_the_run_that_weights_are_from_without_the_seed_that_all_share(
    tmp_path: Path, capsys: Read
) -> None:
    for trained in ("aaa", "bbb"):
        for seed in (0, 1):
            origin = initialised(f"{trained}-s{seed}")
            config = settings(phases=["local_optimisation", "estimate"], initialise=origin)
            add_run(tmp_path, f"{trained}m", {**ESTIMATED, **OPTIMISED}, seed=seed, config=config)
    rows = shown(tmp_path, capsys)
    assert [(row["settings"], row["runs"]) for row in rows] == [("run=aaa", "2"), ("run=bbb", "2")]


def test_unfinished_runs_are_left_out_unless_wanted(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED})
    add_run(tmp_path, "bbb", OPTIMISED, status="interrupted")
    add_run(tmp_path, "ccc", {}, status="failed")  # has nothing to show
    assert len(shown(tmp_path, capsys)) == 1
    whole, cut = shown(tmp_path, capsys, "--all")
    assert whole["amortisation gap"] == "2.00 ± 0.58"
    assert (cut["L[q]"], cut["amortisation gap"], cut["inference gap"]) == ("-", "-", "-")
    assert cut["approximation gap"] == "0.44 ± 0.07"  # Monte-Carlo error: hypot(.1, .1) / √4
    assert plot(tmp_path, "--all") == 0
    assert "not finished (1 interrupted)." in capsys.readouterr().out


# --- estimates lent by the run that the weights are from ----------------------------------------


def test_a_run_that_only_optimises_borrows_what_it_lacks(tmp_path: Path, capsys: Read) -> None:
    width = {"estimate/BDMC-9x9/simulated/width": (0.1, 0.3)}
    trained = settings(phases=["train", "estimate"])
    rows = {name: [*values, -1000.0] for name, values in ESTIMATED.items()}
    add_run(tmp_path, "aaa", {**rows, **width}, experiment="base", config=trained)
    config = settings(phases=["local_optimisation"], initialise=initialised("aaa-s0"))
    add_run(tmp_path, "bbb", OPTIMISED, config=config)
    (row,) = shown(tmp_path, capsys, "-experiment", "expA")
    assert row["data"] == "4"  # the fifth datum was not optimised
    assert row["log p(x) by"] == "max: AIS-100x500 50 %, IWAE-5000 50 %"
    assert (row["approximation gap"], row["amortisation gap"]) == ("1.50 ± 0.29", "2.00 ± 0.58")
    assert row["width (BDMC-9x9)"] == "0.20 ± 0.10"


def test_what_a_run_has_it_does_not_borrow(tmp_path: Path, capsys: Read) -> None:
    add_run(tmp_path, "aaa", ESTIMATED, config=settings(phases=["train", "estimate"]))
    config = settings(phases=["local_optimisation"], initialise=initialised("aaa-s0"))
    own = {"estimate/AIS-9x9/test/log_px": (-90.5, -79.5, -85.5, -96.5)}
    add_run(tmp_path, "bbb", {**OPTIMISED, **own}, config=config)
    (row,) = shown(tmp_path, capsys)
    assert row["approximation gap"] == spread((1.5, 0.5, 0.5, 1.5))  # with its own log p(x)
    assert row["amortisation gap"] == "2.00 ± 0.58"  # with the other's L[q]
    assert "AIS-100x500" not in row["log p(x) by"]


@pytest.mark.parametrize(
    ("origin", "changes"),
    [
        ({"weights": "best"}, {}),
        ({"weights": 10}, {}),
        ({"parts": ["model", "encoder"]}, {}),
        ({"run": "zzz-s0"}, {}),
        ({}, {"phases": ["train", "local_optimisation"]}),
        ({}, {"model": {"latent_dim": 9}}),
        ({}, {"encoder": {"name": "linear"}}),
        ({}, {"posterior": {"name": "gaussian", "covariance": "full"}}),
        ({}, {"data": {"name": "digits", "validation_size": 100}}),
        ({}, {"refinement": {"name": "ascent"}}),
        ({}, {"plugins": [{"path": "plugins/own.py", "digest": "0123456789ab"}]}),
    ],
)
def test_nothing_is_borrowed_of_other_weights_or_data(
    origin: dict[str, Any], changes: dict[str, Any], tmp_path: Path, capsys: Read
) -> None:
    add_run(tmp_path, "aaa", ESTIMATED, config=settings(phases=["train", "estimate"]))
    sections = {"phases": ["local_optimisation"]} | changes
    config = settings(initialise=initialised("aaa-s0") | origin, **sections)
    add_run(tmp_path, "bbb", OPTIMISED, config=config)
    (row,) = shown(tmp_path, capsys)
    assert (row["L[q]"], row["amortisation gap"]) == ("-", "-")
    assert row["log p(x) by"] == "max: gaussian (fast) 100 %"


# --- nothing to show ----------------------------------------------------------------------------


def test_nothing_to_show_is_said(tmp_path: Path, capsys: Read) -> None:
    ResultsDatabase(database_url(tmp_path)).close()
    assert plot(tmp_path) == 2
    assert "is empty" in capsys.readouterr().err
    add_run(tmp_path, "aaa", ESTIMATED)
    assert plot(tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "phases=[train,local_optimisation,estimate]" in said.err
    assert plot(tmp_path, "--over-training") == 2
    assert "runtime.keep_epochs" in capsys.readouterr().err
    assert plot(tmp_path, "--figure", "bars.gif") == 2
    assert ".png, .pdf, .svg" in capsys.readouterr().err


def test_runs_whose_local_estimator_gives_no_bound_are_named(tmp_path: Path, capsys: Read) -> None:
    local = {
        "local_optimisation/gaussian (fast)/test/log_px": (-91.5, -79.5, -85.75, -97.5),
        "local_optimisation/gaussian (fast)/test/converged": (1.0, 1.0, 1.0, 1.0),
    }
    for seed in range(10):
        add_run(tmp_path, "bbb", {**ESTIMATED, **local}, seed=seed)
    assert plot(tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "10 run(s) optimised locally have no row" in said.err
    assert "local_optimisation.estimator gives no bound L[q*]" in said.err
    assert "bbb-s0, bbb-s1, " in said.err
    assert "bbb-s7, 2 more" in said.err
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED})
    add_run(tmp_path, "ccc", ESTIMATED)  # not optimised, not meant
    assert plot(tmp_path) == 0
    said = capsys.readouterr()
    assert len(rows_of(said.out)) == 1
    assert "10 run(s) optimised locally have no row" in said.out
    assert "ccc" not in said.out


def test_a_winner_of_few_data_is_not_said_to_have_none() -> None:
    assert shares_in_words({"a": 399 / 400, "b": 1 / 400, "c": 0.0}) == "a 100 %, b <1 %"


# --- how log p(x) is made of its estimates ------------------------------------------------------


def halves(label: str, split: str = "test") -> dict[str, Sequence[float]]:
    """Estimates of which each half says the same as the whole."""
    key = f"/{split}/log_px"
    (name,) = (name for name in {**ESTIMATED, **OPTIMISED} if name.endswith(f"{label}{key}"))
    return {f"{name}_{half}": {**ESTIMATED, **OPTIMISED}[name] for half in "ab"}


def test_estimates_with_halves_are_combined(tmp_path: Path, capsys: Read) -> None:
    two = halves("AIS-100x500") | halves("IWAE-5000")  # and none of FFG's own
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **two})
    assert plot(tmp_path, log_px="combined") == 0
    said = capsys.readouterr().out
    (row,) = rows_of(said)
    said_by = "combined: AIS-100x500 50 %, IWAE-5000 50 %"  # equal errors
    assert row["log p(x) by"] == f"{said_by}; left out: gaussian (fast)"
    pairs = zip(*two.values(), strict=True)
    log_px = [math.log(statistics.fmean(map(math.exp, pair))) for pair in pairs]
    optimum = OPTIMISED["local_optimisation/gaussian (fast)/test/elbo"]
    gaps = [a - b for a, b in zip(log_px, optimum, strict=True)]
    assert row["approximation gap"] == spread(gaps)
    assert "p(x) is estimated without bias" in said
    assert "noisy lower bounds" not in said


def test_an_exact_answer_beats_a_combination(tmp_path: Path, capsys: Read) -> None:
    exact = {"estimate/exact/test/log_px": (-91.5, -79.5, -85.5, -96.5)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **exact, **halves("IWAE-5000")})
    assert plot(tmp_path, log_px="combined") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["log p(x) by"] == "exact: exact 100 %"
    assert row["approximation gap"] == spread((0.5, 0.5, 0.5, 1.5))


def test_the_largest_is_of_estimates_from_below(tmp_path: Path, capsys: Read) -> None:
    above = {"estimate/draws-2000/test/log_px": (-80.0, -70.0, -75.0, -86.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **above})
    (row,) = shown(tmp_path, capsys)
    assert row["log p(x) by"] == "max: AIS-100x500 50 %, IWAE-5000 50 %; left out: draws-2000"


def test_without_halves_the_estimate_of_the_least_error_that_can_be_believed_is_taken(
    tmp_path: Path, capsys: Read
) -> None:
    bad_weights = {
        # all errors are the same; these are the ones that cannot be believed
        "estimate/AIS-100x500/test/ess": (2.0, 2.0, 400.0, 400.0),
        "estimate/IWAE-5000/test/k_hat": (0.3, 0.3, 0.9, 0.9),
        "local_optimisation/gaussian (fast)/test/k_hat": (0.9, 0.9, 0.9, 0.9),
    }
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **bad_weights})
    assert plot(tmp_path, log_px="combined") == 0
    said = capsys.readouterr().out
    (row,) = rows_of(said)
    assert row["log p(x) by"] == "least error: AIS-100x500 50 %, IWAE-5000 50 %"
    assert row["log p(x)"] == spread((-91.0, -79.0, -85.0, -97.0))
    assert "before estimates came in halves" in said
    assert "†" not in said


# --- what cannot be believed, and brackets ------------------------------------------------------


def test_data_whose_log_px_cannot_be_believed_are_marked(tmp_path: Path, capsys: Read) -> None:
    bad = {"estimate/IWAE-5000/test/k_hat": (0.3, 0.9, 0.3, 0.3)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **bad})
    assert plot(tmp_path) == 0
    said = capsys.readouterr().out
    (row,) = rows_of(said)
    assert row["log p(x)"] == "-87.5 ± 3.6 †25 %"  # IWAE's is the largest of the second datum
    assert row["approximation gap"] == "1.50 ± 0.29 †25 %"
    assert row["inference gap"] == "3.50 ± 0.65 †25 %"
    assert row["amortisation gap"] == "2.00 ± 0.58"  # has nothing to do with it
    assert "†: the share of the data" in said


def test_what_estimators_say_of_their_halves_counts(tmp_path: Path, capsys: Read) -> None:
    said_so = {
        "estimate/IWAE-5000/test/reliable_a": (1.0, 1.0, 1.0, 0.0),
        "estimate/IWAE-5000/test/reliable_b": (1.0, 1.0, 0.0, 1.0),
    }
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **halves("IWAE-5000"), **said_so})
    assert plot(tmp_path, log_px="combined") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["log p(x)"].endswith("†50 %")


def test_a_combination_needs_an_estimator_that_is_believed_in_both_halves(
    tmp_path: Path, capsys: Read
) -> None:
    two = halves("AIS-100x500") | halves("IWAE-5000")
    said_so = {
        f"estimate/{label}/test/reliable_{half}": (float(half == good),) * 4
        for label, good in (("AIS-100x500", "a"), ("IWAE-5000", "b"))
        for half in "ab"
    }
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **two, **said_so})
    assert plot(tmp_path, log_px="combined") == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["log p(x)"].endswith("†100 %")  # weights go to the halves that are not believed


def test_a_gap_smaller_than_its_error_is_marked(tmp_path: Path, capsys: Read) -> None:
    optimum = "local_optimisation/gaussian (fast)/test/elbo"
    add_run(tmp_path, "aaa", shifted({**ESTIMATED, **OPTIMISED}, 1.25, optimum))
    assert plot(tmp_path) == 0
    said = capsys.readouterr().out
    assert rows_of(said)[0]["approximation gap"] == "0.25 ± 0.29 ?"
    assert "?: smaller than its own error" in said


def test_gaps_have_a_bound_from_above_by_bidirectional_monte_carlo(
    tmp_path: Path, capsys: Read
) -> None:
    width = {"estimate/BDMC-100x500/simulated/width": (0.25, 0.75)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **width})
    (row,) = table(tmp_path, capsys)
    # to AIS with the same settings, -90, -80, -85, -97: gaps 2, 0, 1, 1; the width is 0.5 ± 0.25
    assert float(row["approximation gap at most"]) == pytest.approx(1.5)
    error = math.hypot(statistics.stdev((2, 0, 1, 1)) / 2, 0.25)
    assert float(row["approximation gap at most s.e."]) == pytest.approx(error)
    assert float(row["inference gap at most"]) == pytest.approx(
        statistics.mean((3, 3, 2, 4)) + 0.5
    )
    assert "amortisation gap at most" not in row
    # by the largest estimates of log p(x) the inference gap is 3.5 already
    narrow = {"estimate/BDMC-100x500/simulated/width": (-0.1, 0.1)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **narrow})
    assert float(table(tmp_path, capsys)[0]["inference gap at most"]) == pytest.approx(3.5)
    exact = {"estimate/exact/test/log_px": (-91.5, -79.5, -85.5, -96.5)}
    add_run(tmp_path, "bbb", {**ESTIMATED, **OPTIMISED, **width, **exact})
    known = table(tmp_path, capsys)[1]
    assert known["approximation gap at most"] == ""  # it is known


def test_a_width_bounds_gaps_to_the_annealing_that_it_judges_alone(
    tmp_path: Path, capsys: Read
) -> None:
    other = {"estimate/BDMC-9x9/simulated/width": (9.0, 9.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **OPTIMISED, **other})
    (row,) = table(tmp_path, capsys)
    assert "inference gap at most" not in row  # no AIS-9x9 is there
    assert row["width (BDMC-9x9)"] == "9.0"
    nines = {"estimate/AIS-9x9/test/log_px": ESTIMATED["estimate/AIS-100x500/test/log_px"]}
    bounds = {name: of for name, of in ESTIMATED.items() if "AIS" not in name}
    narrow = {"estimate/BDMC-100x500/simulated/width": (0.0, 0.0)}  # of no AIS that is there
    add_run(tmp_path, "aaa", {**bounds, **nines, **OPTIMISED, **other, **narrow})
    (row,) = table(tmp_path, capsys)
    assert float(row["inference gap at most"]) == pytest.approx(
        statistics.mean((3, 3, 2, 4)) + 9.0
    )


def test_a_datum_of_unknown_error_is_no_harm(tmp_path: Path, capsys: Read) -> None:
    rows = {name: values[:1] for name, values in {**ESTIMATED, **OPTIMISED}.items()}
    add_run(tmp_path, "aaa", rows, error=math.nan)
    for log_px in ("max", "combined"):
        assert plot(tmp_path, log_px=log_px) == 0
        assert "nan" not in capsys.readouterr().out


def test_rows_without_an_own_family_are_explained(tmp_path: Path, capsys: Read) -> None:
    other = {"local_optimisation/AF (fast)/test/elbo": (-91.0, -79.5, -85.5, -97.0)}
    add_run(tmp_path, "aaa", {**ESTIMATED, **other}, config=settings(FFG, {"AF": AF}))
    assert plot(tmp_path) == 0
    assert "own posterior is not among the families" in capsys.readouterr().out
