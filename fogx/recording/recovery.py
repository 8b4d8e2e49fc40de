"""What processes that died were recording: found by their journals, saved or discarded."""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fogx.align.policy import Align
from fogx.errors import CorruptDataError
from fogx.feature import Feature
from fogx.recording.channel import Channel, Prepared
from fogx.recording.chunks import SUFFIX, UNREADABLE, ChunkReader
from fogx.recording.encoding import encode
from fogx.recording.episode import Episode
from fogx.recording.frames import Frames, part_path, sealed_in
from fogx.recording.held import Held
from fogx.recording.journal import EVENTS, SAMPLES, Journal, Rows, Values, journals_of, metadata_of, rows_of, values_of
from fogx.recording.sealing import seal
from fogx.recording.segments import Mark
from fogx.storage.files.store import Store
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.guarded import readable
from fogx.storage.tables.places import FramesPlace

logger = logging.getLogger("fogx")

UNREADABLE_JOURNAL = "unreadable"
"""The outcome of a journal that stays: of what it holds nothing can be read."""

_PART = re.compile(r"(.+)\.frames-(\d+)" + re.escape(SUFFIX))


@dataclass
class Left:
    """A journal and what could be read of it.

    Args:
        path: The file.
        about: What was said when it was begun; empty where that cannot be read.
        metadata: Episode metadata that was given.
        segments: Number → segment of those that were begun.
        unread: Bytes that could not be read.
        damaged: Whether these are more than an end that was not written whole.
        sealed: What was told of sealed files, in order.
    """

    path: str
    about: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    segments: dict[int, Mark] = field(default_factory=dict)
    unread: int = 0
    damaged: bool = False
    sealed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def episode_id(self) -> str:
        """Id that the episode has, or will have."""
        return os.path.basename(self.path)[: -len(SUFFIX)]

    @property
    def files(self) -> set[str]:
        """Pointers of the sealed files."""
        return {place.file for event in self.sealed for _, _, places in sealed_in(event) for place in places}

    def parts(self) -> dict[int, str]:
        """Return the parts of the journal that hold frames, by number."""
        folder = os.path.dirname(self.path)
        numbers = [int(match[2]) for name in _names(folder) if (match := _PART.fullmatch(name)) and match[1] == self.episode_id]
        return {number: part_path(folder, self.episode_id, number) for number in sorted(numbers)}


def tell_of_left(store: Store) -> None:
    """Log one line where recordings of dead processes wait to be recovered."""
    dead = 0
    for path in _journals(journals_of(store)):
        try:
            os.close(_locked(path))
            dead += 1
        except OSError:
            continue
    if dead:
        logger.warning(
            "%s: %d recording(s) were open when their process died; recover() saves what is left of them.", store.root, dead
        )


def sealed_files(store: Store) -> set[str]:
    """Return the sealed files of episodes that are still recorded, or wait to be recovered, on this machine."""
    found: set[str] = set()
    for path in _journals(journals_of(store)):
        left = Left(path)
        with suppress(FileNotFoundError):  # saved in this moment
            for _ in read(left):
                pass
        found |= left.files
    return found


def recover(
    store: Store, writable: Callable[[], EpisodeLog], dataset: str, *, discard: bool = False, dry_run: bool = False
) -> pd.DataFrame:
    """Save or discard what dead processes recorded; see `Dataset.recover`."""
    rows = []
    folder = journals_of(store)
    for path in _journals(folder):
        left = Left(path)
        try:
            handle = _locked(path)
        except OSError:
            with suppress(FileNotFoundError):  # saved in this moment
                rows.append({"episode_id": left.episode_id, "bytes": os.path.getsize(path), "outcome": "recording"})
            continue
        journal = Journal(path, handle, os.fstat(handle).st_size)
        size = os.fstat(handle).st_size + sum(os.path.getsize(part) for part in left.parts().values())
        with ExitStack() as stack:
            stack.callback(journal.close, remove=False)
            # Between the commit and the removal of its journal a process may die too.
            saved = not dry_run and writable().holds(left.episode_id)
            try:
                with readable(path):
                    taken = Taken(store, left, dataset, only_count=discard or dry_run or saved)
                outcome = "left" if dry_run else "saved before" if saved else "discarded" if discard else ""
                outcome = outcome or _saved(store, writable, dataset, taken, journal)
                if outcome not in ("left", UNREADABLE_JOURNAL):
                    _remove(store, left, journal, left.files if outcome == "saved before" else taken.used)
                row = {"began": taken.began, "values": taken.count, "unread": left.unread, "outcome": outcome}
            except CorruptDataError as error:  # it does not keep those after it from being saved
                logger.warning("%s cannot be read: %s", path, error)
                row = {"unread": size, "outcome": UNREADABLE_JOURNAL}
                if discard and not dry_run:
                    _remove(store, left, journal, set())
                    row["outcome"] = "discarded"
        rows.append({"episode_id": left.episode_id, "bytes": size, **row})
    if not dry_run:
        _tidy(folder)
    return pd.DataFrame(rows, columns=["episode_id", "began", "values", "bytes", "unread", "outcome"])


def read(left: Left) -> Iterator[Rows | Values]:
    """Yield the samples and values of a journal, and note what else it says; see `ChunkReader` for what is damaged."""
    reader = ChunkReader(left.path)
    for entries in reader:
        found: list[Rows | Values] = []
        try:
            for entry in entries:
                if entry.topic == EVENTS:
                    _note(left, json.loads(entry.data))
                elif entry.topic == SAMPLES:
                    found.append(rows_of(entry.data))
                elif entry.feature is not None:
                    found.append(values_of(entry.topic, entry.feature, entry.data))
        except UNREADABLE:
            reader.refuse()
            continue
        yield from found
    left.unread += reader.unread
    left.damaged |= reader.damaged


def _note(left: Left, event: dict[str, Any]) -> None:
    if event["kind"] == "sealed":
        sealed_in(event)
        left.sealed.append(event)
        return
    if event["kind"] == "segment":
        mark = Mark.from_event(event)
        left.segments[mark.number] = mark
        return
    left.about = event if event["kind"] == "begin" else left.about
    left.metadata |= metadata_of(event)


class Taken:
    """What a dead process recorded, out of its journal and its sealed files.

    Where a part of these is damaged or gone samples may be missing, or frames: then what is there is numbered anew.

    Args:
        store: The root.
        left: The journal.
        dataset: Name of the root's dataset.
        only_count: Leave frames where they are.

    Attributes:
        held: All that could be read.
        began: When the first sample came; `None` where there is none.
        count: How many values there are.
        used: Sealed files that hold frames of the episode as they are.
    """

    def __init__(self, store: Store, left: Left, dataset: str, *, only_count: bool) -> None:
        self.left = left
        self.held = Held(Frames.of(store, dataset, left.episode_id))
        self.used: set[str] = set()
        self._store = store
        self._earlier: dict[str, Iterator[tuple[int, Any]]] = {}
        self._next: dict[str, tuple[int, Any] | None] = {}
        self._numbers = _Numbers()
        self._values()
        self.began = pd.to_datetime(self.held.received_ns[0]) if len(self.held) else None
        if only_count:
            self.count = self._count_all()
            return
        self._frames()
        self.held.frames.encoding.drain()
        self.count = sum(map(len, self.held.channels.values()))
        self._kept = self.held.drop_empty()

    def marks(self) -> Iterator[Mark]:
        """Yield the segments, by the samples that are there."""
        return (mark.renumbered(self._before) for mark in self.left.segments.values())

    def _before(self, number: int) -> int:
        return int(np.count_nonzero(self._kept[: self._numbers.before(number)]))

    def steps(self) -> int:
        """Number the steps anew, some of which may be missing, and return how many there are."""
        steps, place = np.unique(np.array(self.held.steps, np.int64), return_inverse=True)
        self.held.steps = array("q", place.tolist())
        return len(steps)

    def _values(self) -> None:
        """Take all but frames."""
        for news in read(self.left):
            if isinstance(news, Rows):
                self._numbers.add(news.first, len(news.stamps_ns))
                self.held.extend(news)
            else:
                self._channel(news.name).extend(replace(news, rows=self._numbers.of(news.rows)))

    def _frames(self) -> None:
        """Take frames: sealed ones as they lie where they are whole, others anew."""
        parts = self.left.parts()
        for event in self.left.sealed:
            mine = [parts.pop(number) for number in event["parts"] if number in parts]
            if not mine or (self._store.is_local and self._whole(event)):
                self._sealed(event)
            else:
                for path in mine:
                    self._part(path)
        for path in parts.values():
            self._part(path)
        for name in self._next:
            self._catch_up(name, len(self.held))

    def _count_all(self) -> int:
        # Values of a feature that outgrew `steps` are in the journal as both.
        found = {name: set(channel.rows.tolist()) for name, channel in self.held.channels.items()}
        for event in self.left.sealed:
            for _, rows, places in sealed_in(event):
                found.setdefault(places[0].feature, set()).update(self._numbers.of(rows).tolist())
        for path in self.left.parts().values():
            for entry in (entry for entries in ChunkReader(path) for entry in entries):
                found.setdefault(entry.topic, set()).add(int(self._numbers.of(np.array([entry.number]))[0]))
        return sum(len(rows - {-1}) for rows in found.values())

    def _whole(self, event: dict[str, Any]) -> bool:
        return all(self._read(place)[1] for _, _, places in sealed_in(event) for place in places)

    def _sealed(self, event: dict[str, Any]) -> None:
        for feature, rows, places in sealed_in(event):
            first = 0
            for place in places:
                name, mine = place.feature, rows[first : first + len(place.lengths)].tolist()
                first += len(mine)
                blobs, whole = self._read(place)
                known = self._numbers.of(np.array(mine)).tolist()
                channel = self._begun(name, feature)
                self._catch_up(name, known[0])
                self.held.frames.encoding.drain()
                if whole and min(known) >= 0 and len(channel) == self.held.frames.line(name, feature).sealed == place.first_frame:
                    self._catch_up(name, known[-1], drop=True)
                    self.held.frames.adopt(name, feature, known, place)
                    self.used.add(place.file)
                else:
                    for row, blob in zip(mine, blobs, strict=True):
                        if blob is not None:
                            self._frame(name, feature, row, blob)

    def _read(self, place: FramesPlace) -> tuple[list[bytes | None], bool]:
        """Return the frames of a place, `None` for damaged ones, and whether all are whole."""
        numbers = np.arange(place.first_frame, place.first_frame + len(place.lengths))
        try:
            return list(read_frames(self._store, [place], numbers)), True
        except CorruptDataError as error:
            found: list[bytes | None] = []
            for number in numbers:
                try:
                    found += read_frames(self._store, [place], np.array([number]))
                except CorruptDataError:
                    found.append(None)
            logger.warning("%s: %d of %d frames are lost: %s", self.left.path, found.count(None), len(found), error)
            return found, False

    def _part(self, path: str) -> None:
        reader = ChunkReader(path)
        for entries in reader:
            for entry in entries:
                if entry.feature is not None:
                    self._frame(entry.topic, entry.feature, entry.number, entry.data)
        self.left.unread += reader.unread
        self.left.damaged |= reader.damaged

    def _frame(self, name: str, feature: Feature, row: int, data: bytes) -> None:
        known = int(self._numbers.of(np.array([row]))[0])
        if known < 0:
            return  # its sample was not on disk yet
        channel = self._begun(name, feature)
        self._catch_up(name, known)
        self._catch_up(name, known, drop=True)
        self._add(channel, known, feature, data)

    def _add(self, channel: Channel, row: int, feature: Feature, data: bytes) -> None:
        self.held.frames.encoding.wait_for_room(len(data))
        channel.append(row, Prepared(feature, data, False, False), self.held.stamps_ns)
        self.held.frames.seal()

    def _begun(self, name: str, feature: Feature) -> Channel:
        """Return a channel whose values are frames from here on; earlier ones that are not follow by and by."""
        channel = self._channel(name)
        if channel.feature != feature:
            self._earlier[name] = channel.outgrow(feature)
            self._next[name] = next(self._earlier[name], None)
        return channel

    def _catch_up(self, name: str, row: int, *, drop: bool = False) -> None:
        """Add the values that did not go to `frames` up to a sample, or drop those that did, that one included."""
        channel = self._channel(name)
        while (value := self._next.get(name)) is not None and value[0] < row + drop:
            if not drop:
                assert channel.feature is not None
                self._add(channel, value[0], channel.feature, encode(name, value[1], channel.feature))
            self._next[name] = next(self._earlier[name], None)

    def _channel(self, name: str) -> Channel:
        return self.held.channels.setdefault(name, Channel(name, None, self.held.frames))


class _Numbers:
    """Which sample, of those that could be read, a number of the journal stands for."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._counts: list[int] = []

    def add(self, first: int, count: int) -> None:
        """Add samples that were read; they come in order."""
        if self._firsts and self._firsts[-1] + self._counts[-1] == first:
            self._counts[-1] += count
        else:
            self._firsts.append(first)
            self._counts.append(count)

    def before(self, number: int) -> int:
        """Return how many samples that could be read have a lower number."""
        return sum(min(count, max(number - first, 0)) for first, count in zip(self._firsts, self._counts, strict=True))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the samples of numbers; -1 where that could not be read."""
        if not self._firsts:
            return np.full(len(rows), -1)
        firsts, counts = np.array(self._firsts), np.array(self._counts)
        run = np.maximum(np.searchsorted(firsts, rows, side="right") - 1, 0)
        inside = rows - firsts[run]
        return np.where((inside >= 0) & (inside < counts[run]), (np.cumsum(counts) - counts)[run] + inside, -1)


def _saved(store: Store, writable: Callable[[], EpisodeLog], dataset: str, taken: Taken, journal: Journal) -> str:
    """Save an episode, and return whether there was one."""
    left = taken.left
    if not taken.count:
        return UNREADABLE_JOURNAL if left.damaged else "empty"
    save = functools.partial(seal, store, writable, dataset, left.episode_id)
    with readable(left.path):
        align = None if left.about.get("align") is None else Align.from_json(left.about["align"])
        episode = Episode(save, episode_id=left.episode_id, metadata=left.metadata, align=align)
        episode.take_back(taken.held, taken.steps(), journal, taken.marks())
    episode.close({"interrupted": "process died"})
    return "saved"


def _remove(store: Store, left: Left, journal: Journal, kept: set[str]) -> None:
    """Remove a journal, and the sealed files but those that a commit names."""
    for part in left.parts().values():
        os.unlink(part)
    journal.close(remove=True)
    store.remove(left.files - kept)


def _tidy(folder: str) -> None:
    """Remove parts of journals whose episode is saved or discarded."""
    for name in _names(folder):
        if (match := _PART.fullmatch(name)) and not os.path.exists(os.path.join(folder, match[1] + SUFFIX)):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def _journals(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in _names(folder) if name.endswith(SUFFIX) and not _PART.fullmatch(name)]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _locked(path: str) -> int:
    """Return a handle of a journal that nobody else has; raise `OSError` where its process lives."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
