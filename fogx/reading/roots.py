"""The roots of one handle: one to write, any number to read, seen as one."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import (
    CorruptDataError,
    DatasetNotFoundError,
    ReadOnlyError,
    SchemaMismatchError,
    SelectionError,
    UnknownNameError,
    listing,
)
from fogx.reading.versions import is_for_all_roots, numbered
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.store import Store
from fogx.storage.log import root as log_root
from fogx.storage.log.commit import EpisodeLog, find
from fogx.storage.log.rows import BASE
from fogx.storage.tables.index import read_index

_T = TypeVar("_T")


class Root:
    """One folder or URL that holds, or will hold, a dataset.

    Args:
        store: Its bytes.
        name: Name for a dataset that is yet to be created.
        version: Version to look at, as `numbered` takes it; `None` for the newest.
        read_only: Whether writes are refused.
    """

    def __init__(self, store: Store, name: str | None = None, *, version: Any = None, read_only: bool = False) -> None:
        self.store = store
        self.read_only = read_only or version is not None
        self._name = name
        self._pinned = version is not None
        self._lock = threading.Lock()
        self._log = find(store)
        if version is not None:
            if self._log is None:
                raise UnknownNameError(f"{self.path} has no version yet, {version!r} was asked for.")
            number = numbered(self._log, version)
            self._log = self._log if self._log.version == number else EpisodeLog(store, number)

    def at(self, version: Any) -> Root:
        """Return this root as it was at a version, for reading only."""
        return Root(Store(self.path, self.store.options), version=version)

    @property
    def path(self) -> str:
        """Local path or URL."""
        return self.store.root

    @property
    def name(self) -> str:
        """The dataset's name: as created, else as asked for, else the folder's name."""
        return (self._log and self._log.name) or self._name or os.path.basename(self.path) or "dataset"

    @property
    def log(self) -> EpisodeLog | None:
        """The episodes table, or `None` where nothing was written yet."""
        return self._log

    @property
    def rows(self) -> pa.Table:
        """The episodes table as this handle sees it, in order of id."""
        return self._log.rows if self._log else BASE.empty_table()

    def check_writable(self) -> None:
        """Refuse a write that would come later.

        Raises:
            ReadOnlyError: The handle was opened for reading, or looks at an old version.
        """
        if self.read_only:
            raise ReadOnlyError(
                f"{self.path} was opened for reading only; open it again without read_only= and version= to write."
            )

    def writable(self) -> EpisodeLog:
        """Return the log to write to, creating the dataset at the first write.

        Raises:
            ReadOnlyError: The handle was opened for reading, or looks at an old version.
        """
        self.check_writable()
        with self._lock:
            self._log = self._log or find(self.store)
            if self._log is None:
                log_root.create(self.store, self.name)
                self._log = EpisodeLog(self.store)
            return self._log

    def refresh(self) -> None:
        """Move to the newest version; a root that looks at an old version stays there."""
        if self._pinned:
            return
        if self._log is not None:
            self._log.refresh()
        else:
            self._log = find(self.store)


class Roots:
    """The write root first, then the others, each once.

    Args:
        path: Where new episodes go; `None` takes the first of `load_from`.
        load_from: Roots to read; each but the write root must hold a dataset.
        name: Name of a dataset that is yet to be created.
        storage_options: Options of remote roots, as fsspec takes them.
        version: Version to look at, see `Roots.at`; makes the handle read-only.
        read_only: Whether writes are refused.

    Raises:
        DatasetNotFoundError: A root that should hold a dataset holds none; names it.
        SelectionError: Neither `path` nor `load_from`.
        SchemaMismatchError: Two roots hold one id with different content.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        load_from: Sequence[str | os.PathLike[str]],
        name: str | None,
        storage_options: Mapping[str, Any] | None,
        version: Any,
        read_only: bool,
    ) -> None:
        places = ([] if path is None else [path]) + list(load_from)
        if not places:
            raise SelectionError("a dataset needs a place: give path=, or load_from= with at least one folder or URL.")
        options = StorageOptions(storage_options)
        stores = list({store.root: store for store in (Store(place, options) for place in places)}.values())
        everywhere = version if is_for_all_roots(version) else None
        self.write = Root(stores[0], name, version=version, read_only=read_only)
        self.all = [self.write, *(Root(store, version=everywhere, read_only=True) for store in stores[1:])]
        missing = [root.path for root in self.all if root.log is None and root.read_only]
        if missing:
            raise DatasetNotFoundError(
                f"{len(missing)} of {len(self.all)} roots hold no dataset: {listing(missing)}. Only the write root "
                f"({self.write.path}) is created when missing; check the spelling, or write to the others first."
            )
        self._everything: Chosen | None = None
        self._check_ids()

    def at(self, version: Any) -> Roots:
        """Return the roots for reading only, as they were at a version.

        A number or a pin is of the write root, and the others stay as this handle sees them; a time or a token is of all.

        Raises:
            UnknownNameError: No such version, or one that was not kept; says which there are.
        """
        if version is None:  # elsewhere the newest, which can be written
            raise UnknownNameError(
                f"{self.write.path}: None is no version; give a number that history() lists, a pin, a time with a zone or a version token."
            )
        roots = copy.copy(self)
        roots.write = self.write.at(version)
        others = [root.at(version) for root in self.all[1:]] if is_for_all_roots(version) else self.all[1:]
        roots.all = [roots.write, *others]
        return roots

    def refresh(self) -> None:
        """Move every root to its newest version."""
        for root in self.all:
            root.refresh()
        self._check_ids()

    def chosen(self) -> Chosen:
        """Return every episode, write root first, in order of id; an episode that two roots hold comes once."""
        tables = tuple(root.rows for root in self.all)
        known = self._everything
        if known is not None and all(old is new for old, new in zip(known.tables, tables, strict=True)):
            return known
        roots, rows = [], []
        for number, table in enumerate(tables):
            ids = table["episode_id"]
            mine = np.ones(len(ids), dtype=bool)
            for earlier in tables[:number]:
                mine &= ~_shared(ids, earlier["episode_id"])
            rows.append(np.flatnonzero(mine))
            roots.append(np.full(len(rows[-1]), number, np.int32))
        self._everything = Chosen(tuple(self.all), tables, np.concatenate(roots), np.concatenate(rows))
        return self._everything

    def _check_ids(self) -> None:
        for number, root in enumerate(self.all[1:], 1):
            rows = root.rows
            for other in self.all[:number]:
                theirs = other.rows
                twice = rows.filter(pa.array(_shared(rows["episode_id"], theirs["episode_id"])))
                if not twice.num_rows:
                    continue
                ids = twice["episode_id"].combine_chunks()
                same = theirs.take(pa.array(positions_of(theirs["episode_id"], ids)))
                pairs = zip(_checksums(root, twice), _checksums(other, same), strict=True)
                unlike = [ids[at].as_py() for at, (mine, other_one) in enumerate(pairs) if mine != other_one]
                if unlike:
                    raise SchemaMismatchError(
                        f"{len(unlike)} episodes are in {other.path} and in {root.path} with different content: "
                        f"{listing(unlike, most=3)}; read the two roots in handles of their own."
                    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """Episodes in an order, as they were when they were chosen: what is committed later does not change them.

    Args:
        roots: The handle's roots, write root first.
        tables: The rows of each root.
        root: `(N,)` int: which root holds each episode.
        row: `(N,)` int: its row there.
    """

    roots: tuple[Root, ...]
    tables: tuple[pa.Table, ...]
    root: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def __iter__(self) -> Iterator[tuple[Root, pa.Table]]:
        """Yield the root and the row, as a table of one, of each episode."""
        for root, row in zip(self.root.tolist(), self.row.tolist(), strict=True):
            yield self.roots[root], self.tables[root].slice(row, 1)

    def at(self, positions: np.ndarray) -> Chosen:
        """Return some of the episodes."""
        return Chosen(self.roots, self.tables, self.root[positions], self.row[positions])

    def by_root(self, names: Sequence[str] | None = None) -> Iterator[tuple[Root, pa.Table, np.ndarray]]:
        """Yield each root that holds some, with (the named columns of) their rows in this order, and their positions in it."""
        for number, (root, table) in enumerate(zip(self.roots, self.tables, strict=True)):
            positions = np.flatnonzero(self.root == number)
            if not len(positions):
                continue
            rows = table if names is None else table.select(list(names))
            yield root, taken(rows, self.row[positions]), positions

    def table(self, names: Sequence[str]) -> pa.Table:
        """Return columns of fogx's own, one row an episode, in this order."""
        schema = pa.schema([BASE.field(name) for name in names])
        parts, where = [schema.empty_table()], [np.zeros(0, np.int64)]
        for _, rows, positions in self.by_root(names):
            parts.append(rows.cast(schema))
            where.append(positions)
        table = pa.concat_tables(parts)
        return table if len(parts) <= 2 else table.take(pa.array(np.argsort(np.concatenate(where))))

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one of these columns."""
        return self.table([name])[name]


def positions_of(ids: pa.ChunkedArray, wanted: pa.Array) -> np.ndarray:
    """Return where each wanted id stands, -1 where it does not; both hold each id once."""
    if ids.equals(pa.chunked_array([wanted])):
        return np.arange(len(wanted))
    found = np.flatnonzero(_mask(pc.is_in(ids, wanted)))
    # A hash of the few that were found, not of all there are.
    order = pc.index_in(wanted, ids.take(pa.array(found)).combine_chunks()) if len(found) else pa.nulls(len(wanted), pa.int32())
    where = order.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(where < 0, -1, found[where] if len(found) else -1)


def taken(rows: pa.Table, positions: np.ndarray) -> pa.Table:
    """Return rows at positions; the table itself, not a copy, where these are all of it."""
    whole = len(positions) == len(rows) and bool((positions == np.arange(len(rows))).all())
    return rows if whole else rows.take(pa.array(positions))


def same_of(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the positions of each group of equal codes, in order of code; within a group in their own order."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    yield from np.split(order, starts) if len(codes) else ()


def read_index_files(root: Root, rows: pa.Table, read: Callable[[str, np.ndarray], _T]) -> Iterator[tuple[np.ndarray, _T]]:
    """Read each index file that rows of a root point to once, remote ones several at a time.

    Args:
        root: The root.
        rows: Rows of its table, with `index_file` and `index_row`.
        read: Is given an index file and the numbers of the rows wanted of it.

    Yields:
        The positions of the rows that point to one file, and what `read` returned for it.

    Raises:
        CorruptDataError: A row that points nowhere.
    """
    files, numbers = rows["index_file"].combine_chunks().dictionary_encode(), rows["index_row"]
    if lost := max(files.null_count, numbers.null_count):
        raise CorruptDataError(f"{root.path}: {lost} of {len(rows)} selected rows of the episodes table name no index row.")
    places = list(same_of(files.indices.to_numpy()))
    names = [files[int(positions[0])].as_py() for positions in places]
    wanted = [numbers.to_numpy()[positions] for positions in places]
    yield from zip(places, root.store.each(read, names, wanted), strict=True)


def _shared(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    """Return a mask of the ids that stand among others; both are in order."""
    apart = not len(ids) or not len(others) or ids[0].as_py() > others[-1].as_py() or others[0].as_py() > ids[-1].as_py()
    return np.zeros(len(ids), bool) if apart else _mask(pc.is_in(ids, others.combine_chunks()))


def _mask(mask: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(mask.to_numpy(), dtype=bool)


def _checksums(root: Root, rows: pa.Table) -> list[bytes]:
    """Return the checksum of each row's episode; each index file is read once."""
    result = [b""] * len(rows)
    read = functools.partial(read_index, root.store, parts=())
    for positions, found in read_index_files(root, rows, read):
        for position, index in zip(positions.tolist(), found, strict=True):
            result[position] = index.checksum
    return result
