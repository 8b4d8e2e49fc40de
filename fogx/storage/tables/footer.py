"""What the footer of a parquet file says: its columns, row groups, and where the pages of each lie."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from fogx.storage.tables.thrift import INT, PLACE, TEXT, parse

_LONGEST_LIST = 10_000
_DEEPEST = 16
_KEPT = 1 << 20
_REPEATED = 2

TEXT_TYPE = 6
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8, TEXT_TYPE: 8}
"""Bytes of a value by physical type; of text, of its place. A fixed-size one (7) says its own."""

_ELEMENT = {1: INT, 2: INT, 3: INT, 4: TEXT, 5: INT}
_CHUNK = {3: {1: INT, 4: INT, 5: INT, 7: INT, 9: INT, 11: INT}}
_GROUP = {1: [PLACE], 3: INT}
_FILE = {2: [_ELEMENT], 3: INT, 4: [_GROUP]}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column as it is stored.

    Args:
        path: Names from the top, joined by dots.
        kind: Physical type.
        width: Bytes of a value; of text, of its place.
        is_nested: Whether it lies in a list or struct.
    """

    path: str
    kind: int
    width: int
    is_nested: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """The pages of one column in one row group.

    Args:
        start: First byte of them in the file.
        stored: Bytes of them.
        values: Values in them, as the footer says.
        codec: Number of their compression.
    """

    start: int
    stored: int
    values: int
    codec: int


@dataclass(frozen=True, slots=True)
class Footer:
    """A whole footer.

    Args:
        leaves: Columns, in order.
        rows: Rows of each row group.
        data: Its bytes.
        places: For each row group, where in them each column is described.
    """

    leaves: tuple[Leaf, ...]
    rows: tuple[int, ...]
    data: bytes
    places: tuple[tuple[int, ...], ...]

    def chunk(self, group: int, number: int) -> Chunk:
        """Return where the pages of a column lie: most readers want few of many.

        Raises:
            ValueError: It is not what the schema says of the column.
        """
        try:
            about, leaf = parse(self.data, _CHUNK, self.places[group][number])[0][3], self.leaves[number]
            if about[1] != leaf.kind:
                raise ValueError(f"column {leaf.path[:80]!r} is of two types")
            dictionary = about.get(11, 0)
            start = min(dictionary, about[9]) if dictionary > 0 else about[9]
            return Chunk(start, about[7], about[5], about[4])
        except (IndexError, KeyError):
            raise ValueError(f"its footer does not say where column {self.leaves[number].path[:80]!r} lies") from None


def read_footer(data: bytes) -> Footer:
    """Return what the bytes of a footer say.

    Raises:
        ValueError: They are none, or contradict themselves.
    """
    return _kept(data) if len(data) <= _KEPT else _read(data)


def _read(data: bytes) -> Footer:
    try:
        fields, _ = parse(data, _FILE)
        leaves = tuple(_leaves(fields[2]))
        groups = fields[4]
        rows = tuple(group[3] for group in groups)
        places = tuple(tuple(group[1]) for group in groups)
    except (IndexError, KeyError):
        raise ValueError("its footer is damaged") from None
    if min(rows, default=0) < 0 or sum(rows) != fields.get(3) or max(len(leaves), len(rows)) > _LONGEST_LIST:
        raise ValueError("its row groups do not have the rows that it declares, or are too many")
    if any(len(group) != len(leaves) for group in places):
        raise ValueError("its row groups do not have the columns that it declares")
    return Footer(leaves, rows, data, places)


# By content, so never stale: the same files are opened again and again. Each takes about 40 KB.
_kept = functools.lru_cache(maxsize=256)(_read)


def _leaves(elements: list[dict[int, Any]]) -> list[Leaf]:
    """Flatten the schema, which is kept as a list of its nodes, each with the number of its children."""
    leaves: list[Leaf] = []
    open_: list[list[Any]] = [[elements[0].get(5, 0), "", False]]  # children still to come, path, whether nested
    for element in elements[1:]:
        while open_ and not open_[-1][0]:
            open_.pop()
        if not open_ or len(open_) > _DEEPEST:
            raise ValueError("its schema is nested too deep, or has parts that belong nowhere")
        open_[-1][0] -= 1
        _, above, inside = open_[-1]
        path = f"{above}.{element[4].decode()}" if above else element[4].decode()
        nested = inside or element.get(3) == _REPEATED
        if children := element.get(5, 0):
            open_.append([children, path, True])
            continue
        kind = element[1]
        width = element.get(2, -1) if kind == 7 else _WIDTHS.get(kind, -1)
        if width < 0:
            raise ValueError(f"column {path[:80]!r} declares no type")
        leaves.append(Leaf(path, kind, width, nested))
    if any(left for left, *_ in open_):
        raise ValueError("its schema lacks parts")
    return leaves
