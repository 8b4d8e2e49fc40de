"""From samples to the steps of an episode, column by column: the same when it is recorded, read, or aligned anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fogx.align.policy import INTERPOLATING, Align
from fogx.align.steps import Steps, Stream, Taken, align
from fogx.feature import NUMERIC_DTYPES, Schema
from fogx.protocols import Column, Samples


@dataclass(frozen=True)
class Aligned:
    """The steps of an episode.

    Args:
        columns: A `Column` for each feature that was asked for.
        steps: How they were made.
        streams: What they were made from.
        samples: What is to be kept besides them; `None` where every sample is a step's and of its time.
    """

    columns: dict[str, Column]
    steps: Steps
    streams: Mapping[str, Stream]
    samples: Samples | None


def aligned(schema: Schema, sent: Samples, policy: Align, *, keep: bool = False) -> Aligned:
    """Make steps of samples.

    Args:
        schema: Features.
        sent: The samples. Of features in `frames` only which samples have one counts; values are handed on.
        policy: How; the one of `sent` does not count.
        keep: Whether samples are to be kept in any case.

    Raises:
        FeatureError: The policy does not fit the features.
        TooManyStepsError: As `align`.
    """
    rows = {name: np.flatnonzero(sent.columns[name].mask) for name in schema}
    streams = {name: _stream(schema, name, sent, rows[name], policy) for name in schema}
    steps = align(streams, policy)
    once = not steps.cuts and all(_once(steps, streams[name], steps.features[name]) for name in schema)
    same = not keep and (once or not len(sent.stamps_ns))
    columns = {
        name: _taken(sent.columns[name], rows[name], steps.features[name], feature.in_frames and not same)
        for name, feature in schema.items()
    }
    if same:
        return Aligned(columns, steps, streams, None)
    shown = {name: _first_steps(rows[name], steps.features[name], len(sent.stamps_ns)) for name in schema}
    in_steps = {name: steps for name, steps in shown.items() if steps is not None and not schema[name].in_frames}
    samples = Samples(sent.columns, sent.stamps_ns, sent.received_ns, policy.to_json(), in_steps)
    return Aligned(columns, steps, streams, samples)


def _stream(schema: Schema, name: str, sent: Samples, rows: np.ndarray, policy: Align) -> Stream:
    feature, received = schema[name], sent.received_ns
    numbers = feature.dtype in NUMERIC_DTYPES and not feature.in_frames and not feature.is_variable
    chosen, values = policy.features.get(name, policy.default), sent.columns[name].values
    # Others hand on the samples themselves, of a long episode tens of MB that need no copy here.
    numbers = numbers and chosen is not None and chosen.kind in INTERPOLATING
    return Stream(
        sent.stamps_ns[rows],
        _chosen(values, rows) if numbers else None,
        rows,
        is_camera=feature.is_image,
        received_ns=None if received is None else received[rows],
    )


def _chosen(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return values if len(rows) == len(values) else values.take(rows, 0)


def _taken(column: Column, rows: np.ndarray, taken: Taken, numbered: bool) -> Column:
    valid = taken.sample >= 0
    mask = None if valid.all() else valid
    if taken.values is not None:
        return Column(taken.values, mask)
    sample = taken.sample if mask is None else np.maximum(taken.sample, 0)
    if len(rows):
        values = column.values.take(rows.take(sample), 0)
    else:  # no sample to stand where there is none
        values = np.zeros((len(sample), *column.values.shape[1:]), column.values.dtype)
    return Column(values, mask, sample.astype(np.int32) if numbered else None)


def _once(steps: Steps, stream: Stream, taken: Taken) -> bool:
    """Return whether each sample is the one of a step of exactly its stamp, in the order in which they came."""
    there = taken.sample >= 0
    return (
        taken.values is None
        and np.array_equal(taken.sample[there], np.arange(len(stream.stamps_ns)))
        and np.array_equal(steps.times_ns[there], stream.stamps_ns)
    )


def _first_steps(rows: np.ndarray, taken: Taken, count: int) -> np.ndarray | None:
    """Return, for each sample, the first step that has its value; `None` where some samples are in no step."""
    if taken.values is not None:
        return None
    first = np.full(len(rows), -1, np.int32)
    there = np.flatnonzero(taken.sample >= 0)[::-1]
    first[taken.sample[there]] = there
    if (first < 0).any():
        return None
    steps = np.zeros(count, np.int32)
    steps[rows] = first
    return steps
