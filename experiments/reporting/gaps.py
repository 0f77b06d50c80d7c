"""What a bound loses to its family and to its encoder, datum by datum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.reporting import ReportError
from experiments.reporting.gap_estimates import boundless_note, own_family, without_bound
from experiments.reporting.log_px import EXACT, Convention, LogPx, log_px_of
from experiments.reporting.queries import (
    ESTIMATE,
    LOCAL,
    SIMULATED,
    by_method,
    choose,
    values_of,
)
from experiments.reporting.reliability import is_reliable
from experiments.reporting.statistics import Values
from utils.results.methods import Method

GAPS = ("approximation gap", "amortisation gap", "inference gap")
APPROXIMATION, AMORTISATION, INFERENCE = GAPS
AIS = "ais"  # what bidirectional Monte Carlo of the same settings judges

Search = tuple[str, str, str]
"""Run, split and search."""


class Judgement(NamedTuple):
    """What bidirectional Monte Carlo says of AIS with its settings.

    ``width`` and ``reliable`` (N,) are of simulated data, ``lower`` is log p(x) by that AIS.
    """

    by: Method
    width: Values
    reliable: np.ndarray
    lower: Values | None


@dataclass(frozen=True)
class Measured:
    """One run's numbers on one split, with the q* of one search.

    ``own`` labels the run's own family, where that was optimised. ``optima`` are L[q*] by family;
    ``values`` are ``elbo`` (L[q]) and the gaps by name; all are of the same data, those of
    ``log_px``. ``judged`` are the gaps to the lower bound of the first of ``judgements``, where it
    has one: with its width they are bounds from above. ``converged``: by family, whether the
    search of each of these data ended by its own rule, where that is known.
    """

    run: str
    split: str
    search: str
    own: str | None
    optima: Mapping[str, Values]
    values: Mapping[str, Values]
    log_px: LogPx
    judgements: Sequence[Judgement]
    judged: Mapping[str, Values]
    converged: Mapping[str, Sequence[bool]]


def measure(
    estimates: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    convention: Convention = "combined",
    splits: Sequence[str] = (),
) -> list[Measured]:
    """The numbers of each run, split and search of local optimisation, datum by datum.

    Args:
        estimates: out of ``gap_estimates.load``; of ``runs``.
        runs: their rows of the table ``runs``.
        convention: how log p(x) is made of its estimates.
        splits: only these.

    Raises ReportError when nothing was optimised locally, or nothing with a bound.
    """
    local = estimates[estimates["phase"] == LOCAL]
    bounds = local[local["name"] == "elbo"]
    if bounds.empty:
        raise _nothing_measured(estimates, len(runs))
    ends = _by_search(local[local["name"] == "converged"])
    rows = dict(iter(estimates.groupby(["run", "split"])))
    configs = dict(zip(runs["id"], runs["config"], strict=True))
    measured = []
    for search, optima in _by_search(choose(bounds, "split", splits)).items():
        run, split, _ = search
        own = own_family(configs[run])
        known = _Known(
            own if own in optima else None,
            optima,
            _amortised_bound(rows[run, split]),
            log_px_of(rows[run, split], convention),
        )
        judgements = _judgements(rows.get((run, SIMULATED)), rows[run, split])
        measured.append(_measured(search, known.common(), judgements, ends.get(search, {})))
    return measured


def _nothing_measured(estimates: pd.DataFrame, num_runs: int) -> ReportError:
    if boundless := without_bound(estimates):
        return ReportError(boundless_note(boundless))
    return ReportError(
        f"nothing was optimised locally in the {num_runs} run(s) chosen: gaps need `python "
        "main.py -config FILE -set 'phases=[train,local_optimisation,estimate]'`"
    )


class _Known(NamedTuple):
    """What gaps are made of."""

    own: str | None
    optima: Mapping[str, Values]
    elbo: Values | None
    log_px: LogPx

    def common(self) -> _Known:
        """The same of the data that all numbers are of; NaN is such a number."""
        data = self.log_px.values.data
        for values in (*self.optima.values(), *([] if self.elbo is None else [self.elbo])):
            data = np.intersect1d(data, values.data)
        optima = {family: values.of(data) for family, values in self.optima.items()}
        elbo = None if self.elbo is None else self.elbo.of(data)
        return _Known(self.own, optima, elbo, self.log_px.of(data))

    def gaps(self, log_px: Values) -> dict[str, Values]:
        """Those of which both ends are known."""
        if self.own is None:
            return {}
        best = self.optima[self.own]
        gaps = {APPROXIMATION: log_px.minus(best)}
        if self.elbo is not None:
            gaps |= {AMORTISATION: best.minus(self.elbo), INFERENCE: log_px.minus(self.elbo)}
        return gaps


def _measured(
    search: Search, known: _Known, judgements: Sequence[Judgement], ends: Mapping[str, Values]
) -> Measured:
    log_px, judged = known.log_px.values, {}
    if judgements and judgements[0].lower is not None and known.log_px.way != EXACT:
        judged = known.gaps(judgements[0].lower)
        judged.pop(AMORTISATION, None)  # does not end at log p(x)
    elbo = {} if known.elbo is None else {"elbo": known.elbo}
    return Measured(
        *search,
        known.own,
        known.optima,
        elbo | known.gaps(log_px),
        known.log_px,
        judgements,
        judged,
        {family: (of.of(log_px.data).value == 1).tolist() for family, of in ends.items()},
    )


def _by_search(local: pd.DataFrame) -> dict[Search, dict[str, Values]]:
    """By run, split and search, and in that by family."""
    found: dict[Search, dict[str, Values]] = {}
    for key, of in local.groupby(["run", "split", "search", "family"]):
        run, split, search, family = map(str, key)
        found.setdefault((run, split, search), {})[family] = values_of(of)
    return found


def _amortised_bound(rows: pd.DataFrame) -> Values | None:
    """L[q] from the estimator with the most samples."""
    bounds = by_method(rows[(rows["phase"] == ESTIMATE) & (rows["name"] == "elbo")])
    if not bounds:
        return None
    most = max(bounds, key=lambda method: method.options.get("num_samples", 0))
    return values_of(bounds[most])


def _judgements(simulated: pd.DataFrame | None, rows: pd.DataFrame) -> list[Judgement]:
    """Those of an AIS that measured the data, too, come first."""
    if simulated is None:
        return []
    lower = {m: values_of(of) for m, of in by_method(rows[rows["name"] == "log_px"]).items()}
    judgements = [
        Judgement(
            method,
            values_of(of[of["name"] == "width"]),
            is_reliable(of, method).to_numpy(),
            lower.get(method._replace(estimator=AIS)),
        )
        for method, of in by_method(simulated).items()
        if (of["name"] == "width").any()
    ]
    return sorted(judgements, key=lambda judgement: judgement.lower is None)
