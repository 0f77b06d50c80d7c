"""Of which runs gaps are, and the estimates that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.reporting import ReportError
from experiments.reporting.labels import seedless
from experiments.reporting.log_px import NAMES as LOG_PX_NAMES
from experiments.reporting.queries import ESTIMATE, LOCAL, load_estimates, load_runs
from experiments.reporting.reliability import ABOUT
from utils.results.database import ResultsDatabase

OF_LOG_PX = (*LOG_PX_NAMES, *ABOUT)  # what goes with an estimate of log p(x)
NAMES = ("elbo", "width", "converged", *OF_LOG_PX)  # what the table is made of
# With the weights, what L[q] depends on:
SAME = ("data", "model", "encoder", "posterior", "refinement", "plugins")
PARTS = {"model", "encoder", "posterior"}
NAMED = 8  # runs of which a message tells the ids


def over_training(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that measured an epoch of another; ``trained run`` and ``epoch`` say which.

    ``trained run`` is without its seed where that is the measuring run's own. ``initialise`` is
    taken out of their configurations. Raises ReportError when there are none.
    """
    weights = [(config.get("initialise") or {}).get("weights") for config in runs["config"]]
    chosen = runs[[isinstance(of, int) for of in weights]]
    if chosen.empty:
        raise ReportError(
            "no run here measures an epoch of another: train with runtime.keep_epochs, then set "
            "initialise.run and an epoch as initialise.weights in a run that does not train"
        )
    origins = [config["initialise"] for config in chosen["config"]]
    columns = {
        "trained run": [
            seedless(origin["run"], seed)
            for origin, seed in zip(origins, chosen["seed"], strict=True)
        ],
        "epoch": [origin["weights"] for origin in origins],
        "config": [config | {"initialise": None} for config in chosen["config"]],
    }
    return chosen.assign(**columns)


def load(database: ResultsDatabase, runs: pd.DataFrame) -> pd.DataFrame:
    """What the gaps of ``runs`` are made of: their estimates, and those lent to them.

    Columns: those of ``load_estimates``.
    """
    everything = load_runs(database)
    lenders = find_lenders(runs, everything)
    needed = everything[everything["id"].isin([*runs["id"], *lenders.values()])]
    return lend(load_estimates(database, needed, NAMES), runs, lenders)


def find_lenders(runs: pd.DataFrame, everything: pd.DataFrame) -> dict[str, str]:
    """For runs with nothing but another one's weights: the run that may lend its estimates.

    That is the one which the weights are from, provided that it was itself measured with them, on
    the same data with the same model, posterior and refinement.
    """
    configs = dict(zip(everything["id"], everything["config"], strict=True))
    lenders = {}
    for run, config in zip(runs["id"], runs["config"], strict=True):
        origin = config.get("initialise") or {}
        other = configs.get(origin.get("run"))
        if other is None or "train" in config["phases"] or set(origin["parts"]) != PARTS:
            continue
        same_weights = origin["weights"] == other["evaluation"]["weights"]
        if same_weights and all(config.get(name) == other.get(name) for name in SAME):
            lenders[run] = origin["run"]
    return lenders


def lend(estimates: pd.DataFrame, runs: pd.DataFrame, lenders: Mapping[str, str]) -> pd.DataFrame:
    """The estimates of ``runs``, with those of their lenders by names that they lack on a split.

    Args:
        estimates: out of ``load_estimates``; of ``runs`` and of lenders.
        runs: whose rows are wanted.
        lenders: the lender's id by the borrower's.
    """
    own = estimates[estimates["run"].isin(runs["id"])]
    amortised = estimates[estimates["phase"] == ESTIMATE]
    # What goes with an estimate of log p(x) is lent with it or not at all.
    subject = amortised["name"].mask(amortised["name"].isin(OF_LOG_PX), "log_px")
    amortised = amortised.assign(subject=subject)
    key = ["run", "split", "subject"]
    known = pd.MultiIndex.from_frame(amortised[key])
    lent = [own]
    for borrower, lender in lenders.items():
        rows = amortised[amortised["run"] == lender].assign(run=borrower)
        lent.append(rows[~pd.MultiIndex.from_frame(rows[key]).isin(known)].drop(columns="subject"))
    return pd.concat(lent, ignore_index=True)


def own_family(config: Mapping[str, Any]) -> str | None:
    """Label of the run's own family among those it optimises locally; None: it is not there."""
    posterior, options = config["posterior"], config.get(LOCAL) or {}
    if "own" in options:
        return options["own"] or None
    # Runs of before the label was noted: the family with the same options.
    families = options.get("families") or {posterior["name"]: posterior}
    return next((label for label, node in families.items() if node == posterior), None)


def without_bound(estimates: pd.DataFrame) -> list[str]:
    """The runs that were optimised locally but measured by an estimator which gives no L[q*]."""
    local = estimates[estimates["phase"] == LOCAL]
    return sorted({*local["run"]} - {*local.loc[local["name"] == "elbo", "run"]})


def boundless_note(runs: Sequence[str]) -> str:
    """What is said of the runs ``without_bound``."""
    more = [f"{len(runs) - NAMED} more"] if len(runs) > NAMED else []
    return (
        f"{len(runs)} run(s) optimised locally have no row, because their "
        "local_optimisation.estimator gives no bound L[q*] (importance does): "
        f"{', '.join([*runs[:NAMED], *more])}"
    )
