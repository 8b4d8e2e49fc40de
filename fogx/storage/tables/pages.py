"""What the pages of a parquet column declare, read before any of them is decompressed.

A footer may say anything of the sizes behind it, and no library checks it. The header of a page binds: a reader makes room for
exactly the bytes that it names, and decompression may give no more. Headers are thrift structs, of which only ints matter here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fogx.storage.tables.thrift import read_struct

_WINDOW = 256
"""Bytes read to find a header; most take less than 60."""
_LARGEST_HEADER = 1 << 20
"""A header holds a minimum and maximum, which may be long."""

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_BODY = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""Field of the page header that holds the values' count, by type of page."""
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
_BY_DICTIONARY = (2, 8)
_PREFIXED = 7
"""Each value is named by how much of the one before it repeats: no header tells how large such values are."""


@dataclass
class Pages:
    """What a column chunk takes in memory, as its page headers declare.

    Args:
        values: Values in data pages; for lists, their elements and the empty lists.
        plain: Bytes of all pages together, decompressed.
        coded: Values that are given as positions in the dictionary.
        longest: Bytes that one value of the dictionary has at most.
    """

    values: int = 0
    plain: int = 0
    coded: int = 0
    longest: int = 0


def measure(file: pa.NativeFile, chunk: pq.ColumnChunkMetaData, size: int) -> Pages:
    """Walk the page headers of a column chunk.

    Args:
        file: The parquet file.
        chunk: What its footer says of the chunk.
        size: Bytes of the file.

    Raises:
        ValueError: The headers cannot be followed to the chunk's end, or declare what its footer does not.
    """
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    start = min(start, chunk.data_page_offset)
    stop = start + chunk.total_compressed_size
    if not 4 <= start <= stop <= size:
        raise ValueError(f"column {chunk.path_in_schema!r} lies outside the file")
    found = Pages()
    position = start
    dictionaries = 0
    while position < stop:
        header, taken = _header(file, position, stop)
        kind, plain, stored = header[1], header[2], header[3]
        position += taken + stored
        if plain < 0 or stored < 0 or position > stop:
            raise ValueError(f"column {chunk.path_in_schema!r} has a page of {plain} bytes in {stored}")
        found.plain += plain
        if kind == _INDEX:
            continue
        count, encoding = header[_BODY[kind]][1], header[_BODY[kind]][_ENCODING[kind]]
        if count < 0 or encoding == _PREFIXED:
            raise ValueError(f"column {chunk.path_in_schema!r} has a page of {count} values in encoding {encoding}")
        if kind == _DICTIONARY:
            dictionaries += 1
            if dictionaries > 1:
                raise ValueError(f"column {chunk.path_in_schema!r} has two dictionaries")
            found.longest = _longest(file, chunk, position - stored, stored, plain)
            continue
        found.values += count
        found.coded += count if encoding in _BY_DICTIONARY else 0
    if found.values != chunk.num_values:
        raise ValueError(f"column {chunk.path_in_schema!r} has {found.values} values, its footer declares {chunk.num_values}")
    return found


_LISTED_UP_TO = 1 << 20


def _longest(file: pa.NativeFile, chunk: pq.ColumnChunkMetaData, start: int, stored: int, plain: int) -> int:
    """Return the bytes of the longest text in a dictionary, or those of the dictionary where listing it would be work."""
    if chunk.physical_type != "BYTE_ARRAY" or plain > 4 * _LISTED_UP_TO or chunk.num_values * plain < _LISTED_UP_TO:
        return plain
    data = file.read_at(stored, start)
    if chunk.compression != "UNCOMPRESSED":
        data = pa.decompress(data, plain, chunk.compression.lower(), asbytes=True)
    longest = position = 0
    while position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "little")
        longest = max(longest, length)
        position += 4 + length
    return min(longest, plain)


def _header(file: pa.NativeFile, start: int, stop: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at a position, and how many bytes it takes."""
    window = _WINDOW
    while True:
        data = file.read_at(min(window, stop - start), start)
        try:
            header, taken = read_struct(data, bits=32)  # sizes and counts; one that is larger is no honest header
            return _checked(header), taken
        except IndexError:
            if len(data) < window or window >= _LARGEST_HEADER:
                raise ValueError(f"the page header at byte {start} does not end") from None
            window *= 16


def _checked(header: dict[int, Any]) -> dict[int, Any]:
    kind = header.get(1)
    if not all(isinstance(header.get(field), int) for field in (1, 2, 3)) or kind not in (_INDEX, *_BODY):
        raise ValueError("a page header lacks its type or sizes")
    if kind != _INDEX:
        body = header.get(_BODY[kind])
        if not isinstance(body, dict) or not all(isinstance(body.get(field), int) for field in (1, _ENCODING[kind])):
            raise ValueError("a page header lacks its count or encoding")
    return header
