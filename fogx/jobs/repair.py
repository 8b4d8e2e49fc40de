"""Puts damage aside and saves what can be saved: the log first, then the table, then the data of its episodes."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fogx.errors import CorruptDataError, FogxError, listing
from fogx.jobs.check import Examined, examine, store_of
from fogx.jobs.compact import pack_anew, repoint
from fogx.jobs.segments import edit_segments
from fogx.protocols import EpisodeData, Segment
from fogx.reading.episodes import Located, locate, read_sound
from fogx.reading.roots import Chosen, Root
from fogx.reading.times import step_times
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.delta import DeltaLog
from fogx.storage.log.inspect import LOST, REPAIR, InspectedLog, inspect_log
from fogx.storage.log.rows import aligned
from fogx.storage.log.snapshot import by_id
from fogx.storage.log.vacuum import files_behind
from fogx.storage.tables.index import PARTS, schema_name, write_index
from fogx.storage.tables.inspect import UNREADABLE
from fogx.storage.tables.segments import read_segments, segments_of, steps_of

QUARANTINE = "_quarantine"
"""Folder of what was set aside; fogx reads nothing there but its own reports."""

COLUMNS = ("action", "file", "episodes", "episode_ids", "what")


def repair(
    path: str | os.PathLike[str], *, dry_run: bool = False, storage_options: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Set damage aside and save what can be saved; returns what was done. Nothing is ever deleted.

    What is bad goes to `_quarantine/<time>-<id>/`, under its own name, with a `report.json` and, as parquet, the rows of episodes
    that were taken out. What is left passes `check(deep=True)` but for notices. A run that was killed is finished by the next.

    - A bad or lost entry of the log is replaced by one that says so, and what it said is found again where that can be: rows in
      table files that nothing else names come back, rows it replaced go. What it set, like pins, is lost. A cut checkpoint is
      set aside, and a new one written. Lost and only set aside are entries before a good checkpoint.
    - A bad file of the table is replaced by its columns that can be read, else by the newest older rows of the same episodes,
      else by what the index says of them: then dataset, task, times, segments and users' columns are lost. Where it cannot be told which
      of several episodes were deleted, none of them comes back; they are listed.
    - Segments that cannot be read are left out; the episodes stay.
    - Episodes of which some frames in other sizes are damaged have none any more; `derive` makes them again.
    - Episodes whose values still give their checksum are written anew. Others are deleted by a commit.

    No other process should write meanwhile; what it commits is kept, but it may meet conflicts.

    Args:
        path: Folder or URL.
        dry_run: Change nothing; say what would be done, as far as that shows before the first step was done.
        storage_options: For remote roots, as fsspec takes them.

    Returns:
        `action` (set aside, replaced, mended, written anew, taken out, left out, checkpoint), `file`, `episodes`, `episode_ids`,
        `what`.

    Raises:
        DatasetNotFoundError: The path holds nothing of a dataset.
        CorruptDataError: The log no longer says what the table is, so that a backup of it is needed. Nothing was changed.
    """
    work = _Repair(store_of(path, storage_options), dry_run)
    work.run()
    frame = pd.DataFrame(work.done, columns=list(COLUMNS))
    return frame.astype({"action": "string", "file": "string", "episodes": "Int64", "what": "string"})


class _Repair:
    """One run.

    Args:
        store: The root.
        dry_run: Only say what would be done.

    Attributes:
        done: What was done, a row each.
    """

    def __init__(self, store: Store, dry_run: bool) -> None:
        self.done: list[dict[str, Any]] = []
        self._store = store
        self._dry = dry_run
        self._folder = f"{QUARANTINE}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self._aside: list[str] = []
        self._begun = False

    def run(self) -> None:
        """Repair the log, then the table, then episodes; each from what the one before left."""
        log = inspect_log(self._store)
        first = _first_entry(self._store, log)
        self._mend_log(log, first)
        self._mend_table(examine(self._store, deep=False))
        seen = examine(self._fresh(), deep=True)
        self._mend_segments(seen)
        self._mend_derived(seen)
        self._mend_episodes(seen)
        if not self._dry:
            self._finish(log)

    def _mend_log(self, log: InspectedLog, first: Sequence[Mapping[str, Any]]) -> None:
        bad = {f"{roots.LOG_FOLDER}/{roots.entry(version)}": version for version in log.holes}
        for name in log.aside:
            if name not in bad:
                self._say("set aside", name, (), "The newest version is read without it.")
                if not self._dry:
                    self._begin()
                    self._store.move(name, f"{self._folder}/{name}")
        for name, version in bad.items():
            data = self._store.read_small(name)
            if data is not None and name not in log.aside:
                continue  # stands in for a lost one already
            self._say("replaced", name, (), "An entry that says that one was lost stands in its place.")
            if not self._dry:
                self._begin()
                kept = "" if data is None else f"{self._folder}/{name}"
                if data is not None:
                    self._store.write_small(kept, data)
                about = {
                    "timestamp": time.time_ns() // 1_000_000,
                    "operation": "WRITE",
                    "operationParameters": {"mode": "Append"},
                }
                lines = [{"commitInfo": {**about, "fogx_operation": REPAIR, LOST: kept}}, *(first if version == 0 else ())]
                self._store.write_small(name, "\n".join(map(json.dumps, lines)).encode())

    def _mend_table(self, seen: Examined) -> None:
        plan, log = seen.mended, seen.log
        if not (plan.remove or plan.rows is not None or log.holes or seen.lacking):
            return
        bad = [log.files[name].path for name in log.files if name not in seen.tables]
        ids = plan.rows["episode_id"].to_pylist() if plan.rows is not None else []
        if not self._dry:
            self._begin(bad)
            delta = DeltaLog(self._store)
            found = {f.name: f.type for f in plan.rows.schema} if plan.rows is not None else {}
            known = delta.schema().names
            if new := {name: kind for name, kind in {**seen.lacking, **found}.items() if name not in known}:
                delta.add_columns(new)
            rows = None if plan.rows is None else by_id(aligned(plan.rows, delta.schema())).combine_chunks()
            delta.commit(REPAIR, len(ids), add=rows, remove=plan.remove)
        for version in log.holes:
            about: dict[str, Any] = next((a["commitInfo"] for a in log.scraps.get(version, ()) if "commitInfo" in a), {})
            was = f"It was {about['fogx_operation']!r}. " if about.get("fogx_operation") else ""
            what = (
                f"{was}What it set, and what it deleted or edited, is lost where no line here says that it is back; do it again."
            )
            self._say("left out", f"{roots.LOG_FOLDER}/{roots.entry(version)}", (), what)
        self._say("mended", "episodes", ids, f"{len(plan.remove)} files of the table were replaced by {len(ids)} rows.")
        if seen.lacking:
            self._say(
                "mended", "episodes", (), f"The columns {listing(seen.lacking)} were known to the files alone; they are back."
            )
        if plan.edited:
            self._say("mended", "episodes", plan.edited, "Of these an older row is back; edits made after it are lost.")
        if plan.bare:
            what = "Of these only the index was left: dataset, task, times, segments and users' columns are lost."
            self._say("mended", "episodes", plan.bare, what)
        if plan.left_out:
            what = "These may have been deleted before, which cannot be told, and were not brought back."
            self._say("left out", "episodes", plan.left_out, what)
        if plan.missing:
            self._say("left out", "episodes", (), f"{plan.missing} rows are lost.")
        for file in bad:
            self._set_aside(file, ())

    def _mend_segments(self, seen: Examined) -> None:
        """Let episodes name their segments no longer where these cannot be read; those that can are written anew."""
        files = list(dict.fromkeys(f.file for f in seen.of_segments if f.kind != "bad pointer"))
        rows = self._rows_of(files, {i for finding in seen.of_segments for i in finding.episode_ids})
        if not seen.of_segments or rows is None:
            return
        kept, ids = self._segments_left(rows), rows["episode_id"].to_pylist()
        if not self._dry:
            self._begin(files)
            edit_segments(Root(self._fresh()), ids, lambda _: {i: kept.get(i, []) for i in ids}, REPAIR)
        if kept:
            self._say("written anew", "", kept, "The segments of these could be read; they are in another file.")
        if lost := [i for i in ids if i not in kept]:
            self._say(
                "left out", "", lost, "The segments of these are lost; the episodes are whole. Older versions may name others."
            )
        for file in files:
            self._set_aside(file, rows.filter(pc.equal(rows["segments_file"], file))["episode_id"].to_pylist())

    def _rows_of(self, files: Sequence[str], ids: Iterable[str]) -> pa.Table | None:
        """Return the rows of episodes, and of others that name some files of segments; `None` before the log is mended."""
        try:
            rows = Root(self._fresh()).rows
        except FogxError:
            if not self._dry:
                raise
            return None
        named = pc.is_in(rows["segments_file"], pa.array(files, pa.string()))
        return rows.filter(pc.or_(named, pc.is_in(rows["episode_id"], pa.array(sorted(ids), pa.string()))))

    def _segments_left(self, rows: pa.Table) -> dict[str, list[Segment]]:
        """Return the segments of episodes where they can be read, with the steps that they have by their times."""
        root, found = Root(self._fresh()), dict[str, list[Segment]]()
        for number, episode_id in enumerate(rows["episode_id"].to_pylist()):
            row = rows.slice(number, 1)
            try:
                held = segments_of(read_segments(root.store, row))
                if held and row["start_ns"].null_count == 0:
                    held = {episode_id: list(steps_of(held[episode_id], step_times(root, row)[0]))}
                found |= held
            except (FogxError, *UNREADABLE):
                continue
        return found

    def _mend_derived(self, seen: Examined) -> None:
        """Let episodes point to no frames in other sizes where some of these are damaged."""
        ids = sorted({i for finding in seen.of_derived for i in finding.episode_ids})
        if not ids:
            return
        if not self._dry:
            self._begin()
            root = Root(self._fresh())
            rows = root.rows
            where = np.flatnonzero(pc.is_in(rows["episode_id"], pa.array(ids, pa.string())).to_numpy())
            members = locate(Chosen((root,), (rows,), np.zeros(len(where), np.int64), where), PARTS)
            pointer = write_index(root.store, [replace(member.index, derived=()) for member in members])
            root.store.sync([pointer])
            repoint(root, members, pointer, REPAIR)
        self._say(
            "left out", "", ids, "Frames in other sizes were damaged; the episodes are whole, and derive() makes them again."
        )

    def _mend_episodes(self, seen: Examined) -> None:
        hurt: dict[str, set[str]] = {}
        for finding in seen.findings:
            ours = finding.file.startswith("episodes/") and finding.kind != "bad pointer"
            if finding.severity == "damage" and finding.episode_ids and not ours:
                hurt.setdefault(finding.file, set()).update(finding.episode_ids)
        table = {log_file.path for log_file in seen.log.files.values()}
        ids = sorted({i for members in hurt.values() for i in members})
        if not ids:
            return
        files = [file for file in hurt if file not in table]
        sound, lost = self._proven(seen, ids)
        if not self._dry:
            self._begin(files)
            root = Root(self._fresh())
            if sound:
                self._write_anew(root, sound)
            if lost:
                self._keep_rows(root, lost)
                root.writable().delete(lost, operation=REPAIR)
        if sound:
            self._say("written anew", "", sound, "All values are those that were stored; their damaged files are not needed.")
        if lost:
            self._say("taken out", "", lost, "Values are lost or not those that were stored.")
        for file in files:
            self._set_aside(file, hurt[file])

    def _proven(self, seen: Examined, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Divide episodes into those whose values give their checksum, and others."""
        try:
            root = Root(self._fresh())
        except FogxError:
            if not self._dry:
                raise
            return [], list(ids)  # before the log is mended this cannot be told
        sound = [i for i in ids if _whole(root, i) is not None]
        return sound, [i for i in ids if i not in set(sound)]

    def _write_anew(self, root: Root, ids: Sequence[str]) -> None:
        found = (_whole(root, i) for i in ids)
        root.writable().repoint(*pack_anew(root, (episode for episode in found if episode is not None)), REPAIR)

    def _keep_rows(self, root: Root, ids: Sequence[str]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(root.rows.filter(pc.is_in(root.rows["episode_id"], pa.array(ids, pa.string()))), sink)
        self._store.write_small(f"{self._folder}/rows.parquet", sink.getvalue().to_pybytes())

    def _finish(self, before: InspectedLog) -> None:
        """Move what is needed no longer, what killed runs left of it too, and write a checkpoint of what is sound now."""
        if any(f.kind != "log gap" or f.severity == "damage" for f in before.findings):
            self._begin()
            DeltaLog(self._store).checkpoint()
            self._say("checkpoint", roots.LOG_FOLDER, (), "A new checkpoint stands for all entries before it.")
        plans = {folder: plan for folder, plan in _plans(self._store).items() if plan.get("state") == "begun"}
        if not plans:
            return
        used = _used(self._fresh())
        for folder, plan in plans.items():
            for file in plan["files"]:
                if file not in used:
                    self._store.move(file, f"{folder}/{file}")
        for folder, plan in plans.items():
            done = self.done if folder == self._folder else plan.get("done", [])
            self._report(folder, "done", plan["files"], done)

    def _begin(self, files: Iterable[str] = ()) -> None:
        """Note what will be set aside, before anything is changed, so that a killed run can be finished."""
        fresh = [file for file in files if file not in self._aside]
        self._aside += fresh
        if fresh or not self._begun:
            self._report(self._folder, "begun", self._aside, self.done)
        self._begun = True

    def _report(self, folder: str, state: str, files: Sequence[str], done: Sequence[Mapping[str, Any]]) -> None:
        text = json.dumps({"state": state, "files": list(files), "done": list(done)}, indent=2)
        self._store.write_small(f"{folder}/report.json", text.encode())

    def _set_aside(self, file: str, ids: Iterable[str]) -> None:
        self._say("set aside", file, ids, "No sound episode needs it." if ids else "The table is read without it.")

    def _say(self, action: str, file: str, ids: Iterable[str], what: str) -> None:
        names = sorted(ids)
        self.done.append({"action": action, "file": file, "episodes": len(names), "episode_ids": names, "what": what})

    def _fresh(self) -> Store:
        # Schemas are read once a store; a new one sees what is on disk now.
        return Store(self._store.root, self._store.options)


def _first_entry(store: Store, log: InspectedLog) -> list[dict[str, Any]]:
    """Return what entry 0 must say where it is lost.

    Raises:
        CorruptDataError: The log no longer says it.
    """
    hopeless = [finding for finding in log.findings if finding.file == roots.LOG_FOLDER]
    if hopeless:
        raise CorruptDataError(
            f"{store.root}: {hopeless[0].what} Nothing was changed. Restore {roots.LOG_FOLDER} from a backup; the data files are as "
            "they were, and check() tells no more."
        )
    told = (a for version in sorted(log.entries) for a in log.entries[version] if "metaData" in a)
    metadata = next(told, None)
    return [] if metadata is None else [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, metadata]


def _whole(root: Root, episode_id: str) -> tuple[Located, EpisodeData] | None:
    """Return an episode whose values give its checksum, or `None`."""
    rows = root.rows
    row = rows["episode_id"].index(episode_id).as_py()
    try:
        (located,) = locate(Chosen((root,), (rows,), np.array([0]), np.array([row])))
        index = located.index
        if (index.episode_id, index.num_steps) != (episode_id, located.row["num_steps"][0].as_py()):
            return None
        return located, read_sound(located)
    except (FogxError, *UNREADABLE):
        return None


def _plans(store: Store) -> dict[str, dict[str, Any]]:
    """Return folder → report of every run."""
    found = {}
    for name, _, _ in store.walk(QUARANTINE):
        if name.endswith("/report.json") and name.count("/") == 2:
            found[name.rpartition("/")[0]] = dict(json.loads(store.read_small(name) or b"{}"))
    return found


def _used(store: Store) -> set[str]:
    """Return the files that the newest version needs."""
    root = Root(store)
    rows = root.rows.select(["index_file", "index_row", "schema_id", "segments_file"]).to_pylist()
    table = {f"episodes/{name}" for name in root.writable().delta.names()}
    return table | {schema_name(row["schema_id"]) for row in rows} | files_behind(store, rows)
