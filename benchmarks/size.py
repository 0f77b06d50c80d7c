"""How large the source is, and how often it repeats names: one column a source tree.

python -m benchmarks.size [FOLDER ...]

A folder is a checkout; without any it is this one. For an earlier version:
git worktree add /tmp/before COMMIT && python -m benchmarks.size /tmp/before .
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONG, MANY = 40, 6


class Function(NamedTuple):
    """A function's lines, those of its docstring among them, and its parameters but self."""

    lines: int
    parameters: int


def python_files(root: Path, tests: bool) -> list[Path]:
    """The source, or the tests."""
    tops = ["tests"] if tests else ["models", "estimators", "experiments", "utils", "benchmarks"]
    files = [path for top in tops for path in sorted((root / top).rglob("*.py"))]
    return files if tests else [*files, *root.glob("*.py")]


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions of a file, inner ones and methods, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [
                argument.arg
                for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(lines, len(set(names) - {"self", "cls"}))


def repeated(names: Iterator[str]) -> str:
    """How many names stand for more than one thing."""
    return str(sum(count > 1 for count in Counter(names).values()))


def measure(root: Path) -> dict[str, str]:
    """The rows of the table for one source tree."""
    source, tests = python_files(root, False), python_files(root, True)
    texts = [path.read_text() for path in source]
    trees = [ast.parse(text) for text in texts]
    found = [function for tree in trees for function in functions(tree)]
    configs = list((root / "configs").rglob("*.yaml"))
    classes = (n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
    long = [function.lines for function in found if function.lines > LONG]
    many = [function.parameters for function in found if function.parameters > MANY]
    longest_file = max(len(path.read_text().splitlines()) for path in (*source, *tests))
    return {
        "source files, lines": f"{len(source)}, {_lines(source):,}",
        "test files, lines": f"{len(tests)}, {_lines(tests):,}",
        "configuration files, lines": f"{len(configs)}, {_lines(configs):,}",
        "longest file, lines": f"{longest_file}",
        "functions": f"{len(found):,}",
        f"functions over {LONG} lines, longest": f"{len(long)}, {max(long)}",
        f"functions with over {MANY} parameters, most": f"{len(many)}, {max(many)}",
        "file names that stand twice": repeated(
            path.name for path in source if path.name != "__init__.py"
        ),
        "class names that stand twice": repeated(classes),
        "lines with the word `place`": str(
            sum(len(re.findall(r"^.*place.*$", text, re.MULTILINE)) for text in texts)
        ),
        "`type: ignore`": str(sum(text.count("# type: ignore") for text in texts)),
    }


def _lines(files: list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in files)


def main() -> None:
    """Print the table."""
    roots = [Path(argument) for argument in sys.argv[1:]] or [Path()]
    columns = [measure(root) for root in roots]
    print("", "", *(str(root) for root in roots), "", sep=" | ")
    for name in columns[0]:
        print("", name, *(column[name] for column in columns), "", sep=" | ")


if __name__ == "__main__":
    main()
