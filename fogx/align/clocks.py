"""Clocks that were set back while they were read, told from samples that only come late."""

from __future__ import annotations

import numpy as np

FALL_NS = 100_000_000
"""By so much must a stamp lie before the newest one of its feature, and its clock against the clock of arrival, to be looked at."""

WAIT_NS = 30_000_000_000
"""For so long may late samples go on arriving before their clock counts as set back."""

UNPACED_NS = 1_000_000_000
"""How far stamps may go back where times of arrival tell nothing."""


def set_back(times_ns: np.ndarray, received_ns: np.ndarray | None) -> int | None:
    """Return the first sample of a feature from which on its clock tells an earlier time, or `None`. O(n).

    A stamp more than 0.1 s before the newest one came late, or its clock was set back. The offset of a sample, stamp − arrival,
    tells which: after late samples it comes back to where it was, with whatever is sent next; after a clock was set it stays
    low. So the clock was set back where no sample of the next 30 s has again the offset of the newest one, less 0.1 s. Where in
    doubt, as at the end, it was: two times mixed into one would be worse than a cut.

    Samples given faster than their stamps go (a replay, a simulation) have arrivals that tell nothing: there, and without
    arrivals, a stamp more than 1 s before the newest one means a clock that was set back.

    Args:
        times_ns: `(N,)` int64 stamps in the order in which they came.
        received_ns: `(N,)` int64, not falling, when each came; `None` where that is not known.
    """
    if len(times_ns) < 2 or bool((times_ns[1:] >= times_ns[:-1]).all()):
        return None
    newest = np.maximum.accumulate(times_ns)
    back = np.flatnonzero(times_ns[1:] < newest[:-1] - FALL_NS) + 1
    fresh = np.append(True, times_ns[1:] > newest[:-1])
    holder = np.maximum.accumulate(np.where(fresh, np.arange(len(times_ns)), 0))
    late = 0  # samples up to here came late
    for sample in back.tolist():
        before = int(holder[sample - 1])
        if sample < late:
            continue
        if received_ns is None or not _paced(times_ns, received_ns, before):
            if times_ns[sample] < times_ns[before] - UNPACED_NS:
                return int(sample)
            continue
        returned = _returned(times_ns, received_ns, before, sample)
        if returned is None:
            return int(sample)
        late = returned
    return None


def _paced(times_ns: np.ndarray, received_ns: np.ndarray, until: int) -> bool:
    """Return whether samples came as fast as their stamps go, up to one of them: at half the speed at least, 1 s aside."""
    return bool(times_ns[until] - times_ns[0] <= 2 * (received_ns[until] - received_ns[0]) + UNPACED_NS)


def _returned(times_ns: np.ndarray, received_ns: np.ndarray, before: int, sample: int) -> int | None:
    """Return the first sample, from one that lies back on, whose offset is that of an earlier one again; `None` for none in time."""
    least = times_ns[before] - received_ns[before] - FALL_NS
    stop = int(np.searchsorted(received_ns, received_ns[sample] + WAIT_NS, side="right"))
    first, size = sample, 64
    while first < stop:  # in growing pieces, so that the whole takes no longer than what is looked at
        here = slice(first, min(first + size, stop))
        found = np.flatnonzero(times_ns[here] - received_ns[here] >= least)
        if len(found):
            return first + int(found[0])
        first, size = first + size, 2 * size
    return None
