"""An episode while it is recorded."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fogx.align.columns import aligned
from fogx.align.policy import Align
from fogx.align.steps import fast_clock, many_gaps
from fogx.errors import (
    AlignmentError,
    EpisodeClosedError,
    FeatureError,
    FogxError,
    MetadataError,
    QueueFullError,
    SegmentError,
    TooManyStepsError,
    UnknownNameError,
    listing,
)
from fogx.feature import Feature, check_feature_name
from fogx.memory import give_back
from fogx.protocols import EpisodeData, Samples
from fogx.recording.channel import Channel, Prepared
from fogx.recording.encoding import not_encoded
from fogx.recording.frames import Frames
from fogx.recording.grouping import StepGrouper
from fogx.recording.held import Held
from fogx.recording.journal import Journal
from fogx.recording.moments import Moments
from fogx.recording.segments import Mark, Marks
from fogx.recording.stamps import LARGEST_NS, check_unit, stamp_ns
from fogx.recording.values import read_ahead
from fogx.settings import config
from fogx.storage.tables.pack import Sealed

_log = logging.getLogger("fogx")

_MANY_NULLS = 0.10

_LONG_S = 1.0
"""A close that takes longer draws a progress line."""

_PATIENCE_S = 5.0
"""So long an episode that is dropped open waits for what is still being encoded."""

_INHERITED = "open in another process"

_OPEN: weakref.WeakSet[Episode] = weakref.WeakSet()
"""Episodes that are recorded in this process. Asking for the process at each `add` would take longer than all else that is checked."""

ON_FULL = ("wait", "raise")
ON_BAD_VALUE = ("raise", "quarantine")


class Episode:
    """One episode being recorded; `Dataset.new_episode` makes it.

    Images and other large values are encoded by threads in the background and written into files as it goes; all else is kept in
    memory until `close` saves it. All methods may be called from any thread. As a context manager it closes itself; after an
    exception inside, what was recorded is saved with the metadata `interrupted` = name of the exception.

    Args:
        seal: Saves a whole episode durably, of which some frames may be written already; what it returns is returned by `close`.
            If it raises, the episode stays open.
        episode_id: Id that the episode will have.
        metadata: Values that describe the whole episode.
        task: What the robot was asked to do, in words; kept as metadata `task`.
        features: Declarations by feature name; others are found from the values.
        align: How samples become steps. `None` takes the defaults of `fox.Align` where samples have timestamps; without those a
            step begins when a feature is added again.
        journal: Begins the journal of the episode, at its first value, from `align` as JSON values and metadata; `None` for an episode without one.
        check_metadata: Called with all metadata given, at the call that gave it; raises `MetadataError` for what cannot be kept.
        saved: Called with the id once the episode is saved.
        frames: What goes to `frames` files.
        on_full: What `add` does where more is to be encoded than there is room for: `"wait"`, or `"raise"`.
        on_bad_value: What becomes of a value that `add` refuses: `"raise"`, or `"quarantine"`.

    Raises:
        MetadataError: Metadata that cannot be kept.
        FeatureError: A feature name that cannot be used.
        UnknownNameError: Another `on_full` or `on_bad_value`.
    """

    _state = "new"
    _steps: int | None = None

    def __init__(
        self,
        seal: Callable[[EpisodeData, Sealed | None], str | None],
        *,
        episode_id: str,
        metadata: Mapping[str, Any] | None = None,
        task: str | None = None,
        features: Mapping[str, Feature] | None = None,
        align: Align | None = None,
        journal: Callable[[Mapping[str, Any] | None, Mapping[str, Any]], Journal] | None = None,
        check_metadata: Callable[[Mapping[str, Any]], None] | None = None,
        saved: Callable[[str], None] | None = None,
        frames: Frames | None = None,
        on_full: str = "wait",
        on_bad_value: str = "raise",
    ) -> None:
        for name, value, allowed in (("on_full", on_full, ON_FULL), ("on_bad_value", on_bad_value, ON_BAD_VALUE)):
            if value not in allowed:
                raise UnknownNameError(f"{name}={value!r:.60} is not known; use one of: {listing(allowed)}.")
        self._seal = seal
        self._waits = on_full == "wait"
        self._quarantines = on_bad_value == "quarantine"
        self._refused: dict[str, dict[str, Any]] = {}
        self._left_out = 0
        self._id = episode_id
        self._check_metadata = check_metadata
        self._saved = saved
        self._declared = {check_feature_name(name): feature for name, feature in (features or {}).items()}
        self._metadata: dict[str, Any] = {}
        self._metadata = self._checked(metadata or {})
        if task is not None:
            said = self._checked({"task": task})
            if self._metadata.get("task", task) != task:
                raise MetadataError(f"task={task!r} and metadata['task']={self._metadata['task']!r} differ; give one of them.")
            self._metadata |= said
        self._pid = os.getpid()
        self._held = Held(frames or Frames())
        self._lock = self._held.lock
        self._grouper = StepGrouper()
        if align is not None and not isinstance(align, Align):
            raise FeatureError(f"align= is a fox.Align, found {type(align).__name__}.")
        self._align = align
        self._held.timed = align is not None
        self._begin_journal = journal
        self._journal: Journal | None = None
        self._threads: set[int] = set()
        self._marks = Marks()
        # The wall clock may be set while recording; from here on only the monotonic clock counts.
        self._clock_offset_ns = time.time_ns() - time.monotonic_ns()
        self._state = "open"
        _OPEN.add(self)

    def __repr__(self) -> str:
        with self._lock:
            if self._state != "open":
                return f"Episode {self._id} ({self._state}, {self.num_steps} steps)"
            held, seconds = self._held, self._held.seconds()
            parts = [
                f"{c.name} {c.feature.describe()} ×{len(c)}" + (f" ({(len(c) - 1) / seconds:.1f}/s)" if seconds else "")
                for c in held.channels.values()
                if c.feature
            ]
            about = f"{self.num_steps} steps, {seconds:.1f} s, {held.nbytes / 1e6:.1f} MB"
            count, size = held.frames.encoding.waiting
            waiting = f", {count} values ({size / 1e6:.1f} MB) wait to be encoded" if count else ""
            return f"Episode {self._id} (recording, {about}{waiting}): {listing(parts)}"

    def __enter__(self) -> Episode:
        self._check_open("enter")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            if self._state != "open" and not (self._state == _INHERITED and kind is None):
                return
            if kind is None:
                self.close()
                return
            try:
                self._finish({"interrupted": kind.__name__})
            except Exception:
                # The exception that ended the block is what the user must see; the episode is still there to be closed.
                _log.exception(
                    "episode %s could not be saved after %s; it stays open, call close() again", self._id, kind.__name__
                )

    def __del__(self) -> None:
        if self._state == "open" and len(self._held):
            kept = "lost"
            if self._journal is not None:
                self._held.frames.encoding.drain(limit_s=_PATIENCE_S)
                self._journal.close(remove=False)
                kept = "in its journal, from which dataset.recover() brings them back"
            text = f"episode {self._id} was never closed: its {self.num_steps} steps are {kept}. Call close(), or use `with`."
            _log.warning(text)
            warnings.warn(text, ResourceWarning, source=self)

    @property
    def episode_id(self) -> str:
        """Id of the episode, known from the start."""
        return self._id

    @property
    def num_steps(self) -> int:
        """Steps begun so far. Where samples have times, alignment tells them at `close`; before, samples of the feature with most."""
        if self._steps is not None:
            return self._steps
        if self._held.timed:
            return max((len(channel) for channel in self._held.channels.values()), default=0)
        return self._grouper.num_steps

    @property
    def closed(self) -> bool:
        """Whether it takes no more values here: it was closed or discarded, or the process that opened it was forked."""
        return self._state != "open"

    def add(
        self,
        feature: str,
        value: object,
        timestamp: Any = None,
        *,
        time_unit: str = "ns",
        feature_type: Feature | None = None,
    ) -> None:
        """Record one value, copied.

        With timestamps, or with `align=` of `new_episode`, every sample is kept with its time, and `close` makes steps of them;
        see `fox.Align`. Without, a step begins when a feature is added that the current step already has; where more than one
        thread adds, the clock's times count instead.

        Images, and other values over 16 KiB, are encoded by threads in the background. Where these do not keep up, `add` waits for
        them, or raises where the episode was begun with `on_full="raise"`. Nothing is ever dropped.

        Args:
            feature: Name; parts are separated by `/`.
            value: numpy array or scalar, Python number, bool, str, bytes, list, torch tensor, PIL image, or a `pathlib.Path` or
                str that names a JPEG or PNG file. A dict gives one feature `feature/key` for each key, all in one step.
            timestamp: When it was taken: whole ns, a datetime with a time zone, a `numpy.datetime64`, or a number in `time_unit`.
                Given for all values of an episode or for none. Order and rate do not matter.
            time_unit: Unit of `timestamp`, where it is a number: `ns`, `us`, `ms` or `s`. Floats need one other than ns.
            feature_type: Declares the feature, at its first value.

        Raises:
            FeatureError: A dtype or shape unlike the feature's earlier values or declaration, a name that cannot be used, or a
                timestamp that cannot be read, or is there for some values only.
            FeatureTypeError: A value that no feature can hold.
            EpisodeClosedError: The episode was closed or discarded, or is of the process that this one was forked from.
            QueueFullError: With `on_full="raise"`, too much waits to be encoded.
            FogxError: A file that is absent, cannot be read, or holds no image; or an encoder failed at an earlier value, which is
                then left out. After any error the episode is as it was, and the same call can be made again.
        """
        with self._lock:
            if feature_type is None and self._at_once(feature, value, timestamp, time_unit):
                return
        self._check_open("add")
        if feature_type is not None and not isinstance(feature_type, Feature):
            raise FeatureError(
                f"feature {feature!r}: feature_type= is a fox.Feature(dtype, shape), found {type(feature_type).__name__}."
            )
        if feature_type is not None and isinstance(value, Mapping):
            raise FeatureError(f"feature_type= declares one feature, {feature!r} is a dict. Declare its parts in features=.")
        self._record({feature: value}, feature_type, timestamp, time_unit, alone=False)

    def add_step(self, values: Mapping[str, object], timestamp: Any = None, *, time_unit: str = "ns") -> None:
        """Record the values of one whole step; nothing added before or after joins it.

        Args:
            values: Value by feature name, as for `add`.
            timestamp: When they were taken, as for `add`: they are one sample then.
            time_unit: As for `add`.

        Raises:
            FeatureError: No values, or as for `add`.
            FogxError: As for `add`.
        """
        self._check_open("add_step")
        self._record(values, None, timestamp, time_unit, alone=True)

    def mark(self, success: bool | None = None, **metadata: Any) -> None:
        """Set metadata of the whole episode.

        Args:
            success: Whether the task was achieved; `None` leaves it as it is.
            metadata: Values by name; earlier ones of the same name are replaced.

        Raises:
            MetadataError: Metadata that cannot be kept; nothing is changed then.
            EpisodeClosedError: The episode was closed or discarded.
        """
        with self._lock:
            self._check_open("mark")
            said = self._checked({"success": success, **metadata})
            self._metadata |= said
            if self._journal is not None:
                self._journal.metadata(said)

    def begin(self, label: str, value: Any = None, *, timestamp: Any = None, time_unit: str = "ns") -> None:
        """Begin a segment: what is recorded from here on, up to `end`, has the label.

        Segments of unlike labels may overlap and lie within each other. `dataset.segments()` shows them.

        Args:
            label: What this part of the episode is: 1–200 printable characters.
            value: More that is said of it: a bool, int, float or str.
            timestamp: When it begins, by the clock of the samples, as in `add`: a sample of that time is in it. Without, it holds
                what is added from now on: a step is in it if its sample is, whatever the stamps say, that of the clock (see
                `fox.Align`; with `rate_hz` or `union` of the default one, whose times then count). Where samples of the clock come
                late, it holds the steps up to the newest. Where it is set back meanwhile, each part is a segment of its own.
            time_unit: As for `add`.

        Raises:
            SegmentError: One of that label is open; a label or value that cannot be stored; a timestamp where samples have none.
                Nothing is changed then.
            FeatureError: A timestamp that cannot be read.
            EpisodeClosedError: The episode was closed or discarded.
        """
        with self._lock:
            self._check_open("begin")
            at_ns = self._moment_ns(timestamp, time_unit)
            self._journal_mark(self._marks.begin(label, value, len(self._held), at_ns))

    def end(self, label: str, *, timestamp: Any = None, time_unit: str = "ns") -> None:
        """End a segment that `begin` began; one that is open when the episode is closed ends with it.

        Args:
            label: Its label.
            timestamp: When it ends, as in `begin`: a sample of that time is not in it. Without, it holds what was added up to now.
            time_unit: As for `add`.

        Raises:
            SegmentError: None of that label is open, nothing was recorded yet, or it would end before it begins; a timestamp where
                samples have none. Nothing is changed then.
            FeatureError: A timestamp that cannot be read.
            EpisodeClosedError: The episode was closed or discarded.
        """
        with self._lock:
            self._check_open("end")
            at_ns = self._moment_ns(timestamp, time_unit)
            self._journal_mark(self._marks.end(label, len(self._held), at_ns))

    def close(self, metadata: Mapping[str, Any] | None = None) -> str:
        """Save the episode; once this returns it is durable. An episode without steps is saved too.

        Args:
            metadata: Added to what was given before.

        Returns:
            Id of the episode.

        Raises:
            MetadataError: Metadata that cannot be kept; the episode stays open.
            EpisodeClosedError: The episode was closed or discarded before.
            FogxError: Saving failed, or an encoder did, at a value that is then left out; the episode stays open, nothing else is
                lost, and `close` may be called again.
        """
        with self._lock:
            self._check_open("close")
            stored, told = self._finish(self._checked(metadata or {}))
        for text in told:
            warnings.warn(text, UserWarning, stacklevel=2)
        return stored

    def discard(self) -> None:
        """Drop the episode; nothing of it is saved.

        Raises:
            EpisodeClosedError: The episode was closed or discarded before.
        """
        with self._lock:
            self._check_open("discard")
            self._end("discarded")

    def take_back(self, held: Held, num_steps: int, journal: Journal, marks: Iterable[Mark]) -> None:
        """Fill a new episode with what a journal holds; see `recovery.py`."""
        self._held, self._lock, self._journal = held, held.lock, journal
        self._grouper.resume(num_steps)
        self._marks = Marks(marks)
        if held.timed and self._align is None:
            self._align = Align()

    def _at_once(self, feature: str, value: object, timestamp: Any, time_unit: str) -> bool:
        """Record a value of exactly the dtype and shape of earlier ones, and return whether it was one: most are, and come fast."""
        held = self._held
        channel = held.channels.get(feature) if type(feature) is str else None
        if channel is None or not channel.fits(value):
            return False
        thread = threading.get_ident()  # an episode that is not open knows none
        if held.stamped is (timestamp is None) or thread not in self._threads or held.frames.encoding.failed:
            return False
        received = self._clock_offset_ns + time.monotonic_ns()
        if timestamp is None:
            stamp = received
            if time_unit != "ns":
                check_unit(time_unit)
        elif type(timestamp) is int and time_unit == "ns" and -LARGEST_NS < timestamp < LARGEST_NS:
            stamp = timestamp
        else:
            stamp = stamp_ns(timestamp, time_unit)
        try:
            channel.put(held.add(stamp, received, self._grouper.place_one(feature)), value)
        except BaseException:  # Ctrl-C comes between any two calls
            self._grouper.resume(held.mend())
            raise
        return True

    def _record(
        self, values: Mapping[str, object], feature_type: Feature | None, timestamp: Any, time_unit: str, *, alone: bool
    ) -> None:
        """Record values of one sample, once there is room for them."""
        flat: dict[str, object] = {}
        _flatten("", values, flat)
        size = 1
        while size:
            with self._lock:
                self._check_open("add_step" if alone else "add")
                size = self._recorded(flat, feature_type, timestamp, time_unit, alone=alone)
            if size:
                self._held.frames.encoding.wait_for_room(size)

    def _recorded(
        self, values: Mapping[str, object], feature_type: Feature | None, timestamp: Any, time_unit: str, *, alone: bool
    ) -> int:
        """Record values of one sample and return 0, or change nothing and return the bytes for which there must be room first."""
        held, encoding = self._held, self._held.frames.encoding
        received = self._clock_offset_ns + time.monotonic_ns()
        check_unit(time_unit)
        stamp = received if timestamp is None else stamp_ns(timestamp, time_unit)
        if held.stamped not in (None, timestamp is not None):
            have, got = ("have", "none") if held.stamped else ("have no", "one")
            raise FeatureError(
                f"feature {next(iter(values), '')!r}: earlier values of this episode {have} timestamps, this one has {got}. Give "
                "timestamp= to all values or to none."
            )
        if held.stamped is None and timestamp is None and (label := self._marks.timed()) is not None:
            raise FeatureError(
                f"feature {next(iter(values), '')!r}: segment {label!r} has a timestamp, this value has none, so that their times cannot "
                "be compared. Give timestamp= to all values, or begin another episode, and its segments without timestamp=."
            )
        self._tell_failures()
        prepared: list[tuple[Channel, Prepared | None]] = []
        refused: list[tuple[str, FogxError]] = []
        for name, value in values.items():
            channel = self._channel(name, feature_type)
            try:
                prepared.append((channel, None if channel.fits(value) else channel.prepare(value)))
            except FogxError as error:
                if not self._quarantines:
                    raise
                refused.append((name, error))
        if (size := sum(item.queued for _, item in prepared if item)) and not encoding.has_room(size):
            if self._waits:
                return size
            count, waiting = encoding.waiting
            raise QueueFullError(
                f"feature {listing([c.name for c, item in prepared if item and item.queued])}: {count} values of {waiting} bytes wait "
                "to be encoded, and there is no room for more. Nothing of this call was recorded; make it again, lower the rate, or "
                "begin episodes with on_full='wait'."
            )
        for channel, item in prepared:
            if item is not None and item.missing_file and not len(channel):
                warnings.warn(
                    f"feature {channel.name!r}: {item.stored!r} names no file and is kept as text. If it is meant to be an "
                    "image, check the path; if text, declare Feature('str').",
                    UserWarning,
                    stacklevel=4,
                )
        if self._journal is None and self._begin_journal is not None:
            self._journal = self._begin_journal(None if self._align is None else self._align.to_json(), self._metadata)
            for mark in self._marks:
                self._journal_mark(mark)
            self._journal.follow(held.news, held.frames)
        for name, refusal in refused:
            self._refuse(name, refusal)
        if not prepared:
            return 0
        held.stamped = timestamp is not None
        if not alone:  # whole steps come in any order of threads
            self._threads.add(threading.get_ident())
        held.timed = self._align is not None or held.stamped or len(self._threads) > 1
        names = [channel.name for channel, _ in prepared]
        try:
            row = held.add(stamp, received, self._grouper.place_alone() if alone else self._grouper.place(names))
            for channel, item in prepared:
                held.channels[channel.name] = channel
                if item is None:
                    channel.put(row, values[channel.name])
                else:
                    channel.append(row, item, held.stamps_ns)
        except BaseException:  # as above
            self._grouper.resume(held.mend())
            raise
        return 0

    def _refuse(self, name: str, error: Exception) -> None:
        """Count a value that is left out."""
        mine = self._refused.setdefault(name, {"count": 0, "first_error": str(error)})
        mine["count"] += 1
        self._left_out += 1
        if self._journal is not None:
            self._journal.metadata({"quarantined": self._refused})

    def _tell_failures(self) -> None:
        """Raise where an encoder failed, or count what it failed at."""
        if failed := self._held.frames.encoding.failures():
            if not self._quarantines:
                self._left_out += len(failed)
                raise not_encoded(failed)
            for name, error in failed:
                self._refuse(name, error)

    def _moment_ns(self, timestamp: Any, time_unit: str) -> int | None:
        """Return the time that was given for the begin or end of a segment."""
        check_unit(time_unit)
        if timestamp is None:
            return None
        if self._held.stamped is False:
            raise SegmentError(
                "samples of this episode have no timestamps, so that a segment can have none; leave timestamp= out."
            )
        return stamp_ns(timestamp, time_unit)

    def _journal_mark(self, mark: Mark) -> None:
        if self._journal is not None:
            self._journal.segment(asdict(mark))

    def _channel(self, name: str, feature_type: Feature | None) -> Channel:
        channel = self._held.channels.get(name)
        declared = self._declared.get(name)
        if channel is None:
            if feature_type is not None and declared not in (None, feature_type):
                raise FeatureError(
                    f"feature {name!r} is declared {declared} for this episode, feature_type= says {feature_type}."
                )
            return Channel(check_feature_name(name), feature_type or declared, self._held.frames)
        if feature_type not in (None, channel.declared):
            raise FeatureError(
                f"feature {name!r} was first added as {channel.declared}, feature_type= says {feature_type}. Declare it at its "
                "first value only."
            )
        return channel

    def _checked(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of metadata that may be kept."""
        if not isinstance(metadata, Mapping):
            raise MetadataError(f"metadata is a dict, not {type(metadata).__name__}.")
        own = {key: check(metadata[key]) for key, check in _OWN.items() if metadata.get(key) is not None}
        rest = {key: value for key, value in metadata.items() if key not in _OWN}
        if not isinstance(rest.get("task", ""), (str, type(None))):
            raise MetadataError(f"task= says in words what the robot is to do, found {type(rest['task']).__name__}.")
        if self._check_metadata is not None and rest:
            self._check_metadata(rest)
        return {**copy.deepcopy(rest), **own}

    def _finish(self, metadata: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Save and end the episode; return its id and what there is to warn of."""
        frames, facts = self._held.frames, {**self._metadata, **metadata}
        own = {key: facts.pop(key, None) for key in _OWN}
        with frames.still(), self._progress(frames.encoding.waiting[0]) as done:
            frames.encoding.drain(done)
            self._tell_failures()
            is_long = frames.sealed() is not None
            if is_long:  # its frames go before its steps need memory
                if self._journal is not None:
                    self._journal.seal(least=1)
                give_back()
            data, told, moments = self._aligned() if self._held.timed else self._grouped()
            own["control_hz"] = data.control_hz if own["control_hz"] is None else own["control_hz"]
            assert data.timestamps_ns is not None
            segments, of_segments = self._marks.finished(moments, self._held.stamps_ns, data.timestamps_ns)
            del moments  # with what the steps were made of
            if is_long:
                give_back()
            told += [f"episode {self._id}: {text}" for text in of_segments]
            if self._refused:
                facts["quarantined"] = copy.deepcopy(self._refused)
                told.append(self._quarantine())
            whole = replace(data, metadata=facts, episode_id=self._id, segments=segments, **own)
            stored = self._seal(whole, frames.sealed())
            self._steps = data.num_steps
            self._end("closed")
        if self._saved is not None:
            self._saved(self._id)
        return stored or self._id, told

    @contextmanager
    def _progress(self, waiting: int) -> Iterator[Callable[[int], None]]:
        """Draw a line where it takes long; what it gives is called with how many values are not encoded yet."""
        with tqdm(total=waiting + 1, desc=f"close {self._id}", unit="value", delay=_LONG_S, disable=not config().progress) as bar:
            late = threading.Timer(_LONG_S, bar.refresh)
            late.daemon = True
            late.start()

            def done(left: int) -> None:
                bar.update(max(waiting - left, 0) - bar.n)

            try:
                yield done
                bar.update()  # saved
            finally:
                late.cancel()

    def _quarantine(self) -> str:
        counts = [f"{mine['count']} of {name!r}" for name, mine in self._refused.items()]
        first = next(iter(self._refused.values()))["first_error"]
        total = sum(mine["count"] for mine in self._refused.values())
        return f"episode {self._id}: {total} values were refused and left out: {listing(counts)}. The first: {first}"

    def _grouped(self) -> tuple[EpisodeData, list[str], Callable[[], Moments]]:
        """Return the steps as the order of the values tells them, each at the time of its first."""
        held, steps = self._held, self._grouper.num_steps
        place = np.array(held.steps, np.int64)
        columns = {name: channel.column(steps, place) for name, channel in held.channels.items()}
        stamps, first = np.array(held.stamps_ns, np.int64), np.unique(place, return_index=True)[1]
        times = stamps[first]
        told = [sparse] if (sparse := self._sparse()) else []
        return EpisodeData(held.schema(), columns, steps, times), told, functools.partial(Moments, times, first, stamps)

    def _aligned(self) -> tuple[EpisodeData, list[str], Callable[[], Moments]]:
        """Return the steps as the times of the values tell them."""
        held = self._held
        stamps, received = np.array(held.stamps_ns, np.int64), np.array(held.received_ns, np.int64)
        sent = {name: channel.column(len(stamps)) for name, channel in held.channels.items()}
        policy, samples, told = self._align or Align(), Samples(sent, stamps, received, {}), list[str | None]()
        schema = held.schema()
        made = None
        while made is None:  # a policy that does not fit what came must not keep a take from being saved
            try:
                made = aligned(schema, samples, policy)
            except TooManyStepsError as error:
                policy = replace(policy, rate_hz=None)
                told.append(f"{error} The steps were made without rate_hz=, and every sample is kept.")
            except AlignmentError as error:
                policy = policy.without(error.features)
                told.append(
                    f"{error} The steps were made without what align= says of {listing(map(repr, error.features))}; every sample is "
                    "kept, so dataset.realign() can make others."
                )
        told += [None if policy.says_clock else fast_clock(made.streams, made.steps)]
        told += [many_gaps(made.streams, made.steps, policy)]
        if cuts := made.steps.cuts:
            told.append(
                f"a clock was set back {len(cuts)} time(s), first before step {cuts[0]}: its stamps fell behind the times of arrival. "
                "What came before and after is aligned apart, and times of steps fall there. Look at view.timestamp_ns."
            )
        data = EpisodeData(schema, made.columns, len(made.steps.times_ns), made.steps.times_ns, samples=made.samples)
        data.control_hz = policy.rate_hz
        moments = functools.partial(Moments.of, made, policy, len(stamps))
        return data, [f"episode {self._id}: {text}" for text in told if text], moments

    def _end(self, state: str) -> None:
        frames = self._held.frames
        with frames.still():
            self._state = state
            self._threads.clear()
            if self._journal is not None:
                self._journal.close(remove=True)
            frames.close(remove=True)
            if state == "discarded":
                frames.discard()
            self._held = Held(Frames())

    def _check_open(self, verb: str) -> None:
        if self._state == _INHERITED:
            raise EpisodeClosedError(
                f"{verb}: episode {self._id} was opened by process {self._pid}; this one, {os.getpid()}, was forked from it. Nothing was "
                "changed, and there it goes on. To record in several processes, start them with multiprocessing.get_context('spawn'), and "
                "let each open a dataset and episodes of its own."
            )
        if self._state != "open":
            raise EpisodeClosedError(
                f"{verb}: episode {self._id} was {self._state} before. Begin another one with dataset.new_episode()."
            )

    def _sparse(self) -> str | None:
        """Return a warning where many cells have no value."""
        channels = self._held.channels
        cells = self.num_steps * len(channels)
        empty = cells - sum(len(c) for c in channels.values())
        if empty - self._left_out <= cells * _MANY_NULLS:
            return None
        seconds = self._held.seconds()
        rates = [f"{c.name} {len(c)}" + (f" ({len(c) / seconds:.1f}/s)" if seconds else "") for c in channels.values()]
        return (
            f"episode {self._id}: {empty} of {cells} values ({empty / cells:.0%}) are missing, because features came at unlike "
            f"rates: {listing(rates)}. A step begins when a feature is added again; give all values of a step together with "
            "episode.add_step({...}), and what holds for the whole episode as metadata."
        )


def _after_fork() -> None:
    """Let a forked child leave the episodes of its parent alone: their threads are not there, and their journals not its own."""
    for episode in list(_OPEN):
        if episode._state == "open":
            episode._state = _INHERITED
            episode._threads.clear()
        episode._lock = threading.RLock()  # a thread that had it is not there either


os.register_at_fork(after_in_child=_after_fork)


def _flatten(prefix: str, values: Mapping[str, object], into: dict[str, object]) -> None:
    """Put the leaves of nested dicts into one, their names joined by `/`."""
    if not isinstance(values, Mapping):
        raise FeatureError(f"add_step takes a dict of values by feature name, not {type(values).__name__}.")
    if not values:
        raise FeatureError(f"{f'feature {prefix[:-1]!r}' if prefix else 'add_step'} got an empty dict; give at least one value.")
    for key, value in values.items():
        name = check_feature_name(f"{prefix}{key}" if isinstance(key, str) else key)
        if isinstance(value, Mapping):
            _flatten(f"{name}/", value, into)
        elif name in into:
            raise FeatureError(f"feature {name!r} is given twice in one call.")
        else:
            into[name] = read_ahead(name, value)


def _name(key: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise MetadataError(f"metadata {key!r} is a str that is not empty, found {type(value).__name__}.")
        return value

    return check


def _success(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise MetadataError(f"success is True, False or None, found {type(value).__name__}.")
    return bool(value)


def _control_hz(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)) or not 0 < float(value) < math.inf:
        raise MetadataError(f"control_hz is a finite number of steps a second above 0, found {value!r:.60}.")
    return float(value)


_OWN: dict[str, Callable[[Any], Any]] = {
    "dataset": _name("dataset"),
    "split": _name("split"),
    "control_hz": _control_hz,
    "success": _success,
}
"""Metadata that has a place of its own in an episode."""
