"""Looks at data files that may be damaged, and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import CorruptDataError
from fogx.feature import Schema
from fogx.memory import Room
from fogx.storage.files.store import Store
from fogx.storage.tables.guarded import GuardedParquet
from fogx.storage.tables.places import FramesPlace, StepsPlace
from fogx.storage.tables.segments import fits
from fogx.storage.tables.steps import steps_schema

UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading damaged bytes raises. `CorruptDataError` is among them."""

_MAGIC = b"PAR1"


class DamagedError(Exception):
    """A file is not what it should be.

    Args:
        kind: A word or two of the closed list that `check` gives.
        what: A sentence.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind, self.what = kind, what


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the content of a parquet file held in memory, page checksums verified.

    Raises:
        DamagedError: It cannot be read.
    """
    check_ends(data[:4], data[-4:])
    with _reading():
        parquet = GuardedParquet(data, "it", checksums=True)
        table = parquet.read(range(len(parquet.group_rows)), columns, Room())
        table.validate(full=True)
    return table


@contextmanager
def opened(store: Store, pointer: str) -> Iterator[tuple[GuardedParquet, int]]:
    """Open a data file; yield it and its length in bytes.

    Raises:
        DamagedError: It is not there, has no end, or cannot be opened.
    """
    try:
        file = store.open(pointer)
    except CorruptDataError as error:
        raise DamagedError("lost", "The file is not there, though episodes need it.") from error
    with file:
        size = file.seek(0, 2)
        file.seek(max(size - 4, 0))
        tail = file.read(4)
        file.seek(0)
        check_ends(file.read(4), tail)
        with _reading():
            parquet = GuardedParquet(file, "it", checksums=True)
        yield parquet, size


def read_group(store: Store, pointer: str, group: int) -> pa.Table:
    """Return one row group of a data file, every column, page checksums verified.

    Raises:
        DamagedError: It cannot be read.
    """
    with opened(store, pointer) as (parquet, _), _reading():
        table = parquet.read([group], None, Room())
        table.validate(full=True)
    return table


def check_steps_place(
    parquet: GuardedParquet, place: StepsPlace, episode_id: str, schema: Schema, in_steps: Collection[str]
) -> None:
    """Compare a place with the file's footer.

    Raises:
        DamagedError: The file holds other columns, fewer rows, or other episodes there.
    """
    family = place.file.partition("/")[0]
    expected = steps_schema(schema, family, in_steps if family == "streams" else ())
    found = parquet.schema
    if not found.equals(expected) or (found.metadata or {}).get(b"fogx.schema_id") != schema.schema_id.encode():
        raise DamagedError("wrong content", "The file holds other columns than those of the episode's schema.")
    _check_group(parquet, place.row_group, place.first_row, place.num_rows, episode_id)


def check_frames_place(parquet: GuardedParquet, size: int, place: FramesPlace, episode_id: str) -> None:
    """Compare a place with the file's footer and length.

    Raises:
        DamagedError: The file holds fewer rows, other episodes there, or its frames lie elsewhere.
    """
    if len(place.lengths) != len(place.crc32c) or (place.lengths < 0).any():
        raise DamagedError("wrong count", "The index gives a checksum to some other number of frames.")
    _check_group(parquet, place.row_group, place.first_row, len(place.lengths), episode_id)
    total = int((place.lengths.astype(np.int64) + 4).sum())
    if place.offset >= 0:
        with _reading():
            chunk = parquet.chunk(place.row_group, "data")
        stop = chunk.start + chunk.stored
        if not chunk.start < place.offset <= place.offset - 4 + total <= min(stop, size):
            raise DamagedError("wrong content", "The frames do not lie where the index says.")


def check_segments(store: Store, pointer: str, episode_ids: Sequence[str]) -> None:
    """Look at the ends and the footer of a `segments` file.

    Raises:
        DamagedError: It is not there, cannot be opened, or holds other columns or episodes.
    """
    with opened(store, pointer) as (parquet, _):
        if not fits(parquet.schema):
            raise DamagedError("wrong content", "The file holds other columns than those of segments.")
        with _reading():
            bounds = [parquet.bounds(group, "episode_id") for group in range(len(parquet.group_rows))]
    out = [i for i in episode_ids if not any(found is None or found[0] <= i <= found[1] for found in bounds)]
    if out:
        raise DamagedError(
            "wrong content", f"The file holds no segments of {len(out)} of the {len(episode_ids)} episodes that name it."
        )


def check_frames(table: pa.Table, place: FramesPlace, episode_id: str) -> list[bytes]:
    """Return the frames of a place, each checked against its CRC32C.

    Args:
        table: The place's row group.
        place: The place.
        episode_id: The episode.

    Raises:
        DamagedError: They are other frames, or fail their checksums.
    """
    rows = table.slice(place.first_row, len(place.lengths))
    expected = {"episode_id": episode_id, "feature": place.feature, "num_frames": 1}
    first = np.arange(place.first_frame, place.first_frame + len(place.lengths))
    if not all(_only(rows[name], value) for name, value in expected.items()) or rows["first_frame"].to_pylist() != first.tolist():
        raise DamagedError("wrong content", "The rows are those of other frames.")
    blobs: list[bytes] = rows["data"].to_pylist()
    wrong = [
        i for i, (blob, crc) in enumerate(zip(blobs, place.crc32c.tolist(), strict=True)) if google_crc32c.value(blob) != crc
    ]
    if wrong:
        number = place.first_frame + wrong[0]
        raise DamagedError(
            "checksum", f"{len(wrong)} frames of {place.feature!r} fail their checksums; the first is frame {number}."
        )
    return blobs


def check_steps(table: pa.Table, episode_id: str) -> None:
    """Check whose steps these are, and that they are numbered from 0.

    Raises:
        DamagedError: They are not.
    """
    if not _only(table["episode_id"], episode_id) or table["step_index"].to_pylist() != list(range(table.num_rows)):
        raise DamagedError("wrong content", "The rows are those of other steps.")


def _check_group(parquet: GuardedParquet, group: int, first_row: int, num_rows: int, episode_id: str) -> None:
    groups = parquet.group_rows
    if not 0 <= group < len(groups):
        raise DamagedError("wrong count", f"The file has {len(groups)} row groups; number {group} is asked for.")
    if first_row < 0 or num_rows < 0 or first_row + num_rows > groups[group]:
        raise DamagedError("wrong count", f"Row group {group} has {groups[group]} rows, fewer than the index says.")
    with _reading():
        bounds = parquet.bounds(group, "episode_id")
    if bounds is not None and not bounds[0] <= episode_id <= bounds[1]:
        raise DamagedError("wrong content", f"Row group {group} holds other episodes than the index says.")


def _only(column: pa.ChunkedArray, value: object) -> bool:
    return column.null_count == 0 and bool(pc.all(pc.equal(column, pa.scalar(value, column.type)), min_count=0).as_py())


def check_ends(head: bytes, tail: bytes) -> None:
    """Refuse what does not begin and end as a parquet file does.

    Raises:
        DamagedError: `"truncated"` or `"unreadable"`.
    """
    # What is needed to read a parquet file stands at its end, so that a cut one has none.
    if tail != _MAGIC:
        raise DamagedError("truncated", "The end of the file is missing or overwritten.")
    if head != _MAGIC:
        raise DamagedError("unreadable", "The file does not begin as a parquet file does.")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        kind = "checksum" if "CRC" in str(error) else "unreadable"
        raise DamagedError(kind, f"The file cannot be read: {str(error).rstrip('.')}.") from error
