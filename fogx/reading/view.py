"""One stored episode: features as arrays, slices, metadata, cameras decoded or encoded. Nothing is read before it is asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa

from fogx.align.policy import Align, seconds
from fogx.align.steps import NEVER
from fogx.errors import FeatureError, FeatureNotFoundError, SelectionError
from fogx.feature import Feature, Schema
from fogx.protocols import Column, object_array
from fogx.reading.episodes import cells, decoder
from fogx.reading.segments import segments_of_row
from fogx.reading.tracks import tracks
from fogx.show.html import card
from fogx.show.plots import alignment
from fogx.storage.files.store import Store
from fogx.storage.tables.anew import Anew, read_anew, read_sent
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import IndexRow, check_index, read_index, read_schema
from fogx.storage.tables.steps import read_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 12
"""Features that are plotted where none are named."""


class EpisodeView:
    """A stored episode, or a slice of its steps.

    `view["action"]` is an array, `view[10:20]` a view of ten steps, `view[3]` a dict of one step, `len(view)` its steps;
    `view.between(2.5, 4)` are the steps of one and a half seconds, and `view.aligned(fox.Align(rate_hz=10))` other steps.
    """

    def __init__(self, store: Store, row: pa.Table, steps: Sequence[int] | None = None, made: Anew | None = None) -> None:
        # The row itself, not its position: that changes with the dataset's next commit.
        self._store = store
        self._row = row
        self._made = made
        self._steps = self._all if steps is None else steps

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
        """Whether this is the episode as it is stored: no slice of its steps, and none that were made anew."""
        return self._made is None and self._steps == self._all

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

    def between(self, start_s: float = 0.0, stop_s: float | None = None) -> EpisodeView:
        """Return a view of the steps of a span of time.

        Args:
            start_s: First time, in s after the first step of the episode, inclusive.
            stop_s: Last time, in s after the first step of the episode, exclusive; `None` for the end. Of a slice, too, times are
                those of the episode.

        Raises:
            SelectionError: The episode has neither times nor a `control_hz`.
            FeatureError: A time that is no finite number.
        """
        whole = EpisodeView(self._store, self._row, made=self._made)
        times, hz = whole.timestamps_ns, self._row["control_hz"][0].as_py()
        if times is None and hz is None:
            raise SelectionError(
                f"episode {self.episode_id} has neither times nor a control_hz; choose steps by number: view[10:20]. If you know how "
                "many steps a second it has, dataset.tag(episodes, control_hz=...) says so."
            )
        times = np.rint(np.arange(len(whole)) * 1e9 / hz).astype(np.int64) if times is None else times
        since = (times - times[:1])[np.asarray(self._steps, dtype=np.int64)]
        inside = since >= round(seconds("start_s", start_s) * 1e9)
        if stop_s is not None:
            inside &= since < round(seconds("stop_s", stop_s) * 1e9)
        return EpisodeView(self._store, self._row, [self._steps[i] for i in np.flatnonzero(inside).tolist()], self._made)

    def aligned(self, align: Align) -> EpisodeView:
        """Return a view of the whole episode with steps made anew, as recording with this policy would have.

        Args:
            align: How; `fox.Align(rate_hz=10)` for ten steps a second. See `Dataset.get_step_data` for episodes without samples of
                their own, or without times.

        Raises:
            FeatureError: The policy does not fit the features, or one stray stamp makes far too many steps of a `rate_hz`.
            SelectionError: The episode has neither times nor a `control_hz`.
        """
        if not isinstance(align, Align):
            raise FeatureError(f"align= is a fox.Align, found {type(align).__name__}.")
        return EpisodeView(self._store, self._row, made=self._anew(align))

    def age_ns(self, feature: str) -> np.ndarray:
        """Return how old the value of a feature is at each step: `(T,)` int64 ns, a masked array.

        Below 0 where the value lies ahead (`fox.next`, `fox.nearest`); of values between two samples, since the one before. Known
        also at steps without a value, where the policy's limit cut the sample off; masked where there is no sample at all.

        Raises:
            FeatureNotFoundError: No such feature.
        """
        self.schema[feature]
        rows = np.asarray(self._steps, dtype=np.int64)
        if self._policy is None:
            valid = self._column(feature).mask
            return np.ma.MaskedArray(np.zeros(len(rows), np.int64), ~valid)
        made = self._made or self._anew(self._policy)
        ages = made.taken[feature].age_ns[rows]
        return np.ma.MaskedArray(np.where(ages == NEVER, 0, ages), ages == NEVER)

    @property
    def segments(self) -> pd.DataFrame:
        """The segments of the whole episode, also of a slice; columns as of `Dataset.segments`."""
        return segments_of_row(self._store, self._row)

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

    def samples(self, feature: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what a sensor sent, sample by sample in the order in which they came, also those that no step took.

        They are those of the whole episode, also where the view is a slice. Where samples were not kept apart, since each is a
        step's and of its time, they are the steps' values.

        Returns:
            `(N,)` int64 ns since 1970, as the sensor stamped them, and `(N, *shape)` values as `view[feature]` has them.

        Raises:
            FeatureNotFoundError: No such feature; lists those there are.
            SelectionError: The episode's source has no times.
        """
        declared = self.schema[feature]
        if self.timestamps_ns is None:
            raise SelectionError(f"episode {self.episode_id} has no times, so none of samples; its values are view[{feature!r}].")
        sent, _ = read_sent(self._store, self._index, self.schema, None)
        column = sent.columns[feature]
        stamps, values = sent.stamps_ns[column.mask], column.values[column.mask]
        if declared.in_frames:
            values = _decoded(declared, read_frames(self._store, self._index.frames_of(feature), values))
        return stamps, values

    def plot(
        self, features: str | Sequence[str] | None = None, *, start_s: float | None = None, stop_s: float | None = None
    ) -> Figure:
        """Draw samples and the steps that they became, a row a feature: which value each step has, from when, and where it has none.

        Of long stretches a bounded number of points is drawn, and it is said. The figure is matplotlib's: save it with
        `figure.savefig("plot.png")`; a notebook that imported `matplotlib.pyplot` shows it.

        Args:
            features: Names; by default all, up to 12.
            start_s: Begin of the stretch, in s after the episode's first step, inclusive; by default that of the view. Where the
                source has no times, they follow from `control_hz`.
            stop_s: Its end, exclusive; by default all is drawn.

        Raises:
            FeatureNotFoundError: No such feature; lists those there are.
            SelectionError: No features, no steps, or a stretch that does not end after its begin.
            FeatureError: A time that is no finite number.
            MissingExtraError: `pip install 'fogx[plot]'` is needed.
        """
        names = (
            list(self.schema)[:_MOST_ROWS]
            if features is None
            else [features]
            if isinstance(features, str) or not isinstance(features, Iterable)
            else list(features)
        )
        for name in names:
            _ = self.schema[name]
        if not names or not self.num_steps:
            raise SelectionError(
                f"episode {self.episode_id}: {len(names)} features of {self.num_steps} steps; there is nothing to plot."
            )
        hz = self._row["control_hz"][0].as_py()
        steps_s, drawn, timed = tracks(self._store, self._index, self.schema, names, self._policy, hz or 1.0)
        axis = "seconds after the first step" if timed or hz else "steps"
        mine = np.asarray(self._steps, dtype=np.int64)
        ends = [steps_s[mine], *([track.sent_s for track in drawn] if self._steps == self._all else [])]
        first = min(float(times.min()) for times in ends if len(times)) if start_s is None else seconds("start_s", start_s)
        newest = max(float(times.max()) for times in ends if len(times))
        last = math.nextafter(newest, math.inf) if stop_s is None else seconds("stop_s", stop_s)
        if not first < last:
            raise SelectionError(
                f"plot from {first:g} s to {last:g} s: that is no stretch of time. Give a stop_s= after start_s=."
            )
        title = f"Episode {self.episode_id} of {self.dataset}: {self.num_steps} steps"
        return alignment(title, axis, steps_s[mine], [track.at(mine) for track in drawn], first, last)

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
            return EpisodeView(self._store, self._row, self._steps[key], self._made)
        if isinstance(key, str):
            feature = self.schema[key]
            return _decoded(feature, self.encoded(key)) if feature.in_frames else _masked(self._column(key))
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

    @property
    def _all(self) -> range:
        stored: int = self._row["num_steps"][0].as_py()
        return range(stored if self._made is None else self._made.num_steps)

    @property
    def _policy(self) -> Align | None:
        """How samples became the steps of this view; `None` where these are the samples."""
        if self._made is not None:
            return self._made.align
        return Align.from_json(self._index.align) if self._index.streams else None

    def _anew(self, align: Align) -> Anew:
        return read_anew(self._store, self._index, self.schema, align, self._row["control_hz"][0].as_py())

    def _column(self, name: str) -> Column:
        if self._made is not None:
            column = self._made.column(name)
        else:
            column = read_steps(self._store, self._index.steps, self.schema, [name])[name]
        rows = slice(None) if self._steps == self._all else np.asarray(self._steps, dtype=np.int64)
        return Column(column.values[rows], None if column.valid is None else column.valid[rows])


def _decoded(feature: Feature, blobs: Sequence[bytes | None]) -> np.ndarray:
    decode = decoder(feature)
    frames = [None if blob is None else decode(blob) for blob in blobs]
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
