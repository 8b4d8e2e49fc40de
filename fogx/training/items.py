"""Makes items, many at once: a dict of arrays with one row an item, read from blocks of columns and from frames."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from fogx import registry
from fogx.errors import CorruptDataError
from fogx.feature import Feature
from fogx.protocols import Codec, object_array
from fogx.settings import config
from fogx.storage.files.ranges import RangeReader
from fogx.storage.files.store import Store
from fogx.storage.tables.columns import arrow_view
from fogx.storage.tables.derived import in_size
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.places import FramesPlace
from fogx.training.cache import BlockCache
from fogx.training.draws import uniform
from fogx.training.images import channels_first, is_smooth, resized
from fogx.training.index import TrainingIndex
from fogx.training.names import GOAL, LANGUAGE
from fogx.training.parts import in_parts
from fogx.training.source import FRAME, TIMES, block_key, make_block
from fogx.training.values import nothing, wanted_dtype, wanted_shape
from fogx.training.windows import StepWindow, Window, rate_positions, step_positions, time_positions

Batch = dict[str, np.ndarray]
"""Name → array of B items: numbers (B, [W,] *shape), images (B, [W,] C, H, W), text as object arrays."""


@dataclass(frozen=True)
class ItemSpec:
    """What items are made of, beyond the features; see `Dataset.as_pytorch_dataset`.

    Args:
        windows: Feature → window.
        pad: `"edge"`, `"zero"` or `"drop"`.
        dtype: Of floats.
        image_size: Height and width of images; `None` leaves them as they are.
        language: `"first"` or `"random"` adds an instruction.
        instructions: Features that hold instructions.
        goals: Feature → `"last"` or `"future"`.
        keys: `"lerobot"` adds what it counts: `timestamp`, `episode_index`, `index`.
    """

    windows: Mapping[str, Window] = field(default_factory=dict)
    pad: str = "edge"
    dtype: str = "float32"
    image_size: tuple[int, int] | None = None
    language: str | None = None
    instructions: Sequence[str] = ()
    goals: Mapping[str, str] = field(default_factory=dict)
    keys: str | None = None


class ItemReader:
    """Reads items. Picklable; each process opens files of its own.

    Args:
        index: The selection.
        spec: What items are made of.
    """

    def __init__(self, index: TrainingIndex, spec: ItemSpec) -> None:
        self.index = index
        self.spec = spec
        self.blocks = BlockCache(functools.partial(block_key, index), functools.partial(make_block, index), index.num_bytes)
        self._ranges = [RangeReader(store) for store in index.episodes.stores]

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker starts with the defaults; it should keep to what the user set.
        return {"index": self.index, "spec": self.spec, "config": config()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config(**{f.name: getattr(state["config"], f.name) for f in fields(state["config"])})
        self.__init__(state["index"], state["spec"])  # type: ignore[misc]

    def batch(self, items: Sequence[int]) -> Batch:
        """Return items by position, each one step with its windows.

        Raises:
            CorruptDataError: Stored data fails a checksum.
        """
        episodes, anchors = self.index.anchors.locate(np.asarray(items, np.int64))
        return self._read(episodes, anchors, items)

    def episodes(self, numbers: Sequence[int]) -> list[Batch]:
        """Return whole episodes by position: a batch of their steps each.

        Raises:
            CorruptDataError: Stored data fails a checksum.
        """
        steps = [self.index.anchors.of(int(number)) for number in numbers]
        counts = [len(found) for found in steps]
        owners = np.repeat(np.asarray(numbers, np.int64), counts)
        items = [item for item, count in zip(numbers, counts, strict=True) for _ in range(count)]
        batch = self._read(owners, np.concatenate([np.zeros(0, np.int64), *steps]), items)
        ends = np.cumsum(counts)[:-1].tolist()
        parts = {name: np.split(values, ends) for name, values in batch.items()}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(numbers))]

    def _read(self, episodes: np.ndarray, anchors: np.ndarray, items: Sequence[int]) -> Batch:
        index, spec = self.index, self.spec
        rows = _Rows(index, self.blocks, episodes)
        steps = np.clip(anchors, 0, rows.num_steps - 1)
        batch: Batch = {"episode_id": rows.ids(), "step_index": steps}
        placed: dict[Window, tuple[np.ndarray, np.ndarray]] = {}
        frames = _Frames(self, rows, self._ranges)
        for name in index.shown:
            window = spec.windows.get(name)
            if window is None:
                self._add(batch, frames, rows, name, name, steps, None)
            else:
                if window not in placed:
                    placed[window] = positions(rows, window, anchors)
                self._add(batch, frames, rows, name, name, *placed[window])
        for name, kind in spec.goals.items():
            last = rows.num_steps - 1
            later = steps + 1 + np.floor(uniform(items, "goal") * (last - steps)).astype(np.int64) if kind == "future" else last
            self._add(batch, frames, rows, GOAL + name, name, np.minimum(later, last), None)
        if spec.language is not None:
            batch[LANGUAGE] = self._instructions(rows, steps, uniform(items, "word") if spec.language == "random" else None)
        if spec.keys is not None:
            batch |= _counted(rows, steps)
        frames.fill(batch)
        return batch

    def _add(
        self,
        batch: Batch,
        frames: _Frames,
        rows: _Rows,
        key: str,
        name: str,
        steps: np.ndarray,
        is_pad: np.ndarray | None,
    ) -> None:
        """Add the values of one feature at steps, `(R,)` or `(R, W)`."""
        feature, stored = self.index.features[name], self.index.stored[name]
        blank = is_pad if is_pad is not None and self.spec.pad == "zero" else None
        valid = rows.valid(stored, steps) if name in self.index.validated or feature.in_frames else None
        if valid is not None and blank is not None:
            valid = valid & ~blank
        if feature.in_frames:
            shown = valid if valid is not None else np.ones(steps.shape, bool)
            frames.want(key, name, steps, shown)
            batch[key] = steps  # its place in the dict; the pictures come when all are read
        elif feature.is_variable:
            batch[key] = rows.ragged(stored, feature, steps, self.spec.dtype, blank)
        elif feature.dtype in ("str", "bytes"):
            batch[key] = rows.texts(stored, feature, steps, blank)
        else:
            batch[key] = rows.numbers(stored, feature, steps, self.spec.dtype, blank)
        if is_pad is not None:
            batch[f"{key}_is_pad"] = is_pad.copy()  # features that share a window do not share what users may change
        if name in self.index.validated:
            batch[f"{key}_is_valid"] = valid if valid is not None else np.ones(steps.shape, bool)

    def _instructions(self, rows: _Rows, steps: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
        names, found = self.spec.instructions, self.index
        told = [rows.texts(found.stored[name], found.features[name], steps, None) for name in names]
        tasks = [found.episodes.tasks[task] if task >= 0 else "" for task in found.episodes.task[rows.episodes].tolist()]
        result = object_array(tasks)
        for number, task in enumerate(tasks):
            words = [word for word in (*(column[number] for column in told), task) if word]
            if words:
                result[number] = words[0 if draws is None else int(draws[number] * len(words))]
        return result


class _Rows:
    """R rows of a batch: the blocks that hold their episodes.

    Args:
        index: The selection.
        blocks: Its blocks.
        episodes: `(R,)` positions of episodes.

    `runs` are the blocks, each with the `(r,)` rows that it holds; `owner` is the `(R,)` run of each row.
    """

    def __init__(self, index: TrainingIndex, blocks: BlockCache, episodes: np.ndarray) -> None:
        self.index = index
        self.episodes = episodes
        self.num_steps = index.episodes.num_steps[episodes]
        self._first = index.first_row[episodes]
        numbers = index.block_of[episodes]
        order = np.argsort(numbers, kind="stable")
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        self.runs = [(blocks.get(int(numbers[run[0]])), run) for run in np.split(order, cuts) if len(run)]
        self.owner = np.empty(len(episodes), np.int64)
        for number, (_, run) in enumerate(self.runs):
            self.owner[run] = number

    def ids(self) -> np.ndarray:
        """Return the id of each row's episode."""
        return np.array(self.index.episodes.ids.take(arrow_view(self.episodes)).to_pylist(), object)

    def take(self, name: str, steps: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill `out` with a column's values at steps; it has the axes of `steps`, then those of a value."""
        at = self.at(steps)
        for block, run in self.runs:
            if len(run) == len(at):
                out[...] = block.arrays[name][at]
            else:
                out[run] = block.arrays[name][at[run]]
        return out

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Return the row in its block of each step."""
        rows: np.ndarray = steps + self._first.reshape(-1, *[1] * (steps.ndim - 1))
        return rows

    def valid(self, name: str, steps: np.ndarray) -> np.ndarray:
        """Return whether there is a value."""
        result, at, key = np.ones(steps.shape, bool), self.at(steps), f"{name}/valid"
        for block, run in self.runs:
            if key in block.arrays:
                result[run] = block.arrays[key][at[run]]
        return result

    def numbers(self, name: str, feature: Feature, steps: np.ndarray, floats: str, blank: np.ndarray | None) -> np.ndarray:
        """Return numbers of fixed shape."""
        shape = tuple(d or 0 for d in feature.shape or ())
        result = self.take(name, steps, np.empty((*steps.shape, *shape), wanted_dtype(feature, floats)))
        if blank is not None:
            result[blank] = 0
        return result

    def texts(self, name: str, feature: Feature, steps: np.ndarray, blank: np.ndarray | None) -> np.ndarray:
        """Return text or bytes of fixed shape, as objects."""
        shape = (*steps.shape, *(d or 0 for d in feature.shape or ()))
        codes = self.take(name, steps, np.empty(shape, np.int32))
        if blank is not None:
            codes[blank] = 0
        result = np.empty(shape, object)
        for block, run in self.runs:
            result[run] = _worded(block.arrays, name, feature, codes[run])
        return result

    def ragged(self, name: str, feature: Feature, steps: np.ndarray, floats: str, blank: np.ndarray | None) -> np.ndarray:
        """Return values of varying shape, as objects."""
        result, at = np.empty(steps.shape, object), self.at(steps)
        width = steps.size // max(1, len(steps))
        for cell, row in enumerate(at.ravel().tolist()):
            arrays = self.runs[self.owner[cell // width]][0].arrays
            first, stop = arrays[f"{name}/starts"][row : row + 2].tolist()
            value = arrays[name][first : first if blank is not None and blank.flat[cell] else stop]
            if feature.dtype in ("str", "bytes"):
                value = _worded(arrays, name, feature, value)
            else:
                value = value.astype(wanted_dtype(feature, floats))
            shape = [(-1 if len(value) else 0) if dimension is None else dimension for dimension in feature.shape or ()]
            result.flat[cell] = value.reshape(shape)
        return result

    def times(self, row: int) -> np.ndarray:
        """Return the times in ns of all steps of a row's episode."""
        first = int(self._first[row])
        times: np.ndarray = self.runs[self.owner[row]][0].arrays[TIMES][first : first + int(self.num_steps[row])]
        return times


def positions(rows: _Rows, window: Window, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the `(R, W)` steps of a window around anchors, and where they are padding."""
    if isinstance(window, StepWindow):
        return step_positions(window, anchors, rows.num_steps)
    found, own = rows.index.episodes, np.clip(anchors, 0, rows.num_steps - 1)
    steps, is_pad = rate_positions(window, own, rows.num_steps, np.nan_to_num(rows.index.control_hz[rows.episodes], nan=1.0))
    for row in np.flatnonzero(found.timed[rows.episodes]).tolist():
        steps[row], is_pad[row] = time_positions(window, int(own[row]), rows.times(row))
    return steps, is_pad


def _counted(rows: _Rows, steps: np.ndarray) -> Batch:
    """Return the numbers that LeRobot gives a step; `timestamp` is s since the episode began, NaN where nothing tells."""
    found = rows.index.episodes
    timestamp = steps / rows.index.control_hz[rows.episodes]
    for row in np.flatnonzero(found.timed[rows.episodes]).tolist():
        times = rows.times(row)
        timestamp[row] = (times[steps[row]] - times[0]) / 1e9
    before = np.cumsum(found.num_steps) - found.num_steps
    return {
        "timestamp": timestamp.astype(np.float32),
        "episode_index": rows.episodes.astype(np.int64),
        "index": before[rows.episodes] + steps,
    }


class _Frames:
    """The frames of a batch: those of all cameras are read together, each once."""

    def __init__(self, reader: ItemReader, rows: _Rows, ranges: Sequence[RangeReader]) -> None:
        self._index, self._spec = reader.index, reader.spec
        self._rows = rows
        self._ranges = ranges
        self._wanted: list[_Wanted] = []

    def want(self, key: str, name: str, steps: np.ndarray, shown: np.ndarray) -> None:
        """Ask for the frames of a feature at steps, `(R,)` or `(R, W)`, where they are shown."""
        rows, stored = self._rows, self._index.stored[name]
        cells = np.flatnonzero(shown)
        places = rows.take(stored, steps, np.empty(steps.shape, FRAME)).reshape(-1)[cells]
        owners = rows.owner[cells // (steps.size // max(1, len(steps)))]
        order = np.lexsort((places["offset"], places["file"], owners))
        moved = np.any([np.diff(part[order]) != 0 for part in (places["offset"], places["file"], owners)], axis=0)
        first = np.flatnonzero(np.r_[True, moved]) if len(order) else np.zeros(0, np.int64)
        sorted_cells, bounds = cells[order].tolist(), [*first.tolist(), len(order)]
        groups = [sorted_cells[start:stop] for start, stop in itertools.pairwise(bounds)]
        self._wanted.append(_Wanted(key, name, steps.shape, places[order][first], owners[order][first], groups))

    def fill(self, batch: Batch) -> None:
        """Read all that was asked for, and put it where it belongs."""
        blobs = self._blobs()
        for wanted in self._wanted:
            batch[wanted.key] = self._decoded(wanted, blobs[: len(wanted.groups)])
            blobs = blobs[len(wanted.groups) :]

    def _blobs(self) -> list[bytes]:
        """Return the bytes of all frames wanted, one feature after the other, each checked."""
        index, rows = self._index, self._rows
        held = [(block.texts, int(index.episodes.store[rows.episodes[run[0]]])) for block, run in rows.runs]
        by_store: dict[int, list[_Piece]] = {}
        names: list[str] = []
        for wanted in self._wanted:
            stored = index.stored[wanted.name]
            columns = [wanted.places[part].tolist() for part in ("file", "offset", "length", "crc32c")]
            for owner, file, *place in zip(wanted.owners.tolist(), *columns, strict=True):
                texts, store = held[owner]
                by_store.setdefault(store, []).append(_Piece(len(names), texts[stored][file], *place))
                names.append(stored)
        result = [b""] * len(names)
        for store, pieces in by_store.items():
            near = [piece for piece in pieces if piece.offset >= 0]
            files = {pointer: number for number, pointer in enumerate(dict.fromkeys(piece.pointer for piece in near))}
            read = self._ranges[store].read(
                list(files),
                np.array([files[piece.pointer] for piece in near], np.int64),
                np.array([piece.offset for piece in near], np.int64),
                np.array([piece.length for piece in near], np.int64),
            )
            for piece, blob in zip(near, read, strict=True):
                if google_crc32c.value(blob) != piece.crc32c:
                    root = index.episodes.stores[store].root
                    raise CorruptDataError(f"{root}: {piece.pointer}: a frame of {names[piece.position]!r} fails its checksum.")
                result[piece.position] = blob
            for piece in pieces:
                if piece.offset < 0:
                    result[piece.position] = _through_parquet(index.episodes.stores[store], names[piece.position], piece)
        return result

    def _decoded(self, wanted: _Wanted, blobs: Sequence[bytes]) -> np.ndarray:
        feature, size = self._index.features[wanted.name], self._spec.image_size
        shape = wanted_shape(feature, size)
        fixed = tuple(dimension for dimension in shape if dimension is not None)
        regular = len(fixed) == len(shape) and feature.dtype not in ("str", "bytes")
        has_channels = feature.is_image and len(shape) == 3
        count = int(np.prod(wanted.shape))
        if regular:
            make = np.empty if sum(map(len, wanted.groups)) == count else np.zeros
            result = make((count, *fixed), wanted_dtype(feature, self._spec.dtype))
        else:
            result = object_array([nothing(feature, self._spec.dtype, size)] * count)
        smooth = is_smooth(wanted.name, feature)
        is_derived = self._is_derived(wanted).tolist()
        width = count // max(1, len(self._rows.episodes))
        schemas = self._index.episodes.schema[self._rows.episodes].tolist()
        codecs = {schema: self._codec(wanted.name, schema) for schema in {schemas[first // width] for first, *_ in wanted.groups}}

        def decode(part: slice) -> None:
            for blob, (first, *others), derived in zip(blobs[part], wanted.groups[part], is_derived[part], strict=True):
                own, codec = codecs[schemas[first // width]]
                if derived:
                    own = in_size(own, self._index.sizes[wanted.name])
                if regular and shape == (own.shape or ()) and hasattr(codec, "decode_into"):
                    codec.decode_into(blob, own, result[first])
                    value = result[first]
                else:
                    value = codec.decode(blob, own)
                    if size is not None and feature.is_image:
                        value = resized(value, size, smooth=smooth)
                    if not regular:
                        value = channels_first(value, has_channels=has_channels) if feature.is_image else value
                        value = value.item() if value.dtype == object else value.astype(wanted_dtype(feature, self._spec.dtype))
                    result[first] = value
                for cell in others:
                    result[cell] = value

        in_parts(decode, len(blobs))
        result = result.reshape(*wanted.shape, *result.shape[1:])
        return channels_first(result, has_channels=has_channels) if regular and feature.is_image else result

    def _is_derived(self, wanted: _Wanted) -> np.ndarray:
        """Return which of the frames have the size that is asked for already, since `derive` made them."""
        result = np.zeros(len(wanted.places), bool)
        key = f"{self._index.stored[wanted.name]}//derived"
        for number, (block, _) in enumerate(self._rows.runs):
            if key in block.arrays:
                mine = wanted.owners == number
                result[mine] = block.arrays[key][wanted.places["file"][mine]]
        return result

    def _codec(self, name: str, schema: int) -> tuple[Feature, Codec]:
        own = self._index.episodes.schemas[schema][self._index.stored[name]]
        return own, registry.get("codecs", str(own.encoding))


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Frames of one feature.

    Args:
        key: Where they go.
        name: The feature.
        shape: (R,) or (R, W).
        places: `(F,)` `FRAME`, each frame once.
        owners: `(F,)` int, the run of rows whose block names its file.
        groups: For each, the cells of `shape` that show it.
    """

    key: str
    name: str
    shape: tuple[int, ...]
    places: np.ndarray
    owners: np.ndarray
    groups: Sequence[Sequence[int]]


class _Piece(NamedTuple):
    """Where the bytes of a frame are, and its position among all that are wanted; see `FRAME`."""

    position: int
    pointer: str
    offset: int
    length: int
    crc32c: int


def _worded(arrays: Mapping[str, np.ndarray], name: str, feature: Feature, codes: np.ndarray) -> np.ndarray:
    """Return the texts that codes stand for."""
    offsets, data = arrays[f"{name}/offsets"], arrays[f"{name}/bytes"]
    used, back = np.unique(codes, return_inverse=True)
    raw = [data[offsets[code] : offsets[code + 1]].tobytes() for code in used.tolist()]
    words = object_array([word.decode() if feature.dtype == "str" else word for word in raw])
    result: np.ndarray = words[back].reshape(codes.shape)
    return result


def _through_parquet(store: Store, name: str, piece: _Piece) -> bytes:
    number = -1 - piece.offset
    lengths, checksums = np.array([piece.length], np.int32), np.array([piece.crc32c], np.uint32)
    slow = FramesPlace(name, piece.pointer, number >> 31, number & ((1 << 31) - 1), 0, -1, lengths, checksums)
    return read_frames(store, [slow], np.zeros(1, np.int64))[0]
