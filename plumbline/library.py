"""Runs as objects: what they were trained to, and what one can ask of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from estimators.protocol import Quantity, estimators
from experiments.runner import plugins as plugin_files
from experiments.runner import weights as stored_weights
from experiments.runner.build import build, load_data
from experiments.runner.earlier import Destination
from experiments.runner.run import execute, identify
from experiments.runner.schema import DEFAULTS, Initialise, RunConfig
from models.generative import GenerativeModel
from models.local import (
    LocalOptimum,
    Scope,
    beginning,
    best_of,
    local_optimise,
    local_settings,
)
from models.networks import Encoder
from models.posteriors.chain import Chain
from models.posteriors.protocol import posteriors
from models.vae import VAE
from utils.config import loading as configuration
from utils.config.layers import Layer
from utils.config.sources import Origin
from utils.config.validation import validate
from utils.console import Console
from utils.data.base import Data
from utils.registry import Node, Registry
from utils.results.database import database_url
from utils.results.folder import RunFolder, results_root
from utils.results.records import Estimate, Metric, RunRecord

Settings = Mapping[str, Any] | Iterable[str]
"""``{"training.epochs": 3}``, or as ``-set`` takes them: ``["training.epochs=3"]``."""


class Draws(NamedTuple):
    """Draws of a posterior: z (S, B, D), and log q and log w (S, B) in nats.

    E[exp(log_w)] = p(x), and the mean of log_w is the ELBO.
    """

    z: Tensor
    log_q: Tensor
    log_w: Tensor


class Run:
    """A run read from its folder, with the weights that it was measured with.

    Its components are made when they are first asked for: ``data`` needs the data set's files,
    and so does ``vae`` with all that is in it. Methods take x as an array or a tensor of shape
    (B, C, H, W), or of anything that can be reshaped to it, draw from PyTorch's global generator
    and keep no gradients; for gradients, take ``model`` and ``posterior`` themselves.

    Args:
        folder: of the run.
        weights: ``last``, ``best``, or an epoch that ``runtime.keep_epochs`` kept; None: those
            that the run was measured with.
        device: where model and data lie.

    Raises FileNotFoundError where there is no run, DamagedError where its status cannot be read,
    ValueError for other weights.
    """

    def __init__(
        self, folder: Path, *, weights: str | int | None = None, device: str = "cpu"
    ) -> None:
        self.folder = RunFolder(folder.absolute())
        record = self.folder.read_status()
        if record is None:
            raise FileNotFoundError(
                f"{folder} is no run: it holds no {self.folder.status_path.name}"
            )
        self.record: RunRecord = record
        self._weights = _which(weights)
        self._device = torch.device(device)

    def __repr__(self) -> str:
        record = self.record
        described = f"{record.posterior}, {record.loss}, {record.dataset}, {record.status}"
        return f"<Run {self.id} of {record.experiment}: {described}>"

    @property
    def id(self) -> str:
        """``<hash>-s<seed>``."""
        return self.record.id

    @functools.cached_property
    def config(self) -> RunConfig:
        """The validated configuration, its plugins imported. Raises ConfigError."""
        path = self.folder.path / "config.yaml"
        return _validated(configuration.load(path, defaults=DEFAULTS))

    @functools.cached_property
    def data(self) -> Data:
        """The data, ``data.splits["test"]`` (N, C, H, W) among them. Raises DataError."""
        return load_data(self.config).to(self._device)

    @functools.cached_property
    def vae(self) -> VAE:
        """Model, encoder and posterior with their weights."""
        vae = build(self.config, self.data.x_shape).vae.to(self._device)
        if self._weights is not None:
            origin = Initialise(run=self.id, weights=self._weights)  # type: ignore[arg-type]
            results = self.folder.path.parents[1]
            stored_weights.load_into(vae, origin, results, self._device)
        elif "train" in self.config.phases or self.config.initialise is not None:
            stored_weights.load_evaluated(vae, self.config, self.folder, self._device)
        return vae.requires_grad_(False)

    @property
    def model(self) -> GenerativeModel:
        """p(x, z)."""
        return self.vae.model

    @property
    def encoder(self) -> Encoder:
        """x (B, C, H, W) to features (B, num_features)."""
        return self.vae.encoder

    @property
    def posterior(self) -> Chain:
        """q(z | context); ``context(x)`` gives the context."""
        return self.vae.posterior

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """What was logged: phase, step (an epoch), split, name, value."""
        return pd.DataFrame(self.folder.metrics.read(), columns=list(Metric._fields))

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """One row a number and datum: phase, estimator, ..., split, name, datum, value, error."""
        return pd.DataFrame(self.folder.estimates.read(), columns=list(Estimate._fields))

    @torch.no_grad()
    def context(self, x: Any) -> Tensor:
        """What the posterior gets for x: (B, P)."""
        return self.vae.context(self._tensor(x))

    @torch.no_grad()
    def draws(self, x: Any, num_samples: int = 1) -> Draws:
        """Draw z from q(z|x), with log q(z|x) and log w = log p(x, z) - log q(z|x)."""
        data = self._tensor(x)
        drawn = self.posterior(self.vae.context(data), self.model.log_joint(data), num_samples)
        return Draws(drawn.state.z, drawn.log_q, drawn.log_w)

    def local_optimum(
        self,
        x: Any,
        *,
        family: str | Mapping[str, Any] | None = None,
        setting: str | Mapping[str, Any] = "fast",
        scope: Scope = "posterior",
    ) -> LocalOptimum:
        """The best member q* of a family for each datum, as a run's own phase searches for it.

        Args:
            x: (B, C, H, W).
            family: a posterior's name, or the name with options; None: the run's own.
            setting: how to search, and from how many starts, the same way.
            scope: whether weights are free for each datum, or its context alone.

        Raises ConfigError for names and options that there are not.
        """
        data = self._tensor(x)
        node = self.config.posterior if family is None else self._component(posteriors, family)
        sizes = {"latent_dim": self.model.latent_dim, "num_features": self.encoder.num_features}
        fresh = node.build(**sizes).to(self._device)
        settings = self._component(local_settings, setting).build()
        start = beginning(
            *(settings, self.model, data, self.posterior, self.context(data)),
            *(fresh, family is None),
        )
        rows = data.repeat(settings.starts, *[1] * (data.ndim - 1))
        found = local_optimise(
            settings.loss, self.model, start.posterior, rows, start.contexts, settings, scope
        )
        return best_of(found, start.posterior, settings.starts).optimum

    @torch.no_grad()
    def estimate(
        self,
        x: Any,
        estimator: str | Mapping[str, Any] = "importance",
        *,
        at: LocalOptimum | None = None,
        batch_size: int = 100,
    ) -> pd.DataFrame:
        """Estimate log p(x) of each datum in nats: one row a datum.

        Columns are ``log_px``, further numbers of the estimator (``elbo``, ``ess``, ``k_hat``) and
        their standard errors, ``log_px_error``, where there are any.

        Args:
            x: (B, C, H, W).
            estimator: its name, or with options: {"name": "importance", "num_samples": 9}.
            at: measure this optimum instead of the encoder's posterior.
            batch_size: how many data are measured at once.

        Raises ConfigError for names and options that there are not, ValueError for an estimator
        that does not apply.
        """
        plain = {"compile_step": False, "rounded_forces": False}
        measure = self._component(estimators, estimator).build(**plain)
        posterior = self.posterior if at is None else at.posterior
        measure.check(self.model, posterior)
        if measure.simulates:
            raise ValueError(f"{measure.label} measures data that it draws itself; use a run")
        data = self._tensor(x)
        context = self.context(data) if at is None else at.context
        if at is not None:
            batch_size = len(data)  # the optimum has a copy of the weights for each of them
        frames = []
        for start in range(0, len(data), batch_size):
            chosen = slice(start, start + batch_size)
            found = measure(self.model, posterior, data[chosen], context[chosen])
            columns = dict(_columns({"log_px": found.log_px, **found.stats}))
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _component(self, registry: Registry[Any], given: str | Mapping[str, Any]) -> Node:
        """A validated component, of this run's plugins too. Raises ConfigError."""
        named = self.config.plugins or ()
        plugin_files.use({str(plugin.digest): Path(plugin.path) for plugin in named})
        options = {"name": given} if isinstance(given, str) else dict(given)
        kind = registry.kind.removesuffix("s")
        schema = dataclasses.make_dataclass("Part", [(kind, Annotated[Node, registry])])
        part: Any = validate(schema, Layer.of({kind: options}, Origin("argument")))
        node: Node = getattr(part, kind)
        return node

    def _tensor(self, x: Any) -> Tensor:
        """X as the model wants it. Raises ValueError where it is none that the model describes."""
        array = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x, dtype=np.float32))
        data = array.float().to(self._device).reshape(-1, *self.data.x_shape)
        self.model.check_x(data)
        return data


def load(
    run: str | Path,
    *,
    results: str | Path | None = None,
    weights: str | int | None = None,
    device: str = "cpu",
) -> Run:
    """Read a run from its folder.

    Args:
        run: the folder, or the run's id below ``results``.
        results: the results folder (default: $VI_RESULTS, else ``results``).
        weights: see ``Run``.
        device: see ``Run``.

    Raises FileNotFoundError where there is no such run, ValueError for other weights.
    """
    folder = Path(run)
    if not folder.is_dir():
        folder = results_root(None if results is None else str(results)) / "runs" / str(run)
    return Run(folder, weights=weights, device=device)


def run(
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Settings = (),
    *,
    additional: Iterable[str | Path] = (),
    plugins: Iterable[str | Path] = (),
    results: str | Path | None = None,
    verbosity: int = -1,
) -> Run:
    """Do a run, or what is left of it, and read it: what ``main.py`` does.

    Args:
        config: a YAML file, or a configuration as nested mappings; None: the defaults alone.
        overrides: single values over it, as ``-set`` takes them.
        additional: files merged over ``config``.
        plugins: Python files that register components.
        results: the results folder (default: $VI_RESULTS, else ``results``).
        verbosity: -1 tells warnings only, 0 what is done, 1 more.

    Raises ConfigError, BuildError, DataError, DivergedError, and what else a run can end with.
    """
    given = config if isinstance(config, Mapping) else {}
    base = None if config is None or isinstance(config, Mapping) else Path(config)
    assignments = [*_assignments(given), *_assignments(overrides)]
    if names := [str(path) for path in plugins]:
        assignments.append(f"plugins+={_as_text(names)}")
    layer = configuration.load(base, additional, assignments, DEFAULTS)
    root = results_root(None if results is None else str(results))
    console = Console(verbosity=verbosity)
    identified = identify(_validated(layer), root, console.warn)
    destination = Destination(root, database_url(root, None), command="plumbline.run(...)")
    return Run(root / "runs" / execute(identified, destination, console).id)


def _validated(layer: Layer) -> RunConfig:
    return validate(RunConfig, plugin_files.activate(layer))


def _which(weights: str | int | None) -> str | int | None:
    """The same, an epoch of NumPy as a plain integer. Raises ValueError for other words."""
    if weights is None or weights in ("last", "best"):
        return weights
    try:
        return operator.index(weights)  # type: ignore[arg-type]
    except TypeError:
        reason = f"`weights` is last, best or an epoch that was kept; got {weights!r}"
        raise ValueError(reason) from None


def _assignments(settings: Settings) -> Iterator[str]:
    if isinstance(settings, Mapping):
        yield from (f"{key}={_as_text(value)}" for key, value in settings.items())
    else:
        yield from settings


def _as_text(value: Any) -> str:
    """JSON, which is YAML but for halves of characters (``\\ud83d``): so none is escaped."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON does not know: a path as a text, a number of NumPy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    try:
        return os.fspath(value)
    except TypeError:
        raise TypeError(f"a {type(value).__name__} is no setting: {value!r}") from None


def _columns(quantities: Mapping[str, Quantity]) -> Iterator[tuple[str, list[float]]]:
    for name, (values, errors) in quantities.items():
        yield name, values.tolist()
        if errors is not None:
            yield f"{name}_error", errors.tolist()
