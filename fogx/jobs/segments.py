"""Adds segments to episodes, and takes them away: the new segments are written, then one commit lets the episodes name them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fogx.errors import ConflictError, SegmentError, SelectionError, listing
from fogx.protocols import Segment
from fogx.reading.roots import Root
from fogx.reading.segments import shown
from fogx.reading.times import step_times
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.log.delta import user
from fogx.storage.tables.segments import check_label, check_value, read_segments, segments_of, steps_of, write_segments

_TRIES = 50
"""So often is an edit made anew because another one changed the segments of the same episodes meanwhile."""

_LONGEST_S = 1e9
"""32 years: in ns they are far from the ends of int64."""

_SAME = ["episode_id", "label", "start_ns", "stop_ns", "start_step", "stop_step", "from_start", "to_end", "value"]
"""Columns that tell one segment from another."""


@dataclass(frozen=True)
class Part:
    """What is asked to be labelled of each episode; each end in seconds, in steps, or (`None`) where the episode has it.

    Raises:
        SegmentError: A label or value that cannot be stored, an end in both, or not a number from 0, or one before the other.
    """

    label: str
    value: Any = None
    start_s: float | None = None
    stop_s: float | None = None
    start_step: int | None = None
    stop_step: int | None = None

    def __post_init__(self) -> None:
        check_label(self.label)
        check_value(self.value)
        for end in ("start", "stop"):
            seconds, step = getattr(self, f"{end}_s"), getattr(self, f"{end}_step")
            if seconds is not None and step is not None:
                raise SegmentError(f"annotate: {end}_s={seconds!r} and {end}_step={step!r} are given; give one of them.")
            if seconds is not None and not (_is_number(seconds, numbers.Real) and 0 <= seconds <= _LONGEST_S):
                raise SegmentError(
                    f"annotate: {end}_s is a number of seconds from 0, since the start of the episode; found {seconds!r}."
                )
            if step is not None and not (_is_number(step, numbers.Integral) and step >= 0):
                raise SegmentError(f"annotate: {end}_step is a whole number from 0; found {step!r}.")
        for unit in ("s", "step"):
            start, stop = getattr(self, f"start_{unit}"), getattr(self, f"stop_{unit}")
            if stop is not None and stop <= (start or 0):
                raise SegmentError(
                    f"annotate: stop_{unit}={stop!r} is not after start_{unit}={start or 0!r}. The end is half-open."
                )

    def __str__(self) -> str:
        ends = ((name, getattr(self, name)) for name in ("start_s", "start_step", "stop_s", "stop_step"))
        return ", ".join(f"{name}={value!r}" for name, value in ends if value is not None) or "all of it"


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def annotate(root: Root, ids: Sequence[str], part: Part) -> int:
    """Label a part of each episode and return how many they are; see `Dataset.annotate`."""

    def change(rows: pa.Table) -> dict[str, list[Segment]]:
        held = segments_of(read_segments(root.store, rows))
        changed = {}
        for episode_id, new in _resolved(root, rows, part).items():
            others = held.get(episode_id, [])
            if not any(replace(other, source=new.source) == new for other in others):
                changed[episode_id] = [*others, new]
        return changed

    edit_segments(root, ids, change, "annotate")
    return len(ids)


def check_segments_frame(frame: pd.DataFrame) -> None:
    """Refuse what `remove` cannot use.

    Raises:
        SelectionError: Not a frame of segments; says which columns it lacks.
    """
    if not isinstance(frame, pd.DataFrame):
        raise SelectionError(f"remove_segments takes rows of a frame from segments(), found a {type(frame).__name__}.")
    if lacking := [name for name in _SAME if name not in frame.columns]:
        raise SelectionError(f"the frame has no column {listing(lacking)}; give rows of a frame from segments().")


def remove(root: Root, ids: Sequence[str], frame: pd.DataFrame) -> int:
    """Take segments away and return how many there were; see `Dataset.remove_segments`."""
    gone, removed = set(_keys(frame)), 0

    def change(rows: pa.Table) -> dict[str, list[Segment]]:
        nonlocal removed
        table = read_segments(root.store, rows)
        out = np.array([key in gone for key in _keys(shown(rows, table))], dtype=bool)
        removed = int(out.sum())
        left = segments_of(table.filter(pa.array(~out)))
        return {i: left.get(i, []) for i in table["episode_id"].filter(pa.array(out)).to_pylist()}

    edit_segments(root, ids, change, "remove segments")
    return removed


def _keys(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    columns = {name: [None if pd.isna(value) else value for value in frame[name].tolist()] for name in _SAME[:-1]}
    timed = [ns is not None for ns in columns["start_ns"]]
    # Where there are times, `realign` may change the steps, and with the ends of an episode those of what reaches there.
    for end, edge in (("start", "from_start"), ("stop", "to_end")):
        columns[f"{end}_step"] = [None if there else step for there, step in zip(timed, columns[f"{end}_step"], strict=True)]
        columns[f"{end}_ns"] = [None if at_edge else ns for at_edge, ns in zip(columns[edge], columns[f"{end}_ns"], strict=True)]
    return list(zip(*columns.values(), (repr(check_value(value)) for value in frame["value"].tolist()), strict=True))


def edit_segments(
    root: Root, ids: Sequence[str], change: Callable[[pa.Table], Mapping[str, Sequence[Segment]]], operation: str
) -> None:
    """Replace segments of episodes in one commit; where another changes them meanwhile, it is made anew from what they are then.

    Args:
        root: The write root.
        ids: Episodes.
        change: Is given their newest rows, and returns all segments of those that change.
        operation: What `history()` shows.

    Raises:
        ConflictError: Others kept changing the same ones; nothing was changed.
    """
    log, moved = root.writable(), list[str]()
    for _ in range(_TRIES):
        rows = log.rows_of(ids)
        changed = change(rows)
        if not changed:
            return
        began, kept = Stopwatch(), {i: segments for i, segments in changed.items() if segments}
        files: dict[str, str | None] = dict.fromkeys(changed)
        if kept:
            with root.store.writing(f"the segments of {len(kept)} episodes"):
                pointer = write_segments(root.store, kept)
                root.store.sync([pointer])
            files |= dict.fromkeys(kept, pointer)
        moved = log.resegment(rows, files, operation=operation, began=began)
        if not moved:
            return
    raise ConflictError(
        f"{root.path}: others changed the segments of {len(moved)} of these episodes {_TRIES} times while this was made: "
        f"{listing(moved, most=3)}. Nothing was changed; try again when fewer processes write."
    )


def _resolved(root: Root, rows: pa.Table, part: Part) -> dict[str, Segment]:
    """Return the segment that each episode gets.

    Raises:
        SegmentError: Episodes that have no such part.
    """
    whole = part.start_s is part.stop_s is part.start_step is part.stop_step is None
    timed = np.flatnonzero(rows["start_ns"].is_valid().to_numpy())
    times = dict(zip(timed.tolist(), step_times(root, rows.take(pa.array(timed))), strict=True)) if not whole else {}
    found: dict[str, Segment] = {}
    wrong: dict[type[_MisfitError], list[_MisfitError]] = {}
    for number, row in enumerate(rows.select(["episode_id", "num_steps", "control_hz"]).to_pylist()):
        try:
            found[row["episode_id"]] = _fitted(row, times.get(number), part)
        except _MisfitError as misfit:
            wrong.setdefault(type(misfit), []).append(misfit)
    for kind, misfits in wrong.items():
        raise SegmentError(
            f"{root.path}: {len(misfits)} of {rows.num_rows} episodes {kind.what.format(part=part)}; the first is {misfits[0]}. "
            f"Nothing was changed. {kind.remedy}"
        )
    return found


class _MisfitError(Exception):
    """An episode has no such part."""

    what = ""
    remedy = ""


class _NoClockError(_MisfitError):
    what = "have neither times nor control_hz, so that seconds ({part}) say nothing there"
    remedy = "Give start_step= and stop_step=, or first say how fast they are with tag(episodes, control_hz=...)."


class _TooShortError(_MisfitError):
    what = "do not reach so far ({part})"
    remedy = "Leave an end out to label to the end of each episode, or select those that are long enough."


class _NoRangeError(_MisfitError):
    what = "have no step or no order of times there ({part})"
    remedy = "Choose ends that lie further apart."


def _fitted(row: Mapping[str, Any], times: np.ndarray | None, part: Part) -> Segment:
    """Return the segment of one episode.

    Args:
        row: Its id, number of steps and rate.
        times: `(T,)` int64 ns of its steps; `None` where it has none, or none are needed.
        part: What is asked.
    """
    total, hz, episode_id = row["num_steps"], row["control_hz"], row["episode_id"]
    start_s, stop_s = part.start_s, part.stop_s
    start, stop = part.start_step or 0, total if part.stop_step is None else part.stop_step
    if times is not None and total:
        clock, end = times, int(times.max()) + 1
        about = f"{episode_id}, whose last step is at {(end - 1 - int(times[0])) / 1e9:.3f} s"
    elif start_s is None and stop_s is None:
        clock, end, about = np.arange(total), total, episode_id
    elif not hz:
        raise _NoClockError(episode_id)
    else:
        # Whole ns, so that 0.3 s at 10 Hz is step 3.
        clock, end = np.rint(np.arange(total) * 1e9 / hz).astype(np.int64), round(total * 1e9 / hz)
        about = f"{episode_id}, which lasts {total / hz:.3f} s"
    if start >= total or stop > total:
        raise _TooShortError(f"{about}, with {total} steps")
    origin = int(clock[0])
    start_at = int(clock[start]) if start_s is None else origin + round(start_s * 1e9)
    stop_at = (end if stop == total else int(clock[stop])) if stop_s is None else origin + round(stop_s * 1e9)
    if start_at >= end or stop_at > end:
        raise _TooShortError(about)
    if stop_at <= start_at:
        raise _NoRangeError(about)
    made = Segment(part.label, start, stop, None, None, check_value(part.value), f"annotate:{user()}")
    if times is None:
        first, past = np.searchsorted(clock, [start_at, stop_at]).tolist()
        if first == past:
            raise _NoRangeError(about)
        return replace(made, start_step=first, stop_step=past)
    from_start, to_end = start_s is None and start == 0, stop_s is None and stop == total
    made = replace(made, start_ns=None if from_start else start_at, stop_ns=None if to_end else stop_at)
    (fitted,) = steps_of([made], times)
    asked = (part.start_step, fitted.start_step), (part.stop_step, fitted.stop_step)
    if any(wanted is not None and wanted != got for wanted, got in asked):
        raise _NoRangeError(about)  # steps that share a time, or whose times fall
    return fitted
