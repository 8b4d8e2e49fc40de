"""What there is to draw of an episode: what its sensors sent, and which sample each step took."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from fogx.align.policy import INTERPOLATING, Align, Policy
from fogx.align.steps import Taken, policy_of
from fogx.feature import NUMERIC_DTYPES, Feature, Schema
from fogx.protocols import Column
from fogx.reading.episodes import decoder
from fogx.show.plots import Track
from fogx.storage.files.store import Store
from fogx.storage.tables.anew import make_anew, read_sent
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import IndexRow

_WORDS = {
    "hold": "the newest up to the step",
    "next": "the first from the step on",
    "nearest": "the nearest",
    "exact": "of the step's own time",
    "linear": "between two, linear",
    "slerp": "between two, slerp",
}

_CLOCK = "its samples are the steps"


def tracks(
    store: Store, index: IndexRow, schema: Schema, names: Sequence[str], policy: Align | None, control_hz: float
) -> tuple[np.ndarray, list[Track], bool]:
    """Return the times of all steps, what is to be drawn of features, and whether the episode has times.

    Times are in s after the first step.

    Args:
        store: The root's store.
        index: The episode's index row, with the parts `steps`, `streams` and `frames`.
        schema: Its features.
        names: Features to draw.
        policy: How samples became steps, one or more; `None` where they are the steps.
        control_hz: Steps a second of an episode without times.

    Raises:
        FeatureError: The policy does not fit the features.
    """
    sent, timed = read_sent(store, index, schema, control_hz)
    taken: Mapping[str, Taken]
    if policy is None:
        steps_ns, columns, taken = sent.stamps_ns, sent.columns, {name: _own(sent.columns[name]) for name in names}
        rules = dict.fromkeys(names, _CLOCK if timed else "")
    else:
        made = make_anew(sent, index, schema, policy)
        steps_ns, columns, taken = made.steps.times_ns, made.columns, made.steps.features
        rules = {name: _said(name, made.steps.clock, policy, taken[name]) for name in names}
    found = []
    for name in names:
        feature, mask = schema[name], sent.columns[name].mask
        stamps_ns, values = sent.stamps_ns[mask], sent.columns[name].values[mask]
        numbers = feature.dtype in NUMERIC_DTYPES and not feature.in_frames and not feature.is_variable
        late_ns = 0 if policy is None else round(policy.latency_s.get(name, 0) * 1e9)
        found.append(
            Track(
                f"{name} ({feature.unit})" if feature.unit else name,
                rules[name],
                (stamps_ns - late_ns - steps_ns[0]) / 1e9,
                _flat(values) if numbers else None,
                taken[name].sample,
                _flat(columns[name].values) if numbers else None,
                elements=feature.names or (),
                interpolated=taken[name].values is not None,
                picture=functools.partial(_picture, store, index, name, feature, values) if feature.is_image else None,
            )
        )
    return (steps_ns - steps_ns[0]) / 1e9, found, timed


def _own(column: Column) -> Taken:
    """Return which sample each step took, where samples are the steps."""
    return Taken(np.where(column.mask, np.cumsum(column.mask) - 1, -1), functools.partial(np.zeros, len(column.mask), np.int64))


def _said(name: str, clock: str | None, policy: Align, taken: Taken) -> str:
    if name == clock:
        return _CLOCK
    chosen: Policy = policy_of(name, clock, policy)
    # A default that interpolates holds what cannot be interpolated.
    kind = "hold" if chosen.kind in INTERPOLATING and taken.values is None else chosen.kind
    return _WORDS[kind] + ("" if chosen.within_s is None else f", {chosen.within_s:g} s at most")


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


def _picture(store: Store, index: IndexRow, name: str, feature: Feature, numbers: np.ndarray, sample: int) -> np.ndarray:
    (blob,) = read_frames(store, index.frames_of(name), numbers[sample : sample + 1])
    return np.asarray(decoder(feature)(blob))
