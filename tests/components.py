"""Components as test parameters: every one that is registered is picked up by itself."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.distributions import Normal

from models.posteriors.auxiliary import aux_real_nvp
from models.posteriors.chain import Chain
from models.posteriors.paths import Remembered
from models.posteriors.protocol import posteriors
from utils.registry import REQUIRED, Node, Registry

ROOT = Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("PLUMBLINE_TEST_SEED", "20181"))
M = TypeVar("M", bound=nn.Module)
NO_TARGET = Remembered(lambda z: z.sum(-1))
# Three data for the fixture `linear_gaussian`, and what gives each of them the same Gaussian.
X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.2], [0.1, 0.1, 0.3]])
X = X.double().view(3, 1, 1, 3)
CONTEXT = torch.tensor([0.1, 0.3, -0.5, -0.2]).double().expand(3, 4)


def reseed(stream: int = 0) -> None:
    """Begin random stream number ``stream``; the run's seed makes it another."""
    torch.manual_seed(SEED + 1_000_000 * stream)


def make_node(registry: Registry[Any], data: dict[str, Any]) -> Node:
    """A validated component, as a configuration would give it."""
    return TypeAdapter(Annotated[Node, registry]).validate_python(data)


def make_posterior(options: dict[str, Any], latent_dim: int = 2) -> Chain:
    """A posterior in float64, as a configuration would give it."""
    return make_node(posteriors, options).build(latent_dim=latent_dim, num_features=3).double()


def perturbed(module: M, scale: float = 0.5) -> M:
    """The module in float64, its weights off their start, so that no part of it is idle."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def small_af() -> Chain:
    """An auxiliary flow of few weights in float64, for two latents."""
    return aux_real_nvp(2, hidden=(8,), partner_hidden=(8,), num_layers=1).double()


def initial(posterior: Chain, num_data: int) -> Tensor:
    """Contexts of fresh data in float64."""
    return posterior.initial_context().double().repeat(num_data, 1)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def standard_log_prob(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def narrow(value: Any) -> Any:
    """A component whose nets, and those of its parts, have 8 units a layer."""
    if isinstance(value, list | tuple):
        return [narrow(item) for item in value]
    if not isinstance(value, Node):
        return value
    options = {
        name: [8] * len(given) if name.endswith("hidden") and given else narrow(given)
        for name, given in value.options.items()
    }
    return Node(value.entry, options)


class _BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError("broken in the backward pass\nmore lines")


def breaking_compiler(
    stage: Literal["forward", "backward"], good_calls: int = 0
) -> Callable[..., Any]:
    """A torch.compile whose programs draw as they should, and break after some good calls."""

    def compile_(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        calls = itertools.count()

        def program(*arguments: Any) -> Any:
            loss, others = function(*arguments)
            if next(calls) < good_calls:
                return loss, others
            if stage == "forward":
                raise RuntimeError("broken in the forward pass\nmore lines")
            # Half of the gradients are there when the other half breaks.
            return 0.5 * loss + 0.5 * _BrokenBackward.apply(loss), others

        return program

    return compile_


def _posterior_options() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each posterior with its defaults, and with the options of each file in configs/posterior."""
    for entry in posteriors:
        if all(option.default is not REQUIRED for option in entry.options):
            yield entry.name, {"name": entry.name}
    for path in sorted((ROOT / "configs" / "posterior").glob("*.yaml")):
        yield f"{path.stem}.yaml", yaml.safe_load(path.read_text())["posterior"]
    yield "gaussian-full", {"name": "gaussian", "covariance": "full"}


def _distinct_posteriors() -> list[Any]:
    """Options as test parameters: narrow, since no contract depends on widths; each once."""
    found: dict[str, Any] = {}
    for label, given in _posterior_options():
        options = narrow(make_node(posteriors, given)).dump()
        found.setdefault(repr(options), pytest.param(options, id=label))
    return list(found.values())


POSTERIORS = _distinct_posteriors()
