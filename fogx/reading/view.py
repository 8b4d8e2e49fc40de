"""One stored episode: features as arrays, slices, metadata, cameras decoded or encoded. Nothing is read before it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, overload

import numpy as np
import pyarrow as pa

from fogx.errors import FeatureNotFoundError
from fogx.feature import Feature, Schema
from fogx.protocols import Column, object_array
from fogx.reading.episodes import cells, decoder
from fogx.show.html import card
from fogx.storage.files.store import Store
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import IndexRow, check_index, read_index, read_schema
from fogx.storage.tables.steps import read_steps


class EpisodeView:
    """A stored episode, or a slice of its steps.

    `view["action"]` is an array, `view[10:20]` a view of ten steps, `view[3]` a dict of one step, `len(view)` its steps.
    """

    def __init__(self, store: Store, row: pa.Table, steps: range | None = None) -> None:
        # The row itself, not its position: that changes with the dataset's next commit.
        self._store = store
        self._row = row
        self._steps = range(self._row["num_steps"][0].as_py()) if steps is None else steps

    @property
    def episode_id(self) -> str:
        """The episode's id."""
        return str(self._row["episode_id"][0].as_py())

    @property
    def dataset(self) -> str:
        """Name of the dataset that the episode came from."""
        return str(self._row["dataset"][0].as_py())

    @property
    def num_steps(self) -> int:
        """Number of steps of this view."""
        return len(self._steps)

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the episode, not a slice of its steps."""
        return self._steps == range(self._row["num_steps"][0].as_py())

    @property
    def schema(self) -> Schema:
        """Name → `Feature` of every feature, in order."""
        return read_schema(self._store, self._row["schema_id"][0].as_py())

    @property
    def features(self) -> list[str]:
        """Names of the features, in order."""
        return list(self.schema)

    @property
    def metadata(self) -> dict[str, Any]:
        """All metadata of the episode: cells of its row, and arrays, dicts and lists."""
        return {**cells(self._row, 0), **self._index.metadata}

    @property
    def timestamps_ns(self) -> np.ndarray | None:
        """`(T,)` int64 ns since 1970 of each step, or `None` where the source has no times."""
        column = self._column("timestamp_ns")
        return None if column.valid is not None else column.values

    def encoded(self, feature: str) -> list[bytes | None]:
        """Return a camera's (or another encoded feature's) bytes, exactly as stored; `None` at steps without a frame.

        Raises:
            FeatureNotFoundError: No such feature, or one whose values are not encoded.
            CorruptDataError: A stored frame fails its checksum.
        """
        if not self.schema[feature].in_frames:
            inside = [name for name, f in self.schema.items() if f.in_frames]
            raise FeatureNotFoundError(f"{feature!r} is kept as numbers; encoded features are: {', '.join(inside) or 'none'}.")
        numbers = self._column(feature)
        valid = numbers.mask
        blobs = iter(read_frames(self._store, self._index.frames_of(feature), numbers.values[valid]))
        return [next(blobs) if ok else None for ok in valid]

    def __len__(self) -> int:
        return self.num_steps

    def __contains__(self, name: object) -> bool:
        return name in self.schema.features

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(self.num_steps):
            yield self[step]

    @overload
    def __getitem__(self, key: str) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: slice) -> EpisodeView: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    def __getitem__(self, key: str | slice | int) -> Any:
        """Return one feature, a slice of steps, or one step.

        Args:
            key: A feature's name: its values as `(T, *shape)` of their dtype, cameras decoded to `(T, H, W, C)`, str and
                varying shapes as object arrays; a numpy masked array where some steps have no value. A slice with any step:
                a view of those steps. An int: dict of one step, `None` where it has no value.

        Raises:
            FeatureNotFoundError: No such feature; lists those there are.
            IndexError: A step past the ends.
        """
        if isinstance(key, slice):
            return EpisodeView(self._store, self._row, self._steps[key])
        if isinstance(key, str):
            feature = self.schema[key]
            return self._decoded(key, feature) if feature.in_frames else _masked(self._column(key))
        if not -self.num_steps <= key < self.num_steps:
            raise IndexError(f"step {key} of an episode of {self.num_steps} steps.")
        one = self[key : key + 1 or None]
        values = {name: one[name] for name in self.schema}
        return {
            name: None if np.ma.getmaskarray(v).reshape(1, -1).all() and np.ma.is_masked(v) else v[0]
            for name, v in values.items()
        }

    def __repr__(self) -> str:
        features = ", ".join(f"{name}: {feature.describe()}" for name, feature in self.schema.items())
        return f"<Episode {self.episode_id} of {self.dataset!r}, {self.num_steps} steps; {features}>"

    def _repr_html_(self) -> str:
        rows = [(name, feature.describe(), feature.unit or "", feature.space or "") for name, feature in self.schema.items()]
        facts = {"episode": self.episode_id, "dataset": self.dataset, "steps": str(self.num_steps)}
        facts |= {name: str(value)[:200] for name, value in cells(self._row, 0).items() if name != "dataset"}
        return card("Episode", facts, ("feature", "stored as", "unit", "space"), rows)

    @functools.cached_property
    def _index(self) -> IndexRow:
        (row,) = self._row.to_pylist()
        (index,) = read_index(self._store, row["index_file"], [row["index_row"]])
        check_index(self._store.root, row, index)
        return index

    def _column(self, name: str) -> Column:
        column = read_steps(self._store, self._index.steps, self.schema, [name])[name]
        rows = slice(None) if self._steps == range(len(column.values)) else np.asarray(self._steps, dtype=np.int64)
        return Column(column.values[rows], None if column.valid is None else column.valid[rows])

    def _decoded(self, name: str, feature: Feature) -> np.ndarray:
        decode = decoder(feature)
        frames = [None if blob is None else decode(blob) for blob in self.encoded(name)]
        valid = np.array([frame is not None for frame in frames], dtype=bool)
        shapes = {np.shape(frame) for frame in frames if frame is not None}
        if len(shapes) > 1 or feature.shape is None or feature.is_variable or feature.dtype in ("str", "bytes"):
            return _masked(Column(object_array(frames), None if valid.all() else valid))
        shape = next(iter(shapes), tuple(d or 0 for d in feature.shape))
        values = np.zeros((len(frames), *shape), dtype=feature.dtype)
        for step, frame in enumerate(frames):
            if frame is not None:
                values[step] = frame
        return _masked(Column(values, None if valid.all() else valid))


def _masked(column: Column) -> np.ndarray:
    if column.valid is None or column.valid.all():
        return column.values
    missing = np.broadcast_to(~column.valid.reshape(-1, *[1] * (column.values.ndim - 1)), column.values.shape)
    return np.ma.MaskedArray(column.values, missing)
