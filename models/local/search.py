"""Local optimisation: the best bound L[q*] of each datum, over a family's free parameters.

Everything that belongs to a datum, its context and, with scope ``posterior``, its own copy of the
weights, is a row of stacked tensors. Adam works number by number and the losses are summed, so
the B data points are B separate problems, whatever the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.local.settings import LocalSettings
from models.losses import Loss
from models.posteriors.chain import Chain
from models.posteriors.per_datum import per_datum
from utils.compiled import compiled
from utils.gradients import frozen

Scope = Literal["posterior", "context"]

STRETCH = 50  # steps that a chunk of data takes at once: rare looks, prompt interruption
# Rows of the decoder in one step: on a CPU what its caches hold, elsewhere what fills the device.
CPU_ROWS, DEVICE_ROWS = 2_000, 20_000
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's names for what it remembers of each number


class LocalOptimum(NamedTuple):
    """What local optimisation found; all that losses and estimators need to measure it.

    ``values`` (B,) is the mean bound in nats over the last steps that were judged, while the
    parameters still moved: to measure the optimum, draw afresh. ``steps`` (B,) were taken, and
    ``converged`` (B,) says whether the search ended by its own rule.
    """

    posterior: Chain
    context: Tensor
    values: Tensor
    steps: Tensor
    converged: Tensor


def local_optimise(
    loss: Loss,
    model: GenerativeModel,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    settings: LocalSettings,
    scope: Scope = "posterior",
) -> LocalOptimum:
    """Optimise to the end; see ``LocalOptimisation``."""
    search = LocalOptimisation(loss, model, posterior, x, context, settings, scope=scope)
    search.run(lambda num_active: True)
    return search.result()


class _Workbench:
    """Room for some data: their parameters as leaves, and Adam's moments of them."""

    def __init__(self, posterior: Chain, context: Tensor, size: int, scope: Scope) -> None:
        self.posterior, weights = posterior, {}
        if scope == "posterior":
            self.posterior = per_datum(posterior, size)
            weights = dict(self.posterior.named_parameters())
        self.context = context.new_empty(size, context.shape[1]).requires_grad_()
        self.leaves: dict[str, Tensor] = {"context": self.context, **weights}
        groups: list[dict[str, Any]] = [{"params": [self.context]}]
        if weights:
            groups.append({"params": list(weights.values())})
        self.optimiser = torch.optim.Adam(groups, fused=True)
        for leaf in self.leaves.values():
            moments = {name: torch.zeros_like(leaf) for name in MOMENTS}
            step = torch.zeros((), device=leaf.device)
            self.optimiser.state[leaf] = {"step": step, **moments}

    def tables(self) -> dict[str, dict[str, Tensor]]:
        """Parameters and moments under the names that they are stored by."""
        state = self.optimiser.state
        moments = {
            moment: {name: state[leaf][moment] for name, leaf in self.leaves.items()}
            for moment in MOMENTS
        }
        return {"values": self.leaves, **moments}

    def set_step(self, step: int) -> None:
        """Tell Adam how many steps the data have taken."""
        for leaf in self.leaves.values():
            self.optimiser.state[leaf]["step"].fill_(step)

    def set_rates(self, *rates: float) -> None:
        """Set Adam's rates for the context and for the weights."""
        for group, rate in zip(self.optimiser.param_groups, rates, strict=False):
            group["lr"] = rate


class LocalOptimisation:
    """The search for q* of B data points at once; stops, is saved and goes on bit for bit.

    All active data take the same number of steps, one chunk of them after the other, ``STRETCH``
    steps each; converged ones leave. A datum whose bound or parameters become NaN or infinite
    leaves too, unconverged, as it was before that stretch. Draws from the global generator.
    ``run`` raises ValueError where the loss depends on nothing that the scope frees.

    Args:
        loss: the bound to maximise.
        model: p(x, z); its parameters stay as they are and get no gradients.
        posterior: the family; it is left as it is, and copies of its weights are optimised.
        x: (B, C, H, W).
        context: where to start, (B, P).
        settings: how to search.
        scope: ``posterior`` optimises for each datum its context and a copy of the posterior's
            weights, ``context`` the context alone.
        compile_step: fuse forward and backward pass with torch.compile; falls back to eager, with
            a word to ``warn``, where that fails.
    """

    def __init__(
        self,
        loss: Loss,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        settings: LocalSettings,
        *,
        scope: Scope = "posterior",
        compile_step: bool = False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.loss, self.model, self.posterior, self.x = loss, model, posterior, x
        self.settings, self.scope = settings, scope
        rows = CPU_ROWS if x.device.type == "cpu" else DEVICE_ROWS
        self.chunk_size = max(1, rows // settings.num_samples)
        self._benches: dict[int, _Workbench] = {}
        self._forward = self._objective
        if compile_step:
            self._forward = compiled(self._objective, warn, dynamic=False)
        size = len(x)
        start = {"context": context.detach().clone()}
        if scope == "posterior":
            start |= {k: v.detach() for k, v in per_datum(posterior, size).named_parameters()}
        zeros = {name: {k: torch.zeros_like(v) for k, v in start.items()} for name in MOMENTS}
        self._tables = {"values": start, **zeros}  # a row a datum
        self.step = 0  # steps that the active data have taken
        self._opened, self._window = 0, min(settings.window, settings.max_steps)
        self._next = 0  # the first datum that has not yet taken its share of this round
        nothing = torch.zeros(size, dtype=context.dtype, device=x.device)
        self._data = {
            "active": torch.ones_like(nothing, dtype=torch.bool),
            "converged": torch.zeros_like(nothing, dtype=torch.bool),
            "steps": torch.zeros_like(nothing, dtype=torch.long),
            "stale": torch.zeros_like(nothing, dtype=torch.long),  # windows without a gain
            "sum": nothing.clone(),  # of the bounds judged in this window
            "best": nothing - math.inf,
            "value": nothing + math.nan,
        }

    def run(self, keep_going: Callable[[int], bool]) -> bool:
        """Go on to the end; False where ``keep_going(number of active data)`` said no."""
        constant = [self.model] if self.scope == "posterior" else [self.model, self.posterior]
        with frozen(*constant):
            while (num_active := int(self._data["active"].sum())) > 0:
                if not keep_going(num_active):
                    return False
                self._advance()
        return True

    def result(self) -> LocalOptimum:
        """The optimum, or how far the search has come."""
        values, data = dict(self._tables["values"]), self._data
        context = values.pop("context").clone()
        posterior = self.posterior
        if self.scope == "posterior":
            posterior = per_datum(posterior, len(self.x))
            posterior.load_state_dict(values, strict=False)  # buffers stay
        return LocalOptimum(
            posterior,
            context,
            data["value"].clone(),
            data["steps"].clone(),
            data["converged"].clone(),
        )

    def state(self) -> dict[str, Any]:
        """All that the search needs to go on, but for the generator; to be saved at once."""
        return {
            "step": self.step,
            "opened": self._opened,
            "window": self._window,
            "next": self._next,
            "data": self._data,
            "tables": self._tables,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self.step, self._next = state["step"], state["next"]
        self._opened, self._window = state["opened"], state["window"]
        self._data = dict(state["data"])
        self._tables = {name: dict(table) for name, table in state["tables"].items()}

    def _advance(self) -> None:
        """One stretch of one chunk; after the last one, the next round, or the end of a window."""
        num_steps = min(STRETCH, self._opened + self._window - self.step)
        waiting = self._data["active"][self._next :].nonzero().flatten() + self._next
        chosen = waiting[: self.chunk_size]
        self._stretch(chosen, num_steps)
        if len(waiting) > len(chosen):
            self._next = int(waiting[self.chunk_size])
            return
        self._next = 0
        self.step += num_steps
        if self.step == self._opened + self._window:
            self._judge()

    def _stretch(self, chosen: Tensor, num_steps: int) -> None:
        settings, bench = self.settings, self._bench(len(chosen))
        # Few sizes mean few compilations; what is left over repeats the first datum, for nothing.
        size = len(bench.context)
        rows = torch.cat([chosen, chosen[:1].expand(size - len(chosen))])
        with torch.no_grad():
            for name, table in bench.tables().items():
                for key, leaf in table.items():
                    torch.index_select(self._tables[name][key], 0, rows, out=leaf)
        bench.set_step(self.step)
        x = self.x[rows]
        history = torch.empty(num_steps, size, dtype=bench.context.dtype, device=x.device)
        for index in range(num_steps):
            factor = settings.schedule((self.step + index - self._opened) / self._window)
            bench.set_rates(factor * settings.lr, factor * settings.weight_lr)
            bench.optimiser.zero_grad(set_to_none=True)
            loss, history[index] = self._forward(bench.posterior, x, bench.context)
            if not loss.requires_grad:
                raise ValueError(f"the loss depends on nothing that scope `{self.scope}` frees")
            loss.backward()
            bench.optimiser.step()
        self._keep(chosen, bench, history)

    def _keep(self, chosen: Tensor, bench: _Workbench, history: Tensor) -> None:
        """Store the data that are well, with their bounds (steps, B); send away the others."""
        data, leaves = self._data, bench.leaves.values()
        # A last step can break parameters after a finite bound.
        finite = [leaf.isfinite().unsqueeze(-1).flatten(1).all(1) for leaf in leaves]
        finite.append(history.isfinite().all(0))
        well = torch.stack(finite).all(0)[: len(chosen)].nonzero().flatten()
        kept = chosen[well]
        for name, table in bench.tables().items():
            for key, leaf in table.items():
                self._tables[name][key][kept] = leaf.detach()[well]
        first = self._opened + self._window - self._num_judged() - self.step
        data["sum"][kept] += history[max(0, first) :, well].sum(0)
        data["active"][chosen] = False
        data["active"][kept] = True
        data["steps"][kept] = self.step + len(history)

    def _num_judged(self) -> int:
        return max(1, round(self.settings.judged * self._window))

    def _judge(self) -> None:
        """End the window: who has not gained leaves; the next one begins."""
        settings, data = self.settings, self._data
        active = data["active"]
        mean = data["sum"] / self._num_judged()
        better = mean > data["best"] + settings.min_gain
        data["stale"] = torch.where(better, 0, data["stale"] + 1)
        data["best"] = torch.where(better, mean, data["best"])
        data["value"] = torch.where(active, mean, data["value"])
        data["sum"] = torch.zeros_like(mean)
        done = active & (data["stale"] > settings.patience)
        data["converged"] = data["converged"] | done
        data["active"] = active & ~done & (self.step < settings.max_steps)
        self._opened = self.step
        self._window = min(self._window * settings.growth, settings.max_steps - self.step)

    def _bench(self, num_data: int) -> _Workbench:
        size = min(self.chunk_size, 1 << (num_data - 1).bit_length())
        if size not in self._benches:
            context = self._tables["values"]["context"]
            self._benches[size] = _Workbench(self.posterior, context, size, self.scope)
        return self._benches[size]

    def _objective(self, posterior: Chain, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        bound = self.loss(self.model, posterior, x, context)
        return bound.loss.sum(), bound.value
