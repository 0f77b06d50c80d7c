"""Optimisers without the compiler and the profiler."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)

WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "step", "zero_grad")


def eager(kind: type[Kind]) -> type[Kind]:
    """An optimiser of PyTorch, number for number, that does not load the compiler.

    PyTorch wraps these methods so that the compiler stays out of them, and the first call of a
    wrapper imports all of it, which is a third of a start. So a step that is itself compiled, or
    differentiated, needs PyTorch's own class. Another wrapper, for hooks and the profiler, costs
    some hundredths of a small net's training; without it, steps are not named in profiles.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    methods["step"] = torch.no_grad()(methods["step"])
    methods["step"].hooked = True  # what PyTorch asks before it wraps
    return type(kind.__name__, (kind,), methods)
