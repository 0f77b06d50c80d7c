"""What a command line of main.py asks for: a configuration, and where its results go."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from experiments.runner.defaults import DEFAULTS
from experiments.runner.earlier import Destination
from utils.config import loading as configuration
from utils.config.layers import Layer
from utils.results.database import database_url, masked
from utils.results.folder import results_root


class UsageError(Exception):
    """The command line lacks something or contradicts itself."""


RESUME = ("-resume", "--resume")


def shown(command: Sequence[str]) -> str:
    """The command line, as a shell takes it, that goes on with what this one has begun.

    It is without passwords, and without ``--resume never``, which would begin anew once more.
    """
    words, rest = [], iter(command)
    for word in rest:
        if word in RESUME:
            next(rest, None)
        elif word.partition("=")[0] not in RESUME:
            words.append(masked(word))
    return shlex.join(words)


def results_of(options: Namespace) -> Path:
    """The results folder. Raises UsageError where JSON and databases cannot hold its name."""
    root = results_root(options.results)
    try:
        str(root.absolute()).encode()
    except UnicodeEncodeError:
        reason = f"the results folder {str(root.absolute())!a} has a name that is not UTF-8"
        raise UsageError(f"{reason}; name another one by --results") from None
    return root


def destination_of(options: Namespace, command: str) -> Destination:
    """Where the results go; ``command`` is how the program was called, as ``shown``.

    Raises UsageError.
    """
    root = results_of(options)
    return Destination(root, database_url(root, options.db), options.resume, command)


def layer_of(options: Namespace) -> Layer:
    """The merged configuration of a run, its plugins only named.

    Raises ConfigError; UsageError where there is none.
    """
    if options.config is None:
        raise UsageError("-config FILE is missing; try --help")
    assignments = list(options.set)
    if options.device is not None:
        assignments.append(f"runtime.device={options.device}")
    return merged(options, assignments)


def merged(options: Namespace, assignments: Sequence[str]) -> Layer:
    """All layers of the configuration, ``assignments`` and plugins over them."""
    plugins = json.dumps(options.plugin, ensure_ascii=False)  # YAML has no halves of characters
    named = [f"plugins+={plugins}"] if options.plugin else []
    layers = (options.config, options.additional_configs, [*assignments, *named], DEFAULTS)
    return configuration.load(*layers)
