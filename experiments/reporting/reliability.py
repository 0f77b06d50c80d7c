"""Which estimates cannot be believed, and the mark that they carry in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.results.methods import Method

MARK = "†"
HALVES = ("log_px_a", "log_px_b")  # log p(x) by two independent halves of the draws
RELIABLE_HALVES = ("reliable_a", "reliable_b")
ABOUT = ("reliable", "ess", "k_hat")  # what an estimator says of its own log p(x)
MARKED = ("log_px", "upper", "width")  # what that is said of
LARGEST_K_HAT = 0.7
FEWEST_CHAINS, SMALLEST_SHARE = 3.0, 0.05  # effective ones

NOTE = (
    f"{MARK}: the share of the data whose estimate cannot be believed; it may be too low by many "
    f"times its error. k-hat of importance weights is above {LARGEST_K_HAT} (or above "
    f"1 - 1/log10 K for few draws), or the effective number of annealed chains, or of sets of "
    f"particles, is below {FEWEST_CHAINS:g} or {SMALLEST_SHARE:.0%} of all, or the error is not "
    "known."
)


def is_reliable(rows: pd.DataFrame, method: Method) -> pd.Series:
    """By run and datum, whether an estimate of log p(x) can be believed, as far as is known.

    Args:
        rows: of one split and ``method``; those named in ``ABOUT`` and ``MARKED``.
        method: whose they are.
    """
    key = ["run", "datum"]
    found = rows.pivot(index=key, columns="name", values="value")
    good = pd.Series(True, found.index)
    if "k_hat" in found:
        good &= ~(found["k_hat"] > LARGEST_K_HAT)
    if "ess" in found and "num_chains" in method.options:
        enough = max(FEWEST_CHAINS, SMALLEST_SHARE * method.options["num_chains"])
        good &= ~(found["ess"] < enough)
    if "reliable" in found:  # else the run is of before estimators said so themselves
        good = good.where(found["reliable"].isna(), found["reliable"] == 1)
    errors = rows[rows["name"] == "log_px"].set_index(key)["standard_error"].astype(float)
    return good & errors.abs().lt(math.inf).reindex(good.index, fill_value=True)


def mark(reliable: Sequence[bool] | np.ndarray) -> str:
    """What follows a number made of such data, `` †12 %``; nothing where all can be believed."""
    share = 100 * (1 - float(np.mean(reliable))) if len(reliable) else 0.0
    return f" {MARK}{percent(share)} %" if share > 0 else ""


def percent(share: float) -> str:
    """A share in per cent, ``<1`` for what would be rounded to nothing."""
    return str(round(share)) if round(share) or share == 0 else "<1"
