"""One episode to a serialised `tf.train.Example`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fogx import registry
from fogx.errors import MetadataError, SchemaMismatchError, listing
from fogx.feature import fits_shape
from fogx.formats.rtx.declare import SIGNALS, Target, empty_shape, features_dict, image_shape
from fogx.formats.rtx.features import TIMESTAMP
from fogx.formats.rtx.tfds import part
from fogx.protocols import Column, EpisodeData

_CHUNK = 1 << 16


class EpisodeEncoder:
    """Encodes episodes of one schema. Encoded images pass unchanged.

    Args:
        leaves: What is written.

    Attributes:
        features: The `tfds.features.FeaturesDict` that reads it.
        made_up: How many values were missing and written as nan, 0, empty or black, by column.
    """

    def __init__(self, leaves: Sequence[Target]) -> None:
        self.features = features_dict(leaves)
        self.made_up: Counter[str] = Counter()
        self._leaves = leaves
        self._names = {leaf.column for leaf in leaves if leaf.in_steps} - {TIMESTAMP}

    def encode(self, episode: EpisodeData) -> bytes:
        """Return the record of an episode.

        Raises:
            SchemaMismatchError: A column that the export does not have, lacks, or has with another dtype.
            MetadataError: A metadata value that does not fit its feature.
            CorruptDataError: A compressed value that cannot be decoded.
        """
        extra = set(episode.columns) - self._names
        if extra:
            raise SchemaMismatchError(
                f"{_where(episode)} has features that the first schema lacks: {listing(sorted(extra))}. "
                "Export episodes of one schema at a time."
            )
        messages = part("proto").tf_example_pb2
        example = messages.Example()
        entries = example.features.feature
        for leaf in self._leaves:
            values = self._of_steps(leaf, episode) if leaf.in_steps else [self._of_episode(leaf, episode)]
            if leaf.form == "blob":
                values = [_blob(leaf, v) for v in values]
            if leaf.in_steps and leaf.form == "plain" and leaf.feature.is_variable:
                _extend(entries[f"{leaf.path}/ragged_flat_values"], leaf, values)
                entries[f"{leaf.path}/ragged_row_lengths_0"].int64_list.value.extend(len(v) for v in values)
            else:
                _extend(entries[leaf.path], leaf, values)
        data: bytes = example.SerializeToString()
        return data

    def _of_steps(self, leaf: Target, episode: EpisodeData) -> Sequence[Any] | np.ndarray:
        """Return one value a step, decoded unless it is an image, with something in place of those missing."""
        if leaf.column == TIMESTAMP:
            if episode.timestamps_ns is None:
                raise SchemaMismatchError(f"{_where(episode)} has no times, and timestamps=True was asked for. Export without.")
            return episode.timestamps_ns
        column = episode.columns.get(leaf.column)
        if column is None:
            if leaf.column in SIGNALS and leaf.column not in episode.schema.features:
                return _signal(leaf.column, episode)
            raise SchemaMismatchError(
                f"{_where(episode)} has no feature {leaf.column!r}. Export episodes of one schema at a time."
            )
        _check(leaf, column, episode)
        valid = column.mask
        missing = int(episode.num_steps - np.count_nonzero(valid))
        self.made_up[leaf.column] += missing
        filler = _filler(leaf) if missing else None
        if column.values.dtype != object:
            if not missing:
                return column.values
            values = column.values.copy()
            values[~valid] = filler
            return values
        if not leaf.feature.in_frames or leaf.form == "image":
            return [v if ok else filler for v, ok in zip(column.values, valid, strict=True)]
        decode = registry.get("codecs", leaf.feature.encoding).decode
        return [decode(v, leaf.feature) if ok else filler for v, ok in zip(column.values, valid, strict=True)]

    def _of_episode(self, leaf: Target, episode: EpisodeData) -> Any:
        value, feature = episode.metadata.get(leaf.column), leaf.feature
        if value is None:
            self.made_up[leaf.column] += 1
            return _filler(leaf)
        if leaf.form != "image" and feature.dtype not in ("str", "bytes"):
            return _number(leaf, episode, value)
        texts = value if isinstance(value, (list, np.ndarray)) else [value]
        if not all(isinstance(v, (str, bytes)) for v in texts):
            raise _misfit(leaf, episode)
        return np.array(value, object)


def _extend(entry: Any, leaf: Target, values: Sequence[Any] | np.ndarray) -> None:
    """Append the elements of all values to an entry of a `tf.train.Example`, a bounded number of Python objects at a time.

    TFDS's own serializer is not used: for sequences it imports TensorFlow.
    """
    if leaf.form != "plain" or leaf.feature.dtype in ("str", "bytes"):
        texts = [t for v in values for t in (np.asarray(v, object).flat if leaf.form == "plain" else (v,))]
        data = [t.encode() if isinstance(t, str) else t for t in texts]
        entry.bytes_list.SetInParent()  # an empty list is there too, as TFDS writes it
        entry.bytes_list.value.extend(data)
        return
    numbers = entry.float_list if str(leaf.feature.dtype).startswith("float") else entry.int64_list
    numbers.SetInParent()
    for value in [values] if isinstance(values, np.ndarray) else values:
        flat = np.ravel(value)
        flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
        for start in range(0, flat.size, _CHUNK):
            numbers.value.extend(flat[start : start + _CHUNK].tolist())


def _check(leaf: Target, column: Column, episode: EpisodeData) -> None:
    """Refuse values that the declared dtype and shape would change."""
    values, feature = column.values, leaf.feature
    if feature.in_frames or feature.dtype in ("str", "bytes"):
        return
    arrays = [values] if values.dtype != object else [v for v in values if v is not None]
    skip = int(values.dtype != object)
    for array in arrays:
        if array.dtype != feature.dtype or not fits_shape(array.shape[skip:], feature.shape or ()):
            raise SchemaMismatchError(
                f"{_where(episode)} has feature {leaf.column!r} as {array.dtype} {array.shape[skip:]}, the export as "
                f"{feature.dtype} {feature.shape}. Export episodes of one schema at a time."
            )


def _where(episode: EpisodeData) -> str:
    return f"episode {episode.episode_id or episode.source_key or '(unnamed)'}"


def _misfit(leaf: Target, episode: EpisodeData) -> MetadataError:
    return MetadataError(
        f"{_where(episode)}: metadata {leaf.column!r} does not fit {leaf.feature.describe()}, as which it is written. "
        "Change it with update_episode_info()."
    )


def _number(leaf: Target, episode: EpisodeData, value: Any) -> np.ndarray:
    target = np.dtype(str(leaf.feature.dtype))
    given = np.asarray(value)
    if not fits_shape(given.shape, leaf.feature.shape or ()) or given.dtype.kind not in "biuf":
        raise _misfit(leaf, episode)
    with np.errstate(all="ignore"):
        cast = given.astype(target)
    # A number may lose digits on its way to a narrower float, but never become another int or bool.
    if target.kind != "f" and not np.array_equal(cast, given):
        raise _misfit(leaf, episode)
    return cast


def _blob(leaf: Target, value: Any) -> bytes:
    return np.asarray(value, np.dtype(str(leaf.feature.dtype)).newbyteorder("<")).tobytes()


def _filler(leaf: Target) -> Any:
    feature = leaf.feature
    if leaf.form == "image":
        height, width, channels = image_shape(feature)
        black = np.zeros((height or 1, width or 1, channels), np.dtype(str(feature.dtype)))
        return registry.get("codecs", feature.encoding).encode(black)
    if feature.dtype in ("str", "bytes"):
        empty = "" if feature.dtype == "str" else b""
        return empty if feature.shape == () else np.full(empty_shape(feature), empty, object)
    nothing = np.nan if str(feature.dtype).startswith("float") else 0
    return np.full(empty_shape(feature), nothing, np.dtype(str(feature.dtype)))


def _signal(name: str, episode: EpisodeData) -> Sequence[Any] | np.ndarray:
    """Return RLDS's own step features for an episode that has none of that name."""
    if name == "language_instruction":
        return [str(episode.metadata.get("task") or episode.metadata.get("language_instruction") or "")] * episode.num_steps
    steps = np.arange(episode.num_steps)
    last = steps == episode.num_steps - 1
    achieved = last & (episode.success is not False)
    signals: dict[str, np.ndarray] = {
        "is_first": steps == 0,
        "is_last": last,
        "is_terminal": achieved,
        "reward": achieved.astype(np.float32),
        "discount": np.ones(episode.num_steps, np.float32),
    }
    return signals[name]
