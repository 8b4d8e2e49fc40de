"""When something happened that was said between samples: the order in which they came, as a time by the clock of the steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fogx.align.columns import Aligned
from fogx.align.policy import Align
from fogx.align.steps import align, times_of


@dataclass(frozen=True)
class _Run:
    """Ticks whose times rise: all, but where a clock was set back.

    Args:
        times_ns: `(T,)` int64, rising.
        came: `(T,)` int64, rising: the numbers of their samples.
        sent_ns: `(T,)` int64, the time of each of `came`.
        newest_ns: `(T,)` int64, the newest time up to each of `came`.
    """

    times_ns: np.ndarray
    came: np.ndarray
    sent_ns: np.ndarray
    newest_ns: np.ndarray


class Moments:
    """Tells times that part the ticks of a clock which came before a moment from those which came after it.

    Other sensors may have clocks that are ahead, or stamps that are late: they only say where between two ticks it was.

    Args:
        ticks_ns: `(T,)` int64, times of the clock; they rise, but where it was set back.
        came: `(T,)` int64, number of the sample of each: samples are numbered as they came.
        times_ns: `(N,)` int64, the time of each sample; of sensors that gave a value at once the newest.
    """

    def __init__(self, ticks_ns: np.ndarray, came: np.ndarray, times_ns: np.ndarray) -> None:
        self._runs = list(_runs(ticks_ns, came))
        self._newest_ns = times_ns.copy()
        bounds = [0, *(int(run.came[0]) for run in self._runs[1:]), len(times_ns)]
        for first, stop in itertools.pairwise(bounds):
            self._newest_ns[first:stop] = np.maximum.accumulate(times_ns[first:stop])

    @classmethod
    def of(cls, made: Aligned, policy: Align, count: int) -> Moments:
        """Return the moments of aligned samples, of which there are so many.

        By the clock of the steps; where they have none, by the one that they had by default, and never by another sensor's.
        """
        ticks = made.steps if made.steps.clock else align(made.streams, Align(latency_s=policy.latency_s))
        times_ns = np.full(count, np.iinfo(np.int64).min)
        for name, times in times_of(made.streams, policy).items():
            arrival = made.streams[name].arrival
            times_ns[arrival] = np.maximum(times_ns[arrival], times)
        if ticks.clock is None:
            none = np.zeros(0, np.int64)
            return cls(none, none, times_ns)
        came = made.streams[ticks.clock].arrival
        assert came is not None
        return cls(ticks.times_ns, came[ticks.features[ticks.clock].sample], times_ns)

    def begin_ns(self, count: int) -> int:
        """Return when something began after so many samples: 1 or more, and not all."""
        after = (run for run in self._runs if run.came[-1] >= count)
        return self._between(count, next(after, self._runs[-1] if self._runs else None))

    def end_ns(self, count: int) -> int:
        """Return when something ended after so many samples, half-open: 1 or more, and not all."""
        before = (run for run in reversed(self._runs) if run.came[0] < count)
        return self._between(count, next(before, self._runs[0] if self._runs else None))

    def parts_ns(self, began: int, ended: int) -> Iterator[tuple[int, int]]:
        """Yield the half-open times of the ticks that came between: one range, but where the clock was set back meanwhile."""
        for run in self._runs:
            sent = run.sent_ns[slice(*np.searchsorted(run.came, [began, ended]))]
            if len(sent):
                yield int(sent.min()), int(sent.max()) + 1

    def _between(self, count: int, run: _Run | None) -> int:
        """Return a time after the ticks of a run that came before, and not after the others, where there is one."""
        at = int(self._newest_ns[count - 1]) + 1
        if run is None:
            return at
        before = int(np.searchsorted(run.came, count))
        after = 0
        if before:
            at = max(at, least := int(run.newest_ns[before - 1]) + 1)
            after = int(np.searchsorted(run.times_ns, least))
        if after < len(run.times_ns):
            # 1 ns of room, so that what begins and ends here has no tick in it.
            at = min(at, int(run.times_ns[after]) - 1)
        return max(at, least) if before else at


def _runs(ticks_ns: np.ndarray, came: np.ndarray) -> Iterator[_Run]:
    falls = np.flatnonzero(np.diff(ticks_ns) <= 0) + 1
    for times, numbers in zip(np.split(ticks_ns, falls), np.split(came, falls), strict=True):
        if len(times):
            order = np.argsort(numbers, kind="stable")
            yield _Run(times, numbers[order], times[order], np.maximum.accumulate(times[order]))
