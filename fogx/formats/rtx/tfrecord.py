"""TFRecord framing: length and data of each record, each with a masked CRC32C."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator

import google_crc32c

from fogx.errors import CorruptDataError, StorageError

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_LARGEST = 2 << 30
"""A protocol buffer is smaller."""


def read_records(
    path: str, wanted: Callable[[int], bool], *, first: int = 0, stop: int | None = None, declared: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (position, data) of the wanted records in order, one in memory at a time.

    The data of other records is passed over unread. Each record is checked against its CRC before it is yielded.

    Args:
        path: Local file.
        wanted: Asked once for each position in `[first, stop)`, before its data is read.
        first: First position.
        stop: One past the last position; `None` reads to the end of the file.
        declared: How many records the file should hold, where known; checked once its end is reached.

    Raises:
        CorruptDataError: Truncated or damaged, or another number of records than declared; names file, offset and record.
        StorageError: The file cannot be opened or read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            index = offset = 0
            while offset < size and (stop is None or index < stop):
                length = _length(path, file.read(_HEADER.size), index, offset, size)
                if index >= first and wanted(index):
                    data = file.read(length)
                    if _masked_crc(data) != int.from_bytes(file.read(_CRC.size), "little"):
                        raise _corrupt(path, index, offset, f"its {length} bytes of data do not match their checksum")
                    yield index, data
                else:
                    file.seek(length + _CRC.size, os.SEEK_CUR)
                offset += _HEADER.size + length + _CRC.size
                index += 1
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}.") from error
    short = stop is not None and index < stop
    if short or (declared is not None and index == declared and offset < size):
        raise CorruptDataError(
            f"{path}: {'ends' if short else 'goes on'} at byte {offset} after {index} whole records, dataset_info.json "
            f"declares {stop if declared is None else declared}. Copy the dataset again."
        )


class RecordWriter:
    """Writes a new TFRecord file.

    Args:
        path: File to create.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_records = 0
        self.num_bytes = 0
        self._file = open(path, "xb")  # noqa: SIM115 (closed by `close`)

    def write(self, data: bytes) -> None:
        """Append one record; `num_bytes` counts the data without its framing, as TFDS does."""
        length = len(data).to_bytes(8, "little")
        self._file.write(length + _CRC.pack(_masked_crc(length)))
        self._file.write(data)
        self._file.write(_CRC.pack(_masked_crc(data)))
        self.num_records += 1
        self.num_bytes += len(data)

    def close(self) -> None:
        """Flush to the operating system; the caller syncs."""
        self._file.close()


def _length(path: str, header: bytes, index: int, offset: int, size: int) -> int:
    """Return the declared length of the record at `offset`, bounded by what is left of the file."""
    if len(header) < _HEADER.size:
        raise _corrupt(path, index, offset, f"the file ends {len(header)} bytes into its header")
    length, crc = _HEADER.unpack(header)
    if _masked_crc(header[:8]) != crc:
        raise _corrupt(path, index, offset, "its length does not match the checksum")
    left = size - offset - _HEADER.size
    if length + _CRC.size > left:
        raise _corrupt(path, index, offset, f"it declares {length + _CRC.size} more bytes, the file has {left}")
    if length >= _LARGEST:
        raise _corrupt(path, index, offset, f"it declares {length} bytes, which no tf.train.Example can have")
    return int(length)


def _corrupt(path: str, index: int, offset: int, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path}: record {index} at byte {offset} is damaged: {what}. The {index} records before it have their place in the "
        "file. Copy the file again from its source."
    )


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
