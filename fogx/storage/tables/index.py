"""`index` files: schema, statistics, places and checksums of the episodes that one write added; and the schemas themselves."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, listing
from fogx.feature import STEP_KEYS, Schema
from fogx.memory import Room
from fogx.stats import FeatureStats
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
from fogx.storage.tables.columns import arrow_view, numpy_view
from fogx.storage.tables.guarded import GuardedParquet, readable
from fogx.storage.tables.nested import decode_nested, encode_nested
from fogx.storage.tables.places import FramesPlace, StepsPlace

_STEPS = pa.struct([("file", pa.string()), ("row_group", pa.int32()), ("first_row", pa.int32()), ("num_rows", pa.int64())])
_FRAMES = pa.struct(
    [
        ("feature", pa.string()),
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("first_row", pa.int32()),
        ("first_frame", pa.int32()),
        ("offset", pa.int64()),
        ("lengths", pa.list_(pa.int32())),
        ("crc32c", pa.list_(pa.uint32())),
    ]
)
_STATS = pa.struct(
    [
        ("feature", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("count", pa.list_(pa.int64())),
        *((name, pa.list_(pa.float64())) for name in ("mean", "m2", "min", "max")),
        ("sketches", pa.list_(pa.binary())),
    ]
)
_SCHEMA = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("schema_id", pa.string(), nullable=False),
        pa.field("num_steps", pa.int64(), nullable=False),
        pa.field("checksum", pa.binary(16), nullable=False),
        pa.field("partial", pa.list_(pa.string())),
        pa.field("metadata", pa.string()),
        pa.field("steps", pa.list_(_STEPS)),
        pa.field("frames", pa.list_(_FRAMES)),
        pa.field("stats", pa.list_(_STATS)),
        pa.field("streams", pa.list_(_STEPS)),
        pa.field("align", pa.string()),
        pa.field("in_steps", pa.list_(pa.string())),
        pa.field("derived", pa.list_(_FRAMES)),
    ]
)
_LATER = ("streams", "align", "in_steps", "derived")
"""Columns that files of before do not have."""

SHARED = ("episode_id", "schema_id", "num_steps")
"""What an episode's row and its index row both say."""


@dataclass(frozen=True)
class IndexRow:
    """What the `index` keeps of one episode.

    Args:
        episode_id: The episode.
        schema_id: Its schema.
        num_steps: T.
        checksum: 16 bytes over all values (see `pack.py`), the same wherever the episode is stored.
        partial: Features that some step lacks.
        steps: Places of its steps, in order.
        frames: Places of its frames, by feature and number.
        metadata: Arrays, dicts and lists of the episode's metadata.
        stats: Statistics by numeric feature.
        streams: Places of its samples, in order; none where steps say all.
        align: The policy that made the steps of these.
        in_steps: Features whose samples are named by the step that holds them.
        derived: Places of its frames in other sizes, under names that `derived.py` gives; what they are made from stays.
    """

    episode_id: str
    schema_id: str
    num_steps: int
    checksum: bytes
    partial: Sequence[str]
    steps: Sequence[StepsPlace]
    frames: Sequence[FramesPlace]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, FeatureStats] = field(default_factory=dict)
    streams: Sequence[StepsPlace] = ()
    align: Mapping[str, Any] | None = None
    in_steps: Sequence[str] = ()
    derived: Sequence[FramesPlace] = ()

    @property
    def files(self) -> set[str]:
        """Pointers of the data files that hold the episode."""
        return {p.file for p in (*self.steps, *self.streams)} | {p.file for p in (*self.frames, *self.derived)}

    def frames_of(self, feature: str) -> list[FramesPlace]:
        """Return the places of one feature, in order of frame number."""
        return [place for place in self.frames if place.feature == feature]


def write_index(store: Store, rows: Sequence[IndexRow]) -> str:
    """Write one `index` file and return its pointer."""
    pointer = new_pointer("index")
    table = pa.Table.from_pylist([_to_arrow(row) for row in rows], schema=_SCHEMA)
    with store.create(pointer) as sink:
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=1_000)
    return pointer


_OBJECTS = (
    "partial",
    "metadata",
    "steps",
    "stats",
    "streams",
    "in_steps",
    *(f"{name}.list.element.{f.name}" for name in ("frames", "derived") for f in _FRAMES if f.name not in ("lengths", "crc32c")),
)
"""Columns of which Python objects are made."""

PARTS = ("steps", "frames", "streams", "metadata", "stats", "derived")
"""The parts of an index row that can be read alone; the others are always there."""


def read_index(
    store: Store, pointer: str, rows: Sequence[int], parts: Sequence[str] = ("steps", "frames", "streams", "metadata")
) -> list[IndexRow]:
    """Return rows of an `index` file by position, with only the `parts` asked for (others are empty).

    Raises:
        CorruptDataError: The file cannot be read, fails a checksum, has no such row, holds places that cannot be, or would take
            more memory than it may (see `guarded.py`).
    """
    wanted = [name for name in _SCHEMA.names if name in parts or name not in PARTS]
    # What a damaged footer still lets through shows in the schema, the bounds, or the values' own checks.
    what, room = f"{store.root}: {pointer}", Room(objects=_OBJECTS, json=("metadata", "align"))
    found: dict[int, IndexRow] = {}
    with store.open(pointer) as source, readable(what):
        file = GuardedParquet(source, what, checksums=True)
        wanted = [name for name in wanted if name in file.schema.names or name not in _LATER]
        expected = pa.schema([_SCHEMA.field(name) for name in wanted])
        ends = np.cumsum(file.group_rows)
        asked = np.unique(np.asarray(rows, np.int64))
        if len(asked) and not (asked[0] >= 0 and asked[-1] < sum(file.group_rows)):
            raise ValueError(f"it has {sum(file.group_rows)} rows, {listing(asked, most=3)} are asked for")
        groups = np.searchsorted(ends, asked, side="right")
        for group in np.unique(groups).tolist():
            here = asked[groups == group]
            table = file.read([group], wanted, room, expected)
            local = table.take(arrow_view(here - (ends[group] - file.group_rows[group])))
            found |= dict(zip(here.tolist(), _from_arrow(local), strict=True))
    return [found[int(row)] for row in rows]


def check_index(root: str, row: Mapping[str, Any], index: IndexRow) -> None:
    """Refuse an index row that is of another episode than the row that points to it.

    Raises:
        CorruptDataError: Names the episode and what differs.
    """
    for name in SHARED:
        if row[name] != getattr(index, name):
            raise CorruptDataError(
                f"{root}: episode {str(row['episode_id'])[:60]} points to an index row with {name} {str(getattr(index, name))[:60]}, "
                f"its own is {str(row[name])[:60]}. See what is damaged with fox.check({root!r})."
            )


def read_steps_places(store: Store, pointer: str, rows: np.ndarray) -> pa.Table:
    """Return where the steps of many episodes begin, without an object for each: `steps` of `read_index`, flat.

    Args:
        store: The root's store.
        pointer: The `index` file.
        rows: `(N,)` int positions in it.

    Returns:
        Columns `number` (0 to N - 1), `file`, `row_group`, `first_row`, one row a place; no row for episodes of no steps.

    Raises:
        CorruptDataError: As `read_index`.
    """
    chosen = _column_of(store, pointer, rows, "steps")
    with readable(f"{store.root}: {pointer}"):
        flat = pa.Table.from_struct_array(chosen.flatten())
        numbers = pc.list_parent_indices(chosen)
        if any(column.null_count for column in flat.columns):
            raise ValueError("a place lacks a part")
        return flat.select(["file", "row_group", "first_row"]).append_column("number", numbers.cast(pa.int64()))


def read_partial(store: Store, pointer: str, rows: np.ndarray) -> set[str]:
    """Return the features that some step of many episodes lacks, without an object for each: `partial` of `read_index`.

    Args:
        store: The root's store.
        pointer: The `index` file.
        rows: `(N,)` int positions in it.

    Raises:
        CorruptDataError: As `read_index`.
    """
    found = _column_of(store, pointer, rows, "partial").flatten()
    return {name for name in pc.unique(found).to_pylist() if name is not None}


def _column_of(store: Store, pointer: str, rows: np.ndarray, name: str) -> pa.Array:
    """Return one column of rows of an `index` file."""
    what, expected = f"{store.root}: {pointer}", pa.schema([_SCHEMA.field(name)])
    with store.open(pointer) as source, readable(what):
        file = GuardedParquet(source, what, checksums=True)
        ends = np.cumsum(file.group_rows)
        if len(rows) and not (rows.min() >= 0 and rows.max() < sum(file.group_rows)):
            raise ValueError(f"it has {sum(file.group_rows)} rows, {listing(np.unique(rows), most=3)} are asked for")
        inside = np.searchsorted(ends, rows, side="right")
        groups = np.unique(inside)
        sizes = np.array([file.group_rows[group] for group in groups], np.int64)
        # Where a group begins in its file, less where it begins among those that are read.
        shift = ends[groups] - np.cumsum(sizes)
        column = file.read(groups.tolist(), [name], Room(), expected)[name]
        return column.take(arrow_view(rows - shift[np.searchsorted(groups, inside)])).combine_chunks()


def write_schema(store: Store, schema: Schema) -> None:
    """Keep a schema under its content hash, durably; writing it again changes nothing."""
    if _read_schema_text(store, schema.schema_id) != schema.json:
        store.write_small(schema_name(schema.schema_id), schema.json.encode())
    else:
        store.settle(schema_name(schema.schema_id))


@functools.lru_cache(maxsize=4_096)
def _cached_schema(store: Store, root: str, schema_id: str) -> Schema:
    text = _read_schema_text(store, schema_id)
    try:
        schema = None if text is None else _sound(Schema.from_json(text))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        schema = None
    if schema is None or schema.schema_id != schema_id:
        raise CorruptDataError(f"{root}: the schema {schema_name(schema_id)} is missing or damaged.")
    return schema


def read_schema(store: Store, schema_id: str) -> Schema:
    """Return a schema by its id; read once a process.

    Raises:
        CorruptDataError: It is missing, or its content does not give its id.
    """
    return _cached_schema(store, store.root, schema_id)


def _sound(schema: Schema) -> Schema:
    """Return the schema, unless it holds what no writer puts there.

    Raises:
        ValueError: A name or word that is no text, or a feature without dtype.
    """
    stored = [*schema.features.items(), *((path, feature) for path, feature in schema.episode_fields.values())]
    for name, feature in stored:
        words = (feature.unit, feature.space, feature.frame, feature.rotation, feature.gripper, feature.doc, feature.encoding)
        if not isinstance(name, str) or any(word is not None and not isinstance(word, str) for word in words):
            raise ValueError("a name or word is no text")
        if feature.dtype is None:
            raise ValueError("a feature has no dtype")
    if any(name in STEP_KEYS for name in schema.features):
        raise ValueError("a feature has a name that fogx keeps for itself")
    return schema


def _read_schema_text(store: Store, schema_id: str) -> str | None:
    data = store.read_small(schema_name(schema_id))
    return None if data is None else data.decode(errors="replace")


def schema_name(schema_id: str) -> str:
    """Return the name of the file that keeps a schema.

    Raises:
        CorruptDataError: Not an id that fogx gives.
    """
    if not (isinstance(schema_id, str) and len(schema_id) == 32 and set(schema_id) <= set("0123456789abcdef")):
        raise CorruptDataError(f"a row names the schema {str(schema_id)[:60]!r}, which is not an id that fogx gives.")
    return f"index/schemas/{schema_id}.json"


def _to_arrow(row: IndexRow) -> dict[str, Any]:
    return {
        "episode_id": row.episode_id,
        "schema_id": row.schema_id,
        "num_steps": row.num_steps,
        "checksum": row.checksum,
        "partial": list(row.partial),
        "metadata": encode_nested(row.metadata) if row.metadata else None,
        "steps": [asdict(place) for place in row.steps],
        "frames": [_frames_to_arrow(place) for place in row.frames],
        "stats": [{"feature": name, **stats.to_dict()} for name, stats in row.stats.items()],
        "streams": [asdict(place) for place in row.streams],
        "align": None if row.align is None else encode_nested(row.align),
        "in_steps": list(row.in_steps),
        "derived": [_frames_to_arrow(place) for place in row.derived],
    }


def _frames_to_arrow(place: FramesPlace) -> dict[str, Any]:
    return {f.name: getattr(place, f.name) for f in fields(place)}


def _from_arrow(table: pa.Table) -> list[IndexRow]:
    # The long lists of frames stay numbers: as Python objects they would take ten times the memory.
    there = [name for name in ("frames", "derived") if name in table.column_names]
    plain = table.drop_columns(there).to_pylist()
    places = {name: _frames_places(table[name].combine_chunks()) for name in there}
    nothing: list[list[FramesPlace]] = [[] for _ in plain]
    both = zip(places.get("frames", nothing), places.get("derived", nothing), strict=True)
    return [_row(row, frames, derived) for row, (frames, derived) in zip(plain, both, strict=True)]


def _row(row: dict[str, Any], frames: list[FramesPlace], derived: list[FramesPlace]) -> IndexRow:
    steps = [StepsPlace(**place) for place in row.get("steps") or []]
    streams = [StepsPlace(**place) for place in row.get("streams") or []]
    _check_places(row, steps if "steps" in row else None, [*frames, *derived], streams)
    return IndexRow(
        episode_id=row["episode_id"],
        schema_id=row["schema_id"],
        num_steps=row["num_steps"],
        checksum=row["checksum"],
        partial=row["partial"] or [],
        steps=steps,
        frames=frames,
        metadata=decode_nested(row["metadata"]) if row.get("metadata") else {},
        stats={entry.pop("feature"): FeatureStats.from_dict(entry) for entry in row.get("stats") or []},
        streams=streams,
        align=decode_nested(row["align"]) if row.get("align") else None,
        in_steps=row.get("in_steps") or (),
        derived=derived,
    )


def _frames_places(rows: pa.ListArray) -> list[list[FramesPlace]]:
    fields = dict(zip((f.name for f in _FRAMES), rows.flatten().flatten(), strict=True))
    arrays = _arrays(fields.pop("lengths"), fields.pop("crc32c"))
    plain = pa.Table.from_arrays(list(fields.values()), list(fields)).to_pylist()
    places = [FramesPlace(**place, lengths=a, crc32c=c) for place, (a, c) in zip(plain, arrays, strict=True)]
    # Not `fill_null(0)`: it imports pandas, which training workers do without.
    ends = np.cumsum(np.where(numpy_view(rows.is_valid()), numpy_view(pc.list_value_length(rows)), 0)).tolist()
    return [places[start:end] for start, end in itertools.pairwise([0, *ends])]


def _arrays(lengths: pa.ListArray, crc32c: pa.ListArray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the lengths and checksums of each place."""
    sizes, values, checksums = pc.list_value_length(lengths), lengths.flatten(), crc32c.flatten()
    if sizes.null_count or values.null_count or checksums.null_count or not sizes.equals(pc.list_value_length(crc32c)):
        raise ValueError("a place of frames lacks lengths or checksums")
    for start, end in itertools.pairwise([0, *np.cumsum(numpy_view(sizes)).tolist()]):
        # Copies: a view would keep the whole row group alive.
        yield numpy_view(values)[start:end].copy(), numpy_view(checksums)[start:end].copy()


def _check_places(
    row: Mapping[str, Any], steps: Sequence[StepsPlace] | None, frames: Sequence[FramesPlace], streams: Sequence[StepsPlace]
) -> None:
    """Refuse places that no writer gives: with them a small root could make a reader take any memory.

    Raises:
        ValueError: A missing or negative number, steps that do not add up, or places that overlap.
    """
    numbers = [n for place in (*(steps or ()), *streams) for n in (place.row_group, place.first_row, place.num_rows)]
    numbers += [n for place in frames for n in (place.row_group, place.first_row, place.first_frame, place.offset + 1)]
    if min(numbers, default=0) < 0 or row["num_steps"] < 0 or any((place.lengths < 0).any() for place in frames):
        raise ValueError("a place has a negative number")
    if steps is not None and sum(place.num_rows for place in steps) != row["num_steps"]:
        raise ValueError(f"its places hold {sum(place.num_rows for place in steps)} steps, {row['num_steps']} are declared")
    taken = [((p.file, p.row_group), p.first_row, p.num_rows) for p in (*(steps or ()), *streams)]
    taken += [((p.file, p.row_group), p.first_row, len(p.lengths)) for p in frames]
    taken += [((p.file, -1), p.offset, int(p.lengths.sum(dtype=np.int64))) for p in frames if p.offset >= 0]
    taken += [((p.feature, -2), p.first_frame, len(p.lengths)) for p in frames]
    for (where, first, length), (following, start, _) in itertools.pairwise(sorted(taken)):
        if where == following and first + length > start:
            raise ValueError("two places overlap")
