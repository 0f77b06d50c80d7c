"""What every transition must hold, whoever wrote it: its log_ratio, its rows, its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from models.posteriors.paths import Remembered, Target
from models.posteriors.protocol import Move, State, Transition, transitions
from tests.components import make_node, perturbed

SHARED, PARTNER = 2, 3
NET = {"shared_size": SHARED, "hidden": [7], "activation": "tanh"}


class Case(NamedTuple):
    """A transition with options, and how to feed it."""

    name: str
    options: Mapping[str, Any] = {}
    latent_dims: tuple[int, ...] = (1, 2, 3, 5)
    partner: int = 0  # V of the state it takes
    bijective: bool = True  # log_ratio = -log|det J|
    prior_like: bool = True  # at the initial context it leaves N(0, I) alone

    def __str__(self) -> str:
        options = "-".join(str(v) for v in self.options.values() if isinstance(v, str | int))
        return f"{self.name}-{options}" if options else self.name


CASES = [
    Case("planar", {"num_layers": 3}),
    Case("radial", {"num_layers": 3}),
    Case("sylvester_orthogonal", {"num_layers": 2, "num_ortho": 1}),
    Case("sylvester_orthogonal", {"num_layers": 3, "num_ortho": 3}, latent_dims=(3, 5)),
    Case("sylvester_householder", {"num_layers": 2, "num_householder": 3}),
    Case("sylvester_triangular", {"num_layers": 3}),
    Case("householder", {"num_reflections": 4}),
    Case("convex_linear", {"num_matrices": 1}),
    Case("convex_linear", {"num_matrices": 3}),
    Case("coupling", {**NET, "scale": "exponential"}, (2, 3, 5)),
    Case("coupling", {**NET, "scale": "exponential", "flip": True}, (2, 3, 5)),
    Case("coupling", {**NET, "scale": "sigmoid"}, (2, 3, 5), prior_like=False),
    Case("spline_coupling", {**NET, "num_bins": 4, "bound": 2.0}, (2, 3, 5)),
    Case("inverse_autoregressive", {**NET, "hidden": [8, 7]}, prior_like=False),
    Case("inverse_autoregressive", {"hidden": [6], "reverse": True}, prior_like=False),
    Case("gaussian_kernel", NET, bijective=False),
    *(
        Case("leapfrog", options, (PARTNER,), partner=PARTNER, prior_like=False)
        for options in (
            {"num_steps": 3},
            {"num_steps": 3, "tempering": "free", "step_size_per": "step"},
            {"num_steps": 2, "tempering": "fixed_scale"},
            {"num_steps": 2, "tempering": "fixed_temperature"},
        )
    ),
    Case("hamiltonian", bijective=False),
    Case("langevin", bijective=False),
    Case("langevin", {"skip_below": 0.5}, bijective=False),
    Case(
        "langevin",
        {"reverse_hidden": [5], "shared_size": SHARED, "activation": "tanh"},
        bijective=False,
    ),
    Case("metropolis_langevin", bijective=False),
    Case("metropolis_langevin", {"rule": "barker"}, bijective=False),
    Case("metropolis_hamiltonian", bijective=False),
    *(
        Case("controlled_langevin", {**NET, "pushed": pushed}, bijective=False)
        for pushed in ("reverse", "both")
    ),
    *(
        Case("refresh", options, (PARTNER,), partner=PARTNER, bijective=False)
        for options in (
            {},
            {"rule": "euler"},
            {**NET, "pushed": "reverse"},
            {**NET, "pushed": "both", "rule": "euler"},
        )
    ),
    Case(
        "partner_coupling",
        {**NET, "partner_size": PARTNER, "scale": "exponential"},
        partner=PARTNER,
    ),
    Case(
        "partner_coupling",
        {**NET, "partner_size": PARTNER, "scale": "sigmoid"},
        partner=PARTNER,
        prior_like=False,
    ),
    Case(
        "lift",
        {"density": {"name": "gaussian", "partner_size": PARTNER, **NET}},
        bijective=False,
    ),
    Case(
        "drop",
        {"density": {"name": "gaussian", "partner_size": PARTNER, **NET}},
        partner=PARTNER,
        bijective=False,
    ),
]
CASES += [Case(name) for name in transitions.names() if name not in {case.name for case in CASES}]


def every(cases: list[Case]) -> pytest.MarkDecorator:
    """Each case at each of its sizes."""
    sized = [pytest.param(case, d, id=f"{case}-D{d}") for case in cases for d in case.latent_dims]
    return pytest.mark.parametrize(("case", "latent_dim"), sized)


def find(case: Case) -> Transition:
    """The transition as it is built."""
    node = make_node(transitions, {"name": case.name, **case.options})
    transition: Transition = node.build(latent_dim=case.latent_dims[0])
    return transition


every_transition = every(CASES)
every_bijection = every([case for case in CASES if case.bijective])
every_with_density = every([case for case in CASES if find(case).has_density])
every_reversible = every([case for case in CASES if find(case).reversible])


def build(case: Case, latent_dim: int) -> Transition:
    """The transition with its weights moved off their zeros, so that no part of it is idle."""
    node = make_node(transitions, {"name": case.name, **case.options})
    return perturbed(node.build(latent_dim=latent_dim), scale=0.3)


def make_context(transition: Transition, num_data: int, spread: float = 0.7) -> Tensor:
    """Contexts (B, context_size [+ shared]) about the initial one."""
    initial = transition.initial_context().double()
    if transition.uses_shared:
        initial = torch.cat([initial, torch.zeros(SHARED, dtype=initial.dtype)])
    return initial + spread * torch.randn(num_data, len(initial), dtype=initial.dtype)


def make_state(case: Case, latent_dim: int, num_samples: int, num_data: int) -> State:
    """Standard normal draws, with a partner where the transition takes one."""
    z = torch.randn(num_samples, num_data, latent_dim).double()
    v = torch.randn(num_samples, num_data, case.partner).double() if case.partner else None
    return State(z, v)


def make_target() -> Target:
    """A smooth correlated density, unnormalised."""
    return Remembered(lambda z: -0.5 * z.square().sum(-1) - 0.1 * (z.sum(-1) - 0.3).pow(4))


def joined(state: State) -> Tensor:
    """(z, v) as one vector (S, B, D + V)."""
    return torch.cat([part for part in state if part is not None], dim=-1)


def parted(vector: Tensor, latent_dim: int) -> State:
    """The state of a vector (S, B, D + V)."""
    z, v = vector[..., :latent_dim], vector[..., latent_dim:]
    return State(z, v if v.shape[-1] else None)


def row(state: State, sample: int, datum: int) -> State:
    """One sample of one datum, (1, 1, ·)."""
    parts = (None if part is None else part[sample, datum][None, None] for part in state)
    return State(*parts)


@every_bijection
def test_log_ratio_is_minus_the_log_determinant(case: Case, latent_dim: int):
    """To 1e-8: float64 rounding of a determinant of at most 8 rows, times its condition."""
    transition = build(case, latent_dim)
    for _ in range(3):
        context = make_context(transition, 1)
        state = make_state(case, latent_dim, 1, 1)

        def image(vector: Tensor, context: Tensor = context) -> Tensor:
            move = transition(parted(vector[None, None], latent_dim), context, make_target())
            return joined(move.state)[0, 0]

        jacobian = torch.autograd.functional.jacobian(image, joined(state)[0, 0])
        log_det = torch.linalg.slogdet(jacobian).logabsdet
        log_ratio = transition(state, context, make_target()).log_ratio
        assert log_ratio.shape == (1, 1)
        torch.testing.assert_close(log_ratio[0, 0], -log_det, atol=1e-8, rtol=0)


@every_bijection
def test_a_batch_is_its_rows(case: Case, latent_dim: int):
    transition = build(case, latent_dim)
    context = make_context(transition, 3)
    state = make_state(case, latent_dim, 2, 3)
    move: Move = transition(state, context, make_target())
    assert move.state.z.shape == (2, 3, latent_dim)
    assert move.log_ratio.shape == (2, 3)
    for sample in range(2):
        for datum in range(3):
            alone = transition(row(state, sample, datum), context[datum][None], make_target())
            torch.testing.assert_close(joined(row(move.state, sample, datum)), joined(alone.state))
            torch.testing.assert_close(move.log_ratio[sample, datum], alone.log_ratio[0, 0])


@every([case for case in CASES if case.bijective and case.prior_like])
def test_a_fresh_datum_keeps_the_prior(case: Case, latent_dim: int):
    """log N(z) + log_ratio = log N(z') at the initial context and weights."""
    node = make_node(transitions, {"name": case.name, **case.options})
    transition = node.build(latent_dim=latent_dim).double()
    state = make_state(case, latent_dim, 4, 2)
    move = transition(state, make_context(transition, 2, spread=0.0), make_target())
    before = -0.5 * joined(state).square().sum(-1)
    after = -0.5 * joined(move.state).square().sum(-1)
    # The initial context is a float32 number: 6e-8, times a few layers.
    torch.testing.assert_close(before + move.log_ratio, after, atol=2e-6, rtol=0)


@every_transition
@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_gradients_are_finite(case: Case, latent_dim: int, spread: float):
    transition = build(case, latent_dim)
    context = make_context(transition, 3, spread).requires_grad_()
    move = transition(make_state(case, latent_dim, 2, 3), context, make_target())
    (joined(move.state).square().sum() + move.log_ratio.sum()).backward()
    wanted = {"context": context} if context.numel() else {}
    for name, tensor in {**wanted, **dict(transition.named_parameters())}.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name


@every_bijection
def test_second_derivatives_are_right(case: Case, latent_dim: int):
    """Scores of chains are differentiated again; against finite differences of the first."""
    transition = build(case, latent_dim)
    context = make_context(transition, 1).requires_grad_()
    vector = joined(make_state(case, latent_dim, 1, 1)).requires_grad_()

    def outputs(vector: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        move = transition(parted(vector, latent_dim), context, make_target())
        return joined(move.state), move.log_ratio

    inputs = (vector, context)
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


@every_with_density
def test_a_move_has_the_score_that_it_told(case: Case, latent_dim: int):
    transition = build(case, latent_dim)
    context, state = make_context(transition, 3), make_state(case, latent_dim, 2, 3)
    move = transition(state, context, make_target())
    torch.testing.assert_close(
        transition.score(state, move.state, context, make_target()), move.log_ratio
    )


@every_with_density
def test_scores_are_smooth_in_the_context(case: Case, latent_dim: int):
    transition = build(case, latent_dim)
    context, state = make_context(transition, 3), make_state(case, latent_dim, 2, 3)
    if context.numel() == 0:
        return
    after = transition(state, context, make_target()).state.detach()

    def score(context: Tensor) -> Tensor:
        return transition.score(state, after, context, make_target())

    assert torch.autograd.gradcheck(score, context.requires_grad_(), fast_mode=True)


@every_reversible
def test_a_retraced_move_has_the_log_ratio_of_the_way_there(case: Case, latent_dim: int):
    transition = build(case, latent_dim)
    context, state = make_context(transition, 3), make_state(case, latent_dim, 2, 3)
    after = transition(state, context, make_target()).state
    back = transition.retrace(after, context, make_target())
    assert joined(back.state).shape == joined(state).shape
    if transition.has_density:
        there = transition.score(back.state, after, context, make_target())
        torch.testing.assert_close(back.log_ratio, there)
    elif case.bijective:
        torch.testing.assert_close(joined(back.state), joined(state))
        again = transition(back.state, context, make_target())
        torch.testing.assert_close(back.log_ratio, again.log_ratio)


def test_what_has_no_density_or_no_way_back_says_so():
    flow, state = build(CASES[0], 2), State(torch.zeros(1, 1, 2))
    with pytest.raises(TypeError, match="Planar have no density"):
        flow.score(state, state, torch.zeros(1, 0), make_target())
    with pytest.raises(TypeError, match="Planar cannot be read backwards"):
        flow.retrace(state, torch.zeros(1, 0), make_target())
