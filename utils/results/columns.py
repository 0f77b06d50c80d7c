"""How a row type declares its columns: once, for Python, the CSV file and the SQL table.

A row type is a NamedTuple or a dataclass. Its annotations are the columns: the type says how a
value is written, ``Annotated[str, InSql(...)]`` adds what only SQL must know.
"""

from __future__ import annotations

import functools
import typing
from typing import Annotated, Any, NamedTuple


class InSql(NamedTuple):
    """What SQL must know of a column beside its type.

    ``length`` in characters, None for any; ``is_key`` makes it part of the primary key.
    """

    length: int | None = None
    is_key: bool = False


class Column(NamedTuple):
    """One column of a row type."""

    name: str
    type: Any
    in_sql: InSql


@functools.cache  # each log of each run's folder asks
def columns_of(row_type: type) -> tuple[Column, ...]:
    """The columns that the annotations of ``row_type`` declare, in their order."""
    hints = typing.get_type_hints(row_type, include_extras=True)
    return tuple(_column(name, hint) for name, hint in hints.items())


def _column(name: str, hint: Any) -> Column:
    if typing.get_origin(hint) is Annotated:
        plain, in_sql = typing.get_args(hint)
        return Column(name, plain, in_sql)
    return Column(name, hint, InSql())
