"""The roots of one handle: one to write, any number to read, seen as one."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import DatasetNotFoundError, ReadOnlyError, SchemaMismatchError, SelectionError, UnknownNameError, listing
from fogx.reading.versions import is_for_all_roots, numbered
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.store import Store
from fogx.storage.log import root as log_root
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.rows import BASE
from fogx.storage.tables.index import read_index


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
        self._log = EpisodeLog(store) if log_root.exists(store) else None
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
            if self._log is None:
                if not log_root.exists(self.store):
                    log_root.create(self.store, self.name)
                self._log = EpisodeLog(self.store)
            return self._log

    def refresh(self) -> None:
        """Move to the newest version; a root that looks at an old version stays there."""
        if self._pinned:
            return
        if self._log is not None:
            self._log.refresh()
        elif log_root.exists(self.store):
            self._log = EpisodeLog(self.store)


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
        self._check_ids()

    def at(self, version: Any) -> Roots:
        """Return the roots for reading only, as they were at a version.

        A number or a pin is of the write root, and the others stay as this handle sees them; a time or a token is of all.

        Raises:
            UnknownNameError: No such version, or one that was not kept; says which there are.
        """
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
        roots, rows = [], []
        earlier: list[pa.ChunkedArray] = []
        for number, root in enumerate(self.all):
            ids = root.rows["episode_id"]
            mine = np.arange(len(ids))
            if earlier:
                mine = mine[~_mask(pc.is_in(ids, pa.concat_arrays([c for seen in earlier for c in seen.chunks])))]
            earlier.append(ids)
            roots.append(np.full(len(mine), number))
            rows.append(mine)
        return Chosen(tuple(self.all), np.concatenate(roots), np.concatenate(rows))

    def _check_ids(self) -> None:
        for number, root in enumerate(self.all[1:], 1):
            ids = root.rows["episode_id"]
            for other in self.all[:number]:
                twice = np.flatnonzero(_mask(pc.is_in(ids, other.rows["episode_id"].combine_chunks())))
                if not len(twice):
                    continue
                there = positions_of(other.rows["episode_id"], ids.take(pa.array(twice)).combine_chunks())
                for row, same in zip(twice.tolist(), there.tolist(), strict=True):
                    if _checksum(root, row) != _checksum(other, same):
                        raise SchemaMismatchError(
                            f"episode {ids[row].as_py()} is in {other.path} and in {root.path} with different content; "
                            "read the two roots in handles of their own."
                        )


@dataclass(frozen=True, eq=False)
class Chosen:
    """Episodes in an order.

    Args:
        roots: The handle's roots, write root first.
        root: `(N,)` int: which root holds each.
        row: `(N,)` int: its row there, now.
    """

    roots: tuple[Root, ...]
    root: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def __iter__(self) -> Iterator[tuple[Root, int]]:
        for root, row in zip(self.root.tolist(), self.row.tolist(), strict=True):
            yield self.roots[root], row

    def at(self, positions: np.ndarray) -> Chosen:
        """Return some of the episodes."""
        return Chosen(self.roots, self.root[positions], self.row[positions])

    def by_root(self) -> Iterator[tuple[Root, np.ndarray]]:
        """Yield each root that holds some, with the positions of its episodes."""
        for number, root in enumerate(self.roots):
            positions = np.flatnonzero(self.root == number)
            if len(positions):
                yield root, positions

    def table(self, names: Sequence[str]) -> pa.Table:
        """Return columns of fogx's own, one row an episode, in this order."""
        schema = pa.schema([BASE.field(name) for name in names])
        parts, where = [schema.empty_table()], [np.zeros(0, np.int64)]
        for root, positions in self.by_root():
            rows = root.rows.select(list(names))
            whole = len(positions) == rows.num_rows and bool((self.row[positions] == np.arange(rows.num_rows)).all())
            parts.append((rows if whole else rows.take(pa.array(self.row[positions]))).cast(schema))
            where.append(positions)
        table = pa.concat_tables(parts)
        return table if len(parts) <= 2 else table.take(pa.array(np.argsort(np.concatenate(where), kind="stable")))

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one of these columns."""
        return self.table([name])[name]


def positions_of(ids: pa.ChunkedArray, wanted: pa.Array) -> np.ndarray:
    """Return where each wanted id stands, -1 where it does not; both hold each id once."""
    found = np.flatnonzero(_mask(pc.is_in(ids, wanted)))
    # A hash of the few that were found, not of all there are.
    order = pc.index_in(wanted, ids.take(pa.array(found)).combine_chunks()) if len(found) else pa.nulls(len(wanted), pa.int32())
    where = order.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(where < 0, -1, found[where] if len(found) else -1)


def _mask(mask: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(mask.to_numpy(), dtype=bool)


def _checksum(root: Root, row: int) -> bytes:
    index_file, index_row = root.rows["index_file"][row].as_py(), root.rows["index_row"][row].as_py()
    return read_index(root.store, index_file, [index_row], parts=())[0].checksum
