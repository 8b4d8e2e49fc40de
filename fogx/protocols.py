"""The shapes that rooms and plug-ins hand to each other. No storage, nothing of any format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from fogx.feature import Feature, Schema

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Column:
    """One feature of one episode in memory.

    Args:
        values: First axis is the step, length T. Numeric features of fixed shape: `(T, *shape)` of exactly their dtype. Str and
            bytes: object array `(T, *shape)`. Features of varying shape: object array `(T,)` of arrays. Features in `frames`:
            object array `(T,)` of encoded `bytes`. What stands at a step that is not valid is unspecified.
        valid: `(T,)` bool, False where the step has no value; `None` where every step has one.
        frames: Of features in `frames`, `(T,)` int32: which of the episode's frames each step shows, where steps repeat or leave
            out some (see `Samples`). `None` where steps that have a value show one frame after the other.
    """

    values: np.ndarray
    valid: np.ndarray | None = None
    frames: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        """`(T,)` bool, True where the step has a value."""
        return np.ones(len(self.values), dtype=bool) if self.valid is None else self.valid


def object_array(items: Sequence[Any]) -> np.ndarray:
    """Return an object array `(N,)` of the items; numpy alone would turn arrays of one shape into one array."""
    result = np.empty(len(items), dtype=object)
    for position, item in enumerate(items):
        result[position] = item
    return result


@dataclass
class Samples:
    """What sensors sent, where steps cannot give it back; R samples in the order in which they came.

    Values given in one call are one sample. Nothing is missing from here: the steps can be made again, by any policy.

    Args:
        columns: One `Column` of R values for each feature, valid where the sample holds that feature. Images are in the order of
            the frames that columns of steps name by number.
        stamps_ns: `(R,)` int64, when each was taken, by the clock of who stamped it.
        received_ns: `(R,)` int64, when each was given to fogx, by the clock of the recording machine; `None` where nobody knows.
        align: The policy that made the steps, as `fogx.Align.to_json` gives it.
        in_steps: Of features whose every sample is the value of some step, `(R,)` int32: of which first. Storage keeps these
            numbers and not the values twice. What stands where a sample lacks the feature is unspecified.
    """

    columns: Mapping[str, Column]
    stamps_ns: np.ndarray
    received_ns: np.ndarray | None
    align: Mapping[str, Any]
    in_steps: Mapping[str, np.ndarray] = field(default_factory=dict)


SegmentValue = bool | int | float | str | None


@dataclass(frozen=True)
class Segment:
    """A label on a part of an episode, half-open.

    Args:
        label: What the part is.
        start_step: First step in it.
        stop_step: One past the last step in it; `start_step` where it lies between two steps.
        start_ns: When it starts, by the clock of the steps; `None` from the start of the episode on, or without times.
        stop_ns: When it stops; a step of that time is not in it. `None` to the end of the episode, or without times.
        value: What more is said of it.
        source: `"recording"`, or `"annotate:"` and the name of a user.
    """

    label: str
    start_step: int
    stop_step: int
    start_ns: int | None = None
    stop_ns: int | None = None
    value: SegmentValue = None
    source: str = "recording"


@dataclass
class EpisodeData:
    """One whole episode, as loaders give it and exporters take it.

    Args:
        schema: Resolved features (dtype, shape and encoding set), in order.
        columns: One `Column` for each feature of `schema`, each of `num_steps` steps.
        num_steps: T, >= 0.
        timestamps_ns: `(T,)` int64, or `None` where the source has no times.
        metadata: Episode-level values by column name: scalars go to the episodes table, arrays and dicts to the index row.
        dataset: Name of the source dataset; `None` takes the dataset's own.
        split: Name of the split it came from.
        control_hz: Nominal step rate, where the source states it.
        success: Whether the task was achieved, where known.
        source_key: Identity of the episode in its source (source, version, split, shard, record); importing twice keeps one.
        episode_id: Set for episodes that come from a fogx root.
        samples: What the steps were made from, where sensors had times of their own.
        segments: Labels on parts of it.
    """

    schema: Schema
    columns: Mapping[str, Column]
    num_steps: int
    timestamps_ns: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    split: str | None = None
    control_hz: float | None = None
    success: bool | None = None
    source_key: str | None = None
    episode_id: str | None = None
    samples: Samples | None = None
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class ShardTask:
    """One independent piece of a source: everything a worker needs to read it, as plain picklable values.

    Args:
        loader: Name of the loader that made it.
        location: File that holds the shard.
        source: Identity of source, version and split, e.g. `rlds:bridge_dataset/1.0.0/train`.
        shard: Position of the shard in the split.
        first: First record wanted.
        stop: One past the last record wanted; `None` reads to the end.
        num_episodes: How many episodes it will yield, where known.
        options: Loader's own plain values.
    """

    loader: str
    location: str
    source: str
    shard: int = 0
    first: int = 0
    stop: int | None = None
    num_episodes: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def source_key(self, record: int) -> str:
        """Return the `source_key` of the record at that position in the shard."""
        return f"{self.source}/{self.shard}/{record}"


@runtime_checkable
class Loader(Protocol):
    """Reads episodes of one foreign format. Found by name through entry point group `fogx.loaders`."""

    def plan(self, name: str, *, split: str, data_dir: str | None) -> list[ShardTask]:
        """Find the source and list its shards, reading no episode.

        Raises:
            DatasetNotFoundError: Nothing of that name; says where it was looked for, in order.
            UnknownNameError: No such split; lists those there are.
        """

    def read(self, task: ShardTask, wanted: Callable[[str], bool]) -> Iterator[EpisodeData]:
        """Yield the episodes of a shard in order, one in memory at a time, skipping source keys that are not `wanted`.

        Raises:
            CorruptDataError: Names file and offset.
        """


@runtime_checkable
class Exporter(Protocol):
    """Writes episodes in one foreign format. Found by name through entry point group `fogx.exporters`.

    Args:
        name: Folder under `exports/` for exports without a path.
    """

    name: str

    def export(self, episodes: Iterable[EpisodeData], schema: Schema, path: str, *, name: str, **options: Any) -> str:
        """Write a stream of episodes that share `schema` into a new folder and return it.

        Args:
            episodes: Consumed once, one in memory at a time; in the order wanted.
            schema: Their schema (also for an empty stream).
            path: Folder to create; it holds nothing before.
            name: Name of the dataset to write.
            options: The format's own.
        """


@runtime_checkable
class Codec(Protocol):
    """Encodes single values kept in `frames`. Found by name through entry point group `fogx.codecs`.

    One instance serves a process, and several of its threads at once.
    """

    def encode(self, value: np.ndarray) -> bytes:
        """Encode one array."""

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        """Decode one value, after checking its declared size against `feature` and `fox.config().max_pixels`.

        Raises:
            CorruptDataError: Not decodable, or of another size than the feature's.
        """


@runtime_checkable
class Executor(Protocol):
    """Runs independent tasks. `function` and the tasks are picklable."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield the results in order of the tasks, keeping only a few in flight."""
