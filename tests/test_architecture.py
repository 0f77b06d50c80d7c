"""Who may import whom: utils <- models <- estimators <- experiments <- main."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("utils", "models", "estimators", "experiments")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downwards(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {
        "main",
        "plot_from_db",
        "plumbline",
        "tests",
        "benchmarks",
    }
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        wrong = {name for name in imported(path) if name.split(".")[0] in above}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_models_know_no_configuration():
    for layer in ("models", "estimators"):
        for path in (ROOT / layer).rglob("*.py"):
            names = set(imported(path))
            configuration = {name for name in names if name.startswith("utils.config")}
            assert not configuration | names & {"yaml", "pydantic"}, path


def test_the_compiler_is_loaded_by_who_needs_it():
    """It would be a third of the time that every start takes."""
    program = "import sys, experiments.runner.app; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
