"""Optimisers without the compiler: the same numbers, and nothing imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.eager import eager

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamax": (torch.optim.Adamax, {"foreach": True}),
    "rmsprop": (torch.optim.RMSprop, {"foreach": True, "momentum": 0.9}),
    "sgd": (torch.optim.SGD, {"foreach": True, "momentum": 0.9}),
}


def steps(optimiser: torch.optim.Optimizer, net: nn.Module, x: torch.Tensor) -> None:
    for _ in range(5):
        optimiser.zero_grad()
        net(x).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("kind, options", KINDS.values(), ids=KINDS)
def test_an_eager_optimiser_gives_the_same_numbers_and_goes_on_from_the_other_s_state(
    kind, options
):
    x, nets = torch.randn(10, 3), [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    own, theirs = eager(kind), kind
    optimisers = [
        of(net.parameters(), lr=0.01, **options)
        for of, net in zip((own, theirs), nets, strict=True)
    ]
    for optimiser, net in zip(optimisers, nets, strict=True):
        steps(optimiser, net, x)
    states = [optimiser.state_dict() for optimiser in optimisers]
    for optimiser, state in zip(optimisers, reversed(states), strict=True):
        optimiser.load_state_dict(state)
    for optimiser, net in zip(optimisers, nets, strict=True):
        steps(optimiser, net, x)
    for parameter, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(parameter, other)


@pytest.mark.parametrize("kind, options", KINDS.values(), ids=KINDS)
def test_steps_are_not_wrapped_for_the_profiler(kind, options):
    own = eager(kind)
    step = own.step
    optimiser = own([nn.Parameter(torch.ones(2))], lr=0.1, **options)
    assert type(optimiser).step is step


def test_an_eager_optimiser_does_not_load_the_compiler():
    program = """
import sys, torch
from utils.eager import eager
for kind in (torch.optim.Adam, torch.optim.Adamax, torch.optim.RMSprop, torch.optim.SGD):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = eager(kind)([parameter], lr=0.1)
    optimiser.zero_grad()
    parameter.square().sum().backward()
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
sys.exit('torch._dynamo' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
