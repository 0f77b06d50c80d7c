"""Labels that tell configurations apart when posterior and loss do not suffice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

NOT_SCIENCE = (
    "seed",
    "experiment",
    "labels",
    "runtime",
)  # may differ without making another method


def configuration_labels(
    runs: pd.DataFrame, shown: Sequence[str], by: str = "hash"
) -> dict[str, str]:
    """The settings in which a configuration differs from others alike in ``shown``.

    Args:
        runs: rows of the table ``runs``.
        shown: columns that are seen anyway.
        by: the column whose values stand each for a configuration, the keys of what is returned.
    """
    first = runs.drop_duplicates(by).to_dict("records")
    configs = {run[by]: _seedless_config(run["config"], run["seed"]) for run in first}
    return distinguish(configs, _groups(runs, shown, by))


def _groups(runs: pd.DataFrame, shown: Sequence[str], by: str) -> dict[str, int]:
    """For each configuration a number that it shares with those alike in ``shown``.

    One whose seeds were made by two experiments stands in a row of each: it joins their groups.
    """
    alike: dict[Hashable, set[str]] = defaultdict(set)
    for key, *seen in runs[[by, *shown]].itertuples(index=False, name=None):
        alike[tuple(seen)].add(key)
    groups: list[set[str]] = []
    for members in alike.values():
        joined = members.union(*(group for group in groups if group & members))
        groups = [*(group for group in groups if not group & members), joined]
    return {key: number for number, group in enumerate(groups) for key in group}


def seedless(run: str, seed: int) -> str:
    """A run's id without its seed where that is ``seed``: then all seeds speak of one run.

    So does ``experiments.runner.run.identify``, to give them one hash.
    """
    return run.removesuffix(f"-s{seed}")


def _seedless_config(config: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    origin = config.get("initialise") or {}
    if not origin.get("run"):
        return config
    return {**config, "initialise": {**origin, "run": seedless(origin["run"], seed)}}


def distinguish(
    configs: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Hashable]
) -> dict[str, str]:
    """For each key of ``configs`` the settings in which it differs from the others of its group.

    Alone in its group it needs none: "". Configurations that differ in no setting get their key.

    Args:
        configs: resolved configurations by hash.
        groups: what is shown of a configuration anyway, by hash.
    """
    members: dict[Hashable, list[str]] = defaultdict(list)
    for key in configs:
        members[groups[key]].append(key)
    labels: dict[str, str] = {}
    for keys in members.values():
        labels |= _labels({key: flatten(configs[key]) for key in keys})
    return labels


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, ``posterior.num_layers``; lists of plain values stay whole."""
    science = {name: value for name, value in config.items() if name not in NOT_SCIENCE}
    return dict(_walk("", science))


def _walk(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        children = enumerate(node)
    else:
        yield prefix, node
        return
    for name, child in children:
        yield from _walk(f"{prefix}.{name}" if prefix else str(name), child)


def _labels(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    # Null says what absence says: a setting that younger runs have and older ones do not.
    names = dict.fromkeys(name for flat in settings.values() for name in flat)
    differing = [
        name for name in names if len({_show(flat.get(name)) for flat in settings.values()}) > 1
    ]
    short = _shorten(differing)
    labels = {
        key: ", ".join(f"{short[n]}={_show(flat[n])}" for n in differing if n in flat)
        for key, flat in settings.items()
    }
    if len(set(labels.values())) < len(labels):
        labels = {key: f"{label} [{key}]".strip() for key, label in labels.items()}
    return labels


def _shorten(names: list[str]) -> dict[str, str]:
    """The shortest endings of dotted names that still differ; a ``.name`` goes by its parent."""
    paths = {name: name.removesuffix(".name").split(".") for name in names}
    short: dict[str, str] = {}
    for name, path in paths.items():
        others = [other for entry, other in paths.items() if entry != name]
        length = next(
            (n for n in range(1, len(path)) if all(path[-n:] != o[-n:] for o in others)), len(path)
        )
        short[name] = ".".join(path[-length:])
    return short


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    return format(value, "g") if isinstance(value, float) else json.dumps(value, default=str)
