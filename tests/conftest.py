"""What many tests share: small exact models and deterministic draws."""

from __future__ import annotations

import pytest
import torch

from models.generative import LinearGaussian

# Small tensors gain nothing from threads, and test processes side by side would fight for cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20181)


@pytest.fixture
def linear_gaussian() -> LinearGaussian:
    """A linear-Gaussian model in float64 with a correlated posterior: D = 2, x of 3 numbers."""
    model = LinearGaussian((1, 1, 3), latent_dim=2, scale=0.7).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.8], [0.3, 1.2], [0.5, 0.8]]))
        model.bias.copy_(torch.tensor([0.2, -0.1, 0.4]))
    return model
