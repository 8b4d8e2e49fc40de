"""Windows against one that is counted out by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import SelectionError
from fogx.training.windows import TimeWindow, as_window, rate_positions, step_positions, time_positions


def test_windows_are_half_open() -> None:
    assert fox.steps(0, 3).offsets == (0, 1, 2)
    assert fox.steps(-4, 1, 2).offsets == (-4, -2, 0)
    assert fox.steps([-15, -7, 0]).offsets == (-15, -7, 0)
    assert fox.steps(np.arange(3)) == fox.steps(0, 3)
    assert as_window(np.array([-0.1, 0]), "x") == as_window([-0.1, 0], "x")
    assert fox.seconds(-0.2, 0.1, hz=10).offsets_s == pytest.approx((-0.2, -0.1, 0.0))
    assert len(fox.seconds(0, 0.3, hz=10)) == 3
    assert as_window([-0.1, 0], "x") == TimeWindow((-0.1, 0.0))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fox.steps(3), r"has no end; give fox\.steps\(start, stop\)"),
        (lambda: fox.steps(3, 3), "1 to 100000 steps, this one has 0"),
        (lambda: fox.steps(0, 10**9), "this one has 1000000000"),
        (lambda: fox.steps(0.0, 2), "whole numbers of steps, found 0.0; fox.seconds takes times"),
        (lambda: fox.steps(0, 4, 0), "a stride is a whole number from 1"),
        (lambda: fox.steps([0, True]), "found True"),
        (lambda: fox.steps([0, 1], 2), "not both"),
        (lambda: fox.steps(np.zeros((2, 2), np.int64)), r"whole numbers of steps, found \[0, 0\]"),
        (lambda: fox.seconds(0, 1, hz=0), "hz is over 0"),
        (lambda: fox.seconds(0, float("nan"), hz=1), "all are numbers"),
        (lambda: fox.seconds(1, 0, hz=5), "1 to 100000 times, this one has 0"),
        (lambda: fox.seconds(0, 1e300, hz=1e300), "this one has 100001"),
        (lambda: fox.seconds(1e300, 0, hz=1e300), "this one has 0"),
        (lambda: fox.seconds(-1e12, -1e12 + 1, hz=1), r"times up to 1e\+09 s from the item's own, found -1e\+12 s"),
        (lambda: as_window([0.0, 2e9], "a"), r"found 2e\+09 s"),
        (lambda: as_window(3, "a/b"), r"windows=\{'a/b': …\} is a int"),
        (lambda: as_window(["1"], "a"), "is a list"),
        (lambda: as_window([], "a"), "this one has 0"),
    ],
)
def test_what_is_no_window_says_so(call, says) -> None:
    with pytest.raises(SelectionError, match=says):
        call()


offsets = st.lists(st.integers(-9, 9), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-3, 8)), min_size=1, max_size=4), offsets)
def test_steps(anchors, wanted) -> None:
    lengths, at = (np.array(part, np.int64) for part in zip(*anchors, strict=True))
    steps, is_pad = step_positions(fox.steps(wanted), at, lengths)
    for row, (length, anchor) in enumerate(anchors):
        for column, offset in enumerate(wanted):
            step = anchor + offset
            assert is_pad[row, column] == (not 0 <= step < length)
            assert steps[row, column] == min(max(step, 0), length - 1)


def _newest(times_ns: list[int], wanted_ns: int) -> tuple[int, bool]:
    """Return the newest step that is not later, and whether that is padding."""
    found = [step for step, time in enumerate(times_ns) if time <= wanted_ns + 1_000]
    return (found[-1] if found else 0), not found or wanted_ns - 1_000 > times_ns[-1]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8), st.data(), st.lists(st.integers(-500, 500), min_size=1, max_size=4))
def test_times(gaps_ms, data, wanted_ms) -> None:
    times = np.cumsum(np.array(gaps_ms, np.int64) * 1_000_000) + data.draw(st.integers(-900, 900))
    anchor = data.draw(st.integers(0, len(times) - 1))
    steps, is_pad = time_positions(TimeWindow(tuple(ms / 1e3 for ms in wanted_ms)), anchor, times)
    told = [_newest(times.tolist(), int(times[anchor]) + ms * 1_000_000) for ms in wanted_ms]
    assert list(zip(steps.tolist(), is_pad.tolist(), strict=True)) == told


@given(
    st.integers(1, 9), st.data(), st.sampled_from([3.0, 5.0, 10.0, 30.0]), st.lists(st.integers(-30, 30), min_size=1, max_size=4)
)
def test_a_rate_stands_for_times(length, data, hz, wanted) -> None:
    anchor = data.draw(st.integers(0, length - 1))
    window = TimeWindow(tuple(k / 30 for k in wanted))
    steps, is_pad = rate_positions(window, np.array([anchor]), np.array([length]), np.array([hz]))
    times = np.rint(np.arange(length) / hz * 1e9).astype(np.int64)
    by_times = time_positions(window, anchor, times)
    assert np.array_equal(steps[0], by_times[0])
    assert np.array_equal(is_pad[0], by_times[1])
