"""The only posterior: a base followed by transitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.networks.conditioned import ConditionedMLP
from models.posteriors.particles import resampled
from models.posteriors.parts import Composite, NoNumbers, Part, Shared
from models.posteriors.paths import PLAIN, UNSEEN, GeometricPath, LogDensity, Target, learned
from models.posteriors.protocol import Density, Move, Segment, Stage, State, Transition
from models.posteriors.schedules import Schedule


def _joined(transition: Transition, own: Tensor, shared: Tensor) -> Tensor:
    """The context that a transition gets: its own numbers, and h where it asks for it."""
    if transition.context_size == 0:  # an empty slice would still carry zeros back to the encoder
        return shared if transition.uses_shared else own.detach()
    return torch.cat([own, shared], dim=-1) if transition.uses_shared else own


class _Step(NamedTuple):
    """A transition with the context that it gets, and b where it sees its target under one."""

    transition: Transition
    context: Tensor
    beta: Tensor | None

    def target(self, path: GeometricPath) -> Target:
        if not self.transition.uses_target:
            return UNSEEN
        return path.end if self.beta is None else path.at(self.beta)


class Chain(Composite):
    """``z0 ~ base(. | context)``, then one transition after the other.

    log q = log q0(z0) + Σ_k log_ratio_k; the pair (z_K, log q) is properly weighted (see
    ``protocol``). A factorised Gaussian is a chain without transitions.

    All that differs between data points is in ``context`` (B, P); it is split by sizes into the
    base's slice, one slice a transition, the schedule's, and ``shared_size`` numbers handed to
    every transition that asks for them (``uses_shared``).

    Transitions that look at a target (``uses_target``) see p(x, z); with a schedule, the k-th of
    them sees f_b = q0^(1 - b) p(x, z)^b, b = b_k. With a ``score_net`` of z and the shared
    context, what it says stands for d log p(x, z) / dz wherever a transition asks for that: no
    gradient of the model is computed, and weights stay exact, for no move's density or
    acceptance supposes that its force is a gradient. Raises ValueError for a schedule of another
    length.
    """

    transitions: Sequence[Transition]
    resample_below: float | None = None
    """The effective share of S draws below which they are resampled after a move that looks at its
    target; then they depend on each other, and all S of them are one draw. None: never."""

    def __init__(
        self,
        base: Density,
        transitions: Sequence[Transition] = (),
        shared_size: int = 0,
        schedule: Schedule | None = None,
        score_net: ConditionedMLP | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.score_net = score_net
        self.transitions = cast("Sequence[Transition]", nn.ModuleList(transitions))
        self.schedule = schedule
        num_targets = sum(transition.uses_target for transition in transitions)
        if schedule is not None and schedule.num_targets != num_targets:
            raise ValueError(
                f"the schedule is for {schedule.num_targets} transitions that look at their "
                f"target, and there are {num_targets}"
            )
        self._shared = Shared(shared_size)
        self.join()

    def own_parts(self) -> list[Part]:
        """See ``Composite``."""
        schedule = [] if self.schedule is None else [self.schedule]
        return [self.base, *self.transitions, *schedule, self._shared]

    @property
    def shared_size(self) -> int:
        """Numbers per datum of the shared context."""
        return self._shared.context_size

    @property
    def makes_choices(self) -> bool:
        """Whether a draw depends on discrete decisions (``Stage.log_choice``)."""
        return any(transition.makes_choices for transition in self.transitions)

    def amortiser(self, num_features: int) -> nn.Linear:
        """New map from encoder features (B, num_features) to the amortised numbers.

        With those of a fresh datum as its bias, so that training starts near the prior.
        """
        make = nn.Linear if self.amortised_size > 0 else NoNumbers
        linear = make(num_features, self.amortised_size)
        with torch.no_grad():
            linear.bias.copy_(self.initial_amortised())
        return linear

    def log_base(self, context: Tensor) -> LogDensity:
        """The base's density as a function of z, given context (B, P)."""
        own = context[..., : self.base.context_size]  # its slice is the first
        return self._log_base(own)

    def _log_base(self, own: Tensor) -> LogDensity:
        return lambda z: self.base.log_prob(z, z[..., :0], own)

    def learned_score(self, z: Tensor, context: Tensor) -> Tensor:
        """What the ``score_net``, which must be there, says (S, B, D) at z (S, B, D)."""
        assert self.score_net is not None
        score: Tensor = self.score_net(z, self.split(context)[-1])
        return score

    def _path(self, log_base: LogDensity, log_joint: LogDensity, shared: Tensor) -> GeometricPath:
        """From the base to p(x, z)."""
        if self.score_net is None:
            return GeometricPath(log_base, log_joint, PLAIN)
        return GeometricPath(log_base, log_joint, learned(partial(self.score_net, h=shared)))

    def stages(
        self,
        context: Tensor,
        log_joint: LogDensity,
        num_samples: int = 1,
        *,
        stop_score: bool = False,
        detach: bool = False,
    ) -> Iterator[Stage]:
        """Yield the base's draw and then the state after each transition.

        Args:
            context: (B, P).
            log_joint: z (S, B, D) -> log p(x, z) (S, B); all that a posterior sees of the model.
            num_samples: S.
            stop_score: leave the base's score, d log q0(z) / d context at fixed z, out of the
                gradient. Its mean is zero, so gradients stay unbiased (Roeder et al. 2017,
                arXiv 1703.09194). Transitions keep their whole derivative.
            detach: leave to each stage the gradient of its own transition only: the state and
                log_q before it, the base's density on the path, and the shared context are
                constants.
        """
        own, *slices, shared = self.split(context)
        nothing = context.new_empty(num_samples, len(context), 0)
        z, log_q, excess = self.base.sample(nothing, own)  # (S, B, D), (S, B)
        if stop_score:
            log_q = self.base.log_prob(z, nothing, own.detach())
        if detach:
            shared = shared.detach()
        path = self._path(self._log_base(own.detach() if detach else own), log_joint, shared)
        stage = Stage(State(z), log_q, path, excess=excess)
        yield stage
        for step in self._steps(slices, shared):
            if detach:
                stage = stage.detach()
            stage = self._after(stage, step)
            yield stage

    def _after(self, stage: Stage, step: _Step) -> Stage:
        """The stage after a step, resampled where it is to be."""
        target = step.target(stage.path)
        stage = stage.after(step.transition(stage.state, step.context, target))
        if self.resample_below is None or not step.transition.uses_target:
            return stage
        return resampled(stage, target, self.resample_below)

    def segments(
        self, context: Tensor, log_joint: LogDensity, num_samples: int = 1
    ) -> Iterator[Segment]:
        """Draw as ``stages`` does; yield what lies before, between and after looks at a target.

        The base's draws and the moves that look are made without gradients: a segment records
        those of its own transitions alone. Targets depend on context and model as ever.
        """
        own, *slices, shared = self.split(context)
        path = self._path(self._log_base(own), log_joint, shared)
        with torch.no_grad():
            z, log_q, _ = self.base.sample(context.new_empty(num_samples, len(context), 0), own)
        stage = Stage(State(z), log_q, path)
        stats: list[Mapping[str, Tensor]] = []
        shares = torch.full_like(log_q, 1 / num_samples)
        for step in self._steps(slices, shared):
            if step.transition.uses_target:
                target = step.target(path)
                yield Segment(shares, stage, target, stats)
                with torch.no_grad():
                    stage = self._after(stage.detach(), step)
                    log_f = target.evaluate(stage.state.z).log_density
                    shares, stats = (log_f - stage.log_q).softmax(0), []
            else:
                stage = self._after(stage, step)
            stats.append(stage.stats)
        yield Segment(shares, stage, path.end, stats)

    def _steps(self, slices: list[Tensor], shared: Tensor) -> list[_Step]:
        """Each transition with what it gets out of the context but for the base's slice."""
        betas = None if self.schedule is None else iter(self.schedule(slices.pop())[1:-1])
        return [
            _Step(
                transition,
                _joined(transition, part, shared),
                next(betas) if betas is not None and transition.uses_target else None,
            )
            for transition, part in zip(self.transitions, slices, strict=True)
        ]

    def along_constant_paths(
        self, context: Tensor, log_joint: LogDensity, num_samples: int = 1
    ) -> Iterator[Stage]:
        """``stages`` whose draws are constants: log_q is a function of context and weights there.

        Its gradient is the score of the whole path, of first order: what the target says is a
        constant too. Of each step no more is kept than z and the target's gradient at it; what
        nets hold is computed again on the way back. Every transition must have a density.
        """
        own, *slices, shared = self.split(context)
        nothing = context.new_empty(num_samples, len(context), 0)
        log_base = self._log_base(own)
        path = self._path(log_base, log_joint, shared)
        with torch.no_grad():
            state = State(self.base.sample(nothing, own).z)
        stage = Stage(state, log_base(state.z), path)
        yield stage
        for step in self._steps(slices, shared):
            with torch.no_grad():
                move = step.transition(stage.state, step.context, step.target(path))
            # Knows both ends of this step for good, and the base's density as a function.
            here = GeometricPath(log_base, log_joint)
            here.end = path.end.again()
            if step.beta is not None:
                for z in (stage.state.z, move.state.z):
                    here.start.evaluate(z)
            log_ratio = checkpoint(
                *(step.transition.score, stage.state, move.state, step.context),
                step.target(here),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            stage = stage.after(Move(move.state, log_ratio, stats=move.stats))
            yield stage

    def log_w_backwards(self, context: Tensor, log_joint: LogDensity, z: Tensor) -> Tensor:
        """log w (S, B) of the chain read backwards from z (S, B, D).

        Where z is an exact draw from p(z|x), E[1/w] = 1/p(x) and E[log w] is no less than
        log p(x): Jensen's inequality the other way round. Raises ValueError unless all
        transitions are ``reversible``.
        """
        self.check_reversible()
        own, *slices, shared = self.split(context)
        path = self._path(self._log_base(own), log_joint, shared)
        looks = any(transition.uses_target for transition in self.transitions)
        # Where it will be looked at, too, it is remembered.
        log_w = path.end.evaluate(z).log_density if looks else path.end(z)
        state = State(z)
        for step in reversed(self._steps(slices, shared)):
            move = step.transition.retrace(state, step.context, step.target(path))
            state, log_w = move.state, log_w - move.log_ratio
        return log_w - path.start(state.z)

    def check_independent(self) -> None:
        """Raise ValueError where the S draws of a datum depend on each other."""
        if self.resample_below is not None:
            raise ValueError(
                "these draws are resampled (`particles`), so that they depend on each other, and "
                "independent ones are needed; take the chain as it is without `particles`, whose "
                "weights `initialise` can give to a run with it"
            )

    def check_reversible(self) -> None:
        """Raise ValueError, with the place, unless the chain can be read backwards."""
        self.check_independent()
        for index, transition in enumerate(self.transitions):
            if not transition.reversible:
                name = type(transition).__name__
                raise ValueError(f"`transitions[{index}]` ({name}) cannot be read backwards")

    def split(self, context: Tensor) -> list[Tensor]:
        """See ``Composite``."""
        if self.base.context_size == self.context_size:
            # Spares a lone base the copy in its gradient.
            empty = context[..., :0]
            return [context, *(empty for _ in self.own_parts()[1:])]
        return super().split(context)

    def forward(self, context: Tensor, log_joint: LogDensity, num_samples: int = 1) -> Stage:
        """Draw S samples for each of B data points: z (S, B, D) and log_q (S, B)."""
        for stage in self.stages(context, log_joint, num_samples):
            last = stage
        return last

    @torch.no_grad()
    def adapt(self, stats: Sequence[Mapping[str, Tensor]]) -> None:
        """Hand each transition what its move told (``Bound.stats``); see ``Transition.adapt``."""
        for transition, told in zip(self.transitions, stats, strict=True):
            transition.adapt(told)
