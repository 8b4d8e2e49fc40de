"""One root's `episodes` table as a handle sees it, and the only way to change it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from fogx.errors import ConflictError, DatasetNotFoundError, EpisodeNotFoundError, FogxError, StorageError, in_one_line, listing
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log import versions
from fogx.storage.log.delta import DeltaLog
from fogx.storage.log.rows import Fitted, aligned, extra_text, extra_values, fit_cells
from fogx.storage.log.snapshot import Edits, Snapshot, by_id, patched, with_rows, without_rows
from fogx.storage.log.vacuum import vacuum

T = TypeVar("T")

_MOVED = "fogx.pointersMoved"

Cells = Mapping[str, Mapping[str, Any]]
"""Episode id → cells of its row by column."""

_MADE_FROM = ["episode_id", "index_file", "index_row", "segments_file"]
"""What new segments of an episode are made from: its steps, and the segments that it has."""

PATIENCE_S = 120.0
"""A commit that meets other writers' is tried again for so long."""


class EpisodeLog:
    """The `episodes` table of one root, seen at one version plus this handle's own commits.

    Opening reads the log and the (narrow) rows, fsyncs nothing, and reads no data file. Threads may share a handle.

    Args:
        store: The root.
        version: A version to look at, for reading only; `None` for the newest.

    Attributes:
        delta: The table itself, for the other modules of this room.
    """

    def __init__(self, store: Store, version: int | None = None) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._settled = False
        self.delta = DeltaLog(store, version)
        self.version: int = self.delta.version
        self.root_id = roots.root_id(self.delta.table)
        self.name = str(self.delta.table.metadata().name or "")
        self.rows = self.delta.snapshot().rows

    def refresh(self) -> None:
        """Move this handle to the newest version."""
        with self._lock:
            self.delta.update()
            self.version = self.delta.version
            self.rows = self.delta.snapshot().rows

    def newest(self) -> int:
        """Return the newest version that there is, without moving to it."""
        return int(roots.open_table(self.store).version())

    def source_keys(self) -> frozenset[str]:
        """Return the `source_key`s of the newest version, without moving to it."""
        with self.newest_table() as table:
            table.sync()  # what is there already counts as saved
            return frozenset(table.snapshot().rows["source_key"].to_pylist()) - {None}

    def holds(self, episode_id: str) -> bool:
        """Return whether the newest version has an episode, without moving to it."""
        with self.newest_table() as table:
            table.sync()  # what is there already counts as saved
            return bool(table.snapshot().of(pa.array([episode_id])).num_rows)

    def append(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        operation: str,
        sources: Sequence[str] = (),
        began: Stopwatch | None = None,
    ) -> list[str]:
        """Publish episodes in one commit, durably, and return the ids that were added.

        Args:
            rows: As `Packed.rows`: system columns, and `metadata` with the user's cells.
            operation: What `history()` shows.
            sources: Identities of the shards that `source_key`s come from. Episodes whose key is there already are left out,
                also where another process imports the same shards at this moment.
            began: Runs since the first data file of these episodes was begun.

        Raises:
            StorageError: The commit could not be made, or the files are so old that `vacuum` may take them for leftovers;
                nothing of it is visible.
        """
        ids = pa.array([row["episode_id"] for row in rows], pa.string())
        keys = [row["source_key"] for row in rows if row["source_key"]]
        fitted = Fitted()

        def attempt() -> list[str]:
            nonlocal fitted
            latest = self.delta.snapshot()
            # Ids that are there already came through a commit whose answer was lost, or whose last step failed.
            mine = latest.of(ids)
            if mine.num_rows:
                self.rows = with_rows(self.rows, mine)
            there = mine["episode_id"].to_pylist()
            known = latest.values_in("source_key", keys) if keys else set()
            wanted = [row for row in rows if row["source_key"] not in known and row["episode_id"] not in there]
            if not wanted:
                return list(there)
            self._refuse_old(began, len(wanted))
            fitted = fit_cells(latest.schema, [row["metadata"] for row in wanted], latest.extremes)
            if self._adapt(fitted, latest):
                return attempt()
            system = [{k: v for k, v in row.items() if k != "metadata"} for row in wanted]
            full = [
                {**s, **cells, "_extra": extra_text(extra)}
                for s, cells, extra in zip(system, fitted.cells, fitted.extra, strict=True)
            ]
            full.sort(key=lambda row: str(row["episode_id"]))
            table = pa.Table.from_pylist(full, schema=latest.schema)
            self.delta.commit(operation, len(full), add=table, sources=sources)
            self._own(with_rows(self.rows, table))
            return [*there, *(str(row["episode_id"]) for row in wanted)]

        # Where keys are given, or the last call did not end well, what is asked for may be there already.
        made = self._retrying(attempt, operation, at_once=not keys) if rows else []
        fitted.tell()
        return made

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
        wanted, fitted = pa.array(ids, pa.string()), Fitted()

        def attempt() -> int:
            nonlocal fitted
            latest = self.delta.snapshot()
            held = latest.of(wanted)
            self._check_edit(changes, ids, held, base)
            fitted = fit_cells(latest.schema, [{c: v.get(i) for c, v in changes.items() if i in v} for i in ids], latest.extremes)
            if self._adapt(fitted, latest):
                return attempt()
            edits = _edits(changes, wanted, held["_extra"].to_pylist(), fitted, latest.schema)
            self._replace({n: patched(latest.files[n], edits) for n in latest.holding(wanted)}, operation, len(ids))
            self._own(patched(aligned(self.rows, latest.schema), edits))
            return len(ids)

        edited = self._retrying(attempt, operation) if ids else 0
        fitted.tell()
        return edited

    def delete(self, ids: Sequence[str], *, operation: str = "delete") -> int:
        """Take episodes out of the table in one commit, and return how many there were; their data files stay."""
        gone = pa.array(ids, pa.string())

        def attempt() -> int:
            latest = self.delta.snapshot()
            there = int(latest.of(gone).num_rows)
            if there:
                self._replace({n: without_rows(latest.files[n], gone) for n in latest.holding(gone)}, operation, there)
            self._own(without_rows(self.rows, gone))
            return there

        return self._retrying(attempt, operation) if ids else 0

    def repoint(self, old: Cells, new: Cells, operation: str) -> list[str]:
        """Let episodes point to new index rows, in one commit, and return the ids of those that do.

        Args:
            old: Of each episode, `index_file`, `index_row` and what else must be as it was. Episodes that are gone, or of which
                anything of it is not, are left alone.
            new: Of each, the cells to set, in columns of fogx's own.
            operation: What `history()` shows.
        """
        wanted = pa.array(sorted(old), pa.string())

        def attempt() -> list[str]:
            if not self.pointers_moved:
                self.delta.set_properties({_MOVED: "true"}, f"first {operation}")
            latest = self.delta.snapshot()
            held = {row["episode_id"]: row for row in latest.of(wanted).to_pylist()}
            moving = [i for i, row in held.items() if all(row[name] == value for name, value in old[i].items())]
            # There already, through a commit whose answer was lost: nobody else knows the new files.
            there = [i for i, row in held.items() if row["index_file"] == new[i]["index_file"]]
            if moving:
                columns = {}
                for column in new[moving[0]]:
                    values = pa.array([new[i][column] for i in moving], latest.schema.field(column).type)
                    columns[column] = values, pa.array([True] * len(moving))
                edits = Edits(pa.array(moving, pa.string()), columns)
                self._replace({n: patched(latest.files[n], edits) for n in latest.holding(edits.ids)}, operation, len(moving))
                self._own(patched(aligned(self.rows, latest.schema), edits))
            return [*there, *moving]

        return self._retrying(attempt, operation)

    def rows_of(self, ids: Sequence[str]) -> pa.Table:
        """Return the rows that episodes have in the newest version, in order of id, without moving to it.

        Raises:
            EpisodeNotFoundError: Some were deleted meanwhile.
        """

        def look() -> pa.Table:
            held = self.delta.snapshot().of(pa.array(ids, pa.string()))
            self._check_there(ids, held)
            return held

        return self._retrying(look, "reading the table")

    def resegment(
        self, rows: pa.Table, files: Mapping[str, str | None], *, operation: str, began: Stopwatch | None = None
    ) -> list[str]:
        """Let episodes name other segments, in one commit, unless another one changed meanwhile what the new ones were made from.

        Args:
            rows: Rows of the episodes, as `rows_of` gave them.
            files: Episode id → pointer of its segments, `None` where it has none any more.
            operation: What `history()` shows.
            began: Runs since the first of these files was begun.

        Returns:
            Ids of those that no longer point where they did; where there are some, nothing was changed.
        """
        wanted = pa.array(sorted(files), pa.string())
        values = pa.array([files[i] for i in wanted.to_pylist()], pa.string())
        seen = rows.filter(pc.is_in(rows["episode_id"], wanted)).select(_MADE_FROM).to_pylist()

        def attempt() -> list[str]:
            latest = self.delta.snapshot()
            held = latest.of(wanted).select(_MADE_FROM).to_pylist()
            there = {row["episode_id"]: row for row in held}
            if moved := [row["episode_id"] for row in seen if there.get(row["episode_id"]) != row]:
                return moved
            self._refuse_old(began, len(files))
            edits = Edits(wanted, {"segments_file": (values, pa.array([True] * len(wanted)))})
            self._replace({n: patched(latest.files[n], edits) for n in latest.holding(wanted)}, operation, len(wanted))
            self._own(patched(aligned(self.rows, latest.schema), edits))
            return []

        return self._retrying(attempt, operation)

    @property
    def pointers_moved(self) -> bool:
        """Whether a data file may hold an old form of an episode beside others that are current."""
        return _MOVED in self.delta.properties

    def merge_small(self) -> int:
        """Merge small files of the table where there are many, and return how many went. Commits do it now and then."""
        return self._retrying(self.delta.merge_small, "merge table files")

    def restore(self, version: int) -> int:
        """Give the table the rows that it had at a version, in a new commit; return how many episodes it then holds.

        Episodes that others add while this runs stay.

        Raises:
            UnknownNameError: No such version, or one that was not kept.
        """

        def attempt() -> int:
            versions.check_kept(self.delta, version)
            latest, then = self.delta.snapshot(), DeltaLog(self.store, version).snapshot()
            back = [aligned(table, latest.schema) for name, table in then.files.items() if name not in latest.files]
            gone = [name for name in latest.files if name not in then.files]
            if not latest.rows.equals(aligned(then.rows, latest.schema)):
                add = by_id(pa.concat_tables(back)).combine_chunks() if back else None
                self.delta.commit("restore", then.rows.num_rows, add=add, remove=gone)
            self._own(self.delta.snapshot().rows)
            return int(self.rows.num_rows)

        return self._retrying(attempt, "restore")

    @contextmanager
    def newest_table(self) -> Iterator[DeltaLog]:
        """Lend the table at its newest version, while other threads wait; the rows of this handle stay as they are."""
        with self._lock:
            self.delta.update()
            yield self.delta

    def history(self) -> list[dict[str, Any]]:
        """Return the commits, newest first; see `versions.history`."""
        with self._lock:
            return versions.history(self.delta)

    def pins(self) -> dict[str, int]:
        """Return name → version of the pins, as of now."""
        with self.newest_table() as table:
            return versions.pins(table)

    def pin(self, name: str, version: int | None) -> None:
        """Keep a version under a name, or (`None`) keep it no longer.

        Raises:
            UnknownNameError: No such version, or one that was not kept; no such pin; a name of another form.
        """

        def attempt() -> None:
            versions.set_pin(self.delta, name, version)
            self.version = self.delta.version

        self._retrying(attempt, "pin")

    def migrate(self) -> tuple[int, int]:
        """Bring the table to the newest format; return the formats for writers before and after."""

        def attempt() -> tuple[int, int]:
            before = roots.writer_format(self.delta.table)
            if before < roots.WRITES:
                self.delta.set_properties(roots.CURRENT, "migrate")
                self.version = self.delta.version
            return before, max(before, roots.WRITES)

        return self._retrying(attempt, "migrate")

    def vacuum(
        self, older_than_s: float | None = None, *, dry_run: bool = False, keep: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Remove files that no kept version names; see `vacuum.vacuum`."""
        return self._retrying(lambda: vacuum(self.delta, older_than_s, dry_run=dry_run, keep=keep), "vacuum")

    def _own(self, rows: pa.Table) -> None:
        self.rows, self.version = rows, self.delta.version

    def _replace(self, files: Mapping[str, pa.Table], operation: str, episodes: int) -> None:
        """Commit new content of files of the table."""
        tables = [table for table in files.values() if table.num_rows]
        add = by_id(pa.concat_tables(tables)) if tables else None
        self.delta.commit(operation, episodes, add=add, remove=list(files))

    def _refuse_old(self, began: Stopwatch | None, episodes: int) -> None:
        limit_s = roots.safe_age_s(self.delta.table) / 2
        if began is not None and began.elapsed_s() > limit_s:
            raise StorageError(
                f"{self.store.root}: the data files of {episodes} episodes were begun {began.elapsed_s():,.0f} s ago; past "
                f"{limit_s:,.0f} s they are not committed, since vacuum() could take them for leftovers. Nothing of it is visible; "
                "save these episodes again."
            )

    def _adapt(self, fitted: Fitted, latest: Snapshot) -> bool:
        """Make the schema commits that a batch needs, each of its own, before the batch; return whether there were any."""
        if fitted.added:
            self.delta.add_columns(fitted.added)
        elif fitted.widened:
            schema = pa.schema([f.with_type(fitted.widened.get(f.name, f.type)) for f in latest.schema])
            # All files are replaced; an append that lands meanwhile keeps its old type and is cast at read, without loss.
            self.delta.commit("widen columns", 0, add=aligned(latest.rows, schema), overwrite=True)
        return bool(fitted.added or fitted.widened)

    def _check_there(self, ids: Sequence[str], held: pa.Table) -> None:
        if held.num_rows != len(ids):
            there = set(held["episode_id"].to_pylist())
            gone = [i for i in ids if i not in there]
            raise EpisodeNotFoundError(
                f"{self.store.root}: {len(gone)} of {len(ids)} episodes are not there: {listing(gone, most=3)}. Nothing was changed; "
                "refresh() and select again."
            )

    def _check_edit(
        self, changes: Mapping[str, Mapping[str, Any]], ids: Sequence[str], held: pa.Table, base: pa.Table | None
    ) -> None:
        self._check_there(ids, held)
        if base is None:
            return
        before = base.filter(pc.is_in(base["episode_id"], held["episode_id"].combine_chunks()))
        looked_at = before["episode_id"].to_pylist()
        clashes = []
        for column, cells in changes.items():
            now = dict(zip(ids, _cells(held, column), strict=True))
            then = zip(looked_at, _cells(before, column), strict=True)
            clashes += [
                f"{i}.{column}" for i, old in then if i in cells and not _same(old, now[i]) and not _same(cells[i], now[i])
            ]
        if clashes:
            raise ConflictError(
                f"{self.store.root}: another commit changed {len(clashes)} of the same cells since this table was read: "
                f"{listing(clashes, most=5)}. Nothing was changed; call refresh(), get_episode_info() again, and repeat the edit."
            )

    def _retrying(self, attempt: Callable[[], T], operation: str, *, at_once: bool = False) -> T:
        """Run one commit until it meets no other writer's, each time from the newest version.

        `at_once` spares the first look for a newer version: listing the log is a third of what a commit costs. Delta Lake
        refuses the commit where that matters.
        """
        from deltalake.exceptions import CommitFailedError, DeltaError

        for trial in _trials(CommitFailedError):
            with trial, self._lock:
                try:
                    if not (at_once and self._settled):
                        self.delta.update()
                    self._settled = False
                    roots.check_writable(self.store, self.delta.table)
                    result = attempt()
                    self.delta.sync()  # also where there was nothing left to do, as after a call that was killed
                    self._settled = True
                    return result
                except CommitFailedError:
                    raise
                except (DeltaError, OSError) as error:
                    if isinstance(error, FogxError):
                        raise
                    raise StorageError(
                        f"{self.store.root}: {operation} could not be committed: {in_one_line(error)}. It can be "
                        "tried again; it is not done twice."
                    ) from error
        raise AssertionError("unreachable")


def find(store: Store) -> EpisodeLog | None:
    """Return the table of a root, or `None` where it holds no dataset.

    Raises:
        FogxError: As `root.open_table`.
    """
    try:
        return EpisodeLog(store)
    except DatasetNotFoundError:
        return None


def _trials(conflict: type[Exception]) -> Iterator[tenacity.AttemptManager]:
    return iter(
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(conflict),
            stop=tenacity.stop_after_delay(PATIENCE_S),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
            retry_error_callback=_give_up,
        )
    )


def _give_up(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    raise ConflictError(
        f"the commit met other writers' commits {state.attempt_number} times in {state.seconds_since_start or 0:.0f} s and was given "
        f"up; nothing of it is visible. Try again when fewer processes write. Last answer: {error}"
    ) from error


def _edits(
    changes: Mapping[str, Mapping[str, Any]], ids: pa.Array, extras: Sequence[str | None], fitted: Fitted, schema: pa.Schema
) -> Edits:
    """Return the cells to write: those that fit their columns, and the `_extra` cells that hold the others."""
    names = ids.to_pylist()
    columns: dict[str, tuple[pa.Array, pa.Array]] = {}
    for column, cells in changes.items():
        if column in schema.names:
            values = [row.get(column) for row in fitted.cells]
            columns[column] = pa.array(values, schema.field(column).type), pa.array([i in cells for i in names])
    after = []
    for i, before, extra in zip(names, extras, fitted.extra, strict=True):
        kept = {k: v for k, v in extra_values(before).items() if k not in changes or i not in changes[k]} if before else {}
        after.append(extra_text({**kept, **extra}))
    # Also where it is what the newest version holds: the rows of this handle may be older.
    columns["_extra"] = pa.array(after, pa.string()), pa.array([True] * len(after))
    return Edits(ids, columns)


def _cells(table: pa.Table, column: str) -> list[Any]:
    """Return the values of a column, those kept in `_extra` too."""
    values = table[column].to_pylist() if column in table.column_names else [None] * table.num_rows
    extras = table["_extra"]
    if extras.null_count < len(extras):
        values = [extra_values(text).get(column, v) if text else v for v, text in zip(values, extras.to_pylist(), strict=True)]
    return values


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))
