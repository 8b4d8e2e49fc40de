"""Makes blocks: the low-dimensional columns of episodes as they are stored, and where each frame of a camera lies.

A block holds, for each feature that is read (T is the number of steps of all its episodes, one after the other):

- numbers of fixed shape: `name` (T, *shape), zeros where a step has none;
- text and bytes: the same of int32 codes, with `name/offsets` and `name/bytes`, where the code-th value lies;
- features of varying shape: `name/starts` (T + 1,) and the elements of all steps as a flat `name`;
- features in frames: `name` (T,) of `FRAME`; the files that it names are the block's texts of that name; where some of them are of derived
  frames, `name//derived` (F,) bool tells which;
- `name/valid` (T,) bool, where not every step has a value.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fogx.errors import CorruptDataError
from fogx.feature import Feature, Schema
from fogx.memory import Room
from fogx.protocols import Column
from fogx.storage.files.store import Store
from fogx.storage.tables.anew import read_anew
from fogx.storage.tables.derived import derived_places
from fogx.storage.tables.guarded import GuardedParquet
from fogx.storage.tables.index import SHARED, IndexRow, check_index, read_index
from fogx.storage.tables.places import FramesPlace
from fogx.storage.tables.steps import columns_of, steps_schema
from fogx.training.cache import Block
from fogx.training.index import TrainingIndex

FRAME = np.dtype([("offset", "<i8"), ("file", "<i4"), ("length", "<i4"), ("crc32c", "<u4")])
"""Where the frame of a step lies. A negative offset is `-1 - (row group << 31) - row`: it has to be read through parquet."""

TIMES = "timestamp_ns"

_FORMAT = 1
"""Changes whenever blocks of before would be read wrongly."""


def block_key(index: TrainingIndex, number: int) -> str:
    """Return the key of a block: everything that its content follows from.

    `index` files are never changed and have names of their own, so a row of one stands for the episode's values and their places.
    """
    found, members = index.episodes, index.members(number)
    features = [
        [index.stored[name], f.dtype, f.shape, f.in_frames, *index.sizes.get(name, ())] for name, f in index.features.items()
    ]
    files, schemas = np.unique(found.index_file[members]), np.unique(found.schema[members])
    told = [
        _FORMAT,
        found.stores[int(found.store[members[0]])].root,
        sorted(features, key=str),
        index.needs_times,
        [found.index_files[file] for file in files.tolist()],
        [found.schemas[schema].schema_id for schema in schemas.tolist()],
        None if index.align is None else [index.align.to_json(), found.control_hz[members].tolist()],
    ]
    digest = hashlib.sha256(json.dumps(told).encode())
    for array in (np.searchsorted(files, found.index_file[members]), found.index_row[members], found.num_steps[members]):
        digest.update(array.astype("<i8").tobytes())
    digest.update(np.searchsorted(schemas, found.schema[members]).astype("<i8").tobytes())
    return digest.hexdigest()


def make_block(index: TrainingIndex, number: int) -> Block:
    """Read the columns of a block's episodes.

    Raises:
        CorruptDataError: They cannot be read, or are not where their index rows say.
    """
    members = index.members(number)
    store = index.episodes.stores[int(index.episodes.store[members[0]])]
    rows = _index_rows(index, store, members)
    schemas = [index.episodes.schemas[schema] for schema in index.episodes.schema[members].tolist()]
    if index.align is None:
        columns = _read(store, rows, schemas, [*index.stored.values(), *([TIMES] if index.needs_times else [])])
    else:
        columns = [_anew(index, store, int(member), row) for member, row in zip(members, rows, strict=True)]
    lengths = index.episodes.num_steps[members].tolist()
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, Sequence[str]] = {}
    for name, feature in index.features.items():
        stored = index.stored[name]
        parts = [(found.get(stored), length) for found, length in zip(columns, lengths, strict=True)]
        if feature.in_frames:
            found, texts[stored] = _frames(store, stored, parts, rows, index.sizes.get(name))
            arrays |= found
        elif feature.is_variable:
            arrays |= _ragged(stored, feature, parts)
        else:
            arrays |= _regular(stored, feature, parts)
        _add_mask(arrays, stored, parts)
    if index.needs_times:
        parts = [(found.get(TIMES), length) for found, length in zip(columns, lengths, strict=True)]
        arrays[TIMES] = _filled(Feature("int64", ()), parts)
        _add_mask(arrays, TIMES, parts)
    return Block(arrays, texts)


_Part = tuple[Column | None, int]
"""The column of one episode, `None` where it has none, and its steps."""


def _index_rows(index: TrainingIndex, store: Store, members: np.ndarray) -> list[IndexRow]:
    found = index.episodes
    parts = ["steps", *(["frames"] if any(feature.in_frames for feature in index.features.values()) else [])]
    parts += [*(["streams"] if index.align is not None else []), *(["derived"] if index.sizes else [])]
    files, numbers = found.index_file[members], found.index_row[members]
    # Members are in order of their files.
    starts = np.flatnonzero(np.r_[True, np.diff(files) != 0]).tolist()
    groups = [numbers[start:stop] for start, stop in zip(starts, [*starts[1:], len(members)], strict=True)]
    names = [found.index_files[int(files[start])] for start in starts]
    read = functools.partial(read_index, store, parts=parts)
    rows = [row for group in store.each(read, names, groups) for row in group]
    for member, row in zip(members.tolist(), rows, strict=True):
        # The number of steps that are made anew is no longer the one that is stored.
        steps = int(found.num_steps[member]) if index.align is None else row.num_steps
        own = found.ids[member].as_py(), found.schemas[int(found.schema[member])].schema_id, steps
        check_index(store.root, dict(zip(SHARED, own, strict=True)), row)
    return rows


def _anew(index: TrainingIndex, store: Store, member: int, row: IndexRow) -> dict[str, Column]:
    """Return the columns of one episode whose steps are made anew."""
    found, policy = index.episodes, index.align
    assert policy is not None
    hz = float(found.control_hz[member])
    made = read_anew(store, row, found.schemas[int(found.schema[member])], policy, None if math.isnan(hz) else hz)
    if made.num_steps != found.num_steps[member]:
        raise CorruptDataError(
            f"{store.root}: the samples of episode {row.episode_id} give {made.num_steps} steps, and gave {found.num_steps[member]} before."
        )
    return {**made.columns, TIMES: made.column(TIMES)}


def _read(store: Store, rows: Sequence[IndexRow], schemas: Sequence[Schema], names: Sequence[str]) -> list[dict[str, Column]]:
    """Return the columns of each episode; each row group is read once."""
    groups: dict[tuple[str, int, str], tuple[Schema, list[tuple[int, int, int]]]] = {}
    for number, (row, schema) in enumerate(zip(rows, schemas, strict=True)):
        for place in row.steps:
            key = place.file, place.row_group, schema.schema_id
            groups.setdefault(key, (schema, []))[1].append((number, place.first_row, place.num_rows))
    read = functools.partial(_read_group, store, names)
    files, numbers, _ = zip(*groups, strict=True) if groups else ((), (), ())
    pieces: list[list[dict[str, Column]]] = [[] for _ in rows]
    for found in store.each(read, files, numbers, groups.values()):
        for number, columns in found:
            pieces[number].append(columns)
    return [_joined(found) for found in pieces]


def _read_group(
    store: Store, names: Sequence[str], file: str, group: int, wanted: tuple[Schema, Sequence[tuple[int, int, int]]]
) -> list[tuple[int, dict[str, Column]]]:
    """Return (number, columns) of the (number, first row, rows) wanted of one row group."""
    schema, runs = wanted
    # A column that each file has, where it has none of those asked for: the rows must be there.
    own = [name for name in names if name in schema.features or name == TIMES] or ["step_index"]
    arrow = steps_schema(schema)
    with store.open(file) as source:
        parquet = GuardedParquet(source, f"{store.root}: {file}", checksums=True)
        table = parquet.read([group], own, Room(), pa.schema([arrow.field(name) for name in own]))
    for _, first, count in runs:
        if first + count > table.num_rows:
            raise CorruptDataError(
                f"{store.root}: {file} holds {max(0, table.num_rows - first)} of the {count} steps that it should."
            )
    columns = columns_of(table, schema)
    # Copies: a view would keep the whole row group alive.
    return [
        (
            number,
            {
                name: Column(
                    column.values[first : first + count].copy(),
                    None if column.valid is None else column.valid[first : first + count].copy(),
                )
                for name, column in columns.items()
            },
        )
        for number, first, count in runs
    ]


def _joined(pieces: Sequence[dict[str, Column]]) -> dict[str, Column]:
    if len(pieces) < 2:
        return pieces[0] if pieces else {}
    return {
        name: Column(np.concatenate([p[name].values for p in pieces]), np.concatenate([p[name].mask for p in pieces]))
        for name in pieces[0]
    }


def _add_mask(arrays: dict[str, np.ndarray], name: str, parts: Sequence[_Part]) -> None:
    if any(rows and (column is None or column.valid is not None) for column, rows in parts):
        masks = [np.zeros(rows, bool) if column is None else column.mask for column, rows in parts]
        arrays[f"{name}/valid"] = np.concatenate(masks)


def _filled(feature: Feature, parts: Sequence[_Part]) -> np.ndarray:
    """Return numbers of all parts, zeros where there is no value."""
    shape, dtype = tuple(d or 0 for d in feature.shape or ()), np.dtype(feature.dtype)
    values = [np.zeros((rows, *shape), dtype) if column is None else _with_zeros(column) for column, rows in parts]
    return np.concatenate(values) if values else np.zeros((0, *shape), dtype)


def _with_zeros(column: Column) -> np.ndarray:
    if column.valid is not None:
        column.values[~column.valid] = 0
    return column.values


def _regular(name: str, feature: Feature, parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    if feature.dtype not in ("str", "bytes"):
        return {name: _filled(feature, parts)}
    shape = tuple(d or 0 for d in feature.shape or ())
    book = _Book(feature)
    codes = [book.codes([None] * (rows * int(np.prod(shape))) if c is None else c.values.reshape(-1)) for c, rows in parts]
    total = sum(rows for _, rows in parts)
    return {name: np.concatenate([np.zeros(0, np.int32), *codes]).reshape(total, *shape), **book.arrays(name)}


def _ragged(name: str, feature: Feature, parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    """Return the elements of all values, one value after the other, and where each starts."""
    is_text = feature.dtype in ("str", "bytes")
    empty = np.zeros(0, object if is_text else np.dtype(feature.dtype))
    values = [
        empty if value is None or not ok else np.ravel(value)
        for column, rows in parts
        for value, ok in (zip(column.values, column.mask, strict=True) if column else [(None, False)] * rows)
    ]
    starts = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=starts[1:])
    flat = np.concatenate([empty, *values])
    if not is_text:
        return {name: flat, f"{name}/starts": starts}
    book = _Book(feature)
    return {name: book.codes(flat), f"{name}/starts": starts, **book.arrays(name)}


class _Book:
    """Gives each text a number; the empty one, which stands for none, has 0."""

    def __init__(self, feature: Feature) -> None:
        self._is_text = feature.dtype == "str"
        self._known: dict[str | bytes, int] = {"" if self._is_text else b"": 0}

    def codes(self, values: Sequence[str | bytes | None] | np.ndarray) -> np.ndarray:
        known, nothing = self._known, "" if self._is_text else b""
        return np.array([known.setdefault(nothing if v is None else v, len(known)) for v in values], np.int32)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        encoded = [value.encode() if isinstance(value, str) else value for value in self._known]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return {f"{name}/offsets": offsets, f"{name}/bytes": np.frombuffer(b"".join(encoded), np.uint8)}


def _frames(
    store: Store, name: str, parts: Sequence[_Part], rows: Sequence[IndexRow], size: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return where the frame of each step lies, in that size where an episode has it, and the files that it lies in."""
    files: dict[str, int] = {}
    small: set[int] = set()
    result = []
    for (column, count), row in zip(parts, rows, strict=True):
        found = np.zeros(count, FRAME)
        if column is not None:
            derived = [] if size is None else derived_places(row, name, size)
            frames = _places(store, name, row.episode_id, derived or row.frames_of(name), files)
            small |= {files[place.file] for place in derived}
            numbers, valid = column.values, column.mask
            if valid.any() and not (numbers[valid].min() >= 0 and numbers[valid].max() < len(frames)):
                raise CorruptDataError(
                    f"{store.root}: a step of episode {row.episode_id} names a frame of {name!r} past the {len(frames)} that are stored."
                )
            found[valid] = frames[numbers[valid]]
        result.append(found)
    arrays = {name: np.concatenate([np.zeros(0, FRAME), *result])}
    if small:
        arrays[f"{name}//derived"] = np.isin(np.arange(len(files)), list(small))
    return arrays, list(files)


def _places(store: Store, name: str, episode_id: str, places: Sequence[FramesPlace], files: dict[str, int]) -> np.ndarray:
    """Return where each frame of one feature of an episode lies, by number."""
    result = [np.zeros(0, FRAME)]
    stored = 0
    for place in sorted(places, key=lambda place: place.first_frame):
        count = len(place.lengths)
        if place.first_frame != stored:
            raise CorruptDataError(
                f"{store.root}: episode {episode_id} lacks frames {stored} to {place.first_frame} of {name!r}."
            )
        part = np.zeros(count, FRAME)
        in_parquet = -1 - (place.row_group << 31) - (place.first_row + np.arange(count, dtype=np.int64))
        part["offset"] = place.starts if place.offset >= 0 else in_parquet
        part["file"] = files.setdefault(place.file, len(files))
        part["length"], part["crc32c"] = place.lengths, place.crc32c
        result.append(part)
        stored += count
    return np.concatenate(result)
