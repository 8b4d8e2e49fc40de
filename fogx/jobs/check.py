"""Looks for damage: in the log, the table's files, and everything that they point to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from fogx.errors import CorruptDataError, DatasetNotFoundError, FeatureError, listing
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData, Samples, Segment
from fogx.reading.episodes import decoder
from fogx.settings import config
from fogx.stats import FeatureStats
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.inspect import Finding, InspectedLog, columns_of_table, inspect_log, read_rows
from fogx.storage.log.recover import Mended, mend
from fogx.storage.log.rows import BASE, aligned
from fogx.storage.tables.derived import source_of
from fogx.storage.tables.digest import digest, is_checksum
from fogx.storage.tables.index import PARTS, IndexRow, read_index, read_schema, schema_name
from fogx.storage.tables.inspect import (
    UNREADABLE,
    DamagedError,
    check_frames,
    check_frames_place,
    check_segments,
    check_steps,
    check_steps_place,
    opened,
    read_group,
)
from fogx.storage.tables.pack import statistics
from fogx.storage.tables.places import FramesPlace, StepsPlace
from fogx.storage.tables.segments import read_segments, segments_of, steps_of
from fogx.storage.tables.steps import RECEIVED, columns_of, steps_schema, with_values

KINDS = (
    "lost",
    "truncated",
    "unreadable",
    "checksum",
    "wrong content",
    "wrong count",
    "wrong statistics",
    "bad pointer",
    "doubled",
    "empty log entry",
    "torn log entry",
    "log gap",
    "torn checkpoint",
    "bad last checkpoint",
)
"""Every kind of finding that there is."""

COLUMNS = ("severity", "kind", "file", "episodes", "episode_ids", "what", "remedy")

_AGAIN = "The episode is whole: repair() lets go of its frames in other sizes, derive() makes them again."

_OWN = pa.schema([BASE.field(n) for n in ("episode_id", "schema_id", "num_steps", "index_file", "index_row", "segments_file")])


@dataclass
class Examined:
    """A root as `check` saw it.

    Args:
        log: Its log.
        tables: Name → rows, in fogx's own columns, of those table files of the newest version that are good.
        findings: What is wrong.
        of_segments: What is wrong with segments, without which episodes are whole.
        of_derived: What is wrong with frames in other sizes, without which episodes are whole.
        segments: Id → segments, where all values were read and these are good.
        mended: How the table can be mended.
        lacking: Columns that files of the table have and its schema has not.
    """

    log: InspectedLog
    tables: dict[str, pa.Table] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    of_segments: list[Finding] = field(default_factory=list)
    of_derived: list[Finding] = field(default_factory=list)
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    mended: Mended = field(default_factory=Mended)
    lacking: dict[str, pa.DataType] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """One episode whose index row is good, with its schema."""

    index: IndexRow
    index_file: str
    segments_file: str | None
    schema: Schema


def check(path: str | os.PathLike[str], *, deep: bool = False, storage_options: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Look for damage in a root, also in one that cannot be opened; returns one row a finding, none where all is sound.

    Nothing is changed. The newest version is looked at; of older ones only the log. Without `deep` the log, the table, the index
    and the ends of all data files are read: what is lost, cut at any length, or swapped for another file is found, a few
    milliseconds a file. With `deep` every byte that holds a value is read as well, one episode (and its row group) at a time in
    memory: page checksums, the CRC32C of each frame, the checksum of each episode, its statistics, and every image is decoded.

    What can change unnoticed changes no value that fogx reads: text in parquet footers that says who wrote a file, times and
    other notes in the log, the page index and the bounds of columns other than `episode_id` in `steps`, the `timestamp_ns` of
    `frames` (the one of `steps` counts), and `fogx.json`. A newest log entry that is gone whole leaves no trace.

    Args:
        path: Folder or URL.
        deep: Also read all values.
        storage_options: For remote roots, as fsspec takes them.

    Returns:
        `severity` (`"damage"`, or `"notice"` for what hurts nothing in the newest version), `kind` (lost, truncated,
        unreadable, checksum, wrong content, wrong count, wrong statistics, bad pointer, doubled, empty log entry, torn log entry,
        log gap, torn checkpoint, bad last checkpoint), `file` (relative to the root), `episodes` (how many it hurts),
        `episode_ids` (a list of those known by id), `what`, `remedy`.

    Raises:
        DatasetNotFoundError: The path holds nothing of a dataset.
    """
    seen = examine(store_of(path, storage_options), deep=deep)
    return frame([*seen.findings, *seen.of_segments, *seen.of_derived])


def store_of(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Store:
    """Return the store of a root that may be damaged.

    Raises:
        DatasetNotFoundError: The path holds nothing of a dataset.
    """
    store = Store(path, StorageOptions(storage_options))
    if not roots.exists(store) and store.read_small("fogx.json") is None:
        raise DatasetNotFoundError(f"{store.root} holds no dataset: neither {roots.LOG_FOLDER} nor fogx.json is there.")
    return store


def frame(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return findings as a table, one row a file and kind."""
    merged: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        merged.setdefault((finding.severity, finding.kind, finding.file), []).append(finding)
    rows = []
    for (severity, kind, file), same in merged.items():
        ids = sorted({i for finding in same for i in finding.episode_ids})
        more = f" And {len(same) - 1} more like it." if len(same) > 1 else ""
        episodes = max([len(ids), *(finding.episodes for finding in same)])
        rows.append((severity, kind, file, episodes, ids, same[0].what + more, same[0].remedy))
    rows.sort(key=lambda row: (row[0], row[2], row[1]))
    text = dict.fromkeys(("severity", "kind", "file", "what", "remedy"), "string")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({**text, "episodes": "Int64"})


def examine(store: Store, *, deep: bool) -> Examined:
    """Look at a whole root; see `check`."""
    log = inspect_log(store)
    seen = Examined(log, findings=list(log.findings))
    known = columns_of_table(log.metadata) if log.metadata else {}
    bad: dict[str, DamagedError] = {}
    for file in log.files.values():
        try:
            table = read_rows(store, file)
            seen.tables[file.name] = aligned(table, _OWN)
            if unknown := [name for name in table.column_names if known and name not in known]:
                seen.lacking |= {name: table.schema.field(name).type for name in unknown}
                what = f"The file has the columns {listing(unknown, most=3)}, which the log does not know."
                ids = tuple(map(str, table["episode_id"].to_pylist()))
                seen.findings.append(Finding("wrong content", file.path, what, episode_ids=ids))
        except DamagedError as damage:
            bad[file.name] = damage
    seen.mended = mend(store, log, seen.tables)
    for name, error in bad.items():
        file, held = log.files[name], seen.mended.of.get(log.files[name].path, [])
        seen.findings.append(
            Finding(error.kind, file.path, error.what, episode_ids=tuple(held), episodes=max(file.rows, len(held)))
        )
    _name_episodes(seen)
    rows = [row for name, table in seen.tables.items() for row in _rows(name, table)]
    _check_doubles(seen, rows)
    _check_segments(store, seen, rows, deep=deep)
    members = _members(store, seen, rows, PARTS if deep else ("steps", "frames", "streams", "derived"))
    sound = _check_places(store, seen, members)
    if deep:
        _check_values(store, seen, sound)
        _check_derived_values(store, seen, members)
    return seen


def _rows(name: str, table: pa.Table) -> list[dict[str, Any]]:
    return [{**row, "table": f"episodes/{name}"} for row in table.to_pylist()]


def _name_episodes(seen: Examined) -> None:
    """Say which episodes only a bad entry named."""
    entries = ("empty log entry", "torn log entry", "log gap")
    held = {i for ids in seen.mended.of.values() for i in ids}
    ids = tuple(sorted((seen.mended.back | seen.mended.edited | seen.mended.stale) - held))
    seen.findings = [
        replace(f, episode_ids=ids) if f.kind in entries and f.severity == "damage" and seen.log.holes else f
        for f in seen.findings
    ]


def _check_doubles(seen: Examined, rows: Iterable[Mapping[str, Any]]) -> None:
    first: dict[str, str] = {}
    for row in rows:
        if (other := first.setdefault(row["episode_id"], row["table"])) != row["table"]:
            what = f"An episode has a row here and in {other}."
            seen.findings.append(Finding("doubled", row["table"], what, episode_ids=(row["episode_id"],)))


def _check_segments(store: Store, seen: Examined, rows: Sequence[Mapping[str, Any]], *, deep: bool) -> None:
    """Look at the files of segments that rows name; `deep` reads them, and keeps those that are good."""
    by_file: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["segments_file"] is not None:
            by_file.setdefault(row["segments_file"], []).append(row)
    for file, mine in by_file.items():
        ids = tuple(row["episode_id"] for row in mine)
        try:
            store.path(file)
        except CorruptDataError as error:
            seen.of_segments.append(Finding("bad pointer", mine[0]["table"], str(error), episode_ids=ids))
            continue
        try:
            check_segments(store, file, ids)
            if deep:
                seen.segments |= segments_of(read_segments(store, pa.Table.from_pylist(mine, schema=_OWN)))
        except (DamagedError, *UNREADABLE) as error:
            kind, what = (error.kind, error.what) if isinstance(error, DamagedError) else (_kind(error), str(error))
            seen.of_segments.append(Finding(kind, file, what, episode_ids=ids))


def _kind(error: Exception) -> str:
    return "checksum" if "CRC" in str(error) else "unreadable"


def _members(store: Store, seen: Examined, rows: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[_Member]:
    """Read index rows and schemas; return the episodes of which both are good."""
    by_file: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        try:
            store.path(row["index_file"] or "")
            by_file.setdefault(row["index_file"], []).append(row)
        except CorruptDataError as error:
            seen.findings.append(Finding("bad pointer", row["table"], str(error), episode_ids=(row["episode_id"],)))
    members: list[_Member] = []
    for file, mine in tqdm(by_file.items(), desc="check index", unit="file", disable=not config().progress):
        for row, index in _index_rows(store, seen, file, mine, parts):
            found = (index.episode_id, index.schema_id, index.num_steps)
            if found != (row["episode_id"], row["schema_id"], row["num_steps"]):
                what = "An index row is of another episode, schema or length than the table says."
                seen.findings.append(Finding("wrong content", file, what, episode_ids=(row["episode_id"],)))
                continue
            try:
                members.append(_Member(index, file, row["segments_file"], read_schema(store, index.schema_id)))
            except CorruptDataError as error:
                name = schema_name(index.schema_id)
                kind = "lost" if store.read_small(name) is None else "unreadable"
                seen.findings.append(Finding(kind, name, str(error), episode_ids=(row["episode_id"],)))
    return members


def _index_rows(
    store: Store, seen: Examined, file: str, rows: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> list[tuple[Mapping[str, Any], IndexRow]]:
    try:
        with opened(store, file) as (parquet, _):
            count = sum(parquet.group_rows)
        inside = [row for row in rows if row["index_row"] is not None and 0 <= row["index_row"] < count]
        outside = tuple(row["episode_id"] for row in rows if row not in inside)
        if outside:
            what = f"The index file has {count} rows; the table asks for others."
            seen.findings.append(Finding("wrong count", file, what, episode_ids=outside))
        return list(zip(inside, read_index(store, file, [row["index_row"] for row in inside], parts), strict=True))
    except DamagedError as damage:
        seen.findings.append(Finding(damage.kind, file, damage.what, episode_ids=tuple(row["episode_id"] for row in rows)))
    except UNREADABLE as error:
        seen.findings.append(Finding(_kind(error), file, str(error), episode_ids=tuple(row["episode_id"] for row in rows)))
    return []


def _check_places(store: Store, seen: Examined, members: Sequence[_Member]) -> list[_Member]:
    """Compare what the index says with the footers of all data files; return the episodes where both agree."""
    bad: set[str] = set()

    def report(member: _Member, file: str, kind: str, what: str) -> None:
        seen.findings.append(Finding(kind, file, what, episode_ids=(member.index.episode_id,)))
        bad.add(member.index.episode_id)

    own: list[tuple[_Member, StepsPlace | FramesPlace]] = []
    for member in members:
        if (total := sum(place.num_rows for place in member.index.steps)) != member.index.num_steps:
            report(member, member.index_file, "wrong count", f"The index places {total} of {member.index.num_steps} steps.")
        named: list[StepsPlace | FramesPlace] = [*member.index.steps, *member.index.streams, *member.index.frames]
        own += [(member, place) for place in named]
    _check_files(store, own, report)
    _check_derived(store, seen, members)
    return [member for member in members if member.index.episode_id not in bad]


def _check_derived(store: Store, seen: Examined, members: Sequence[_Member]) -> None:
    """Compare what the index says of frames in other sizes with the footers of their files, and with what they are made from."""

    def report(member: _Member, file: str, kind: str, what: str) -> None:
        seen.of_derived.append(Finding(kind, file, what, _AGAIN, episode_ids=(member.index.episode_id,)))

    for member in members:
        for name in dict.fromkeys(place.feature for place in member.index.derived):
            try:
                feature, _ = source_of(name, member.schema)
                stored = _count(name, [place for place in member.index.derived if place.feature == name])
                if stored != (whole := _count(feature, member.index.frames_of(feature))):
                    raise DamagedError("wrong count", f"The index places {stored} frames of {name!r}, made from {whole}.")
            except DamagedError as damage:
                report(member, member.index_file, damage.kind, damage.what)
            except ValueError as error:
                report(member, member.index_file, "wrong content", f"The index is wrong: {error}.")
    _check_files(store, [(member, place) for member in members for place in member.index.derived], report)


def _check_files(
    store: Store,
    named: Sequence[tuple[_Member, StepsPlace | FramesPlace]],
    report: Callable[[_Member, str, str, str], None],
) -> None:
    """Compare places with the footers of their files; `report` is given the episode, the file, the kind and a sentence."""
    places: dict[str, list[tuple[_Member, StepsPlace | FramesPlace]]] = {}
    for member, place in named:
        places.setdefault(place.file, []).append((member, place))
    for file, mine in tqdm(places.items(), desc="check files", unit="file", disable=not config().progress):
        try:
            store.path(file)
            with opened(store, file) as (parquet, size):
                for member, place in mine:
                    try:
                        if isinstance(place, StepsPlace):
                            check_steps_place(parquet, place, member.index.episode_id, member.schema, member.index.in_steps)
                        else:
                            check_frames_place(parquet, size, place, member.index.episode_id)
                    except DamagedError as damage:
                        report(member, file, damage.kind, damage.what)
        except CorruptDataError as error:
            for member in {m.index.episode_id: m for m, _ in mine}.values():
                report(member, member.index_file, "bad pointer", str(error))
        except (DamagedError, *UNREADABLE) as error:
            kind, what = (error.kind, error.what) if isinstance(error, DamagedError) else ("unreadable", str(error))
            for member in {m.index.episode_id: m for m, _ in mine}.values():
                report(member, file, kind, what)


def _check_values(store: Store, seen: Examined, members: Sequence[_Member]) -> None:
    groups = _Groups(store)
    order = sorted(members, key=lambda m: [(p.file, p.row_group, p.first_row) for p in m.index.steps])
    for member in tqdm(order, desc="check values", unit="episode", disable=not config().progress):
        seen.findings += _values_of(groups, member, seen)


class _Groups:
    """Row groups, each read once as long as episodes come in the order in which they lie."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, tuple[tuple[str, int], pa.Table | DamagedError]] = {}

    def read(self, place: StepsPlace | FramesPlace) -> pa.Table:
        """Return the row group that a place is in."""
        key, family = (place.file, place.row_group), place.file.partition("/")[0]
        if self._held.get(family, (None,))[0] != key:
            self._held.pop(family, None)
            try:
                self._held[family] = key, read_group(self._store, *key)
            except DamagedError as damage:
                self._held[family] = key, damage
        found = self._held[family][1]
        if isinstance(found, DamagedError):
            raise found
        return found


def _values_of(groups: _Groups, member: _Member, seen: Examined) -> list[Finding]:
    """Read one episode whole and say what is wrong with it."""
    index, found, ids = member.index, list[Finding](), (member.index.episode_id,)
    for place in index.frames:
        try:
            blobs = check_frames(groups.read(place), place, index.episode_id)
        except DamagedError as damage:
            found.append(Finding(damage.kind, place.file, damage.what, episode_ids=ids))
            continue
        if (bad := _undecodable(blobs, member.schema[place.feature])) is not None:
            what = f"Frame {place.first_frame + bad[0]} of {place.feature!r} is what was stored, and cannot be decoded: {bad[1]}"
            remedy = "delete() the episode, or live without the frame."
            found.append(Finding("unreadable", place.file, what, remedy, episode_ids=ids, severity="notice"))
    try:
        times = _check_steps(groups, member, found)
        held = seen.segments.get(index.episode_id, [])
        if times is not None and steps_of(held, times) != tuple(held):
            what = "Segments name other steps than those at their times."
            seen.of_segments.append(Finding("wrong content", member.segments_file or "", what, episode_ids=ids))
    except DamagedError as damage:
        file = index.steps[0].file if index.steps else member.index_file
        found.append(Finding(damage.kind, file, damage.what, episode_ids=ids))
    return found


def _check_derived_values(store: Store, seen: Examined, members: Sequence[_Member]) -> None:
    """Read frames in other sizes, of episodes of which nothing is known to be wrong with them."""
    hurt = {i for finding in seen.of_derived for i in finding.episode_ids}
    found = [(member, place) for member in members if member.index.episode_id not in hurt for place in member.index.derived]
    groups = _Groups(store)
    for member, place in sorted(found, key=lambda entry: (entry[1].file, entry[1].row_group, entry[1].first_row)):
        try:
            blobs = check_frames(groups.read(place), place, member.index.episode_id)
            if (bad := _undecodable(blobs, source_of(place.feature, member.schema)[1])) is not None:
                what = f"Frame {place.first_frame + bad[0]} of {place.feature!r} cannot be decoded: {bad[1]}"
                raise DamagedError("unreadable", what)
        except DamagedError as damage:
            seen.of_derived.append(Finding(damage.kind, place.file, damage.what, _AGAIN, episode_ids=(member.index.episode_id,)))


def _undecodable(blobs: Iterable[bytes], feature: Feature) -> tuple[int, Exception] | None:
    """Return the number of the first frame that cannot be decoded, and the error."""
    decode = decoder(feature)
    for number, blob in enumerate(blobs):
        try:
            decode(blob)
        except (CorruptDataError, FeatureError) as error:
            return number, error
    return None


def _check_steps(groups: _Groups, member: _Member, found: list[Finding]) -> np.ndarray | None:
    """Check what is kept in `steps` and `streams`, and return the times of the steps."""
    index, schema = member.index, member.schema
    try:
        columns = _columns(groups, member, "steps", index.steps)
        times = columns.pop("timestamp_ns")
        data = EpisodeData(schema, columns, index.num_steps, times.values if times.valid is None else None)
        if index.streams:
            sent = _columns(groups, member, "streams", index.streams)
            stamps, received = sent.pop("timestamp_ns").values, sent.pop(RECEIVED)
            sent = {name: replace(column, frames=None) for name, column in sent.items()}
            sent = with_values(sent, columns, index.in_steps)
            data.samples = Samples(sent, stamps, None if received.valid is not None else received.values, index.align or {})
        else:
            data.columns = {name: replace(column, frames=None) for name, column in columns.items()}
        if not is_checksum(index.checksum, digest(data), index.frames):
            raise DamagedError("checksum", "The values are not those that were stored, by the checksum of the episode.")
        fresh = statistics(data)
    except UNREADABLE as error:
        raise DamagedError("unreadable", f"Values cannot be read: {error}.") from error
    wrong = sorted(n for n in {*fresh, *index.stats} if not _same(fresh.get(n), index.stats.get(n)))
    if wrong:
        what = f"The statistics of {listing(wrong, most=3)} are not those of the values."
        found.append(Finding("wrong statistics", member.index_file, what, episode_ids=(index.episode_id,)))
    return data.timestamps_ns


def _columns(groups: _Groups, member: _Member, family: str, places: Sequence[StepsPlace]) -> dict[str, Column]:
    """Return columns of steps or samples, whose frames are there; those of features in `frames` hold numbers."""
    in_steps = member.index.in_steps if family == "streams" else ()
    arrow = steps_schema(member.schema, family, in_steps)
    parts = [pa.Table.from_arrays([pa.nulls(0, f.type) for f in arrow], schema=arrow)]
    parts += [groups.read(place).slice(place.first_row, place.num_rows).cast(arrow) for place in places]
    table = pa.concat_tables(parts)
    check_steps(table, member.index.episode_id)
    columns = columns_of(table.drop_columns(["episode_id", "step_index"]), member.schema, in_steps)
    for name in [name for name, feature in member.schema.items() if feature.in_frames]:
        numbers = columns[name]
        _check_numbers(name, numbers.values[numbers.mask], member.index.frames_of(name))
        columns[name] = replace(numbers, frames=numbers.values)
    return columns


def _check_numbers(name: str, numbers: np.ndarray, places: Sequence[FramesPlace]) -> None:
    stored = _count(name, places)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < stored):
        raise DamagedError("wrong count", f"A step names a frame of {name!r} past the {stored} that are stored.")


def _count(name: str, places: Sequence[FramesPlace]) -> int:
    """Return how many frames places hold, one after the other."""
    stored = 0
    for place in places:
        if place.first_frame != stored:
            raise DamagedError("wrong count", f"The index places frames of {name!r} from {place.first_frame} on, after {stored}.")
        stored += len(place.lengths)
    return stored


def _same(fresh: FeatureStats | None, stored: FeatureStats | None) -> bool:
    if fresh is None or stored is None or fresh.shape != stored.shape:
        return False
    exact = all(np.array_equal(getattr(fresh, n), getattr(stored, n), equal_nan=True) for n in ("count", "min", "max"))
    # Sums depend on the order in which a processor adds.
    near = all(
        np.allclose(getattr(fresh, n), getattr(stored, n), rtol=1e-6, atol=1e-6 * np.nan_to_num(_spread(fresh)), equal_nan=True)
        for n in ("mean", "std")
    )
    return exact and near


def _spread(stats: FeatureStats) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.maximum(np.abs(stats.min), np.abs(stats.max)))
