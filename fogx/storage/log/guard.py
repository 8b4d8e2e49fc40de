"""What is looked at in a log before the table library reads it.

delta-rs reads whatever a log holds: a checkpoint of 48 KB kept it busy for minutes, another of 160 KB ended the process, and a log
entry takes twice its size in memory.
"""

from __future__ import annotations

import re

from fogx.errors import CorruptDataError
from fogx.memory import Room
from fogx.settings import config
from fogx.storage.files.paths import check_inside, join
from fogx.storage.files.store import Store
from fogx.storage.tables.guarded import GuardedParquet

_PER_BYTE = 4
"""Bytes of memory that a byte of a log entry takes at most while it is read; twice was measured."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.\d{10})?\.parquet")
_OTHER = re.compile(r"\d{20}\.checkpoint\..*(?<!\.tmp)|\d{20}\.\d{20}\.compacted\.json")


def check_log(store: Store, folder: str, version: int | None = None, noted: int | None = None) -> bool:
    """Refuse a log that would take more memory than it may, or that reaches out of its root; return whether there is one.

    Costs a listing of the log's folder from its newest checkpoint on, and the page headers of that.

    Args:
        store: The root.
        folder: The log's folder in it.
        version: Version that is to be opened; `None` for the newest.
        noted: The newest checkpoint as the log's own note says.

    Raises:
        CorruptDataError: Entries or a checkpoint that are too large, are not what fogx writes, or lie outside the root.
    """
    sizes: dict[str, int] = {}
    if noted is not None and (version is None or version >= noted):
        # The table library looks at nothing before it either.
        sizes = store.sizes(folder, f"{noted:020d}")
    if not any(int(match[1]) == noted for name in sizes if (match := _CHECKPOINT.fullmatch(name))):
        sizes = store.sizes(folder)
    if other := [name for name in sizes if _OTHER.fullmatch(name) and not _CHECKPOINT.fullmatch(name)]:
        raise CorruptDataError(f"{store.root}: the log holds {other[0][:80]}, a form that fogx does not write. It was not read.")
    checkpoints = {name: int(match[1]) for name in sizes if (match := _CHECKPOINT.fullmatch(name))}
    # The newest one that serves is read; an older one only where a note names it.
    base = max((n for n in checkpoints.values() if version is None or n <= version), default=-1)
    entries = [name for name in sizes if (match := _ENTRY.fullmatch(name)) and int(match[1]) > base]
    read = [*entries, *(name for name, number in checkpoints.items() if number == base), "_last_checkpoint"]
    if store.is_local:
        for path in (join(store.root, folder), *(join(store.root, folder, name) for name in read)):
            check_inside(store.root, path)
    total, limit = sum(sizes[name] for name in entries), (config().memory_mb << 20) // _PER_BYTE
    if total > limit or sizes.get("_last_checkpoint", 0) > 1 << 16:
        needed = -(-total * _PER_BYTE >> 20)
        raise CorruptDataError(
            f"{store.root}: {len(entries)} log entries have {total} bytes, allowed are {limit}. They were not read. If the log is meant "
            f"to be that large, call fox.config(memory_mb={needed})."
        )
    room = Room()
    for name in sorted(name for name, number in checkpoints.items() if number == base):
        _check_checkpoint(store, f"{folder}/{name}", room)
    return bool(entries or checkpoints or noted is not None)


def _check_checkpoint(store: Store, name: str, room: Room) -> None:
    with store.open_named(name) as source:
        file = GuardedParquet(source, f"{store.root}: {name}")
        groups = range(len(file.group_rows))
        file.check(groups, None, room)
        if "sidecar" in file.schema.names and file.read(groups, ["sidecar"], room)["sidecar"].null_count < sum(file.group_rows):
            raise CorruptDataError(f"{store.root}: {name} names further files, which fogx does not write. They were not read.")
