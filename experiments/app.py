"""The actions of main.py, and what each failure says and exits with."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from enum import IntEnum

from experiments import listing
from experiments.build import BuildError, build, check_data, load_data
from experiments.run import BusyError, Identified, Place, execute, identify
from experiments.schema import DEFAULTS, REGISTRIES, RunConfig
from experiments.signals import InterruptedRunError
from experiments.training import DivergedError
from utils import config as configuration
from utils.checkpoint import CheckpointError
from utils.cli import did_you_mean
from utils.console import Console
from utils.data.base import DataError, datasets
from utils.layers import Layer
from utils.resolved import describe
from utils.results.database import DatabaseError, check_url, database_url
from utils.results.folder import results_root
from utils.sources import ConfigError
from utils.validation import validate


class ExitCode(IntEnum):
    """What main.py exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DATA = 3
    DIVERGED = 4
    TRY_AGAIN = 75
    CTRL_C = 130


class UsageError(Exception):
    """The command line lacks something or contradicts itself."""


def run(options: Namespace, command: Sequence[str]) -> int:
    """Carry out what the command line asks for; turn failures into messages and exit codes."""
    console = Console(verbosity=options.verbose - options.quiet)
    try:
        return _action(options)(options, console)
    except (Exception, InterruptedRunError) as error:
        if options.debug:
            traceback.print_exc()
        return _explain(error, console, command)
    except KeyboardInterrupt:
        console.error("stopped at once")
        return ExitCode.CTRL_C


def _explain(error: BaseException, console: Console, command: Sequence[str]) -> int:
    again = shlex.join(command)
    match error:
        case ConfigError():
            console.error(str(error))
            return ExitCode.USAGE
        case BuildError():
            console.error(f"config error: {error}")
            return ExitCode.USAGE
        case UsageError() | DatabaseError():
            console.error(f"usage error: {error}")
            return ExitCode.USAGE
        case DataError():
            console.error(f"data error: {error}")
            return ExitCode.DATA
        case DivergedError():
            console.error(f"diverged: {error}; the checkpoints before it are kept")
            return ExitCode.DIVERGED
        case BusyError():
            console.error(str(error))
            return ExitCode.TRY_AGAIN
        case InterruptedRunError():
            console.error(f"stopped by {error} with a checkpoint; go on with\n  {again}")
            ctrl_c = error.signal_number == signal.SIGINT
            return ExitCode.CTRL_C if ctrl_c else ExitCode.TRY_AGAIN
        case CheckpointError() | OSError():
            console.error(f"failed: {error}")
        case _:
            console.error(f"failed: {type(error).__name__}: {error} (--debug shows where)")
    return ExitCode.FAILED


def _action(options: Namespace) -> Callable[[Namespace, Console], int]:
    if options.list is not None:
        return _list
    if options.download is not None:
        return _download
    return _dry_run if options.dry_run else _run


def _run(options: Namespace, console: Console) -> int:
    _, identified = _identify(options)
    root = results_root(options.results)
    url = database_url(root, options.db)
    check_url(url)
    record = execute(identified, Place(root, url, options.resume), console)
    text = listing.summary(record, root / "runs" / record.id)
    sys.stdout.write(text + "\n")  # at once: print would let runs side by side write between
    sys.stdout.flush()
    return ExitCode.DONE


def _identify(options: Namespace) -> tuple[Layer, Identified]:
    if options.config is None:
        raise UsageError("-config FILE is missing; try --help")
    assignments = list(options.set)
    if options.device is not None:
        assignments.append(f"runtime.device={options.device}")
    layer = configuration.load(options.config, options.additional_configs, assignments, DEFAULTS)
    config = validate(RunConfig, layer)
    return layer, identify(config, results_root(options.results))


def _dry_run(options: Namespace, console: Console) -> int:
    layer, identified = _identify(options)
    print(describe(identified.resolved, layer.origins))
    print(f"\n# precedence: {' < '.join(layer.sources)}")
    print(f"# run: {identified.id}")
    try:
        data = load_data(identified.config)
    except DataError as error:
        console.warn(f"parameters not counted: {error}")
        return ExitCode.DONE
    built = build(identified.config, data.x_shape)
    check_data(identified.config, data, built.vae.model)
    for name, count in listing.parameter_counts(built).items():
        print(f"# parameters, {name}: {count:,}")
    return ExitCode.DONE


def _list(options: Namespace, console: Console) -> int:
    if options.list == "":
        print(listing.registries(REGISTRIES))
        return ExitCode.DONE
    registry = REGISTRIES.get(options.list)
    if registry is None:
        hint = did_you_mean(options.list, REGISTRIES)
        raise UsageError(f"no registry {options.list!r}; there are {', '.join(REGISTRIES)}{hint}")
    print(listing.components(registry))
    return ExitCode.DONE


def _download(options: Namespace, console: Console) -> int:
    name = options.download
    if name not in datasets.names():
        hint = did_you_mean(name, datasets.names())
        raise UsageError(f"no data set {name!r}; there are {', '.join(datasets.names())}{hint}")
    assignments = [f"data.name={name}", *options.set]
    config = validate(RunConfig, configuration.load(None, (), assignments, DEFAULTS))
    config.data.build().download()
    console.info(f"{name} is there and checked")
    return ExitCode.DONE
