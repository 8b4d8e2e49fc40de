"""Where items stand: which steps of which episodes. Pure functions of numbers, made once in the parent."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fogx.errors import SelectionError
from fogx.training.index import Anchors
from fogx.training.windows import SLACK_NS, StepWindow, TimeWindow, Window


def anchors_of(
    num_steps: np.ndarray,
    *,
    stretch: StepWindow | None = None,
    every: int = 1,
    chosen: np.ndarray | None = None,
    full: np.ndarray | None = None,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Anchors:
    """Return the anchors of a selection.

    Args:
        num_steps: `(N,)` int64, steps of each episode.
        stretch: The window that runs of steps are cut into, one after the other; `None` for an anchor a step.
        every: Each such-and-such anchor of an episode is kept.
        chosen: `(M,)` bool over all steps of all episodes; `None` for all of them.
        full: `(M,)` bool, at which steps every window is full; `None` where `bounds` says so.
        bounds: `(N,)` int64 each, the first step of each episode at which every window is full, and one past the last; `None` where
            they may be padded.
    """
    length, ahead = (1, 0) if stretch is None else (len(stretch), stretch.offsets[0])
    low, high = bounds if bounds is not None else (None, None)
    if chosen is None and full is None:
        step = length * every
        first = np.full(len(num_steps), -ahead, np.int64)
        stop = -(-num_steps // length) * length - ahead
        if low is not None and high is not None:
            first = first + -(-np.maximum(low - first, 0) // step) * step
            stop = np.minimum(stop, high)
        return Anchors(np.maximum(-(-(stop - first) // step), 0), first, step)
    ends = np.cumsum(num_steps)
    total = int(ends[-1]) if len(ends) else 0
    at = np.arange(total) if chosen is None else np.flatnonzero(chosen)
    episodes = np.searchsorted(ends, at, side="right")
    steps = at - (ends - num_steps)[episodes]
    new = np.ones(len(at), bool)
    new[1:] = (np.diff(episodes) != 0) | (np.diff(at) != 1)
    keep = _rank(new) % length == 0
    episodes, steps = episodes[keep], steps[keep]
    new = np.ones(len(episodes), bool)
    new[1:] = np.diff(episodes) != 0
    keep = _rank(new) % every == 0
    episodes, steps = episodes[keep], steps[keep] - ahead
    if low is not None and high is not None:
        keep = (steps >= low[episodes]) & (steps < high[episodes])
        episodes, steps = episodes[keep], steps[keep]
    if full is not None:
        inside = (steps >= 0) & (steps < num_steps[episodes])
        where = (ends - num_steps)[episodes] + np.clip(steps, 0, num_steps[episodes] - 1)
        keep = inside & full[where]
        episodes, steps = episodes[keep], steps[keep]
    counts = np.bincount(episodes, minlength=len(num_steps)).astype(np.int64)
    return Anchors(counts, np.zeros(len(num_steps), np.int64), 1, steps.astype(np.int64))


def stretch_of(windows: Collection[Window]) -> StepWindow:
    """Return the longest window, which stretches of steps are cut by.

    Raises:
        SelectionError: It does not count step by step, or there is none.
    """
    longest = max(windows, key=len, default=None)
    if not isinstance(longest, StepWindow) or set(np.diff(longest.offsets).tolist()) - {1}:
        raise SelectionError(
            "level='window' cuts episodes into stretches as long as the longest window, which has to count every step: give "
            "windows={name: fox.steps(start, stop)}, longer than the others, or choose level='step'."
        )
    return longest


def full_by_steps(windows: Collection[Window], num_steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the steps at which windows that count in steps are full: the first, and one past the last."""
    offsets = [offset for window in windows if isinstance(window, StepWindow) for offset in window.offsets]
    low = np.full(len(num_steps), -min(offsets, default=0), np.int64)
    return low, num_steps - max(offsets, default=0)


def full_by_rate(windows: Collection[Window], num_steps: np.ndarray, hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same bounds for windows in time, where episodes have a rate and no times."""
    offsets = [offset / 1e9 for w in windows if isinstance(w, TimeWindow) for offset in w.offsets_ns.tolist()]
    if not offsets:
        return np.zeros(len(num_steps), np.int64), num_steps
    slack = SLACK_NS / 1e9
    low = -np.floor((min(offsets) + slack) * hz)
    high = np.floor(num_steps - 1 - (max(offsets) - slack) * hz) + 1
    return low.astype(np.int64), high.astype(np.int64)


def full_by_times(windows: Collection[Window], times_ns: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
    """Return at which steps windows in time are full.

    Args:
        windows: Windows; those in steps are left alone.
        times_ns: `(M,)` int64 times of all steps of all episodes, one after the other.
        num_steps: `(N,)` int64, steps of each episode.

    Returns:
        `(M,)` bool.
    """
    offsets = [offset for w in windows if isinstance(w, TimeWindow) for offset in w.offsets_ns.tolist()]
    held = num_steps[num_steps > 0]
    ends = np.cumsum(held)
    first, last = np.repeat(times_ns[ends - held], held), np.repeat(times_ns[ends - 1], held)
    low, high = min(offsets, default=0), max(offsets, default=0)
    mask: np.ndarray = (times_ns + low + SLACK_NS >= first) & (times_ns + high - SLACK_NS <= last)
    return mask


def _rank(new: np.ndarray) -> np.ndarray:
    """Return how far each element stands behind the last one that begins a run."""
    numbers = np.arange(len(new))
    return numbers - np.maximum.accumulate(np.where(new, numbers, 0))


def whole_number(name: str, value: object, least: int) -> int:
    """Return an option that is a whole number.

    Raises:
        SelectionError: It is none, or too small.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise SelectionError(f"{name}={value!r}: allowed is a whole number from {least}.")
    return int(value)
