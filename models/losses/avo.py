"""Annealed variational objectives: every transition of a chain learns from a target of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from models import schedules
from models.generative import GenerativeModel
from models.losses.bounds import ELBO
from models.losses.protocol import (
    Bound,
    LogTerms,
    Loss,
    Warmup,
    Weight,
    by_position,
    losses,
    stat_metrics,
    stats_of,
    trial_context,
    warmups,
    with_constant,
)
from models.posteriors.chain import Chain
from models.posteriors.paths import LogDensity
from models.posteriors.protocol import Stage
from utils.seeding import isolated
from utils.types import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt

SCHEDULES: Mapping[str, Callable[[int], list[float]]] = {
    "linear": schedules.linear,
    "sigmoidal": schedules.sigmoidal,
}


@losses.register("avo")
class AVO(Loss):
    """Annealed variational objectives, in turn with the ELBO (Huang et al. 2018, 1809.01818).

    With probability ``avo_probability`` a training step minimises, for transitions t = 1 ... T,

        (1/T) Σ_t L_t,  L_t = E[log q_{t-1}(z_{t-1}) + log_ratio_t - log f_t(z_t)],
        log f_t(z) = alpha_t log p(x, z) + (1 - alpha_t) log q_0(z|x),

    else it is a plain ELBO step; the coin, one a minibatch, comes from the global generator. In
    L_t all but transition t is a constant: z_{t-1}, log q_{t-1} (for which the chain's log_q of
    the same draw stands), q_0, the decoder, and the shared context. So the step leaves decoder,
    base and, for transitions whose parameters are weights, encoder and amortiser without
    gradients. Flows whose parameters are numbers per datum learn through their amortiser, and the
    encoder with them. Sums of L_t bound nothing: ``value`` is the hierarchical ELBO always, and
    where no gradients are recorded (evaluation) there is no coin, and ``layer_1`` ... ``layer_T``
    are the L_t, in nats.

    A transition that holds several layers (``planar``, ``sylvester_*``, ``householder`` with
    more than one) counts as one; ``chain`` can list them one by one.

    Args:
        num_samples: S, of both kinds of step.
        alphas: ``linear`` t/T, ``sigmoidal``, or a list of T numbers that rise to 1.
        avo_probability: of an AVO step; the paper's is 0.2. With 1 and no ``base_weight``
            decoder and base are not trained.
        base_weight: adds as much of the base's own bound E_{q_0}[log p(x, z_0) - log q_0(z_0|x)]
            to each AVO step, which trains base, decoder and encoder.
        warmup: what to anneal in the ELBO and in the base's bound, and how.
        free_bits, free_bits_group: of the ELBO and of the base's bound, as in ``elbo``.
    """

    def __init__(
        self,
        *,
        num_samples: PositiveInt = 1,
        alphas: Literal["linear", "sigmoidal"] | Sequence[Fraction] = "linear",
        avo_probability: Fraction = 0.2,
        base_weight: NonNegativeFloat = 0.0,
        warmup: Annotated[Warmup, warmups] | None = None,
        free_bits: PositiveFloat | None = None,
        free_bits_group: PositiveInt | None = None,
    ) -> None:
        if not isinstance(alphas, str) and (alphas[-1:] != [1] or sorted(alphas) != list(alphas)):
            raise ValueError(f"`alphas` must rise to 1, the model itself; got {list(alphas)}")
        self.elbo = ELBO(
            num_samples=num_samples,
            warmup=warmup,
            free_bits=free_bits,
            free_bits_group=free_bits_group,
        )
        self.sees_batches = self.elbo.sees_batches
        self.num_samples = num_samples
        self.alphas = alphas
        self.avo_probability = avo_probability
        self.base_weight = base_weight
        self.warmup = warmup
        # Here and not where they are defined: this loads the compiler, a third of a start.
        self._coin = torch.compiler.disable(_coin)
        self._by_position = torch.compiler.disable(by_position)
        self._with_constant = torch.compiler.disable(with_constant)

    def check(self, posterior: Chain) -> None:
        """Try ``posterior`` out on a target of its own.

        Raises ValueError when it has no transitions or not as many as there are ``alphas``, when
        they make discrete choices, when a transition leaves the space of z (lift, drop and all
        between), or when one that has no weights leaves the base's density alone whatever its
        context (reflections of N(0, I)) or has nothing to learn.
        """
        self.elbo.check(posterior)
        num_layers = len(posterior.transitions)
        if not num_layers:
            raise ValueError("avo trains transitions one by one, and this posterior has none")
        if not isinstance(self.alphas, str) and len(self.alphas) != num_layers:
            raise ValueError(
                f"`alphas` are {len(self.alphas)} numbers for {num_layers} transitions"
            )
        if posterior.makes_choices:
            raise ValueError("avo cannot train discrete choices (Metropolis); take elbo or iwae")
        with isolated(seed=0), torch.no_grad():
            _try_out(posterior)

    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        weight: Weight = 1.0,
    ) -> Bound:
        """See ``Loss``."""
        if torch.is_grad_enabled() and not self._coin(self.avo_probability):
            return self.elbo(model, posterior, x, context, weight)
        stages = posterior.stages(context, model.log_joint(x), self.num_samples, detach=True)
        looks = any(transition.uses_target for transition in posterior.transitions)
        first, *layers = self._with_constant(model, stages) if looks else stages
        base_loss = self._base_loss(model, posterior, x, context, first, weight)
        stats = stats_of([first, *layers])
        z = torch.cat([stage.state.z for stage in layers])  # (T S, B, D)
        alphas = torch.tensor(self._alphas(len(layers)), dtype=z.dtype, device=z.device)
        alphas = alphas.repeat_interleave(self.num_samples)[:, None]  # (T S, 1)
        log_f = self._by_position(layers[-1].path.at(alphas), z)
        log_q = torch.cat([stage.log_q for stage in layers])
        by_layer = (log_q - log_f).unflatten(0, (len(layers), -1)).mean(1)  # (T, B)
        with torch.no_grad():
            log_prior = model.log_prior(layers[-1].state.z)
            log_likelihood = log_f[-self.num_samples :] - log_prior  # alpha_T = 1
            terms = LogTerms(log_likelihood, log_prior, layers[-1].log_q)
            value, metrics = terms.log_w.mean(0), {**terms.metrics(), **stat_metrics(stats)}
        if not torch.is_grad_enabled():
            metrics |= {f"layer_{t}": loss for t, loss in enumerate(by_layer, start=1)}
        return Bound(by_layer.mean(0) + base_loss, value, metrics, stats)

    def _alphas(self, num_layers: int) -> list[float]:
        alphas = self.alphas
        if isinstance(alphas, str):
            return SCHEDULES[alphas](num_layers)[1:]
        return list(alphas)

    def _base_loss(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        first: Stage,
        weight: Weight,
    ) -> Tensor | float:
        if self.base_weight == 0:
            return 0.0
        terms = LogTerms.of(model, x, first)
        refund = self.elbo.refund(posterior, first, context, weight)
        return self.base_weight * (refund - self.elbo.annealed(terms, weight).log_w.mean(0))


def _coin(probability: float) -> bool:
    """Not traced: the compiler would keep the first throw. On the CPU: nothing to wait for."""
    return torch.rand(()).item() < probability


def _try_out(posterior: Chain) -> None:
    """Run a chain once; raise ValueError at the first transition that avo cannot train."""
    context = trial_context(posterior)
    # Off its start, where flows are identities and the base is isotropic.
    context = context + 0.1 * torch.randn_like(context)
    log_base = posterior.log_base(context)
    stages = posterior.stages(context, lambda z: -0.5 * (z - 1).square().sum(-1), 10)
    before = next(stages)
    for index, stage in enumerate(stages):
        transition = posterior.transitions[index]
        name = f"`transitions[{index}]` ({type(transition).__name__})"
        if stage.state.v is not None or stage.state.z.shape != before.state.z.shape:
            raise ValueError(
                f"avo needs transitions that take z to z; {name} adds, moves or drops another "
                f"variable, and there is no annealed target for that"
            )
        has_weights = any(True for _ in transition.parameters())
        if not has_weights and transition.context_size == 0:
            raise ValueError(f"{name} has no parameters for avo to train; take elbo or iwae")
        if not has_weights and _keeps(log_base, before, stage):
            raise ValueError(
                f"{name} never changes the base's density, whatever its context, so avo has "
                f"nothing to train in it; take a base that is not isotropic, such as `diagonal`"
            )
        before = stage


def _keeps(log_density: LogDensity, before: Stage, after: Stage) -> bool:
    """Whether a step took draws of a density to draws of the same density, to float32 rounding."""
    log_ratio = after.log_q - before.log_q
    changed = log_density(after.state.z) - log_density(before.state.z)
    return torch.allclose(changed, log_ratio, atol=1e-4)
