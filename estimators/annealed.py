"""Annealed importance sampling by Hamiltonian Monte Carlo, all chains of many data at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from estimators.annealing import (
    PATHS,
    SCHEDULES,
    Path,
    PathName,
    Pilot,
    ScheduleName,
    compiled_slope,
    interpolate,
    plain_slope,
)
from estimators.protocol import Estimate, Estimator, Quantity, estimators
from models import dynamics
from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from models.posteriors.paths import Differentiator, SlopedPath, Target
from models.resampling import systematic
from utils.compiled import count_parameters, is_wanted
from utils.precision import in_bf16
from utils.types import Fraction, PositiveFloat, PositiveInt

NumChains = Annotated[int, Ge(2)]
NumDistributions = Annotated[int, Ge(2)]

TARGET_ACCEPTANCE = 0.65  # Neal 2011, section 5.4.4; Cremer et al. 2018
JITTER = 0.2  # relative spread of step sizes, against orbits that close (Neal 2011, section 5.4.2)
USUAL_LEAPFROG = 10

PILOT_CHAINS = 16
PILOT_MOVES = 3  # a level; the first level has to find the scale
PILOT_FIRST_MOVES = 12
PILOT_ESS = 0.9  # share that the reweighting from a level to the next one leaves
PILOT_LONGEST = 0.065  # step in b: at least 16 levels, even where reweighting costs nothing
PILOT_FIRST = 1e-7  # shortest step in b, with PILOT_GROWTH a bound on the number of levels
PILOT_GROWTH = 1.05
BISECTIONS = 30

LARGEST_ROUNDING = 0.5  # nats; beside the 0.9 of leapfrog's own error at 65 % it is hardly felt

FEWEST_EFFECTIVE = 3.0  # chains, and this share of all, below which no error can be believed
SMALLEST_SHARE = 0.05


class Plan(NamedTuple):
    """What the chains will do, settled before they start: betas and step sizes, (T+1, B).

    ``rounded``: forces within trajectories are computed in bf16; ``compiled``: densities and
    gradients are fused by torch.compile.
    """

    betas: Tensor
    step_sizes: Tensor
    rounded: bool = False
    compiled: bool = False

    def reversed(self) -> Plan:
        """The way back."""
        return self._replace(betas=self.betas.flip(0), step_sizes=self.step_sizes.flip(0))


class Chains(NamedTuple):
    """Chains at the end of their way.

    ``log_w`` (C, B): log weights since the last resampling; ``log_z`` (B,): log mean weights
    before it; ``ancestors`` (C, B): the chain that each one began as; ``acceptance`` and
    ``divergent`` (B,): shares of all moves.
    """

    log_w: Tensor
    log_z: Tensor
    ancestors: Tensor
    acceptance: Tensor
    divergent: Tensor

    @property
    def _families(self) -> Tensor:
        """What descends from each chain (C, B): sums of weights, which are 1 in the mean."""
        weights = len(self.log_w) * self.log_w.softmax(0)
        return torch.zeros_like(weights).scatter_add(0, self.ancestors, weights)

    @property
    def log_mean(self) -> tuple[Tensor, Tensor]:
        """Log of the mean weight (B,) and its delta-method standard error (B,).

        Relative variance of the mean: Σ_i (s_i - 1)² / (C (C-1)), s_i the normalised weight that
        descends from chain i (Chan and Lai 2013, arXiv 1103.6194); without resampling that is the
        weights' own variance.
        """
        num_chains = len(self.log_w)
        value = self.log_z + self.log_w.logsumexp(0) - math.log(num_chains)
        bessel = num_chains * (num_chains - 1) if num_chains > 1 else math.nan  # no error bar
        variance = (self._families - 1).square().sum(0) / bessel
        nothing = ~(value > -math.inf)  # no weight at all
        return value, variance.masked_fill(nothing, math.inf).sqrt()

    @property
    def reliable(self) -> Quantity:
        """1 where that error can be believed: many chains, or their heirs, share the weight.

        Their effective number C² / Σ_i s_i² is three or more, and 5 % of C or more.
        """
        num_chains = len(self.log_w)
        effective = num_chains**2 / self._families.square().sum(0)  # NaN without any weight
        return enough(effective, num_chains)

    @property
    def halves(self) -> dict[str, Quantity]:
        """What each half of chains that were not resampled tells, which then are independent."""
        size = len(self.log_w) // 2
        stats: dict[str, Quantity] = {}
        for name, log_w in (("a", self.log_w[:size]), ("b", self.log_w[size:])):
            half = self._replace(log_w=log_w, ancestors=self.ancestors[: len(log_w)])
            stats |= {
                f"log_px_{name}": Quantity(*half.log_mean),
                f"reliable_{name}": half.reliable,
            }
        return stats

    @property
    def stats(self) -> dict[str, Quantity]:
        """Effective sample size of the weights, and the shares of moves accepted and divergent."""
        ess = self.log_w.softmax(0).square().sum(0).reciprocal().nan_to_num(nan=0.0)
        shares = {"acceptance": Quantity(self.acceptance), "divergent": Quantity(self.divergent)}
        return {"ess": Quantity(ess), **shares}


def enough(effective: Tensor, number: int) -> Quantity:
    """1 where the error of the mean of weights worth ``effective`` (B,) can be believed."""
    return Quantity((effective >= max(FEWEST_EFFECTIVE, SMALLEST_SHARE * number)).double())


def cat(parts: list[Chains]) -> Chains:
    """Chains of several chunks of data as one."""
    return Chains(*(torch.cat(tensors, -1) for tensors in zip(*parts, strict=True)))


class Annealer(Estimator):
    """Runs chains along a path: what AIS, SMC and BDMC have in common, their options, too."""

    def __init__(
        self,
        compile_step: bool | None = False,
        rounded_forces: bool = False,
        *,
        path: PathName = "posterior",
        schedule: ScheduleName = "adaptive",
        num_chains: NumChains = 100,
        num_distributions: NumDistributions = 500,
        num_leapfrog: PositiveInt = USUAL_LEAPFROG,
        resample_below: Fraction | None = None,
        step_size: PositiveFloat | None = None,
        chunk_size: PositiveInt = 1000,
    ) -> None:
        if step_size is not None and schedule == "adaptive":
            raise ValueError(
                "with a `step_size` there is no pilot run, by which `schedule: adaptive` goes; "
                "take `linear` or `sigmoidal`"
            )
        self.path, self.schedule, self.step_size = path, schedule, step_size
        self.num_chains, self.num_distributions = num_chains, num_distributions
        self.num_leapfrog, self.resample_below = num_leapfrog, resample_below
        self.chunk_size = chunk_size
        self.compile_step, self.rounded_forces = compile_step, rounded_forces
        # By whether forces are rounded:
        self._compiled: dict[bool, Callable[[Path], Differentiator]] = {}
        self.settings = {
            "path": path,
            "schedule": schedule,
            "num_chains": num_chains,
            "num_distributions": num_distributions,
            "num_leapfrog": num_leapfrog,
            "resample_below": resample_below,
            "step_size": step_size,
        }

    def chunks(
        self, model: GenerativeModel, posterior: Chain, x: Tensor, context: Tensor
    ) -> Iterator[tuple[Path, Plan]]:
        """Path and plan of one chunk of data after the other."""
        step = max(1, self.chunk_size // self.num_chains)
        for data, numbers in zip(x.split(step), context.split(step), strict=True):
            path = PATHS[self.path](model, posterior, data, numbers)
            yield path, self._plan(path, len(x))

    def _plan(self, path: Path, num_data: int) -> Plan:
        if self.step_size is None:
            pilot = run_pilot(path, self.num_leapfrog)
        else:
            pilot = no_pilot(path, self.step_size)
        betas = SCHEDULES[self.schedule](self.num_distributions, pilot)
        step_sizes = interpolate(betas.contiguous(), pilot.betas, pilot.log_step_sizes).exp()
        rounded = self.rounded_forces and may_round(path, pilot, self.num_leapfrog)
        return Plan(betas, step_sizes, rounded, self._wants_compiler(path, num_data))

    def _wants_compiler(self, path: Path, num_data: int) -> bool:
        """By the steps for ``num_data``, of which the path's take theirs together."""
        if self.compile_step is not None:
            return self.compile_step
        steps = self.num_distributions * self.num_leapfrog * -(-num_data // len(path.x))
        rows = self.num_chains * len(path.x)
        return is_wanted("auto", steps, rows, count_parameters(path.model))

    def _slope(self, path: Path, plan: Plan) -> Differentiator:
        """How values and gradients of the slope are found; gradients alone may be rounded.

        These are the forces within trajectories; those at their ends come with the values.
        """
        if not plan.compiled:
            return plain_slope(path, rounded=plan.rounded)
        if plan.rounded not in self._compiled:
            self._compiled[plan.rounded] = compiled_slope(path.x.device, rounded=plan.rounded)
        return self._compiled[plan.rounded](path)

    def run(self, path: Path, start: Tensor, plan: Plan) -> Chains:
        """Anneal chains from ``start`` (C, B, D) by the plan.

        log w = Σ_t (b_t - b_{t-1}) slope(u_{t-1}), each step before the move that leaves f_{b_t}
        invariant; no move follows the last (Neal 2001). The moves are reversible, so the same
        from an exact draw of f_1 by the reversed plan weighs 1/p(x).
        """
        u, way = start, SlopedPath(path.log_start, path.slope, self._slope(path, plan))
        log_w = torch.zeros_like(u[..., 0], dtype=torch.float64)  # (C, B)
        log_z = torch.zeros_like(log_w[0])  # (B,)
        acceptance, divergent = torch.zeros_like(log_z), torch.zeros_like(log_z)
        ancestors = torch.arange(len(log_w), device=log_w.device)[:, None].expand(log_w.shape)
        betas, step_sizes = plan.betas.to(start.dtype), plan.step_sizes.to(start.dtype)
        for t in range(1, self.num_distributions + 1):
            slope = way.slope.evaluate(u).log_density
            log_w = log_w + (plan.betas[t] - plan.betas[t - 1]) * slope
            if t == self.num_distributions:
                break
            if self.resample_below is not None:
                chosen, log_w, log_z = _resample(log_w, log_z, self.resample_below)
                u = way.pick(chosen, u)
                ancestors = ancestors.gather(0, chosen)
            u, probability, lost = move(way.at(betas[t]), u, step_sizes[t], self.num_leapfrog)
            acceptance = acceptance + probability.mean(0)
            divergent = divergent + lost.double().mean(0)
        num_moves = self.num_distributions - 1
        return Chains(log_w, log_z, ancestors, acceptance / num_moves, divergent / num_moves)


class Moved(NamedTuple):
    """Positions u (C, B, D) after a move; its acceptance probabilities, and which diverged."""

    u: Tensor
    probability: Tensor
    divergent: Tensor


def move(target: Target, u: Tensor, step_size: Tensor, num_leapfrog: int) -> Moved:
    """A Hamiltonian move that leaves ``target`` invariant.

    ``step_size`` is (B,); each chain jitters its steps by itself.
    """
    jitter = 1 + JITTER * (2 * torch.rand_like(u[..., 0]) - 1)  # (C, B)
    steps = (step_size * jitter)[..., None]
    proposal = dynamics.hamiltonian(target.evaluate(u), steps, num_leapfrog, target)
    u = target.choose(proposal.accepted, proposal.point.z, u)
    return Moved(u, proposal.probability, proposal.divergent)


def _resample(log_w: Tensor, log_z: Tensor, below: float) -> tuple[Tensor, Tensor, Tensor]:
    """Systematic resampling (Kitagawa 1996) where ESS / C < below: who goes on, log_w, log_z."""
    num_chains = len(log_w)
    weights = log_w.softmax(0)
    uneven = weights.square().sum(0) * below * num_chains > 1  # (B,)
    own = torch.arange(num_chains, device=log_w.device)[:, None]
    chosen = torch.where(uneven, systematic(weights), own)
    log_mean = log_w.logsumexp(0) - math.log(num_chains)
    log_z = torch.where(uneven, log_z + log_mean, log_z)
    return chosen, log_w.masked_fill(uneven, 0.0), log_z


# --- the pilot run -------------------------------------------------------------------------------


def run_pilot(path: Path, num_leapfrog: int) -> Pilot:
    """Few chains go up the path to find, for each datum, good levels and step sizes.

    From level to level the reweighting leaves an effective sample size of ``PILOT_ESS`` (Zhou et
    al. 2016, arXiv 1303.3123); at each level the log step size follows the acceptance rate
    (Robbins and Monro). Independent of all chains to come, so that these keep exact weights.
    """
    u = path.draw(PILOT_CHAINS)
    way = SlopedPath(path.log_start, path.slope, plain_slope(path))
    beta = torch.zeros_like(u[0, :, 0], dtype=torch.float64)  # (B,)
    log_step = torch.full_like(beta, math.log(0.5))
    betas: list[Tensor] = []
    log_steps: list[Tensor] = []
    while True:
        for _ in range(PILOT_MOVES if betas else PILOT_FIRST_MOVES):
            target, step_size = way.at(beta.to(u.dtype)), log_step.exp().to(u.dtype)
            u, probability, _ = move(target, u, step_size, num_leapfrog)
            log_step = log_step + probability.mean(0) - TARGET_ACCEPTANCE
        betas.append(beta)
        log_steps.append(log_step)
        if bool((beta >= 1).all()):
            return Pilot(torch.stack(betas), torch.stack(log_steps), u)
        beta = _next_level(beta, way.slope.evaluate(u).log_density.double())


def no_pilot(path: Path, step_size: float) -> Pilot:
    """The two ends and nothing between, with the same step size for all."""
    beta = torch.zeros_like(path.draw(1)[0, :, 0], dtype=torch.float64)  # (B,)
    betas = torch.stack([beta, beta + 1])
    return Pilot(betas, torch.full_like(betas, math.log(step_size)))


def may_round(path: Path, pilot: Pilot, num_leapfrog: int) -> bool:
    """Whether forces in bf16 leave the acceptance rate as it is; not without a pilot run.

    Of unit momenta, a force that is off by e throws the energy of L steps by about step |e| √L,
    which must be small beside a nat: it is where posteriors are much wider than the rounding of
    the place itself.
    """
    if pilot.chains is None:
        return False
    exact = path.slope_gradient(pilot.chains)
    try:
        rounded = in_bf16(path.slope_gradient, path.x.device)(pilot.chains)
    except RuntimeError:  # the model does something that bf16 has no kernel for
        return False
    error = (rounded - exact).square().sum(-1).mean(0).sqrt()  # (B,)
    energy = error * pilot.log_step_sizes[-1].exp() * math.sqrt(num_leapfrog)
    return bool((energy <= LARGEST_ROUNDING).all())


def _next_level(beta: Tensor, slope: Tensor) -> Tensor:
    """The next b (B,) for chains with ``slope`` (C, B), by bisection on the share of ESS."""
    low = (PILOT_GROWTH - 1) * beta + PILOT_FIRST
    high = torch.full_like(beta, PILOT_LONGEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        weights = (middle * slope).softmax(0)
        enough = weights.square().sum(0) * PILOT_ESS * len(slope) <= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (beta + low).clamp_max(1.0)


# --- the estimator -------------------------------------------------------------------------------


@estimators.register("ais")
class AnnealedImportanceSampling(Annealer):
    """Annealed importance sampling (Neal 2001), or SMC: a lower bound, E[exp(log_px)] = p(x).

    Chains go from a Gaussian with the posterior's moments (``path: posterior``) or from the prior
    (``path: prior``) to p(x, z), moved by Hamiltonian Monte Carlo. Step sizes, and the
    ``adaptive`` schedule, come per datum from a short pilot run of other chains and are then
    fixed, so that the weights are exact.

    The defaults err least where the posterior is narrow: chains from the prior by the linear
    schedule need thousands of distributions there. Where p(z|x) has several modes and the
    posterior sits on one, take ``path: prior``, or ``bdmc`` to see what is missed.

    Args:
        compile_step: fuse densities and gradients with torch.compile; null: where the work on a
            batch is worth it.
        rounded_forces: compute in bf16 what only moves chains (see ``utils.precision``), where
            that costs no acceptance; weights stay exact.
        path: where the chains start.
        schedule: how b goes from 0 to 1: ``linear``, ``sigmoidal``, or ``adaptive`` (constant
            conditional effective sample size).
        num_chains: chains per datum.
        num_distributions: T, steps in b.
        num_leapfrog: leapfrog steps, one gradient each, of each of the T - 1 moves.
        resample_below: resample a datum's chains when their effective sample size falls below
            this share (sequential Monte Carlo, Del Moral et al. 2006); null: never.
        step_size: of all moves; null: what the pilot run finds.
        chunk_size: rows (chains times data points) through the decoder at once, all chains of a
            datum at least; bounds memory.

    Per datum it gives ``log_px`` with its delta-method standard error over chains; ``reliable``,
    1 where that error can be believed (an effective number of three chains and of 5 % of all); the
    effective sample size ``ess`` of the final weights; the mean ``acceptance`` rate; and
    ``divergent``, the share of trajectories whose energy was lost. Without resampling,
    ``log_px_a``, ``log_px_b``, ``reliable_a`` and ``reliable_b`` are those of each half of the
    chains, for ``combine``.
    """

    name = "ais"

    @property
    def has_halves(self) -> bool:
        """Chains that were resampled depend on each other."""
        return self.resample_below is None

    @torch.no_grad()
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """See ``Estimator``."""
        parts = [
            self.run(path, path.draw(self.num_chains), plan)
            for path, plan in self.chunks(model, posterior, x, context)
        ]
        chains = cat(parts)
        halves = chains.halves if self.has_halves else {}
        stats = {"reliable": chains.reliable, **chains.stats, **halves}
        return Estimate(Quantity(*chains.log_mean), stats)


@estimators.register("ais_paper")
def ais_paper(
    compile_step: bool | None, rounded_forces: bool, *, chunk_size: PositiveInt = 1000
) -> AnnealedImportanceSampling:
    """AIS as Cremer et al. 2018 (arXiv 1801.03558) publish it, to compare with their tables.

    From the prior by the linear schedule, 500 distributions × 100 chains, 10 leapfrog steps; too
    low by many nats where posteriors are narrow. ``chunk_size`` as in ``ais``.
    """
    return AnnealedImportanceSampling(
        compile_step,
        rounded_forces,
        path="prior",
        schedule="linear",
        num_chains=100,
        num_distributions=500,
        num_leapfrog=USUAL_LEAPFROG,
        chunk_size=chunk_size,
    )
