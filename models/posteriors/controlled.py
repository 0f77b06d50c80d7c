"""Annealed chains with learned drifts: Langevin steps, momenta, and Gaussian kernels."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from models.networks.control import Control
from models.networks.layers import Activation, Widths
from models.posteriors.auxiliary import partner_of
from models.posteriors.gaussian_step import GaussianStep, Kernel
from models.posteriors.langevin import UnadjustedLangevin, told
from models.posteriors.paths import Point, Target
from models.posteriors.protocol import Move, State, transitions
from models.posteriors.step_sizes import StepSizes, step_sizes
from utils.types import NonNegativeInt

Pushed = Literal["reverse", "both"]


class ControlledLangevin(UnadjustedLangevin):
    """Langevin step with learned drifts: z' = z + η (∇log f(z) + u_k(z)) + sqrt(2 η) ξ.

    Its reverse is N(z' + η (∇log f(z') + r(z')), 2 η). With ``pushed: reverse`` u = 0 and
    r = s_k, Monte Carlo diffusion (Doucet et al. 2022, arXiv 2208.07698); with ``both`` r is
    -u_{k+1}, controlled Monte Carlo diffusion (Vargas et al. 2024, arXiv 2307.01050). Where the
    net is zero both are the unadjusted Langevin step.

    Args:
        latent_dim: D.
        control: the net, that of all steps of a chain.
        step: k, counted from 0.
        pushed: which of the two drifts it is in.
        step_size: how long the step is; null: learned, 0.1 at first and below 0.5.
    """

    def __init__(
        self,
        latent_dim: int,
        control: Control,
        step: int,
        pushed: Pushed,
        step_size: StepSizes | None = None,
    ) -> None:
        super().__init__(latent_dim, step_size=step_size)
        self.control, self.step, self.pushed = control, step, pushed
        self.uses_shared = control.shared_size > 0

    def _push(self, point: Point, context: Tensor, step: int) -> Tensor:
        h = context[:, self.context_size :]
        push: Tensor = self.control(point.z, h, step, point.gradient)
        return push

    def ahead(self, start: Point, context: Tensor) -> Tensor:
        """See ``LangevinStep``."""
        if self.pushed == "reverse":
            return start.gradient
        return start.gradient + self._push(start, context, self.step)

    def behind(self, end: Point, context: Tensor) -> Tensor:
        """See ``LangevinStep``."""
        if self.pushed == "reverse":
            return end.gradient + self._push(end, context, self.step)
        return end.gradient - self._push(end, context, self.step + 1)

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        """See ``Transition``."""
        move = self.propose(state.z, context, target)
        acceptance = (move.gain - move.log_ratio).clamp(max=0).exp()
        return Move(
            state._replace(z=move.end.z), move.log_ratio, stats=told(acceptance, move.start)
        )


@transitions.register("controlled_langevin")
def controlled_langevin(
    latent_dim: int,
    *,
    pushed: Pushed = "both",
    hidden: Widths = (64,),
    activation: Activation = "gelu",
    shared_size: NonNegativeInt = 0,
    step_size: Annotated[StepSizes, step_sizes] | None = None,
) -> ControlledLangevin:
    """One Langevin step with learned drifts by a net of its own; see ``mcd`` and ``cmcd``.

    Args:
        pushed: ``reverse``: only the reverse's drift is learned; ``both``: one net in both.
        hidden: widths of the net.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, which the net sees.
        step_size: how long the step is; null: learned, 0.1 at first and below 0.5.
    """
    control = Control(
        latent_dim,
        latent_dim,
        shared_size=shared_size,
        num_steps=1,
        hidden=hidden,
        activation=activation,
    )
    return ControlledLangevin(latent_dim, control, 0, pushed, step_size)


Rule = Literal["exact", "euler"]


class Refresh(GaussianStep):
    """A part of the momentum is drawn anew: v' = c v + s ξ, c learned, not amortised.

    ``exact`` has s² = 1 - c², which leaves N(0, I) as it is; ``euler`` has s² = 2 (1 - c), one
    step of the dynamics of friction (1 - c). The reverse is N(c v' + s² a, s²) with a net
    a(z, v') (Geffner and Domke 2023, arXiv 2208.07743, LDVI) or, without one, a = 0 (Geffner and
    Domke 2021, arXiv 2107.04150, UHA). With ``pushed: both`` v' also gets s² u(z, v), and the
    reverse has a = -u(z, v'), underdamped CMCD (Vargas et al. 2024, arXiv 2307.01050).

    Args:
        latent_dim: D, also the momentum's.
        control: the net; null: none.
        step: k, counted from 0.
        pushed: which drifts it is in.
        rule: ``exact`` or ``euler``.
        first: c to begin with, 0 < c < 1.
    """

    amortised = False
    context_size = 1

    def __init__(
        self,
        latent_dim: int,
        control: Control | None,
        step: int,
        *,
        pushed: Pushed = "reverse",
        rule: Rule = "exact",
        first: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < first < 1:
            raise ValueError(f"`first` must be between 0 and 1; got {first:g}")
        self.latent_dim, self.control, self.step = latent_dim, control, step
        self.pushed, self.rule, self.first = pushed, rule, first
        self.uses_shared = control is not None and control.shared_size > 0

    def initial_context(self) -> Tensor:
        """The sigmoid's inverse of c."""
        return torch.tensor([math.log(self.first / (1 - self.first))])

    def _moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, c, and the variance s² (B, 1)."""
        kept, lost = context[:, :1].sigmoid(), (-context[:, :1]).sigmoid()
        return kept, 2 * lost if self.rule == "euler" else lost * (1 + kept)

    def ahead(self, before: State, context: Tensor, target: Target) -> Kernel:
        """See ``GaussianStep``. Raises ValueError when there is no partner as large as z."""
        v, (kept, variance) = partner_of(before, self.latent_dim), self._moments(context)
        mean = kept * v
        if self.control is not None and self.pushed == "both":
            mean = mean + variance * self._push(before.z, v, context[:, 1:])
        return Kernel(mean, variance.sqrt())

    def behind(self, after: State, context: Tensor, target: Target) -> Kernel:
        """See ``GaussianStep``."""
        v, (kept, variance) = partner_of(after, self.latent_dim), self._moments(context)
        mean = kept * v
        if self.control is not None:
            push = variance * self._push(after.z, v, context[:, 1:])
            mean = mean - push if self.pushed == "both" else mean + push
        return Kernel(mean, variance.sqrt())

    def changed(self, state: State) -> Tensor:
        """See ``GaussianStep``: the momentum."""
        return partner_of(state, self.latent_dim)

    def put(self, state: State, value: Tensor) -> State:
        """See ``GaussianStep``."""
        return state._replace(v=value)

    def _push(self, z: Tensor, v: Tensor, h: Tensor) -> Tensor:
        assert self.control is not None
        push: Tensor = self.control(torch.cat([z, v], dim=-1), h, self.step)
        return push


@transitions.register("refresh")
def refresh(
    latent_dim: int,
    *,
    pushed: Pushed = "reverse",
    rule: Rule = "exact",
    first: float = 0.5,
    hidden: Widths | None = None,
    activation: Activation = "gelu",
    shared_size: NonNegativeInt = 0,
) -> Refresh:
    """A part of the momentum is drawn anew; see ``uha`` and ``ldvi``. Needs a `lift` before it.

    Args:
        pushed: ``reverse``: only the reverse is learned; ``both``: one net in both directions.
        rule: ``exact`` leaves N(0, I) as it is, ``euler`` is a step of dynamics with friction.
        first: how much of the momentum is kept to begin with.
        hidden: widths of the net; null: nothing is learned but what is kept.
        activation: its nonlinearity, and that of h.
        shared_size: size of h, which the net sees.

    Raises ValueError for an h that nothing would see.
    """
    if hidden is None:
        if shared_size > 0 or pushed == "both":
            option = "pushed" if pushed == "both" else "shared_size"
            raise ValueError(f"`{option}` is for a net; give `hidden`, too")
        return Refresh(latent_dim, None, 0, rule=rule, first=first)
    control = Control(
        latent_dim,
        2 * latent_dim,
        shared_size=shared_size,
        num_steps=1,
        hidden=hidden,
        activation=activation,
    )
    return Refresh(latent_dim, control, 0, pushed=pushed, rule=rule, first=first)


class Numbers(NamedTuple):
    """Of a step's kernels, and how the target's gradient is shown to their nets.

    F = N(keep z + push u, scale² I); the reverse is N(keep_back z' + push_back v, scale_back² I).
    Nets see d log f / dz + precision z: the gradient beside that of N(0, I / precision).
    """

    keep: float
    push: float
    scale: float
    keep_back: float
    push_back: float
    scale_back: float
    precision: float = 0.0


class ControlledGaussian(GaussianStep):
    """A step of a diffusion sampler: Gaussian kernels both ways, whose drifts are learned.

    log_ratio = log F(z'|z) - log B(z|z'), of the kernels themselves: the cost forms of the
    literature are their limits for short steps, and some are biased at any other.

    Args:
        latent_dim: D.
        numbers: of the two kernels.
        step: k, counted from 0.
        control: of the forward kernel.
        back: of the reverse, if that has one.
        sees_score: whether the nets see the gradient of the target.
    """

    def __init__(
        self,
        latent_dim: int,
        numbers: Numbers,
        step: int,
        control: Control,
        back: Control | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim, self.numbers, self.step = latent_dim, numbers, step
        self.control, self.back = control, back
        self.uses_shared = control.shared_size > 0
        self.uses_target = control.multiple is not None

    def _push(self, net: Control, z: Tensor, h: Tensor, step: int, target: Target) -> Tensor:
        score = None
        if self.uses_target:
            score = target.evaluate(z).gradient + self.numbers.precision * z
        push: Tensor = net(z, h, step, score)
        return push

    def ahead(self, before: State, context: Tensor, target: Target) -> Kernel:
        """See ``GaussianStep``."""
        n, z = self.numbers, before.z
        push = self._push(self.control, z, context, self.step, target)
        return Kernel(n.keep * z + n.push * push, z.new_tensor(n.scale))

    def behind(self, after: State, context: Tensor, target: Target) -> Kernel:
        """See ``GaussianStep``."""
        n, z = self.numbers, after.z
        mean = n.keep_back * z
        if self.back is not None:
            mean = mean + n.push_back * self._push(self.back, z, context, self.step + 1, target)
        return Kernel(mean, z.new_tensor(n.scale_back))
