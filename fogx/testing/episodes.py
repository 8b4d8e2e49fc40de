"""What the suites know about episodes: whether one is as its schema says, who holds it, and some to export."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from fogx import registry
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData


def make_episodes() -> list[EpisodeData]:
    """Return four episodes of 3 to 6 steps: numbers, text, and images encoded as PNG."""
    image = Feature("uint8", (32, 32, 3), encoding="png")
    schema = Schema({"observation/image": image, "language_instruction": Feature("str", ()), "action": Feature("float32", (2,))})
    episodes = []
    for steps in range(3, 7):
        images = np.empty(steps, object)
        images[:] = [registry.get("codecs", "png").encode(np.full((32, 32, 3), 10 * steps + i, np.uint8)) for i in range(steps)]
        values = (images, np.full(steps, f"task {steps}", object), np.full((steps, 2), steps, np.float32))
        episodes.append(EpisodeData(schema, dict(zip(schema, map(Column, values), strict=True)), steps))
    return episodes


def check_episode(data: EpisodeData) -> None:
    """Assert that every column is what `fogx.protocols.Column` promises for its feature."""
    assert set(data.columns) == set(data.schema)
    for name, feature in data.schema.items():
        values, valid = data.columns[name].values, data.columns[name].valid
        assert feature.dtype is not None, name
        assert feature.shape is not None, name
        assert values.shape[:1] == (data.num_steps,), f"{name}: {values.shape} for {data.num_steps} steps"
        if valid is not None:
            assert valid.dtype == bool, name
            assert valid.shape == (data.num_steps,), name
            values = values[valid]
        if not (feature.in_frames or feature.is_variable):
            _check_array(name, feature, values, (None, *feature.shape))
            continue
        assert values.dtype == object, f"{name}: {values.dtype}"
        assert values.ndim == 1, f"{name}: {values.shape}"
        for value in values:
            if feature.encoding:
                assert type(value) is bytes, f"{name}: {type(value).__name__} in frames"
                value = registry.get("codecs", feature.encoding).decode(value, feature)
            _check_array(name, feature, value, feature.shape)


class Alive:
    """Counts which of the episodes that passed by are still held by someone."""

    def __init__(self) -> None:
        self._seen: list[weakref.ref[EpisodeData]] = []

    def count_with(self, data: EpisodeData) -> int:
        """Return how many episodes are held, with this one, which is remembered."""
        self._seen.append(weakref.ref(data))
        if self._held() > 2:  # so many may be; more may be garbage that was not collected, which takes long
            gc.collect()
        return self._held()

    def _held(self) -> int:
        return sum(ref() is not None for ref in self._seen)


def _check_array(name: str, feature: Feature, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    assert fits, f"{name}: shape {array.shape}, declared {feature.shape}"
    text = {"str": str, "bytes": bytes}.get(str(feature.dtype))
    assert array.dtype == (object if text else feature.dtype), f"{name}: {array.dtype}, declared {feature.dtype}"
    assert text is None or all(type(item) is text for item in array.flat), f"{name}: items that are not {feature.dtype}"
