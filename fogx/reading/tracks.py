"""What sensors of a stored episode sent, and which sample each step took."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fogx.align.policy import INTERPOLATING, Align, Policy
from fogx.align.steps import Stream, align, policy_of
from fogx.errors import CorruptDataError
from fogx.feature import NUMERIC_DTYPES, Feature, Schema
from fogx.reading.episodes import decoder
from fogx.show.plots import Track
from fogx.storage.files.store import Store
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import IndexRow
from fogx.storage.tables.steps import RECEIVED, read_steps

_WORDS = {
    "hold": "the newest up to the step",
    "next": "the first from the step on",
    "nearest": "the nearest",
    "exact": "of the step's own time",
    "linear": "between two, linear",
    "slerp": "between two, slerp",
}

_CLOCK = "its samples are the steps"


@dataclass(frozen=True)
class Sent:
    """The samples of one feature, in the order in which they came.

    Args:
        stamps_ns: `(N,)` int64.
        values: `(N, *shape)`; frame numbers of features kept in `frames`.
        rows: `(N,)` int64, which of all the episode's samples each was.
    """

    stamps_ns: np.ndarray
    values: np.ndarray
    rows: np.ndarray


def read_sent(store: Store, index: IndexRow, schema: Schema, names: Sequence[str]) -> dict[str, Sent]:
    """Read the samples of features; where steps say all, they are those. Without times their stamps are 0, 1, …"""
    if index.streams:
        columns = read_steps(store, index.streams, schema, ["timestamp_ns", RECEIVED, *names])
    else:
        columns = read_steps(store, index.steps, schema, ["timestamp_ns", *names])
    times = columns["timestamp_ns"]
    stamps = times.values if times.valid is None else np.arange(len(times.values))
    rows = {name: np.flatnonzero(columns[name].mask) for name in names}
    return {name: Sent(stamps[rows[name]], columns[name].values[rows[name]], rows[name]) for name in names}


def tracks(store: Store, index: IndexRow, schema: Schema, names: Sequence[str], per_s: float) -> tuple[np.ndarray, list[Track]]:
    """Return the times of all steps, and what is to be drawn of features; times are in s after the first step.

    Args:
        store: The root's store.
        index: The episode's index row.
        schema: Its features.
        names: Features to draw; the episode has steps.
        per_s: Stamps in a second.

    Raises:
        CorruptDataError: The stored steps are not those of the stored samples.
    """
    columns = read_steps(store, index.steps, schema, ["timestamp_ns", *names])
    times = columns.pop("timestamp_ns")
    steps = times.values if times.valid is None else np.arange(index.num_steps)
    # Which feature is the clock is known from all of them.
    sent = read_sent(store, index, schema, list(schema) if index.align else names)
    if index.align:
        took = _aligned(store, index, schema, sent, steps)
    else:
        rule = _CLOCK if times.valid is None else ""
        took = {name: _Took(np.where(columns[name].mask, np.cumsum(columns[name].mask) - 1, -1), rule) for name in names}
    found = []
    for name in names:
        feature, one, taken = schema[name], sent[name], took[name]
        numbers = _has_numbers(feature)
        found.append(
            Track(
                f"{name} ({feature.unit})" if feature.unit else name,
                taken.rule,
                (one.stamps_ns - taken.late_ns - steps[0]) / per_s,
                _flat(one.values) if numbers else None,
                taken.sample,
                _flat(columns[name].values) if numbers else None,
                elements=feature.names or (),
                interpolated=taken.interpolated,
                picture=functools.partial(_picture, store, index, name, feature, one.values) if feature.is_image else None,
            )
        )
    return (steps - steps[0]) / per_s, found


@dataclass(frozen=True)
class _Took:
    sample: np.ndarray
    rule: str
    late_ns: int = 0
    interpolated: bool = False


def _aligned(store: Store, index: IndexRow, schema: Schema, sent: Mapping[str, Sent], steps_ns: np.ndarray) -> dict[str, _Took]:
    policy = Align.from_json(index.align)
    streams = {
        name: Stream(one.stamps_ns, one.values if _has_numbers(schema[name]) else None, one.rows, is_camera=schema[name].is_image)
        for name, one in sent.items()
    }
    made = align(streams, policy)
    if not np.array_equal(made.times_ns, steps_ns):
        raise CorruptDataError(
            f"{store.root}: the {len(steps_ns)} steps of episode {index.episode_id} are not the {len(made.times_ns)} that {policy} "
            "makes of its samples."
        )
    found = {}
    for name, taken in made.features.items():
        between, late_ns = taken.values is not None, round(policy.latency_s.get(name, 0) * 1e9)
        rule = _CLOCK if name == made.clock else _said(policy_of(name, made.clock, policy), between)
        found[name] = _Took(taken.sample, rule, late_ns, between)
    return found


def _has_numbers(feature: Feature) -> bool:
    return feature.dtype in NUMERIC_DTYPES and not feature.in_frames and not feature.is_variable


def _said(policy: Policy, interpolated: bool) -> str:
    # A default that interpolates holds what cannot be interpolated.
    kind = "hold" if policy.kind in INTERPOLATING and not interpolated else policy.kind
    return _WORDS[kind] + ("" if policy.within_s is None else f", {policy.within_s:g} s at most")


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


def _picture(store: Store, index: IndexRow, name: str, feature: Feature, numbers: np.ndarray, sample: int) -> np.ndarray:
    (blob,) = read_frames(store, index.frames_of(name), numbers[sample : sample + 1])
    return np.asarray(decoder(feature)(blob))
