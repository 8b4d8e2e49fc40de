"""Reads items: the low-dimensional columns of whole episodes through a bounded cache, camera frames one by one."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from fogx import registry
from fogx.feature import Feature
from fogx.protocols import Column
from fogx.settings import config
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.steps import read_steps
from fogx.training.index import Entry, TrainingIndex


class ItemReader:
    """Gives items as dicts of numpy arrays, str and bytes. Picklable; each process fills a cache of its own.

    Args:
        index: The selection.
    """

    def __init__(self, index: TrainingIndex) -> None:
        self.index = index
        self._cache: OrderedDict[int, tuple[Mapping[str, Column], int]] = OrderedDict()
        self._cached_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker starts with the defaults; it should keep to what the user set.
        return {"index": self.index, "_config": config()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config(**{f.name: getattr(state["_config"], f.name) for f in fields(state["_config"])})
        self.__init__(state["index"])  # type: ignore[misc]

    def step(self, item: int) -> dict[str, Any]:
        """Return one step: arrays of `shape`, cameras (C, H, W), and `episode_id`, `step_index`."""
        episode, step = self.index.locate(item)
        entry = self.index.entries[episode]
        values = {name: value[0] for name, value in self._values(episode, slice(step, step + 1)).items()}
        return {"episode_id": entry.episode_id, "step_index": step, **values}

    def episode(self, episode: int) -> dict[str, Any]:
        """Return one whole episode: the same with a leading time axis; `step_index` is (T,) int64."""
        entry = self.index.entries[episode]
        steps = np.arange(entry.num_steps, dtype=np.int64)
        return {"episode_id": entry.episode_id, "step_index": steps, **self._values(episode, slice(0, entry.num_steps))}

    def _values(self, episode: int, steps: slice) -> dict[str, Any]:
        entry, columns = self.index.entries[episode], self._columns(episode)
        result: dict[str, Any] = {}
        for name, feature in self.index.features.items():
            rows = steps.stop - steps.start
            column = columns.get(name)
            if column is None:
                values, valid = _blank(feature, rows), np.zeros(rows, dtype=bool)
            else:
                valid = np.ones(rows, dtype=bool) if column.valid is None else column.valid[steps]
                part = column.values[steps]
                values = _frames(entry, name, feature, part, valid) if feature.in_frames else _filled(part, valid, feature)
            result[name] = values
            if name in self.index.validated:
                result[f"{name}_is_valid"] = valid
        return result

    def _columns(self, episode: int) -> Mapping[str, Column]:
        """Return the columns of an episode; the least recently used episodes leave when the budget is spent."""
        if episode in self._cache:
            self._cache.move_to_end(episode)
            return self._cache[episode][0]
        entry = self.index.entries[episode]
        names = [name for name in self.index.features if name in entry.schema.features]
        # Copies: a view would keep the whole row group alive.
        columns = {
            name: Column(c.values.copy(), c.valid)
            for name, c in read_steps(entry.store, entry.steps, entry.schema, names).items()
        }
        size = sum(
            column.values.nbytes + 64 * len(column.values) * (column.values.dtype == object) for column in columns.values()
        )
        self._cache[episode] = (columns, size)
        self._cached_bytes += size
        while self._cached_bytes > config().memory_mb << 20 and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1][1]
        return columns


def _copied(values: np.ndarray) -> np.ndarray:
    copy = values.copy()
    if copy.dtype == object and copy.ndim == 1:
        for position, value in enumerate(copy):
            copy[position] = value.copy() if isinstance(value, np.ndarray) else value
    return copy


def _size(values: np.ndarray) -> int:
    """Return about how many bytes values take, objects included."""
    return values.nbytes + (sum(sys.getsizeof(value) for value in values.reshape(-1)) if values.dtype == object else 0)


def _frames(entry: Entry, name: str, feature: Feature, numbers: np.ndarray, valid: np.ndarray) -> Any:
    own = entry.schema[name]
    codec = registry.get("codecs", str(own.encoding))
    places = [place for place in entry.frames if place.feature == name]
    decoded = iter([codec.decode(blob, own) for blob in read_frames(entry.store, places, numbers[valid])])
    blank = _blank(feature, 1)[0]
    frames = [_channels_first(next(decoded), own) if ok else blank for ok in valid]
    return np.stack(frames) if frames else _blank(feature, 0)


def _channels_first(value: np.ndarray, feature: Feature) -> np.ndarray:
    if not feature.is_image:
        return value
    return np.ascontiguousarray(np.moveaxis(value, -1, 0)) if value.ndim == 3 else value[None]


def _blank(feature: Feature, rows: int) -> np.ndarray:
    shape = tuple(d or 0 for d in feature.shape or ())
    if feature.dtype in ("str", "bytes"):
        return np.full((rows, *shape), "" if feature.dtype == "str" else b"", dtype=object)
    if feature.is_image:
        shape = (shape[2], *shape[:2]) if len(shape) == 3 else (1, *shape)
    return np.zeros((rows, *shape), dtype=feature.dtype)


def _filled(values: np.ndarray, valid: np.ndarray, feature: Feature) -> np.ndarray:
    if valid.all():
        return values
    if feature.is_variable:
        filled = values.copy()
        filled[~valid] = np.zeros(
            [d or 0 for d in feature.shape or ()], dtype=None if feature.dtype in ("str", "bytes") else feature.dtype
        )
        return filled
    return np.where(valid.reshape(-1, *[1] * (values.ndim - 1)), values, _blank(feature, len(values)))
