"""Packs whole episodes into one set of data files, to be published by one commit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fogx.feature import NUMERIC_DTYPES, Schema
from fogx.protocols import Column, EpisodeData, Samples
from fogx.stats import FeatureStats
from fogx.storage.files.paths import partition_folder
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.files.store import Store
from fogx.storage.tables.digest import checksum, digest
from fogx.storage.tables.frames import FramesFiles
from fogx.storage.tables.index import IndexRow, write_index, write_schema
from fogx.storage.tables.nested import split_metadata
from fogx.storage.tables.places import FramesPlace, StepsPlace
from fogx.storage.tables.segments import write_segments
from fogx.storage.tables.steps import StepsWriter
from fogx.threads import pool, submit

_PIECE = 100_000
"""Steps that are counted at once."""


def _hashing(data: EpisodeData) -> Callable[[], bytes]:
    """Return what gives the digest of an episode; of a long one another thread works it out meanwhile."""
    hashed = functools.partial(digest, data)
    return submit(pool("fogx digest"), hashed).result if data.num_steps > _PIECE else hashed


@dataclass(frozen=True)
class Sealed:
    """The first frames of an episode, written and synced while it was still recorded; no commit names them yet.

    Args:
        places: Where they lie, of each feature from frame 0 on without a gap.
        began: Runs since the first of their files was begun.
    """

    places: Sequence[FramesPlace]
    began: Stopwatch


@dataclass
class Packed:
    """What one packer wrote.

    Args:
        rows: One dict an episode, ready for the episodes table: system columns, and `metadata` with the cell values.
        files: Pointers of all files written, durable already.
        began: Runs since the first of them was begun.
    """

    rows: list[dict[str, Any]]
    files: list[str]
    began: Stopwatch


@dataclass
class _Pending:
    episode_id: str
    data: EpisodeData
    place: StepsPlace
    streams: list[StepsPlace]
    digest: bytes
    partial: list[str]
    stats: dict[str, FeatureStats]
    nested: dict[str, Any]
    cells: dict[str, Any]
    in_steps: list[str]


class EpisodePacker:
    """Writes episodes, in order of their ids, into shared `steps` (one a schema), `frames`, `index` and `segments` files.

    Nothing that it writes is visible before a commit names it. Holds one row group of each open file in memory.
    """

    def __init__(self, store: Store, dataset: str, partition: str | None = None) -> None:
        self._store = store
        self._dataset = dataset
        self._partition = partition or partition_folder("dataset", dataset)
        self._steps: dict[tuple[str, str, frozenset[str]], StepsWriter] = {}
        self._frames = FramesFiles(store, self._partition)
        # In files of their own, so that those who read them need not step over the others.
        self._derived = FramesFiles(store, self._partition)
        self._segments_file: str | None = None
        self._files: list[str] = []
        self._places: dict[str, list[FramesPlace]] = {}
        self._kept: dict[str, Sequence[FramesPlace]] = {}
        self._pending: list[_Pending] = []
        self._began = Stopwatch()

    def add(
        self,
        episode_id: str,
        data: EpisodeData,
        kept: IndexRow | None = None,
        sealed: Sealed | None = None,
        derived: Mapping[str, Sequence[bytes]] | None = None,
    ) -> None:
        """Append one episode; its arrays are not needed afterwards.

        Args:
            episode_id: Its id.
            data: The episode.
            kept: Where it lies already: its frames, derived ones too, are not written again, nor its samples where they are there
                whole.
            sealed: Frames that are written already; in the columns of `data` anything may stand for them.
            derived: Name (see `derived.py`) → its frames in another size.

        Raises:
            StorageError: It could not be written; nothing of it is visible.
        """
        with self._store.writing(f"episode {episode_id}"):
            if sealed is not None:
                self._take(episode_id, sealed)
            self._add(episode_id, data, kept)
            for name, blobs in sorted((derived or {}).items()):
                self._derived.add(episode_id, name, blobs)

    def close(self) -> Packed:
        """Finish and sync all files; return the rows to commit.

        Raises:
            StorageError: They could not be written; nothing of them is visible.
        """
        with self._store.writing(f"{len(self._pending)} episodes"):
            return self._close()

    def _take(self, episode_id: str, sealed: Sealed) -> None:
        self._places[episode_id] = list(sealed.places)
        # By its age `vacuum` tells a leftover; what is about to be committed is none.
        if not self._store.touch({place.file for place in sealed.places}):
            self._began = sealed.began

    def _add(self, episode_id: str, data: EpisodeData, kept: IndexRow | None) -> None:
        schema, samples, hashed = data.schema, data.samples, _hashing(data)
        place = self._writer(schema, "steps").add(episode_id, data.columns, data.num_steps, data.timestamps_ns)
        streams, in_steps = [], frozenset[str]()
        if samples is not None and kept is not None and kept.streams and not kept.in_steps:
            streams = list(kept.streams)
        elif samples is not None:
            in_steps = frozenset(samples.in_steps)
            sent = {
                **samples.columns,
                **{name: replace(samples.columns[name], values=samples.in_steps[name]) for name in in_steps},
            }
            times = samples.stamps_ns, samples.received_ns
            streams = [self._writer(schema, "streams", in_steps).add(episode_id, sent, len(times[0]), *times)]
        if kept is not None:
            self._places[episode_id] = list(kept.frames)
            self._kept[episode_id] = kept.derived
        for name in sorted(name for name, feature in schema.items() if feature.in_frames and kept is None):
            if samples is None:
                self._add_frames(episode_id, name, data.columns[name], data.timestamps_ns)
            else:
                self._add_frames(episode_id, name, samples.columns[name], samples.stamps_ns)
        cells, nested = split_metadata(data.metadata)
        stats = statistics(data)
        partial = [name for name in schema if (valid := data.columns[name].valid) is not None and not valid.all()]
        slim = EpisodeData(
            schema,
            {},
            data.num_steps,
            None if data.timestamps_ns is None else data.timestamps_ns[[0, -1]] if data.num_steps else data.timestamps_ns,
            dataset=data.dataset,
            split=data.split,
            control_hz=data.control_hz,
            success=data.success,
            source_key=data.source_key,
            segments=data.segments,
        )
        if samples is not None:
            slim.samples = Samples({}, samples.stamps_ns[:0], None, samples.align)
        self._pending.append(
            _Pending(episode_id, slim, place, streams, hashed(), partial, stats, nested, cells, sorted(in_steps))
        )

    def _writer(self, schema: Schema, family: str, in_steps: frozenset[str] = frozenset()) -> StepsWriter:
        key = family, schema.schema_id, in_steps
        if key not in self._steps:
            write_schema(self._store, schema)
            self._steps[key] = StepsWriter(self._store, schema, self._partition, family, in_steps)
            self._files.append(self._steps[key].pointer)
        return self._steps[key]

    def _close(self) -> Packed:
        for writer in self._steps.values():
            writer.close()
        self._frames.close()
        self._derived.close()
        rows = [
            IndexRow(
                p.episode_id,
                p.data.schema.schema_id,
                p.data.num_steps,
                checksum(p.digest, places := self._places_of(p.episode_id)),
                p.partial,
                [p.place] if p.place.num_rows else [],
                places,
                p.nested,
                p.stats,
                p.streams,
                None if p.data.samples is None else p.data.samples.align,
                p.in_steps,
                self._derived_of(p.episode_id),
            )
            for p in self._pending
        ]
        index_file = write_index(self._store, rows)
        self._files.append(index_file)
        if labelled := {p.episode_id: p.data.segments for p in self._pending if p.data.segments}:
            self._segments_file = write_segments(self._store, labelled)
            self._files.append(self._segments_file)
        files = [*self._files, *self._frames.files, *self._derived.files]
        self._store.sync(files)
        return Packed([self._row(p, index_file, position) for position, p in enumerate(self._pending)], files, self._began)

    def abort(self) -> None:
        """Close and remove what was written."""
        for writer in self._steps.values():
            writer.abort()
        self._frames.abort()
        self._derived.abort()
        self._store.remove(self._files)

    def _add_frames(self, episode_id: str, name: str, column: Column, times: np.ndarray | None) -> None:
        there = sum(len(place.lengths) for place in self._places.get(episode_id, ()) if place.feature == name)
        steps = np.flatnonzero(column.mask)[there:]
        blobs = [column.values[i] for i in steps]
        self._frames.add(episode_id, name, blobs, None if times is None else times[steps], first_frame=there)

    def _derived_of(self, episode_id: str) -> Sequence[FramesPlace]:
        return [*self._kept.get(episode_id, ()), *self._derived.places.get(episode_id, ())]

    def _places_of(self, episode_id: str) -> list[FramesPlace]:
        found = [*self._places.get(episode_id, ()), *self._frames.places.get(episode_id, ())]
        return sorted(found, key=lambda place: (place.feature, place.first_frame))

    def _row(self, pending: _Pending, index_file: str, position: int) -> dict[str, Any]:
        data, times = pending.data, pending.data.timestamps_ns
        timed = times is not None and len(times) > 0
        return {
            "episode_id": pending.episode_id,
            "dataset": data.dataset or self._dataset,
            "split": data.split,
            "start_ns": int(times[0]) if times is not None and timed else None,
            "duration_ns": max(int(times[-1] - times[0]), 0) if times is not None and timed else None,
            "num_steps": data.num_steps,
            "control_hz": data.control_hz,
            "success": data.success,
            "schema_id": data.schema.schema_id,
            "source_key": data.source_key,
            "index_file": index_file,
            "index_row": position,
            "segments_file": self._segments_file if data.segments else None,
            "metadata": pending.cells,
        }


def _counted(column: Column) -> FeatureStats:
    """Return the statistics of a column; of a long one piece by piece, since counting takes several times its memory."""
    pieces = (
        FeatureStats.of(column.values[i : i + _PIECE], None if column.valid is None else column.valid[i : i + _PIECE])
        for i in range(0, max(len(column.values), 1), _PIECE)
    )
    return functools.reduce(FeatureStats.merge, pieces)


def statistics(data: EpisodeData) -> dict[str, FeatureStats]:
    """Return the statistics of every feature that has some: numbers kept in `steps`, of one shape that is not empty."""
    return {
        name: _counted(data.columns[name])
        for name, feature in data.schema.items()
        if feature.dtype in NUMERIC_DTYPES
        and not feature.in_frames
        and not feature.is_variable
        and 0 not in (feature.shape or ())
    }
