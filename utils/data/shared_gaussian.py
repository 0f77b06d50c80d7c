"""Points that share one latent: the whole data set is one datum, known by its statistics."""

from __future__ import annotations

import hashlib
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from utils.data.base import Data, Dataset, datasets
from utils.data.synthetic import check_count, make_generator, randn
from utils.types import PositiveInt

AtLeastTwo = Annotated[int, Ge(2)]
"""Points: of one alone there is no deviation, and the greatest density is infinite."""

COUNT, MEAN, VARIANCE = range(3)
"""The rows of ``summarise``."""


class Truth(NamedTuple):
    """What the points are drawn with: offset Δ (D,) and scale σ (D,), in float64."""

    offset: Tensor
    scale: Tensor


def ground_truth(dim: int) -> Truth:
    """Δ_j = n_j / 5 and σ_j = 3.6 n_j² / (D - 1)² + 0.1, with n_j = j - (D + 1) / 2.

    So σ falls from 1 at both ends to 0.1 in the middle (Caterini et al. 2018, arXiv 1805.11328,
    section 4.1, and the authors' code).
    """
    n = torch.arange(1, dim + 1, dtype=torch.float64) - (dim + 1) / 2
    return Truth(n / 5, 3.6 * (n / max(dim - 1, 1)).square() + 0.1)


def summarise(points: Tensor) -> Tensor:
    """The sufficient statistics (3, D) of Gaussian points (N, D), number by number.

    Rows: N, the mean, the mean squared deviation from it.
    """
    mean = points.mean(0)
    count = torch.full_like(mean, len(points))
    return torch.stack([count, mean, (points - mean).square().mean(0)])


@datasets.register("shared_gaussian")
class SharedGaussianData(Dataset):
    """Points x_i = z + Δ + σ ε_i with one z ~ N(0, I) for all; x (1, 3, dim) is their summary.

    What the model `shared_gaussian` describes. The N points are one datum, given as N, mean and
    mean squared deviation (see ``summarise``), so that a density costs as much as one point.

    Args:
        dim: D.
        num_points: N.
        num_train: copies of the datum; over the batch size that is the number of steps an epoch.
        data_seed: draws z and the points.

    Raises ValueError for more than ``MAX_NUMBERS`` of them.
    """

    name = "shared_gaussian"

    def __init__(
        self,
        *,
        dim: PositiveInt = 25,
        num_points: AtLeastTwo = 10_000,
        num_train: PositiveInt = 40,
        data_seed: int = 0,
    ) -> None:
        check_count(dim * num_points)
        self._dim, self._num_points = dim, num_points
        self._num_train, self._data_seed = num_train, data_seed

    def draw(self) -> tuple[Tensor, Tensor]:
        """The true z (D,) and the points (N, D), in float64."""
        truth = ground_truth(self._dim)
        generator = make_generator(self._data_seed, self.name, "train")
        z = randn(self._dim, generator=generator)
        noise = randn(self._num_points, self._dim, generator=generator)
        return z, z + truth.offset + truth.scale * noise

    def load(self) -> Data:
        """Draw the points and sum them up; the datum's copies are the training split."""
        _, points = self.draw()
        x = summarise(points).float()
        checksum = hashlib.sha256(x.numpy().data).hexdigest()
        return Data({"train": x.repeat(self._num_train, 1, 1, 1)}, "none", checksum)
