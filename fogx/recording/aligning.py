"""From what was recorded, sample by sample, to the steps of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fogx.align.policy import Align
from fogx.align.steps import Steps, Stream, Taken, align
from fogx.feature import NUMERIC_DTYPES, Schema
from fogx.protocols import Column, Samples


@dataclass(frozen=True)
class Aligned:
    """The steps of an episode.

    Args:
        columns: A `Column` for each feature.
        steps: How they were made.
        streams: What they were made from.
        samples: What is to be kept besides them; `None` where every sample is a step's and of its time.
    """

    columns: dict[str, Column]
    steps: Steps
    streams: Mapping[str, Stream]
    samples: Samples | None


def aligned(schema: Schema, sent: Mapping[str, Column], stamps_ns: np.ndarray, received_ns: np.ndarray, policy: Align) -> Aligned:
    """Make steps of samples.

    Args:
        schema: Features.
        sent: A `Column` of R samples for each.
        stamps_ns: `(R,)` int64.
        received_ns: `(R,)` int64.
        policy: How.

    Raises:
        FeatureError: The policy does not fit the features.
    """
    rows = {name: np.flatnonzero(sent[name].mask) for name in schema}
    streams = {name: _stream(schema, name, sent[name], rows[name], stamps_ns) for name in schema}
    steps = align(streams, policy)
    same = all(_once(steps.features[name], len(rows[name])) for name in schema)
    numbered = {name: schema[name].in_frames and not same for name in schema}
    columns = {name: _taken(sent[name], rows[name], steps.features[name], numbered[name]) for name in schema}
    samples = None if same else Samples(sent, stamps_ns, received_ns, policy.to_json())
    return Aligned(columns, steps, streams, samples)


def _stream(schema: Schema, name: str, column: Column, rows: np.ndarray, stamps_ns: np.ndarray) -> Stream:
    feature = schema[name]
    numbers = feature.dtype in NUMERIC_DTYPES and not feature.in_frames and not feature.is_variable
    return Stream(stamps_ns[rows], column.values[rows] if numbers else None, rows, is_camera=feature.is_image)


def _taken(column: Column, rows: np.ndarray, taken: Taken, numbered: bool) -> Column:
    valid = taken.sample >= 0
    mask = None if valid.all() else valid
    if taken.values is not None:
        return Column(taken.values, mask)
    values = column.values[rows[np.maximum(taken.sample, 0)]]
    return Column(values, mask, np.maximum(taken.sample, 0).astype(np.int32) if numbered else None)


def _once(taken: Taken, count: int) -> bool:
    """Return whether each sample is the one of a step of exactly its time, in the order in which they came."""
    kept = taken.sample[taken.sample >= 0]
    return taken.values is None and bool((taken.age_ns[taken.sample >= 0] == 0).all()) and np.array_equal(kept, np.arange(count))
