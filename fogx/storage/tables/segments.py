"""`segments` files: labels on parts of episodes, all that an episode has as of one edit, of one or many episodes."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, SegmentError
from fogx.memory import Room
from fogx.protocols import Segment, SegmentValue
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
from fogx.storage.tables.columns import numpy_view
from fogx.storage.tables.guarded import GuardedParquet, readable

SCHEMA = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("start_ns", pa.int64()),
        pa.field("stop_ns", pa.int64()),
        pa.field("start_step", pa.int64(), nullable=False),
        pa.field("stop_step", pa.int64(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""Columns of the files; `value` is JSON. Rows are in order of id, and within an episode as `in_order` has them."""

_ROW_GROUP_ROWS = 10_000
_LARGEST_INT = 1 << 63


def check_label(label: object) -> str:
    """Return a label that a segment may have.

    Raises:
        SegmentError: Not a str, empty, not printable, or too long.
    """
    if not isinstance(label, str) or not label.strip() or len(label) > 200 or not label.isprintable():
        found = f"{str(label)[:80]!r}" if isinstance(label, str) else f"a {type(label).__name__}"
        raise SegmentError(f"the label of a segment is a str of 1–200 printable characters, found {found}.")
    return label


def check_value(value: object) -> SegmentValue:
    """Return a value that a segment may have, numpy scalars as Python ones.

    Raises:
        SegmentError: Neither `None`, bool, int, float nor str; an int beyond 64 bits; text that is no valid Unicode.
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if isinstance(value, str) and value.encode(errors="ignore").decode() != value:
        raise SegmentError("the value of a segment is not valid Unicode (a lone surrogate).")
    if isinstance(value, int) and not -_LARGEST_INT <= value < _LARGEST_INT:
        raise SegmentError(f"the value of a segment is an int of {value.bit_length()} bits; 64, with the sign, are stored.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise SegmentError(f"the value of a segment is a bool, int, float, str or None, found a {type(value).__name__}.")


def in_order(segments: Iterable[Segment]) -> list[Segment]:
    """Return segments in order of where they start, then of where they stop; those that start and stop alike as they came."""
    return sorted(
        segments,
        key=lambda s: (
            s.start_ns is not None,
            s.start_ns or 0,
            s.start_step,
            math.inf if s.stop_ns is None else s.stop_ns,
            s.stop_step,
        ),
    )


def steps_of(segments: Iterable[Segment], times_ns: np.ndarray) -> tuple[Segment, ...]:
    """Return the segments of an episode with the steps that they have where its steps are at these times.

    Of steps whose times fall, because a clock was set back, a segment has those from the first to the last that lie in it.

    Args:
        segments: Segments of an episode that has times.
        times_ns: `(T,)` int64.
    """
    return tuple(_with_steps(segment, times_ns) for segment in segments)


def _with_steps(segment: Segment, times_ns: np.ndarray) -> Segment:
    inside = np.ones(len(times_ns), bool)
    if segment.start_ns is not None:
        inside &= times_ns >= segment.start_ns
    start = _first(inside)
    if segment.stop_ns is not None:
        inside &= times_ns < segment.stop_ns
    if not inside.any():
        return replace(segment, start_step=start, stop_step=start)
    return replace(segment, start_step=_first(inside), stop_step=len(inside) - _first(inside[::-1]))


def _first(mask: np.ndarray) -> int:
    """Return the position of the first True, or the length where there is none."""
    return int(np.argmax(mask)) if mask.any() else len(mask)


def write_segments(store: Store, segments: Mapping[str, Sequence[Segment]]) -> str:
    """Write one `segments` file and return its pointer; it is to be synced, and named by a commit.

    Args:
        store: The root's store.
        segments: Episode id → all its segments, one at least.
    """
    pointer = new_pointer("segments")
    rows = [(i, segment) for i in sorted(segments) for segment in in_order(segments[i])]
    columns = {
        "episode_id": [i for i, _ in rows],
        "value": [None if s.value is None else json.dumps(s.value, ensure_ascii=False) for _, s in rows],
        **{name: [getattr(s, name) for _, s in rows] for name in SCHEMA.names if name not in ("episode_id", "value")},
    }
    table = pa.Table.from_pydict(columns, schema=SCHEMA)
    with store.create(pointer) as sink:
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=_ROW_GROUP_ROWS)
    return pointer


def fits(schema: pa.Schema) -> bool:
    """Return whether a file of this schema holds segments; columns that a later fogx adds do not matter."""
    return all(field.name in schema.names and schema.field(field.name).type == field.type for field in SCHEMA)


def read_segments(store: Store, rows: pa.Table, label: str | None = None) -> pa.Table:
    """Return the segments of episodes, in order of the rows, and then as `in_order` has them.

    Args:
        store: The root's store.
        rows: Rows of the episodes table, with `episode_id`, `num_steps` and `segments_file`.
        label: Only segments of this label; `None` for all.

    Returns:
        `number`, the position of the episode among the rows, and the columns of `SCHEMA`.

    Raises:
        CorruptDataError: A file that is not there, cannot be read, fails a checksum, has no segment of an episode that names it,
            or one that no writer gives; or one that would take more memory than it may (see `guarded.py`).
    """
    asked: dict[str, list[int]] = {}
    for number, pointer in enumerate(rows["segments_file"].to_pylist()):
        if pointer is not None:
            asked.setdefault(pointer, []).append(number)
    room = Room(objects=("label", "value", "source"), json=("value",))
    few = rows.select(["episode_id", "num_steps"])
    read = functools.partial(_read_file, store, few, room, label)
    schema = pa.schema([pa.field("number", pa.int64()), *SCHEMA])
    # Not `empty_table()`: it imports pandas, which training workers do without.
    none = pa.Table.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
    table = pa.concat_tables([none, *store.each(read, list(asked), list(asked.values()))])
    return table.take(pc.sort_indices(table["number"]))  # a stable sort


def values_of(table: pa.Table) -> list[SegmentValue]:
    """Return the values of segments that `read_segments` gave.

    Raises:
        CorruptDataError: One is not what a writer gives.
    """
    with readable("the value of a segment"):
        return [None if text is None else check_value(json.loads(text)) for text in table["value"].to_pylist()]


def segments_of(table: pa.Table) -> dict[str, list[Segment]]:
    """Return episode id → segments, of a table that `read_segments` gave."""
    found: dict[str, list[Segment]] = {}
    for row, value in zip(table.drop_columns(["number", "value"]).to_pylist(), values_of(table), strict=True):
        found.setdefault(row.pop("episode_id"), []).append(Segment(**row, value=value))
    return found


def label_ranges(store: Store, rows: pa.Table, label: str) -> list[np.ndarray]:
    """Return which steps of episodes lie in segments of a label.

    Args:
        store: The root's store.
        rows: Rows of the episodes table, as for `read_segments`.
        label: The label.

    Returns:
        For each row `(K, 2)` int64: half-open ranges of steps, in order, apart from each other and not empty.

    Raises:
        CorruptDataError: As `read_segments`.
    """
    table = read_segments(store, rows, label)
    found: list[list[list[int]]] = [[] for _ in range(rows.num_rows)]
    columns = (table[name].to_pylist() for name in ("number", "start_step", "stop_step"))
    for number, start, stop in sorted(zip(*columns, strict=True)):
        ranges = found[number]
        if ranges and start <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], stop)
        elif start < stop:
            ranges.append([start, stop])
    return [np.array(ranges, np.int64).reshape(-1, 2) for ranges in found]


def _read_file(store: Store, rows: pa.Table, room: Room, label: str | None, pointer: str, numbers: Sequence[int]) -> pa.Table:
    """Return the segments of episodes that name one file."""
    what, mine = f"{store.root}: {pointer}", rows.take(pa.array(numbers, pa.int64())).combine_chunks()
    ids = mine["episode_id"].combine_chunks()
    low, high = pc.min_max(ids).as_py().values()
    with store.open(pointer) as source, readable(what):
        file = GuardedParquet(source, what, checksums=True)
        if not fits(file.schema):
            raise ValueError("it holds other columns than those of segments")
        bounds = [file.bounds(group, "episode_id") for group in range(len(file.group_rows))]
        groups = [group for group, found in enumerate(bounds) if found is None or (found[0] <= high and low <= found[1])]
        table = file.read(groups, SCHEMA.names, room, SCHEMA)
        of = pc.index_in(table["episode_id"], value_set=ids)
        table, of = table.filter(of.is_valid()), of.drop_null().combine_chunks()
        if lost := len(ids) - len(pc.unique(of)):
            raise CorruptDataError(
                f"{what} holds no segments of {lost} of the {len(ids)} episodes that name it. See what is damaged with "
                f"fox.check({store.root!r})."
            )
        _check_sound(table, numpy_view(mine["num_steps"].combine_chunks().take(of)))
        table = table.add_column(0, "number", pa.array(numbers, pa.int64()).take(of))
        return table if label is None else table.filter(pc.equal(table["label"], label))


def _check_sound(table: pa.Table, num_steps: np.ndarray) -> None:
    """Refuse what no writer gives: steps outside of their episode would be read by whoever asks for a label.

    Raises:
        ValueError: An empty label, or a range that is not one.
    """
    if pc.any(pc.equal(table["label"], "")).as_py():
        raise ValueError("a segment has an empty label")
    start, stop = (numpy_view(table[name].combine_chunks()) for name in ("start_step", "stop_step"))
    if ((start < 0) | (stop < start) | (stop > num_steps)).any():
        raise ValueError("a segment does not lie within the steps of its episode")
    if pc.any(pc.greater_equal(table["start_ns"], table["stop_ns"])).as_py():
        raise ValueError("a segment stops before it starts")
