"""`index` files: schema, statistics, places and checksums of the episodes that one write added; and the schemas themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, listing
from fogx.feature import Schema
from fogx.stats import FeatureStats
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
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
    ]
)


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


PARTS = ("steps", "frames", "metadata", "stats")
"""The parts of an index row that can be read alone; the others are always there."""


def read_index(
    store: Store, pointer: str, rows: Sequence[int], parts: Sequence[str] = ("steps", "frames", "metadata")
) -> list[IndexRow]:
    """Return rows of an `index` file by position, with only the `parts` asked for (others are empty).

    Raises:
        CorruptDataError: The file cannot be read, fails a checksum, or has no such row.
    """
    wanted = [name for name in _SCHEMA.names if name in parts or name not in PARTS]
    with store.open(pointer) as file:
        try:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=wanted, use_threads=False)
            # What a damaged footer still lets through shows in the schema, the bounds, or the values' own checks.
            expected = pa.schema([_SCHEMA.field(name) for name in wanted])
            found = table.take(pa.array(rows, pa.int64())).cast(expected).to_pylist()
            return [_from_arrow(row) for row in found]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{store.root}: {pointer}, rows {listing(rows, most=3)}, is not readable: {error}") from error


def write_schema(store: Store, schema: Schema) -> None:
    """Keep a schema under its content hash; writing it again changes nothing."""
    if _read_schema_text(store, schema.schema_id) != schema.json:
        store.write_small(_schema_name(schema.schema_id), schema.json.encode())


@functools.lru_cache(maxsize=4_096)
def _cached_schema(store: Store, root: str, schema_id: str) -> Schema:
    text = _read_schema_text(store, schema_id)
    try:
        schema = None if text is None else Schema.from_json(text)
    except (ValueError, TypeError, KeyError):
        schema = None
    if schema is None or schema.schema_id != schema_id:
        raise CorruptDataError(f"{root}: the schema {_schema_name(schema_id)} is missing or damaged.")
    return schema


def read_schema(store: Store, schema_id: str) -> Schema:
    """Return a schema by its id; read once a process.

    Raises:
        CorruptDataError: It is missing, or its content does not give its id.
    """
    return _cached_schema(store, store.root, schema_id)


def _read_schema_text(store: Store, schema_id: str) -> str | None:
    data = store.read_small(_schema_name(schema_id))
    return None if data is None else data.decode(errors="replace")


def _schema_name(schema_id: str) -> str:
    if not (len(schema_id) == 32 and set(schema_id) <= set("0123456789abcdef")):
        raise CorruptDataError(f"a row names the schema {schema_id[:60]!r}, which is not an id that fogx gives.")
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
        "frames": [{f.name: getattr(place, f.name) for f in fields(place)} for place in row.frames],
        "stats": [{"feature": name, **stats.to_dict()} for name, stats in row.stats.items()],
    }


def _from_arrow(row: dict[str, Any]) -> IndexRow:
    return IndexRow(
        episode_id=row["episode_id"],
        schema_id=row["schema_id"],
        num_steps=row["num_steps"],
        checksum=row["checksum"],
        partial=row["partial"],
        steps=[StepsPlace(**_whole(place)) for place in row.get("steps") or []],
        frames=[_frames_place(place) for place in row.get("frames") or []],
        metadata=decode_nested(row.get("metadata")),
        stats={entry.pop("feature"): FeatureStats.from_dict(entry) for entry in row.get("stats") or []},
    )


def _whole(place: dict[str, Any]) -> dict[str, Any]:
    if None in place.values():
        raise ValueError("a place lacks a part")
    return place


def _frames_place(place: dict[str, Any]) -> FramesPlace:
    arrays = {"lengths": np.array(place["lengths"], np.int32), "crc32c": np.array(place["crc32c"], np.uint32)}
    return FramesPlace(**{**_whole(place), **arrays})
