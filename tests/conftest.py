"""What many tests share: small exact models and deterministic draws."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.generative import LinearGaussian
from tests.components import SEED, reseed

# Small tensors gain nothing from threads, and test processes side by side would fight for cores.
torch.set_num_threads(int(os.environ.get("PLUMBLINE_TEST_THREADS", "1")))
reseed()  # some parameters of tests are modules, built while pytest collects


def pytest_report_header() -> str:
    return f"seed: {SEED} (PLUMBLINE_TEST_SEED), threads: {torch.get_num_threads()}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    reseed()


@pytest.fixture
def results_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go to tmp_path/results, messages are without colours."""
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("VI_DB", raising=False)


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are below tmp_path."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def linear_gaussian() -> LinearGaussian:
    """A linear-Gaussian model in float64 with a correlated posterior: D = 2, x of 3 numbers."""
    model = LinearGaussian((1, 1, 3), latent_dim=2, scale=0.7).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.8], [0.3, 1.2], [0.5, 0.8]]))
        model.bias.copy_(torch.tensor([0.2, -0.1, 0.4]))
    return model


@pytest.fixture
def common_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make each datum draw the same noise; the function returned begins the stream again."""
    generator = np.random.default_rng()

    def randn(*shape: int, **options: Any) -> Tensor:
        one = (*shape[:-2], 1, shape[-1])  # the data axis is the last but one
        noise = torch.from_numpy(generator.standard_normal(one)).expand(shape)
        return noise.to(options.get("dtype"), copy=True)

    def rand_like(values: Tensor) -> Tensor:
        one = torch.from_numpy(generator.random((*values.shape[:-1], 1)))  # (S, B), of decisions
        return one.expand(values.shape).to(values.dtype)

    def rewind() -> None:
        nonlocal generator
        generator = np.random.default_rng([SEED, 7])
        monkeypatch.setattr(torch, "randn", randn)
        monkeypatch.setattr(torch, "randn_like", lambda values: randn(*values.shape))
        monkeypatch.setattr(torch, "rand_like", rand_like)

    return rewind
