"""log p(x) of each datum out of a run's several estimates, by one of several conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from estimators.combination import combine
from experiments.reporting.queries import by_method
from experiments.reporting.reliability import HALVES, RELIABLE_HALVES, is_reliable
from experiments.reporting.statistics import Values
from utils.results.methods import FROM_ABOVE, Method

Convention = Literal["combined", "max"]
EXACT = "exact"  # the estimator that makes no error
NAMES = ("log_px", *HALVES, *RELIABLE_HALVES)

CAPTIONS = {
    EXACT: "exact: log p(x) has a closed form.",
    "combined": (
        "combined: log p(x) of a datum is the mean of its estimates, with weights that select on "
        "no noise: half of the draws says how large the errors are, the other half is weighted by "
        "that, and the other way round. p(x) is estimated without bias. Shares are mean weights."
    ),
    "max": (
        "max: log p(x) is the largest estimate of each datum, as in Cremer et al. 2018. Estimates "
        "are noisy lower bounds, so the largest leans upwards by about their noise. Shares say "
        "how often each was the largest."
    ),
    "least error": (
        "least error: log p(x) is the estimate of the smallest standard error of each datum; "
        "these runs were made before estimates came in halves that can be combined. Shares say "
        "how often each was it."
    ),
}
"""What the caption says of each way that log p(x) was made in."""


class LogPx(NamedTuple):
    """log p(x) datum by datum.

    ``shares`` (N,) by method sum to 1; ``reliable`` (N,) says whether the number can be believed;
    ``way`` is a key of ``CAPTIONS``. ``left_out`` are estimates that cannot be part of that way:
    they have no halves to combine, or lean upwards.
    """

    values: Values
    shares: Mapping[Method, np.ndarray]
    reliable: np.ndarray
    way: str
    left_out: Sequence[Method] = ()

    def of(self, data: np.ndarray) -> LogPx:
        """The same of the given data."""
        chosen = np.isin(self.values.data, data)
        shares = {method: share[chosen] for method, share in self.shares.items()}
        values, reliable = self.values.of(data), self.reliable[chosen]
        return self._replace(values=values, shares=shares, reliable=reliable)


class _Estimates(NamedTuple):
    """By method and datum (E, N): one number of each, NaN where there is none."""

    value: np.ndarray
    error: np.ndarray


def log_px_of(rows: pd.DataFrame, convention: Convention) -> LogPx:
    """log p(x) of a run's data on a split.

    Args:
        rows: of one run and split, out of ``load_estimates``; some of them estimate log p(x).
        convention: ``combined`` unless no estimate has halves; exact answers beat all. Estimates
            that lean upwards count where there are no others.
    """
    every = by_method(rows)
    names = {method: set(of["name"]) for method, of in every.items()}
    found = [method for method, known in names.items() if known & {"log_px", *HALVES}]
    methods = [method for method in found if method.estimator != FROM_ABOVE] or found
    exact = [method for method in methods if method.estimator == EXACT]
    halved = [method for method in methods if names[method] >= set(HALVES)]
    if exact:
        return _chosen({m: every[m] for m in exact}, _largest, EXACT)
    if convention == "max":
        made = _chosen({m: every[m] for m in methods}, _largest, "max")
    elif halved:
        made = _combined({m: every[m] for m in halved})
    else:
        made = _chosen({m: every[m] for m in methods}, _least_error, "least error")
    return made._replace(left_out=[method for method in found if method not in made.shares])


def _chosen(
    methods: Mapping[Method, pd.DataFrame],
    choose: Callable[[_Estimates, np.ndarray], np.ndarray],
    way: str,
) -> LogPx:
    """One of the estimates of each datum."""
    data = _data(methods, "log_px")
    estimates = _estimates(methods, "log_px", data)
    good = [is_reliable(of, method).droplevel("run") for method, of in methods.items()]
    reliable = np.stack([of.reindex(data, fill_value=False) for of in good])
    chosen = choose(estimates, reliable)[None]  # (1, N)
    value, error, good = (
        np.take_along_axis(array, chosen, 0)[0] for array in (*estimates, reliable)
    )
    shares = {method: (chosen[0] == e).astype(float) for e, method in enumerate(methods)}
    return LogPx(Values(data, value, error), shares, good, way)


def _largest(estimates: _Estimates, reliable: np.ndarray) -> np.ndarray:
    return np.nan_to_num(estimates.value, nan=-np.inf, posinf=np.inf, neginf=-np.inf).argmax(0)


def _least_error(estimates: _Estimates, reliable: np.ndarray) -> np.ndarray:
    """The one of the smallest error; those that cannot be believed come after all others."""
    error = np.where(np.isfinite(estimates.error), estimates.error, np.inf)
    order = np.lexsort((error, ~reliable, np.isnan(estimates.value)), axis=0)
    return np.asarray(order[0])


def _combined(methods: Mapping[Method, pd.DataFrame]) -> LogPx:
    data = _data(methods, HALVES[0])
    halves = [_estimates(methods, name, data) for name in HALVES]
    value, error = (np.stack(arrays, 1) for arrays in zip(*halves, strict=True))  # (E, 2, N)
    said = np.stack([_estimates(methods, name, data).value for name in RELIABLE_HALVES], 1)
    reliable = (said != 0) & np.isfinite(error)  # NaN: an estimator that does not say
    found = combine(*map(torch.from_numpy, (value, error, reliable)))
    values = Values(data, found.log_px.numpy(), found.standard_error.numpy())
    shares = dict(zip(methods, found.weight.numpy(), strict=True))
    believed = (reliable & ~np.isnan(value)).all(1).any(0)  # some estimator, in both halves
    return LogPx(values, shares, believed, "combined")


def _data(methods: Mapping[Method, pd.DataFrame], name: str) -> np.ndarray:
    """The data of which any method gives that number."""
    return np.unique(
        np.concatenate([of.loc[of["name"] == name, "datum"] for of in methods.values()])
    )


def _estimates(methods: Mapping[Method, pd.DataFrame], name: str, data: np.ndarray) -> _Estimates:
    """One number of each method for each of ``data``, which are sorted."""
    value, error = np.full((2, len(methods), len(data)), np.nan)
    for index, of in enumerate(methods.values()):
        chosen = (of["name"] == name).to_numpy() & of["datum"].isin(data).to_numpy()
        at = np.searchsorted(data, of["datum"].to_numpy()[chosen])
        value[index, at] = of["value"].to_numpy(dtype=float)[chosen]
        error[index, at] = of["standard_error"].to_numpy(dtype=float)[chosen]
    return _Estimates(value, error)
