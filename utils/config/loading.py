"""Configuration in layers: defaults < ``-config`` < ``-additional_configs`` < ``-set``.

What the sections mean is no business of this module: see ``utils.config.validation``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

from utils.config.assignments import assign, parse_assignment
from utils.config.includes import files_of, read_file
from utils.config.layers import Layer, merge
from utils.config.sources import ConfigError, Problem, collect


def load(
    config: str | Path | None,
    additional: Iterable[str | Path] = (),
    assignments: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Layer:
    """Merge defaults, a file, additional files (a folder: its ``*.yaml`` by name) and ``-set``.

    Raises ConfigError with the problems of all files and assignments at once.
    """
    problems: list[Problem] = []
    paths = [] if config is None else [Path(config)]
    for path in map(Path, additional):
        paths += collect(partial(files_of, path), problems) or []
    files = [collect(partial(read_file, path), problems) for path in paths]
    sets = [collect(partial(parse_assignment, text), problems) for text in assignments]
    if problems:
        raise ConfigError(problems)
    merged = reduce(merge, filter(None, files), Layer.of(defaults or {}))
    return assign(merged, filter(None, sets))
