"""Runs that are known by their configuration: a finished one is recognised without PyTorch.

What identifies a run takes every component's signature, and so PyTorch, most of such a call's
time. But it depends on nothing but the merged configuration and the source. So it is remembered
below the results root, in one file that holds for one state of the source; where that file is
missing, damaged or of another source, the long way is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.runner.asked import destination_of, layer_of, shown
from experiments.runner.earlier import Claim, if_finished
from experiments.runner.summary import show
from utils.code import digest_of_all
from utils.config.layers import Layer
from utils.console import Console
from utils.results.database import check_login

FILE = "recognised.json"
"""Below the results root; nothing is lost with it but time."""


def skip_finished(options: Namespace, command: Sequence[str]) -> bool:
    """Whether the command asks for a run that is known to have finished; tells of it then.

    Whatever is wrong is left to the long way, which comes upon it, too.
    """
    is_plain = options.config and not (options.plugin or options.max_time or options.dry_run)
    if not is_plain or options.list is not None or options.download is not None:
        return False
    console = Console(verbosity=options.verbose - options.quiet)
    try:
        destination = destination_of(options, shown(command))
        claim = recall(layer_of(options), destination.results)
        if claim is None:
            return False
        check_login(destination.database)
        record = if_finished(claim, destination, console)
    except Exception:
        return False
    if record is not None:
        show(record, destination.results, console)
    return record is not None


def recall(layer: Layer, results: Path) -> Claim | None:
    """What a configuration asks for, where that was remembered under today's source."""
    try:
        return Claim(**_read(results)[_key(layer)])
    except (KeyError, TypeError):
        return None


def remember(layer: Layer, claim: Claim, results: Path) -> None:
    """Note what a configuration asks for: it must depend on nothing but ``layer`` and the source.

    Two processes that do so at once may lose the one's note; one that cannot be written is none.
    """
    known = _read(results)
    if known.get(_key(layer)) == claim._asdict():
        return
    known[_key(layer)] = claim._asdict()
    path = results / FILE
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({digest_of_all(): known}), encoding="utf-8")
        temporary.replace(path)


def _key(layer: Layer) -> str:
    """Names the content of a configuration, its types and its order included."""
    return hashlib.sha256(repr(layer.data).encode()).hexdigest()[:20]


def _read(results: Path) -> dict[str, Any]:
    """By key, what is remembered under today's source."""
    try:
        known = json.loads((results / FILE).read_text(encoding="utf-8"))[digest_of_all()]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return known if isinstance(known, dict) else {}
