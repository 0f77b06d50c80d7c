"""What a search remembers of each datum: parameters, Adam's moments, averages, the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.local.workbench import Table, Workbench


class Tables:
    """Named tables, a row a datum: ``values`` of all B, the others of those searched for alone.

    Args:
        start: the values to begin with, (B, ...) each.
        names: of the other tables, which begin with zeros.
    """

    def __init__(self, start: Table, names: Sequence[str]) -> None:
        self._tables = {"values": start}
        self._tables |= {n: {k: torch.zeros_like(v) for k, v in start.items()} for n in names}
        self._rows = torch.arange(len(start["context"]), device=start["context"].device)

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    @torch.no_grad()
    def load(self, bench: Workbench, sources: Mapping[str, str], data: Tensor) -> None:
        """Let each table of the bench take the rows of some data from its source."""
        own = bench.tables()
        for name, source in sources.items():
            rows = self._at(source, data)
            for key, values in self._tables[source].items():
                torch.index_select(values, 0, rows, out=own[name][key])

    def store(self, bench: Workbench, data: Tensor, rows: Tensor) -> None:
        """Take back some rows of the bench, those of some data, of the tables that there are."""
        for name, table in bench.tables().items():
            for key, values in self._tables.get(name, {}).items():
                values[self._at(name, data)] = table[key].detach()[rows]

    def copy(self, target: str, source: str, data: Tensor) -> None:
        """Let the rows of some data in one table be those in another."""
        to, of = self._at(target, data), self._at(source, data)
        for key, values in self._tables[source].items():
            self._tables[target][key][to] = values[of]

    def clear(self, *names: str) -> None:
        """Fill whole tables with zeros."""
        for name in names:
            for values in self._tables[name].values():
                values.zero_()

    def keep(self, data: Tensor) -> None:
        """Go on with these data of those searched for, in rising order: of others values stay."""
        if len(data) < len(self._rows):
            for name in self._tables.keys() - {"values"}:
                rows = self._at(name, data)
                self._tables[name] = {k: v[rows] for k, v in self._tables[name].items()}
            self._rows = data

    def _at(self, name: str, data: Tensor) -> Tensor:
        return data if name == "values" else torch.searchsorted(self._rows, data)

    def state(self, num_rows: int | None = None) -> dict[str, Table]:
        """All tables, to be saved at once; or what they look like with so many rows or fewer."""
        return {
            name: {k: v if name == "values" else v[:num_rows] for k, v in table.items()}
            for name, table in self._tables.items()
        }

    def restore(self, tables: Mapping[str, Table], data: Tensor) -> None:
        """Go on from ``state()``, with the data that are searched for."""
        self._tables = {name: dict(table) for name, table in tables.items()}
        self._rows = data


def fresh_record(num_data: int, device: torch.device) -> dict[str, Tensor]:
    """What is known of each datum (B,) before its first step."""
    nothing = torch.zeros(num_data, dtype=torch.double, device=device)
    no = torch.zeros(num_data, dtype=torch.bool, device=device)
    return {
        "searching": ~no,
        "active": ~no,  # takes steps in this window
        "converged": no.clone(),
        "steps": torch.zeros_like(nothing, dtype=torch.long),
        "stale": torch.zeros_like(nothing, dtype=torch.long),  # windows without a gain
        "sum": nothing.clone(),  # of the bounds of this window
        "squares": nothing.clone(),
        "best": nothing - math.inf,
        "value": nothing + math.nan,
        "error": nothing + math.nan,
    }
