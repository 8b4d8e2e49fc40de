"""Numbers to the range that a network learns from, and back. Needs numpy alone: a robot may have nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fogx.errors import FeatureError, FeatureNotFoundError, did_you_mean, listing
from fogx.feature import Feature, role_of
from fogx.training.documents import parsing, read_document, write_document
from fogx.training.itemstats import KIND as STATISTICS
from fogx.training.itemstats import ItemStats, Numbers, dimensions
from fogx.training.names import GOAL

MODES = ("mean_std", "quantile", "min_max")
KIND = "normalizer"


class Normalizer:
    """Maps float features of observations and actions to a common range, elementwise, and back.

    `"mean_std"` maps to mean 0 and deviation 1, `"quantile"` q01 to −1 and q99 to 1, `"min_max"` the minimum to −1 and the maximum to
    1. Nothing is clipped, so every mode has an inverse. Elements that are constant (for `"quantile"`: whose q01 is q99) or never had
    a value stay as they are. Padding and filled-in zeros are mapped as any other value; masks tell them. A goal is mapped as the
    feature that it is a value of.

    Args:
        stats: Statistics of the items (`train.stats()`).
        mode: One of the three.
        exclude: By feature, dimensions of its last axis that stay as they are: `{"action": [6]}`, `{"action": [-1]}`.

    Raises:
        FeatureError: An unknown mode, a dimension that is not there, or infinite statistics, which have no range.
        FeatureNotFoundError: `exclude` names a feature that is not normalised.
    """

    def __init__(self, stats: ItemStats, mode: str, exclude: Mapping[str, Sequence[int]] | None = None) -> None:
        if mode not in MODES:
            raise FeatureError(
                f"normalize={mode!r:.60} is not known; use one of: {listing(MODES)}.{did_you_mean(str(mode), MODES)}"
            )
        self.stats = stats
        self.mode = mode
        self.features = tuple(
            name
            for name, numbers in stats.items()
            if _is_mapped(name, numbers) and name.removeprefix(GOAL) not in stats.keys() - {name}
        )
        self._exclude: dict[str, frozenset[int]] = {}
        for name, given in (exclude or {}).items():
            if name not in self.features:
                raise FeatureNotFoundError(
                    f"exclude= names {name!r}, which is not normalised; normalised are: {listing(self.features)}."
                    f"{did_you_mean(name, self.features)}"
                )
            self._exclude[name] = dimensions(name, stats[name].shape, given)
        self._maps = {name: _map(name, stats[name], mode, self._exclude.get(name, frozenset())) for name in self.features}

    @property
    def exclude(self) -> dict[str, list[int]]:
        """Dimensions that stay as they are, by feature."""
        return {name: sorted(given) for name, given in self._exclude.items()}

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the values with the features normalised, dtypes kept; others stay as they are.

        Args:
            values: By feature, `(..., *shape)`; any leading axes (batch, window).

        Raises:
            FeatureError: A shape that the statistics do not have.
        """
        return self._each(values, lambda x, offset, scale: (x - offset) / scale)

    def unnormalize(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what normalising gave these values for, up to rounding; the inverse of calling.

        Args:
            values: By feature, `(..., *shape)`; any leading axes (batch, chunk).

        Raises:
            FeatureError: A shape that the statistics do not have.
        """
        return self._each(values, lambda x, offset, scale: x * scale + offset)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, which `load` reads."""
        write_document(path, KIND, self.to_json())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], mode: str | None = None, exclude: Mapping[str, Sequence[int]] | None = None
    ) -> Normalizer:
        """Read what `Normalizer.save` or `ItemStats.save` wrote. Imports numpy and nothing else.

        Args:
            path: The file.
            mode: As in the class; `None` takes the file's.
            exclude: As in the class; `None` takes the file's.

        Raises:
            DatasetNotFoundError: No such file.
            CorruptDataError: Not written by `save`, or damaged.
            FormatVersionError: Written by a later fogx.
            FeatureError, FeatureNotFoundError: The file holds statistics and `mode` is not given, or as in the class.
        """
        kind, body = read_document(path, (KIND, STATISTICS))
        if kind == STATISTICS:
            if mode is None:
                raise FeatureError(f"{path} holds statistics; say how to normalise: Normalizer.load(path, mode={MODES[1]!r}).")
            body = {"stats": body, "mode": mode, "exclude": {}}
        with parsing(path):
            given = {"mode": mode, "exclude": exclude}
            return cls.from_json(body | {name: value for name, value in given.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` reads."""
        return {"mode": self.mode, "exclude": self.exclude, "stats": self.stats.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normalizer:
        """Build from what `to_json` gave; other values raise what Python raises."""
        return cls(ItemStats.from_json(data["stats"]), data["mode"], dict(data["exclude"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalizer) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        left_alone = f", exclude={self.exclude}" if self._exclude else ""
        return f"Normalizer({self.mode!r}{left_alone}; {listing(self.features)})"

    def _each(self, values: Mapping[str, np.ndarray], mapped: Any) -> dict[str, np.ndarray]:
        result = dict(values)
        for name, given in values.items():
            feature = name if name in self._maps else name.removeprefix(GOAL)
            if feature not in self._maps:
                continue
            array, shape = np.asarray(given), self.stats[feature].shape
            if array.shape[max(0, array.ndim - len(shape)) :] != shape:
                raise FeatureError(
                    f"{name!r} has shape {array.shape}; its statistics are of values of shape {shape}, axes before it free."
                )
            result[name] = mapped(array, *self._maps[feature]).astype(array.dtype if array.dtype.kind == "f" else np.float64)
        return result


def chosen(
    normalize: str | os.PathLike[str] | Normalizer | None,
    exclude: Mapping[str, Sequence[int]] | None,
    stats: Callable[[], ItemStats],
    features: Mapping[str, Feature],
) -> Normalizer | None:
    """Return the normaliser that a user asks for.

    Args:
        normalize: A mode, a normaliser, the path of a saved one, or `None` for none.
        exclude: As in `Normalizer`; `None` leaves a given normaliser as it is.
        stats: Counts the items, where a mode is asked for.
        features: What the features of the items are, as far as it is known.

    Raises:
        FeatureError: Nothing of these; `exclude` without a normaliser; statistics of another shape than items have.
        FeatureNotFoundError: A given normaliser has no statistics of a feature that it should map.
        DatasetNotFoundError, CorruptDataError, FormatVersionError: As in `Normalizer.load`.
    """
    if normalize is None:
        if exclude is not None:
            raise FeatureError(
                f"exclude= says what is not normalised, and nothing is; give normalize=, one of: {listing(MODES)}."
            )
        return None
    if isinstance(normalize, str) and (normalize in MODES or not os.path.exists(normalize)):
        if normalize not in MODES:
            hint = did_you_mean(normalize, MODES)
            raise FeatureError(f"normalize={normalize!r:.200} is neither a file nor one of: {listing(MODES)}.{hint}")
        return Normalizer(stats(), normalize, exclude)
    if not isinstance(normalize, (str, os.PathLike, Normalizer)):
        kind = type(normalize).__name__
        raise FeatureError(f"normalize= is one of {listing(MODES)}, a fox.Normalizer or the path of one, found {kind}.")
    found = normalize if isinstance(normalize, Normalizer) else Normalizer.load(normalize)
    for name, feature in features.items():
        if _has_range(name, str(feature.dtype)) and not (feature.is_image or feature.is_variable):
            if name not in found.stats:
                raise FeatureNotFoundError(
                    f"the given normaliser has no statistics of {name!r}; it has: {listing(found.stats)}.{did_you_mean(name, found.stats)}"
                )
            if found.stats[name].shape not in ((), feature.shape):
                raise FeatureError(
                    f"the given normaliser has statistics of {name!r} of shape {found.stats[name].shape}; items have {feature.describe()}."
                )
    return found if exclude is None else Normalizer(found.stats, found.mode, exclude)


def _has_range(name: str, dtype: str) -> bool:
    return dtype.startswith("float") and role_of(name) in ("observation", "action")


def _is_mapped(name: str, numbers: Numbers) -> bool:
    return _has_range(name, numbers.dtype) and not numbers.image


def _map(name: str, numbers: Numbers, mode: str, left_alone: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and scale of each element: 0 and 1 where it stays as it is."""
    low, high = (numbers[part] for part in (("q01", "q99") if mode == "quantile" else ("min", "max")))
    moves = np.array((numbers.count > 0) & (low != high))
    for dimension in left_alone:
        moves[(..., dimension) if moves.shape else ()] = False
    with np.errstate(invalid="ignore", over="ignore"):
        # Halves first: a sum of two large numbers has no room.
        offset, scale = (numbers["mean"], numbers["std"]) if mode == "mean_std" else (low / 2 + high / 2, high / 2 - low / 2)
    unusable = moves & ~(np.isfinite(offset) & np.isfinite(scale) & (scale > 0))
    if unusable.any():
        raise FeatureError(
            f"normalize={mode!r}: {int(unusable.sum())} of {unusable.size} elements of {name!r} have infinite values or a range that "
            f"float64 does not hold; exclude={{{name!r}: [...]}} leaves them as they are."
        )
    return np.where(moves, offset, 0.0), np.where(moves, scale, 1.0)
