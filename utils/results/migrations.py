"""Estimates of the first form, read as those of today: the only place that knows that form.

They had a label, ``AIS-500x100 (adaptive)`` or ``FFG (fast)``, where a ``Method`` has columns
now. The run's configuration says which method a label stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utils.results.methods import Method, settings_text

FIRST_HEADER = ("phase", "estimator", "split", "datum", "name", "value", "standard_error")
NO_SETTINGS = ("name", "chunk_size")  # what an estimator's node holds beside its settings

Convert = Callable[[Sequence[str]], list[str]]
"""Turns the cells of an earlier row into those of a row of today."""


def converter(header: Sequence[str], config: Mapping[str, Any]) -> Convert | None:
    """What turns the rows of an estimates.csv with that header into rows of today.

    Args:
        header: of the file.
        config: the run's resolved configuration.

    Returns:
        None where the header is of no earlier form.
    """
    if tuple(header) != FIRST_HEADER:
        return None

    def convert(texts: Sequence[str]) -> list[str]:
        phase, label, split, datum, name, value, error = texts
        return [phase, *method_of(phase, label, config), split, name, datum, value, error]

    return convert


def method_of(phase: str, label: str, config: Mapping[str, Any]) -> Method:
    """The method that a label of the first form stands for in a run.

    A label that nothing in ``config`` explains becomes the estimator's name, so that nothing of
    it is lost.
    """
    if phase == "local_optimisation":
        return _local_method(label, config)
    nodes = config.get("evaluation", {}).get("estimators", ())
    return next((m for m in map(_method, nodes) if m.label == label), Method(label))


def _local_method(label: str, config: Mapping[str, Any]) -> Method:
    """``FAMILY (SEARCH)``, measured by the estimator of that phase; both may hold brackets."""
    options = config.get("local_optimisation", {})
    known = [*options.get("families", ()), config.get("posterior", {}).get("name", "")]
    heads = [family for family in known if label.startswith(f"{family} (")]
    family = max(heads, key=len, default=label.partition(" (")[0])
    node = options.get("estimator", {"name": "importance"})
    search = label[len(family) + 2 : -1]
    return _method(node)._replace(family=family, search=search)


def _method(node: Mapping[str, Any]) -> Method:
    return Method(node["name"], settings_text(_settings(node)))


def _settings(node: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in node.items() if name not in NO_SETTINGS}
    if "of" in settings:
        settings["of"] = [{"name": part["name"], **_settings(part)} for part in settings["of"]]
    return settings
