"""What a damaged table should hold: rows found again in older files, in files that nothing names, and in the index."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fogx.storage.files.store import Store
from fogx.storage.log.inspect import InspectedLog, TableFile, columns_of_table, rows_on_disk
from fogx.storage.log.rows import BASE, aligned
from fogx.storage.log.snapshot import without_rows
from fogx.storage.tables.guarded import GuardedParquet
from fogx.storage.tables.inspect import UNREADABLE, DamagedError, read_parquet

_FROM_INDEX = ("episode_id", "schema_id", "num_steps")


@dataclass
class Mended:
    """How a table changes.

    Args:
        remove: Files of the table that go: bad ones, and those that hold rows which are not the newest of their episode.
        rows: What is written in their place, with all columns that any of them has.
        back: Episodes brought back that no good file of the table held.
        bare: Those of them of which only the index was left: no dataset, task or user's column.
        edited: Episodes that are there in an older form, since the newest is lost.
        stale: Episodes of which an older row stood in the table.
        left_out: Episodes that may have been deleted before, and stay away.
        missing: How many rows are lost and could not be found.
        of: Bad file → episodes that it held, as far as that can be told.
    """

    remove: list[str] = field(default_factory=list)
    rows: pa.Table | None = None
    back: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    missing: int = 0
    of: dict[str, list[str]] = field(default_factory=dict)


def mend(store: Store, log: InspectedLog, good: Iterable[str]) -> Mended:
    """Say what the newest version of a table should hold.

    Args:
        store: The root.
        log: Its log.
        good: Names of the files of the newest version that can be read.
    """
    bad = [file for name, file in log.files.items() if name not in good]
    result = Mended()
    if not bad and not log.holes and not _doubled(store, log):
        return result
    pool = dict(rows_on_disk(store, {*log.seen, *log.unnamed(store), *_removed(log)}))
    # A bad file may be another one, put in its place: what it holds is no history, but its rows are rows.
    lost = {file.name for file in bad}
    known = columns_of_table(log.metadata) if bad else {}
    for name in lost & set(pool):
        pool[name] = pool[name].select([column for column in pool[name].column_names if column in known])
    last = _last_forms(log, {n: set(table["episode_id"].to_pylist()) for n, table in pool.items() if n not in lost})
    kept: list[pa.Table] = []
    for name in log.files:
        if name in good:
            stale = [i for i in pool[name]["episode_id"].to_pylist() if last.get(i) != name]
            if stale:
                kept.append(without_rows(_plain(pool[name]), pa.array(stale)))
                result.remove.append(name)
                result.stale |= set(stale)
    live = {i for name in good if name in log.files for i in pool[name]["episode_id"].to_pylist() if last.get(i) == name}
    forms = _Forms(store, log, pool, live)
    for file in bad:
        result.remove.append(file.name)
        kept += forms.of_file(file, last, result)
    if log.holes:
        kept += forms.unnamed(last, result)
    result.rows = (
        pa.concat_tables([_plain(table) for table in kept if table.num_rows], promote_options="permissive")
        if any(table.num_rows for table in kept)
        else None
    )
    return result


def _doubled(store: Store, log: InspectedLog) -> bool:
    ids = [i for _, table in rows_on_disk(store, log.files) for i in table["episode_id"].to_pylist()]
    return len(ids) != len(set(ids))


def _removed(log: InspectedLog) -> set[str]:
    return {a["remove"]["path"] for actions in log.entries.values() for a in actions if "remove" in a}


def _last_forms(log: InspectedLog, held: Mapping[str, set[str]]) -> dict[str, str | None]:
    """Return episode → the file of its newest form, which may be one that cannot be read; `None` where it was deleted."""
    last: dict[str, str | None] = {}
    for version in sorted({*log.entries, *log.scraps, *(file.version for file in log.seen.values())}):
        actions = log.entries.get(version) or []
        scraps = log.scraps.get(version, [])
        added = [file.name for file in log.seen.values() if file.version == version]
        added += [a["add"]["path"] for a in scraps if "add" in a]
        gone = {a["remove"]["path"] for a in (*actions, *scraps) if "remove" in a}
        before = set().union(*(held.get(name, set()) for name in gone))
        after = set().union(*(held.get(name, set()) for name in added))
        unread = [name for name in added if name not in held]
        away = before - after
        if scraps:
            about: Mapping[str, Any] = next((a["commitInfo"] for a in scraps if "commitInfo" in a), {})
            # Of a torn entry some files that it added may be unknown; only so many can be deleted as it says.
            if about.get("fogx_operation") != "delete" or len(away) > int(about.get("fogx_episodes") or 0):
                away = set()
        for i in away:
            inside = [name for name in unread if name in log.seen and log.seen[name].low <= i <= log.seen[name].high]
            last[i] = inside[0] if inside else None
        for name in added:
            last.update(dict.fromkeys(held.get(name, ()), name))
    return last


class _Forms:
    """Rows of episodes that no good file of the newest version holds, wherever one is left."""

    def __init__(self, store: Store, log: InspectedLog, pool: Mapping[str, pa.Table], live: set[str]) -> None:
        self._store, self._log, self._pool, self._live = store, log, pool, live
        self._indexed: dict[str, dict[str, Any]] | None = None

    def of_file(self, file: TableFile, last: Mapping[str, str | None], result: Mended) -> list[pa.Table]:
        """Return the rows of a bad file of the table."""
        columns = _columns_left(self._store, file, columns_of_table(self._log.metadata))
        if columns is not None:
            ids, sure = [i for i in columns["episode_id"].to_pylist() if i not in self._live], True
        else:
            # It is in the newest version, so what it held is there still; the question is only what that was.
            older = {i for i, name in last.items() if name == file.name}
            fresh = {i for i in self._index() if i not in last and file.low <= i <= file.high}
            deleting = any(
                a.get("commitInfo", {}).get("fogx_operation") == "delete" for a in self._log.entries.get(file.version, [])
            )
            swapped = {i for n, t in self._pool.items() if n in self._log.files for i in t["episode_id"].to_pylist()}
            found = (older | fresh | {i for i in swapped if file.low <= i <= file.high}) - self._live
            sure = len(found) == file.rows or (len(found) < file.rows and not deleting)
            ids = sorted(found)
        if not sure:
            result.left_out |= set(ids)
            result.missing += max(file.rows, 0)
            return []
        result.missing += max(file.rows - len(ids), 0)
        result.of[file.path] = ids
        return [self._row(i, columns, result) for i in ids if self._claim(i)]

    def unnamed(self, last: Mapping[str, str | None], result: Mended) -> list[pa.Table]:
        """Return rows that only a lost entry named: of episodes that nothing else in the log knows."""
        rows = []
        keys = {k for name in self._log.files if name in self._pool for k in self._pool[name]["source_key"].to_pylist()} - {None}
        named = {a["add"]["path"] for scraps in self._log.scraps.values() for a in scraps if "add" in a}
        for name in self._log.unnamed(self._store):
            for number, row in enumerate(self._pool[name].to_pylist() if name in self._pool else []):
                i = row["episode_id"]
                if i in self._live:
                    result.edited.add(i)
                elif i in last and last[i] != name and name not in named:
                    result.left_out.add(i)
                elif (
                    last.get(i, name) == name and (row["source_key"] is None or row["source_key"] not in keys) and self._claim(i)
                ):
                    result.back.add(i)
                    rows.append(self._pool[name].slice(number, 1))
        return rows

    def _claim(self, episode_id: str) -> bool:
        if episode_id in self._live:
            return False
        self._live.add(episode_id)
        return True

    def _row(self, episode_id: str, columns: pa.Table | None, result: Mended) -> pa.Table:
        row: dict[str, Any] = {}
        older = [
            (self._log.seen[name].version, name)
            for name, table in self._pool.items()
            if name in self._log.seen and episode_id in table["episode_id"].to_pylist()
        ]
        base = self._pool[max(older)[1]] if older else BASE.empty_table()
        schema = {f.name: f.type for f in (*base.schema, *(columns.schema if columns is not None else ()))}
        if older:
            result.edited.add(episode_id)
            row = base.slice(base["episode_id"].to_pylist().index(episode_id), 1).to_pylist()[0]
        elif columns is None or not {*_FROM_INDEX, "index_file", "index_row"} <= set(columns.column_names):
            row = dict(self._index().get(episode_id, {"episode_id": episode_id}))
            if columns is None:
                result.bare.add(episode_id)
        if columns is not None:
            row |= columns.slice(columns["episode_id"].to_pylist().index(episode_id), 1).to_pylist()[0]
        result.back.add(episode_id)
        return pa.Table.from_pylist([row], schema=pa.schema(list({**{f.name: f.type for f in BASE}, **schema}.items())))

    def _index(self) -> dict[str, dict[str, Any]]:
        """Return what the index files on disk say of each episode; the newest file wins."""
        if self._indexed is None:
            self._indexed = {}
            files = [(changed_s, name) for name, _, changed_s in self._store.walk("index") if name.endswith(".parquet")]
            for _, name in sorted(files):
                try:
                    table = read_parquet(self._store.read_small(name) or b"", list(_FROM_INDEX))
                except DamagedError:
                    continue
                for number, row in enumerate(table.to_pylist()):
                    self._indexed[row["episode_id"]] = {**row, "index_file": name, "index_row": number}
        return self._indexed


def _columns_left(store: Store, file: TableFile, known: Collection[str]) -> pa.Table | None:
    """Return those known columns of a bad file that can be read, where its ids are among them and fit what the log says."""
    data = store.read_small(file.path) or b""
    try:
        names = [name for name in GuardedParquet(data, "it").schema.names if name in known]
    except UNREADABLE:
        return None
    columns: dict[str, pa.ChunkedArray] = {}
    for name in names:
        try:
            columns[name] = read_parquet(data, [name])[name]
        except (DamagedError, *UNREADABLE):
            continue
    try:
        table = pa.table(columns)
        ids = sorted(table["episode_id"].to_pylist())
    except UNREADABLE:
        return None
    # Where one of these was changed in the log, the others still tell that it is this file.
    agree = [len(ids) == file.rows, ids[:1] == [file.low], ids[-1:] == [file.high]]
    return table if sum(agree) >= 2 else None


def _plain(table: pa.Table) -> pa.Table:
    """Return rows with fogx's own columns as fogx writes them."""
    others = [f for f in table.schema if f.name not in BASE.names]
    return aligned(table, pa.schema([*BASE, *others]))
