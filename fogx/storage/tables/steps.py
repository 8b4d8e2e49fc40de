"""`steps` and `streams` files: low-dimensional rows, aligned or as they came, whole episodes to a row group, one schema a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError
from fogx.feature import Schema
from fogx.memory import Room
from fogx.protocols import Column
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
from fogx.storage.tables.columns import arrow_type, frame_numbers, from_arrow, numpy_view, to_arrow
from fogx.storage.tables.guarded import GuardedParquet, readable
from fogx.storage.tables.places import StepsPlace

RECEIVED = "received_ns"

ROW_GROUP_ROWS = 10_000
"""Episodes share a row group up to about this many rows: small enough to prune, large enough to scan fast."""


def steps_schema(schema: Schema, family: str = "steps") -> pa.Schema:
    """Return the arrow schema of the `steps` or `streams` files of one episode schema.

    In `streams` a row is a sample: `step_index` is its number, `timestamp_ns` its stamp, `received_ns` when it came.
    """
    own = [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("step_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64()),
        *([pa.field(RECEIVED, pa.int64())] if family == "streams" else []),
    ]
    fields = [pa.field(name, arrow_type(feature)) for name, feature in schema.items()]
    return pa.schema(own + fields, metadata={"fogx.schema_id": schema.schema_id})


class StepsWriter:
    """Writes one `steps` or `streams` file; episodes must come in order of their ids."""

    def __init__(self, store: Store, schema: Schema, partition: str, family: str = "steps") -> None:
        self.pointer = new_pointer(family, partition)
        self._schema = schema
        self._arrow = steps_schema(schema, family)
        self._sink = store.create(self.pointer)
        floats = [k for k, f in schema.items() if not f.in_frames and str(f.dtype).startswith("float")]
        self._writer = pq.ParquetWriter(
            self._sink,
            self._arrow,
            compression="zstd",
            use_dictionary=["episode_id"] + [_leaf(k, self._arrow) for k, f in schema.items() if f.dtype in ("str", "bytes")],
            use_byte_stream_split=[_leaf(k, self._arrow) for k in floats],
            write_page_index=True,
            write_page_checksum=True,
            write_batch_size=ROW_GROUP_ROWS,
        )
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._groups = 0

    def add(self, episode_id: str, columns: Mapping[str, Column], rows: int, *times_ns: np.ndarray | None) -> StepsPlace:
        """Append one episode and return where it will lie.

        Args:
            episode_id: The episode.
            columns: Column of `rows` values of each feature.
            rows: How many.
            times_ns: `(rows,)` int64: the times, and of samples when they came.
        """
        if self._rows and self._rows + rows > ROW_GROUP_ROWS:
            self._flush()
        place = StepsPlace(self.pointer, self._groups, self._rows, rows)
        own = [pa.repeat(episode_id, rows), pa.array(np.arange(rows, dtype=np.int64))]
        own += [pa.nulls(rows, pa.int64()) if times is None else pa.array(times, pa.int64()) for times in times_ns]
        features = [
            frame_numbers(columns[name]) if feature.in_frames else to_arrow(columns[name], feature)
            for name, feature in self._schema.items()
        ]
        self._tables.append(pa.Table.from_arrays(own + features, schema=self._arrow))
        self._rows += rows
        if self._rows >= ROW_GROUP_ROWS:
            self._flush()  # a long episode is not held until the last one
        return place

    def close(self) -> None:
        """Write what is buffered and the footer."""
        if self._rows or not self._groups:
            self._flush()
        self._writer.close()
        self._sink.close()

    def abort(self) -> None:
        """Close the file without caring for its content."""
        for part in (self._writer, self._sink):
            with suppress(pa.ArrowException, OSError, ValueError):
                part.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.concat_tables(self._tables), row_group_size=max(self._rows, 1))
        self._tables, self._rows, self._groups = [], 0, self._groups + 1


def read_steps(store: Store, places: Sequence[StepsPlace], schema: Schema, names: Sequence[str]) -> dict[str, Column]:
    """Return columns of one episode, reading nothing but those.

    Args:
        store: The root's store.
        places: The episode's places, in order.
        schema: The episode's schema.
        names: Features, `timestamp_ns`, and of `streams` `received_ns`; features kept in `frames` come as int32 frame numbers.

    Raises:
        CorruptDataError: The file cannot be read, a page's checksum is wrong, or its row groups would take more memory than they
            may (see `guarded.py`).
    """
    if not names:
        return {}
    arrow = steps_schema(schema, "streams" if RECEIVED in names else "steps")
    expected = pa.schema([arrow.field(name) for name in names])
    # Not `empty_table()`: it imports pandas, which training workers do without.
    parts = [pa.Table.from_arrays([pa.nulls(0, f.type) for f in expected], schema=expected)]
    room = Room()
    for place in places:
        with store.open(place.file) as source:
            file = GuardedParquet(source, f"{store.root}: {place.file}", checksums=True)
            group = file.read([place.row_group], names, room, expected)
        part = group.slice(place.first_row, place.num_rows)
        if part.num_rows != place.num_rows:
            raise CorruptDataError(
                f"{store.root}: {place.file} holds {part.num_rows} of the {place.num_rows} steps that it should."
            )
        parts.append(part)
    with readable(f"{store.root}: {', '.join(place.file for place in places[:1])}"):
        return columns_of(pa.concat_tables(parts), schema)


def columns_of(table: pa.Table, schema: Schema) -> dict[str, Column]:
    """Return rows of a `steps` file as columns; features kept in `frames` come as int32 frame numbers."""
    return {name: _column(table[name], name, schema) for name in table.column_names}


def _column(array: pa.ChunkedArray, name: str, schema: Schema) -> Column:
    feature = schema.features.get(name)
    if feature is not None and not feature.in_frames:
        return from_arrow(array, feature)
    numbers = array.combine_chunks()
    return Column(numpy_view(numbers), None if numbers.null_count == 0 else numpy_view(numbers.is_valid()))


def _leaf(name: str, schema: pa.Schema) -> str:
    return f"{name}.list.element" if pa.types.is_nested(schema.field(name).type) else name
