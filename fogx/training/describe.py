"""Counts what items hold: statistics of a training set as it is trained on."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from fogx.stats import MAX_ELEMENTS, FeatureStats
from fogx.training.itemstats import PARTS, QUANTILES, ItemStats, Numbers

EXACT_VALUES = 1 << 22
"""So many values of a feature are held to give exact quantiles; beyond them sketches do."""

ELEMENTWISE = 1024
"""Values of more elements are counted together."""

RANK_ERROR = 0.0133
"""Of sketches, in 99 of 100."""

MASKS = ("_is_pad", "_is_valid")


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
