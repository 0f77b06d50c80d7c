"""The tables of Thin et al. 2021 (arXiv 2106.15921), to stand beside our own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

EPOCHS = (10, 30, 100)


class Row(NamedTuple):
    """Means at ``EPOCHS``, nats: the negative bound, and the negative log p(x) by the weak AIS."""

    bound: tuple[float, float, float]
    nll: tuple[float, float, float]


class Table(NamedTuple):
    """Rows by method, less ``constant``, which the paper leaves out."""

    constant: float
    rows: Mapping[str, Row]


PUBLISHED: Mapping[str, Table] = {
    "mnist": Table(
        0.0,
        {
            "vae": Row((95.26, 91.58, 89.70), (89.83, 86.86, 85.22)),
            "iwae_10": Row((91.42, 88.56, 87.16), (88.54, 86.07, 84.82)),
            "iwae_50": Row((90.34, 87.5, 86.05), (89.4, 86.54, 85.05)),
            "l_5": Row((96.62, 88.58, 87.51), (90.59, 85.68, 84.92)),
            "l_10": Row((96.78, 87.99, 86.8), (91.33, 85.47, 84.58)),
            "a_3": Row((96.21, 88.64, 87.63), (90.42, 85.77, 85.02)),
            "a_5": Row((95.55, 87.99, 87.03), (90.39, 85.6, 84.84)),
            "rnvp": Row((95.23, 91.69, 89.62), (89.98, 86.88, 85.23)),
        },
    ),
    "cifar10": Table(
        2800.0,
        {
            "vae": Row((69.57, 69.55, 68.84), (68.51, 68.41, 67.9)),
            "iwae_10": Row((69.82, 69.35, 69.36), (68.56, 68.0, 68.02)),
            "iwae_50": Row((69.94, 69.55, 69.43), (69.15, 68.37, 67.93)),
            "l_5": Row((70.62, 68.55, 68.09), (69.15, 67.73, 67.5)),
            "l_10": Row((70.99, 68.36, 68.03), (69.8, 67.76, 67.51)),
            "a_3": Row((69.97, 68.48, 68.18), (69.26, 67.77, 67.55)),
            "a_5": Row((70.1, 68.28, 68.01), (69.23, 67.71, 67.5)),
            "rnvp": Row((70.01, 69.51, 69.19), (68.73, 68.35, 68.05)),
        },
    ),
    "celeba": Table(
        11400.0,
        {
            "vae": Row((23.78, 17.99, 14.72), (17.35, 12.68, 10.11)),
            "iwae_10": Row((20.59, 15.45, 12.2), (18.25, 13.18, 10.14)),
            "iwae_50": Row((19.05, 13.59, 10.48), (19.08, 13.17, 10.12)),
            "l_5": Row((21.61, 12.72, 11.6), (16.42, 9.62, 8.72)),
            "l_10": Row((20.7, 11.81, 10.6), (17.0, 9.29, 8.24)),
            "a_3": Row((21.59, 13.94, 12.84), (16.64, 10.98, 9.95)),
            "a_5": Row((20.95, 12.42, 11.13), (17.42, 9.97, 8.82)),
            "rnvp": Row((15.12, 13.63, 12.58), (10.42, 9.04, 8.98)),
        },
    ),
}
"""By data set. The IWAE's bounds there may be too pessimistic by up to log K: the authors' code
logs a weighted sum of log-weights."""
