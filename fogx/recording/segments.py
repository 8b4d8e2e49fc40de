"""Labels on parts of an episode while it is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fogx.errors import SegmentError, listing
from fogx.protocols import Segment, SegmentValue
from fogx.storage.tables.segments import check_label, check_value, in_order, steps_of


@dataclass(frozen=True)
class Mark:
    """One segment, by the clock of the samples.

    Args:
        number: It is the so manieth of its episode.
        label: Its label.
        value: Its value.
        start_ns: When it starts; `None` with the first sample.
        stop_ns: When it stops; `None` while it is open.
    """

    number: int
    label: str
    value: SegmentValue = None
    start_ns: int | None = None
    stop_ns: int | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Mark:
        """Return what an event of a journal says.

        Raises:
            LookupError, TypeError, ValueError: It says no such thing.
        """
        ends = [None if event[name] is None else int(event[name]) for name in ("start_ns", "stop_ns")]
        return cls(int(event["number"]), check_label(event["label"]), check_value(event["value"]), *ends)


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
        """Return the label of the first segment that has a time, if one has: before the first sample, of those that were given one."""
        return next((m.label for m in self if m.start_ns is not None or m.stop_ns is not None), None)

    def begin(self, label: object, value: object, at_ns: int | None) -> Mark:
        """Open a segment and return it.

        Args:
            label: Its label.
            value: Its value.
            at_ns: When it starts; `None` with the first sample.

        Raises:
            SegmentError: A label or value that cannot be stored, or a label that is open.
        """
        name = check_label(label)
        if self._open(name):
            raise SegmentError(
                f"begin: segment {name!r} is open; end({name!r}) it first. Segments of other labels may overlap it."
            )
        mark = Mark(max(self._marks, default=-1) + 1, name, check_value(value), at_ns)
        self._marks[mark.number] = mark
        return mark

    def end(self, label: object, at_ns: int | None, *, given: bool) -> Mark:
        """End a segment and return it.

        Args:
            label: Its label.
            at_ns: When it stops; `None` before the first sample.
            given: Whether the user said when.

        Raises:
            SegmentError: None of that label is open, it holds no sample yet, or would stop before it starts.
        """
        name = check_label(label)
        mark = self._open(name)
        if mark is None:
            others = listing(repr(m.label) for m in self._marks.values() if m.stop_ns is None)
            raise SegmentError(f"end: no segment {name!r} is open. Open are: {others}.")
        if at_ns is None:
            raise SegmentError(f"end: nothing was recorded since begin({name!r}). Give timestamp=, or end it after a sample.")
        if mark.start_ns is not None and at_ns <= mark.start_ns:
            if given:
                raise SegmentError(
                    f"end: segment {name!r} began at {mark.start_ns} ns and cannot stop at {at_ns} ns, not after it."
                )
            at_ns = mark.start_ns + 1  # no sample lies in it
        self._marks[mark.number] = replace(mark, stop_ns=at_ns)
        return self._marks[mark.number]

    def finished(self, stamps_ns: Sequence[int], times_ns: np.ndarray) -> tuple[tuple[Segment, ...], str | None]:
        """Return the segments of the whole episode, and what there is to warn of; nothing is changed.

        Args:
            stamps_ns: Times of all samples.
            times_ns: `(T,)` int64, times of the steps.
        """
        if not self._marks:
            return (), None
        first, last = (min(stamps_ns), max(stamps_ns)) if stamps_ns else (None, None)
        if first is not None and last is not None:  # `latency_s` may put steps before the first stamp, or after the last
            first, last = int(times_ns.min(initial=first)), int(times_ns.max(initial=last))
        segments = []
        for mark in self._marks.values():
            start = first if mark.start_ns is None else mark.start_ns
            stop = mark.stop_ns if mark.stop_ns is not None or last is None else last + 1
            if start is not None and stop is not None and stop <= start:
                start, stop = (stop - 1, stop) if mark.start_ns is None else (start, start + 1)
            segments.append(Segment(mark.label, 0, 0, start, stop, mark.value))
        opened = [repr(mark.label) for mark in self._marks.values() if mark.stop_ns is None]
        told = f"{len(opened)} segment(s) still open at close() end with the episode: {listing(opened)}." if opened else None
        return tuple(in_order(steps_of(segments, times_ns))), told

    def _open(self, label: str) -> Mark | None:
        return next((mark for mark in self._marks.values() if mark.label == label and mark.stop_ns is None), None)
