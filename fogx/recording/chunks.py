"""Files of a journal: MCAP (mcap.dev) of chunks with CRCs, each with all that is needed to read it. Foxglove opens them as they are."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from mcap.data_stream import RecordBuilder
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Header, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

from fogx.feature import Feature

SUFFIX = ".mcap"
_MAGIC = b"\x89MCAP0\r\n"

UNREADABLE = (McapError, ValueError, LookupError, TypeError, AttributeError, struct.error, MemoryError, EOFError, OSError)
"""What damage makes of a file that is read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a chunk.

    Args:
        topic: What it is about.
        feature: What the topic's feature is; `None` for what is of none.
        number: As it was given.
        data: As it was given.
    """

    topic: str
    feature: Feature | None
    number: int
    data: bytes


class ChunkBuilder:
    """Collects messages of the next chunk."""

    def __init__(self) -> None:
        self._records = RecordBuilder()
        self._numbers: dict[tuple[str, Feature | None], int] = {}

    def add(self, topic: str, feature: Feature | None, number: int, time_ns: int, data: bytes) -> None:
        """Append a message, and what its topic is where this chunk does not say so yet."""
        key = (topic, feature)
        if key not in self._numbers:
            count = self._numbers[key] = len(self._numbers) + 1
            about = b"" if feature is None else json.dumps(feature.to_dict()).encode()
            Schema(id=count, data=about, encoding="fogx.feature", name=topic).write(self._records)
            Channel(id=count, topic=topic, message_encoding="fogx", metadata={}, schema_id=count).write(self._records)
        at, sequence = max(time_ns, 0), number & 0xFFFFFFFF
        Message(channel_id=self._numbers[key], log_time=at, data=data, publish_time=at, sequence=sequence).write(self._records)

    def take(self) -> bytes:
        """Return what was added as one chunk, which can be read without others, and begin the next."""
        if not self._numbers:
            return b""
        data, record = _ended(self._records), RecordBuilder()
        self._numbers = {}
        Chunk("", data, 0, 0, zlib.crc32(data), len(data)).write(record)
        return _ended(record)


def header() -> bytes:
    """Return how a file begins."""
    record = RecordBuilder()
    Header(profile="fogx", library="fogx").write(record)
    return _MAGIC + _ended(record)


def write_at(handle: int, position: int, data: bytes) -> int:
    """Write all of the data at a position, over what a failed write left there, and return where it ends."""
    os.lseek(handle, position, os.SEEK_SET)
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
    return position + len(data)


class ChunkReader:
    """Reads a file chunk by chunk.

    Args:
        path: The file.

    Attributes:
        unread: Bytes that could not be read so far: chunks whose CRC is wrong, and what stands after the last whole one.
        damaged: Whether more is wrong than an end that was not written whole.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.unread = 0
        self.damaged = False
        self._size = 0

    def __iter__(self) -> Iterator[list[Entry]]:
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            good = len(_MAGIC)
            if file.read(len(_MAGIC)) != _MAGIC:
                self.unread, self.damaged = size, size >= len(_MAGIC)
                return
            bounded = cast(IO[bytes], _Bounded(file, size))
            records = StreamReader(bounded, skip_magic=True, emit_chunks=True, record_size_limit=size).records
            while True:
                try:
                    record = next(records, None)
                except UNREADABLE:
                    break
                if record is None:
                    break
                end = file.tell()
                if isinstance(record, Chunk):
                    self._size = end - good
                    try:
                        entries = _entries(record)
                    except UNREADABLE:
                        self.refuse()
                    else:
                        yield entries
                good = end
            self.unread += size - good

    def refuse(self) -> None:
        """Count the chunk that was read last among what could not be read."""
        self.unread += self._size
        self.damaged = True


def _entries(chunk: Chunk) -> list[Entry]:
    if chunk.compression or zlib.crc32(chunk.data) != chunk.uncompressed_crc:
        raise ValueError("the CRC is wrong")
    topics: dict[int, tuple[str, Feature | None]] = {}
    features: dict[int, Feature | None] = {}
    entries = []
    for record in breakup_chunk(chunk):
        if isinstance(record, Schema):
            features[record.id] = Feature.from_dict(json.loads(record.data)) if record.data else None
        elif isinstance(record, Channel):
            topics[record.id] = record.topic, features[record.schema_id]
        elif isinstance(record, Message):
            entries.append(Entry(*topics[record.channel_id], record.sequence, record.data))
    return entries


def _ended(record: RecordBuilder) -> bytes:
    return bytes(record.end())  # type: ignore[no-untyped-call]


class _Bounded:
    """A file of which no more is asked than there is: a damaged length must not take memory."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size

    def read(self, length: int = -1) -> bytes:
        if length < 0 or length > self._size - self._file.tell():
            raise EOFError
        return bytes(self._file.read(length))
