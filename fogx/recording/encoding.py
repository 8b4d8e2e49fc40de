"""Values on their way from `add` into `frames` files: encoded by other threads, in the order in which they came."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fogx.errors import FeatureError, in_one_line, listing
from fogx.feature import Feature
from fogx.registry import get as plugin
from fogx.settings import config
from fogx.storage.tables.places import FramesPlace
from fogx.threads import pool, submit

QUEUE_BYTES = 64 << 20
"""So much may wait to be encoded, in each episode."""

QUEUE_VALUES = 1024
"""… and so many values."""

_MOST_THREADS = 8

_PAUSE_S = 0.0015
"""Sensors often send together. Where few values wait, encoders let their threads go first."""

_FEW_VALUES = 8


@dataclass(eq=False, slots=True)
class Frame:
    """One encoded value.

    Args:
        line: All values of its feature.
        row: Number of its sample.
        stamp_ns: Time of its sample.
        data: What it is encoded to.
    """

    line: Line
    row: int
    stamp_ns: int
    data: bytes


@dataclass(eq=False, slots=True)
class _Job:
    line: Line
    row: int
    stamp_ns: int
    content: np.ndarray | bytes
    size: int
    ended: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class Line:
    """The frames of one feature, in the order of `add`.

    Args:
        name: The feature's name.
        feature: What it is.
        rows: Number of the sample of each frame that is encoded.
        places: Where those lie that are sealed.
        sealed: How many those are, the first ones.
    """

    name: str
    feature: Feature
    rows: array[int] = field(default_factory=lambda: array("q"))
    places: list[FramesPlace] = field(default_factory=list)
    sealed: int = 0
    jobs: deque[_Job] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.rows) + len(self.jobs)

    @property
    def last(self) -> int:
        """Number of the sample of the newest frame; -1 where there is none."""
        return self.jobs[-1].row if self.jobs else self.rows[-1] if self.rows else -1


class Encoding:
    """Encodes the values of one episode in threads that all episodes of this process share.

    Args:
        done: Called with each frame once it is encoded, in order within its line, while nothing else of this episode is.
        after: Called in the thread that encoded it, when others may go on.
    """

    def __init__(self, done: Callable[[Frame], None], after: Callable[[], None]) -> None:
        self._done = done
        self._after = after
        self._lock = threading.RLock()  # Condition's own `with` is Python: Ctrl-C may come when it has the lock, which then stays
        self._changed = threading.Condition(self._lock)
        self._bytes = self._values = 0
        self._failed: list[tuple[str, Exception]] = []
        self._pid = os.getpid()

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """What lines and frames are changed under."""
        return self._lock

    @property
    def waiting(self) -> tuple[int, int]:
        """How many values are not encoded yet, and their bytes."""
        return self._values, self._bytes

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes more may wait; what is larger than all the room may when nothing else does."""
        return not self._values or (self._values < QUEUE_VALUES and self._bytes + size <= QUEUE_BYTES)

    def wait_for_room(self, size: int) -> None:
        """Return when there is room."""
        with self._lock:
            self._changed.wait_for(lambda: self.has_room(size))

    def submit(self, line: Line, row: int, stamp_ns: int, content: np.ndarray | bytes) -> None:
        """Take a value; an array is encoded by the codec of its feature, and must not be changed any more."""
        size = content.nbytes if isinstance(content, np.ndarray) else len(content)
        job = _Job(line, row, stamp_ns, content, size)
        try:
            with self._lock:
                self._values += 1
                self._bytes += size
                line.jobs.append(job)
            _in_background(functools.partial(self._encode, job))
        except BaseException:  # Ctrl-C came: whether a thread has it is not known
            self._encode(job)
            raise

    def submit_first(self, line: Line, frames: Sequence[tuple[int, int, bytes]]) -> None:
        """Take the first (sample, stamp, data) of a line, which are encoded already; to do it again does no harm."""
        jobs = [_Job(line, row, stamp, data, len(data), ended=True) for row, stamp, data in frames]
        size = sum(job.size for job in jobs)
        with self._lock:
            if not len(line):
                self._values += len(jobs)
                self._bytes += size
                line.jobs.extend(jobs)
        _in_background(functools.partial(self._settle, line))

    def drain(self, told: Callable[[int], None] = lambda left: None, *, limit_s: float = math.inf) -> None:
        """Return when all values that were taken are encoded, or after a while; `told` is called with how many are not."""
        late = time.monotonic() + limit_s
        with self._lock:
            # The threads stay with the process that is forked.
            while self._values and os.getpid() == self._pid and time.monotonic() < late:
                told(self._values)
                self._changed.wait(0.2)
            told(self._values)

    @property
    def failed(self) -> bool:
        """Whether `failures` has any."""
        return bool(self._failed)

    def failures(self) -> list[tuple[str, Exception]]:
        """Return (feature, error) of each value that could not be encoded since the last call."""
        with self._lock:
            failed, self._failed = self._failed, []
        return failed

    def _encode(self, job: _Job) -> None:
        if isinstance(job.content, np.ndarray):
            if self._values <= _FEW_VALUES:
                time.sleep(_PAUSE_S)
            try:
                job.content = encode(job.line.name, job.content, job.line.feature)
            except Exception as error:  # whatever a codec raises must not end the recording of other sensors
                job.error = error
        with self._lock:
            if job.ended:
                return
            job.ended = True
        self._settle(job.line)

    def _settle(self, line: Line) -> None:
        """Pass on what is encoded, up to the first value that is not."""
        with self._lock:
            while line.jobs and line.jobs[0].ended:
                first = line.jobs.popleft()
                self._values -= 1
                self._bytes -= first.size
                if first.error is not None:
                    self._failed.append((first.line.name, first.error))
                    continue
                assert isinstance(first.content, bytes)
                first.line.rows.append(first.row)
                self._done(Frame(first.line, first.row, first.stamp_ns, first.content))
            self._changed.notify_all()
        self._after()


_Kind = tuple[Any, np.dtype[Any], tuple[int, ...] | None, int]

_encoded: dict[_Kind, int] = {}
"""What this process has encoded: codec, dtype, shape (of zstd any), and the limit of pixels then → the largest size."""

_MOST_KINDS = 10_000


def will_encode(content: np.ndarray, feature: Feature) -> bool:
    """Return whether the codec is known to take a value: it refuses by dtype and shape, and took one like it before."""
    return content.size <= _encoded.get(_kind(content, feature), -1)


def encode(name: str, content: np.ndarray, feature: Feature) -> bytes:
    """Encode one value of a feature that goes to `frames`.

    Raises:
        FeatureError: The codec does not take it.
    """
    kind = _kind(content, feature)
    try:
        data: bytes = kind[0].encode(content)
    except FeatureError as error:
        raise FeatureError(f"feature {name!r}: {error}") from None
    if len(_encoded) < _MOST_KINDS:
        _encoded[kind] = max(content.size, _encoded.get(kind, -1))
    return data


def _kind(content: np.ndarray, feature: Feature) -> _Kind:
    shape = None if feature.encoding == "zstd" else content.shape
    return plugin("codecs", str(feature.encoding)), content.dtype, shape, config().max_pixels


def not_encoded(failed: Sequence[tuple[str, Exception]]) -> FeatureError:
    """Return the error that tells of values that could not be encoded."""
    name, error = failed[0]
    names = sorted({name for name, _ in failed})
    said = (
        in_one_line(error)
        if isinstance(error, FeatureError)
        else f"feature {name!r}: {type(error).__name__}: {in_one_line(error)}"
    )
    return FeatureError(
        f"{said} {len(failed)} value(s) of {listing(names)} that an earlier add took could not be encoded and are left out; all others "
        "are kept. Make this call again to go on."
    )


def _in_background(work: Callable[[], None]) -> None:
    submit(pool("fogx encoder", _MOST_THREADS, _step_back), work)


def _step_back() -> None:
    """Do not take the processor from a thread that adds: on Linux a batch thread that wakes up waits for its turn."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def by_line(frames: Sequence[Frame]) -> Iterator[tuple[Line, list[Frame]]]:
    """Yield each line and its frames, in order of the names."""
    lines: dict[str, list[Frame]] = {}
    for frame in frames:
        lines.setdefault(frame.line.name, []).append(frame)
    for name in sorted(lines):
        yield lines[name][0].line, lines[name]
