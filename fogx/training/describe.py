"""Counts what items hold: statistics of a training set as it is trained on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from fogx.errors import FogxError
from fogx.feature import NUMERIC_DTYPES
from fogx.stats import MAX_ELEMENTS, FeatureStats
from fogx.training.cache import STATISTICS, cache_folder
from fogx.training.items import Batch, ItemReader
from fogx.training.itemstats import PARTS, QUANTILES, ItemStats, Numbers
from fogx.training.names import GOAL
from fogx.training.relative import Relative
from fogx.training.source import block_key

EXACT_VALUES = 1 << 22
"""So many values of a feature are held to give exact quantiles; beyond them sketches do."""

ELEMENTWISE = 1024
"""Values of more elements are counted together."""

RANK_ERROR = 0.0133
"""Of sketches, in 99 of 100."""

SAMPLE = 1000
"""Items of which frames are counted."""

MASKS = ("_is_pad", "_is_valid")

_COUNTED = ("episode_id", "step_index", "timestamp", "episode_index", "index")
"""What items say of themselves, which is no feature."""

_AT_ONCE = 1024

_FORMAT = 1
"""Changes whenever statistics kept before would be others now."""


class Description:
    """Statistics in the making: takes batch after batch, each value once.

    Args:
        images: Features that hold images, channels first; uint8 and uint16 ones are counted per channel.
    """

    def __init__(self, images: Collection[str] = ()) -> None:
        self._images = frozenset(images)
        self._counted: dict[str, _Values | _Pixels] = {}
        self._items: dict[str, int] = {}

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Count a batch: by feature `(B, *shape)`, windowed `(B, W, *shape)`, with masks `<feature>_is_pad` and `<feature>_is_valid`.

        Padding, steps without a value and NaN are left out, and so is what is no number.
        """
        for name, values in batch.items():
            mask = any(name.endswith(end) and name.removesuffix(end) in batch for end in MASKS)
            if mask or not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
                continue
            rows = _rows(values, batch.get(f"{name}_is_pad"), batch.get(f"{name}_is_valid"))
            if name not in self._counted:
                image = name in self._images and rows.dtype.name in ("uint8", "uint16")
                self._counted[name] = _Pixels(rows) if image else _Values(rows)
            self._counted[name].add(rows)
            self._items[name] = self._items.get(name, 0) + len(values)

    def result(self, num_items: int, num_episodes: int) -> ItemStats:
        """Return the statistics.

        Args:
            num_items: Items of the training set; a feature that fewer were counted of says how many.
            num_episodes: Its episodes.
        """
        sampled = {name: None if count == num_items else count for name, count in self._items.items()}
        return ItemStats({name: c.numbers(sampled[name]) for name, c in self._counted.items()}, num_items, num_episodes)


def describe(
    batches: Iterable[Mapping[str, np.ndarray]], num_items: int, num_episodes: int, images: Collection[str] = ()
) -> ItemStats:
    """Return statistics of batches; see `Description`."""
    description = Description(images)
    for batch in batches:
        description.add(batch)
    return description.result(num_items, num_episodes)


def statistics_of(reader: ItemReader, stages: Sequence[Callable[[Batch], Batch]], *, whole: bool) -> ItemStats:
    """Return statistics of items after the stages; see `StepDataset.stats`.

    Args:
        reader: Reads the items.
        stages: What is done to each batch.
        whole: Whether an item is a whole episode.
    """
    index = reader.index
    num_items, num_episodes = len(index.anchors), int((index.anchors.counts > 0).sum())
    images = [name for name in index.shown if index.features[name].is_image]
    if any(not isinstance(stage, Relative) for stage in stages):
        batches = (reader.episodes([n])[0] for n in range(len(index.episodes))) if whole else _batches(reader, range(num_items))
        own = [*_COUNTED, *(GOAL + name for name in reader.spec.goals if name in index.shown)]
        return describe(_staged(batches, stages, leave_out=set(own) - set(index.shown)), num_items, num_episodes, images)
    path = os.path.join(cache_folder(), _key(reader, stages) + STATISTICS)
    with suppress(FogxError, OSError):
        return ItemStats.load(path)
    needed = {name for stage in stages if isinstance(stage, Relative) for pair in stage.pairs.items() for name in pair}
    far = [name for name in index.shown if index.features[name].in_frames and name not in needed]
    near = [name for name in index.shown if name not in far and index.features[name].dtype in NUMERIC_DTYPES]
    description = Description(images)
    for batch in _staged(_batches(_of(reader, near), range(num_items)), stages):
        description.add(batch)
    for batch in _staged(_batches(_of(reader, far), _sample(num_items)), ()):
        description.add(batch)
    result = description.result(num_items, num_episodes)
    with suppress(FogxError, OSError):  # a full disk: they are counted again next time
        result.save(path)
    return result


def _of(reader: ItemReader, names: Sequence[str]) -> ItemReader:
    """Return a reader of fewer features, from the same blocks."""
    spec = replace(reader.spec, goals={}, language=None, keys=None)
    return ItemReader(replace(reader.index, shown=list(names)), spec)


def _batches(reader: ItemReader, items: Sequence[int]) -> Iterator[Batch]:
    frames = any(reader.index.features[name].in_frames for name in reader.index.shown)
    size = _AT_ONCE // 64 if frames else _AT_ONCE
    for start in range(0, len(items) if reader.index.shown else 0, size):
        yield reader.batch(items[start : start + size])


def _staged(
    batches: Iterable[Batch], stages: Sequence[Callable[[Batch], Batch]], leave_out: Collection[str] = _COUNTED
) -> Iterator[Batch]:
    for batch in batches:
        for stage in stages:
            batch = stage(batch)
        yield {name: values for name, values in batch.items() if name not in leave_out}


def _sample(num_items: int) -> Sequence[int]:
    """Return up to `SAMPLE` items, evenly spaced."""
    count = min(num_items, SAMPLE)
    return [number * num_items // count for number in range(count)]


def _key(reader: ItemReader, stages: Sequence[Callable[[Batch], Batch]]) -> str:
    """Return 64 hex digits that change whenever the statistics would."""
    index, spec = reader.index, reader.spec
    relative = [[stage.pairs, stage.at] for stage in stages if isinstance(stage, Relative)]
    windows = {name: repr(window) for name, window in spec.windows.items()}
    told = [_FORMAT, windows, spec.pad, spec.dtype, spec.image_size, list(index.shown), sorted(index.validated), relative]
    told += [[index.stored[name] for name in index.shown], index.anchors.every, EXACT_VALUES, ELEMENTWISE, SAMPLE]
    digest = hashlib.sha256(json.dumps(told).encode())
    for number in range(index.num_blocks):
        digest.update(block_key(index, number).encode())
    chosen = np.zeros(0, np.int64) if index.anchors.chosen is None else index.anchors.chosen
    for array in (index.order, index.anchors.counts, index.anchors.first, chosen):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def _rows(values: np.ndarray, pad: np.ndarray | None, valid: np.ndarray | None) -> np.ndarray:
    """Return the values that count, windows laid one after another: `(N, *shape)`."""
    if pad is None and valid is None:
        return values
    keep = np.ones(values.shape[: 1 if pad is None else 2], dtype=bool)
    if pad is not None:
        keep &= ~pad
    if valid is not None:
        keep &= valid
    return values[keep]


class _Values:
    """Counts numbers, elementwise up to `ELEMENTWISE` of them."""

    def __init__(self, rows: np.ndarray) -> None:
        size = math.prod(rows.shape[1:])
        self._dtype = rows.dtype.name
        self._shape = rows.shape[1:] if size <= ELEMENTWISE else ()
        # FeatureStats counts wide values together; in parts it counts them elementwise.
        self._parts = max(1, math.ceil(size / MAX_ELEMENTS)) if self._shape else 1
        self._stats: list[FeatureStats] = []
        self._held: list[np.ndarray] = []
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        columns = rows.reshape(len(rows), math.prod(self._shape)) if self._shape else rows.reshape(-1, 1)
        new = [FeatureStats.of(part) for part in np.array_split(columns, self._parts, axis=1)]
        self._stats = [a.merge(b) for a, b in zip(self._stats, new, strict=True)] if self._stats else new
        self._count += columns.size
        if self._count <= EXACT_VALUES:
            self._held.append(columns.copy())
        else:
            self._held.clear()

    def numbers(self, sampled: int | None) -> Numbers:
        exact = self._count <= EXACT_VALUES
        parts = {name: self._joined([getattr(s, name) for s in self._stats]) for name in ("mean", "std", "min", "max")}
        if exact:
            found = [_quantiles(column) for column in np.concatenate(self._held).T]
            parts |= {name: self._joined([q[i] for q in found]) for i, name in enumerate(QUANTILES)}
        else:
            parts |= {name: self._joined([s.quantile(q) for s in self._stats]) for name, q in QUANTILES.items()}
        count = self._joined([s.count for s in self._stats]).astype(np.int64)
        return Numbers(self._dtype, self._shape, count, parts, rank_error=0.0 if exact else RANK_ERROR, sampled=sampled)

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.reshape(part, -1) for part in parts] or [np.empty(0)]).reshape(self._shape)


class _Pixels:
    """Counts images per channel: how often each value of a pixel is there, so all that follows is exact."""

    def __init__(self, rows: np.ndarray) -> None:
        self._dtype = rows.dtype.name
        self._counts = np.zeros((rows.shape[1], np.iinfo(rows.dtype).max + 1), dtype=np.int64)

    def add(self, rows: np.ndarray) -> None:
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(rows[:, channel].reshape(-1), minlength=len(counts))

    def numbers(self, sampled: int | None) -> Numbers:
        shape = (len(self._counts), 1, 1)
        channels = [_of_counts(counts) for counts in self._counts]
        parts = {name: np.array([channel[name] for channel in channels]).reshape(shape) for name in PARTS}
        return Numbers(self._dtype, shape, self._counts.sum(axis=1).reshape(shape), parts, image=True, sampled=sampled)


def _quantiles(column: np.ndarray) -> np.ndarray:
    counted = column[~np.isnan(column)].astype(np.float64)
    if not len(counted):
        return np.full(len(QUANTILES), np.nan)
    with np.errstate(invalid="ignore"):  # between infinities
        return np.asarray(np.quantile(counted, list(QUANTILES.values())))


def _of_counts(counts: np.ndarray) -> dict[str, float]:
    """Return the statistics of whole numbers of which `counts[k]` are k, as numpy gives them for the numbers themselves."""
    total = int(counts.sum())
    if not total:
        return dict.fromkeys(PARTS, math.nan)
    value, up_to = np.arange(len(counts)), np.cumsum(counts)
    mean = float(counts @ value) / total
    there = np.flatnonzero(counts)
    result = {"mean": mean, "std": math.sqrt(float(counts @ (value - mean) ** 2) / total), "min": there[0], "max": there[-1]}
    for name, q in QUANTILES.items():
        rank = q * (total - 1)
        low, high = (int(np.searchsorted(up_to, r, side="right")) for r in (math.floor(rank), math.ceil(rank)))
        result[name] = low + (high - low) * (rank - math.floor(rank))
    return {name: float(x) for name, x in result.items()}
