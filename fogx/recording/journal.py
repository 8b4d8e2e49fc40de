"""What an open episode has recorded so far, on local disk: its samples survive the death of the process."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import platformdirs

from fogx.errors import StorageError, in_one_line
from fogx.feature import Feature
from fogx.protocols import object_array
from fogx.recording.chunks import SUFFIX, ChunkBuilder, header, write_at
from fogx.recording.frames import Frames
from fogx.settings import config
from fogx.storage.files.durable import fsync_folder, make_folders
from fogx.storage.files.paths import check_inside
from fogx.storage.files.store import Store
from fogx.storage.log.rows import plain
from fogx.storage.tables.nested import decode_nested, encode_nested, split_metadata

logger = logging.getLogger("fogx")

EVENTS = "fogx/events"
SAMPLES = "fogx/samples"
_SAMPLES = struct.Struct("<qqB")
_COUNT = struct.Struct("<q")
_STAMPED, _TIMED = 1, 2


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples that came one after the other.

    Args:
        first: Number of the first.
        stamps_ns: `(N,)` int64, their times.
        received_ns: `(N,)` int64, when each came.
        steps: `(N,)` int64, the step that each is of, where times do not say.
        stamped: Whether their stamps were given.
        timed: Whether times tell the steps.
    """

    first: int
    stamps_ns: np.ndarray
    received_ns: np.ndarray
    steps: np.ndarray
    stamped: bool
    timed: bool


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one feature, in order, that are not in `frames`.

    Args:
        name: The feature's name.
        feature: What it is with the last of them.
        rows: `(N,)` int64, number of the sample of each.
        values: `(N, *shape)` numbers, or a list of arrays, str or bytes.
    """

    name: str
    feature: Feature
    rows: np.ndarray
    values: np.ndarray | Sequence[Any]


class Journal:
    """Writes one journal; made by `Journal.create`. Methods may be called from any thread, and only by the process that made it.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, handle: int, written: int = 0) -> None:
        self.path = path
        self._handle = handle
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of the events
        self._turn = threading.Lock()  # who has it may wait for whoever adds
        self._io = threading.Lock()  # of the file; nobody waits for anybody with it
        self._events: list[bytes] = []
        self._news: Callable[[], Sequence[Rows | Values]] = list
        self._frames = Frames()
        self._unwritten = b"" if written else header()
        self._written = written
        self._stop = threading.Event()

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
        return journal

    def follow(self, news: Callable[[], Sequence[Rows | Values]], frames: Frames) -> None:
        """Write what is recorded from here on, each `fogx.config().journal_sync_s`, in a thread of its own.

        Args:
            news: Returns what was recorded since it was called last.
            frames: What goes to `frames` files, and is sealed as it goes.
        """
        self._news, self._frames = news, frames
        frames.follow(os.path.dirname(self.path), os.path.basename(self.path)[: -len(SUFFIX)])
        threading.Thread(target=self._keep, name="fogx journal", daemon=True).start()

    def metadata(self, metadata: Mapping[str, Any]) -> None:
        """Append what is now said of the whole episode; what was said before under other names still holds."""
        self._event("metadata", _plain(metadata))

    def segment(self, segment: Mapping[str, Any]) -> None:
        """Append what is now said of one segment, as JSON values; what was said before of the same `number` holds no longer."""
        self._event("segment", segment)

    def _event(self, kind: str, values: Mapping[str, Any]) -> None:
        data = json.dumps({"kind": kind, **values}).encode()
        with self._lock:
            self._events.append(data)

    def sync(self) -> None:
        """Return when all that was appended before, and all frames that are encoded, are on disk.

        Raises:
            StorageError: It could not be written. It is kept, and written by the next `sync` that can.
        """
        try:
            self._frames.sync()
            self._flush()
        except OSError as error:
            raise StorageError(
                f"{self.path}: the journal could not be written: {in_one_line(error)}. The episode goes on in memory, and the journal "
                "when there is space; should this process die before, what came before the last sync can be recovered."
            ) from error

    def seal(self, *, least: int | None = None) -> None:
        """Write frames into a file of their own, where there are enough, and take them out of the journal.

        Args:
            least: As for `Frames.seal`.

        Raises:
            StorageError: They could not be written; they stay in memory and in the journal.
        """
        event = self._frames.seal(least=least)
        if event is not None:
            self._event("sealed", event)
            self.sync()  # before what it replaces is removed
            self._frames.clear()

    def _flush(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._turn:
            self._unwritten += self._take_chunk()
            with self._io:
                if not self._unwritten or self._handle < 0:
                    return
                write_at(self._handle, self._written, self._unwritten)
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
        self._frames.close(remove=remove)
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
        while not self._stop.wait(config().journal_sync_s):
            try:
                self.sync()
                self.seal()
                failed = False
            except Exception as error:  # whatever it is, the next second may be better
                if not failed:
                    logger.warning("%s", error)
                failed = True

    def _take_chunk(self) -> bytes:
        """Return what came since the last chunk as one, which can be read without the others."""
        chunk = ChunkBuilder()
        with self._lock:
            events, self._events = self._events, []
        # An event tells of samples that came before it, so these are looked for afterwards.
        for news in self._news():
            if isinstance(news, Rows):
                flags = _STAMPED * news.stamped + _TIMED * news.timed
                data = _SAMPLES.pack(news.first, len(news.stamps_ns), flags)
                data += b"".join(_int64(numbers) for numbers in (news.stamps_ns, news.received_ns, news.steps))
                chunk.add(SAMPLES, None, news.first, int(news.received_ns[0]), data)
            else:
                data = _COUNT.pack(len(news.rows)) + _int64(news.rows) + _packed(news.values)
                chunk.add(news.name, news.feature, int(news.rows[0]), 0, data)
        for event in events:
            chunk.add(EVENTS, None, 0, 0, event)
        return chunk.take()


def journals_of(store: Store) -> str:
    """Return the folder of the journals of a root: below it, or for remote roots below the user's state on this machine.

    Raises:
        CorruptDataError: It is a link that leads out of the root.
    """
    if store.is_local:
        return check_inside(store.root, os.path.join(store.root, "journals"))
    name = hashlib.blake2b(store.root.encode(), digest_size=8).hexdigest()
    return os.path.join(platformdirs.user_state_dir("fogx"), "journals", name)


def metadata_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that an event of a journal gives."""
    given = {key: base64.b64decode(text) for key, text in event.get("bytes", {}).items()}
    return decode_nested(event.get("values")) | given


def rows_of(data: bytes) -> Rows:
    """Return what an entry of `SAMPLES` holds."""
    first, count, flags = _SAMPLES.unpack_from(data)
    stamps, received, steps = np.frombuffer(data, "<i8", offset=_SAMPLES.size).reshape(3, count)
    return Rows(first, stamps, received, steps, bool(flags & _STAMPED), bool(flags & _TIMED))


def values_of(name: str, feature: Feature, data: bytes) -> Values:
    """Return what an entry of a feature holds."""
    (count,) = _COUNT.unpack_from(data)
    rows = np.frombuffer(data, "<i8", count, _COUNT.size)
    rest = memoryview(data)[_COUNT.size + 8 * count :]
    values: np.ndarray | list[Any]
    if bytes(rest[:1]) == b"N":
        values = np.frombuffer(rest[1:], str(feature.dtype)).reshape(count, *_sizes(feature))
    else:
        values, rest = [], rest[1:]
        while rest:
            (size,) = _COUNT.unpack_from(rest)
            values.append(_value(bytes(rest[_COUNT.size : _COUNT.size + size]), str(feature.dtype)))
            rest = rest[_COUNT.size + size :]
    if len(values) != count:
        raise ValueError("a value is missing")
    return Values(name, feature, rows, values)


def _sizes(feature: Feature) -> list[int]:
    return [size for size in feature.shape or () if size is not None]


def _packed(values: np.ndarray | Sequence[Any]) -> bytes:
    if isinstance(values, np.ndarray):
        return b"N" + np.ascontiguousarray(values).tobytes()
    payloads = [_payload(value) for value in values]
    return b"L" + b"".join(part for payload in payloads for part in (_COUNT.pack(len(payload)), payload))


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


def _int64(numbers: np.ndarray) -> bytes:
    return np.ascontiguousarray(numbers, "<i8").tobytes()


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
