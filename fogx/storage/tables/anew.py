"""The samples of an episode, and its steps made anew from them; safe after fork, as training workers do it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fogx.align.columns import Aligned, aligned
from fogx.align.policy import Align
from fogx.align.steps import Taken
from fogx.errors import FeatureError, SelectionError
from fogx.feature import Schema
from fogx.protocols import Column, Samples
from fogx.storage.files.store import Store
from fogx.storage.tables.index import IndexRow
from fogx.storage.tables.steps import RECEIVED, read_steps, with_values


@dataclass(frozen=True)
class Anew:
    """The steps of one episode, made anew.

    Args:
        columns: A `Column` for each feature; of features in `frames`, of int32 frame numbers.
        times_ns: `(T,)` int64, or `None` for an episode without times.
        taken: By feature, which of its samples each step shows, and how old that was.
        align: How they were made.
    """

    columns: Mapping[str, Column]
    times_ns: np.ndarray | None
    taken: Mapping[str, Taken]
    align: Align

    @property
    def num_steps(self) -> int:
        """T."""
        return max((len(taken.sample) for taken in self.taken.values()), default=0)

    def column(self, name: str) -> Column:
        """Return a feature, or `timestamp_ns`."""
        if name != "timestamp_ns":
            return self.columns[name]
        if self.times_ns is not None:
            return Column(self.times_ns)
        return Column(np.zeros(self.num_steps, np.int64), np.zeros(self.num_steps, bool))


def read_samples(store: Store, index: IndexRow, schema: Schema, steps: Mapping[str, Column]) -> Samples | None:
    """Read what an episode's steps were made from; `None` where they say all. Frames are int32 numbers.

    Args:
        store: The root's store.
        index: The episode's index row, with the part `streams`.
        schema: Its schema.
        steps: Its steps, with columns of those features at least that `index` has `in_steps`.
    """
    if not index.streams:
        return None
    sent = read_steps(store, index.streams, schema, ["timestamp_ns", RECEIVED, *schema], index.in_steps)
    stamps, received = sent.pop("timestamp_ns").values, sent.pop(RECEIVED)
    numbers = {name: sent[name].values for name in index.in_steps if name in sent}
    columns = with_values(sent, steps, index.in_steps)
    return Samples(columns, stamps, None if received.valid is not None else received.values, index.align or {}, numbers)


def make_anew(samples: Samples, index: IndexRow, schema: Schema, policy: Align, *, keep: bool = False) -> Aligned:
    """Align the samples of an episode; an error names it.

    Raises:
        FeatureError: The policy does not fit the features, or would make too many steps.
    """
    try:
        return aligned(schema, samples, policy.without({*policy.features, *policy.latency_s} - set(schema)), keep=keep)
    except FeatureError as error:
        raise type(error)(f"episode {index.episode_id}: {error}") from None


def read_anew(store: Store, index: IndexRow, schema: Schema, policy: Align, control_hz: float | None) -> Anew:
    """Read the samples of an episode, and make steps of them; no frame is read.

    Args:
        store: The root's store.
        index: The episode's index row, with the parts `steps` and `streams`.
        schema: Its schema.
        policy: How.
        control_hz: Steps a second of an episode without times.

    Raises:
        FeatureError: As `make_anew`.
        SelectionError: Neither times nor `control_hz`.
    """
    samples, timed = read_sent(store, index, schema, control_hz)
    made = make_anew(samples, index, schema, policy)
    return Anew(made.columns, made.steps.times_ns if timed else None, made.steps.features, policy)


def read_sent(store: Store, index: IndexRow, schema: Schema, control_hz: float | None) -> tuple[Samples, bool]:
    """Read what the sensors of an episode sent, which the steps say where it was not kept apart, and whether it has times.

    Args:
        store: As for `read_anew`, as all that follow.
        index: With the parts `steps` and `streams`.
        schema: Its schema.
        control_hz: Gives an episode without times its stamps, from 0 ns on.

    Raises:
        SelectionError: Neither times nor `control_hz`.
    """
    columns = read_steps(
        store, index.steps, schema, ["timestamp_ns", *([n for n in schema if n in index.in_steps] if index.streams else schema)]
    )
    times, samples = columns.pop("timestamp_ns"), read_samples(store, index, schema, columns)
    if samples is not None:
        return samples, True
    timed = times.valid is None
    return Samples(columns, times.values if timed else _nominal(index, control_hz), None, {}), timed


def _nominal(index: IndexRow, control_hz: float | None) -> np.ndarray:
    if control_hz is None:
        raise SelectionError(
            f"align: episode {index.episode_id} has no times, so no steps can be made anew. If you know how many steps a second it has, "
            "dataset.tag(episodes, control_hz=...) says so."
        )
    return np.asarray(np.rint(np.arange(index.num_steps) * 1e9 / control_hz).astype(np.int64))
