"""The checksum of an episode: of its values, the same wherever it is stored."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fogx.errors import CorruptDataError
from fogx.feature import Schema
from fogx.protocols import Column, EpisodeData
from fogx.storage.tables.places import FramesPlace


def checksum(values: bytes, frames: Sequence[FramesPlace]) -> bytes:
    """Return the 16 bytes that an index row keeps of an episode; into how many places its frames are cut does not matter.

    Args:
        values: What `digest` gave.
        frames: All places of its frames, in order.
    """
    total = hashlib.blake2b(values, digest_size=16)
    for _, places in itertools.groupby(frames, key=lambda place: place.feature):
        mine = list(places)
        for arrays in ([place.lengths for place in mine], [place.crc32c for place in mine]):
            total.update(np.concatenate(arrays).tobytes())
    return total.digest()


def is_checksum(stored: bytes, values: bytes, frames: Sequence[FramesPlace]) -> bool:
    """Return whether this is what an index row keeps of an episode; see `checksum`.

    Rows of before hashed place by place, which differs where frames of one feature lie in several places.
    """
    by_place = hashlib.blake2b(values, digest_size=16)
    for place in frames:
        by_place.update(place.lengths.tobytes() + place.crc32c.tobytes())
    return stored in (checksum(values, frames), by_place.digest())


def digest(data: EpisodeData) -> bytes:
    """Hash schema, times and every value kept in `steps` and `streams`, and which rows have which frames; frames join by their
    CRC32Cs."""
    total = hashlib.blake2b(data.schema.schema_id.encode(), digest_size=16)
    total.update(data.num_steps.to_bytes(8, "little"))
    total.update(b"" if data.timestamps_ns is None else _int64(data.timestamps_ns))
    _columns(total, data.schema, data.columns)
    if data.samples is not None:
        total.update(_int64(data.samples.stamps_ns))
        total.update(b"" if data.samples.received_ns is None else _int64(data.samples.received_ns))
        total.update(json.dumps(data.samples.align, sort_keys=True).encode())
        _columns(total, data.schema, data.samples.columns)
    return total.digest()


def _columns(total: Any, schema: Schema, columns: Mapping[str, Column]) -> None:
    for name, feature in schema.items():
        column = columns[name]
        total.update(b"" if column.valid is None else np.packbits(column.valid).tobytes())
        if not feature.in_frames:
            _update(total, column)
        elif column.frames is not None:
            total.update(_int64(column.frames[column.mask]))


def _int64(numbers: np.ndarray) -> bytes:
    return np.ascontiguousarray(numbers, "<i8").tobytes()


def _update(total: Any, column: Column) -> None:
    values = column.values
    if values.dtype != object:
        if column.valid is not None:
            values = values.copy()
            values[~column.valid] = 0
        total.update(np.ascontiguousarray(values).tobytes())
        return
    kept = values if column.valid is None else values[column.valid]
    for value in kept.reshape(-1):
        data = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None
        if data is None and isinstance(value, np.ndarray):
            data = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        if data is None:
            raise CorruptDataError(f"a value of type {type(value).__name__} stands among values of another type.")
        total.update(len(data).to_bytes(8, "little") + data)
