"""Contexts at which a flow's formula is singular: values and gradients stay finite and right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from models.posteriors.bijections import Planar, Radial
from models.posteriors.householder import Householder, reflect
from models.posteriors.protocol import Density, State, Transition, bases, transitions
from models.posteriors.sylvester import Orthogonalised, orthogonal_layers
from tests.components import NO_TARGET, make_node, normal, perturbed
from utils.registry import REQUIRED

D = 3
CONTEXTS = {
    "zeros": torch.zeros,
    "equal": torch.ones,
    "tiny": lambda *shape: 1e-20 * torch.randn(*shape),
    "denormal": lambda *shape: 1e-40 * torch.randn(*shape),
    "large": lambda *shape: 50.0 * torch.ones(*shape),
    "negative": lambda *shape: -50.0 * torch.ones(*shape),
    "wild": lambda *shape: 30.0 * torch.randn(*shape),
}


def complete(registry) -> Iterator[Any]:
    """The components that need no option: all but those that are handed a net."""
    for entry in registry:
        if all(option.default is not REQUIRED for option in entry.options):
            yield pytest.param(registry, entry.name, id=entry.name)


def build(registry, name: str, **options: Any) -> Any:
    return make_node(registry, {"name": name, **options}).build(latent_dim=D, num_features=3)


def is_finite(values: Tensor, *leaves: Tensor) -> bool:
    """Whether the values are, and the gradients of their sum."""
    moving = values.sum() + sum(0 * leaf.sum() for leaf in leaves)  # of some, nothing depends
    gradients = torch.autograd.grad(moving, leaves)
    return all(tensor.isfinite().all() for tensor in (values, *gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sylvester_flow_is_finite_where_its_diagonals_are_rounded_to_1(dtype):
    """In the middle of a unit, where it would contract the most."""
    flow = orthogonal_layers(1)
    numbers = torch.tensor([[1.0, -30.0, 30.0, 0.0]], dtype=dtype).requires_grad_()
    z = torch.zeros(1, 1, 1, dtype=dtype)
    assert is_finite(flow(State(z), numbers, NO_TARGET).log_ratio, numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("registry", "name"), list(complete(transitions)))
def test_every_transition_is_finite(registry, name, context, dtype):
    transition: Transition = perturbed(build(registry, name), scale=0.1).to(dtype)
    numbers = CONTEXTS[context](2, transition.context_size).to(dtype).requires_grad_()
    z, v = torch.randn(2, 4, 2, D, dtype=dtype).unbind(0)
    z[0] = 0
    z[1, :, : transition.context_size] = numbers.detach()[:, :D]  # a centre of radial flows
    z.requires_grad_()
    move = transition(State(z, v), numbers, NO_TARGET)
    assert is_finite(move.state.z.sum(-1) + move.log_ratio, numbers, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("registry", "name"), list(complete(bases)))
def test_every_base_is_finite(registry, name, context, dtype):
    base: Density = build(registry, name).to(dtype)
    numbers = CONTEXTS[context](2, base.context_size).to(dtype).requires_grad_()
    z, log_q, _ = base.sample(torch.empty(4, 2, 0, dtype=dtype), numbers)
    assert is_finite(z.sum(-1) + log_q, numbers)


# --- and right -----------------------------------------------------------------------------------


def log_det_of(transition: Transition, context: Tensor, z: Tensor) -> Tensor:
    """log|det J| by autograd, of one datum's z (D,)."""

    def moved(z: Tensor) -> Tensor:
        return transition(State(z[None, None]), context, NO_TARGET).state.z[0, 0]

    return torch.linalg.slogdet(jacrev(moved)(z)).logabsdet


@pytest.mark.parametrize(
    ("transition", "context"),
    [
        (Planar(D), torch.tensor([0.5, -1.0, 2.0, 0, 0, 0, 0.3])),
        (Planar(D), torch.tensor([0.5, -1.0, 2.0, 1e-20, 2e-20, -1e-20, 0.3])),
        (Radial(D), torch.tensor([0.1, 0.2, 0.3, -60.0, 1.0])),
        (Radial(D), torch.tensor([0.1, 0.2, 0.3, 1.0, -60.0])),
        (Householder(D, num_reflections=2), torch.tensor([0, 0, 0, 1.0, 2.0, 3.0])),
        (Householder(D, num_reflections=2), torch.tensor([1e-13, 0, 0, 0.5e-12, 5e-13, 0])),
        (orthogonal_layers(D, num_ortho=2), torch.cat([torch.zeros(6), 0.4 * torch.ones(8)])),
        (orthogonal_layers(D, num_ortho=2), torch.cat([torch.ones(6), 0.4 * torch.ones(8)])),
    ],
    ids=["planar 0", "planar tiny", "radial a", "radial s", "householder 0", "householder tiny",
         "sylvester 0", "sylvester equal"],
)  # fmt: skip
def test_log_ratio_is_that_of_the_map(transition, context):
    context = context.double()[None]
    z = normal(D)
    ratio = transition(State(z[None, None]), context, NO_TARGET).log_ratio[0, 0]
    torch.testing.assert_close(-ratio, log_det_of(transition, context, z), atol=1e-9, rtol=1e-9)


def numerical_gradient(function, at: Tensor, step: float) -> Tensor:
    """Central differences: the mean of both sides where they differ."""
    steps = step * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + s) - function(at - s)) / (2 * step) for s in steps])


@pytest.mark.parametrize(
    ("transition", "context"),
    [
        (Radial(D, num_layers=2), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.1, 1.0, 0, 0, 2.0, 0.3])),
        (Householder(D), torch.tensor([0.3, -0.2, 0.9])),
        (Planar(D), torch.tensor([0.5, -1.0, 2.0, 1e-2, -1e-2, 2e-2, 0.3])),
        (Planar(D), torch.tensor([0, 0, 0, 1.0, -1.0, 0.5, 0])),
    ],
    ids=["radial centre", "householder", "planar small", "planar without u"],
)
def test_gradients_are_the_limits_of_differences(transition, context):
    """At the centre of the first radial layer, whose log-determinant has a kink there."""
    context = context.double()
    place = context[:D].clone() if isinstance(transition, Radial) else normal(D)
    weight = normal(D)

    def value(numbers: Tensor) -> Tensor:
        z, c = numbers[:D], numbers[D:]
        move = transition(State(z[None, None]), c[None], NO_TARGET)
        return (weight * move.state.z[0, 0]).sum() + move.log_ratio[0, 0]

    at = torch.cat([place, context])
    expected = numerical_gradient(value, at, step=1e-6)
    gradient = jacrev(value)(at)
    # Central differences: of third derivatives of up to 1/‖w‖⁴ (planar), and rounding of 1e-9.
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-13, 1e-6, 1.0, 1e6])
def test_a_reflection_keeps_lengths_whatever_the_size_of_its_vector(size):
    vectors = size * normal(4, D)
    rows = normal(5, D)
    moved = reflect(vectors, rows)
    torch.testing.assert_close(moved.norm(dim=-1), rows.norm(dim=-1))


@pytest.mark.parametrize("num_ortho", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 1e10, 1e-10])
@pytest.mark.parametrize("kind", ["zero", "one zero column", "equal columns", "any"])
def test_dependent_columns_are_completed(num_ortho, scale, kind):
    matrix = normal(2, 5, D, num_ortho)
    matrix[0] = {
        "zero": torch.zeros_like(matrix[0]),
        "one zero column": matrix[0] * (torch.arange(num_ortho) != num_ortho - 1),
        "equal columns": matrix[0, :, :, :1].expand_as(matrix[0]),
        "any": matrix[0],
    }[kind]
    columns = Orthogonalised(D, num_ortho)
    numbers = (scale * matrix).flatten(-2).requires_grad_()
    q = columns(numbers)
    assert is_finite(q, numbers)
    identity = torch.eye(num_ortho).double().expand(2, 5, -1, -1)
    torch.testing.assert_close(q.mT @ q, identity)
    plain = torch.linalg.qr(numbers[1].unflatten(-1, (D, num_ortho)))  # nothing is dependent
    signs = plain.R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    assert torch.equal(q[1], plain.Q * signs)
