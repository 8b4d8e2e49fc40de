"""What training needs to know of a selection: plain arrays, made once in the parent, sent to every worker.

Nothing here is an object an episode: a selection may be of a million.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa

from fogx.align.policy import Align
from fogx.feature import Feature, Schema
from fogx.storage.files.store import Store
from fogx.training.handover import Handed

BLOCK_BYTES = 16 << 20
"""Episodes that lie together are read and kept in blocks of about so many bytes."""


@dataclass(frozen=True, eq=False, repr=False)
class EpisodeColumns(Handed):
    """N episodes in the order of the selection.

    Args:
        stores: The bytes of each root.
        schemas: Schemas.
        index_files: Pointers of `index` files.
        ids: `(N,)` strings.
        store: `(N,)` int, which of `stores` holds each.
        schema: `(N,)` int, which of `schemas` it has.
        index_file: `(N,)` int, which of `index_files` its index row is in.
        index_row: `(N,)` int64, where in it.
        num_steps: `(N,)` int64.
        control_hz: `(N,)` float64, NaN where it is not known.
        timed: `(N,)` bool, whether its steps have times.
        tasks: Texts.
        task: `(N,)` int, which of `tasks` it was recorded for; -1 where it says none.
    """

    stores: Sequence[Store]
    schemas: Sequence[Schema]
    index_files: Sequence[str]
    ids: pa.Array
    store: np.ndarray
    schema: np.ndarray
    index_file: np.ndarray
    index_row: np.ndarray
    num_steps: np.ndarray
    control_hz: np.ndarray
    timed: np.ndarray
    tasks: Sequence[str]
    task: np.ndarray

    def __len__(self) -> int:
        return len(self.num_steps)

    def at(self, rows: np.ndarray) -> EpisodeColumns:
        """Return the `(K,)` episodes at positions."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, ids=self.ids.take(pa.array(rows)), **arrays)


@dataclass(frozen=True, eq=False, repr=False)
class Anchors(Handed):
    """The steps that items stand at, episode by episode.

    Args:
        counts: `(N,)` int64, how many of each episode.
        first: `(N,)` int64, the first of each episode.
        every: Distance from one to the next.
        chosen: `(M,)` int64, all of them, where no rule gives them.
    """

    counts: np.ndarray
    first: np.ndarray
    every: int = 1
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """`(N,)` int64, how many there are up to the end of each episode."""
        return np.cumsum(self.counts, dtype=np.int64)

    def locate(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `(B,)` positions of episodes and `(B,)` steps in them, of anchors counted over the whole selection."""
        episodes = np.searchsorted(self.ends, items, side="right")
        if self.chosen is not None:
            return episodes, self.chosen[items]
        number = items - (self.ends[episodes] - self.counts[episodes])
        return episodes, self.first[episodes] + self.every * number

    def of(self, episode: int) -> np.ndarray:
        """Return the steps of one episode."""
        end = int(self.ends[episode])
        return self.locate(np.arange(end - int(self.counts[episode]), end))[1]


@dataclass(frozen=True, eq=False, repr=False)
class TrainingIndex(Handed):
    """The episodes of a selection, the features that items are made of, and where items stand.

    Args:
        episodes: The episodes.
        features: Name → dtype and shape, of all features that are read.
        shown: Names of those that items carry by themselves.
        stored: Name → name under which episodes store it.
        validated: Names that come with `<feature>_is_valid`, since some step lacks them.
        anchors: The steps that items stand at.
        needs_times: Whether the times of steps are read too.
        align: How the steps are made anew, of which `episodes` tells the numbers; `None` for those that are stored.
        sizes: Name → height and width of the derived frames that are taken where an episode has them.
    """

    episodes: EpisodeColumns
    features: Mapping[str, Feature]
    shown: Sequence[str]
    stored: Mapping[str, str]
    validated: frozenset[str]
    anchors: Anchors
    needs_times: bool = False
    align: Align | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @functools.cached_property
    def control_hz(self) -> np.ndarray:
        """`(N,)` float64, steps a second as items count them; NaN where it is not known."""
        known = self.episodes.control_hz
        return known if self.align is None or self.align.rate_hz is None else np.full(len(known), self.align.rate_hz)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """`(N,)` positions of episodes in the order in which they are stored."""
        found = self.episodes
        return np.lexsort((found.index_row, found.index_file, found.store))

    @functools.cached_property
    def block_of(self) -> np.ndarray:
        """`(N,)` int64, the block that each episode is in: whole episodes of one root that are stored together."""
        stored = self.episodes.store[self.order]
        size = self.episodes.num_steps[self.order].astype(np.float64) * self._step_bytes()
        pieces = np.floor((np.cumsum(size) - size) / BLOCK_BYTES)
        new = np.ones(len(stored), bool)
        new[1:] = (np.diff(pieces) > 0) | (np.diff(stored) != 0)
        result = np.empty(len(stored), np.int64)
        result[self.order] = np.cumsum(new) - 1
        return result

    @functools.cached_property
    def first_row(self) -> np.ndarray:
        """`(N,)` int64, the row of each episode's first step in its block."""
        steps, blocks = self.episodes.num_steps[self.order], self.block_of[self.order]
        before = np.cumsum(steps) - steps
        starts = np.searchsorted(blocks, np.arange(self.num_blocks))
        result = np.empty(len(steps), np.int64)
        result[self.order] = before - before[starts][blocks] if len(steps) else before
        return result

    @functools.cached_property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return int(self.block_of.max()) + 1 if len(self.episodes) else 0

    @functools.cached_property
    def _block_ends(self) -> np.ndarray:
        return np.searchsorted(self.block_of[self.order], np.arange(self.num_blocks), side="right")

    def members(self, block: int) -> np.ndarray:
        """Return the positions of a block's episodes, in the order in which they are stored."""
        start = int(self._block_ends[block - 1]) if block else 0
        return self.order[start : int(self._block_ends[block])]

    @functools.cached_property
    def num_bytes(self) -> int:
        """About how many bytes all blocks take."""
        return int(self.episodes.num_steps.sum(dtype=np.float64) * self._step_bytes())

    def _step_bytes(self) -> int:
        return 8 * self.needs_times + sum(_step_bytes(feature) for feature in self.features.values())


def _step_bytes(feature: Feature) -> int:
    """Return about how many bytes a step takes in a block."""
    if feature.in_frames:
        return 20
    size = 1
    for dimension in feature.shape or ():
        size *= 16 if dimension is None else dimension
    return size * (4 if feature.dtype in ("str", "bytes") else np.dtype(feature.dtype).itemsize)
