"""Packs episodes that lie in many small or mostly dead files into few large ones, and swaps their pointers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from fogx.errors import SelectionError, did_you_mean, listing
from fogx.protocols import EpisodeData
from fogx.reading.episodes import Located, cells, locate, read_derived, read_sound
from fogx.reading.roots import Chosen, Root
from fogx.settings import config
from fogx.storage.files.paths import partition_folder
from fogx.storage.log.commit import Cells
from fogx.storage.log.rows import BASE
from fogx.storage.tables.pack import EpisodePacker

GROUP_BYTES = 256 << 20
"""Episodes are packed and committed together up to about this many bytes of frames."""

_GROUP_STEPS = 500_000
"""… or this many steps."""

POINTER = ("index_file", "index_row")
"""Columns that say where an episode lies."""

_FOLDER = re.compile(r"[a-z_]{1,32}")

_FEW = 8
"""A file that fewer living episodes share is worth packing, be it small from the start or emptied by deletes."""


def compact(root: Root, chosen: Chosen, partition_by: str) -> int:
    """Repack episodes and return how many moved; see `Dataset.compact`."""
    log = root.writable()
    columns = ["dataset", "split", *(name for name in root.rows.column_names if name not in BASE.names)]
    if partition_by not in columns or not _FOLDER.fullmatch(partition_by):
        raise SelectionError(
            f"{partition_by!r} names no column to partition by; give one of a-z and _, at most 32 of them. There are: "
            f"{listing(columns)}.{did_you_mean(partition_by, columns)}"
        )
    located = locate(chosen)
    shared = Counter(file for member in located for file in member.index.files)
    moving = [member for member in located if any(shared[file] < _FEW for file in member.index.files)]
    moved = 0
    with tqdm(total=len(moving), desc="compact", unit="episode", disable=not config().progress) as bar:
        for group in _groups(moving, partition_by):
            if len(group) > 1:
                partition = partition_folder(partition_by, _value(group[0], partition_by))
                pointers = pack_anew(root, ((member, read_sound(member)) for member in group), partition)
                moved += len(log.repoint(*pointers, "compact"))
            bar.update(len(group))
    return moved


def pack_anew(root: Root, episodes: Iterable[tuple[Located, EpisodeData]], partition: str | None = None) -> tuple[Cells, Cells]:
    """Write stored episodes into files of their own, as they are; return their old and their new pointers.

    Args:
        root: Their root.
        episodes: The episodes, in order of id.
        partition: Folder of the new files; by default that of the root's dataset.
    """
    packer = EpisodePacker(root.store, root.name, partition)
    old: dict[str, dict[str, Any]] = {}
    try:
        for member, data in episodes:
            packer.add(member.episode_id, data, derived=read_derived(member))
            old[member.episode_id] = {name: member.row[name][0].as_py() for name in POINTER}
        packed = packer.close()
    except BaseException:
        packer.abort()
        raise
    return old, {row["episode_id"]: {name: row[name] for name in POINTER} for row in packed.rows}


def repoint(root: Root, members: Sequence[Located], pointer: str, operation: str) -> list[str]:
    """Let episodes point to the rows of one index file, in order, and return the ids of those that do; see `EpisodeLog.repoint`."""
    old = {member.episode_id: {name: member.row[name][0].as_py() for name in POINTER} for member in members}
    new = {member.episode_id: dict(zip(POINTER, (pointer, row), strict=True)) for row, member in enumerate(members)}
    return root.writable().repoint(old, new, operation)


def _groups(members: Sequence[Located], partition_by: str) -> Iterator[list[Located]]:
    """Yield episodes of one partition, in order of id, up to the size of a group."""
    by_value: dict[str, list[Located]] = {}
    for member in members:
        by_value.setdefault(_value(member, partition_by), []).append(member)
    for same in by_value.values():
        group: list[Located] = []
        size = steps = 0
        for member in sorted(same, key=lambda m: m.episode_id):
            group.append(member)
            size += sum(int(place.lengths.sum()) for place in (*member.index.frames, *member.index.derived))
            steps += member.index.num_steps
            if size >= GROUP_BYTES or steps >= _GROUP_STEPS:
                yield group
                group, size, steps = [], 0, 0
        if group:
            yield group


def _value(member: Located, column: str) -> str:
    return str(cells(member.row, 0).get(column, ""))
