"""Reads a log and its table files that may be damaged: with care, piece by piece, and without the table library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import CorruptDataError, listing
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.rows import BASE, aligned
from fogx.storage.tables.inspect import UNREADABLE, DamagedError, check_ends, read_parquet

REPAIR = "repair"
"""The operation of commits that mend; an entry of it may say nothing but that."""

REMEDY = "repair() sets it aside and saves what can be saved."

LOST = "fogx_lost"
"""In the note of an entry that stands in for a lost one: where what was left of it was put, or an empty text."""

_EDITS = ("tag", "update_episode_info", "annotate", "remove segments", "compact", "merge table files")
"""Operations that change no number of rows."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
_ACTIONS: dict[str, set[str]] = {
    "add": {"path", "partitionValues", "size", "modificationTime", "dataChange", "stats"},
    "remove": {"path", "dataChange"},
    "metaData": {"id", "format", "schemaString", "partitionColumns", "configuration"},
    "protocol": {"minReaderVersion", "minWriterVersion"},
    "commitInfo": set(),
    "txn": {"appId", "version"},
}
"""The actions that fogx writes, with what each must say."""

_OF_SCHEMA = ("add columns", "widen columns")
"""Operations that change columns; others that write metadata change properties alone."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        kind: One word or two of a closed list, see `check`.
        file: Where, relative to the root.
        what: A sentence.
        remedy: What to do.
        episode_ids: Episodes that it hurts, as far as they are known by id.
        episodes: How many it hurts, where that is more than are known by id.
        severity: `"damage"`, or `"notice"` for what hurts nothing in the newest version.
    """

    kind: str
    file: str
    what: str
    remedy: str = REMEDY
    episode_ids: tuple[str, ...] = ()
    episodes: int = 0
    severity: str = "damage"


@dataclass(frozen=True)
class TableFile:
    """What the log says of a file of the table: name, bytes, rows, the smallest and largest id, and the version that added it."""

    name: str
    size: int
    rows: int
    low: str
    high: str
    version: int

    @property
    def path(self) -> str:
        """Its name relative to the root."""
        return f"episodes/{self.name}"


@dataclass
class _State:
    files: dict[str, TableFile] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)

    def same(self, other: _State) -> bool:
        mine, theirs = ({(f.name, f.size, f.rows, f.low, f.high) for f in s.files.values()} for s in (self, other))
        keys = ("id", "schemaString", "configuration")
        return (mine, self.marks) == (theirs, other.marks) and all(
            self.metadata.get(key) == other.metadata.get(key) for key in keys
        )


@dataclass
class InspectedLog:
    """A log as far as it can be read.

    Args:
        newest: The newest version that some file is of; -1 where there is none.
        checkpoint: The newest version whose checkpoint is good, or -1.
        entries: Version → actions of the entries that are good.
        scraps: Version → those lines of bad entries that can be read.
        holes: Versions after the checkpoint whose entry is bad, lost, or stands in for a lost one that was not mended yet.
        aside: Files of the log that are bad, relative to the root.
        files: The table's files at the newest version, as far as that is known.
        seen: Every file that was ever added, as far as that is known.
        metadata: The table's metadata at the newest version; empty where it is lost.
        findings: What is wrong.
    """

    newest: int = -1
    checkpoint: int = -1
    entries: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    scraps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    holes: list[int] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    files: dict[str, TableFile] = field(default_factory=dict)
    seen: dict[str, TableFile] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def unnamed(self, store: Store) -> list[str]:
        """Return the table files on disk that nothing in the log names."""
        named = {action["remove"]["path"] for actions in self.entries.values() for action in actions if "remove" in action}
        return sorted(n for n in store.sizes("episodes") if n.endswith(".parquet") and n not in named and n not in self.seen)


def inspect_log(store: Store) -> InspectedLog:
    """Read every entry and checkpoint that is kept, and follow them to the newest version.

    An entry is good when each line is an action, when it says something, fits what was before it, and when the rows that it adds
    and removes are as many as its own note says; a checkpoint, when it says what the entries before it say. At last the table
    library has a try.
    """
    log = _inspect(store, None)
    if any(finding.severity == "damage" for finding in log.findings):
        return log
    try:
        roots.open_table(store)
    except CorruptDataError as error:
        distrusted = _inspect(store, log.checkpoint)
        if log.checkpoint >= 0 and distrusted.metadata:
            return distrusted
        log.findings.append(
            Finding("unreadable", roots.LOG_FOLDER, str(error), "Restore the log from a backup; repair() cannot.")
        )
    return log


def _inspect(store: Store, distrusted: int | None) -> InspectedLog:
    sizes = store.sizes(roots.LOG_FOLDER)
    entries = {int(match[1]) for name in sizes if (match := _ENTRY.fullmatch(name))}
    checkpoints: dict[int, list[str]] = {}
    for name in sorted(sizes):
        if match := _CHECKPOINT.fullmatch(name):
            checkpoints.setdefault(int(match[1]), []).append(name)
    log = InspectedLog(newest=max([*entries, *checkpoints], default=-1))
    if log.newest < 0:
        log.findings.append(
            Finding("lost", roots.LOG_FOLDER, "The log has no entry.", "Restore it from a backup; repair() cannot.")
        )
        return log
    first = min([*entries, *checkpoints])
    start = first if first in checkpoints else 0
    state, whole, gaps = _State(), start == 0, list[Finding]()
    for version in range(start, log.newest + 1):
        name = f"{roots.LOG_FOLDER}/{roots.entry(version)}"
        trimmed = version == first and version not in entries
        try:
            if not trimmed:
                log.entries[version] = actions = _entry(store, name, log.seen, state if whole else None)
                _apply(state, log.seen, version, actions)
                whole = not _follow_repair(store, log, version, actions) and whole
        except DamagedError as damage:
            log.scraps[version] = _scraps(store.read_small(name))
            whole = False
            log.holes.append(version)
            if version in entries:
                log.aside.append(name)
            gaps.append(Finding(damage.kind, name, damage.what))
        if version in checkpoints:
            there = _State()
            paths = [f"{roots.LOG_FOLDER}/{part}" for part in checkpoints[version]]
            try:
                _apply(there, log.seen, version, _checkpoint(store, paths))
                if version == distrusted:
                    raise DamagedError("torn checkpoint", "The table library cannot read it.")
                if whole and not there.same(state):
                    raise DamagedError("wrong content", "The checkpoint does not say what the entries before it say.")
            except DamagedError as damage:
                log.aside += paths
                log.findings += [Finding(damage.kind, path, damage.what) for path in paths]
            else:
                state, whole, log.checkpoint = there, True, version
                log.holes.clear()
                log.findings += [_harmless(gap, version) for gap in gaps]
                gaps.clear()
    log.files, log.metadata = state.files, state.metadata
    log.findings += gaps
    if start and log.checkpoint < 0:
        what = "No checkpoint is good, and the entries before were removed by vacuum()."
        log.findings.append(Finding("lost", roots.LOG_FOLDER, what, "Restore the log from a backup; repair() cannot."))
    if not state.metadata:
        log.findings.append(
            Finding(
                "lost", roots.LOG_FOLDER, "The entries that say what the table is are lost.", "Restore the log from a backup."
            )
        )
    _note(store, log, {v for v, parts in checkpoints.items() if not set(parts) & {n.rpartition("/")[2] for n in log.aside}})
    return log


def read_rows(store: Store, file: TableFile) -> pa.Table:
    """Return the rows of a file of the table, in the columns as stored, after comparing them with what the log says.

    Raises:
        DamagedError: Says how.
    """
    if "/" in file.name or not file.name.endswith(".parquet"):
        raise DamagedError("bad pointer", f"The log names {file.name[:120]!r}, which is not a name that fogx gives.")
    data = store.read_small(file.path)
    if data is None:
        raise DamagedError("lost", "The file is not there, though the newest version names it.")
    if len(data) < file.size:
        raise DamagedError("truncated", f"The file has {len(data):,} of the {file.size:,} bytes that the log says.")
    table = read_parquet(data)
    if len(data) != file.size:
        raise DamagedError("wrong content", f"The file has {len(data):,} bytes, the log says {file.size:,}.")
    if file.rows >= 0 and table.num_rows != file.rows:
        raise DamagedError("wrong count", f"The file has {table.num_rows} rows, the log says {file.rows}.")
    if missing := [name for name in BASE.names if name not in table.column_names]:
        raise DamagedError("wrong content", f"The file lacks the columns {listing(missing, most=3)}.")
    try:
        bounds = pc.min_max(aligned(table.select(["episode_id"]), pa.schema([BASE.field("episode_id")]))["episode_id"]).as_py()
        aligned(table, BASE)
    except UNREADABLE as error:
        raise DamagedError("unreadable", f"A column is not what fogx writes: {error}.") from error
    if table.num_rows and file.low and (bounds["min"], bounds["max"]) != (file.low, file.high):
        raise DamagedError(
            "wrong content", f"The ids are {bounds['min']} to {bounds['max']}, the log says {file.low} to {file.high}."
        )
    return table


def _note(store: Store, log: InspectedLog, good: set[int]) -> None:
    """Look at the log's own note of its newest checkpoint."""
    name = f"{roots.LOG_FOLDER}/{roots.LAST_CHECKPOINT}"
    data, noted = store.read_small(name), roots.last_checkpoint(store)
    if data is None:
        if good:
            what = "The note of the newest checkpoint is lost; opening lists the log instead."
            log.findings.append(Finding("lost", name, what, "repair() writes a new checkpoint and note.", severity="notice"))
    elif noted is None or noted not in good:
        lost = None if noted is None else f"{roots.LOG_FOLDER}/{roots.checkpoint(noted)}"
        if lost and lost not in log.aside:
            log.findings.append(Finding("lost", lost, "The newest checkpoint is not there, though the log's note names it."))
        log.aside.append(name)
        what = (
            "The note cannot be read." if noted is None else f"It names the checkpoint of version {noted}, which is lost or bad."
        )
        log.findings.append(Finding("bad last checkpoint", name, what))


def _harmless(gap: Finding, version: int) -> Finding:
    """Return what a bad entry means where a good checkpoint comes after it."""
    if gap.kind == "log gap":
        what = f"{gap.what} The checkpoint of version {version} stands for it; versions just before that cannot be opened."
        return Finding(gap.kind, gap.file, what, "None is needed.", severity="notice")
    return Finding(gap.kind, gap.file, f"{gap.what} The newest version does not need it; some older ones do.")


def _entry(store: Store, name: str, seen: Mapping[str, TableFile], before: _State | None) -> list[dict[str, Any]]:
    data = store.read_small(name)
    if data is None:
        raise DamagedError("log gap", "The entry is lost, and others after it are there.")
    if not data.strip():
        raise DamagedError("empty log entry", "The entry is empty, as after a power loss while it was written.")
    try:
        actions = [json.loads(line) for line in data.splitlines()]
        for action in actions:
            ((key, body),) = action.items()
            if not _fits(key, body):
                raise ValueError(f"there is no action {str(key)[:40]!r} like this")
            if key == "add":
                _table_file(body, 0)
            if key == "metaData":
                columns_of_table(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError("torn log entry", f"The entry cannot be read: {error}.") from error
    _check_balance(actions, seen)
    if before is not None:
        _check_step(actions, before)
    return actions


def _check_step(actions: Sequence[dict[str, Any]], before: _State) -> None:
    """Refuse an entry that does not fit what was before it."""
    about: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    unknown = [a["remove"]["path"] for a in actions if "remove" in a and a["remove"]["path"] not in before.files]
    if unknown:
        raise DamagedError("torn log entry", f"The entry was changed: it removes {unknown[0][:60]!r}, which was not there.")
    for new in [action["metaData"] for action in actions if "metaData" in action]:
        old = before.metadata
        if not old or "fogx_commit" not in about:
            continue
        grows = about.get("fogx_operation") in _OF_SCHEMA
        same = ["id", "name", "configuration"] if grows else ["id", "name", "schemaString"]
        if any(new.get(key) != old.get(key) for key in same) or not set(columns_of_table(old)) <= set(columns_of_table(new)):
            raise DamagedError(
                "torn log entry", "The entry was changed: it says of the table what its operation does not change."
            )


def _follow_repair(store: Store, log: InspectedLog, version: int, actions: Sequence[Mapping[str, Any]]) -> bool:
    """Know a hole that `repair` filled and, until it has committed what was lost there, still has to mend; say whether it is one."""
    about: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    if LOST in about:
        log.holes.append(version)
        log.scraps[version] = _scraps(store.read_small(about[LOST]) if about[LOST] else None)
    elif about.get("fogx_operation") == REPAIR:
        log.holes.clear()
    return LOST in about


def _fits(key: str, body: Any) -> bool:
    return key in _ACTIONS and isinstance(body, dict) and set(body) >= _ACTIONS[key]


def columns_of_table(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return name → type of the columns that a table's metadata gives.

    Raises:
        ValueError: It is not a schema of a table of fogx.
    """
    columns = {}
    for column in json.loads(metadata["schemaString"])["fields"]:
        if set(column) != {"name", "type", "nullable", "metadata"} or not isinstance(column["nullable"], bool):
            raise ValueError("a column lacks a part")
        columns[str(column["name"])] = json.dumps(column["type"])
    if missing := [name for name in BASE.names if name not in columns]:
        raise ValueError(f"the columns {listing(missing, most=3)} are missing")
    if metadata["format"].get("provider") != "parquet":
        raise ValueError("the table is not of parquet files")
    return columns


def _scraps(data: bytes | None) -> list[dict[str, Any]]:
    found = []
    for line in (data or b"").splitlines():
        try:
            ((key, body),) = json.loads(line).items()
            if _fits(key, body):
                found.append({key: body})
        except (ValueError, AttributeError):
            continue
    return found


def _check_balance(actions: Sequence[dict[str, Any]], seen: Mapping[str, TableFile]) -> None:
    """Refuse an entry that was cut between two lines: the rows it adds and removes must be as many as it says."""
    about: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    operation, episodes = about.get("fogx_operation"), int(about.get("fogx_episodes") or 0)
    if len(actions) == 1 and operation != REPAIR:
        raise DamagedError("torn log entry", "The entry was cut: it says nothing but who wrote it.")
    if about.get("operation") == "CREATE TABLE" and not any("metaData" in action for action in actions):
        raise DamagedError("torn log entry", "The entry was cut: it does not say what the table is.")
    if "fogx_commit" not in about or operation in ("restore", REPAIR):
        return
    added = [_table_file(action["add"], 0).rows for action in actions if "add" in action]
    gone = [action["remove"]["path"] for action in actions if "remove" in action]
    if not all(name in seen for name in gone) or not (added or gone):
        return
    balance = sum(added) - sum(seen[name].rows for name in gone)
    expected = -episodes if operation == "delete" else 0 if gone or operation in _EDITS else episodes
    if balance != expected and operation != "widen columns":
        raise DamagedError(
            "torn log entry",
            f"The entry was cut or changed: it changes the table by {balance} rows, where {expected} were meant.",
        )


def _checkpoint(store: Store, names: Sequence[str]) -> list[dict[str, Any]]:
    if (match := _CHECKPOINT.fullmatch(names[0].rpartition("/")[2])) and match[3] and int(match[3]) != len(names):
        raise DamagedError("torn checkpoint", f"{len(names)} of its {int(match[3])} parts are there.")
    actions: list[dict[str, Any]] = []
    try:
        for name in names:
            data = store.read_small(name) or b""
            check_ends(data[:4], data[-4:])
            table = read_parquet(data, ["add", "metaData", "protocol", "txn"])
            rows = table.to_pylist()
            actions += [{key: body} for row in rows for key, body in row.items() if body]
        for action in actions:
            if "add" in action:
                _table_file(action["add"], 0)
            if "metaData" in action:
                action["metaData"]["configuration"] = dict(action["metaData"]["configuration"])
                columns_of_table(action["metaData"])
    except DamagedError as damage:
        raise DamagedError("torn checkpoint", damage.what) from damage
    except UNREADABLE as error:
        raise DamagedError("torn checkpoint", f"The checkpoint cannot be read: {error}.") from error
    if not {"metaData", "protocol"} <= {key for action in actions for key in action}:
        raise DamagedError("torn checkpoint", "The checkpoint does not say what the table is.")
    return actions


def _apply(state: _State, seen: dict[str, TableFile], version: int, actions: Iterable[dict[str, Any]]) -> None:
    for action in actions:
        if "add" in action:
            file = _table_file(action["add"], version)
            state.files[file.name] = seen.setdefault(file.name, file)
        elif "remove" in action:
            state.files.pop(action["remove"]["path"], None)
        elif "metaData" in action:
            state.metadata = action["metaData"]
        elif "txn" in action:
            state.marks[action["txn"]["appId"]] = action["txn"]["version"]


def _table_file(add: Mapping[str, Any], version: int) -> TableFile:
    stats = json.loads(add.get("stats") or "{}")
    low, high = (str(stats.get(key, {}).get("episode_id") or "") for key in ("minValues", "maxValues"))
    return TableFile(str(add["path"]), int(add["size"]), int(stats.get("numRecords", -1)), low, high, version)


def ids_of(table: pa.Table) -> list[str]:
    """Return the ids of rows."""
    return [str(i) for i in table["episode_id"].to_pylist()]


def rows_on_disk(store: Store, names: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield name and rows of those of the table files that can be read."""
    for name in names:
        data = store.read_small(f"episodes/{name}")
        try:
            if data is not None:
                table = read_parquet(data)
                aligned(table, BASE)
                yield name, table
        except (DamagedError, *UNREADABLE):
            continue
