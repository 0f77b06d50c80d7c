"""The bootstrap with a memory: annealed draws are learned from more than once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from models.generative import GenerativeModel
from models.losses.bootstrap import FlowBootstrap, log_density
from models.losses.protocol import Bound, Samples, Weight, losses
from models.posteriors.chain import Chain
from utils.types import Depth, NonNegativeInt, PositiveFloat, PositiveInt


class Memory(NamedTuple):
    """Annealed draws z (N, D), their log weights for p²/q, and log q when these were made (N,)."""

    z: Tensor
    log_w: Tensor
    log_q: Tensor

    def pick(self, number: int) -> Tensor:
        """The places of so many draws, without replacement, in proportion to their weights.

        By the largest of log weights with Gumbel noise.
        """
        noise = -torch.empty_like(self.log_w).exponential_().log()
        return (self.log_w + noise).topk(number).indices

    def revised(self, places: Tensor, log_q: Tensor) -> Memory:
        """The same with the weights that the draws at ``places`` have by the q of today."""
        log_w = self.log_w.clone()
        log_w[places] += self.log_q[places] - log_q
        return self._replace(log_w=log_w, log_q=self.log_q.index_copy(0, places, log_q))


@losses.register("fab_replay")
class ReplayedBootstrap(FlowBootstrap):
    """`fab` with the paper's buffer: a batch of annealed draws serves several steps (FAB).

    Midgley et al. 2023 (arXiv 2208.01893), algorithm 1 and appendix: draws are kept with their
    weights w and the density q had, log q_old. A step takes S of them without replacement, in
    proportion to w, goes down -mean min(c, q_old/q) log q, the ratio a constant, and writes the
    weights that they have by then, w q_old/q, back. So the target's gradients of one batch, the
    cost of `fab`, are shared by ``num_steps`` steps.

    For models without an x (`data: {name: nothing}`): draws belong to one posterior. The memory is
    part of a checkpoint. ``value`` is the ELBO of the last batch before it was annealed.

    Args:
        num_samples: S, at least 2, of a step and of a batch.
        num_distributions: between q and p²/q, a move at each; 0: importance sampling from q.
        num_leapfrog: steps of a move, each of a gradient of p and one of q.
        step_size: of the moves; the metric ``acceptance`` says what it does.
        num_steps: from one annealed batch to the next.
        num_batches: that are remembered; older ones are forgotten.
        num_first: batches before the first step, at most ``num_batches``.
        largest_ratio: c, of q_old/q; null: whatever it is.
    """

    remembers = True

    def __init__(
        self,
        *,
        num_samples: Samples = 64,
        num_distributions: NonNegativeInt = 1,
        num_leapfrog: Depth = 5,
        step_size: PositiveFloat = 0.1,
        num_steps: PositiveInt = 4,
        num_batches: PositiveInt = 100,
        num_first: PositiveInt = 10,
        largest_ratio: Annotated[float, Ge(1)] | None = 10.0,
    ) -> None:
        super().__init__(
            num_samples=num_samples,
            num_distributions=num_distributions,
            num_leapfrog=num_leapfrog,
            step_size=step_size,
        )
        if num_first > num_batches:
            raise ValueError(
                f"`num_first` ({num_first}) is more than is remembered, `num_batches` "
                f"({num_batches})"
            )
        self.num_steps, self.num_batches, self.num_first = num_steps, num_batches, num_first
        self._most = math.inf if largest_ratio is None else math.log(largest_ratio)
        self._memory: Memory | None = None
        self._taken, self._told = 0, dict[str, Tensor]()
        # Here and not where it is defined: this loads the compiler, which cannot trace it.
        self._from_memory = torch.compiler.disable(self._replayed)

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``. Where no gradients are recorded it is `fab`, and remembers nothing."""
        if not torch.is_grad_enabled():
            return super().__call__(model, posterior, x, context, weight)
        return self._from_memory(model, posterior, x, context)

    def _replayed(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> Bound:
        if self._memory is None:
            for _ in range(self.num_first - 1):
                self._remember(model, posterior, x, context)
        if self._taken % self.num_steps == 0:
            self._remember(model, posterior, x, context)
        self._taken += 1
        memory = self._memory
        assert memory is not None
        places = memory.pick(self.num_samples * len(x))
        z = memory.z[places].view(self.num_samples, len(x), -1)
        log_q = log_density(posterior, context)(z)
        now, known = log_q.detach().flatten(), memory.log_w[places].isfinite()
        ratio = (memory.log_q[places] - now).clamp(max=self._most).exp()
        ratio = ratio.where(known, 0.0).view_as(log_q)
        self._memory = memory.revised(places, now)
        told = {name: value.expand(len(x)) for name, value in self._told.items()}
        value = told.pop("value")
        return Bound(-(ratio * log_q).mean(0), value, told, [{}] * len(posterior.transitions))

    def _remember(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> None:
        """Anneal a batch; it takes the place of the oldest."""
        z, log_w, told = self._batch(model, posterior, x, context)
        with torch.no_grad():
            log_q = log_density(posterior, context)(z)
        new = Memory(z.flatten(0, 1), log_w.flatten(), log_q.flatten())
        if self._memory is not None:
            most = self.num_batches * log_w.numel()
            pairs = zip(self._memory, new, strict=True)
            new = Memory(*(torch.cat(pair)[-most:] for pair in pairs))
        self._memory = new
        self._told = {name: values.mean() for name, values in told.metrics.items()}
        self._told["value"] = told.value.mean()

    def state(self) -> dict[str, Any]:
        """See ``Loss``."""
        if self._memory is None:
            return {}
        return {**self._memory._asdict(), "taken": self._taken, "told": self._told}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See ``Loss``."""
        if state:
            self._memory = Memory(*(state[name] for name in Memory._fields))
            self._taken, self._told = state["taken"], dict(state["told"])
