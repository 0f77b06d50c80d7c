"""What main.py says of a finished run, and the means that it records."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.runner.rows import means
from experiments.runner.summary import summary
from tests.run_rows import a_record, folder_of
from utils.results.methods import Method
from utils.results.records import Estimate


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-1.0, -2.0), "-1.500 ± 0.500"),
        ((-1.0,), "-1.000"),
        ((-math.inf, -1.0), "-inf"),
        ((math.nan, -1.0), "nan"),
        ((math.inf, -math.inf), "nan"),
    ],
)
def test_numbers_that_are_not_finite_have_a_mean_and_no_error(
    values: tuple[float, ...], text: str, tmp_path: Path
) -> None:
    rows = [
        Estimate("estimate", *Method("exact"), "test", "elbo", datum, value)
        for datum, value in enumerate(values)
    ]
    folder = folder_of(tmp_path, a_record())
    folder.create()
    folder.estimates.append(rows)
    said = summary(a_record(), folder.path).splitlines()[1]
    assert said.endswith(f"ELBO by exact {text}")
    assert f"{means(rows)[Method('exact'), 'elbo']:.3f}" == text.split(" ")[0]
