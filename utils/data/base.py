"""What a run trains on, and the contract of what loads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from utils.registry import Registry

datasets: Registry[Dataset] = Registry("datasets", "utils.data")

SPLITS = ("train", "validation", "test")
"""Every split's name, in the order in which tables print them."""


class DataError(Exception):
    """Data that is missing, truncated, damaged or cannot be fetched; the message says what to do.

    It names the path expected, what is wrong there and the command that fetches the data.
    """


class Data(NamedTuple):
    """A loaded data set: tensors that stay on the device, batches by index look-up.

    ``splits`` maps "train" and, where there is one, "validation" and "test" to float32 images
    (N, C, H, W) in [0, 1]. They are fixed: what is evaluated on them (training images too) sees
    the same pixels in every run, whatever its seed.
    """

    splits: Mapping[str, Tensor]
    binarisation: str
    """What tables print: none, static, dynamic, threshold, larochelle_murray."""
    checksum: str
    """SHA-256 (hex) of the raw content, before split and binarisation."""
    intensities: Tensor | None = None
    """Grey training images whose pixels are drawn afresh for each batch; None: nothing is."""

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of one image."""
        return tuple(self.splits["train"].shape[1:])

    def to(self, device: torch.device | str) -> Data:
        """The same data with its tensors on ``device``."""
        grey = self.intensities
        return self._replace(
            splits={name: x.to(device) for name, x in self.splits.items()},
            intensities=None if grey is None else grey.to(device),
        )

    def batch(self, indices: Tensor) -> Tensor:
        """Training images (B, C, H, W) at ``indices`` (B,), which live on the data's device.

        Dynamic binarisation draws x ~ Bernoulli(intensity) from the global generator of that
        device, so that resuming a run with its generator's state resumes its draws.
        """
        if self.intensities is None:
            return self.splits["train"].index_select(0, indices)
        return bernoulli(self.intensities.index_select(0, indices))


def bernoulli(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw 0 or 1 (as floats, same shape) with ``probabilities`` of a 1.

    Uniform draws in [0, 1) compared with the probability: half the time of ``torch.bernoulli`` on
    a CPU, and made of the generator's integers alone, so the same on every CPU.
    """
    uniform = torch.rand(
        probabilities.shape,
        generator=generator,
        dtype=probabilities.dtype,
        device=probabilities.device,
    )
    return uniform.lt_(probabilities)


def check_validation_size(validation_size: int, num_images: int) -> None:
    """Raise ValueError unless so many of the training images can be held out."""
    if not 0 <= validation_size < num_images:
        raise ValueError(
            f"`validation_size` must be at least 0 and less than the {num_images:,} training "
            f"images; got {validation_size}"
        )


def hold_out(images: Tensor, validation_size: int) -> dict[str, Tensor]:
    """The last ``validation_size`` training images as validation; none of that for 0."""
    num_train = len(images) - validation_size
    splits = {"train": images[:num_train]}
    return splits | ({"validation": images[num_train:]} if validation_size else {})


class Dataset(ABC):
    """A source of data: cheap to construct from its YAML options, loaded by ``load``.

    Subclasses take their options keyword-only, raise ValueError for impossible ones, and import
    what they need in the method that needs it. ``load`` leaves the global generators alone.
    """

    name: ClassVar[str]
    """The name under which it is registered: messages tell people to fetch it by that."""

    execution_options: ClassVar[frozenset[str]] = frozenset()
    """Options that say where the data lies, not which data it is: no part of a run's identity."""

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.name

    def settled_options(self) -> Mapping[str, Any]:
        """Options that only the data themselves can fill in, so that they identify the run.

        Raises DataError when they are missing.
        """
        return {}

    @abstractmethod
    def load(self) -> Data:
        """Read, check, split and binarise.

        Raises DataError when the data is missing or not what it should be.
        """

    def download(self) -> None:  # noqa: B027 - an empty hook
        """Fetch and check the data on a machine with a network; most sets need nothing."""
