"""What an open episode has recorded so far, on local disk: its samples survive the death of the process.

An MCAP file (mcap.dev) of chunks with CRCs, one a sync, each with all that is needed to read it. Foxglove opens it as it is.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mcap.data_stream import RecordBuilder
from mcap.records import Channel, Chunk, Header, Message, Schema

from fogx.errors import StorageError, in_one_line
from fogx.feature import Feature
from fogx.storage.files.durable import fsync_folder, make_folders
from fogx.storage.log.rows import plain
from fogx.storage.tables.nested import decode_nested, encode_nested, split_metadata

logger = logging.getLogger("fogx")

SUFFIX = ".mcap"
MAGIC = b"\x89MCAP0\r\n"
EVENTS = "fogx/events"
HEAD = struct.Struct("<qqqB")
"""Before each value: its stamp, when it came, its step, and flags."""
LOOSE, STAMPED, TIMED = 1, 2, 4
"""Flags: it was Python numbers; its stamp was given; times tell the steps."""

SYNC_S = 1.0
"""A journal is on disk up to so many seconds ago."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One value as a journal keeps it; see `Journal.sample`."""

    name: str
    feature: Feature
    stamp_ns: int
    received_ns: int
    row: int
    step: int
    flags: int
    value: np.ndarray | str | bytes


class Journal:
    """Writes one journal; made by `Journal.create`. Methods may be called from any thread, and only by the process that made it.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, handle: int, written: int = 0) -> None:
        self.path = path
        self._handle = handle
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of what is in memory
        self._io = threading.Lock()  # of the file; whoever adds does not wait for it
        self._chunk = RecordBuilder()
        self._unwritten = b"" if written else _header()
        self._declared: set[int] = set()
        self._channels: dict[tuple[str, Feature | None], int] = {}
        self._count = 0
        self._written = written
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def create(cls, folder: str, episode_id: str, align: Mapping[str, Any] | None, metadata: Mapping[str, Any]) -> Journal:
        """Begin the journal of an episode.

        Args:
            folder: Folder of journals; made where there is none.
            episode_id: Id that the episode will have.
            align: How samples are to become steps, as `fogx.Align.to_json` gives it.
            metadata: What was given of the whole episode so far.

        Raises:
            StorageError: It cannot be written there.
        """
        path = os.path.join(folder, episode_id + SUFFIX)
        try:
            make_folders(folder)
            handle = _created(path)
        except OSError as error:
            raise _not_begun(path, error) from error
        journal = cls(path, handle)
        try:
            journal._event("begin", {"align": align, **_plain(metadata)})
            journal._flush()
            fsync_folder(folder)
        except OSError as error:
            journal.close(remove=True)
            raise _not_begun(path, error) from error
        journal._thread = threading.Thread(target=journal._keep, name="fogx journal", daemon=True)
        journal._thread.start()
        return journal

    def sample(
        self, name: str, feature: Feature, stamp_ns: int, received_ns: int, row: int, step: int, flags: int, value: Any
    ) -> None:
        """Append one value; it is on disk after the next `sync`.

        Args:
            name: Its feature.
            feature: What that is with this value.
            stamp_ns: Its time.
            received_ns: When it came.
            row: Number of its sample.
            step: The step that it is of, where times do not say.
            flags: Sum of `LOOSE`, `STAMPED`, `TIMED`.
            value: As a channel keeps it: an array of exactly the feature's dtype, str or bytes.
        """
        data = HEAD.pack(stamp_ns, received_ns, step, flags) + _payload(value)
        self._append(name, feature, row, received_ns, data)

    def metadata(self, metadata: Mapping[str, Any]) -> None:
        """Append what is now said of the whole episode."""
        self._event("metadata", _plain(metadata))

    def segment(self, segment: Mapping[str, Any]) -> None:
        """Append what is now said of one segment, as JSON values; what was said before of the same `number` holds no longer."""
        self._event("segment", segment)

    def _event(self, kind: str, values: Mapping[str, Any]) -> None:
        self._append(EVENTS, None, 0, 0, json.dumps({"kind": kind, **values}).encode())

    def sync(self) -> None:
        """Return when all that was appended before is on disk.

        Raises:
            StorageError: It could not be written. It is kept, and written by the next `sync` that can.
        """
        try:
            self._flush()
        except OSError as error:
            raise StorageError(
                f"{self.path}: the journal could not be written: {in_one_line(error)}. The episode goes on in memory, and the journal "
                "when there is space; should this process die before, what came before the last sync can be recovered."
            ) from error

    def _flush(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._io:
            with self._lock:
                self._unwritten += self._take_chunk()
            if not self._unwritten or self._handle < 0:
                return
            # After what is on disk: what a failed write left is written over.
            os.lseek(self._handle, self._written, os.SEEK_SET)
            left = memoryview(self._unwritten)
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
            self._written, self._unwritten = self._written + len(self._unwritten), b""

    def close(self, *, remove: bool) -> None:
        """End the journal: remove it, durably, once its episode is saved or discarded, or leave it to be recovered."""
        self._stop.set()
        if os.getpid() != self._pid or self._handle < 0:
            return
        if not remove:
            try:
                self.sync()
            except StorageError as error:
                logger.warning("%s", error)
        with self._io:
            if remove:
                try:
                    os.unlink(self.path)
                    fsync_folder(os.path.dirname(self.path))
                except OSError as error:
                    logger.warning("%s could not be removed: %s. recover() will find it saved already.", self.path, error)
            os.close(self._handle)
            self._handle = -1

    def _keep(self) -> None:
        failed = False
        while not self._stop.wait(SYNC_S):
            try:
                self.sync()
                failed = False
            except StorageError as error:
                if not failed:
                    logger.warning("%s", error)
                failed = True

    def _append(self, topic: str, feature: Feature | None, row: int, time_ns: int, data: bytes) -> None:
        with self._lock:
            number = self._channels.setdefault((topic, feature), len(self._channels) + 1)
            if number not in self._declared:
                about = b"" if feature is None else json.dumps(feature.to_dict()).encode()
                Schema(id=number, data=about, encoding="fogx.feature", name=topic).write(self._chunk)
                Channel(id=number, topic=topic, message_encoding="fogx", metadata={}, schema_id=number).write(self._chunk)
                self._declared.add(number)
            at = max(time_ns, 0)
            Message(channel_id=number, log_time=at, data=data, publish_time=at, sequence=row & 0xFFFFFFFF).write(self._chunk)
            self._count += 1

    def _take_chunk(self) -> bytes:
        """Return what came since the last chunk as one, which can be read without the others."""
        if not self._count:
            return b""
        data, record = _ended(self._chunk), RecordBuilder()
        self._count, self._declared = 0, set()
        Chunk("", data, 0, 0, zlib.crc32(data), len(data)).write(record)
        return _ended(record)


def metadata_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that an event of a journal gives."""
    given = {key: base64.b64decode(text) for key, text in event.get("bytes", {}).items()}
    return decode_nested(event.get("values")) | given


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as JSON values; numpy scalars as arrays without dimensions, which keep their dtype."""
    cells, nested = split_metadata(metadata)
    cells = {key: plain(value, key) for key, value in cells.items()}
    given = {key: base64.b64encode(value).decode() for key, value in cells.items() if isinstance(value, bytes)}
    rest = {key: value for key, value in cells.items() if key not in given}
    rest |= {k: np.asarray(v) for k, v in rest.items() if isinstance(v, np.generic) and not isinstance(v, str)}
    return {"values": encode_nested({**rest, **nested}), "bytes": given}


def _created(path: str) -> int:
    """Create a file that nobody else has a lock of; the kernel lets go of it when the process ends, however it ends."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # for a moment another process may look whether it is dead
            if os.fstat(handle).st_nlink:
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # taken for dead, and removed, before it was locked


def _not_begun(path: str, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: the journal of an episode could not be begun: {in_one_line(error)}. Nothing was recorded; the same call can be made "
        "again when there is space and the disk answers."
    )


def _ended(record: RecordBuilder) -> bytes:
    return bytes(record.end())  # type: ignore[no-untyped-call]


def _header() -> bytes:
    record = RecordBuilder()
    Header(profile="fogx", library="fogx").write(record)
    return MAGIC + _ended(record)


def _payload(value: Any) -> bytes:
    if isinstance(value, str):
        return b"S" + value.encode()
    if isinstance(value, bytes):
        return b"B" + value
    if value.dtype == object:
        # Bytes become the text of the same numbers.
        texts = [v if isinstance(v, str) else v.decode("latin-1") for v in value.reshape(-1)]
        return b"J" + json.dumps([list(value.shape), texts]).encode()
    shape = value.shape
    return b"N" + struct.pack(f"<B{len(shape)}q", len(shape), *shape) + np.ascontiguousarray(value).tobytes()
