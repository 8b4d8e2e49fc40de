"""Creating and opening the `episodes` table of a root, and the format version that fences it."""

from __future__ import annotations

import json
import os
import re
import uuid
from typing import Any

from fogx.errors import CorruptDataError, FormatVersionError, StorageError
from fogx.storage.files.durable import fsync_files, make_folders
from fogx.storage.files.paths import join
from fogx.storage.files.store import Store
from fogx.storage.log.rows import BASE

FORMAT_VERSION = 1
"""Version of the storage format that this fogx reads and writes."""

_MISREAD = re.compile(r"[#?\[\]^|\\]|%[0-9A-Fa-f]{2}")

LOG_FOLDER = "episodes/_delta_log"

_MIN_READER = "fogx.minReaderVersion"
_MIN_WRITER = "fogx.minWriterVersion"
_FEATURES = "fogx.features"
_ROOT_ID = "fogx.rootId"


def exists(store: Store) -> bool:
    """Return whether the root holds a dataset.

    Raises:
        StorageError: A local path that the table library would misread.
        CorruptDataError: The log holds an entry of no bytes: a write that power loss cut.
    """
    if store.is_local and (odd := _MISREAD.search(store.root)):
        # Measured, not guessed: with these in a path delta-rs opens another folder, loses the history, or panics.
        raise StorageError(
            f"{store.root}: a dataset's path must not hold {odd.group()!r}: the table library reads another path out of it. "
            "Use a folder without any of # ? [ ] ^ | \\ and without % before two hex digits."
        )
    entries = {name: size for name, size in store.sizes(LOG_FOLDER).items() if name.endswith(".json")}
    empty = sorted(name for name, size in entries.items() if size == 0)
    if empty:
        raise CorruptDataError(
            f"{store.root}: {len(empty)} of {len(entries)} log entries are empty ({LOG_FOLDER}/{empty[0]}), as after a power loss "
            "while a commit was written. Nothing was changed. Restore the entry from a backup; if it is the last one, move it away."
        )
    return bool(entries) or any(n.endswith(".checkpoint.parquet") for n in store.sizes(LOG_FOLDER))


def create(store: Store, name: str) -> None:
    """Create an empty dataset; where another process creates it at the same time, one of the two does."""
    from deltalake import DeltaTable, Schema
    from deltalake.exceptions import DeltaError

    properties: dict[str, str | None] = {
        "delta.enableExpiredLogCleanup": "false",  # else at(version) would die after 30 days
        _MIN_READER: str(FORMAT_VERSION),
        _MIN_WRITER: str(FORMAT_VERSION),
        _FEATURES: "",
        _ROOT_ID: uuid.uuid4().hex,
    }
    if store.is_local:
        make_folders(os.path.join(store.root, "episodes"))
    try:
        DeltaTable.create(
            table_uri(store),
            Schema.from_arrow(BASE),
            name=name,
            configuration=properties,
            storage_options=store.options.for_object_store(),
            raise_if_key_not_exists=False,
        )
    except (DeltaError, OSError) as error:
        if not exists(store):
            raise StorageError(f"{store.root}: the dataset could not be created: {error}") from error
    table = open_table(store)
    if store.is_local:
        fsync_files([join(store.root, LOG_FOLDER, f"{0:020d}.json"), os.path.join(store.root, "episodes")])
    about = {"root_id": root_id(table), "name": table.metadata().name, "format": f"fogx storage format {FORMAT_VERSION}"}
    store.write_small("fogx.json", json.dumps(about, indent=2).encode())


def open_table(store: Store, version: int | None = None) -> Any:
    """Return the `DeltaTable` of a root, its format version checked.

    Raises:
        FormatVersionError: It needs a newer fogx.
        CorruptDataError: The log cannot be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(table_uri(store), version=version, storage_options=store.options.for_object_store())
    except (DeltaError, ValueError) as error:
        raise CorruptDataError(f"{store.root}: the episodes table cannot be opened: {error}") from error
    check_format(store, table, _MIN_READER, "read")
    return table


def check_writable(store: Store, table: Any) -> None:
    """Refuse to write a root whose format asks for a newer fogx.

    Raises:
        FormatVersionError: Says which version is needed.
    """
    check_format(store, table, _MIN_WRITER, "written")


def check_format(store: Store, table: Any, key: str, verb: str) -> None:
    """Compare one of the two version properties, and the feature list, with what this fogx knows.

    Raises:
        FormatVersionError: Says what was found and what to do.
    """
    properties = table.metadata().configuration
    needed = properties.get(key, "")
    if not needed.isdigit():
        raise FormatVersionError(f"{store.root}: a Delta table without {key}; it was not made by fogx. Give another folder.")
    if int(needed) > FORMAT_VERSION or properties.get(_FEATURES):
        extra = f" with features {properties[_FEATURES]}" if properties.get(_FEATURES) else ""
        raise FormatVersionError(
            f"{store.root}: can only be {verb} by a fogx that knows storage format {needed}{extra}; this one knows {FORMAT_VERSION}. "
            "Upgrade with: pip install -U fogx"
        )


def root_id(table: Any) -> str:
    """Return the random id that a root got once, at creation."""
    return str(table.metadata().configuration.get(_ROOT_ID, ""))


def table_uri(store: Store) -> str:
    """Return where the `episodes` table lies."""
    return join(store.root, "episodes")
