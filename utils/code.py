"""The source that numbers stand on: which files a module imports, and a digest of each.

A digest is of the syntax tree without docstrings, so that comments and formatting do not count.
Nothing is imported or executed: a finished run is checked without PyTorch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy")
FOLDERS = ("utils", "models", "estimators", "experiments")
"""Of the repository, hold all that a run's numbers can stand on."""
PLUMBING = (
    *("experiments.runner.build", "experiments.runner.schema"),
    *("experiments.runner.session", "experiments.runner.signals"),
    *("utils.checkpoint", "utils.cli", "utils.console", "utils.registry", "experiments.reporting"),
    *("utils.results", "utils.types"),
)
"""Modules that pass numbers on and make none: an import of them is not followed."""

Code = Mapping[str, str]
"""By file (relative to the repository) or package: a digest, or a version."""


PLUGIN = "plugin "
"""Before the name of a file that is none of the repository."""


def code_of(
    modules: Iterable[str], root: Path = ROOT, outside: Mapping[str, bytes] | None = None
) -> dict[str, str]:
    """The code that ``modules`` stand on: they, all that they import from ``root``, and versions.

    So does the source ``outside`` of the repository, by the name of its file.

    A package's ``__init__`` that only passes names on is looked through: it counts for the
    modules that define the names asked for. Plumbing counts where it is named itself. Modules
    that are not below ``root`` are left out.
    """
    outside = outside or {}
    seen: set[str] = set()
    waiting = sorted(set(modules))
    for source in outside.values():
        imported = _imports(iter(_import_nodes(source)), root)
        waiting += (name for name in imported if not _is_plumbing(name))
    while waiting:
        module = waiting.pop()
        if module not in seen and _file(module, root) is not None:
            seen.add(module)
            if not _is_plumbing(module):
                imports = _imports(_nodes(module, root), root)
                waiting += (name for name in imports if not _is_plumbing(name))
    files = [file for module in seen if (file := _file(module, root)) is not None]
    plugins = {f"{PLUGIN}{name}": _digest(source) for name, source in outside.items()}
    return _versions() | {str(f.relative_to(root)): digest(f) for f in sorted(files)} | plugins


def is_own(module: str) -> bool:
    """Whether a module is one of the program's."""
    return module.partition(".")[0] in FOLDERS


@functools.cache
def digest_of_all() -> str:
    """Names the program's source, byte for byte, and versions: as this process first saw them."""
    files = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    found = hashlib.sha256(repr(_versions()).encode())
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        found.update(f"{file.relative_to(ROOT)} {content}\n".encode())
    return found.hexdigest()[:20]


def changes(recorded: Code, root: Path = ROOT) -> list[str]:
    """What is not as it was recorded, in words (``differences``).

    Whatever a file came to import, it has changed itself; so no import is followed here. Plugins
    are part of a run's identity: another one makes another run.
    """
    versions = _versions()
    files = {
        name: value if name.startswith(PLUGIN) else digest(root / name)
        for name, value in recorded.items()
        if name not in versions
    }
    return differences(recorded, versions | files)


def differences(old: Code, new: Code) -> list[str]:
    """In what two codes differ, in words: ``models/vae.py``, ``torch 2.6 -> 2.7``.

    Another Python reads source as other trees, so files are not compared then.
    """
    versions = ("python", *PACKAGES)
    moved = [
        f"{name} {old.get(name, 'unknown')} -> {new.get(name, 'unknown')}"
        for name in versions
        if old.get(name) != new.get(name)
    ]
    if old.get("python") != new.get("python"):
        return moved
    files = [name for name in dict.fromkeys((*old, *new)) if name not in versions]
    return moved + [name for name in files if old.get(name) != new.get(name)]


def merged(old: Code, new: Code) -> dict[str, str]:
    """The code of work that began under ``old`` and went on under ``new``.

    What changed keeps both digests, and so is never again the same as that of any file.
    """
    names = list(dict.fromkeys((*old, *new)))
    return {name: _both(old.get(name, ""), new.get(name, "")) for name in names}


def mixed(codes: Iterable[Mapping[str, Code]]) -> list[str]:
    """The files and packages in which runs differ, by the column ``code`` of each (by phase).

    Empty for runs whose numbers can be compared. A run without recorded code is left out.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for phases in codes:
        for phase, code in phases.items():
            for name, value in code.items():
                found.setdefault((phase, name), set()).add(value)
    return sorted({name for (_, name), values in found.items() if len(values) > 1})


def digest(file: Path) -> str:
    """Names the source in ``file``; one that cannot be read has the digest of nothing: empty."""
    try:
        return _digest(file.read_bytes())
    except OSError:
        return ""


@functools.lru_cache(maxsize=512)
def _digest(source: bytes) -> str:
    tree = _parse(source)
    canonical = source if tree is None else ast.dump(tree).encode()
    return hashlib.sha256(canonical).hexdigest()[:12]


@functools.lru_cache(maxsize=512)
def _parse(source: bytes) -> ast.Module | None:
    """The syntax tree less every string that stands alone; None where there is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_text(item)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _versions() -> dict[str, str]:
    """Versions that may change a number though no file of the repository does."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _both(old: str, new: str) -> str:
    return old if old == new else f"{old}+{new}"


def _is_plumbing(module: str) -> bool:
    return any(part in PLUMBING for part in accumulate(module.split("."), "{}.{}".format))


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imports(nodes: Iterable[ast.AST], root: Path) -> Iterator[str]:
    """The modules below ``root`` that a source names in its imports."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield _origin(node.module, alias.name, root)


def _origin(module: str, name: str, root: Path) -> str:
    """The module that defines ``name``, which is imported from ``module``."""
    if _file(f"{module}.{name}", root) is not None:
        return f"{module}.{name}"
    file = _file(module, root)
    if file is not None and file.name == "__init__.py":
        passed_on = (node for node in _nodes(module, root) if isinstance(node, ast.ImportFrom))
        for node in passed_on:
            if node.module and node.module != module and name in [a.name for a in node.names]:
                return _origin(node.module, name, root)
    return module


def _nodes(module: str, root: Path) -> Iterator[ast.AST]:
    file = _file(module, root)
    return iter(() if file is None else _import_nodes(file.read_bytes()))


@functools.lru_cache(maxsize=512)
def _import_nodes(source: bytes) -> Sequence[ast.AST]:
    """Found once: all runs of one process follow the same few hundred imports."""
    tree = _parse(source)
    found = () if tree is None else ast.walk(tree)
    return [node for node in found if isinstance(node, (ast.Import, ast.ImportFrom))]
