"""The encoded values of an open episode: the last of them in memory and in a journal of their own, the others in sealed files."""

from __future__ import annotations

import base64
import logging
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from fogx.feature import Feature
from fogx.recording.chunks import SUFFIX, ChunkBuilder, header, write_at
from fogx.recording.encoding import Encoding, Frame, Line, by_line
from fogx.storage.files.durable import fsync_folder
from fogx.storage.files.paths import partition_folder
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.files.store import Store
from fogx.storage.tables.frames import FramesWriter
from fogx.storage.tables.pack import Sealed
from fogx.storage.tables.places import FramesPlace

logger = logging.getLogger("fogx")

SEAL_BYTES = 32 << 20
"""Frames are written into a file of their own when there are so many bytes of them."""


class Frames:
    """All encoded values of one episode.

    Args:
        sealer: Writes them into files; `None` where all stay in memory.
        keep: Whether what is sealed stays in the journal too, until `close`.

    Attributes:
        encoding: Encodes them.
        nbytes: Their bytes so far.
    """

    def __init__(self, sealer: FrameSealer | None = None, *, keep: bool = False) -> None:
        self.encoding = Encoding(self._take, self._write)
        self.nbytes = 0
        self._sealer = sealer
        self._keep = keep
        self._closed = False
        self._began: Stopwatch | None = None
        self._lines: dict[str, Line] = {}
        self._parts = [Part(None, 0)]
        self._over: list[Part] = []
        self._sealing = threading.RLock()
        self._folder: tuple[str, str] | None = None

    @classmethod
    def of(cls, store: Store, dataset: str, episode_id: str) -> Frames:
        """Return the frames of a new episode of a root.

        What lies behind a URL may go before it is committed, so there the journal keeps all of it.
        """
        return cls(FrameSealer(store, partition_folder("dataset", dataset), episode_id), keep=not store.is_local)

    def line(self, name: str, feature: Feature) -> Line:
        """Return the values of a feature."""
        if name not in self._lines:
            self._lines[name] = Line(name, feature)
        return self._lines[name]

    def follow(self, folder: str, episode_id: str) -> None:
        """Journal what is not sealed, in files of a folder whose names begin with the id."""
        self._folder = folder, episode_id
        self._parts = [self._part(0)]

    def sync(self) -> None:
        """Return when what is encoded and not sealed is on disk; raise `OSError` where it cannot be."""
        for part in list(self._parts):
            part.sync()

    def seal(self, *, least: int | None = None) -> dict[str, Any] | None:
        """Write what is not sealed into a file, where it is enough; return what `sealed_in` reads.

        The parts of the journal that hold it are removed by the next `clear`, before which this must be on disk.

        Args:
            least: So many bytes are enough; `None` for `SEAL_BYTES`.

        Raises:
            StorageError: It could not be written; it stays in memory and in the journal.
        """
        with self._sealing:
            least = SEAL_BYTES if least is None else least
            if self._sealer is None or self._closed or sum(part.nbytes for part in self._parts) < least:
                return None
            with self.encoding.lock:
                if self._parts[-1].nbytes:
                    self._parts = [*self._parts, self._part(self._parts[-1].number + 1)]
                parts = self._parts[:-1]
            frames = [frame for part in parts for frame in part.held]
            began = self._began or Stopwatch()
            places = self._sealer(frames)
            self._began = began
            lines = []
            with self.encoding.lock:
                for line, mine in by_line(frames):
                    added = [place for place in places if place.feature == line.name]
                    lines.append(_told(line, mine, added))
                    line.places += added
                    line.sealed += len(mine)
                self._parts = self._parts[len(parts) :]
                self._over += parts
            for part in parts:
                part.held = []
            return {"parts": [part.number for part in parts], "lines": lines}

    def clear(self) -> None:
        """Remove the parts of the journal whose frames are sealed, which is on disk."""
        if not self._keep:
            while self._over:
                self._over[0].close(remove=True)
                self._over.pop(0)

    def close(self, *, remove: bool) -> None:
        """End the journal, and remove it or leave it; nothing is sealed any more."""
        self._closed = True
        for part in [*self._over, *self._parts]:
            part.close(remove=remove)

    @contextmanager
    def still(self) -> Iterator[None]:
        """While in it, nothing is sealed."""
        with self._sealing:
            yield

    def values(self, name: str) -> tuple[np.ndarray, list[bytes | None]]:
        """Return the sample of each frame of a feature, and the frame; `None` where it is sealed."""
        with self.encoding.lock:
            line = self._lines[name]
            blobs: list[bytes | None] = [None] * line.sealed
            blobs += [frame.data for part in self._parts for frame in part.held if frame.line is line]
            return np.array(line.rows, np.int64), blobs

    def adopt(self, name: str, feature: Feature, rows: Sequence[int], place: FramesPlace) -> None:
        """Take frames that are sealed already; they follow those that are there, of which all are."""
        line = self.line(name, feature)
        line.rows.extend(rows)
        line.places.append(place)
        line.sealed += len(rows)
        self.nbytes += int(place.lengths.sum())

    def renumber(self, row: Sequence[int]) -> None:
        """Give the samples other numbers, by the old one."""
        with self.encoding.lock:
            for line in self._lines.values():
                line.rows = array("q", [row[number] for number in line.rows])

    def discard(self) -> None:
        """Remove the files of sealed frames."""
        sealed = self.sealed()
        if self._sealer is not None and sealed is not None:
            self._sealer.remove({place.file for place in sealed.places})

    def sealed(self) -> Sealed | None:
        """Return what is sealed so far."""
        places = [place for line in self._lines.values() for place in line.places]
        return Sealed(places, self._began or Stopwatch()) if places else None

    def _part(self, number: int) -> Part:
        return Part(None if self._folder is None else part_path(*self._folder, number), number)

    def _take(self, frame: Frame) -> None:
        self._parts[-1].take(frame)
        self.nbytes += len(frame.data)

    def _write(self) -> None:
        for part in list(self._parts):
            with suppress(OSError):  # `sync` tells of it, and makes up for it
                part.write()


class Part:
    """A part of the journal of frames: what is in one sealed file afterwards.

    Args:
        path: Where it is written once there is something to write; `None` keeps it in memory alone.
        number: How many were begun before.

    Attributes:
        held: Its frames.
        nbytes: Their bytes.
    """

    def __init__(self, path: str | None, number: int) -> None:
        self.held: list[Frame] = []
        self.nbytes = 0
        self.number = number
        self._path = path
        self._pid = os.getpid()
        self._io = threading.Lock()
        self._handle = -1
        self._written = self._end = self._durable = 0
        self._closed = False

    def take(self, frame: Frame) -> None:
        """Add a frame."""
        self.held.append(frame)
        self.nbytes += len(frame.data)

    def write(self) -> None:
        """Write what was added; raise `OSError` where that fails, and go on from there at the next call."""
        if self._path is None or os.getpid() != self._pid:
            return
        with self._io:
            held = self.held
            if self._closed or self._written == len(held):
                return
            if self._handle < 0:
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            if not self._end:
                self._end = write_at(self._handle, 0, header())
            while self._written < len(held):
                frame, chunk = held[self._written], ChunkBuilder()
                chunk.add(frame.line.name, frame.line.feature, frame.row, frame.stamp_ns, frame.data)
                self._end = write_at(self._handle, self._end, chunk.take())
                self._written += 1

    def sync(self) -> None:
        """Return when what was added before is on disk; raise `OSError` where it cannot be."""
        self.write()
        if self._handle < 0 or self._durable == self._end or os.getpid() != self._pid:
            return
        end, first = self._end, not self._durable
        try:
            os.fsync(self._handle)
            if first:
                fsync_folder(os.path.dirname(str(self._path)))
        except OSError:
            with self._io:  # what the kernel could not write it may forget: all is written anew
                self._written = self._end = self._durable = 0
            raise
        self._durable = end

    def close(self, *, remove: bool) -> None:
        """End it; nothing is written any more."""
        if os.getpid() != self._pid:
            return
        with self._io:
            self._closed = True
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
                if remove:
                    try:
                        os.unlink(str(self._path))
                    except OSError as error:
                        logger.warning("%s could not be removed: %s. recover() will.", self._path, error)


class FrameSealer:
    """Writes frames of one episode into files of their own; nothing of them is visible before a commit.

    Args:
        store: The write root.
        partition: Folder of the files.
        episode_id: The episode.
    """

    def __init__(self, store: Store, partition: str, episode_id: str) -> None:
        self._store = store
        self._partition = partition
        self._id = episode_id

    def __call__(self, frames: Sequence[Frame]) -> list[FramesPlace]:
        """Write them, in order within each line, and return their places once they are durable.

        Raises:
            StorageError: They could not be written; nothing is left of them.
        """
        with self._store.writing(f"the frames of episode {self._id} so far"):
            writer = FramesWriter(self._store, self._partition)
            try:
                for line, mine in by_line(frames):
                    times = np.array([frame.stamp_ns for frame in mine], np.int64)
                    writer.add(self._id, line.name, [frame.data for frame in mine], times, first_frame=line.sealed)
                places = writer.close()[self._id]
                self._store.sync([writer.pointer])
            except BaseException:
                writer.abort()
                self._store.remove([writer.pointer])
                raise
        return places

    def remove(self, pointers: Iterable[str]) -> None:
        """Remove files that it wrote, and that no commit names."""
        self._store.remove(pointers)


def part_path(folder: str, episode_id: str, number: int) -> str:
    """Return where a part of the journal of frames lies."""
    return os.path.join(folder, f"{episode_id}.frames-{number}{SUFFIX}")


def sealed_in(event: Mapping[str, Any]) -> list[tuple[Feature, np.ndarray, list[FramesPlace]]]:
    """Return (feature, number of the sample of each frame, places) of each line that `Frames.seal` told of."""
    return [
        (
            Feature.from_dict(line["feature"]),
            _array(line["rows"], "<i8"),
            [
                FramesPlace(**{**place, "lengths": _array(place["lengths"], "<i4"), "crc32c": _array(place["crc32c"], "<u4")})
                for place in line["places"]
            ],
        )
        for line in event["lines"]
    ]


def _told(line: Line, frames: Sequence[Frame], places: Sequence[FramesPlace]) -> dict[str, Any]:
    return {
        "feature": line.feature.to_dict(),
        "rows": _text(np.array([frame.row for frame in frames], "<i8")),
        "places": [
            {
                "feature": place.feature,
                "file": place.file,
                "row_group": place.row_group,
                "first_row": place.first_row,
                "first_frame": place.first_frame,
                "offset": place.offset,
                "lengths": _text(place.lengths.astype("<i4")),
                "crc32c": _text(place.crc32c.astype("<u4")),
            }
            for place in places
        ],
    }


def _text(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def _array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).astype(dtype[1:])
