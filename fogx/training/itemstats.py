"""What the items of a dataset look like in numbers, and the files that other libraries keep such numbers in. Needs numpy alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fogx.errors import FeatureError, FeatureNotFoundError, did_you_mean, listing
from fogx.feature import NUMERIC_DTYPES, Feature
from fogx.training.documents import parsing, read_document, write_document, write_json
from fogx.training.names import lerobot_names

KIND = "statistics"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
PARTS = ("mean", "std", "min", "max", *QUANTILES)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Count, mean, spread, range and quantiles of one feature of the items.

    Args:
        dtype: Dtype of the values.
        shape: Shape of one value without its window: `(7,)`; `(C, 1, 1)` for images, counted per channel; `()` where all elements
            are counted together.
        count: int64 of that shape: values counted; padding, steps without a value and NaN are not.
        parts: `mean`, `std` (of the population), `min`, `max`, `q01`, `q10`, `q50`, `q90`, `q99` → float64 of that shape; NaN
            where nothing was counted.
        image: Whether these are the pixels of images.
        rank_error: The rank of a quantile is off by at most this share of the count; 0 where quantiles are exact.
        sampled: Items looked at, where not all were.
    """

    dtype: str
    shape: tuple[int, ...]
    count: np.ndarray
    parts: Mapping[str, np.ndarray] = field(repr=False)
    image: bool = False
    rank_error: float = 0.0
    sampled: int | None = None

    def __getitem__(self, part: str) -> np.ndarray:
        """Return `mean`, `std`, `min`, `max` or a quantile.

        Raises:
            FeatureNotFoundError: None of these.
        """
        if part not in self.parts:
            raise FeatureNotFoundError(f"no {part!r:.40} among the statistics; there are: {listing(self.parts)}.")
        return self.parts[part]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` reads."""
        parts = {name: [_plain(x) for x in values.reshape(-1).tolist()] for name, values in self.parts.items()}
        about = {"dtype": self.dtype, "shape": list(self.shape), "image": self.image}
        return about | {"rank_error": self.rank_error, "sampled": self.sampled, "count": self.count.reshape(-1).tolist(), **parts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Numbers:
        """Build from what `to_json` gave; other values raise what Python raises."""
        shape = tuple(int(d) for d in data["shape"])
        if data["dtype"] not in NUMERIC_DTYPES:
            raise ValueError(f"dtype {data['dtype']!r:.40}")
        sampled = None if data["sampled"] is None else int(data["sampled"])
        return cls(
            data["dtype"],
            shape,
            np.array(data["count"], np.int64).reshape(shape),
            {name: np.array([float(x) for x in data[name]], np.float64).reshape(shape) for name in PARTS},
            bool(data["image"]),
            float(data["rank_error"]),
            sampled,
        )


class ItemStats(Mapping[str, Numbers]):
    """Statistics of items as they are trained on, by feature; made by `StepDataset.stats`.

    Args:
        numbers: By feature.
        num_items: Items described.
        num_episodes: Episodes that they come from.
    """

    def __init__(self, numbers: Mapping[str, Numbers], num_items: int, num_episodes: int) -> None:
        self._numbers = dict(numbers)
        self.num_items = num_items
        self.num_episodes = num_episodes

    def __getitem__(self, name: str) -> Numbers:
        if name not in self._numbers:
            known = self._numbers
            raise FeatureNotFoundError(f"no statistics of {name!r}; there are: {listing(known)}.{did_you_mean(name, known)}")
        return self._numbers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"<fogx statistics of {self.num_items} items of {self.num_episodes} episodes; {listing(self)}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, which `load` reads, and `fox.Normalizer.load(path, mode=...)`."""
        write_document(path, KIND, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ItemStats:
        """Read what `save` wrote.

        Raises:
            DatasetNotFoundError: No such file.
            CorruptDataError: Not written by `save`, or damaged.
            FormatVersionError: Written by a later fogx.
        """
        _, body = read_document(path, (KIND,))
        with parsing(path):
            return cls.from_json(body)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` reads."""
        features = {name: numbers.to_json() for name, numbers in self.items()}
        return {"num_items": self.num_items, "num_episodes": self.num_episodes, "features": features}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ItemStats:
        """Build from what `to_json` gave; other values raise what Python raises."""
        numbers = {str(name): Numbers.from_json(given) for name, given in data["features"].items()}
        return cls(numbers, int(data["num_items"]), int(data["num_episodes"]))

    def save_lerobot(self, path: str | os.PathLike[str]) -> None:
        """Write the `meta/stats.json` of LeRobot v2.1 and v3: by feature min, max, mean, std, quantiles and `count` of one entry.

        Names are LeRobot's, as `keys="lerobot"` makes them. Images are (C, 1, 1) between 0 and 1, scalars of shape (1,).

        Raises:
            FeatureError: A feature has an element without any value.
            SelectionError: Two features that LeRobot has one name for.
        """
        self._check_complete(self)
        kinds = {name: Feature(n.dtype, n.shape, encoding="png" if n.image else None) for name, n in self.items()}
        names = lerobot_names(kinds, kinds)
        write_json(path, {names[name]: _lerobot(numbers) for name, numbers in self.items()})

    def save_openvla(
        self,
        path: str | os.PathLike[str],
        dataset: str,
        *,
        action: str = "action",
        proprio: str | None = None,
        exclude: Sequence[int] = (),
    ) -> None:
        """Write a `dataset_statistics.json` as OpenVLA and Octo do, of one dataset.

        Args:
            path: Where.
            dataset: Its name there, the `unnorm_key`.
            action: The feature of actions.
            proprio: The feature of the robot's state; `None` for none.
            exclude: Dimensions of the action that `mask` says are not normalised (the gripper).

        Raises:
            FeatureNotFoundError: No statistics of that feature.
            FeatureError: It is no vector, has an element without any value, or no such dimension.
        """
        parts = {"action": action} if proprio is None else {"action": action, "proprio": proprio}
        self._check_complete(parts.values())
        body: dict[str, Any] = {part: _openvla(name, self[name]) for part, name in parts.items()}
        left_alone = dimensions(action, self[action].shape, exclude)
        body["action"]["mask"] = [i not in left_alone for i in range(self[action].shape[0])]
        write_json(path, {dataset: {**body, "num_transitions": self.num_items, "num_trajectories": self.num_episodes}})

    def _check_complete(self, names: Any) -> None:
        for name in names:
            if missing := int((self[name].count == 0).sum()):
                raise FeatureError(
                    f"{name!r}: {missing} of {self[name].count.size} elements have no value; leave the feature out."
                )


def dimensions(name: str, shape: tuple[int, ...], given: Sequence[int]) -> frozenset[int]:
    """Return dimensions of a feature's last axis as numbers from 0.

    Args:
        name: The feature, for messages.
        shape: Its shape.
        given: Numbers of dimensions; negative ones count from the end.

    Raises:
        FeatureError: No such dimension, or no numbers.
    """
    size = shape[-1] if shape else 1
    if (
        not isinstance(given, Iterable)
        or isinstance(given, (str, bytes))
        or not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in given)
    ):
        raise FeatureError(f"exclude= of {name!r}: give whole numbers of dimensions, such as [{size - 1}].")
    wrong = [int(i) for i in given if not -size <= i < size]
    if wrong:
        raise FeatureError(f"exclude= of {name!r}: no dimension {listing(wrong)}; there are {size}: 0 to {size - 1}.")
    return frozenset(int(i) % size for i in given)


def _plain(x: float) -> float | str:
    # JSON has no word for them; float() reads these.
    return x if math.isfinite(x) else str(x)


def _lerobot(numbers: Numbers) -> dict[str, Any]:
    # LeRobot keeps depth (uint16) in its own unit.
    scale = 255.0 if numbers.image and numbers.dtype == "uint8" else 1.0
    return {part: (np.atleast_1d(numbers[part]) / scale).tolist() for part in PARTS} | {"count": [int(numbers.count.max())]}


def _openvla(name: str, numbers: Numbers) -> dict[str, Any]:
    if len(numbers.shape) != 1 or numbers.image:
        raise FeatureError(f"OpenVLA keeps statistics of vectors; {name!r} has shape {numbers.shape}.")
    return {part: numbers[part].tolist() for part in ("mean", "std", "max", "min", "q01", "q99")}
