"""What an encoder and a decoder are, and the registries that hold them.

Neither holds BatchNorm or Dropout: a log-density depends on its own datum only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from utils.registry import Registry


class Encoder(nn.Module, ABC):
    """Trunk of the inference network: x (B, C, H, W) -> features (B, num_features).

    It ends before the posterior begins: the posterior's amortiser maps features to context.
    Factories take the size ``x_shape`` (C, H, W).
    """

    num_features: int
    sees_x: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features (B, num_features) of x (B, C, H, W)."""


encoders: Registry[Encoder] = Registry("encoders", "models.networks")

decoders: Registry[nn.Module] = Registry("decoders", "models.networks")
"""Modules that map z (N, D) to likelihood parameters (N, num_parameters, C, H, W).

Factories take the sizes ``latent_dim``, ``x_shape`` (C, H, W) and ``num_parameters``, the maps
per pixel for which the likelihood asks. Their outputs are unbounded: no activation at the end.
"""
