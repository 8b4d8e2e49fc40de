"""Imports foreign episodes: plans shards, packs groups of them through an executor, commits each group."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from fogx import registry
from fogx.errors import ImportConflictError, UnknownNameError, did_you_mean, listing
from fogx.ids import new_id
from fogx.protocols import Executor, Loader, ShardTask
from fogx.reading.roots import Root
from fogx.settings import config
from fogx.storage.files.store import Store
from fogx.storage.log.rows import check_metadata
from fogx.storage.tables.pack import EpisodePacker, Packed

logger = logging.getLogger("fogx")

ON_EXISTING = ("skip", "error", "append")

GROUP_BYTES = 256 << 20
"""Shards are packed and committed together up to about this many bytes of source."""


@dataclass(frozen=True)
class _Group:
    """Shards that one worker packs into one set of files."""

    store: Store
    dataset: str
    tasks: Sequence[ShardTask]
    present: frozenset[str]
    again: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class _Done:
    packed: Packed | None
    skipped: int
    sources: list[str]


def load_episodes(
    root: Root,
    loader: str,
    name: str,
    *,
    split: str,
    additional_metadata: Mapping[str, Any] | None,
    data_dir: str | os.PathLike[str] | None,
    on_existing: str,
    executor: str | Executor | None,
) -> list[str]:
    """Import episodes and return the ids of those added; see `Dataset.load`."""
    if on_existing not in ON_EXISTING:
        raise UnknownNameError(
            f"on_existing={on_existing!r} is not known; use one of: {listing(ON_EXISTING)}.{did_you_mean(on_existing, ON_EXISTING)}"
        )
    root.check_writable()
    metadata = dict(additional_metadata or {})
    check_metadata(metadata)
    run: Executor = registry.get("executors", executor or "inline") if isinstance(executor, (str, type(None))) else executor
    plugin: Loader = registry.get("loaders", loader)
    tasks = plugin.plan(os.fspath(name), split=split, data_dir=None if data_dir is None else os.fspath(data_dir))
    log = root.writable()
    present = log.source_keys()
    if on_existing == "error":
        _refuse_existing(tasks, present, name)
    again = f"#{new_id()}" if on_existing == "append" else None
    groups = [_Group(root.store, root.name, group, _of_tasks(present, group), again, metadata) for group in _grouped(tasks)]
    added: list[str] = []
    skipped = 0
    total = sum(task.num_episodes or 0 for task in tasks) or None
    with tqdm(total=total, unit="episode", desc=f"load {name}", disable=not config().progress) as bar:
        try:
            for done in run.map(_pack, groups):
                if done.packed is not None:
                    added += log.append(
                        done.packed.rows, operation=f"load {loader}", sources=done.sources, began=done.packed.began
                    )
                skipped += done.skipped
                bar.set_postfix(added=len(added), skipped=skipped)
                bar.update((len(done.packed.rows) if done.packed else 0) + done.skipped)
        except BaseException as error:
            error.add_note(
                f"{len(added)} episodes of {name!r} were saved in {root.path} before this. "
                "The same call imports the rest, each episode once."
            )
            raise
    if skipped:
        log.refresh()  # what another process imported is there, and the caller is told so: this handle should show it
    # Nothing added may be a surprise: another source under the same name and version counts as the same episodes.
    level = logging.WARNING if skipped and not added else logging.INFO
    logger.log(level, "%s: added %d episodes of %r, skipped %d that were imported before", root.path, len(added), name, skipped)
    return added


def _pack(group: _Group) -> _Done:
    """Read the shards of a group and write their episodes into one set of files. Runs in a worker; top level, so it pickles."""
    packer: EpisodePacker | None = None
    skipped = 0

    def wanted(key: str) -> bool:
        nonlocal skipped
        if group.again is not None or key not in group.present:
            return True
        skipped += 1
        return False

    try:
        for task in group.tasks:
            for data in registry.get("loaders", task.loader).read(task, wanted):
                data.metadata.update(group.metadata)
                if data.source_key in group.present:
                    data.source_key = f"{data.source_key}{group.again}"
                packer = packer or EpisodePacker(group.store, data.dataset or group.dataset)
                packer.add(new_id(), data)
        packed = packer.close() if packer else None
    except BaseException:
        if packer:
            packer.abort()
        raise
    return _Done(packed, skipped, [f"import:{task.source}/{task.shard}" for task in group.tasks])


def _grouped(tasks: Sequence[ShardTask]) -> Iterator[list[ShardTask]]:
    group: list[ShardTask] = []
    size = 0
    for task in tasks:
        group.append(task)
        size += os.path.getsize(task.location) if os.path.exists(task.location) else GROUP_BYTES
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _of_tasks(present: frozenset[str], tasks: Sequence[ShardTask]) -> frozenset[str]:
    """Return the keys that the tasks' shards can give, so that a worker is not sent all of them."""
    sources = {f"{task.source}/{task.shard}" for task in tasks}
    return frozenset(key for key in present if key.rpartition("/")[0] in sources)


def _refuse_existing(tasks: Sequence[ShardTask], present: frozenset[str], name: str) -> None:
    there = sum(
        task.source_key(record) in present
        for task in tasks
        for record in range(task.first, task.first + (task.num_episodes or 0))
    )
    if there:
        raise ImportConflictError(
            f"{there} of the episodes of {name!r} were imported before, and on_existing='error' was asked for. Nothing was "
            "imported; use on_existing='skip' to import the rest, or 'append' to import all of them again."
        )
