"""What processes that died were recording: found by their journals, saved or discarded."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import platformdirs
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Message
from mcap.records import Schema as TopicSchema
from mcap.stream_reader import StreamReader, breakup_chunk

from fogx.align.policy import Align
from fogx.feature import Feature
from fogx.protocols import object_array
from fogx.recording.episode import Episode
from fogx.recording.journal import EVENTS, HEAD, MAGIC, SUFFIX, Journal, Recorded, metadata_of
from fogx.recording.sealing import seal
from fogx.recording.segments import Mark
from fogx.storage.files.paths import check_inside
from fogx.storage.files.store import Store
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.tables.guarded import readable

logger = logging.getLogger("fogx")

_UNREADABLE = (McapError, ValueError, LookupError, TypeError, AttributeError, struct.error, MemoryError, EOFError, OSError)


@dataclass
class Left:
    """A journal and what could be read of it.

    Args:
        path: The file.
        about: What was said when it was begun; empty where that cannot be read.
        metadata: Episode metadata that was given.
        segments: Number → segment of those that were begun.
        unread: Bytes that could not be read.
        count: Values that could.
    """

    path: str
    about: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    segments: dict[int, Mark] = field(default_factory=dict)
    unread: int = 0
    count: int = 0

    @property
    def episode_id(self) -> str:
        """Id that the episode has, or will have."""
        return os.path.basename(self.path)[: -len(SUFFIX)]


def journals_of(store: Store) -> str:
    """Return the folder of the journals of a root: below it, or for remote roots below the user's state on this machine.

    Raises:
        CorruptDataError: It is a link that leads out of the root.
    """
    if store.is_local:
        return check_inside(store.root, os.path.join(store.root, "journals"))
    name = hashlib.blake2b(store.root.encode(), digest_size=8).hexdigest()
    return os.path.join(platformdirs.user_state_dir("fogx"), "journals", name)


def tell_of_left(store: Store) -> None:
    """Log one line where recordings of dead processes wait to be recovered."""
    dead = 0
    for path in _journals(journals_of(store)):
        try:
            os.close(_locked(path))
            dead += 1
        except OSError:
            continue
    if dead:
        logger.warning(
            "%s: %d recording(s) were open when their process died; recover() saves what is left of them.", store.root, dead
        )


def recover(
    store: Store, writable: Callable[[], EpisodeLog], dataset: str, *, discard: bool = False, dry_run: bool = False
) -> pd.DataFrame:
    """Save or discard what dead processes recorded; see `Dataset.recover`."""
    rows = []
    for path in _journals(journals_of(store)):
        left = Left(path)
        try:
            handle = _locked(path)
        except OSError:
            with suppress(FileNotFoundError):  # saved in this moment
                rows.append({"episode_id": left.episode_id, "bytes": os.path.getsize(path), "outcome": "recording"})
            continue
        size = os.fstat(handle).st_size
        journal = Journal(path, handle, size)
        outcome = "left"
        try:
            values = list(read(left))
            if not dry_run:
                outcome = "discarded" if discard else _saved(store, writable, dataset, left, values, journal)
                journal.close(remove=True)
        finally:
            journal.close(remove=False)
        began = pd.to_datetime(values[0].received_ns) if values else None
        row = {"episode_id": left.episode_id, "began": began, "values": left.count, "bytes": size, "unread": left.unread}
        rows.append({**row, "outcome": outcome})
    return pd.DataFrame(rows, columns=["episode_id", "began", "values", "bytes", "unread", "outcome"])


def read(left: Left) -> Iterator[Recorded]:
    """Yield the values of a journal in the order in which they came, and note what else it says.

    Chunks whose CRC is wrong, and what stands after the last whole one, are counted in `left.unread`.
    """
    with open(left.path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        good = len(MAGIC)
        if file.read(len(MAGIC)) != MAGIC:
            left.unread = size
            return
        stream = StreamReader(cast(IO[bytes], _Bounded(file, size)), skip_magic=True, emit_chunks=True, record_size_limit=size)
        records = stream.records
        while True:
            try:
                record = next(records, None)
            except _UNREADABLE:
                break
            if record is None:
                break
            end = file.tell()
            if isinstance(record, Chunk):
                try:
                    found = list(_values(record, left))
                except _UNREADABLE:
                    left.unread += end - good
                    found = []
                left.count += len(found)
                yield from found
            good = end
        left.unread += size - good


def _values(chunk: Chunk, left: Left) -> Iterator[Recorded]:
    if chunk.compression or zlib.crc32(chunk.data) != chunk.uncompressed_crc:
        raise ValueError("the CRC is wrong")
    topics: dict[int, tuple[str, Feature | None]] = {}
    features: dict[int, Feature | None] = {}
    for record in breakup_chunk(chunk):
        if isinstance(record, TopicSchema):
            features[record.id] = Feature.from_dict(json.loads(record.data)) if record.data else None
        elif isinstance(record, Channel):
            topics[record.id] = record.topic, features[record.schema_id]
        elif isinstance(record, Message):
            topic, feature = topics[record.channel_id]
            if topic == EVENTS:
                event = json.loads(record.data)
                if event["kind"] == "segment":
                    mark = Mark.from_event(event)
                    left.segments[mark.number] = mark
                    continue
                left.about = event if event["kind"] == "begin" else left.about
                left.metadata |= metadata_of(event)
                continue
            if feature is None:
                raise ValueError("a value of no feature")
            stamp, received, step, flags = HEAD.unpack_from(record.data)
            value = _value(record.data[HEAD.size :], str(feature.dtype))
            yield Recorded(topic, feature, stamp, received, record.sequence, step, flags, value)


def _value(data: bytes, dtype: str) -> np.ndarray | str | bytes:
    kind, rest = data[:1], data[1:]
    if kind == b"S":
        return rest.decode()
    if kind == b"B":
        return rest
    if kind == b"J":
        shape, texts = json.loads(rest)
        return object_array([text.encode("latin-1") for text in texts] if dtype == "bytes" else texts).reshape(shape)
    (ndim,) = struct.unpack_from("<B", rest)
    shape = struct.unpack_from(f"<{ndim}q", rest, 1)
    return np.frombuffer(rest, dtype, offset=1 + 8 * ndim).reshape(shape)


def _saved(
    store: Store, writable: Callable[[], EpisodeLog], dataset: str, left: Left, values: list[Recorded], journal: Journal
) -> str:
    """Save an episode, unless it was saved already and only its journal not removed; return what was done."""
    if writable().rows["episode_id"].index(left.episode_id).as_py() >= 0:
        return "saved before"
    if not values:
        return "empty"
    save = functools.partial(seal, store, writable, dataset, left.episode_id)
    with readable(left.path):
        align = None if left.about.get("align") is None else Align.from_json(left.about["align"])
        episode = Episode(save, episode_id=left.episode_id, metadata=left.metadata, align=align)
        episode.take_back(values, journal, left.segments.values())
    episode.close({"interrupted": "process died"})
    return "saved"


def _journals(folder: str) -> list[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locked(path: str) -> int:
    """Return a handle of a journal that nobody else has; raise `OSError` where its process lives."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


class _Bounded:
    """A file of which no more is asked than there is: a damaged length must not take memory."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size

    def read(self, length: int = -1) -> bytes:
        if length < 0 or length > self._size - self._file.tell():
            raise EOFError
        return bytes(self._file.read(length))
