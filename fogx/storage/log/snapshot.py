"""The rows of the `episodes` table at one version, file by file, and as one table in order of id."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fogx.storage.log.rows import aligned

_MOST_CHUNKS = 64
"""A table of more chunks is copied into one: looking up single rows slows down with their number."""

_FEW = 64
"""Up to so many rows are put into a sorted table one by one, by bisection."""


@dataclass(frozen=True)
class Edits:
    """New values of cells.

    Args:
        ids: Episodes, each once.
        columns: Column → (values, which of them are meant), both as long as `ids`.
    """

    ids: pa.Array
    columns: Mapping[str, tuple[pa.Array, pa.Array]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """One version of the table.

    Args:
        schema: Its columns.
        files: Name → rows of each file, with exactly these columns, in order of id.
    """

    schema: pa.Schema
    files: Mapping[str, pa.Table]

    @functools.cached_property
    def rows(self) -> pa.Table:
        """All rows in order of id. Files whose ranges of ids do not overlap are not copied."""
        spans = sorted((*_bounds(table), name) for name, table in self.files.items() if table.num_rows)
        groups: list[list[pa.Table]] = []
        reach = ""
        for low, high, name in spans:
            if not groups or low <= reach:
                groups = groups or [[]]
                groups[-1].append(self.files[name])
            else:
                groups.append([self.files[name]])
            reach = max(reach, high)
        parts = [group[0] if len(group) == 1 else by_id(pa.concat_tables(group)) for group in groups]
        return unfragmented(pa.concat_tables(parts)) if parts else self.schema.empty_table()

    def holding(self, ids: pa.Array) -> dict[str, pa.ChunkedArray]:
        """Return name → mask of its rows, for each file that holds some of the episodes."""
        if not len(ids):
            return {}
        low, high = pc.min_max(ids).as_py().values()
        found = {}
        for name, table in self.files.items():
            if not table.num_rows or _bounds(table)[0] > high or _bounds(table)[1] < low:
                continue
            mask = pc.is_in(table["episode_id"], ids)
            if pc.any(mask).as_py():
                found[name] = mask
        return found

    def of(self, ids: pa.Array) -> pa.Table:
        """Return the rows of those of the episodes that are there, in order of id."""
        parts = [self.files[name].filter(mask) for name, mask in self.holding(ids).items()]
        return by_id(pa.concat_tables(parts)) if parts else self.schema.empty_table()

    def values_in(self, column: str, wanted: Sequence[Any]) -> set[Any]:
        """Return those of the wanted values that the column holds."""
        found: set[Any] = set()
        values = pa.array(wanted, self.schema.field(column).type)
        for table in self.files.values():
            found |= set(table[column].filter(pc.is_in(table[column], values)).to_pylist())
        return found

    def extremes(self, column: str) -> list[Any]:
        """Return the smallest and the largest value of a column; empty where it has none."""
        if column not in self.schema.names:
            return []
        bounds = [pc.min_max(table[column]).as_py() for table in self.files.values()]
        return [value for both in bounds for value in both.values() if value is not None]


def by_id(table: pa.Table) -> pa.Table:
    """Return the rows in order of id."""
    ids = table["episode_id"].combine_chunks()
    if pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() is not False:
        return table
    return table.take(pc.sort_indices(ids))


def unfragmented(table: pa.Table) -> pa.Table:
    """Return the table in few pieces of memory."""
    return table.combine_chunks() if table.num_columns and table.column(0).num_chunks > _MOST_CHUNKS else table


def with_rows(rows: pa.Table, added: pa.Table) -> pa.Table:
    """Return a sorted table with rows added, in the added ones' columns; a row that is there already is replaced."""
    rows = aligned(rows, added.schema)
    if added.num_rows > _FEW:
        kept = rows.filter(pc.invert(pc.is_in(rows["episode_id"], added["episode_id"].combine_chunks())))
        return unfragmented(by_id(pa.concat_tables([kept, added])))
    ids, parts, start = rows["episode_id"], [], 0
    for number, episode_id in enumerate(added["episode_id"].to_pylist()):
        position = _bisect(ids, episode_id)
        parts += [rows.slice(start, position - start), added.slice(number, 1)]
        start = position + (position < len(ids) and ids[position].as_py() == episode_id)
    parts.append(rows.slice(start))
    return unfragmented(pa.concat_tables([part for part in parts if part.num_rows] or [rows]))


def without_rows(rows: pa.Table, ids: pa.Array) -> pa.Table:
    """Return the rows of all other episodes."""
    return rows.filter(pc.invert(pc.is_in(rows["episode_id"], ids)))


def patched(table: pa.Table, edits: Edits) -> pa.Table:
    """Return a table with cells replaced; episodes that it lacks are passed over."""
    where = pc.index_in(table["episode_id"], edits.ids).combine_chunks()
    for name, (values, given) in edits.columns.items():
        position = table.column_names.index(name)
        mask = pc.fill_null(given.take(where), False)
        column = pc.if_else(mask, values.take(where), table[name].combine_chunks())
        table = table.set_column(position, table.schema.field(name), column)
    return table


def _bisect(ids: pa.ChunkedArray, episode_id: str) -> int:
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle].as_py() < episode_id:
            low = middle + 1
        else:
            high = middle
    return low


def _bounds(table: pa.Table) -> tuple[str, str]:
    ids = table["episode_id"]
    return ids[0].as_py(), ids[-1].as_py()
