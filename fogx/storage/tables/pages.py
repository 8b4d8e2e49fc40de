"""What the pages of a parquet column declare, read before any of them is decompressed.

A footer may say anything of the sizes behind it, and no library checks it. The header of a page binds: a reader makes room for
exactly the bytes that it names, and decompression may give no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fogx.storage.tables.footer import TEXT_TYPE, Chunk, Leaf
from fogx.storage.tables.thrift import INT, parse

_WINDOW = 256
"""Bytes read to find a header; most take less than 60."""
_LARGEST_HEADER = 1 << 20
"""A header may hold a minimum and maximum, which may be long."""

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_BODY = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
"""Field of the page header that holds the count of values, by type of page."""
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
_HEADER = {1: INT, 2: INT, 3: INT, 5: {1: INT, 2: INT}, 7: {1: INT, 2: INT}, 8: {1: INT, 4: INT}}

_BY_DICTIONARY = (2, 8)
_PREFIXED = 7
"""Each value is named by how much of the one before it repeats: no header tells how large such values are."""

_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_LISTED_FROM, _LISTED_TO = 1 << 20, 4 << 20


@dataclass
class Pages:
    """What the pages of a column chunk take in memory, as their headers declare.

    Args:
        values: Values in data pages; for lists, their elements and the empty lists.
        plain: Bytes of all pages together, decompressed.
        coded: Values that are given as positions in the dictionary.
        longest: Bytes that one text of the dictionary has at most.
    """

    values: int = 0
    plain: int = 0
    coded: int = 0
    longest: int = 0


def measure(file: pa.NativeFile, chunk: Chunk, leaf: Leaf, size: int) -> Pages:
    """Walk the page headers of a column chunk.

    Args:
        file: The parquet file.
        chunk: What its footer says of the chunk.
        leaf: The column.
        size: Bytes of the file.

    Raises:
        ValueError: The headers cannot be followed to the chunk's end, or declare what its footer does not.
    """
    position, stop = chunk.start, chunk.start + chunk.stored
    if not 4 <= position <= stop <= size:
        raise ValueError(f"column {leaf.path!r} lies outside the file")
    found, dictionaries = Pages(), 0
    while position < stop:
        header, taken = _header(file, position, stop)
        kind, plain, stored = header[1], header[2], header[3]
        position += taken + stored
        if not 0 <= plain < 1 << 31 or stored < 0 or position > stop:
            raise ValueError(f"column {leaf.path!r} has a page of {plain} bytes in {stored}")
        found.plain += plain
        if kind == _INDEX:
            continue
        count, encoding = header[_BODY[kind]][1], header[_BODY[kind]][_ENCODING[kind]]
        if not 0 <= count < 1 << 31 or encoding == _PREFIXED:
            raise ValueError(f"column {leaf.path!r} has a page of {count} values in encoding {encoding}")
        if kind == _DICTIONARY:
            dictionaries += 1
            found.longest = plain
            if leaf.kind == TEXT_TYPE and plain <= _LISTED_TO and chunk.values * plain > _LISTED_FROM:
                found.longest = _longest(file.read_at(stored, position - stored), chunk.codec, plain)
            continue
        found.values += count
        found.coded += count if encoding in _BY_DICTIONARY else 0
    if found.values != chunk.values or dictionaries > 1:
        raise ValueError(f"column {leaf.path!r} has {found.values} values, its footer declares {chunk.values}")
    return found


def _longest(data: bytes, codec: int, plain: int) -> int:
    """Return the bytes of the longest text in a dictionary page."""
    if codec:
        data = pa.decompress(data, plain, _CODECS[codec], asbytes=True)
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
            header, taken = parse(data, _HEADER)
            break
        except IndexError:
            if len(data) < window or window >= _LARGEST_HEADER:
                raise ValueError(f"the page header at byte {start} does not end") from None
            window *= 16
    kind = header.get(1)
    if not {1, 2, 3} <= header.keys() or kind not in (_INDEX, *_BODY):
        raise ValueError(f"the page header at byte {start} lacks its type or sizes")
    if kind != _INDEX and not {1, _ENCODING[kind]} <= header.get(_BODY[kind], {}).keys():
        raise ValueError(f"the page header at byte {start} lacks its count or encoding")
    return header, taken
