"""All that an open episode holds so far."""

from __future__ import annotations

import threading
from array import array

import numpy as np

from fogx.feature import Schema
from fogx.recording.channel import Channel
from fogx.recording.frames import Frames
from fogx.recording.journal import Rows, Values


class Held:
    """Samples of an open episode, in growing arrays; the thread that journals them needs nothing else of the episode.

    Args:
        frames: Its encoded values.

    Attributes:
        lock: Whoever reads or changes it has this; it may be taken again.
        channels: The values by feature, in order of the first.
        stamped: Whether stamps are given; `None` before the first sample.
        timed: Whether times tell the steps.
    """

    def __init__(self, frames: Frames) -> None:
        self.lock = threading.RLock()
        self.frames = frames
        self.channels: dict[str, Channel] = {}
        self.stamps_ns = array("q")
        self.received_ns = array("q")
        self.steps = array("q")
        self.stamped: bool | None = None
        self.timed = False
        self._told = 0

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def add(self, stamp_ns: int, received_ns: int, step: int) -> int:
        """Begin a sample and return its number."""
        self.stamps_ns.append(stamp_ns)
        self.received_ns.append(received_ns)
        self.steps.append(step)
        return len(self.steps) - 1

    def mend(self) -> int:
        """Drop what Ctrl-C left half done of the last sample, and return how many steps there are; see `Episode.add`."""
        parts = (self.stamps_ns, self.received_ns, self.steps)
        whole = min(map(len, parts))
        with self.frames.encoding.lock:
            last = {name: channel.mend() for name, channel in self.channels.items()}
        if whole > self._told and max(last.values(), default=-1) < whole - 1:
            whole -= 1
        for part in parts:
            del part[whole:]
        self.channels = {name: channel for name, channel in self.channels.items() if last[name] >= 0}
        return self.steps[-1] + 1 if self.steps else 0

    def extend(self, rows: Rows) -> None:
        """Add many samples, as `news` gave them."""
        for mine, theirs in (
            (self.stamps_ns, rows.stamps_ns),
            (self.received_ns, rows.received_ns),
            (self.steps, rows.steps),
        ):
            mine.extend(theirs.tolist())
        self.stamped, self.timed = rows.stamped, rows.timed

    def news(self) -> list[Rows | Values]:
        """Return what came since the last call, copied: samples, then values."""
        with self.lock:
            first, self._told = self._told, len(self)
            if first == self._told:
                return []
            stamps, received, steps = (np.array(p[first:], np.int64) for p in (self.stamps_ns, self.received_ns, self.steps))
            rows = Rows(first, stamps, received, steps, bool(self.stamped), self.timed)
            return [rows, *(values for channel in self.channels.values() if (values := channel.news()) is not None)]

    def drop_empty(self) -> np.ndarray:
        """Drop samples that have no value, as theirs could not be recovered; return a mask of those that stay, bool."""
        kept = np.zeros(len(self), bool)
        for channel in self.channels.values():
            kept[channel.rows] = True
        if kept.all():
            return kept
        numbers = (np.cumsum(kept) - 1).tolist()
        for channel in self.channels.values():
            channel.renumber(numbers)
        self.frames.renumber(numbers)
        self.stamps_ns, self.received_ns, self.steps = (
            array("q", np.array(part, np.int64)[kept].tolist()) for part in (self.stamps_ns, self.received_ns, self.steps)
        )
        return kept

    def schema(self) -> Schema:
        """Return the features so far."""
        return Schema({name: channel.feature for name, channel in self.channels.items() if channel.feature is not None})

    def seconds(self) -> float:
        """Return the time from the first sample to the last, in s."""
        return (max(self.stamps_ns) - min(self.stamps_ns)) / 1e9 if self.stamps_ns else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all values: numbers as they are, frames encoded."""
        return self.frames.nbytes + sum(channel.nbytes for channel in self.channels.values())
