"""A lazy polars scan of `steps` files that anybody may have written.

polars makes room for whatever a file declares, and some footers of 40 KB end the process. So each file is looked at with pyarrow
first (see `storage/tables/guarded.py`), at the moment when it is read and only in the columns that are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from fogx.errors import CorruptDataError, StorageError
from fogx.memory import Room
from fogx.storage.files.store import Store
from fogx.storage.tables.guarded import GuardedParquet

FILES_AT_ONCE = 256
"""Files scanned together. Each row group's statistics are compared with the ids of these files only: one scan of 10,000 files with
10,000 ids takes 15 s, scans of 256 take 1.7 s."""

_FILE = "__file"


def scan_steps(store: Store, ids: Mapping[str, Sequence[str]], schema: Mapping[str, Any], *, moved: bool = False) -> pl.LazyFrame:
    """Return the stored steps of episodes, in order of the files; nothing is opened before it is collected.

    Args:
        store: The root's store.
        ids: Pointer of each `steps` file → the episodes wanted of it.
        schema: Column → polars type, of all columns.
        moved: Whether a file may hold an old form of an episode that is wanted of another.

    Raises:
        CorruptDataError: A pointer that leaves the root; when collecting, a file that is not readable, or that would take more
            memory than it may.
    """
    for file in ids:
        store.path(file)
    source = _Source(store, ids, schema, moved)
    return register_io_source(source.read, schema=pl.Schema(schema), is_pure=True, explain_name="fogx steps")


class _Source:
    def __init__(self, store: Store, ids: Mapping[str, Sequence[str]], schema: Mapping[str, Any], moved: bool) -> None:
        self._store = store
        self._ids = ids
        self._schema = schema
        self._moved = moved
        self._checked: set[tuple[str, str]] = set()

    def read(
        self, columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        """Yield rows as polars asks for them."""
        names = list(self._schema) if columns is None else columns
        files = list(self._ids)
        for first in range(0, len(files), FILES_AT_ONCE):
            for batch in self._scanned(files[first : first + FILES_AT_ONCE], names):
                # Not in the inner query: an error of the user's own filter is no damage.
                found = batch if predicate is None else batch.filter(predicate)
                yield found if rows is None else found.head(rows)
                rows = None if rows is None else rows - found.height
                if rows is not None and rows <= 0:
                    return

    def _scanned(self, files: Sequence[str], names: Sequence[str]) -> Iterator[pl.DataFrame]:
        store = self._store
        self._check_all(files, dict.fromkeys([*names, "episode_id"]))
        where = f"{store.root}: {files[0]}" + (f" and {len(files) - 1} more files" if len(files) > 1 else "")
        options = None if store.is_local else store.options.for_polars()
        paths = {file: store.path(file) for file in files}
        pairs = [(episode_id, paths[file]) for file in files for episode_id in self._ids[file]]
        with _readable(store, where):
            scan = pl.scan_parquet(
                list(paths.values()),
                glob=False,
                hive_partitioning=False,
                storage_options=options,
                include_file_paths=_FILE if self._moved else None,
            )
            # A literal list prunes row groups by their statistics; a join would not.
            scan = scan.filter(pl.col("episode_id").is_in([episode_id for episode_id, _ in pairs]))
            if self._moved:  # the join costs a third more time
                current = pl.LazyFrame(pairs, schema=["episode_id", _FILE], orient="row")
                scan = scan.join(current, on=["episode_id", _FILE], how="semi", maintain_order="left")
            batches = scan.select(names).collect_batches(lazy=True)
        expected = {name: self._schema[name] for name in names}
        while True:
            with _readable(store, where):
                batch = next(batches, None)
            if batch is None:
                return
            if batch.schema != expected:
                raise CorruptDataError(f"{where}: columns are of other types than the schema says.")
            yield batch

    def _check_all(self, files: Sequence[str], names: Iterable[str]) -> None:
        for _ in self._store.each(self._check, files, [names] * len(files)):
            pass

    def _check(self, file: str, names: Iterable[str]) -> None:
        fresh = [name for name in names if (file, name) not in self._checked]  # files do not change
        if fresh:
            with self._store.open(file) as source:
                parquet = GuardedParquet(source, f"{self._store.root}: {file}")
                parquet.check(range(len(parquet.group_rows)), fresh, Room())
            self._checked.update((file, name) for name in fresh)


@contextmanager
def _readable(store: Store, where: str) -> Iterator[None]:
    damage = (pl.exceptions.PolarsError, FileNotFoundError)
    try:
        # Of a remote root an OSError that is none of these is no damage: the store did not answer, or refused.
        with nullcontext() if store.is_local else store.asking("reading steps", but=damage):
            yield
    except StorageError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise CorruptDataError(f"{where} cannot be read: {str(error)[:300]}") from error
