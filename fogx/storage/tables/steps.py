"""`steps` and `streams` files: low-dimensional rows, aligned or as they came, whole episodes to a row group, one schema a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError
from fogx.feature import Feature, Schema
from fogx.memory import Room
from fogx.protocols import Column
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
from fogx.storage.tables.columns import arrow_type, frame_numbers, from_arrow, numpy_view, to_arrow
from fogx.storage.tables.guarded import GuardedParquet, readable
from fogx.storage.tables.places import StepsPlace

RECEIVED = "received_ns"

STEP_NUMBER = Feature("int32", ())
"""What stands in `streams` in the place of a value that a step holds."""

ROW_GROUP_ROWS = 10_000
"""Episodes share a row group up to about this many rows: small enough to prune, large enough to scan fast."""


def steps_schema(schema: Schema, family: str = "steps", in_steps: Collection[str] = ()) -> pa.Schema:
    """Return the arrow schema of the `steps` or `streams` files of one episode schema.

    In `streams` a row is a sample: `step_index` is its number, `timestamp_ns` its stamp, `received_ns` when it came. Features
    `in_steps` have there, in the place of values, int32 numbers of the steps that hold them.
    """
    own = [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("step_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64()),
        *([pa.field(RECEIVED, pa.int64())] if family == "streams" else []),
    ]
    fields = [pa.field(name, pa.int32() if name in in_steps else arrow_type(feature)) for name, feature in schema.items()]
    return pa.schema(own + fields, metadata={"fogx.schema_id": schema.schema_id})


class StepsWriter:
    """Writes one `steps` or `streams` file; episodes must come in order of their ids."""

    def __init__(
        self, store: Store, schema: Schema, partition: str, family: str = "steps", in_steps: Collection[str] = ()
    ) -> None:
        self.pointer = new_pointer(family, partition)
        self._schema = schema
        self._in_steps = in_steps
        self._arrow = steps_schema(schema, family, in_steps)
        self._sink = store.create(self.pointer)
        here = {k: f for k, f in schema.items() if not f.in_frames and k not in in_steps}
        floats = [k for k, f in here.items() if str(f.dtype).startswith("float")]
        self._writer = pq.ParquetWriter(
            self._sink,
            self._arrow,
            compression="zstd",
            use_dictionary=["episode_id"] + [_leaf(k, self._arrow) for k, f in here.items() if f.dtype in ("str", "bytes")],
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
            columns: Column of `rows` values of each feature; of those `in_steps`, of int32 numbers of steps.
            rows: How many.
            times_ns: `(rows,)` int64: the times, and of samples when they came.
        """
        if self._rows and self._rows + rows > ROW_GROUP_ROWS:
            self._flush()
        place = StepsPlace(self.pointer, self._groups, self._rows, rows)
        times = dict(zip(("timestamp_ns", RECEIVED), times_ns, strict=False))
        self._tables.append(steps_table(self._arrow, self._schema, episode_id, columns, rows, times, self._in_steps))
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


def steps_table(
    arrow: pa.Schema,
    schema: Schema,
    episode_id: str,
    columns: Mapping[str, Column],
    rows: int,
    times_ns: Mapping[str, np.ndarray | None],
    in_steps: Collection[str] = (),
) -> pa.Table:
    """Return the steps or samples of one episode as a table.

    Args:
        arrow: The table's columns: all or some of `steps_schema`.
        schema: The episode's schema.
        episode_id: The episode.
        columns: Column of `rows` values of each feature in `arrow`.
        rows: How many.
        times_ns: `(rows,)` int64 by name; `None` where there are none.
        in_steps: Features of which `columns` holds numbers of steps.
    """

    def array(name: str) -> pa.Array | pa.ChunkedArray:
        if name == "episode_id":
            # One piece many times: a million ids would take 32 MB.
            piece = pa.repeat(episode_id, min(rows, ROW_GROUP_ROWS))
            return pa.chunked_array([piece] * (rows // ROW_GROUP_ROWS) + [piece.slice(0, rows % ROW_GROUP_ROWS)], pa.string())
        if name == "step_index":
            return pa.array(np.arange(rows, dtype=np.int64))
        if name in times_ns:
            return pa.nulls(rows, pa.int64()) if times_ns[name] is None else pa.array(times_ns[name], pa.int64())
        if schema[name].in_frames:
            return frame_numbers(columns[name])
        return to_arrow(columns[name], STEP_NUMBER if name in in_steps else schema[name])

    return pa.Table.from_arrays([array(name) for name in arrow.names], schema=arrow)


def read_steps(
    store: Store, places: Sequence[StepsPlace], schema: Schema, names: Sequence[str], in_steps: Collection[str] = ()
) -> dict[str, Column]:
    """Return columns of one episode, reading nothing but those.

    Args:
        store: The root's store.
        places: The episode's places, in order.
        schema: The episode's schema.
        names: Features, `timestamp_ns`, and of `streams` `received_ns`; features kept in `frames` come as int32 frame numbers.
        in_steps: Features that `streams` name by step; they come as int32 numbers, for `with_values`.

    Raises:
        CorruptDataError: The file cannot be read, a page's checksum is wrong, or its row groups would take more memory than they
            may (see `guarded.py`).
    """
    if not names:
        return {}
    arrow = steps_schema(schema, "streams" if RECEIVED in names else "steps", in_steps)
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
        return columns_of(pa.concat_tables(parts), schema, in_steps)


def read_times(store: Store, places: Sequence[StepsPlace]) -> list[np.ndarray]:
    """Return the times of many episodes' steps; each row group is read once.

    Args:
        store: The root's store.
        places: Places in `steps` files, of steps that have times.

    Returns:
        For each place `(num_rows,)` int64 ns.

    Raises:
        CorruptDataError: As `read_steps`; or steps without times.
    """
    inside: dict[str, dict[int, list[int]]] = {}
    for number, place in enumerate(places):
        inside.setdefault(place.file, {}).setdefault(place.row_group, []).append(number)
    times, room, expected = [np.zeros(0, np.int64)] * len(places), Room(), pa.schema([pa.field("timestamp_ns", pa.int64())])
    for name, groups in inside.items():
        with store.open(name) as source:
            file = GuardedParquet(source, f"{store.root}: {name}", checksums=True)
            for group, numbers in groups.items():
                column = file.read([group], ["timestamp_ns"], room, expected)["timestamp_ns"].combine_chunks()
                for number in numbers:
                    part = column.slice(places[number].first_row, places[number].num_rows)
                    if part.null_count or len(part) != places[number].num_rows:
                        raise CorruptDataError(
                            f"{store.root}: {name} holds {len(part) - part.null_count} of the {places[number].num_rows} times of steps "
                            "that it should."
                        )
                    times[number] = numpy_view(part).copy()
    return times


def columns_of(table: pa.Table, schema: Schema, in_steps: Collection[str] = ()) -> dict[str, Column]:
    """Return rows of a file as columns; features kept in `frames` and those `in_steps` come as int32 numbers."""
    return {name: _column(table[name], None if name in in_steps else schema.features.get(name)) for name in table.column_names}


def with_values(sent: Mapping[str, Column], steps: Mapping[str, Column], in_steps: Collection[str]) -> dict[str, Column]:
    """Return columns of samples with values in the place of numbers of steps.

    Args:
        sent: Columns of samples; of features `in_steps` int32, of which step each is the value.
        steps: Columns of steps of these features at least.
        in_steps: These features.

    Raises:
        CorruptDataError: A number of no step, of one without a value, or of the step of another sample; no such feature.
    """
    found = dict(sent)
    for name in in_steps:
        if name not in sent or name not in steps:
            raise CorruptDataError(f"samples of {str(name)[:60]!r} are named by step, and there is no such feature.")
        mask, known = sent[name].mask, steps[name]
        named = sent[name].values[mask]
        inside = not len(named) or (named.min() >= 0 and named.max() < len(known.values))
        # A step shows one sample: so values take no more memory than those of the steps.
        if not inside or not known.mask[named].all() or len(np.unique(named)) != len(named):
            raise CorruptDataError(f"samples of {name!r} name steps that do not hold them, of {len(known.values)} steps.")
        values = np.zeros((len(mask), *known.values.shape[1:]), known.values.dtype)
        values[mask] = known.values[named]
        found[name] = Column(values, sent[name].valid)
    return found


def _column(array: pa.ChunkedArray, feature: Feature | None) -> Column:
    if feature is not None and not feature.in_frames:
        return from_arrow(array, feature)
    numbers = array.combine_chunks()
    return Column(numpy_view(numbers), None if numbers.null_count == 0 else numpy_view(numbers.is_valid()))


def _leaf(name: str, schema: pa.Schema) -> str:
    return f"{name}.list.element" if pa.types.is_nested(schema.field(name).type) else name
