"""Every registered component as a test parameter: a new one is picked up by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import TypeAdapter

from models.posteriors.protocol import posteriors
from utils.registry import REQUIRED, Node, Registry

ROOT = Path(__file__).resolve().parent.parent


def make_node(registry: Registry[Any], data: dict[str, Any]) -> Node:
    """A validated component, as a configuration would give it."""
    return TypeAdapter(Annotated[Node, registry]).validate_python(data)


def _posterior_options() -> Iterator[Any]:
    """Each posterior with its defaults, and with the options of each file in configs/posterior."""
    for entry in posteriors:
        if all(option.default is not REQUIRED for option in entry.options):
            yield pytest.param({"name": entry.name}, id=entry.name)
    for path in sorted((ROOT / "configs" / "posterior").glob("*.yaml")):
        yield pytest.param(yaml.safe_load(path.read_text())["posterior"], id=path.stem)
    yield pytest.param({"name": "gaussian", "covariance": "full"}, id="gaussian-full")


POSTERIORS = list(_posterior_options())
