"""One root's Delta Lake table: reading its rows, durable commits, checkpoints, and the log's own compaction."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, FogxError, StorageError, in_one_line, listing
from fogx.memory import Room
from fogx.storage.files.durable import write_whole
from fogx.storage.files.paths import join
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.rows import BASE, aligned, check_rows
from fogx.storage.log.snapshot import Snapshot, by_id
from fogx.storage.tables.guarded import read_table, readable

logger = logging.getLogger("fogx")

UPKEEP_EVERY = 20
"""Every so many versions small files are merged and a checkpoint is written, so that opening and committing stay fast."""

ROWS_PER_FILE = 131_072
"""Files of the table hold at most so many rows: an edit rewrites whole files, about 3 MB each."""

_JSON = ("_extra",)

_FILES_PER_TIER = 4
"""So many files of about one size are merged into one. Sizes of a tier differ by less than this factor."""


class DeltaLog:
    """A handle of the table at one version; it moves with `update()` and with its own commits. For one thread.

    Opening fsyncs nothing.

    Args:
        store: The root.
        version: A version to look at, for reading only; `None` for the newest.
    """

    def __init__(self, store: Store, version: int | None = None) -> None:
        self.store = store
        self.table = roots.open_table(store, version)
        self._files: dict[str, pa.Table] = {}
        self._unnamed: list[tuple[pa.Table, Any]] = []
        self._durable: int | None = None
        self._in_doubt = False

    @property
    def version(self) -> int:
        """The version that this handle is at."""
        return int(self.table.version())

    def update(self) -> None:
        """Move to the newest version.

        Raises:
            StorageError: The log could not be read.
        """
        with self.store.asking("reading the log"):
            self.table.update_incremental()

    def names(self) -> list[str]:
        """Return the files of the version that the handle is at."""
        return [str(path) for path in pa.table(self.table.get_add_actions(flatten=True))["path"].to_pylist()]

    def snapshot(self) -> Snapshot:
        """Return the rows of the version that the handle is at; each file is read once.

        Raises:
            CorruptDataError: A file is gone or unreadable, or a column that fogx needs is missing.
        """
        schema = self.schema()
        missing = [name for name in BASE.names if name not in schema.names]
        if missing:
            raise CorruptDataError(f"{self.store.root}: the episodes table lacks the columns {listing(missing)}.")
        room = Room(json=_JSON)  # for all files together
        names = self.names()
        held = {name: aligned(self._files[name], schema) for name in names if name in self._files}
        new = [name for name in names if name not in held]
        held |= zip(new, self.store.each(lambda name: self._rows(name, schema, room), new), strict=True)
        self._files = {name: held[name] for name in names}
        return Snapshot(schema, dict(self._files))

    def commit(
        self,
        operation: str,
        episodes: int,
        *,
        add: pa.Table | None = None,
        remove: Sequence[str] = (),
        overwrite: bool = False,
        sources: Sequence[str] = (),
    ) -> None:
        """Publish rows, in place of files or beside them, as one version; durable when this returns.

        Delta Lake refuses it where another commit took files away since the version that this handle is at, whichever they
        were: what is written here was made from them. Rows that others added meanwhile do not matter.

        Args:
            operation: What `history()` shows.
            episodes: How many episodes it is about, for `history()`.
            add: Rows in order of id, split into files.
            remove: Files that they replace.
            overwrite: They replace all files, and their schema the table's.
            sources: Names of which no two commits may be made at the same time.

        Raises:
            CommitFailedError: Refused; nothing of it is visible.
        """
        from deltalake import Schema, Transaction
        from deltalake.transaction import RemoveAction

        actions = self._written(add) if add is not None else []
        now_ms = time.time_ns() // 1_000_000
        actions += [RemoveAction(name, True, now_ms, None, None) for name in remove]
        marks = [Transaction(source, (self.table.transaction_version(source) or 0) + 1) for source in sources]
        mode = "overwrite" if overwrite else "append"
        schema = add.schema if add is not None else self.schema()
        with self._committing(operation, episodes, marks) as options:
            self.table.create_write_transaction(actions, mode, Schema.from_arrow(schema), **options)
            self._unnamed.clear()

    def add_columns(self, columns: Mapping[str, pa.DataType]) -> None:
        """Add columns in a commit of their own."""
        from deltalake import Field, Schema

        fields = Schema.from_arrow(pa.schema([pa.field(n, t) for n, t in columns.items()])).fields
        with self._committing("add columns") as options:
            self.table.alter.add_columns([Field(f.name, f.type) for f in fields], **options)

    def set_properties(self, properties: Mapping[str, str], operation: str) -> None:
        """Set properties of the table in a commit; every commit that was begun before it is refused, and made again."""
        with self._committing(operation) as options:
            self.table.alter.set_table_properties(dict(properties), raise_if_not_exists=False, **options)

    @property
    def properties(self) -> dict[str, str]:
        """Properties of the table at the version that the handle is at."""
        return dict(self.table.metadata().configuration)

    def merge_small(self) -> int:
        """Merge files of about one size where there are many, in one commit, and return how many went.

        Raises:
            CommitFailedError: Another writer replaced some file meanwhile; nothing was changed.
        """
        snapshot = self.snapshot()
        tiers: dict[int, list[str]] = {}
        for name, table in snapshot.files.items():
            if table.num_rows < ROWS_PER_FILE // 2:
                tiers.setdefault(int(math.log(max(table.num_rows, 1), _FILES_PER_TIER)), []).append(name)
        gone = [name for names in tiers.values() if len(names) >= _FILES_PER_TIER for name in names]
        if gone:
            merged = by_id(pa.concat_tables([snapshot.files[name] for name in gone]))
            self.commit("merge table files", 0, add=merged.combine_chunks(), remove=gone)
        return len(gone)

    def sync(self) -> None:
        """Make the log durable through the version that the handle is at, other writers' entries too.

        Files that the entries name were synced before the commits that name them.
        """
        version, doubt = self.version, self._log_path(roots.IN_DOUBT)
        if self.store.is_local and (self._in_doubt or os.path.exists(doubt)):
            # What cannot be trusted is made unimportant: a checkpoint is written anew and needs no entry before it.
            self.checkpoint()
            self._in_doubt = False
            with suppress(FileNotFoundError):
                os.unlink(doubt)
        elif self.store.is_local and self._durable != version:
            durable, names = self._durable, list[str]()
            if durable is None:
                # What a checkpoint stands for was durable before it was written.
                durable, names = roots.checkpoint_before(self.store, version)
            self._in_doubt = True
            roots.sync_log(self.store, [*names, *(roots.entry(number) for number in range(durable + 1, version + 1))])
            self._in_doubt = False
        self._durable = version

    @contextmanager
    def _committing(self, operation: str, episodes: int = 0, marks: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
        """Make one commit, with the options that it is given: recognise it where its answer was lost, make the log durable, and
        look after the log."""
        from deltalake.exceptions import DeltaError

        before, token = self.version, uuid.uuid4().hex
        try:
            yield self._options(operation, episodes, token, marks)
        except (DeltaError, OSError) as error:
            if not self._was_made(operation, token, before, error):
                raise
            logger.info("%s: the answer to a commit was lost; it was found in the log.", self.store.root)
        try:
            self.update()
        except StorageError as error:
            raise StorageError(
                f"{self.store.root}: {operation} was committed, but the log could not be read after it: {in_one_line(error)} Make the "
                "same call again when the store answers; what is there is found, and nothing is done twice."
            ) from error
        self.sync()
        if self.version // UPKEEP_EVERY > before // UPKEEP_EVERY:
            self._upkeep()

    def _upkeep(self) -> None:
        from deltalake.exceptions import CommitFailedError, DeltaError

        newest = roots.last_checkpoint(self.store)
        if newest is not None and newest // UPKEEP_EVERY >= self.version // UPKEEP_EVERY:
            return  # another writer was here first
        try:
            self.merge_small()
        except CommitFailedError:
            pass  # there will be a next time
        except (DeltaError, FogxError, OSError) as error:
            logger.warning("%s: small files of the episodes table were not merged: %s", self.store.root, error)
        try:
            self.update()
            self.sync()
            self.checkpoint()
            # A handle slows down with every commit it follows; one opened from the checkpoint does not know them.
            self.table = roots.open_table(self.store, self.version)
        except (DeltaError, FogxError, OSError) as error:
            # The commit is durable; a checkpoint only makes opening faster.
            logger.warning("%s: the checkpoint of version %d failed and was left out: %s", self.store.root, self.version, error)

    def checkpoint(self) -> None:
        """Write a checkpoint that is whole and durable before anything names it: a torn or a lost one would close the table.

        Object stores put files whole. Elsewhere delta-rs would write in place and sync nothing, so it works on a copy of the
        newest log entries.
        """
        from deltalake import DeltaTable

        if not self.store.is_local:
            self.table.create_checkpoint()
            name = f"{roots.LOG_FOLDER}/{roots.checkpoint(self.version)}"
            if data := self.store.read_small(name):  # else delta-rs chose several parts
                _check_parquet(name, data)
            return
        number, names = roots.checkpoint_before(self.store, self.version)
        copied = [*names[:1], *(roots.entry(n) for n in range(number + 1, self.version + 1))]
        with tempfile.TemporaryDirectory(dir=roots.table_uri(self.store), suffix=".tmp") as scratch:
            copy = join(scratch, "_delta_log")
            os.mkdir(copy)
            for name in copied:
                shutil.copyfile(self._log_path(name), join(copy, name))
            table = DeltaTable(scratch)
            if _content(table) != _content(self.table):
                raise StorageError(f"{self.store.root}: the log on disk is no longer what was committed. Open the dataset again.")
            table.create_checkpoint()
            made = sorted(set(os.listdir(copy)) - set(copied))  # the note that names it comes last
            for name in made:
                data = Path(copy, name).read_bytes()
                if name != roots.LAST_CHECKPOINT:
                    _check_parquet(name, data)
                write_whole(self._log_path(name), data)

    def _log_path(self, *name: str) -> str:
        return join(self.store.root, roots.LOG_FOLDER, *name)

    def _was_made(self, operation: str, token: str, before: int, answer: Exception) -> bool:
        """Return whether a commit whose answer was bad or lost is in the log nevertheless.

        Raises:
            StorageError: The log does not answer either.
        """
        for number in range(before + 1, before + 10_000):
            try:
                data = self.store.read_small(f"{roots.LOG_FOLDER}/{roots.entry(number)}")
            except StorageError as error:
                raise StorageError(
                    f"{self.store.root}: the outcome of {operation} is unknown: no good answer came to the commit, and the log cannot be "
                    f"read to see whether it was made: {self.store.options.hide(in_one_line(answer))}. Make the same call again when the store answers; if it was "
                    "made that is found, and nothing is done twice."
                ) from error
            if data is None:
                return False
            if token.encode() in data:
                return True
        return False

    def _written(self, rows: pa.Table) -> list[Any]:
        """Write rows to files of the table, durably, and return their add actions; a repeated attempt writes nothing anew."""
        from deltalake.transaction import AddAction

        actions = []
        for start in range(0, rows.num_rows, ROWS_PER_FILE):
            part = rows.slice(start, ROWS_PER_FILE)
            known = next((action for table, action in self._unnamed if table.equals(part)), None)
            if known is None:
                name, sink = f"{uuid.uuid4().hex}.parquet", pa.BufferOutputStream()
                pq.write_table(part, sink, compression="zstd", write_page_checksum=True)
                data = sink.getvalue().to_pybytes()
                self.store.write_small(f"episodes/{name}", data)
                bounds = pc.min_max(part["episode_id"]).as_py()
                # With these delta-rs, and others who read the log, need not open the file.
                stats = {
                    "numRecords": part.num_rows,
                    "minValues": {"episode_id": bounds["min"]},
                    "maxValues": {"episode_id": bounds["max"]},
                    "nullCount": {"episode_id": 0},
                }
                known = AddAction(name, len(data), {}, time.time_ns() // 1_000_000, True, json.dumps(stats))
                self._unnamed.append((part, known))
            self._files[known.path] = part
            actions.append(known)
        return actions

    def _options(self, operation: str, episodes: int, token: str, marks: Sequence[Any]) -> dict[str, Any]:
        from deltalake import CommitProperties, PostCommitHookProperties

        about = {"fogx_operation": operation, "fogx_episodes": episodes, "fogx_commit": token, "userName": user()}
        # delta-rs tries again by itself where that is safe. Behind a network it would not know its own commit whose answer was
        # lost, and make it twice; so there we look for the token first.
        tries = None if self.store.is_local else 0
        properties = CommitProperties(custom_metadata=about, max_commit_retries=tries, app_transactions=list(marks) or None)
        # Checkpoints are ours: written, synced and read back.
        hooks = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
        return {"commit_properties": properties, "post_commithook_properties": hooks}

    def schema(self) -> pa.Schema:
        """Return the columns of the version that the handle is at."""
        fields = []
        for f in pa.schema(self.table.schema().to_arrow()):
            kind = pa.string() if pa.types.is_string(f.type) or f.type in (pa.string_view(), pa.large_string()) else f.type
            kind = pa.binary() if kind in (pa.binary_view(), pa.large_binary()) else kind
            fields.append(pa.field(f.name, kind, f.nullable))
        return pa.schema(fields)

    def _rows(self, name: str, schema: pa.Schema, room: Room) -> pa.Table:
        table = self.read(name, room)
        with readable(f"{self.store.root}: episodes/{name}"):
            return by_id(check_rows(aligned(table, schema)))

    def read(self, name: str, room: Room | None = None) -> pa.Table:
        """Return the rows of one file of the table as they are stored.

        Raises:
            CorruptDataError: It is gone, unreadable, or not a file that fogx writes.
        """
        # Files that delta-rs rewrote hold string views; `aligned` casts them. Never to_pyarrow_table(): it aborts at exit.
        if "/" in name or not name.endswith(".parquet"):
            raise CorruptDataError(f"{self.store.root}: the log names {name[:120]!r}, which is not a file fogx writes.")
        try:
            with self.store.open_named(f"episodes/{name}") as source:
                return read_table(source, f"{self.store.root}: episodes/{name}", room or Room(json=_JSON), self.schema())
        except FileNotFoundError:
            raise CorruptDataError(
                f"{self.store.root}: episodes/{name} is not there, though version {self.version} names it. Where it was an old "
                f"version, vacuum() removed it; else look at it with fox.check({self.store.root!r})."
            ) from None


def _check_parquet(name: str, data: bytes) -> None:
    try:
        pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{name} was written damaged: {error}") from error


def _content(table: Any) -> tuple[int, dict[str, str], list[str]]:
    files = pa.table(table.get_add_actions(flatten=True))["path"].to_pylist()
    return table.version(), dict(table.metadata().configuration), sorted(files)


@functools.cache
def user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"
