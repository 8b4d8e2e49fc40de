"""Windows of steps around the step of an item: what users ask for, and which steps that are. Pure functions of numbers."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fogx.errors import SelectionError

_T = TypeVar("_T")

SLACK_NS = 1_000
"""Times are rounded on their way to ns: a step that is later than asked by no more than this counts as not later."""

_MOST = 100_000
"""Steps in a window."""

_FAR_S = 1e9
"""The farthest time of a window, about 30 years: what is farther does not fit into ns beside a time of today."""


@dataclass(frozen=True)
class StepWindow:
    """Steps relative to the step of an item; see `steps`.

    Args:
        offsets: W numbers of steps; 0 is the item's own step, -1 the one before.
    """

    offsets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class TimeWindow:
    """Times relative to the time of an item's step; see `seconds`.

    Args:
        offsets_s: W times in s; 0 is the time of the item's own step.

    Raises:
        SelectionError: A time that is too far away to be counted in ns.
    """

    offsets_s: tuple[float, ...]

    def __post_init__(self) -> None:
        farthest = max(self.offsets_s, key=abs, default=0.0)
        if abs(farthest) > _FAR_S:
            raise SelectionError(f"a window has times up to {_FAR_S:g} s from the item's own, found {farthest:g} s.")

    def __len__(self) -> int:
        return len(self.offsets_s)

    @property
    def offsets_ns(self) -> np.ndarray:
        """`(W,)` int64."""
        return np.rint(np.array(self.offsets_s) * 1e9).astype(np.int64)


Window = StepWindow | TimeWindow


def steps(start: int | Sequence[int] | np.ndarray, stop: int | None = None, stride: int = 1) -> StepWindow:
    """Return a window that counts in steps, relative to the step of the item.

    Args:
        start: First step: `fox.steps(0, 16)` are 16 steps from the item's own on, `fox.steps(-1, 1)` the one before and the item's
            own. Or a list or array of steps: `fox.steps([-15, -7, 0])`.
        stop: One past the last step.
        stride: Distance of one step to the next, from 1.

    Raises:
        SelectionError: Not whole numbers, or a window of no steps.
    """
    start = start.tolist() if isinstance(start, np.ndarray) else start
    if isinstance(start, Sequence) and not isinstance(start, str):
        if stop is not None or stride != 1:
            raise SelectionError("fox.steps takes a list of steps, or start, stop and stride; not both.")
        chosen: Sequence[int] = [_whole(step) for step in start]
    elif stop is None:
        raise SelectionError(f"fox.steps({start!r}) has no end; give fox.steps(start, stop), or a list of steps.")
    else:
        if _whole(stride) < 1:
            raise SelectionError(f"fox.steps(stride={stride!r}): a stride is a whole number from 1.")
        chosen = range(_whole(start), _whole(stop), _whole(stride))
    return StepWindow(tuple(_counted(chosen, "steps")))


def seconds(start: float, stop: float, *, hz: float) -> TimeWindow:
    """Return a window of times at a fixed rate, relative to the time of the item's step.

    The times are start, start + 1/hz, … below stop; each takes the newest step that is not later.

    Args:
        start: First time, in s.
        stop: End, in s; not in the window.
        hz: Times a second.

    Raises:
        SelectionError: Not numbers, or a window of no times.
    """
    if not all(_is_number(value) for value in (start, stop, hz)) or hz <= 0:
        raise SelectionError(f"fox.seconds({start!r}, {stop!r}, hz={hz!r}): all are numbers, and hz is over 0.")
    # 0.3 * 10 is a little more than 3; that makes no fourth time.
    count = math.ceil(min(max((stop - start) * hz - 1e-6, 0), _MOST + 1))
    return TimeWindow(tuple(float(start) + k / float(hz) for k in _counted(range(count), "times")))


def as_window(value: object, name: str) -> Window:
    """Return a window as it is, and a plain list of numbers as times in s (LeRobot's `delta_timestamps`).

    Raises:
        SelectionError: Neither; names the feature.
    """
    if isinstance(value, (StepWindow, TimeWindow)):
        return value
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, Sequence) and not isinstance(value, str) and all(_is_number(item) for item in value):
        return TimeWindow(tuple(float(item) for item in _counted(value, "times")))
    raise SelectionError(
        f"windows={{{name!r}: …}} is a {type(value).__name__}; give fox.steps(start, stop), fox.seconds(start, stop, hz=), or a list "
        "of times in seconds."
    )


def step_positions(window: StepWindow, anchors: np.ndarray, num_steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of windows that count in steps.

    Args:
        window: The window.
        anchors: `(B,)` int64, the steps that they are relative to.
        num_steps: `(B,)` int64, steps of each one's episode, from 1.

    Returns:
        `(B, W)` int64 steps, of which those outside of the episode are its first or last one; `(B, W)` bool, True for these.
    """
    wanted = anchors[:, None] + np.array(window.offsets, np.int64)
    last = num_steps[:, None] - 1
    inside = np.clip(wanted, 0, last)
    return inside, inside != wanted


def rate_positions(
    window: TimeWindow, anchors: np.ndarray, num_steps: np.ndarray, hz: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of windows in time, where episodes have no times but a rate.

    Args:
        window: The window.
        anchors: `(B,)` int64.
        num_steps: `(B,)` int64, from 1.
        hz: `(B,)` float64, steps a second of each one's episode.

    Returns:
        As `step_positions`.
    """
    offsets, slack, last = window.offsets_ns / 1e9, SLACK_NS / 1e9, num_steps[:, None] - 1
    newest = anchors[:, None] + np.floor((offsets + slack) * hz[:, None]).astype(np.int64)
    is_pad = (newest < 0) | (anchors[:, None] + (offsets - slack) * hz[:, None] > last)
    return np.clip(newest, 0, last), is_pad


def time_positions(window: TimeWindow, anchor: int, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of one window in time.

    Args:
        window: The window.
        anchor: The step that it is relative to.
        times_ns: `(T,)` int64, when each step of the episode was, never decreasing; T >= 1.

    Returns:
        `(W,)` int64 steps, of which those outside of the episode are its first or last one; `(W,)` bool, True for these.
    """
    wanted = times_ns[anchor] + window.offsets_ns
    newest = np.searchsorted(times_ns, wanted + SLACK_NS, side="right") - 1
    is_pad = (newest < 0) | (wanted - SLACK_NS > times_ns[-1])
    return np.maximum(newest, 0), is_pad


def _counted(values: Sequence[_T], what: str) -> Sequence[_T]:
    if not 0 < len(values) <= _MOST:
        raise SelectionError(f"a window has 1 to {_MOST} {what}, this one has {len(values)}.")
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or abs(number) > 1 << 40:
        raise SelectionError(f"fox.steps takes whole numbers of steps, found {value!r}; fox.seconds takes times.")
    return number
