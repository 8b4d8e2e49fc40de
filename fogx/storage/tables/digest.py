"""The checksum of an episode: of its values, the same wherever it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fogx.errors import CorruptDataError
from fogx.feature import Feature
from fogx.protocols import Column, EpisodeData
from fogx.storage.tables.places import FramesPlace


def checksum(values: bytes, frames: Sequence[FramesPlace]) -> bytes:
    """Return the 16 bytes that an index row keeps of an episode.

    Args:
        values: What `digest` gave.
        frames: All places of its frames, in order.
    """
    total = hashlib.blake2b(values, digest_size=16)
    for place in frames:
        total.update(place.lengths.tobytes() + place.crc32c.tobytes())
    return total.digest()


def digest(data: EpisodeData) -> bytes:
    """Hash schema, times and every value kept in `steps`, and which steps have frames; frames join by their CRC32Cs."""
    total = hashlib.blake2b(data.schema.schema_id.encode(), digest_size=16)
    total.update(data.num_steps.to_bytes(8, "little"))
    total.update(b"" if data.timestamps_ns is None else np.ascontiguousarray(data.timestamps_ns, "<i8").tobytes())
    for name, feature in data.schema.items():
        column = data.columns[name]
        total.update(b"" if column.valid is None else np.packbits(column.valid).tobytes())
        if not feature.in_frames:
            _update(total, column, feature)
    return total.digest()


def _update(total: Any, column: Column, feature: Feature) -> None:
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
            raise CorruptDataError(f"a value of type {type(value).__name__} stands in a {feature.describe()} column.")
        total.update(len(data).to_bytes(8, "little") + data)
