"""Parquet that anybody may have written, read so that it takes no more memory than it may.

What a read will take is worked out first, from the footer, the page headers and the types, and none of these is believed alone: a
file of 0.4 MB can declare 800 MB, or declare little and decode to 800 MB.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, StorageError
from fogx.memory import Room
from fogx.settings import config
from fogx.storage.tables.footer import TEXT_TYPE, Chunk, Leaf, read_footer
from fogx.storage.tables.pages import Pages, measure
from fogx.storage.tables.thrift import TEXT, parse

_FOOTER_RATIO = 64
"""Bytes of memory that a byte of footer takes at most."""
_TEXT = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
_LEVELS = 4
"""Bytes that a value in a list takes besides, while it is decoded."""
_PER_OBJECT = 64
_PER_JSON_BYTE = 20
_BOUNDS = {4: [{1: [{3: {12: {5: TEXT, 6: TEXT}}}]}]}
_WORTH_COUNTING = 16 << 20
"""Below this the largest that text can become is taken for what it becomes."""


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
            self._footer = read_footer(_footer_bytes(self._file, self._size))
            self._parquet = self._opened(page_checksum_verification=checksums)
            self.schema: pa.Schema = self._parquet.schema_arrow
            self.group_rows = self._footer.rows

    def chunk(self, group: int, path: str) -> Chunk:
        """Return where the pages of a column lie.

        Raises:
            CorruptDataError: There is no such row group or column.
        """
        with readable(self.what):
            return self._footer.chunk(group, [leaf.path for leaf in self._footer.leaves].index(path))

    def bounds(self, group: int, path: str) -> tuple[str, str] | None:
        """Return the smallest and largest text that the footer gives for a column, or `None` where it gives none."""
        with readable(self.what):
            number = [leaf.path for leaf in self._footer.leaves].index(path)
            found = self._bounds[group][1][number][3].get(12, {})
            return (found[6].decode(), found[5].decode()) if found.keys() >= {5, 6} else None

    @functools.cached_property
    def _bounds(self) -> Any:
        return parse(_footer_bytes(self._file, self._size), _BOUNDS)[0][4]

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
            leaves = [(n, leaf) for n, leaf in enumerate(self._footer.leaves) if columns is None or _within(leaf.path, columns)]
            for group in groups:
                if not 0 <= group < len(self.group_rows):
                    raise ValueError(f"it has {len(self.group_rows)} row groups, number {group} was asked for")
                rows, total = self.group_rows[group], 0
                for number, leaf in leaves:
                    chunk = self._footer.chunk(group, number)
                    pages = measure(self._file, chunk, leaf, self._size)
                    if not leaf.is_nested and pages.values != rows:
                        raise ValueError(f"column {leaf.path!r} has {pages.values} values in {rows} rows")
                    is_text = leaf.kind == TEXT_TYPE
                    each = leaf.width + _LEVELS * leaf.is_nested + _PER_OBJECT * _within(leaf.path, room.objects)
                    text = self._text(leaf, group, pages) if is_text else 0
                    text *= _PER_JSON_BYTE if _within(leaf.path, room.json) else 1
                    total += pages.values * each + text if is_text else max(pages.values * each, pages.plain)
                    stored += chunk.stored
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
            table = self.decoded(groups, columns)
            return table if expected is None else table.cast(expected)

    def decoded(self, groups: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
        """Return columns of row groups that were checked before."""
        with readable(self.what):
            names = None if columns is None else list(columns)
            table = self._parquet.read_row_groups(list(groups), columns=names, use_threads=False)
            return table if names is None else table.select(names)

    def _slots(self, columns: Sequence[str] | None, expected: pa.Schema | None) -> int:
        """Return the bytes that each row takes whatever its pages hold: a missing fixed-size list is as long as one there."""
        fields = [field for field in self.schema if columns is None or field.name in columns]
        found = {field.name: field.type for field in fields}
        cast = [field.type for field in expected or () if found.get(field.name) != field.type]
        return sum(_slot(kind) for kind in [*(field.type for field in fields), *cast])

    def _opened(self, **options: object) -> pq.ParquetFile:
        # Extension types stay off: those that are registered run code of their own on what a file says.
        return pq.ParquetFile(self._file, arrow_extensions_enabled=False, **options)

    def _text(self, leaf: Leaf, group: int, pages: Pages) -> int:
        """Return the bytes that a column's pages become, repeated text each time that it comes."""
        most = pages.plain + pages.coded * pages.longest
        counting = 4 * pages.plain + 8 * pages.values
        if leaf.is_nested or most < max(_WORTH_COUNTING, 2 * pages.plain) or counting > config().memory_mb << 20:
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


def read_table(source: IO[bytes] | bytes, what: str, room: Room, becomes: pa.Schema | None = None) -> pa.Table:
    """Return all of a parquet file, as it is stored; pages that have checksums must match them.

    Args:
        source: An open file, or the file's bytes.
        what: Root and pointer, for messages.
        room: What there is; one for all files of a table counts them together.
        becomes: What the table will be made into: columns that are added or cast take room too.

    Raises:
        CorruptDataError: It cannot be read, or there is no room.
    """
    file = GuardedParquet(source, what, checksums=True)
    groups = range(len(file.group_rows))
    file.check(groups, None, room, becomes)
    return file.decoded(groups, None)


def _within(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _footer_bytes(file: pa.NativeFile, size: int) -> bytes:
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
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        for inner in (kind.field(i).type for i in range(kind.num_fields)):
            _slot(inner, in_list=True)
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
