"""torch.compile, with the plain function to fall back on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def has_compiler() -> bool:
    """Whether torch.compile has a C++ compiler to call."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def compiled(
    function: Callable[P, T],
    warn: Callable[[str], None],
    *,
    plain: Callable[P, T] | None = None,
    dynamic: bool | None = None,
) -> Callable[P, T]:
    """``function`` through torch.compile; from its first failure on, told to ``warn``, plain.

    Args:
        function: it fails while it is compiled, before it draws any noise.
        warn: gets one line.
        plain: the same in the form that is faster without a compiler; null: ``function``.
        dynamic: null: one program for each size until sizes vary, then one for all.
    """
    program: Callable[P, T] | None = torch.compile(function, dynamic=dynamic)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal program
        if program is not None:
            try:
                return program(*args, **kwargs)
            except Exception as error:
                reason = str(error).strip().split("\n", 1)[0]
                warn(f"torch.compile failed, going on without it: {reason}")
                program = None
        return (plain or function)(*args, **kwargs)

    return call
