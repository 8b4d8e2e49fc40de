"""One root's `episodes` table as a handle sees it, and the only way to change it."""

from __future__ import annotations

import functools
import getpass
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tenacity

from fogx.errors import ConflictError, CorruptDataError, EpisodeNotFoundError, FogxError, StorageError, listing
from fogx.storage.files.durable import fsync_files
from fogx.storage.files.paths import join
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.rows import BASE, aligned, extra_text, extra_values, fit_cells

logger = logging.getLogger("fogx")
T = TypeVar("T")

CHECKPOINT_EVERY = 20
"""A checkpoint of the log is written every so many versions, to keep opening fast."""

_TRIES = 30


class EpisodeLog:
    """The `episodes` table of one root, seen at one version plus this handle's own commits.

    Opening reads the log and the (narrow) rows, fsyncs nothing, and reads no data file.

    Args:
        store: The root.
        version: A version to look at, for reading only; `None` for the newest.
    """

    def __init__(self, store: Store, version: int | None = None) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._table = roots.open_table(store, version)
        self._files: dict[str, pa.Table] = {}
        self._durable = -1
        self.version: int = self._table.version()
        self.root_id = roots.root_id(self._table)
        self.name = str(self._table.metadata().name or "")
        self.rows = self._latest()

    def refresh(self) -> None:
        """Move this handle to the newest version."""
        with self._lock:
            self._table.update_incremental()
            self.version = self._table.version()
            self.rows = self._latest()

    def newest(self) -> int:
        """Return the newest version that there is, without moving to it."""
        return int(roots.open_table(self.store).version())

    def source_keys(self) -> frozenset[str]:
        """Return the `source_key`s of the newest version, without moving to it."""
        with self._lock:
            self._table.update_incremental()
            return frozenset(self._latest()["source_key"].to_pylist()) - {None}

    def append(self, rows: Sequence[Mapping[str, Any]], *, operation: str, sources: Sequence[str] = ()) -> list[str]:
        """Publish episodes in one commit, durably, and return the ids that were added.

        Args:
            rows: As `Packed.rows`: system columns, and `metadata` with the user's cells.
            operation: What `history()` shows.
            sources: Identities of the shards that `source_key`s come from. Episodes whose key is there already are left out,
                also where another process imports the same shards at this moment.

        Raises:
            StorageError: The commit could not be made; nothing of it is visible.
        """

        def attempt() -> list[str]:
            latest = self._latest()
            # Ids that are there already came through a commit whose answer was lost, or whose last step failed.
            mine = latest.filter(pc.is_in(latest["episode_id"], pa.array([row["episode_id"] for row in rows], pa.string())))
            if mine.num_rows:
                self._sync(self._table.version())
                self.rows = _stacked(self.rows, mine)
            there = mine["episode_id"].to_pylist()
            wanted = _not_there(rows, set(there), latest)
            if not wanted:
                return list(there)
            fitted = fit_cells(latest, [row["metadata"] for row in wanted])
            self._adapt(fitted.added, fitted.widened)
            system = [{k: v for k, v in row.items() if k != "metadata"} for row in wanted]
            full = [
                {**s, **cells, "_extra": extra_text(extra)}
                for s, cells, extra in zip(system, fitted.cells, fitted.extra, strict=True)
            ]
            table = pa.Table.from_pylist(full, schema=self._schema())
            self._commit_rows(table, "append", operation, len(full), sources)
            self.rows = _stacked(self.rows, table)
            return [*there, *(str(row["episode_id"]) for row in wanted)]

        return self._retrying(attempt, operation) if rows else []

    def edit(self, changes: Mapping[str, Mapping[str, Any]], *, operation: str, base: pa.Table | None = None) -> int:
        """Set cells in one commit and return how many rows changed.

        Args:
            changes: Column → episode id → new value (`None` empties the cell).
            operation: What `history()` shows.
            base: Rows that the caller looked at. A cell that another commit changed since then is a conflict.

        Raises:
            ConflictError: Names rows and columns; nothing was changed.
            EpisodeNotFoundError: An episode was deleted meanwhile.
        """
        ids = sorted({episode_id for cells in changes.values() for episode_id in cells})

        def attempt() -> int:
            latest = self._latest()
            self._check_edit(changes, ids, latest, base)
            known = dict(zip(latest["episode_id"].to_pylist(), latest["_extra"].to_pylist(), strict=True))
            fitted = fit_cells(latest, [{c: v.get(i) for c, v in changes.items() if i in v} for i in ids])
            self._adapt(fitted.added, fitted.widened)
            schema = self._schema()
            edits: dict[str, dict[str, Any]] = {c: {} for c in changes if c in schema.names}
            extras: dict[str, Any] = {}
            for i, cells, extra in zip(ids, fitted.cells, fitted.extra, strict=True):
                touched = {c for c, v in changes.items() if i in v}
                for column in touched & set(edits):
                    edits[column][i] = cells.get(column)
                before = extra_values(known[i])
                after = {**{k: v for k, v in before.items() if k not in touched}, **extra}
                if after != before:
                    extras[i] = extra_text(after)
            if extras:
                edits["_extra"] = extras
            self._merge(edits, ids, schema, operation)
            self.rows = _edited(aligned(self.rows, schema), edits)
            return len(ids)

        return self._retrying(attempt, operation) if ids else 0

    def delete(self, ids: Sequence[str], *, operation: str = "delete") -> int:
        """Take episodes out of the table in one commit; their data files stay."""

        def attempt() -> int:
            present = set(self._latest()["episode_id"].to_pylist())
            there = sorted(set(ids) & present)
            if there:
                literals = ", ".join(_literal(i) for i in there)
                predicate = f"{_range(there)} AND episode_id IN ({literals})"
                self._table.delete(predicate, **_commit_options(operation, len(there)))
                self._after_commit()
            self.rows = self.rows.filter(pc.invert(pc.is_in(self.rows["episode_id"], pa.array(list(ids), pa.string()))))
            return len(there)

        return self._retrying(attempt, operation) if ids else 0

    def history(self) -> list[dict[str, Any]]:
        """Return the commits, newest first: version, time (ms since 1970), operation, episodes, and who made them."""
        return [
            {
                "version": entry["version"],
                "timestamp_ms": entry["timestamp"],
                "operation": entry.get("fogx_operation") or _spelled(entry.get("operation", "")),
                "episodes": entry.get("fogx_episodes"),
                "user": entry.get("userName"),
            }
            for entry in self._table.history()
        ]

    def _schema(self) -> pa.Schema:
        fields = []
        for f in pa.schema(self._table.schema().to_arrow()):
            kind = pa.string() if pa.types.is_string(f.type) or f.type in (pa.string_view(), pa.large_string()) else f.type
            kind = pa.binary() if kind in (pa.binary_view(), pa.large_binary()) else kind
            fields.append(pa.field(f.name, kind, f.nullable))
        return pa.schema(fields)

    def _latest(self) -> pa.Table:
        """Return the rows of the version that the Delta handle is at, in order of id; files read once."""
        schema = self._schema()
        missing = [name for name in BASE.names if name not in schema.names]
        if missing:
            raise CorruptDataError(f"{self.store.root}: the episodes table lacks the columns {listing(missing)}.")
        paths = pa.table(self._table.get_add_actions(flatten=True))["path"].to_pylist()
        held = {path: self._files[path] if path in self._files else self._read(path) for path in paths}
        self._files = {path: aligned(table, schema) for path, table in held.items()}
        tables = list(self._files.values())
        return _by_id(pa.concat_tables(tables)) if tables else schema.empty_table()

    def _read(self, path: str) -> pa.Table:
        # Files that delta-rs rewrote hold string views; `aligned` casts them. Never to_pyarrow_table(): it aborts at exit.
        if "/" in path or not path.endswith(".parquet"):
            raise CorruptDataError(f"{self.store.root}: the log names {path[:120]!r}, which is not a file fogx writes.")
        data = self.store.read_small(f"episodes/{path}")
        if data is None:
            raise CorruptDataError(f"{self.store.root}: episodes/{path} is not there, though the log names it.")
        try:
            return pq.read_table(pa.BufferReader(data), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CorruptDataError(f"{self.store.root}: episodes/{path} is not readable: {error}") from error

    def _adapt(self, added: Mapping[str, pa.DataType], widened: Mapping[str, pa.DataType]) -> None:
        """Make the schema commits that a batch needs, each of its own, before the batch."""
        if added:
            from deltalake import Field, Schema

            fields = Schema.from_arrow(pa.schema([pa.field(n, t) for n, t in added.items()])).fields
            self._table.alter.add_columns([Field(f.name, f.type) for f in fields], **_commit_options("add columns", 0))
            self._after_commit()
        if widened:
            schema = pa.schema([f.with_type(widened.get(f.name, f.type)) for f in self._schema()])
            # All files are replaced; an append that lands meanwhile keeps its old type and is cast at read, without loss.
            self._commit_rows(aligned(self._latest(), schema), "overwrite", "widen columns", 0, ())

    def _commit_rows(self, table: pa.Table, mode: str, operation: str, episodes: int, sources: Sequence[str]) -> None:
        from deltalake import Schema, Transaction
        from deltalake.transaction import AddAction

        name, actions = f"{uuid.uuid4().hex}.parquet", []
        if table.num_rows:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            data = sink.getvalue().to_pybytes()
            self.store.write_small(f"episodes/{name}", data)
            bounds = pc.min_max(table["episode_id"]).as_py()
            stats = {
                "numRecords": table.num_rows,
                "minValues": {"episode_id": bounds["min"]},
                "maxValues": {"episode_id": bounds["max"]},
                "nullCount": {"episode_id": 0},
            }
            actions = [AddAction(name, len(data), {}, time.time_ns() // 1_000_000, True, json.dumps(stats))]
        marks = [Transaction(source, (self._table.transaction_version(source) or 0) + 1) for source in sources]
        options = _commit_options(operation, episodes, transactions=marks)
        self._table.create_write_transaction(actions, mode, Schema.from_arrow(table.schema), **options)
        self._table.update_incremental()
        self._after_commit()

    def _merge(self, edits: Mapping[str, Mapping[str, Any]], ids: Sequence[str], schema: pa.Schema, operation: str) -> None:
        source: dict[str, pa.Array] = {"episode_id": pa.array(ids, pa.string())}
        updates = {}
        for number, (column, cells) in enumerate(edits.items()):
            quoted = '"' + column.replace('"', '""') + '"'
            source[f"value{number}"] = pa.array([cells.get(i) for i in ids], schema.field(column).type)
            source[f"given{number}"] = pa.array([i in cells for i in ids])
            updates[quoted] = f"CASE WHEN s.given{number} THEN s.value{number} ELSE t.{quoted} END"
        # The literal range lets delta-rs see that other writers' appends do not touch these rows.
        on = f"t.episode_id = s.episode_id AND {_range(ids, 't.')}"
        merge = self._table.merge(
            pa.table(source), on, source_alias="s", target_alias="t", **_commit_options(operation, len(ids))
        )
        merge.when_matched_update(updates).execute()
        self._after_commit()

    def _check_edit(
        self, changes: Mapping[str, Mapping[str, Any]], ids: Sequence[str], latest: pa.Table, base: pa.Table | None
    ) -> None:
        now = dict(zip(latest["episode_id"].to_pylist(), range(latest.num_rows), strict=True))
        gone = [i for i in ids if i not in now]
        if gone:
            raise EpisodeNotFoundError(
                f"{self.store.root}: {len(gone)} of {len(ids)} episodes are not there: {listing(gone, most=3)}. Nothing was changed; "
                "refresh() and select again."
            )
        if base is None:
            return
        then = dict(zip(base["episode_id"].to_pylist(), range(base.num_rows), strict=True))
        clashes = []
        for column, cells in changes.items():
            new = latest[column].to_pylist() if column in latest.column_names else [None] * latest.num_rows
            old = base[column].to_pylist() if column in base.column_names else [None] * base.num_rows
            clashes += [
                f"{i}.{column}"
                for i in cells
                if i in then and not _same(old[then[i]], new[now[i]]) and not _same(cells[i], new[now[i]])
            ]
        if clashes:
            raise ConflictError(
                f"{self.store.root}: another commit changed {len(clashes)} of the same cells since this table was read: "
                f"{listing(clashes, most=5)}. Nothing was changed; call refresh(), get_episode_info() again, and repeat the edit."
            )

    def _retrying(self, attempt: Callable[[], T], operation: str) -> T:
        """Run one commit until it meets no other writer's."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        for trial in _trials(CommitFailedError):
            with trial, self._lock:
                self._table.update_incremental()
                roots.check_writable(self.store, self._table)
                try:
                    return attempt()
                except CommitFailedError:
                    raise
                except (DeltaError, OSError) as error:
                    if isinstance(error, FogxError):
                        raise
                    raise StorageError(
                        f"{self.store.root}: {operation} could not be committed: {error}. It can be tried again; it is not done twice."
                    ) from error
        raise AssertionError("unreachable")

    def _after_commit(self) -> None:
        """Make everything up to the version just committed durable, other writers' entries too; then move on."""
        from deltalake.exceptions import DeltaError

        version = self._table.version()
        self._sync(version)
        if version % CHECKPOINT_EVERY == 0:
            try:
                self._checkpoint(version)
                # A handle slows down with every commit it follows; one opened from the checkpoint does not know them.
                self._table = roots.open_table(self.store, version)
            except (DeltaError, FogxError, OSError) as error:
                # The commit is durable; a checkpoint only makes opening faster.
                logger.warning("%s: the checkpoint of version %d failed and was left out: %s", self.store.root, version, error)
        self.version = version

    def _sync(self, version: int) -> None:
        if not self.store.is_local:
            return
        folder = join(self.store.root, roots.LOG_FOLDER)
        entries = sorted(name for name in self.store.sizes(roots.LOG_FOLDER) if name.endswith(".json") and name[:20].isdigit())
        fresh = [name for name in entries if self._durable < int(name[:20]) <= version]
        data = []
        for name in fresh:
            with open(join(folder, name), encoding="utf-8") as file:
                added = [json.loads(line)["add"]["path"] for line in file if line.startswith('{"add"')]
            data += [join(self.store.root, "episodes", path) for path in added]
        fsync_files(path for path in data if os.path.exists(path))
        fsync_files(join(folder, name) for name in fresh)
        self._durable = version

    def _checkpoint(self, version: int) -> None:
        """Write a checkpoint, make it durable, and read it back: a torn one would close the table."""
        self._table.create_checkpoint()
        name = f"{roots.LOG_FOLDER}/{version:020d}.checkpoint.parquet"
        data = self.store.read_small(name)
        if data is None:  # delta-rs chose a checkpoint of several parts; those are not read back
            return
        try:
            pq.read_table(pa.BufferReader(data), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{name} was written damaged: {error}") from error
        if self.store.is_local:
            last = join(self.store.root, roots.LOG_FOLDER, "_last_checkpoint")
            fsync_files([join(self.store.root, name), last])


def _trials(conflict: type[Exception]) -> Iterator[tenacity.AttemptManager]:
    return iter(
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(conflict),
            stop=tenacity.stop_after_attempt(_TRIES),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
            retry_error_callback=_give_up,
        )
    )


def _give_up(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    raise ConflictError(
        f"the commit met other writers' commits {state.attempt_number} times in a row and was given up; nothing of it is visible. "
        f"Try again when fewer processes write. Last answer: {error}"
    ) from error


def _commit_options(operation: str, episodes: int, *, transactions: Sequence[Any] = ()) -> dict[str, Any]:
    from deltalake import CommitProperties, PostCommitHookProperties

    about = {"fogx_operation": operation, "fogx_episodes": episodes, "userName": _user()}
    properties = CommitProperties(custom_metadata=about, app_transactions=list(transactions) or None)
    # Checkpoints are ours: written, synced and read back.
    hooks = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    return {"commit_properties": properties, "post_commithook_properties": hooks}


@functools.cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _not_there(rows: Sequence[Mapping[str, Any]], there: set[str], latest: pa.Table) -> list[Mapping[str, Any]]:
    """Leave out rows that are there already, or whose source is."""
    sources = set(latest["source_key"].to_pylist()) - {None} if any(row["source_key"] for row in rows) else set()
    return [row for row in rows if row["source_key"] not in sources and row["episode_id"] not in there]


def _stacked(rows: pa.Table, added: pa.Table) -> pa.Table:
    rows = rows.filter(pc.invert(pc.is_in(rows["episode_id"], added["episode_id"].combine_chunks())))
    return _by_id(pa.concat_tables([aligned(rows, added.schema), added]))


def _edited(rows: pa.Table, edits: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    ids = rows["episode_id"].to_pylist()
    for column, cells in edits.items():
        position = rows.column_names.index(column)
        values = [cells.get(i, v) for i, v in zip(ids, rows[column].to_pylist(), strict=True)]
        rows = rows.set_column(position, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))
    return rows


def _by_id(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["episode_id"])).combine_chunks()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _range(ids: Sequence[str], prefix: str = "") -> str:
    return f"{prefix}episode_id >= {_literal(min(ids))} AND {prefix}episode_id <= {_literal(max(ids))}"


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))


def _spelled(operation: str) -> str:
    return {"CREATE TABLE": "create", "ADD COLUMN": "add columns"}.get(operation, operation.lower())
