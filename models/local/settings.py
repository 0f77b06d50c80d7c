"""How local optimisation searches: the paper's way, and a fast one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.losses import ELBO, Loss
from utils.registry import Registry
from utils.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Start = Literal["initial", "encoder"]
Gradient = Literal["plain", "stl"]


@dataclass(frozen=True)
class LocalSettings:
    """How q* is searched for, and when a datum's search ends.

    Steps come in windows, the first of ``window`` steps, each of the others ``growth`` times as
    long as the one before. At a window's end the mean bound over its last part, ``judged`` of it,
    is compared with the best so far: a datum whose bound has not grown by more than ``min_gain``
    nats in more than ``patience`` windows running has converged. ``max_steps`` end the others.

    ``label`` names the settings in tables. ``loss`` is their own bound, of ``num_samples``, which
    also says how many data take steps together. ``start`` is where a family that is the run's own
    starts, ``encoder`` (with the trained weights) or ``initial``; other families have no encoder.
    ``lr`` is Adam's for the context, ``weight_lr`` that for weights: a net's output moves by the
    sum of many. ``schedule`` maps the position within a window, 0 to 1, to a factor on both.
    """

    label: str
    loss: Loss
    num_samples: int
    start: Start
    lr: float
    weight_lr: float
    schedule: Callable[[float], float]
    window: int
    growth: int
    judged: float
    patience: int
    min_gain: float
    max_steps: int


local_settings: Registry[LocalSettings] = Registry("local_settings", "models.local")


def _label(factory: Callable[..., LocalSettings], options: Mapping[str, Any]) -> str:
    """The settings' name, with the options that differ from their defaults."""
    defaults = inspect.signature(factory).parameters
    others = [f"{k}={options[k]}" for k, p in defaults.items() if options[k] != p.default]
    return ", ".join([factory.__name__, *others])


@local_settings.register("paper")
def paper(
    *,
    num_samples: PositiveInt = 100,
    gradient: Gradient = "plain",
    start: Start = "initial",
    lr: PositiveFloat = 1e-3,
    window: PositiveInt = 100,
    patience: NonNegativeInt = 10,
    max_steps: PositiveInt = 100_000,
) -> LocalSettings:
    """Cremer et al. 2018 (arXiv 1801.03558): Adam at 1e-3 until the bound stops growing.

    From the prior, or an untrained flow; plain ELBO of 100 samples; a datum is done after more
    than 10 windows of 100 steps without a better mean.

    Args:
        num_samples: S.
        gradient: of the ELBO, ``plain`` or ``stl``.
        start: ``encoder`` starts the run's own family from the trained encoder and weights.
        lr: of Adam.
        window: steps whose bounds are averaged before they are compared.
        patience: windows without a gain that are put up with.
        max_steps: the end for data that have not converged; the paper has none.
    """
    return LocalSettings(
        label=_label(paper, locals()),
        loss=ELBO(num_samples=num_samples, gradient=gradient),
        num_samples=num_samples,
        start=start,
        lr=lr,
        weight_lr=lr,
        schedule=lambda position: 1.0,
        window=window,
        growth=1,
        judged=1.0,
        patience=patience,
        min_gain=0.0,
        max_steps=max_steps,
    )


@local_settings.register("fast")
def fast(
    *,
    num_samples: PositiveInt = 40,
    gradient: Gradient = "stl",
    start: Start = "encoder",
    lr: PositiveFloat = 0.07,
    weight_lr: PositiveFloat = 6e-3,
    window: PositiveInt = 200,
    min_gain: NonNegativeFloat = 0.05,
    max_steps: PositiveInt = 3_000,
) -> LocalSettings:
    """Adam in cosine cycles, each twice as long as the last, from the encoder's output.

    The rate falls to zero within a cycle (Loshchilov and Hutter 2017, arXiv 1608.03983), which
    averages the noise of few samples out. A datum is done when a cycle has gained no more than
    `min_gain` over one half as long.

    Args:
        num_samples: S.
        gradient: of the ELBO, ``plain`` or ``stl``.
        start: where the run's own family starts: ``encoder`` (and trained weights) or ``initial``.
        lr: of Adam for the context, at the start of each cycle.
        weight_lr: the same for the posterior's weights.
        window: steps of the first cycle; the bounds of a cycle's last quarter are compared.
        min_gain: nats.
        max_steps: the end for data that have not converged; four cycles by default.
    """
    return LocalSettings(
        label=_label(fast, locals()),
        loss=ELBO(num_samples=num_samples, gradient=gradient),
        num_samples=num_samples,
        start=start,
        lr=lr,
        weight_lr=weight_lr,
        schedule=lambda position: 0.5 * (1 + math.cos(math.pi * position)),
        window=window,
        growth=2,
        judged=0.25,
        patience=0,
        min_gain=min_gain,
        max_steps=max_steps,
    )
