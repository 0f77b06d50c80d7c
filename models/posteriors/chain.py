"""The only posterior: a base followed by transitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.posteriors.protocol import Base, LogDensity, Stage, State, Transition


class _Piecewise(nn.Module):
    """One map for each piece of the last axis, the results put together again."""

    def __init__(self, sizes: Sequence[int], maps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.maps = nn.ModuleList(maps)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map (B, sum of sizes) piece by piece."""
        pieces = zip(self.maps, numbers.split(self.sizes, dim=-1), strict=True)
        return torch.cat([piece_map(piece) for piece_map, piece in pieces], dim=-1)


def _joined(transition: Transition, own: Tensor, shared: Tensor) -> Tensor:
    """The context that a transition gets: its own numbers, and h where it asks for it."""
    if transition.context_size == 0:  # an empty slice would still carry zeros back to the encoder
        return shared if transition.uses_shared else own.detach()
    return torch.cat([own, shared], dim=-1) if transition.uses_shared else own


class Chain(nn.Module):
    """``z0 ~ base(. | context)``, then one transition after the other.

    log q = log q0(z0) + Σ_k log_ratio_k; the pair (z_K, log q) is properly weighted (see
    ``protocol``). A factorised Gaussian is a chain without transitions.

    All that differs between data points is in ``context`` (B, P); it is split by sizes into the
    base's slice, one slice a transition, and ``shared_size`` numbers handed to every transition
    that asks for them (``uses_shared``).
    """

    def __init__(
        self, base: Base, transitions: Sequence[Transition] = (), shared_size: int = 0
    ) -> None:
        super().__init__()
        self.base = base
        self.transitions = nn.ModuleList(transitions)
        self.shared_size = shared_size
        self._sizes = [base.context_size, *(t.context_size for t in transitions), shared_size]

    @property
    def context_size(self) -> int:
        """P, the numbers per datum."""
        return sum(self._sizes)

    def initial_context(self) -> Tensor:
        """Context (P,) of a fresh datum: a prior-like base, identity-like transitions."""
        return torch.cat(self._initial_parts())

    def _initial_parts(self) -> list[Tensor]:
        transitions = [t.initial_context() for t in self.transitions]  # type: ignore[operator]
        return [self.base.initial_context(), *transitions, torch.zeros(self.shared_size)]

    def moved(self, context: Tensor, move: Tensor) -> Tensor:
        """``context`` (B, P) after an optimiser's move (B, P): the base says what that means."""
        size = self.base.context_size
        base = self.base.moved(context[..., :size], move[..., :size])
        return torch.cat([base, context[..., size:] + move[..., size:]], -1)

    def amortiser(self, num_features: int) -> nn.Module:
        """Map from encoder features (B, num_features) to context (B, P).

        Linear, with the initial context as its bias, so that training starts near the prior;
        followed by the transitions' expansions, where there are any (Householder).
        """
        sizes: list[int] = [
            self.base.context_size,
            *(t.amortised_size for t in self.transitions),  # type: ignore[list-item]
            self.shared_size,
        ]
        starts = [part[:n] for part, n in zip(self._initial_parts(), sizes, strict=True)]
        linear = nn.Linear(num_features, sum(sizes))
        with torch.no_grad():
            linear.bias.copy_(torch.cat(starts))
        if sizes == self._sizes:
            return linear
        expansions = [t.expansion() for t in self.transitions]  # type: ignore[operator]
        pieces = _Piecewise(sizes, [nn.Identity(), *expansions, nn.Identity()])
        return nn.Sequential(linear, pieces)

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
                log_q before it and the shared context are constants.
        """
        own, *slices, shared = self._split(context)
        z, log_q = self.base.sample(own, num_samples)  # (S, B, D), (S, B)
        if stop_score:
            log_q = self.base.log_prob(z, own.detach())
        stage = Stage(State(z), log_q)
        yield stage
        if detach:
            shared = shared.detach()
        for transition, part in zip(self.transitions, slices, strict=True):
            if detach:
                stage = stage.detach()
            part = _joined(transition, part, shared)  # type: ignore[arg-type]
            move = transition(stage.state, part, log_joint)
            stage = Stage(move.state, stage.log_q + move.log_ratio, move.stats)
            yield stage

    def _split(self, context: Tensor) -> Sequence[Tensor]:
        if self._sizes[0] == self.context_size:  # spares a lone base the copy in its gradient
            empty = context[..., :0]
            return [context, *(empty for _ in self._sizes[1:])]
        return context.split(self._sizes, dim=-1)

    def forward(self, context: Tensor, log_joint: LogDensity, num_samples: int = 1) -> Stage:
        """Draw S samples for each of B data points: z (S, B, D) and log_q (S, B)."""
        for stage in self.stages(context, log_joint, num_samples):
            last = stage
        return last
