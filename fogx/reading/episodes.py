"""What lies behind rows: their index rows, schemas and places, read file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fogx import registry
from fogx.errors import SchemaMismatchError, listing
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData
from fogx.reading.roots import Root
from fogx.storage.log.rows import BASE, EDITABLE, extra_values
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import IndexRow, read_index, read_schema
from fogx.storage.tables.steps import read_steps


@dataclass(frozen=True)
class Located:
    """One episode with its index row.

    Args:
        root: The root that holds it.
        row: Its row, as a table of one: positions change with the next commit.
        index: Its index row, with the parts that were asked for.
    """

    root: Root
    row: pa.Table
    index: IndexRow

    @property
    def episode_id(self) -> str:
        """The episode's id."""
        return self.index.episode_id

    @property
    def schema(self) -> Schema:
        """The episode's schema."""
        return read_schema(self.root.store, self.index.schema_id)


def locate(chosen: Iterable[tuple[Root, int]], parts: Sequence[str] = ("steps", "frames", "metadata")) -> list[Located]:
    """Read the index rows of episodes, each index file once; the order is kept."""
    chosen = list(chosen)
    by_file: dict[tuple[int, str], list[int]] = {}
    where = []
    for position, (root, row) in enumerate(chosen):
        where.append((root.rows["index_file"][row].as_py(), root.rows["index_row"][row].as_py()))
        by_file.setdefault((id(root), where[-1][0]), []).append(position)
    result: list[Located | None] = [None] * len(chosen)
    for (_, file), positions in by_file.items():
        store = chosen[positions[0]][0].store
        for position, index in zip(positions, read_index(store, file, [where[p][1] for p in positions], parts), strict=True):
            root, row = chosen[position]
            result[position] = Located(root, root.rows.slice(row, 1), index)
    return [located for located in result if located is not None]


def decoder(feature: Feature) -> Callable[[bytes], Any]:
    """Return what turns stored bytes of an encoded feature into the value that users see: an array, or long text."""
    codec = registry.get("codecs", str(feature.encoding))

    def decode(blob: bytes) -> Any:
        value = codec.decode(blob, feature)
        return value.item() if value.dtype == object and value.ndim == 0 else value

    return decode


def cells(rows: pa.Table, row: int) -> dict[str, object]:
    """Return the cells of a row that a user may set, by name, without the empty ones."""
    values = {name: rows[name][row].as_py() for name in rows.column_names if name not in BASE.names or name in EDITABLE}
    values |= extra_values(rows["_extra"][row].as_py())
    return {name: value for name, value in values.items() if value is not None}


def read_data(located: Located) -> EpisodeData:
    """Read one whole episode into memory: exact values, encoded frames.

    Args:
        located: The episode, with the parts `steps`, `frames` and `metadata`.
    """
    schema, store, index = located.schema, located.root.store, located.index
    columns = read_steps(store, index.steps, schema, ["timestamp_ns", *schema])
    times = columns.pop("timestamp_ns")
    for name in [name for name, feature in schema.items() if feature.in_frames]:
        numbers = columns[name]
        blobs = np.empty(index.num_steps, dtype=object)
        wanted = numbers.mask
        for step, blob in zip(
            np.flatnonzero(wanted), read_frames(store, index.frames_of(name), numbers.values[wanted]), strict=True
        ):
            blobs[step] = blob
        columns[name] = Column(blobs, numbers.valid)
    own = cells(located.row, 0)
    return EpisodeData(
        schema,
        columns,
        index.num_steps,
        None if times.valid is not None else times.values,
        metadata={**index.metadata, **{k: v for k, v in own.items() if k not in EDITABLE}},
        dataset=located.row["dataset"][0].as_py(),
        split=located.row["split"][0].as_py(),
        control_hz=located.row["control_hz"][0].as_py(),
        success=located.row["success"][0].as_py(),
        source_key=located.row["source_key"][0].as_py(),
        episode_id=located.episode_id,
    )


def one_schema(chosen: Sequence[tuple[Root, int]], what: str) -> Schema | None:
    """Return the schema that all episodes share, or `None` for no episodes.

    Raises:
        SchemaMismatchError: Groups the episodes by schema and says how to choose one group.
    """
    groups: dict[str, list[tuple[Root, int]]] = {}
    for root, row in chosen:
        groups.setdefault(root.rows["schema_id"][row].as_py(), []).append((root, row))
    schemas = {schema_id: read_schema(members[0][0].store, schema_id) for schema_id, members in groups.items()}
    if len(groups) > 1:
        lines = []
        for schema_id, members in groups.items():
            first = members[0][0].rows["episode_id"][members[0][1]].as_py()
            datasets = sorted({str(root.rows["dataset"][row].as_py()) for root, row in members})
            lines.append(
                f"  {len(members)} of dataset {listing(datasets, most=3)} (first {first}): {_unlike(schema_id, schemas)}"
            )
        raise SchemaMismatchError(
            f"{what} needs episodes of one schema; the {len(chosen)} selected have {len(groups)}:\n" + "\n".join(lines) + "\n"
            'Select one group, e.g. info.filter(info["dataset"] == ...).'
        )
    return next(iter(schemas.values()), None)


def _unlike(schema_id: str, schemas: dict[str, Schema]) -> str:
    mine = schemas[schema_id]
    others = [schema for other, schema in schemas.items() if other != schema_id]
    unlike = [name for name, f in mine.items() if any(other.features.get(name) != f for other in others)]
    return (
        listing((f"{name} {mine[name].describe()}" for name in unlike), most=5)
        if unlike
        else "the same features in another order"
    )
