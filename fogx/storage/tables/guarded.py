"""Parquet that anybody may have written, read so that it takes no more memory than it may.

What a read will take is worked out first, from the footer, the page headers and the types, and none of these is believed alone: a
file of 0.4 MB can declare 800 MB, or declare little and decode to 800 MB.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, StorageError
from fogx.settings import config
from fogx.storage.tables.pages import Pages, measure
from fogx.storage.tables.thrift import read_struct

LARGEST_RATIO = 32
"""A call may decode to the budget, or to so many times the bytes that it reads, whichever is more."""

_FOOTER_RATIO = 64
"""Bytes of memory that a byte of footer takes at most."""
_LONGEST_LIST = 10_000
"""Most row groups, columns or parts of the schema that a footer may list."""
_PER_VALUE = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 8}
_TEXT = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
_LEVELS = 4
"""Bytes that a value in a list takes besides, while it is decoded."""
_ROW_GROUPS, _COLUMNS, _META_DATA, _CRYPTO, _ENCRYPTED, _SIZE_STATISTICS = 4, 1, 3, 8, 9, 16
"""Numbers of fields in a footer, its row groups, their columns, and what is said of these (parquet.thrift)."""
_MOST_SOUND = 100_000
_sound: set[bytes] = set()
"""Digests of footers that were looked through: doing it takes milliseconds, and a file is opened again and again."""
_PER_OBJECT = 64
_PER_JSON_BYTE = 20
_WORTH_COUNTING = 16 << 20
"""Below this the largest that text can become is taken for what it becomes."""


class Room:
    """How much one call may decode: `fox.config().memory_mb`, or 32 times what it reads, whichever is more.

    Args:
        objects: Columns (or parts, with dots) whose values become Python objects.
        json: Columns whose text is parsed as JSON.
    """

    def __init__(self, objects: Sequence[str] = (), json: Sequence[str] = ()) -> None:
        self.objects = tuple(objects)
        self.json = tuple(json)
        self._decoded = 0
        self._stored = 0

    def take(self, what: str, decoded: int, stored: int) -> None:
        """Count one more read, before it is made.

        Raises:
            CorruptDataError: All reads together would take more than there is room.
        """
        self._decoded += decoded
        self._stored += stored
        limit = max(config().memory_mb << 20, LARGEST_RATIO * self._stored)
        if self._decoded > limit:
            needed = -(-self._decoded >> 20)
            raise CorruptDataError(
                f"{what}: {self._stored} bytes would take up to {needed} MiB of memory, allowed are {limit >> 20}. Nothing of it was "
                f"decoded. If it is meant to be that large, call fox.config(memory_mb={needed})."
            )


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever a reader says of damaged bytes into one error.

    Args:
        what: File and part; begins the message.

    Raises:
        CorruptDataError: In the place of the reader's own error.
    """
    try:
        yield
    except (CorruptDataError, StorageError):
        raise  # a store that does not answer is no damage
    except MemoryError as error:
        raise CorruptDataError(f"{what} is not readable: it asks for more memory than there is.") from error
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise CorruptDataError(f"{what} is not readable: {str(error)[:300] or type(error).__name__}") from error


@dataclass(frozen=True)
class _Leaf:
    number: int
    path: str
    width: int
    is_text: bool
    is_nested: bool


class GuardedParquet:
    """A parquet file of which nothing is decoded that there is no room for.

    Args:
        source: An open file, or the file's bytes.
        what: Root and pointer, for messages.
        checksums: Whether pages must match their checksums.

    Raises:
        CorruptDataError: It has no footer that can be read, or one too large to parse.
    """

    def __init__(self, source: IO[bytes] | bytes, what: str, *, checksums: bool = False) -> None:
        self.what = what
        with readable(what):
            self._file = pa.BufferReader(source) if isinstance(source, bytes) else pa.PythonFile(source, "r")
            self._size = self._file.size()
            footer = _footer(self._file, self._size)
            self._parquet = self._opened(page_checksum_verification=checksums)
            self._metadata = self._parquet.metadata
            self._check_chunks(footer)
            self.schema: pa.Schema = self._parquet.schema_arrow
            self.group_rows = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
            if min(self.group_rows, default=0) < 0 or sum(self.group_rows) != self._metadata.num_rows:
                raise ValueError("its row groups do not have the rows that it declares")

    def check(self, groups: Sequence[int], columns: Sequence[str] | None, room: Room, expected: pa.Schema | None = None) -> None:
        """Count what reading columns of row groups takes, before it is read.

        Args:
            groups: Row groups.
            columns: Names of columns; `None` for all.
            room: What there is.
            expected: What the columns are cast to.

        Raises:
            CorruptDataError: The pages are not what the footer says, or there is no room.
        """
        decoded = stored = 0
        with readable(self.what):
            slots = self._slots(columns, expected)
            for group in groups:
                if not 0 <= group < len(self.group_rows):
                    raise ValueError(f"it has {len(self.group_rows)} row groups, number {group} was asked for")
                metadata, rows, total = self._metadata.row_group(group), self.group_rows[group], 0
                for leaf in (leaf for leaf in self._leaves if columns is None or _within(leaf.path, columns)):
                    chunk = metadata.column(leaf.number)
                    pages = measure(self._file, chunk, self._size)
                    if not leaf.is_nested and pages.values != rows:
                        raise ValueError(f"column {leaf.path!r} has {pages.values} values in {rows} rows")
                    each = leaf.width + _LEVELS * leaf.is_nested + _PER_OBJECT * _within(leaf.path, room.objects)
                    text = self._text(leaf, group, pages) * (_PER_JSON_BYTE if _within(leaf.path, room.json) else 1)
                    total += pages.values * each + text if leaf.is_text else max(pages.values * each, pages.plain)
                    stored += chunk.total_compressed_size
                decoded += max(total, rows * slots)
        room.take(self.what, decoded, stored)

    def read(
        self, groups: Sequence[int], columns: Sequence[str] | None, room: Room, expected: pa.Schema | None = None
    ) -> pa.Table:
        """Return columns of row groups; see `check`.

        Raises:
            CorruptDataError: They cannot be read, or there is no room.
        """
        self.check(groups, columns, room, expected)
        with readable(self.what):
            named = None if columns is None else list(columns)
            table = self._parquet.read_row_groups(list(groups), columns=named, use_threads=False)
            table = table if named is None else table.select(named)
            return table if expected is None else table.cast(expected)

    def _check_chunks(self, footer: bytes) -> None:
        """Refuse what pyarrow ends the process over as soon as it is asked for a column chunk: encryption, odd histograms."""
        digest = hashlib.blake2b(footer, digest_size=16).digest()
        if digest in _sound:
            return
        groups = read_struct(footer)[0].get(_ROW_GROUPS)
        columns = [self._metadata.schema.column(number) for number in range(self._metadata.num_columns)]
        if not isinstance(groups, list) or len(groups) != self._metadata.num_row_groups:
            raise ValueError("its row groups are not what they seem")
        for group in groups:
            chunks = group.get(_COLUMNS)
            if not isinstance(chunks, list) or len(chunks) != len(columns):
                raise ValueError("a row group does not have the columns of the schema")
            for chunk, column in zip(chunks, columns, strict=True):
                _check_chunk(chunk, column)
        if len(_sound) >= _MOST_SOUND:
            _sound.clear()
        _sound.add(digest)

    def _slots(self, columns: Sequence[str] | None, expected: pa.Schema | None) -> int:
        """Return the bytes that each row takes whatever its pages hold: a missing fixed-size list is as long as one there."""
        fields = [field for field in self.schema if columns is None or field.name in columns]
        found = {field.name: field.type for field in fields}
        cast = [field.type for field in expected or () if found.get(field.name) != field.type]
        return sum(_slot(kind) for kind in [*(field.type for field in fields), *cast])

    def _opened(self, **options: object) -> pq.ParquetFile:
        # Extension types stay off: those that are registered run code of their own on what a file says.
        return pq.ParquetFile(self._file, thrift_container_size_limit=_LONGEST_LIST, arrow_extensions_enabled=False, **options)

    @functools.cached_property
    def _leaves(self) -> list[_Leaf]:
        leaves = []
        for number in range(self._metadata.num_columns):
            column = self._metadata.schema.column(number)
            width = _PER_VALUE.get(column.physical_type, column.length)
            nested = column.max_repetition_level > 0 or column.max_definition_level > 1
            leaves.append(_Leaf(number, column.path, width, column.physical_type == "BYTE_ARRAY", nested))
            if width < 0:
                raise ValueError(f"column {column.path!r} declares values of {width} bytes")
        return leaves

    def _text(self, leaf: _Leaf, group: int, pages: Pages) -> int:
        """Return the bytes that a column's pages become, repeated text each time that it comes."""
        most = pages.plain + (pages.coded * pages.longest if leaf.is_text else 0)
        if leaf.is_nested or most < max(_WORTH_COUNTING, 2 * pages.plain):
            return most
        # One long text among many short ones: counted, by reading each text of the dictionary once.
        coded = self._opened(read_dictionary=[leaf.path]).read_row_group(group, columns=[leaf.path], use_threads=False)
        total = 0
        for array in coded[leaf.path].chunks:
            if not isinstance(array, pa.DictionaryArray):
                return most
            lengths = pc.binary_length(array.dictionary.cast(pa.large_binary()))
            total += pc.sum(pc.take(lengths, array.indices)).as_py() or 0
        return total


def read_table(source: IO[bytes] | bytes, what: str, room: Room) -> pa.Table:
    """Return all of a parquet file.

    Args:
        source: An open file, or the file's bytes.
        what: Root and pointer, for messages.
        room: What there is; one for all files of a table counts them together.

    Raises:
        CorruptDataError: It cannot be read, or there is no room.
    """
    file = GuardedParquet(source, what)
    return file.read(range(len(file.group_rows)), None, room)


def _check_chunk(chunk: Any, column: pq.ColumnSchema) -> None:
    about = chunk.get(_META_DATA) if isinstance(chunk, dict) else None
    if not isinstance(about, dict) or _CRYPTO in chunk or _ENCRYPTED in chunk:
        raise ValueError("a column is encrypted, or nothing is said of it")
    sizes = about.get(_SIZE_STATISTICS)
    if isinstance(sizes, dict) and 1 in sizes and column.physical_type != "BYTE_ARRAY":
        raise ValueError("a column has sizes of text that it does not have")
    for field, level in ((2, column.max_repetition_level), (3, column.max_definition_level)):
        histogram = sizes.get(field) if isinstance(sizes, dict) else None
        if histogram and len(histogram) != level + 1:
            raise ValueError("a column has a histogram of levels that it does not have")


def _within(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _footer(file: pa.NativeFile, size: int) -> bytes:
    if size < 12:
        raise ValueError(f"{size} bytes are no parquet file")
    end = file.read_at(8, size - 8)
    length, limit = int.from_bytes(end[:4], "little"), (config().memory_mb << 20) // _FOOTER_RATIO
    if end[4:] != b"PAR1" or length > size - 12:
        raise ValueError("it does not end as a parquet file does")
    if length > limit:
        raise ValueError(f"its footer has {length} bytes, allowed are {limit} (fox.config(memory_mb=) / {_FOOTER_RATIO})")
    data: bytes = file.read_at(length, size - 8 - length)
    return data


def _slot(kind: pa.DataType, *, in_list: bool = False) -> int:
    """Return the bytes of one value, text and lists without what is in them.

    Raises:
        ValueError: A type that fogx does not write.
    """
    types = pa.types
    if types.is_fixed_size_list(kind) and not in_list:
        return int(kind.list_size) * _slot(kind.value_type, in_list=True)
    if types.is_list(kind) or types.is_large_list(kind):
        _slot(kind.value_type, in_list=True)
        return 8
    if types.is_struct(kind):
        return sum(_slot(kind.field(i).type, in_list=in_list) for i in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _slot(kind.value_type, in_list=True)
    if types.is_primitive(kind) or types.is_fixed_size_binary(kind) or types.is_decimal(kind):
        return -(-int(kind.bit_width) // 8)
    if types.is_null(kind) or kind in _TEXT:
        return 8
    raise ValueError(f"a column has type {str(kind)[:80]}, which fogx does not write")
