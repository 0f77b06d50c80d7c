"""The actions of main.py, and what each failure says and exits with."""

from __future__ import annotations

import re
import signal
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

import torch

from experiments.runner import catalogue, plugins, provenance, recognition, summary
from experiments.runner.asked import UsageError, destination_of, layer_of, merged, shown
from experiments.runner.build import (
    BuildError,
    build,
    check_data,
    load_data,
    make_dataset,
    rounds_forces,
)
from experiments.runner.run import Identified, check_splits, execute, identify
from experiments.runner.schema import REGISTRIES, SECTIONS, RunConfig, default_values
from experiments.runner.signals import InterruptedRunError, time_limit
from experiments.runner.trainer import DivergedError
from utils.checkpoint import CheckpointError
from utils.cli import did_you_mean, write_results
from utils.code import is_own
from utils.config.identity import changed, describe, resolved
from utils.config.layers import Layer
from utils.config.sources import FILLED_IN, ConfigError, read_path, wrong
from utils.config.validation import validate
from utils.console import Console
from utils.data.base import DataError, datasets
from utils.results.database import DatabaseError, check_login, check_url, first_line
from utils.results.folder import DamagedError
from utils.results.lock import BusyError
from utils.types import duration


class ExitCode(IntEnum):
    """What main.py exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DATA = 3
    DIVERGED = 4
    TRY_AGAIN = 75
    CTRL_C = 130


def run(options: Namespace, command: Sequence[str]) -> int:
    """Carry out what the command line asks for; turn failures into messages and exit codes."""
    console = Console(verbosity=options.verbose - options.quiet)
    options.command = shown(command)
    try:
        with time_limit(_max_seconds(options)):
            return _action(options)(options, console)
    except (Exception, InterruptedRunError) as error:
        if options.debug:
            traceback.print_exc()
        return explain(error, console, options.command)
    except KeyboardInterrupt:
        console.error("stopped at once")
        return ExitCode.CTRL_C


def _max_seconds(options: Namespace) -> float | None:
    try:
        return None if options.max_time is None else duration(options.max_time)
    except ValueError as error:
        raise UsageError(f"--max-time: {error}") from None


def _validated(layer: Layer, console: Console) -> RunConfig:
    try:
        return validate(RunConfig, layer)
    finally:
        _warn_of_broken(console)


def _warn_of_broken(console: Console) -> None:
    """Name the components that cannot be used; the rest goes on without them."""
    broken = (module for registry in REGISTRIES.values() for module in registry.broken)
    for module in dict.fromkeys(broken):
        console.warn(f"{module.reason}; what it holds is left out")


def explain(error: BaseException, console: Console, again: str) -> int:
    """Say what went wrong, and how to go on by the command ``again``; returns the exit code."""
    match error:
        case ConfigError():
            console.error(str(error))
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
        case DamagedError():
            console.error(
                f"failed: {error}. Put back a good copy of it, or do the run again, which keeps "
                f"what is there:\n  {again} --resume never"
            )
        case CheckpointError() | OSError():
            console.error(f"failed: {error}")
        case _ if _is_out_of_memory(error):
            console.error(f"failed: there is not enough memory; {_SMALLER}")
        case _:
            console.error(
                f"failed: {type(error).__name__}: {first_line(error)} (--debug shows where)"
            )
    return ExitCode.FAILED


_SMALLER = (
    "take smaller batches (training.batch_size, evaluation.batch_size), fewer samples or a "
    "smaller model"
)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "DefaultCPUAllocator: " in str(error)  # a RuntimeError on a CPU


def _action(options: Namespace) -> Callable[[Namespace, Console], int]:
    if options.list is not None:
        return _list
    if options.download is not None:
        return _download
    return _dry_run if options.dry_run else _run


def _run(options: Namespace, console: Console) -> int:
    destination = destination_of(options, options.command)
    check_login(destination.database)
    layer = layer_of(options)
    active = plugins.activate(layer)
    with located(active):
        identified = identify(_validated(active, console), destination.results, console.warn)
        record = execute(identified, destination, console)
    if _is_told_by_source(identified.config):
        recognition.remember(layer, identified.claim, destination.results)
    summary.show(record, destination.results, console)
    return ExitCode.DONE


def _is_told_by_source(config: RunConfig) -> bool:
    """Whether the source and the written configuration say which run this is, and nothing else.

    Files of plugins and data, the runs there are, and modules that could not be imported do not.
    """
    if config.plugins or config.initialise or make_dataset(config).settled_options():
        return False
    is_whole = not any(registry.broken for registry in REGISTRIES.values())
    return is_whole and all(map(is_own, provenance.modules_of(config)))


@contextmanager
def located(layer: Layer) -> Iterator[None]:
    """Turn a BuildError into a ConfigError that says where the section in question is written."""
    try:
        yield
    except BuildError as error:
        section, *more = map(read_path, re.findall("`([^`:]+)[^`]*`", str(error)))
        options = [(*section, *option) for option in more]  # `section`: ... `option` must be ...
        written = [path for path in (*options, section, *more) if path in layer.origins]
        origin = layer.last_origin(written[0]) if written else layer.origin(section)
        raise wrong(origin, str(error)) from error


def _dry_run(options: Namespace, console: Console) -> int:
    destination = destination_of(options, options.command)
    check_url(destination.database)
    layer = plugins.activate(layer_of(options))
    with located(layer):
        written = _validated(layer, console)
        identified = identify(written, destination.results, console.warn)
        counts = _count_parameters(identified, console)
    forces = "bf16" if rounds_forces(identified.config.runtime) else "float32"
    settled = dict.fromkeys(changed(resolved(written), identified.resolved), FILLED_IN)
    lines = [
        describe(identified.resolved, {**layer.origins, **settled}),
        "",
        f"# precedence: {' < '.join(layer.sources)}",
        f"# run: {identified.id}",
        f"# forces of annealing: {forces}",
        *(f"# parameters, {name}: {count:,}" for name, count in counts.items()),
    ]
    write_results("\n".join(lines) + "\n")
    return ExitCode.DONE


def _count_parameters(identified: Identified, console: Console) -> dict[str, int]:
    """Trained numbers by part; none where the data is not there to say how large x is."""
    try:
        data = load_data(identified.config)
    except DataError as error:
        console.warn(f"parameters not counted: {error}")
        return {}
    built = build(identified.config, data.x_shape)
    check_splits(identified.config, data)
    check_data(identified.config, data, built.vae.model)
    return catalogue.parameter_counts(built)


def _list(options: Namespace, console: Console) -> int:
    if options.config or options.additional_configs or options.set:
        raise UsageError("--list takes no configuration")
    plugins.activate(merged(options, []))
    _warn_of_broken(console)
    if options.list == "":
        write_results(catalogue.registries(REGISTRIES) + "\n")
        return ExitCode.DONE
    if registry := REGISTRIES.get(options.list):
        write_results(catalogue.components(registry) + "\n")
    elif schema := SECTIONS.get(options.list):
        write_results(catalogue.section(schema, default_values(options.list)) + "\n")
    else:
        known = [*REGISTRIES, *SECTIONS]
        hint = did_you_mean(options.list, known)
        raise UsageError(
            f"no registry or section {options.list!r}; there are {', '.join(known)}{hint}"
        )
    return ExitCode.DONE


def _download(options: Namespace, console: Console) -> int:
    name = options.download
    assignments = [f"data.name={name}", *options.set]
    layer = plugins.activate(merged(options, assignments))
    if name not in datasets.names():
        hint = did_you_mean(name, datasets.names())
        raise UsageError(f"no data set {name!r}; there are {', '.join(datasets.names())}{hint}")
    with located(layer):
        make_dataset(_validated(layer, console)).download()
    console.info(f"{name} is there and checked")
    return ExitCode.DONE
