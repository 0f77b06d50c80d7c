"""How local optimisation searches: the paper's way, and a fast one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from models.losses import ELBO, Loss
from utils.registry import Registry
from utils.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

# Rows of the decoder in one step: on a CPU what its caches hold, elsewhere what fills the device.
CPU_ROWS, DEVICE_ROWS = 2_000, 20_000

Start = Literal["initial", "encoder"]
Gradient = Literal["plain", "stl"]


@dataclass(frozen=True)
class LocalSettings:
    """How q* is searched for, and when a datum's search ends.

    Steps come in windows, the first of ``window`` steps, each of the others ``growth`` times as
    long as the one before. ``max_steps`` end the search; the last window is cut short.

    *What is judged.* With ``comparisons`` 0, the published way: the mean bound over a window's
    steps, while parameters move; a gain is more than the best such mean. Otherwise the mean of
    the parameters over the window's last part, ``tail`` of it, against the best ones so far:
    bounds of both, from the same random numbers, so that their difference has a small standard
    error e. Of these pairs there are at most ``comparisons`` for each step of the window: first an
    eighth of them, more where they may show that the datum has converged. Where the new parameters
    are better they take the place of the best. The next window begins from the best, and they are
    what is returned.

    *Converged* means that another window would gain less than ``min_gain`` nats. The published
    way takes that for granted after more than ``patience`` windows running without a gain.
    Otherwise ``growth`` × (|gain| + 2e) ≤ ``min_gain`` must hold: the next window is
    ``growth`` times as long, and progress slows down. A gain that noise hides, or a bound that
    has fallen, is no convergence.

    ``usual_steps`` are as many as a search takes where nothing is known of it.

    ``label`` names the settings in tables. ``loss`` is their own bound, of ``num_samples``, which
    also says how many data take steps together. ``start`` is where families start, ``encoder``
    or ``initial``: the run's own at the encoder's context with the trained weights, a lone
    Gaussian at the moments of the run's own posterior, others have no encoder.
    The best of ``starts`` is kept: see ``models.local.starts``.
    ``lr`` is Adam's for the context, ``weight_lr`` that for weights: a net's output moves by the
    sum of many. ``betas`` are how much Adam remembers of gradients and of their squares.
    ``schedule`` maps the position within a window, 0 to 1, to a factor on both.
    ``restart`` lets Adam forget its moments at the start of a window: those of the first steps,
    in a base as wide as the prior, would keep later ones small for long.
    """

    label: str
    loss: Loss
    num_samples: int
    start: Start
    starts: int
    lr: float
    weight_lr: float
    betas: tuple[float, float]
    schedule: Callable[[float], float]
    restart: bool
    window: int
    growth: int
    tail: float
    comparisons: float
    patience: int
    min_gain: float
    max_steps: int
    usual_steps: int

    def chunk_size(self, device: torch.device) -> int:
        """How many data take a step together."""
        rows = CPU_ROWS if device.type == "cpu" else DEVICE_ROWS
        return max(1, rows // self.num_samples)


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
    starts: PositiveInt = 1,
) -> LocalSettings:
    """Cremer et al. 2018 (arXiv 1801.03558): Adam at 1e-3 until the bound stops growing.

    From the prior, or an untrained flow; plain ELBO of 100 samples; a datum is done after more
    than 10 windows of 100 steps without a better mean.

    Args:
        num_samples: S.
        gradient: of the ELBO, ``plain`` or ``stl``.
        start: ``encoder`` starts the run's own family from its encoder and trained weights, lone
            Gaussians of another kind from its moments; the paper starts all as fresh ones.
        lr: of Adam.
        window: steps whose bounds are averaged before they are compared.
        patience: how many windows without a gain are allowed.
        max_steps: the end for data that have not converged; the paper has none.
        starts: the best of this many is kept.
    """
    return LocalSettings(
        label=_label(paper, locals()),
        loss=ELBO(num_samples=num_samples, gradient=gradient),
        num_samples=num_samples,
        start=start,
        starts=starts,
        lr=lr,
        weight_lr=lr,
        betas=(0.9, 0.999),
        schedule=lambda position: 1.0,
        restart=False,
        window=window,
        growth=1,
        tail=0.0,
        comparisons=0,
        patience=patience,
        min_gain=0.0,
        max_steps=max_steps,
        usual_steps=min(5_000, max_steps),
    )


# Pairs of bounds a step, at most: two thirds of its work. Mostly an eighth of them are enough.
COMPARISONS = 1
WARMUP = 0.05  # of a window: Adam's first steps after a restart are as long as the rate


def _cosine(position: float) -> float:
    """Up along a line, then down along half a cosine to zero."""
    return min(1.0, (position + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * position))


@local_settings.register("fast")
def fast(
    *,
    num_samples: PositiveInt = 40,
    gradient: Gradient = "stl",
    start: Start = "encoder",
    lr: PositiveFloat = 0.07,
    weight_lr: PositiveFloat = 6e-3,
    window: PositiveInt = 200,
    min_gain: NonNegativeFloat = 0.02,
    max_steps: PositiveInt = 3_000,
    starts: PositiveInt = 1,
) -> LocalSettings:
    """Adam in cosine cycles, each twice as long as the last, from the encoder's output.

    The rate falls to zero within a cycle (Loshchilov and Hutter 2017, arXiv 1608.03983), and the
    parameters are averaged over its last half, which takes out the noise of few samples. Each
    cycle starts Adam afresh. A datum is done when the next cycle would gain less than `min_gain`.

    Args:
        num_samples: S.
        gradient: of the ELBO, ``plain`` or ``stl``.
        start: ``encoder`` starts the run's own family from its encoder and trained weights, lone
            Gaussians of another kind from its moments; ``initial`` starts all as fresh ones.
        lr: of Adam for the context, at the start of each cycle.
        weight_lr: the same for the posterior's weights.
        window: steps of the second cycle; the first has half of them.
        min_gain: nats.
        max_steps: the end for data that have not converged; five cycles by default.
        starts: the best of this many is kept.
    """
    return LocalSettings(
        label=_label(fast, locals()),
        loss=ELBO(num_samples=num_samples, gradient=gradient),
        num_samples=num_samples,
        start=start,
        starts=starts,
        lr=lr,
        weight_lr=weight_lr,
        betas=(0.9, 0.95),  # a start as wide as the prior has huge gradients, soon to be forgotten
        schedule=_cosine,
        restart=True,
        window=-(-window // 2),
        growth=2,
        tail=0.5,
        comparisons=COMPARISONS,
        patience=0,
        min_gain=min_gain,
        max_steps=max_steps,
        usual_steps=min(2 * window, max_steps),
    )
