from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from utils.registry import Node, Registry, dump
from utils.types import PositiveInt

parts: Registry[dict] = Registry("parts", "tests.test_registry")
wholes: Registry[dict] = Registry("wholes", "tests.test_registry")


@parts.register("wheel")
def wheel(width: int, *, spokes: PositiveInt = 8) -> dict:
    """A wheel.

    More about it.
    """
    return {"width": width, "spokes": spokes}


@wholes.register("cart")
class Cart:
    """A cart."""

    def __init__(
        self,
        width: int,
        *,
        wheels: list[Annotated[dict, parts]],
        spare: Annotated[dict, parts] | None = None,
        maker: Annotated[Callable[..., dict], parts],
    ) -> None:
        self.width, self.wheels, self.spare, self.maker = width, wheels, spare, maker


def node(data: object) -> Node:
    return TypeAdapter(Annotated[Node, wholes]).validate_python(data)


def test_builds_nested_components_with_sizes_and_defaults():
    wheels = [{"name": "wheel"}, {"name": "wheel", "spokes": 3}]
    cart = node({"name": "cart", "wheels": wheels, "maker": {"name": "wheel"}})
    built = cart.build(width=7, unused=1)
    assert built.wheels == [{"width": 7, "spokes": 8}, {"width": 7, "spokes": 3}]
    assert built.spare is None


def test_passes_a_factory_where_the_signature_asks_for_one():
    cart = node({"name": "cart", "wheels": [], "maker": {"name": "wheel", "spokes": 2}})
    assert cart.build(width=7).maker(width=1) == {"width": 1, "spokes": 2}


def test_dump_is_plain_data_with_defaults():
    wheel = {"name": "wheel"}
    cart = node({"name": "cart", "wheels": [wheel], "maker": wheel})
    full = {"name": "wheel", "spokes": 8}
    assert dump(cart) == {"name": "cart", "wheels": [full], "spare": None, "maker": full}


@pytest.mark.parametrize(
    "data",
    [
        {"name": "card"},
        {"wheels": []},
        {"name": "cart"},
        {"name": "cart", "wheels": [{"name": "wheel", "spoke": 3}], "maker": {"name": "wheel"}},
        {"name": "cart", "wheels": [{"name": "wheel", "spokes": 0}], "maker": {"name": "wheel"}},
        {"name": "cart", "wheels": [], "maker": {"name": "wheel"}, "width": 3},
    ],
    ids=["name", "no name", "missing", "unknown option", "out of range", "a size in YAML"],
)
def test_refuses(data):
    with pytest.raises(ValidationError):
        node(data)


def test_summary_and_order():
    assert parts["wheel"].summary == "A wheel."
    assert parts.names() == ["wheel"]


GOOD = """
from utils.registry import Registry
from tests.test_registry import make_registry
registry = make_registry(__package__)

@registry.register("good")
def good(): ...
"""
BROKEN = {
    "syntax": ("def (:", "syntax.py:1: invalid syntax"),
    "late": (
        "from {package} import good\n@good.registry.register('late')\ndef late(): ...\n1 / 0",
        "late.py:4: ZeroDivisionError: division by zero",
    ),
    "missing": ("import no_such_package", "missing.py:1: ModuleNotFoundError: No module named"),
    "untyped": (
        "from {package} import good\n@good.registry.register('untyped')\ndef untyped(*, n): ...",
        "untyped.py:2: ValueError: the option `n` of `untyped` needs a type",
    ),
    "odd": (
        "import threading\nfrom {package} import good\n@good.registry.register('odd')\n"
        "def odd(*, n: type(threading.Lock()) = 3): ...",
        "odd.py: `odd`: Unable to generate pydantic-core schema for",
    ),
}


def make_registry(package: str) -> Registry:
    return Registry("things", package)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_names_itself_and_leaves_the_others_be(tmp_path, monkeypatch, name):
    source, reason = BROKEN[name]
    package = f"package_of_{name}"
    folder = tmp_path / package
    folder.mkdir()
    for file, text in {"__init__": "", "good": GOOD, name: source}.items():
        (folder / f"{file}.py").write_text(text.replace("{package}", package))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = importlib.import_module(f"{package}.good").registry
    adapter = TypeAdapter(Annotated[Node, registry])
    assert registry.names() == ["good"]
    assert adapter.validate_python({"name": "good"}).name == "good"
    (broken,) = registry.broken
    assert reason in broken.reason
    assert "\n" not in broken.reason


def test_a_name_registers_once():
    with pytest.raises(ValueError, match="registered twice"):
        parts.register("wheel")(dict)
