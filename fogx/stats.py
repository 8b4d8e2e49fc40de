"""Statistics of one feature that merge: of an episode, and of any selection of episodes, without reading steps again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasketches import kll_doubles_sketch

from fogx.errors import CorruptDataError, FeatureError

MAX_ELEMENTS = 64
"""Up to so many elements are counted one by one; larger values are pooled into one."""

_K = 200


@dataclass(frozen=True, eq=False, repr=False)
class FeatureStats:
    """Count, mean, spread, range and quantiles of one numeric feature.

    Elements are counted each for itself up to `MAX_ELEMENTS` of them, together above. NaN and steps without a value are left
    out; infinities count (mean and deviation are then not finite). Bool counts as 0 and 1. All is kept in float64: int64 and
    uint64 beyond 2**53 are rounded, in `min` and `max` too.

    Quantiles come from KLL sketches of k = 200: exact up to 200 values, beyond that the rank of a quantile is off by at most
    1.33 % of the count (in 99 of 100 sketches), merged or not. `quantile(0)` and `quantile(1)` are exact.

    Args:
        shape: Shape of one value; `()` where elements are pooled.
        count: int64 of that shape: values counted.
        mean: float64 of that shape; NaN where nothing was counted.
        m2: float64 of that shape: sum of squared differences from the mean.
        min: float64 of that shape; NaN where nothing was counted.
        max: float64 of that shape; NaN where nothing was counted.
        sketches: One quantile sketch an element, in C order.
    """

    shape: tuple[int, ...]
    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    min: np.ndarray
    max: np.ndarray
    sketches: tuple[kll_doubles_sketch, ...]

    def __repr__(self) -> str:
        return f"FeatureStats(shape={self.shape}, values counted={int(self.count.sum())})"

    @classmethod
    def of(cls, values: np.ndarray, valid: np.ndarray | None = None) -> FeatureStats:
        """Count the values of an episode.

        Args:
            values: `(T, *shape)` of a numeric dtype or bool, T >= 0. For values of varying shape give all their elements
                as `(N,)`.
            valid: `(T,)` bool, False where a step has no value.
        """
        rows = (values if valid is None else values[valid]).astype(np.float64)
        pooled = math.prod(rows.shape[1:]) > MAX_ELEMENTS
        shape = () if pooled else rows.shape[1:]
        columns = rows.reshape(1, -1) if pooled else np.ascontiguousarray(rows.reshape(len(rows), math.prod(shape)).T)
        absent = np.isnan(columns)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if absent.any():
                count = (~absent).sum(axis=1)
                mean = np.where(absent, 0.0, columns).sum(axis=1) / count
                m2 = np.where(absent, 0.0, (columns - mean[:, None]) ** 2).sum(axis=1)
            else:
                count = np.full(columns.shape[0], columns.shape[1])
                mean = columns.sum(axis=1) / count
                m2 = ((columns - mean[:, None]) ** 2).sum(axis=1)
        sketches = []
        for column in columns:
            sketch = kll_doubles_sketch(_K)
            sketch.update(column)
            sketches.append(sketch)
        return cls(
            shape,
            count.astype(np.int64).reshape(shape),
            mean.reshape(shape),
            m2.reshape(shape),
            np.fmin.reduce(columns, axis=1, initial=np.nan).reshape(shape),
            np.fmax.reduce(columns, axis=1, initial=np.nan).reshape(shape),
            tuple(sketches),
        )

    def merge(self, other: FeatureStats) -> FeatureStats:
        """Return the statistics of both together; neither is changed.

        Raises:
            FeatureError: The shapes differ.
        """
        if self.shape != other.shape:
            raise FeatureError(f"statistics of values of shape {self.shape} and {other.shape} do not merge.")
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        # Where one side is empty its mean is NaN and must not reach the other.
        mean_a, mean_b = np.where(self.count, self.mean, other.mean), np.where(other.count, other.mean, self.mean)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = mean_b - mean_a
            mean = mean_a + delta * share
            m2 = self.m2 + other.m2 + delta**2 * self.count * share
        sketches = []
        for ours, theirs in zip(self.sketches, other.sketches, strict=True):
            sketch = copy.copy(ours)
            sketch.merge(theirs)
            sketches.append(sketch)
        return FeatureStats(
            self.shape,
            count,
            mean,
            np.where(count, m2, 0.0),
            np.fmin(self.min, other.min),
            np.fmax(self.max, other.max),
            tuple(sketches),
        )

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, float64 of `shape`; NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(self.m2 / self.count))

    def quantile(self, q: float) -> np.ndarray:
        """Return the value below which a share `q` of the values lies, float64 of `shape`; NaN where nothing was counted.

        Raises:
            FeatureError: `q` is not within 0 and 1, both included.
        """
        if not 0 <= q <= 1:
            raise FeatureError(f"quantile({q}) is not defined: q is from 0 to 1.")
        if q in (0, 1):
            return self.max if q else self.min
        found = [math.nan if s.is_empty() else s.get_quantile(q, inclusive=True) for s in self.sketches]
        return np.array(found, np.float64).reshape(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return int64 and float64 arrays (E,) of the E counted elements, their shape as a list, and the sketches as bytes."""
        return {
            "shape": list(self.shape),
            **{name: getattr(self, name).reshape(-1) for name in ("count", "mean", "m2", "min", "max")},
            "sketches": [bytes(s.serialize()) for s in self.sketches],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureStats:
        """Build from what `to_dict` gave; lists will do for arrays.

        Raises:
            CorruptDataError: Parts that do not fit each other, or a damaged sketch.
        """
        try:
            shape = tuple(int(d) for d in data["shape"])
            count = np.asarray(data["count"], np.int64).reshape(shape)
            mean, m2, low, high = (np.asarray(data[k], np.float64).reshape(shape) for k in ("mean", "m2", "min", "max"))
            sketches = tuple(kll_doubles_sketch.deserialize(bytes(s)) for s in data["sketches"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise CorruptDataError(f"stored statistics cannot be read: {type(error).__name__}: {error}.") from None
        if [s.n for s in sketches] != count.reshape(-1).tolist():
            raise CorruptDataError(f"stored statistics of {count.size} elements have sketches that counted something else.")
        return cls(shape, count, mean, m2, low, high, sketches)
