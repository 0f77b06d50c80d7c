"""What an option may be, said once in the signature that takes it: numbers, names, sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan

C = TypeVar("C", bound=Sequence[Any] | Mapping[str, Any])

LARGEST = 10**9
"""Nothing is counted that is more: it does for epochs, and C's integers hold its products."""

PositiveInt = Annotated[int, Gt(0), Le(LARGEST)]
NonNegativeInt = Annotated[int, Ge(0), Le(LARGEST)]
Depth = Annotated[int, Gt(0), Le(1000)]
"""How often a layer is repeated, each time with its own step of the computation."""
NumSteps = Annotated[int, Ge(0), Le(1000)]
"""Of dynamics within one draw, one gradient each; 0 takes none."""
Dimension = Annotated[int, Gt(0), Le(10_000)]
"""Of data drawn from a model of as many dimensions squared."""
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""What PyTorch's generators and the results database can hold."""
FiniteFloat = Annotated[float, AllowInfNan(False)]
PositiveFloat = Annotated[float, Gt(0), AllowInfNan(False)]
NonNegativeFloat = Annotated[float, Ge(0), AllowInfNan(False)]
Fraction = Annotated[float, Ge(0), Le(1)]

_NAME = re.compile(r"[^\W_][\w +\-.,:()#%*=]{0,99}")


def check_name(name: str) -> str:
    """The name, if tables, files and terminals can show it as it is.

    Raises ValueError unless it has at most 100 letters, digits, spaces and a few marks, and
    begins with a letter or digit: so it is one line, no formula to a spreadsheet, no HTML.
    """
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise ValueError(
            "a name has 1 to 100 letters, digits, spaces and + - _ . , : ( ) # % * =, "
            f"and begins with a letter or digit; got {shown!a}"
        )
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""Of an experiment, of a family: what people make up and find again in tables."""


def check_label(text: str) -> str:
    """The label, if a table and a terminal can show it. Raises ValueError."""
    if not (0 < len(text) <= 100 and text.isprintable() and text.strip() == text):
        raise ValueError(f"a label has 1 to 100 printable characters; got {text[:40]!a}")
    if text[0] in "=@" or set(text) & set("<>&"):  # a formula to a spreadsheet, HTML
        raise ValueError(
            f"a label has none of < > & and begins with neither = nor @; got {text!a}"
        )
    return text


LabelText = Annotated[str, AfterValidator(check_label)]
"""Of an axis of a sweep and of a choice on it; laxer than a name, for a value may be its own."""


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def duration(text: str) -> float:
    """Seconds of ``55m``, ``1h30m`` or ``90s``. Raises ValueError where it is none, or is 0."""
    parts = _DURATION.fullmatch(text)
    factors = (86400, 3600, 60, 1)
    found = parts.groups("0") if parts else ()
    seconds = sum(int(part) * factor for part, factor in zip(found, factors, strict=False))
    if not 0 < seconds <= LARGEST:
        raise ValueError(f"a time is written like 55m, 1h30m or 90s; got {text[:40]!r}")
    return float(seconds)


def check_unique(values: C) -> C:
    """The list or mapping, if no value in it stands twice. Raises ValueError."""
    items = list(values.values() if isinstance(values, Mapping) else values)
    for index, item in enumerate(items):
        if item in items[:index]:
            shown = getattr(item, "name", item)
            raise ValueError(f"{shown} is listed twice; leave one out")
    return values


Unique = AfterValidator(check_unique)
"""Marks a list, or a mapping's values, as a set: ``Annotated[list[X], Unique]``."""
