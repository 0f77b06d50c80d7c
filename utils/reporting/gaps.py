"""The table of gaps: what a bound loses to its family, and what to its encoder."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from utils.reporting import ReportError
from utils.reporting.gap_estimates import (
    ESTIMATE,
    LOCAL,
    SIMULATED,
    boundless_note,
    without_bound,
)
from utils.reporting.labels import configuration_labels
from utils.reporting.queries import by_method, choose, status_note
from utils.reporting.statistics import seed_mean
from utils.reporting.summary import PRETTY, SHOWN
from utils.reporting.tables import Cell, Heading, Number, Table, Text
from utils.results.methods import Method

GAPS = ("approximation gap", "amortisation gap", "inference gap")
EXACT = "exact"  # the estimator that makes no error
FLAG = " !"
ENOUGH = 2  # standard errors below zero that are no noise

CAPTION = (
    "Mean ± standard error over runs with different seeds; where there is a single run, over its "
    "data points (that of a gap is of the mean of the data points' own gaps).",
    "In nats. approximation gap = log p(x) - L[q*], amortisation gap = L[q*] - L[q], inference "
    "gap = their sum, with L[q*] of the run's own family.",
    "log p(x) is the maximum over all estimators, taken per datum (exact where that is known): "
    "estimates are noisy lower bounds, so their maximum leans slightly upwards; 'best estimator' "
    "says how often each was the largest, FAMILY (SETTING) is importance sampling with that q*.",
)
WIDTH_NOTE = (
    "width: upper less lower bound of bidirectional Monte Carlo, over data simulated from the "
    "model."
)
CONVERGED_NOTE = (
    "converged: share of the data, rounded down, whose local optimisation ended by its own rule; "
    "the others were stopped before, so that L[q*] may be too low."
)
FLAG_NOTE = (
    f"{FLAG.strip()}: negative by more than {ENOUGH} standard errors, which no true gap is: the "
    "local optimisation has not converged or log p(x) is estimated too low."
)


@dataclass(frozen=True)
class Measured:
    """One run's numbers on one split, with the q* of one setting of local optimisation.

    ``values`` by name: ``log_px``, ``elbo`` (L[q]), ``L[q*_FAMILY]`` and the gaps, of the same
    data points all; ``width (ESTIMATOR)``, of simulated ones. ``winners``: by whom each
    ``log_px`` is. ``own``: label of the run's own family, where that was optimised.
    ``converged``: by family, for each of these data whether its optimisation ended by its own
    rule, where that is known.
    """

    run: str
    split: str
    setting: str
    own: str | None
    values: Mapping[str, Sequence[float]]
    winners: Sequence[str]
    converged: Mapping[str, Sequence[bool]]


@dataclass(frozen=True)
class Line:
    """One row: ``key`` says of what by column, ``numbers`` are by the names of ``Measured``.

    ``converged``: by family, per cent of the data.
    """

    key: Mapping[str, str]
    numbers: Mapping[str, Number]
    winners: str
    converged: Mapping[str, int]


def measure(
    estimates: pd.DataFrame, runs: pd.DataFrame, splits: Sequence[str] = ()
) -> list[Measured]:
    """The numbers of each run, split and setting of local optimisation, datum by datum.

    Args:
        estimates: out of ``gap_estimates.load``; of ``runs``.
        runs: their rows of the table ``runs``.
        splits: only these.

    Raises ReportError when nothing was optimised locally, or nothing with a bound.
    """
    local = estimates[estimates["phase"] == LOCAL]
    bounds = local[local["name"] == "elbo"]
    if bounds.empty:
        if boundless := without_bound(estimates):
            raise ReportError(boundless_note(boundless))
        raise ReportError(
            f"nothing was optimised locally in the {len(runs)} run(s) chosen: gaps need `python "
            "main.py -config FILE -set 'phases=[train,local_optimisation,estimate]'`"
        )
    bounds = choose(bounds, "split", splits)
    ends = _by_search(local[local["name"] == "converged"])
    places = dict(iter(estimates.groupby(["run", "split"])))
    configs = dict(zip(runs["id"], runs["config"], strict=True))
    measured = []
    for (run, split, setting), families in _by_search(bounds).items():
        own = _own_family(configs[run])
        own = own if own in families else None
        data = _common_data(places[run, split], families, own)
        values = {str(name): data[name].tolist() for name in data if name != "winner"}
        values |= _widths(places.get((run, SIMULATED)))
        converged = {
            family: of[of.index.isin(data.index)].astype(bool).tolist()
            for family, of in ends.get((run, split, setting), {}).items()
        }
        winners = [method.label for method in data["winner"]]
        measured.append(Measured(run, split, setting, own, values, winners, converged))
    return measured


def _by_search(local: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, pd.Series]]:
    """By run, split and search, and in that by family: the values of each datum."""
    found: dict[tuple[str, str, str], dict[str, pd.Series]] = {}
    for key, of in local.groupby(["run", "split", "search", "family"]):
        run, split, search, family = map(str, key)
        found.setdefault((run, split, search), {})[family] = _by_datum(of)
    return found


def _own_family(config: Mapping[str, Any]) -> str | None:
    """Label of the run's own family among those it optimises locally; None: it is not there."""
    posterior = config["posterior"]
    families = (config.get(LOCAL) or {}).get("families") or {posterior["name"]: posterior}
    return next((label for label, node in families.items() if node == posterior), None)


def _by_datum(rows: pd.DataFrame) -> pd.Series:
    return rows.set_index("datum")["value"]


def _common_data(
    rows: pd.DataFrame, families: Mapping[str, pd.Series], own: str | None
) -> pd.DataFrame:
    """One row a datum that all numbers are known of; NaN is such a number."""
    best = _best_log_px(rows)
    winners = [Method(*row) for row in best[list(Method._fields)].itertuples(index=False)]
    columns = {"winner": pd.Series(winners, best.index, dtype=object), "log_px": best["value"]}
    columns |= {_optimum(family): values for family, values in families.items()}
    if len(amortised := _amortised_bound(rows)):
        columns["elbo"] = amortised
    data = pd.concat(columns, axis=1, join="inner")
    gaps = {}
    if own is not None:
        gaps["approximation gap"] = data["log_px"] - data[_optimum(own)]
    if own is not None and "elbo" in data:
        gaps["amortisation gap"] = data[_optimum(own)] - data["elbo"]
        gaps["inference gap"] = data["log_px"] - data["elbo"]
    return data.assign(**gaps)


def _optimum(family: str) -> str:
    return f"L[q*_{family}]"


def _best_log_px(rows: pd.DataFrame) -> pd.DataFrame:
    """By datum, the largest ``log_px`` and its method; ``exact`` beats all, a number NaN."""
    found = rows[rows["name"] == "log_px"]
    found = found.assign(exact=found["estimator"] == EXACT)
    ranked = found.sort_values(["exact", "value"], na_position="first")
    return ranked.drop_duplicates("datum", keep="last").set_index("datum").sort_index()


def _amortised_bound(rows: pd.DataFrame) -> pd.Series:
    """L[q] by datum, from the estimator with the most samples; may be empty."""
    found = rows[(rows["phase"] == ESTIMATE) & (rows["name"] == "elbo")]
    bounds = by_method(found)
    most = max(bounds, key=lambda method: method.options.get("num_samples", 0), default=None)
    return _by_datum(found if most is None else bounds[most])


def _widths(rows: pd.DataFrame | None) -> dict[str, list[float]]:
    if rows is None:
        return {}
    found = rows[rows["name"] == "width"]
    return {f"width ({by.label})": of["value"].tolist() for by, of in by_method(found).items()}


def summarise(measured: Sequence[Measured], runs: pd.DataFrame, digits: int = 2) -> list[Line]:
    """One line a configuration, split and setting: means over its runs.

    Args:
        measured: out of ``measure``.
        runs: theirs alone of the table ``runs``, perhaps out of ``over_training``.
        digits: decimals shown.
    """
    described = runs.set_index("id")
    labels = _settings(runs)
    shown = (*SHOWN, *(name for name in ("trained run", "epoch") if name in runs))
    groups: dict[tuple[Hashable, ...], list[Measured]] = {}
    for entry in measured:
        about = described.loc[entry.run]
        row = (*about[list(shown)], about["hash"], entry.setting, entry.split)
        groups.setdefault(row, []).append(entry)
    lines = []
    for row, entries in sorted(groups.items()):
        key = dict(zip((*shown, "hash", "optimisation", "split"), map(str, row), strict=True))
        key |= {"settings": labels[entries[0].run], "own family": entries[0].own or "-"}
        key |= {"runs": str(len(entries)), "data": _span([len(e.winners) for e in entries])}
        names = dict.fromkeys(name for entry in entries for name in entry.values)
        numbers = {name: _number(name, entries, digits) for name in names}
        winners = [winner for entry in entries for winner in entry.winners]
        lines.append(Line(key, numbers, winners_in_words(winners), _converged(entries)))
    return lines


def _settings(runs: pd.DataFrame) -> dict[str, str]:
    """By run id, in what its configuration (or its trained run's) differs from others alike."""
    method = "trained run" if "trained run" in runs else "hash"
    labels = configuration_labels(runs, SHOWN, method)
    return {run: labels[name] for run, name in zip(runs["id"], runs[method], strict=True)}


def _number(name: str, entries: Sequence[Measured], digits: int) -> Number:
    means = [seed_mean(entry.values[name]) for entry in entries if name in entry.values]
    mean = means[0] if len(means) == 1 else seed_mean([over_data.mean for over_data in means])
    error = mean.standard_error
    note = "" if len(means) == len(entries) else f" (n={len(means)})"
    if name in GAPS and error is not None and mean.mean < -ENOUGH * error:
        note += FLAG
    return Number(mean.mean, error, len(means), digits, note)


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"


def _converged(entries: Sequence[Measured]) -> dict[str, int]:
    """By family, per cent of all data of all runs; rounded down, so that 100 says all."""
    pooled: dict[str, list[bool]] = defaultdict(list)
    for entry in entries:
        for family, ended in entry.converged.items():
            pooled[family] += ended
    return {family: 100 * sum(of) // len(of) for family, of in sorted(pooled.items()) if of}


def winners_in_words(winners: Sequence[str]) -> str:
    """``AIS-100x500 87 %, IWAE-5000 13 %``."""

    counts = sorted(Counter(winners).items(), key=lambda item: (-item[1], item[0]))
    percents = [(winner, round(100 * count / len(winners))) for winner, count in counts]
    return ", ".join(f"{winner} {percent or '<1'} %" for winner, percent in percents)


def gap_table(
    lines: Sequence[Line],
    runs: pd.DataFrame,
    boundless: Sequence[str] = (),
    *,
    with_hash: bool = False,
) -> Table:
    """One row a line.

    Args:
        lines: out of ``summarise``.
        runs: theirs alone of the table ``runs``.
        boundless: out of ``without_bound``, for the caption.
        with_hash: add the configuration's hash, for programs.
    """
    names = list(dict.fromkeys(name for line in lines for name in line.numbers))
    optima = sorted(name for name in names if name.startswith("L[q*"))
    widths = sorted(name for name in names if name.startswith("width"))
    numbers = ["log_px", *optima, "elbo", *GAPS, *widths]
    described = ["trained run", "epoch", "own family", "optimisation", "split", "runs", "data"]
    described = [*SHOWN, "settings", *(["hash"] if with_hash else []), *described]
    first, none = lines[0].key, Number(None, None, 0)
    described = [name for name in described if name in first]
    if not any(line.key["settings"] for line in lines):
        described.remove("settings")
    all_converged = all(percent == 100 for line in lines for percent in line.converged.values())
    rows: list[list[Cell]] = [
        [
            *(Text(line.key[name]) for name in described),
            *(line.numbers.get(name, none) for name in numbers),
            *([] if all_converged else [Text(_converged_in_words(line))]),
            Text(line.winners),
        ]
        for line in lines
    ]
    pretty = PRETTY | {"elbo": "L[q]"}
    headings = [Heading(pretty.get(name, name)) for name in described]
    headings += [Heading(pretty.get(name, name), True) for name in numbers]
    headings += [] if all_converged else [Heading("converged")]
    headings.append(Heading("best estimator"))
    notes = [*([WIDTH_NOTE] if widths else []), *([] if all_converged else [CONVERGED_NOTE])]
    if any(FLAG in number.note for line in lines for number in line.numbers.values()):
        notes.append(FLAG_NOTE)
    if boundless:
        notes.append(f"{boundless_note(boundless)}.")
    return Table(headings, rows, (*CAPTION, *notes, *status_note(runs)))


def _converged_in_words(line: Line) -> str:
    """``AF 64 %, FFG 100 %``; a dash where it is not known."""
    return ", ".join(f"{family} {of} %" for family, of in line.converged.items()) or "-"
