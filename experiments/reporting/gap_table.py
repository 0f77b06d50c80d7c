"""The table of gaps: means over data and seeds, and what must be said of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from experiments.reporting.gap_estimates import boundless_note
from experiments.reporting.gaps import APPROXIMATION, GAPS, INFERENCE, Judgement, Measured
from experiments.reporting.labels import configuration_labels
from experiments.reporting.log_px import CAPTIONS
from experiments.reporting.queries import status_note
from experiments.reporting.reliability import MARK, NOTE, mark, percent
from experiments.reporting.statistics import Mean, Values, mean_of
from experiments.reporting.summary import ERRORS, PRETTY, SHOWN
from experiments.reporting.tables import Cell, Heading, Number, Table, Text
from utils.results.methods import Method

K = TypeVar("K")
V = TypeVar("V")

NEGATIVE, SMALL = " !", " ?"

CAPTION = (
    ERRORS + " That of a gap is of the data's own differences.",
    "In nats. approximation gap = log p(x) - L[q*], amortisation gap = L[q*] - L[q], inference "
    "gap = their sum, with L[q*] of the run's own family. 'log p(x) by' says what log p(x) is "
    "made of; FAMILY (SEARCH) is importance sampling with that q*.",
)
WIDTH_NOTE = (
    "width: upper less lower bound of bidirectional Monte Carlo, over data simulated from the "
    "model."
)
AT_MOST_NOTE = (
    "at most: the gap to the lower bound of annealed importance sampling, plus the width of "
    "bidirectional Monte Carlo with the same settings, for log p(x) may be higher than its "
    "estimates; not less than the gap itself."
)
CONVERGED_NOTE = (
    "converged: share of the data, rounded down, whose local optimisation ended by its own rule; "
    "the others were stopped before, so that L[q*] may be too low."
)
NEGATIVE_NOTE = (
    f"{NEGATIVE.strip()}: the whole 95 % interval is below zero, where no true gap is: the local "
    "optimisation has not converged or log p(x) is estimated too low."
)
SMALL_NOTE = f"{SMALL.strip()}: smaller than its own error."
OWNLESS_NOTE = (
    "own family -: the run's own posterior is not among the families that were optimised locally, "
    "so there are no gaps."
)


@dataclass(frozen=True)
class Line:
    """One row: ``key`` says of what by column.

    ``numbers`` are ``log_px``, ``elbo`` and the gaps by name, ``optima`` L[q*] by family,
    ``above`` bounds of gaps from above, ``widths`` those of bidirectional Monte Carlo.
    ``log_px_by`` says what log p(x) is made of, ``ways`` in which ways; ``converged`` by family,
    per cent of the data.
    """

    key: Mapping[str, str]
    numbers: Mapping[str, Number]
    optima: Mapping[str, Number]
    above: Mapping[str, Number]
    widths: Mapping[Method, Number]
    log_px_by: str
    ways: Sequence[str]
    converged: Mapping[str, int]


def summarise(measured: Sequence[Measured], runs: pd.DataFrame, digits: int = 2) -> list[Line]:
    """One line a configuration, split and search: means over its runs.

    Args:
        measured: out of ``measure``.
        runs: theirs alone of the table ``runs``, perhaps out of ``over_training``.
        digits: decimals shown at most.
    """
    described = runs.set_index("id")
    labels = _settings(runs)
    shown = (*SHOWN, *(name for name in ("trained run", "epoch") if name in runs))
    groups: dict[tuple[Hashable, ...], list[Measured]] = {}
    for entry in measured:
        about = described.loc[entry.run]
        row = (*about[list(shown)], about["hash"], entry.search, entry.split)
        groups.setdefault(row, []).append(entry)
    lines = []
    for row, entries in sorted(groups.items()):
        key = dict(zip((*shown, "hash", "optimisation", "split"), map(str, row), strict=True))
        key |= {"settings": labels[entries[0].run], "own family": entries[0].own or "-"}
        key |= {"runs": str(len(entries))}
        key |= {"data": _span([len(entry.log_px.reliable) for entry in entries])}
        checksums = described.loc[[entry.run for entry in entries], "data_checksum"]
        numbers = _Numbers(entries, checksums.nunique() == 1, digits)
        ways = sorted({entry.log_px.way for entry in entries})
        lines.append(
            Line(
                key,
                numbers.named(),
                numbers.optima(),
                numbers.above(),
                numbers.widths(),
                f"{' and '.join(ways)}: {shares_in_words(_shares(entries))}{_left_out(entries)}",
                ways,
                _converged(entries),
            )
        )
    return lines


def _settings(runs: pd.DataFrame) -> dict[str, str]:
    """By run id, in what its configuration (or its trained run's) differs from others alike."""
    method = "trained run" if "trained run" in runs else "hash"
    labels = configuration_labels(runs, SHOWN, method)
    return {run: labels[name] for run, name in zip(runs["id"], runs[method], strict=True)}


class _Numbers:
    """The numbers of one line: each the mean over the runs that have it."""

    def __init__(self, entries: Sequence[Measured], same_data: bool, digits: int) -> None:
        self._entries, self._same_data, self._digits = entries, same_data, digits

    def named(self) -> dict[str, Number]:
        """``log_px``, ``elbo`` and the gaps; those that say little are marked."""
        doubt = mark(np.concatenate([entry.log_px.reliable for entry in self._entries]))
        log_px = self._mean([entry.log_px.values for entry in self._entries])
        numbers = {"log_px": self._number(log_px, doubt)}
        for name, found in _by_name([entry.values for entry in self._entries]).items():
            mean = self._mean(found)
            note = _remark(mean) if name in GAPS else ""
            note += doubt if name in (APPROXIMATION, INFERENCE) else ""
            numbers[name] = self._number(mean, note)
        return numbers

    def optima(self) -> dict[str, Number]:
        """L[q*] by family."""
        found = _by_name([entry.optima for entry in self._entries])
        return {family: self._number(self._mean(values)) for family, values in found.items()}

    def above(self) -> dict[str, Number]:
        """Bounds of gaps from above: to the estimator that a width judges, plus that width.

        Noise may put one below the gap itself, which then is the bound.
        """
        numbers = {}
        for gap, found in _by_name([entry.judged for entry in self._entries]).items():
            entries = [entry for entry in self._entries if gap in entry.judged]
            width, doubt = _width([entry.judgements[0] for entry in entries])
            above = self._mean(found).plus(width)
            least = self._mean([entry.values[gap] for entry in entries]).mean
            numbers[gap] = self._number(above._replace(mean=max(above.mean, least)), doubt)
        return numbers

    def widths(self) -> dict[Method, Number]:
        """Of bidirectional Monte Carlo, each run on data of its own."""
        entries = [{of.by: of for of in entry.judgements} for entry in self._entries]
        found = _by_name(entries).items()
        return {method: self._number(*_width(judgements)) for method, judgements in found}

    def _mean(self, found: Sequence[Values]) -> Mean:
        return mean_of(found, same_data=self._same_data)

    def _number(self, mean: Mean, note: str = "") -> Number:
        few = "" if mean.num_runs == len(self._entries) else f" (n={mean.num_runs})"
        return Number.of(mean, self._digits, few + note)


def _width(judgements: Sequence[Judgement]) -> tuple[Mean, str]:
    """Mean width, and the mark of data whose width cannot be believed."""
    doubt = mark(np.concatenate([judgement.reliable for judgement in judgements]))
    return mean_of([judgement.width for judgement in judgements], same_data=False), doubt


def _by_name(entries: Sequence[Mapping[K, V]]) -> dict[K, list[V]]:
    found: dict[K, list[V]] = {}
    for entry in entries:
        for name, value in entry.items():
            found.setdefault(name, []).append(value)
    return found


def _remark(gap: Mean) -> str:
    if gap.standard_error is None:
        return ""
    if gap.mean + gap.reach * gap.standard_error < 0:
        return NEGATIVE
    return SMALL if abs(gap.mean) < gap.standard_error else ""


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"


def _shares(entries: Sequence[Measured]) -> dict[str, float]:
    """What log p(x) is made of: by label, the mean share over all data of all runs."""
    shares: dict[str, float] = defaultdict(float)
    size = sum(len(entry.log_px.reliable) for entry in entries)
    for entry in entries:
        for method, share in entry.log_px.shares.items():
            shares[method.label] += float(np.nansum(share)) / size
    return shares


def _left_out(entries: Sequence[Measured]) -> str:
    """What log p(x) is not made of, though it was measured."""
    labels = sorted({method.label for entry in entries for method in entry.log_px.left_out})
    return f"; left out: {', '.join(labels)}" if labels else ""


def shares_in_words(shares: Mapping[str, float]) -> str:
    """``AIS-100x500 87 %, IWAE-5000 13 %``; what has no share is left out."""
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {percent(100 * share)} %" for name, share in ordered if share > 0)


def _converged(entries: Sequence[Measured]) -> dict[str, int]:
    """By family, per cent of all data of all runs; rounded down, so that 100 says all."""
    pooled: dict[str, list[bool]] = defaultdict(list)
    for entry in entries:
        for family, ended in entry.converged.items():
            pooled[family] += ended
    return {family: 100 * sum(of) // len(of) for family, of in sorted(pooled.items()) if of}


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
    described = ["trained run", "epoch", "own family", "optimisation", "split", "runs", "data"]
    described = [*SHOWN, "settings", *(["hash"] if with_hash else []), *described]
    described = [name for name in described if name in lines[0].key]
    if not any(line.key["settings"] for line in lines):
        described.remove("settings")
    columns: list[tuple[Heading, list[Cell]]] = [
        (Heading(PRETTY.get(name, name)), [Text(line.key[name]) for line in lines])
        for name in described
    ]
    columns += [
        (Heading(label, True), list(numbers)) for label, numbers in _columns(lines).items()
    ]
    notes = _notes(lines)
    if not all(percent == 100 for line in lines for percent in line.converged.values()):
        notes.append(CONVERGED_NOTE)
        columns.append((Heading("converged"), [Text(_converged_in_words(of)) for of in lines]))
    columns.append((Heading("log p(x) by"), [Text(line.log_px_by) for line in lines]))
    notes += [f"{boundless_note(boundless)}."] if boundless else []
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    headings = [heading for heading, _ in columns]
    return Table(headings, rows, (*CAPTION, *notes, *status_note(runs)))


def _columns(lines: Sequence[Line]) -> dict[str, list[Number]]:
    """By heading, the numbers of all lines; a dash where a line has none."""
    none = Number(None, None, 0)
    families = sorted({family for line in lines for family in line.optima})
    methods = {method for line in lines for method in line.widths}
    columns = {"log p(x)": [line.numbers["log_px"] for line in lines]}
    for family in families:
        columns[f"L[q*_{family}]"] = [line.optima.get(family, none) for line in lines]
    columns["L[q]"] = [line.numbers.get("elbo", none) for line in lines]
    for gap in GAPS:
        columns[gap] = [line.numbers.get(gap, none) for line in lines]
        if any(gap in line.above for line in lines):
            columns[f"{gap} at most"] = [line.above.get(gap, none) for line in lines]
    for method in sorted(methods, key=lambda method: method.order):
        columns[f"width ({method.label})"] = [line.widths.get(method, none) for line in lines]
    return columns


def _notes(lines: Sequence[Line]) -> list[str]:
    """What the caption says of ways, marks and columns that are there."""
    mappings = [m for line in lines for m in (line.numbers, line.above, line.widths)]
    marks = "".join(number.note for numbers in mappings for number in numbers.values())
    notes = [CAPTIONS[way] for way in sorted({way for line in lines for way in line.ways})]
    conditions = {
        WIDTH_NOTE: any(line.widths for line in lines),
        AT_MOST_NOTE: any(line.above for line in lines),
        NEGATIVE_NOTE: NEGATIVE in marks,
        SMALL_NOTE: SMALL in marks,
        NOTE: MARK in marks,
        OWNLESS_NOTE: any(line.key["own family"] == "-" for line in lines),
    }
    return notes + [note for note, is_due in conditions.items() if is_due]


def _converged_in_words(line: Line) -> str:
    """``AF 64 %, FFG 100 %``; a dash where it is not known."""
    return ", ".join(f"{family} {of} %" for family, of in line.converged.items()) or "-"
