"""YAML files in the current folder, and what loading them says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from utils.config.loading import load
from utils.config.sources import ConfigError

quick = settings(deadline=None, max_examples=60)  # no deadline: machines are shared


def write(name: str, text: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def refused(*arguments: Any) -> list[str]:
    """The lines of the error that `load` raises, without the first."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    head, *lines = str(caught.value).split("\n")
    assert head == f"config error ({len(lines)}):"
    return [line.removeprefix("  ") for line in lines]
