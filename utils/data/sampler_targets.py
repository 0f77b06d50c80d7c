"""The tables behind targets of sampling benchmarks; they are no part of this program."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.data.files import Files

Table = NDArray[np.float64]
TableName = Literal[
    "ionosphere", "sonar", "credit", "cancer", "seeds", "brownian", "pines_126", "pines_127"
]


class _File(NamedTuple):
    path: str
    num_bytes: int
    sha256: str


FILES: Mapping[TableName, _File] = {
    "ionosphere": _File(
        "ionosphere.npz",
        98_770,
        "48fb09d658bab81e622a1ce4cc217b4f61c210e81256585ab1a7ffbdf4579125",
    ),
    "sonar": _File(
        "sonar.npz", 101_994, "ec8e8a753c26921e7caa10d95f8deb8bbb21687361303858385c5909333720bf"
    ),
    "credit": _File(
        "german_credit.npz",
        200_490,
        "7ac8bb48e4cd58dbd91b6c1ce6dcb88f4f86354d15c0f74365056c2958a65ec0",
    ),
    "cancer": _File(
        "breast_cancer.npz",
        141_602,
        "634ef5d47cd256dd768ca57ed5d6b3be7e0403ba6caf201e99e51dbf5d76851c",
    ),
    "seeds": _File(
        "seeds.csv", 211, "ee4c4f8f869076662a0318473afac9fcf42a2a029d54fe280ccf49ffe1c0dd87"
    ),
    "brownian": _File(
        "brownian.csv", 566, "12aa453e667a1cc7d5e3a61b6f3b656ab4121ad602d9586981582c768f19d055"
    ),
    "pines_126": _File(
        "pines_126.csv",
        6_304,
        "73feab177be6f0c853a7f5303a3c88f68d124950154292da08afbce504806459",
    ),
    "pines_127": _File(
        "pines_127.csv",
        6_354,
        "882e9cad8f787ebb47a949b0b0c4f7d2e3656167fd2159136fe8edc131a5bb9f",
    ),
}
FOLDER = "sampler_targets"


class SamplerTargets(Files):
    """Tables below ``root``/sampler_targets, checked by their SHA-256.

    Those of logistic regressions are UCI's, as the benchmark of Blessing et al. 2024
    (arXiv 2406.07423) has them: npz files of x (N, F) and y (N,), which `credit` has as 1 and 2,
    `cancer` as 0 and 1, and the others as -1 and 1. The rest are CSV files of one line of names:
    ``seeds`` r, n, x1, x2 of Crowder 1978, ``brownian`` the observations (nan: missing) of
    inference gym, ``pines_126`` and ``pines_127`` points of the unit square, the latter with its
    first point twice, as some public code has it.
    """

    name = FOLDER

    def remedy(self) -> str:
        """See ``Files``."""
        return (
            "It is no part of this program, and there is nothing to fetch it from; put it there "
            "as docs/howto/data.md says, or say by `model.root` or $VI_DATA where the folder "
            f"{FOLDER} lies"
        )

    def read(self, name: TableName) -> dict[str, Table]:
        """The columns of a table by name. Raises DataError where it is missing or not this one."""
        file = FILES[name]
        path = self.root / FOLDER / file.path
        content = io.BytesIO(self.read_file(path, file.num_bytes, file.sha256).tobytes())
        if path.suffix == ".npz":
            with np.load(content, allow_pickle=False) as arrays:
                return {key: arrays[key].astype(np.float64) for key in ("x", "y")}
        head = content.readline().decode().strip().split(",")
        columns = np.loadtxt(content, delimiter=",", ndmin=2)
        return {key: columns[:, index] for index, key in enumerate(head)}
