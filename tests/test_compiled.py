"""torch.compile's fallback: the whole step, on the same random numbers, and nothing twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments.runner.signals import InterruptedRunError
from tests.components import breaking_compiler, reseed
from utils import compiled as compiling
from utils.compiled import (
    COMPILE_FROM_STEPS,
    USUAL_STEP,
    compiled,
    differentiated,
    has_compiler,
    is_wanted,
)


def noisy_square(leaf: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn(())
    return noise * leaf.square(), noise


def clear(leaf: Tensor) -> None:
    leaf.grad = None


@pytest.mark.parametrize("stage", ["forward", "backward"])
def test_a_step_that_breaks_is_repeated_with_the_same_noise(monkeypatch, stage):
    monkeypatch.setattr(torch, "compile", breaking_compiler(stage, good_calls=1))
    messages: list[str] = []
    steps = {
        on: differentiated(noisy_square, clear, compile_step=on, warn=messages.append)
        for on in (True, False)
    }
    drawn = {}
    for on, step in steps.items():
        reseed(1)
        leaf = torch.tensor(3.0, requires_grad=True)
        drawn[on] = []
        for _ in range(4):
            loss, noise = step(leaf)
            assert not loss.requires_grad
            torch.testing.assert_close(leaf.grad, 6 * noise)  # and not one and a half times
            drawn[on].append(noise.item())
    assert drawn[True] == drawn[False]
    assert messages == [f"torch.compile failed, going on without it: broken in the {stage} pass"]


@pytest.mark.skipif(not has_compiler(), reason="torch.compile finds no C++ compiler")
def test_a_compiled_function_draws_the_noise_of_the_plain_one():
    noise = {}
    for function in (noisy_square, compiled(noisy_square, pytest.fail)):
        reseed(2)
        noise[function] = torch.stack([function(torch.tensor(3.0))[1] for _ in range(3)])
    plain, fused = noise.values()
    torch.testing.assert_close(fused, plain)


def test_an_interruption_is_no_failure_of_the_compiler(monkeypatch):
    """A signal that arrives within a step ends it, and the program stays compiled."""
    calls: list[str] = []

    def interrupted(function, **options):
        def program(leaf: Tensor) -> tuple[Tensor, Tensor]:
            calls.append("compiled")
            if len(calls) == 1:
                raise InterruptedRunError(15)
            return function(leaf)

        return program

    monkeypatch.setattr(torch, "compile", interrupted)
    step = differentiated(noisy_square, clear, compile_step=True, warn=pytest.fail)
    leaf = torch.tensor(3.0, requires_grad=True)
    with pytest.raises(InterruptedRunError):
        step(leaf)
    step(leaf)
    assert len(calls) == 2


def test_a_function_that_breaks_has_a_plain_form_to_fall_back_on(monkeypatch):
    monkeypatch.setattr(torch, "compile", breaking_compiler("forward"))
    messages: list[str] = []
    both = compiled(noisy_square, messages.append, plain=lambda leaf: ("plain", torch.randn(())))
    reseed(1)
    name, noise = both(torch.tensor(1.0))
    reseed(1)
    assert name == "plain"
    assert torch.equal(noise, torch.randn(()))
    assert len(messages) == 1


@pytest.mark.parametrize("has_compiler", [True, False])
def test_auto_compiles_what_is_long_enough_where_there_is_a_compiler(monkeypatch, has_compiler):
    monkeypatch.setattr(compiling, "has_compiler", lambda: has_compiler)
    small = (1, 1)  # rows and parameters
    assert is_wanted("auto", COMPILE_FROM_STEPS, *small) == has_compiler
    assert not is_wanted("auto", COMPILE_FROM_STEPS - 1, *small)
    assert is_wanted("on", 1, *small)
    assert not is_wanted("off", COMPILE_FROM_STEPS, *small)
    many = 10 * int(USUAL_STEP)
    for large in ((many, 1), (1, many), (10, many // 10)):
        assert is_wanted("auto", COMPILE_FROM_STEPS // 10, *large) == has_compiler
        assert not is_wanted("auto", COMPILE_FROM_STEPS // 10 - 1, *large)
