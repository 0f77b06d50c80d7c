"""Local optimisation: the best bound L[q*] of each datum, over a family's free parameters.

Everything that belongs to a datum, its context and, with scope ``posterior``, its own copy of the
weights, is a row of stacked tensors. Adam works number by number and the losses are summed, so
the B data points are B separate problems, whatever the posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.generative import GenerativeModel
from models.local.comparison import compare
from models.local.settings import LocalSettings
from models.local.tables import Tables, fresh_record
from models.local.workbench import MOMENTS, Scope, Workbench
from models.losses import Loss
from models.posteriors.chain import Chain
from models.posteriors.per_datum import per_datum
from utils import checkpoint
from utils.compiled import differentiated
from utils.gradients import frozen

STRETCH = 50  # steps that a chunk of data takes at once: rare looks, prompt interruption


class LocalOptimum(NamedTuple):
    """What local optimisation found; all that losses and estimators need to measure it.

    ``values`` (B,) are the bounds in nats, with their standard errors ``errors`` (B,), by which
    the search has judged these parameters: to measure the optimum, draw afresh. ``steps`` (B,)
    were taken, and ``converged`` (B,) says whether the search ended by its own rule.
    """

    posterior: Chain
    context: Tensor
    values: Tensor
    errors: Tensor
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
    """Optimise to the end; see ``LocalSearch``."""
    search = LocalSearch(loss, model, posterior, x, context, settings, scope=scope)
    search.run(lambda num_active: True)
    return search.result()


class LocalSearch:
    """The search for q* of B data points at once; stops, is saved and goes on bit for bit.

    All active data take the same number of steps, one chunk of them after the other, ``STRETCH``
    steps each; at the end of a window they are judged, and converged ones leave. A datum whose
    bound or parameters become NaN or infinite gets back its best parameters. It rests until the
    window ends and goes on at the rates of the next one where ``settings.restart`` says so, and
    leaves unconverged otherwise. Draws from the global generator. ``run`` raises ValueError where
    the loss depends on nothing that the scope frees.

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
        self.chunk_size = settings.chunk_size(x.device)
        self._benches: dict[int, Workbench] = {}
        size = len(x)
        # Compiling takes half a minute for each size: what few data take together goes without.
        self._largest = self._bench_size(size)
        self._fused = differentiated(
            self._objective, _clear, compile_step=compile_step, warn=warn, dynamic=False
        )
        self._plain = differentiated(self._objective, _clear)
        start = {"context": context.detach().clone()}
        if scope == "posterior":
            start |= {k: v.detach() for k, v in per_datum(posterior, size).named_parameters()}
        # What changes from step to step, and with ``restart`` begins afresh in each window.
        self._passing = (*MOMENTS, "tail") if settings.comparisons > 0 else MOMENTS
        self._tables = Tables(start, ["best", *self._passing])
        self._tables.copy("best", "values", torch.arange(size, device=x.device))
        self.step = 0  # steps that the active data have taken
        self._opened, self._window = 0, min(settings.window, settings.max_steps)
        self._next = 0  # the first datum that has not yet taken its share of this round
        self._data = fresh_record(size, x.device)

    def run(self, keep_going: Callable[[int], bool]) -> bool:
        """Go on to the end; False where ``keep_going(number of data searched for)`` said no."""
        fixed = [self.model] if self.scope == "posterior" else [self.model, self.posterior]
        with frozen(*fixed):
            while (num_searching := int(self._data["searching"].sum())) > 0:
                if not keep_going(num_searching):
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
        found = (data[name].clone() for name in ("value", "error", "steps", "converged"))
        return LocalOptimum(posterior, context, *found)

    def state(self) -> dict[str, Any]:
        """All that the search needs to go on, but for the generator; to be saved at once."""
        return {
            "step": self.step,
            "opened": self._opened,
            "window": self._window,
            "next": self._next,
            "data": self._data,
            "tables": self._tables.state(),
        }

    def fits(self, state: Mapping[str, Any]) -> bool:
        """Whether ``state`` is that of a search like this one, for as many data."""
        own = self.state()
        if not checkpoint.alike(state, own, own.keys() - {"tables"}) or "tables" not in state:
            return False
        num_searching = int(state["data"]["searching"].sum())
        return checkpoint.alike(state["tables"], self._tables.state(num_searching))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self.step, self._next = state["step"], state["next"]
        self._opened, self._window = state["opened"], state["window"]
        self._data = dict(state["data"])
        self._tables.restore(state["tables"], self._data["searching"].nonzero().flatten())

    def _advance(self) -> None:
        """One stretch of one chunk; after the last one, the next round, or the end of a window."""
        end = self._opened + self._window
        num_steps = min(STRETCH, end - self.step)
        waiting = self._data["active"][self._next :].nonzero().flatten() + self._next
        chosen = waiting[: self.chunk_size]
        if len(chosen) > 0:
            self._stretch(chosen, num_steps)
        if len(waiting) > len(chosen):
            self._next = int(waiting[self.chunk_size])
            return
        self._next = 0
        self.step += num_steps
        if self.step == end:
            self._judge()

    def _stretch(self, chosen: Tensor, num_steps: int) -> None:
        settings, (bench, rows) = self.settings, self._bench(chosen)
        begun = self.step - self._opened  # steps of this window
        sources = {name: name for name in ("values", *self._passing)}
        self._tables.load(bench, sources, rows)
        bench.begin(begun if settings.restart else self.step)
        differentiate = self._fused if len(rows) == self._largest else self._plain
        x = self.x[rows]
        history = torch.empty(num_steps, len(rows), dtype=torch.double, device=x.device)
        num_averaged = max(1, round(settings.tail * self._window))
        for index in range(num_steps):
            factor = settings.schedule((begun + index) / self._window)
            _, history[index] = differentiate(bench, x)
            bench.step(factor * settings.lr, factor * settings.weight_lr)
            count = begun + index + 1 - (self._window - num_averaged)
            if settings.comparisons > 0 and count > 0:
                bench.average(count)
        self._keep(chosen, bench, history)

    def _keep(self, chosen: Tensor, bench: Workbench, history: Tensor) -> None:
        """Store the data that are well, with their bounds (steps, B); the others fall back."""
        data = self._data
        # A last step can break parameters after a finite bound.
        well = (bench.finite() & history.isfinite().all(0))[: len(chosen)]
        kept, index = chosen[well], well.nonzero().flatten()
        self._tables.store(bench, kept, index)
        data["sum"][kept] += history[:, index].sum(0)
        data["squares"][kept] += history[:, index].square().sum(0)
        data["steps"][kept] = self.step + len(history)
        broken = chosen[~well]
        data["active"][broken] = False
        self._tables.copy("values", "best", broken)

    def _judge(self) -> None:
        """End the window: who has converged leaves; the next one begins."""
        settings, data = self.settings, self._data
        done = self._compared() if settings.comparisons > 0 else self._outwaited()
        data["converged"] |= done
        data["sum"].zero_()
        data["squares"].zero_()
        if settings.restart:
            self._tables.clear(*self._passing)
            data["active"] = data["searching"].clone()  # those that broke try again
        data["searching"] = data["active"] & ~done & (self.step < settings.max_steps)
        data["active"] = data["searching"].clone()
        self._tables.keep(data["searching"].nonzero().flatten())
        largest = self._bench_size(int(data["searching"].sum()))
        self._benches = {size: b for size, b in self._benches.items() if size <= largest}
        self._opened = self.step
        self._window = min(self._window * settings.growth, settings.max_steps - self.step)

    def _outwaited(self) -> Tensor:
        """The published rule, by the means of windows: whether a datum has converged (B,)."""
        data, active = self._data, self._data["active"]
        mean = data["sum"] / self._window
        variance = (data["squares"] / self._window - mean.square()).clamp_min(0)
        better = active & (mean > data["best"] + self.settings.min_gain)
        data["stale"] = torch.where(better, 0, data["stale"] + 1)
        data["best"] = torch.where(better, mean, data["best"])
        data["value"] = torch.where(active, mean, data["value"])
        data["error"] = torch.where(active, (variance / self._window).sqrt(), data["error"])
        self._tables.copy("best", "values", better.nonzero().flatten())
        return active & (data["stale"] > self.settings.patience)

    def _compared(self) -> Tensor:
        """New parameters against the best so far: whether a datum has converged (B,)."""
        data, settings = self._data, self.settings
        active = data["active"].nonzero().flatten()
        limit = settings.min_gain / settings.growth
        most = round(settings.comparisons * self._window)
        comparison = compare(self._bounds, active, limit, most)
        self._tables.copy("best", "tail", active[comparison.is_better()])
        self._tables.copy("values", "best", active)
        data["value"][active], data["error"][active] = comparison.bounds()
        done = torch.zeros_like(data["active"])
        done[active] = comparison.is_within(limit)
        return done

    @torch.no_grad()
    def _bounds(self, table: str, chosen: Tensor, count: int) -> Tensor:
        """``count`` bounds each (N, B) of some data with the parameters in a table."""
        bounds = [self._data["sum"].new_empty(count, 0)]
        for some in chosen.split(self.chunk_size):
            bench, rows = self._bench(some)
            self._tables.load(bench, {"values": table}, rows)
            arguments = (self.model, bench.posterior, self.x[rows], bench.context)
            values = [self.loss(*arguments).value for _ in range(count)]
            bounds.append(torch.stack(values)[:, : len(some)].double())
        return torch.cat(bounds, 1)

    def _bench(self, chosen: Tensor) -> tuple[Workbench, Tensor]:
        """A bench for some data, and the rows on it.

        Few sizes mean few compilations; what is left over repeats the first datum, for nothing.
        """
        size = self._bench_size(len(chosen))
        if size not in self._benches:
            context = self._tables["values"]["context"]
            betas = self.settings.betas
            self._benches[size] = Workbench(self.posterior, context, size, self.scope, betas)
        return self._benches[size], torch.cat([chosen, chosen[:1].expand(size - len(chosen))])

    def _bench_size(self, num_data: int) -> int:
        return min(self.chunk_size, 1 << max(0, num_data - 1).bit_length())

    def _objective(self, bench: Workbench, x: Tensor) -> tuple[Tensor, Tensor]:
        bound = self.loss(self.model, bench.posterior, x, bench.moved())
        if not bound.loss.requires_grad:
            raise ValueError(f"the loss depends on nothing that scope `{self.scope}` frees")
        return bound.loss.sum(), bound.value


def _clear(bench: Workbench, x: Tensor) -> None:
    bench.clear()
