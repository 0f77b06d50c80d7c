"""By what a number was measured: an estimator with its settings, and of which posterior."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Labels leave out these settings of Cremer et al. 2018: path and schedule of AIS, and its steps.
USUAL = ("prior", "linear")
USUAL_LEAPFROG = 10

FROM_ABOVE = "exact_draws"
"""The estimator whose noise leans upwards, so that it would always be the largest."""

INFORMATION, UNITS = "information", "units"
"""What z tells of each datum; and of each dimension of z, whose index stands for the datum."""

Form = Callable[[dict[str, Any]], tuple[str, list[str]]]
"""Makes the head of a label and the words in brackets after it."""


class Method(NamedTuple):
    """The columns of an estimate that say by what it was measured.

    ``estimator`` is the name under which it is registered; ``settings`` are those of its options
    that change what it measures, as ``settings_text`` writes them. ``family`` is the label of the
    locally optimised family and ``search`` that of the search for it; both are empty where the
    run's own amortised posterior was measured.
    """

    estimator: str
    settings: str = "{}"
    family: str = ""
    search: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The settings by name."""
        options: dict[str, Any] = json.loads(self.settings)
        return options

    @property
    def label(self) -> str:
        """What a person sees: ``IWAE-5000``, ``AIS-500x100 (adaptive)``, ``FFG (fast)``.

        Random streams and metrics go by the same text, so the label of a method must never
        change. Nothing takes a label apart.
        """
        if self.family:
            return f"{self.family} ({self.search})"
        return _label(self.estimator, self.options)

    @property
    def order(self) -> tuple[str, ...]:
        """Sorts methods by name and then by the size of their settings."""
        numbers = [f"{name}{value!s:>30}" for name, value in sorted(self.options.items())]
        return self.family, self.search, self.estimator, *numbers


def settings_text(options: Mapping[str, Any]) -> str:
    """Options as compact JSON, sorted by name; null counts as not given, as in a run's hash."""
    return json.dumps(_given(options), sort_keys=True, separators=(",", ":"))


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _given(item) for name, item in value.items() if item is not None}
    return [_given(item) for item in value] if isinstance(value, (list, tuple)) else value


def _label(estimator: str, options: Mapping[str, Any]) -> str:
    rest = dict(options)
    head, words = FORMS.get(estimator, lambda _: (estimator, []))(rest)
    words += [f"{name}={value}" for name, value in rest.items()]
    return f"{head} ({', '.join(words)})" if words else head


def _importance(options: dict[str, Any]) -> tuple[str, list[str]]:
    return f"IWAE-{options.pop('num_samples')}", []


def _particles(options: dict[str, Any]) -> tuple[str, list[str]]:
    """``particles-100x50`` (draws of a set × sets)."""
    return f"particles-{options.pop('num_samples')}x{options.pop('num_sets')}", []


def _annealed(method: str) -> Form:
    """``AIS-500x100`` (distributions × chains)."""

    def form(options: dict[str, Any]) -> tuple[str, list[str]]:
        head = f"{method}-{options.pop('num_distributions')}x{options.pop('num_chains')}"
        words = [str(way) for way in map(options.pop, ("path", "schedule")) if way not in USUAL]
        if (steps := options.pop("num_leapfrog")) != USUAL_LEAPFROG:
            words.append(f"{steps} leapfrog")
        if (share := options.pop("resample_below", None)) is not None:
            words.append(f"resampled below ESS {share:g}")
        return head, words

    return form


def _several(method: str) -> Form:
    """``max(IWAE-5000, AIS-500x100)``."""

    def form(options: dict[str, Any]) -> tuple[str, list[str]]:
        parts = [dict(part) for part in options.pop("of")]
        return f"{method}({', '.join(_label(part.pop('name'), part) for part in parts)})", []

    return form


def _of_data(method: str) -> Form:
    """``units-250`` (data)."""
    return lambda options: (f"{method}-{options.pop('num_data')}", [])


FORMS: Mapping[str, Form] = {
    "importance": _importance,
    "particles": _particles,
    "exact_draws": lambda options: (f"draws-{options.pop('num_samples')}", []),
    "ais": _annealed("AIS"),
    "bdmc": _annealed("BDMC"),
    "combined": _several("combined"),
    "max": _several("max"),
    INFORMATION: _of_data(INFORMATION),
    UNITS: _of_data(UNITS),
}
"""By estimator, its label; each takes out of the options what it has put into words."""
