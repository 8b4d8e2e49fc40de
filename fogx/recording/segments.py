"""Labels on parts of an episode while it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fogx.errors import SegmentError, listing
from fogx.protocols import Segment, SegmentValue
from fogx.recording.moments import Moments
from fogx.storage.tables.segments import check_label, check_value, in_order, steps_of


@dataclass(frozen=True)
class Mark:
    """One segment, by the order in which samples came, or by times that were given.

    Args:
        number: It is the so manieth of its episode.
        label: Its label.
        value: Its value.
        began: How many samples had come when it began.
        ended: How many when it ended; `None` while it is open.
        start_ns: The time that was given for its begin.
        stop_ns: The time that was given for its end.
    """

    number: int
    label: str
    value: SegmentValue = None
    began: int = 0
    ended: int | None = None
    start_ns: int | None = None
    stop_ns: int | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Mark:
        """Return what an event of a journal says.

        Raises:
            LookupError, TypeError, ValueError: It says no such thing.
        """
        start, stop = (None if event[name] is None else int(event[name]) for name in ("start_ns", "stop_ns"))
        # Journals of before had times only.
        began, ended = int(event.get("began", 0)), event.get("ended", None if stop is None else 0)
        ended = None if ended is None else int(ended)
        return cls(int(event["number"]), check_label(event["label"]), check_value(event["value"]), began, ended, start, stop)

    def renumbered(self, count: Callable[[int], int]) -> Mark:
        """Return it where of so many samples only some are there, as `count` says."""
        return replace(self, began=count(self.began), ended=None if self.ended is None else count(self.ended))


class Marks:
    """The segments of one episode.

    Args:
        marks: Those that there are.
    """

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._marks = {mark.number: mark for mark in marks}

    def __iter__(self) -> Iterator[Mark]:
        return iter(self._marks.values())

    def timed(self) -> str | None:
        """Return the label of the first segment that was given a time, if one was."""
        return next((m.label for m in self if m.start_ns is not None or m.stop_ns is not None), None)

    def begin(self, label: object, value: object, count: int, at_ns: int | None) -> Mark:
        """Open a segment and return it.

        Args:
            label: Its label.
            value: Its value.
            count: How many samples have come.
            at_ns: The time that was given; `None` for now.

        Raises:
            SegmentError: A label or value that cannot be stored, or a label that is open.
        """
        name = check_label(label)
        if self._open(name):
            raise SegmentError(
                f"begin: segment {name!r} is open; end({name!r}) it first. Segments of other labels may overlap it."
            )
        mark = Mark(max(self._marks, default=-1) + 1, name, check_value(value), count, None, at_ns)
        self._marks[mark.number] = mark
        return mark

    def end(self, label: object, count: int, at_ns: int | None) -> Mark:
        """End a segment and return it.

        Args:
            label: Its label.
            count: How many samples have come.
            at_ns: The time that was given; `None` for now.

        Raises:
            SegmentError: None of that label is open, it holds no sample yet, or would stop before it starts.
        """
        name = check_label(label)
        mark = self._open(name)
        if mark is None:
            others = listing(repr(m.label) for m in self._marks.values() if m.ended is None)
            raise SegmentError(f"end: no segment {name!r} is open. Open are: {others}.")
        if at_ns is None and not count:
            raise SegmentError(f"end: nothing was recorded since begin({name!r}). Give timestamp=, or end it after a sample.")
        if at_ns is not None and mark.start_ns is not None and at_ns <= mark.start_ns:
            raise SegmentError(f"end: segment {name!r} began at {mark.start_ns} ns and cannot stop at {at_ns} ns, not after it.")
        self._marks[mark.number] = replace(mark, ended=count, stop_ns=at_ns)
        return self._marks[mark.number]

    def finished(
        self, moments: Callable[[], Moments], stamps_ns: Sequence[int], times_ns: np.ndarray
    ) -> tuple[tuple[Segment, ...], list[str]]:
        """Return the segments of the whole episode, and what there is to warn of; nothing is changed.

        Args:
            moments: Gives the times of what was marked without one.
            stamps_ns: Stamps of all samples, in the order in which they came.
            times_ns: `(T,)` int64, times of the steps.
        """
        if not self._marks:
            return (), []
        segments, empty = list[Segment](), list[str]()
        ends = _Ends(moments(), stamps_ns, times_ns) if stamps_ns else None
        for mark in self._marks.values():
            start, stop = ends.of(mark) if ends else (mark.start_ns, mark.stop_ns)
            parts: Sequence[tuple[int | None, int | None]] = [(start, stop)]
            if ends and start is not None and stop is not None and stop <= start:
                if (mark.start_ns is None) != (mark.stop_ns is None):
                    empty.append(f"{mark.label!r} ({mark.start_ns if mark.stop_ns is None else mark.stop_ns} ns)")
                parts = ends.set_back(mark) or [
                    (stop - 1, stop) if mark.start_ns is None and not mark.began else (start, start + 1)
                ]
            segments += [Segment(mark.label, 0, 0, *part, mark.value) for part in parts]
        opened = [repr(mark.label) for mark in self._marks.values() if mark.ended is None]
        told = [f"{len(opened)} segment(s) still open at close() end with the episode: {listing(opened)}."] if opened else []
        if empty:
            told.append(
                f"{len(empty)} segment(s) last 1 ns, because the timestamp of one end lies past all that was added up to the other: "
                f"{listing(empty)}. Give timestamp= to both ends or to none."
            )
        return tuple(in_order(steps_of(segments, times_ns))), told

    def _open(self, label: str) -> Mark | None:
        return next((mark for mark in self._marks.values() if mark.label == label and mark.ended is None), None)


class _Ends:
    """Tells when segments of an episode start and stop, which has samples."""

    def __init__(self, moments: Moments, stamps_ns: Sequence[int], times_ns: np.ndarray) -> None:
        self._moments, self._count = moments, len(stamps_ns)
        # `latency_s` may put steps before the first stamp, or after the last.
        self._first, self._last = int(times_ns.min(initial=min(stamps_ns))), int(times_ns.max(initial=max(stamps_ns)))

    def of(self, mark: Mark) -> tuple[int, int]:
        """Return start and stop of a segment in ns; it may stop before it starts."""
        ended = self._count if mark.ended is None else mark.ended
        start, stop = mark.start_ns, mark.stop_ns
        if start is None:
            start = (
                self._last + 1 if mark.began >= self._count else self._moments.begin_ns(mark.began) if mark.began else self._first
            )
        if stop is None:
            stop = self._last + 1 if ended >= self._count else self._moments.end_ns(ended) if ended else self._first
        return start, stop

    def set_back(self, mark: Mark) -> list[tuple[int, int]]:
        """Return the times of the parts of a segment in which a clock was set back."""
        if mark.start_ns is not None or mark.stop_ns is not None:
            return []
        return list(self._moments.parts_ns(mark.began, self._count if mark.ended is None else mark.ended))
