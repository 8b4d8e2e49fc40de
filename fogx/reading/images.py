"""Camera columns of a frame of steps: numbers of frames turned into their bytes or pixels when they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fogx.feature import Schema
from fogx.reading.episodes import decoder, locate
from fogx.reading.roots import Chosen
from fogx.storage.tables.frames import read_frames


class Frames:
    """The camera frames of episodes; their places are looked up when frames are read.

    Args:
        groups: Episodes by schema.
    """

    def __init__(self, groups: Sequence[tuple[Schema, Chosen]]) -> None:
        self._groups = groups

    def column(self, name: str, images: str, dtype: Any) -> pl.Expr:
        """Return the expression that reads frames, in the place of a column of frame numbers.

        Args:
            name: The camera.
            images: `"encoded"` or `"pixels"`.
            dtype: Type of the result.
        """
        read = functools.partial(self._read, name, images == "encoded", dtype)
        # Elementwise: a head() or filter() that follows is done first.
        numbers = pl.struct("episode_id", pl.col(name).alias("frame"))
        return numbers.map_batches(read, return_dtype=dtype, is_elementwise=True).alias(name)

    @functools.cached_property
    def _known(self) -> dict[str, tuple[int, int]]:
        """Episode id → its group and its position there."""
        ids = [chosen.column("episode_id").to_pylist() for _, chosen in self._groups]
        return {episode_id: (group, at) for group, names in enumerate(ids) for at, episode_id in enumerate(names)}

    def _read(self, name: str, encoded: bool, dtype: Any, batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        numbers = rows["frame"].to_list()
        values: list[Any] = [None] * len(numbers)
        steps: dict[int, dict[int, list[int]]] = {}
        for position, (episode_id, number) in enumerate(zip(rows["episode_id"].to_list(), numbers, strict=True)):
            if number is not None:
                group, at = self._known[episode_id]
                steps.setdefault(group, {}).setdefault(at, []).append(position)
        for group, episodes in steps.items():
            schema, chosen = self._groups[group]
            decode = decoder(schema[name])
            held = locate(chosen.at(np.fromiter(episodes, np.int64)), ("frames",))
            for positions, member in zip(episodes.values(), held, strict=True):
                wanted = np.array([numbers[position] for position in positions], np.int64)
                blobs = read_frames(member.root.store, member.index.frames_of(name), wanted)
                for position, blob in zip(positions, blobs, strict=True):
                    values[position] = blob if encoded else decode(blob)
        return _series(values, dtype)


def _series(values: list[Any], dtype: Any) -> pl.Series:
    if isinstance(dtype, pl.Array):
        valid = [value is not None for value in values]
        if not any(valid):
            return pl.Series("", values, dtype=dtype)
        filler = np.zeros(dtype.shape, next(value.dtype for value in values if value is not None))
        full = pl.Series("", np.stack([filler if value is None else value for value in values]), dtype=dtype)
        return full if all(valid) else pl.select(pl.when(pl.Series(valid)).then(full)).to_series()
    if isinstance(dtype, pl.List):
        # Values of one length would make polars infer a fixed size and refuse the cast of an element type.
        return pl.Series("", [None if v is None else pl.Series(np.ravel(v)).cast(dtype.inner) for v in values], dtype=dtype)
    return pl.Series("", values, dtype=dtype)
