"""torch.compile, with the plain function to fall back on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from utils import seeding

Wish = Literal["off", "auto", "on"]
COMPILE_FROM_STEPS = 50_000  # below, compiling (about half a minute) costs more than it saves
USUAL_STEP = 4e7  # rows times parameters of such a step: 100 images through 400,000 numbers

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# PyTorch's own generator: the noise of the plain function, and on a CPU a twentieth of the time
# that the compiler's takes, number by number.
OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"fallback_random": True}


def has_compiler() -> bool:
    """Whether torch.compile has a C++ compiler to call."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def is_wanted(wish: Wish, num_steps: int, num_rows: int, num_parameters: int) -> bool:
    """Whether to compile a step that will be taken so often; ``auto`` weighs that.

    All numbers must be known from the configuration alone, so that what is resumed computes as it
    began.

    Args:
        wish: as configured.
        num_steps: each of a forward and a backward pass.
        num_rows: that go through the nets in a step: data times samples.
        num_parameters: of the nets. Large steps count for several; the least counts for one, as
            its time is that of its operations' dispatch, where compiling gains the most.
    """
    work = num_steps * max(1.0, num_rows * num_parameters / USUAL_STEP)
    return wish == "on" or (wish == "auto" and work >= COMPILE_FROM_STEPS and has_compiler())


def count_parameters(*parts: nn.Module) -> int:
    """Numbers that nets hold, trained or not: what a row that goes through them costs."""
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def compiled(
    function: Callable[P, T],
    warn: Callable[[str], None],
    *,
    plain: Callable[P, T] | None = None,
    dynamic: bool | None = None,
) -> Callable[P, T]:
    """``function`` through torch.compile; after a failure, which ``warn`` reports, without it.

    Args:
        function: it changes nothing but the random stream, which a failure puts back.
        warn: gets one line.
        plain: the same in the form that is faster without a compiler; null: ``function``.
        dynamic: null: one program for each size until sizes vary, then one for all.
    """
    program = torch.compile(function, dynamic=dynamic, options=OPTIONS)
    return _falling_back(program, plain or function, warn)


def differentiated(
    function: Callable[P, tuple[Tensor, R]],
    clear: Callable[P, None],
    *,
    compile_step: bool = False,
    warn: Callable[[str], None] = print,
    dynamic: bool | None = None,
) -> Callable[P, tuple[Tensor, R]]:
    """``function``, whose first value is a loss, followed by the loss's backward pass.

    What it returns is without a graph; the gradients are in the leaves.

    Args:
        function: it changes nothing but the random stream.
        clear: takes the same arguments and clears the gradients of the leaves; called first.
        compile_step: through torch.compile. Where a forward or a backward pass fails, the call is
            repeated without it on the same random numbers, as are all later calls.
        warn: gets one line then.
        dynamic: see ``compiled``.
    """

    def step(function: Callable[P, tuple[Tensor, R]]) -> Callable[P, tuple[Tensor, R]]:
        def call(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, R]:
            clear(*args, **kwargs)
            loss, others = function(*args, **kwargs)
            loss.backward()
            return loss.detach(), others

        return call

    if not compile_step:
        return step(function)
    program = torch.compile(function, dynamic=dynamic, options=OPTIONS)
    return _falling_back(step(program), step(function), warn)


def _falling_back(
    program: Callable[P, T], plain: Callable[P, T], warn: Callable[[str], None]
) -> Callable[P, T]:
    """``program`` until it fails; then ``plain``, that very call on the same random numbers."""
    failed = False

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal failed
        if not failed:
            noise = seeding.get_state()
            try:
                return program(*args, **kwargs)
            except Exception as error:  # an interruption is none: it passes through
                seeding.set_state(noise)
                reason = str(error).strip().split("\n", 1)[0]
                warn(f"torch.compile failed, going on without it: {reason}")
                failed = True
        return plain(*args, **kwargs)

    return call
