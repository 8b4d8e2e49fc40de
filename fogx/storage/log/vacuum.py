"""Removes files that no kept version names, and log entries that no kept version needs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm

from fogx.errors import FormatVersionError, SelectionError
from fogx.settings import config
from fogx.storage.files.paths import FAMILIES
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log import versions
from fogx.storage.log.delta import DeltaLog
from fogx.storage.tables.index import read_index

_ENTRY = re.compile(r"(\d{20})\.(?:json|checkpoint\.parquet)")
_LEFTOVER = re.compile(r".*\.tmp|.*#\d+")
"""What a killed process leaves of a write under a temporary name."""


def vacuum(log: DeltaLog, older_than_s: float | None, *, dry_run: bool, keep: Collection[str] = ()) -> list[dict[str, Any]]:
    """Remove what no kept version needs, and return it: file, bytes, age_s.

    Kept are every version that was the newest at some moment of the last `older_than_s`, and pinned ones. Before the first file
    goes, a commit says from which version on all is kept; a run that was killed is finished by the next.

    Args:
        log: The table, at its newest version.
        older_than_s: Only files older than this, by the store's own clock; `None` takes the root's safe age.
        dry_run: Only say what would be removed.
        keep: Files that stay though no version names them, such as those of episodes that are still recorded; found before this
            call, so that one that is committed meanwhile is in the one or the other.

    Raises:
        FormatVersionError: Writers of an older fogx may be at work, which `vacuum` could hurt.
        SelectionError: An age below the root's safe age, or none at all.
        CorruptDataError: What a kept version needs cannot be read. Nothing was removed.
    """
    safe_s = roots.safe_age_s(log.table)
    try:
        age_s = safe_s if older_than_s is None else float(older_than_s)
    except (TypeError, ValueError):
        raise SelectionError(
            f"{log.store.root}: older_than_s={older_than_s!r:.60} is no number of seconds. Give at least {safe_s:g}, or nothing."
        ) from None
    if not age_s >= safe_s:
        raise SelectionError(
            f"{log.store.root}: older_than_s={age_s:g} is below the safe age of this dataset, {safe_s:g} s: files of an episode that is "
            "just being saved could go. Give at least that, or nothing."
        )
    if roots.writer_format(log.table) < roots.WRITES:
        raise FormatVersionError(
            f"{log.store.root}: an older fogx may write here, and it does not know about vacuum(). Call migrate() first; it fences "
            "older writers off, readers it does not."
        )
    before_s = log.store.now_s() - age_s
    oldest = _oldest_to_keep(log, before_s)
    needed = _needed(log, oldest)
    if not dry_run and oldest > versions.oldest_kept(log):
        log.set_properties({versions.OLDEST: str(oldest)}, "vacuum")
    log.sync()  # a run that was killed may have left that commit
    removed = []
    for name, size, changed_s in _candidates(log, oldest):
        if name not in needed and name not in keep and changed_s < before_s:
            if not dry_run:
                log.store.unlink(name)
            removed.append({"file": name, "bytes": size, "age_s": before_s + age_s - changed_s})
    return removed


def _oldest_to_keep(log: DeltaLog, before_s: float) -> int:
    """Return the version that was the newest at a time, or the oldest there is."""
    made_s = {
        int(match[1]): changed_s
        for name, _, changed_s in log.store.walk(roots.LOG_FOLDER)
        if (match := _ENTRY.fullmatch(name.rpartition("/")[2])) and name.endswith(".json") and int(match[1]) <= log.version
    }
    old = [version for version, changed_s in made_s.items() if changed_s < before_s]
    return max(max(old, default=min(made_s, default=0)), versions.oldest_kept(log))


def _needed(log: DeltaLog, oldest: int) -> set[str]:
    """Return the files that the kept versions name."""
    kept = {oldest, log.version, *versions.pins(log).values()}
    tables = {name for version in kept for name in DeltaLog(log.store, version).names()}
    for version in range(oldest + 1, log.version + 1):
        tables |= set(_added(log, version))
    rows = (row for name in tables for row in log.read(name).select(["index_file", "index_row", "segments_file"]).to_pylist())
    return {f"episodes/{name}" for name in tables} | files_behind(log.store, rows)


def files_behind(store: Store, rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the pointers of all files that rows of the episodes table need, schemas apart; each index file is read once.

    Args:
        store: The root's store.
        rows: `index_file`, `index_row` and `segments_file` of each.

    Raises:
        CorruptDataError: As `read_index`.
    """
    needed: set[str] = set()
    asked: dict[str, set[int]] = {}
    for row in rows:
        asked.setdefault(row["index_file"], set()).add(row["index_row"])
        needed |= {row["segments_file"]} - {None}
    for file, numbers in tqdm(asked.items(), desc="files in use", unit="file", disable=not config().progress or len(asked) < 100):
        needed.add(file)
        for index in read_index(store, file, sorted(numbers), ("steps", "frames", "streams", "derived")):
            needed |= index.files
    return needed


def _added(log: DeltaLog, version: int) -> Iterator[str]:
    entry = log.store.read_small(f"{roots.LOG_FOLDER}/{roots.entry(version)}") or b""
    for line in entry.splitlines():
        action = json.loads(line)
        if "add" in action:
            yield action["add"]["path"]


def _candidates(log: DeltaLog, oldest: int) -> Iterable[tuple[str, int, float]]:
    """Yield the files that may go where they are old and not needed: of the families, of the table, of the log."""
    yield from (found for found in log.store.walk("", deep=False) if _LEFTOVER.fullmatch(found[0]))
    for family in FAMILIES:
        for name, size, changed_s in log.store.walk(family):
            # Schemas are small, shared, and named by rows of every version.
            if not name.startswith("index/schemas/") or _LEFTOVER.fullmatch(name):
                yield name, size, changed_s
    # The oldest log entry goes first, so that a run that is killed leaves none that has lost the next one.
    first, table = versions.first_kept(log, oldest), sorted(log.store.walk("episodes"))
    checkpoints = [
        int(match[1])
        for name, _, _ in table
        if name.endswith(".checkpoint.parquet") and (match := _ENTRY.fullmatch(name.rpartition("/")[2]))
    ]
    # From this checkpoint every kept version can be read without what lies before.
    start = max((version for version in checkpoints if version <= first), default=0)
    for name, size, changed_s in table:
        if not name.startswith(f"{roots.LOG_FOLDER}/"):
            yield name, size, changed_s
        elif (match := _ENTRY.fullmatch(name.rpartition("/")[2])) is None:
            if _LEFTOVER.fullmatch(name):
                yield name, size, changed_s
        elif int(match[1]) < start:
            yield name, size, changed_s
