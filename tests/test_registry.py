from __future__ import annotations

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


def test_a_name_registers_once():
    with pytest.raises(ValueError, match="registered twice"):
        parts.register("wheel")(dict)
