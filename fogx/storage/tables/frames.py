"""`frames` files: one encoded blob a row, at a byte that is known without opening the parquet footer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError
from fogx.memory import Room
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store
from fogx.storage.tables.guarded import GuardedParquet, readable
from fogx.storage.tables.places import FramesPlace

logger = logging.getLogger("fogx")

ROW_GROUP_BYTES = 16 << 20
"""Row groups are cut when they reach this many bytes of data."""
ROW_GROUP_ROWS = 16_384
"""… or this many rows: the parquet writer starts a new page at 20,000, and a group must be one page."""

FILE_BYTES = 512 << 20
"""A file is closed, and the next begun, past this size."""

_SCHEMA = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("feature", pa.string(), nullable=False),
        pa.field("first_frame", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("timestamp_ns", pa.int64()),
        pa.field("data", pa.binary(), nullable=False),
    ]
)
_DATA = _SCHEMA.get_field_index("data")
_SCHEMA_OF_DATA = pa.schema([_SCHEMA.field(_DATA)])


@dataclass
class _Run:
    episode_id: str
    feature: str
    first_frame: int
    row_group: int
    first_row: int
    blobs: list[bytes]
    times: np.ndarray | None
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    crc32c: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    offset: int = -1


class FramesWriter:
    """Writes one `frames` file; episodes come in order of their ids, features in order of their names."""

    def __init__(self, store: Store, partition: str) -> None:
        self.pointer = new_pointer("frames", partition)
        self.num_bytes = 0
        self._store = store
        self._sink = store.create(self.pointer)
        self._writer = pq.ParquetWriter(
            self._sink,
            _SCHEMA,
            compression="none",
            use_dictionary=["episode_id", "feature"],
            column_encoding={"data": "PLAIN"},
            write_statistics=["episode_id", "feature"],
            data_page_version="1.0",
            data_page_size=1 << 30,
            write_batch_size=ROW_GROUP_ROWS,
        )
        self._done: list[_Run] = []
        self._open: list[_Run] = []
        self._bytes = 0
        self._rows = 0
        self._groups = 0

    def add(
        self, episode_id: str, feature: str, blobs: Sequence[bytes], times: np.ndarray | None, *, first_frame: int = 0
    ) -> None:
        """Append frames of one feature of one episode.

        Args:
            episode_id: The episode.
            feature: The feature.
            blobs: Encoded values in order of their frame number.
            times: `(N,)` int64 ns, or `None`.
            first_frame: Number of the first.
        """
        first = 0
        while first < len(blobs):
            stop, size = first, 0
            while stop < len(blobs) and self._bytes + size < ROW_GROUP_BYTES and self._rows + stop - first < ROW_GROUP_ROWS:
                size += len(blobs[stop])
                stop += 1
            part = None if times is None else times[first:stop]
            number = first_frame + first
            self._open.append(_Run(episode_id, feature, number, self._groups, self._rows, list(blobs[first:stop]), part))
            self._bytes += size
            self._rows += stop - first
            if self._bytes >= ROW_GROUP_BYTES or self._rows >= ROW_GROUP_ROWS:
                self._flush()
            first = stop

    def close(self) -> dict[str, list[FramesPlace]]:
        """Write what is buffered and the footer; return the places of each episode, after reading some back."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._sink.close()
        return self._places()

    def abort(self) -> None:
        """Close the file without caring for its content."""
        for part in (self._writer, self._sink):
            with suppress(pa.ArrowException, OSError, ValueError):
                part.close()

    def _flush(self) -> None:
        runs = self._open
        blobs = [blob for run in runs for blob in run.blobs]
        lengths = np.fromiter(map(len, blobs), np.int64, len(blobs))
        offsets = np.zeros(len(blobs) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        # Piece by piece, as are the checksums: one call for all would keep other threads, which record, waiting for milliseconds.
        joined = memoryview(bytearray(int(offsets[-1])))
        for blob, start, stop in zip(blobs, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            joined[start:stop] = blob
        data = pa.BinaryArray.from_buffers(pa.binary(), len(blobs), [None, pa.py_buffer(offsets), pa.py_buffer(joined)])
        counts = [len(run.blobs) for run in runs]
        numbers = [np.arange(run.first_frame, run.first_frame + len(run.blobs), dtype=np.int32) for run in runs]
        times = [pa.nulls(n, pa.int64()) if r.times is None else pa.array(r.times) for r, n in zip(runs, counts, strict=True)]
        columns = [
            pa.array(np.repeat(np.array([run.episode_id for run in runs], dtype=object), counts), pa.string()),
            pa.array(np.repeat(np.array([run.feature for run in runs], dtype=object), counts), pa.string()),
            pa.array(np.concatenate(numbers)),
            pa.array(np.ones(len(blobs), np.int32)),
            pa.concat_arrays(times),
            data,
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), row_group_size=len(blobs))
        checksums = np.array([google_crc32c.value(blob) for blob in blobs], np.uint32)
        first = 0
        for run, count in zip(runs, counts, strict=True):
            run.lengths = lengths[first : first + count].astype(np.int32)
            run.crc32c = checksums[first : first + count]
            run.blobs, run.times = [], None
            first += count
        self._done += runs
        self.num_bytes += int(lengths.sum())
        self._open, self._bytes, self._rows, self._groups = [], 0, 0, self._groups + 1

    def _places(self) -> dict[str, list[FramesPlace]]:
        if self._done:
            with self._store.open(self.pointer) as file:
                metadata = pq.ParquetFile(file).metadata
            for group in range(self._groups):
                runs = [run for run in self._done if run.row_group == group]
                _locate(metadata.row_group(group).column(_DATA), runs)
                self._verify(runs)
        places: dict[str, list[FramesPlace]] = {}
        for run in self._done:
            place = FramesPlace(
                run.feature, self.pointer, run.row_group, run.first_row, run.first_frame, run.offset, run.lengths, run.crc32c
            )
            places.setdefault(run.episode_id, []).append(place)
        return places

    def _verify(self, runs: list[_Run]) -> None:
        """Read the group's first and last frame where they should lie; forget the offsets where they do not."""
        first, last = runs[0], runs[-1]
        end = last.offset + int(last.lengths.sum(dtype=np.int64)) + 4 * (len(last.lengths) - 1)
        ranges = [(first.offset, first.offset + int(first.lengths[0])), (end - int(last.lengths[-1]), end)]
        try:
            found = [google_crc32c.value(data) for data in self._store.read_ranges(self.pointer, ranges)]
        except CorruptDataError:
            found = []
        if found != [int(first.crc32c[0]), int(last.crc32c[-1])]:
            logger.warning(
                "%s: frames are not where expected in row group %d; they will be read more slowly.", self.pointer, first.row_group
            )
            for run in runs:
                run.offset = -1


class FramesFiles:
    """Writes frames, in the order that `FramesWriter` wants them in, into as many files as they need.

    Attributes:
        files: Pointers of the files begun.
        places: Episode → where its frames lie, of the files that are closed.
    """

    def __init__(self, store: Store, partition: str) -> None:
        self.files: list[str] = []
        self.places: dict[str, list[FramesPlace]] = {}
        self._store = store
        self._partition = partition
        self._writer: FramesWriter | None = None

    def add(
        self, episode_id: str, feature: str, blobs: Sequence[bytes], times: np.ndarray | None = None, *, first_frame: int = 0
    ) -> None:
        """Append frames of one feature of one episode; see `FramesWriter.add`."""
        if not blobs:
            return
        if self._writer is None:
            self._writer = FramesWriter(self._store, self._partition)
            self.files.append(self._writer.pointer)
        self._writer.add(episode_id, feature, blobs, times, first_frame=first_frame)
        if self._writer.num_bytes >= FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Close the file that is open, if one is."""
        if self._writer is not None:
            for episode_id, places in self._writer.close().items():
                self.places.setdefault(episode_id, []).extend(places)
            self._writer = None

    def abort(self) -> None:
        """Close and remove what was written."""
        if self._writer is not None:
            self._writer.abort()
        self._store.remove(self.files)


def read_frames(store: Store, places: Sequence[FramesPlace], numbers: np.ndarray) -> list[bytes]:
    """Return encoded frames of one feature of one episode by number, each checked against its CRC32C.

    Args:
        store: The root's store.
        places: All places of that feature in that episode.
        numbers: `(N,)` frame numbers, in any order.

    Raises:
        CorruptDataError: A file is gone or short, a checksum is wrong, or a number is past the end.
    """
    # Each frame once, however often it is named: a thousand steps of one large frame take one frame's memory.
    numbers, positions = np.unique(np.asarray(numbers, np.int64), return_inverse=True)
    result: list[bytes | None] = [None] * len(numbers)
    for place in places:
        inside = np.flatnonzero((numbers >= place.first_frame) & (numbers < place.first_frame + len(place.lengths)))
        if not len(inside):
            continue
        local = numbers[inside] - place.first_frame
        if place.offset >= 0:
            starts = place.starts[local]
            stops = starts + place.lengths[local]
            data = store.read_ranges(place.file, list(zip(starts.tolist(), stops.tolist(), strict=True)))
        else:
            data = _through_parquet(store, place, local)
        for position, index, blob in zip(inside.tolist(), local.tolist(), data, strict=True):
            if google_crc32c.value(blob) != int(place.crc32c[index]):
                raise CorruptDataError(
                    f"{store.root}: {place.file}: frame {index + place.first_frame} of {place.feature!r} fails its checksum."
                )
            result[position] = blob
    if any(blob is None for blob in result):
        held = sum(len(p.lengths) for p in places)
        raise CorruptDataError(f"{store.root}: a step names a frame past the {held} that are stored.")
    whole = [blob for blob in result if blob is not None]
    return [whole[position] for position in positions.tolist()]


def _locate(chunk: pq.ColumnChunkMetaData, runs: list[_Run]) -> None:
    total = sum(int(run.lengths.sum(dtype=np.int64)) + 4 * len(run.lengths) for run in runs)
    # PLAIN, uncompressed, one page, no levels: the values are the last `total` bytes of the chunk.
    position = chunk.data_page_offset + chunk.total_uncompressed_size - total
    for run in runs:
        run.offset = position + 4
        position += int(run.lengths.sum(dtype=np.int64)) + 4 * len(run.lengths)


def _through_parquet(store: Store, place: FramesPlace, local: np.ndarray) -> list[bytes]:
    what = f"{store.root}: {place.file}"
    with store.open(place.file) as source:
        column = GuardedParquet(source, what).read([place.row_group], ["data"], Room(), _SCHEMA_OF_DATA)["data"]
    with readable(what):
        return [column[place.first_row + int(i)].as_py() for i in local]
