"""What training needs to know of a selection: plain values, made once in the parent, sent to every worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fogx.feature import Feature, Schema
from fogx.storage.files.store import Store
from fogx.storage.tables.places import FramesPlace, StepsPlace


@dataclass(frozen=True)
class Entry:
    """One episode to train on.

    Args:
        store: The bytes of its root.
        episode_id: Its id.
        schema: Its schema.
        num_steps: T.
        steps: Places of its steps.
        frames: Places of its frames.
    """

    store: Store
    episode_id: str
    schema: Schema
    num_steps: int
    steps: Sequence[StepsPlace]
    frames: Sequence[FramesPlace]


class TrainingIndex:
    """The episodes of a selection in order, and the features that every item carries.

    Args:
        entries: The episodes.
        features: Name → dtype and shape that items have.
        validated: Names that come with `<feature>_is_valid`, since some step lacks them.
    """

    def __init__(self, entries: Sequence[Entry], features: Mapping[str, Feature], validated: frozenset[str]) -> None:
        self.entries = entries
        self.features = dict(features)
        self.validated = validated
        self._ends = np.cumsum([entry.num_steps for entry in entries], dtype=np.int64)

    @property
    def num_steps(self) -> int:
        """Steps of all episodes together."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, item: int) -> tuple[int, int]:
        """Return (position of the episode, step in it) of a step counted over the whole selection."""
        episode = int(np.searchsorted(self._ends, item, side="right"))
        return episode, item - (int(self._ends[episode - 1]) if episode else 0)
