"""Creating and opening the `episodes` table of a root, and the format version that fences it."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from fogx.errors import CorruptDataError, DatasetNotFoundError, FormatVersionError, StorageError, in_one_line
from fogx.storage.files.conditional import require_conditional_put
from fogx.storage.files.durable import fsync_files, make_folders
from fogx.storage.files.paths import join
from fogx.storage.files.store import Store
from fogx.storage.log.guard import check_log
from fogx.storage.log.rows import BASE

READS = 1
"""Newest storage format that this fogx reads."""

WRITES = 2
"""Newest storage format that this fogx writes. Writers of 2 do not commit files that `vacuum` may have taken for leftovers."""

SAFE_AGE_S = 7 * 24 * 3600
"""Files that no kept version names are removed by `vacuum` past this age; writers commit none older than half of it."""

_MISREAD = re.compile(r"[#?\[\]^|\\]|%[0-9A-Fa-f]{2}")

LOG_FOLDER = "episodes/_delta_log"
LAST_CHECKPOINT = "_last_checkpoint"

IN_DOUBT = "_in_doubt"
"""Lies in the log's folder once the log could not be synced, until a checkpoint makes that unimportant. Local roots only."""

_MIN_READER = "fogx.minReaderVersion"
_MIN_WRITER = "fogx.minWriterVersion"
_FEATURES = "fogx.features"
_ROOT_ID = "fogx.rootId"
_SAFE_AGE = "fogx.safeAgeSeconds"

CURRENT = {_MIN_READER: str(READS), _MIN_WRITER: str(WRITES), _SAFE_AGE: str(SAFE_AGE_S)}
"""Properties of a table in the newest format."""


def entry(version: int) -> str:
    """Return the name of the log entry that made a version."""
    return f"{version:020d}.json"


def checkpoint(version: int) -> str:
    """Return the name of the checkpoint of a version."""
    return f"{version:020d}.checkpoint.parquet"


def last_checkpoint(store: Store) -> int | None:
    """Return the version of the newest checkpoint as the log's own note says, or `None` where it says nothing."""
    data = store.read_small(f"{LOG_FOLDER}/{LAST_CHECKPOINT}")
    try:
        return None if data is None else int(json.loads(data)["version"])
    except (ValueError, KeyError, TypeError):
        return None


def checkpoint_before(store: Store, version: int) -> tuple[int, list[str]]:
    """Return the newest checkpoint that a version can be read from, or -1, and the names of its files. Local roots only."""
    folder = join(store.root, LOG_FOLDER)
    for number in range(version, -1, -1):
        name = checkpoint(number)
        if os.path.exists(join(folder, name)):
            return number, [name, *([LAST_CHECKPOINT] if os.path.exists(join(folder, LAST_CHECKPOINT)) else [])]
        if not os.path.exists(join(folder, entry(number))):
            break
    return -1, []


def sync_log(store: Store, names: Iterable[str]) -> None:
    """Make files of the log durable, those that are there, and the folders that lead to them. Local roots only.

    Raises:
        StorageError: A note was left that they cannot be trusted: once an fsync failed the kernel may call the next one good, in
            this process or another, though the bytes are lost.
    """
    paths = [join(store.root, LOG_FOLDER, name) for name in names]
    try:
        make_folders(join(store.root, LOG_FOLDER))
        fsync_files(path for path in paths if os.path.exists(path))
    except OSError as error:
        with suppress(OSError):
            open(join(store.root, LOG_FOLDER, IN_DOUBT), "wb").close()
        raise StorageError(
            f"{store.root}: the log could not be synced to disk: {in_one_line(error)}. What was just committed can be seen, but a power "
            "loss may take it back. Make the same call again: what is there is then written anew, and nothing is done twice."
        ) from error


def exists(store: Store) -> bool:
    """Return whether the root holds a dataset.

    Raises:
        StorageError: A local path that the table library would misread.
    """
    _check_path(store)
    if last_checkpoint(store) is not None:
        return True
    return any(name.endswith((".json", ".checkpoint.parquet")) for name in store.sizes(LOG_FOLDER))


def _check_path(store: Store) -> None:
    if store.is_local and (odd := _MISREAD.search(store.root)):
        # Measured, not guessed: with these in a path delta-rs opens another folder, loses the history, or panics.
        raise StorageError(
            f"{store.root}: a dataset's path must not hold {odd.group()!r}: the table library reads another path out of it. "
            "Use a folder without any of # ? [ ] ^ | \\ and without % before two hex digits."
        )


def create(store: Store, name: str) -> None:
    """Create an empty dataset; where another process creates it at the same time, one of the two does."""
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.exceptions import DeltaError

    properties: dict[str, str | None] = {
        "delta.enableExpiredLogCleanup": "false",  # else at(version) would die after 30 days
        **CURRENT,
        _FEATURES: "",
        _ROOT_ID: uuid.uuid4().hex,
    }
    require_conditional_put(store)
    try:
        if store.is_local:
            make_folders(table_uri(store))
        DeltaTable.create(
            table_uri(store),
            Schema.from_arrow(BASE),
            name=name,
            configuration=properties,
            storage_options=store.options.for_object_store(),
            raise_if_key_not_exists=False,
            # Else a second creator, or one whose answer was lost, commits a second time, with another root_id.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except (DeltaError, OSError) as error:
        if not exists(store):
            raise StorageError(
                f"{store.root}: the dataset could not be created: {in_one_line(error)}. There is nothing in it yet; the same call "
                "can be made again."
            ) from error
    table = open_table(store)
    about = {"root_id": root_id(table), "name": table.metadata().name, "format": f"fogx storage format {READS}"}
    with store.writing("a new dataset"):
        if store.is_local:
            sync_log(store, [entry(0)])
        store.write_small("fogx.json", json.dumps(about, indent=2).encode())


def open_table(store: Store, version: int | None = None) -> Any:
    """Return the `DeltaTable` of a root, its format version checked.

    Raises:
        DatasetNotFoundError: The root holds no dataset.
        FormatVersionError: It needs a newer fogx.
        CorruptDataError: The log cannot be read.
        StorageError: A local path that the table library would misread.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    _check_path(store)
    if not check_log(store, LOG_FOLDER, version, last_checkpoint(store)):
        raise DatasetNotFoundError(f"{store.root} holds no dataset: there is no log in {LOG_FOLDER}.")
    try:
        with store.asking("opening the log", but=(DeltaError, ValueError)):
            table = DeltaTable(table_uri(store), version=version, storage_options=store.options.for_object_store())
    except BaseException as error:
        # A panic of the table library is no Exception.
        if not isinstance(error, (DeltaError, ValueError)) and type(error).__name__ != "PanicException":
            raise
        raise CorruptDataError(
            f"{store.root}: the episodes table cannot be opened: {in_one_line(error)}. See what is damaged with "
            f"fox.check({store.root!r}); fox.repair({store.root!r}) sets it aside."
        ) from error
    _check_format(store, table, _MIN_READER, READS, "read")
    if store.is_local:
        _refuse_empty_entries(store, table.version())
    return table


def _refuse_empty_entries(store: Store, version: int) -> None:
    """An empty entry opens without an error, and its episodes are gone. Object stores put entries whole."""
    first = checkpoint_before(store, version)[0] + 1
    names = [entry(number) for number in range(first, version + 1)]
    paths = [join(store.root, LOG_FOLDER, name) for name in names]
    empty = [name for name, path in zip(names, paths, strict=True) if os.path.exists(path) and not os.path.getsize(path)]
    if empty:
        raise CorruptDataError(
            f"{store.root}: {len(empty)} of {len(names)} log entries are empty ({LOG_FOLDER}/{empty[0]}), as after a power loss "
            f"while a commit was written. Nothing was changed. fox.repair({store.root!r}) sets them aside."
        )


def check_writable(store: Store, table: Any) -> None:
    """Refuse to write a root whose format asks for a newer fogx.

    Raises:
        FormatVersionError: Says which version is needed.
    """
    _check_format(store, table, _MIN_WRITER, WRITES, "written")


def _check_format(store: Store, table: Any, key: str, known: int, verb: str) -> None:
    properties = table.metadata().configuration
    needed = properties.get(key, "")
    if not needed.isdigit():
        raise FormatVersionError(f"{store.root}: a Delta table without {key}; it was not made by fogx. Give another folder.")
    if int(needed) > known or properties.get(_FEATURES):
        extra = f" with features {properties[_FEATURES]}" if properties.get(_FEATURES) else ""
        raise FormatVersionError(
            f"{store.root}: can only be {verb} by a fogx that knows storage format {needed}{extra}; this one knows {known}. "
            "Upgrade with: pip install -U fogx"
        )


def writer_format(table: Any) -> int:
    """Return the storage format that a writer of the table must know."""
    return int(table.metadata().configuration[_MIN_WRITER])


def safe_age_s(table: Any) -> float:
    """Return the age past which `vacuum` takes files that no version names for leftovers."""
    return float(table.metadata().configuration.get(_SAFE_AGE, SAFE_AGE_S))


def root_id(table: Any) -> str:
    """Return the random id that a root got once, at creation."""
    return str(table.metadata().configuration.get(_ROOT_ID, ""))


def table_uri(store: Store) -> str:
    """Return where the `episodes` table lies."""
    return join(store.root, "episodes")
