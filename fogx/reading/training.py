"""Turns a selection into what training reads: plain arrays that leave pandas, polars and Delta Lake behind."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fogx.align.policy import Align
from fogx.errors import CorruptDataError, FeatureNotFoundError, SelectionError, did_you_mean, in_one_line, listing
from fogx.feature import Feature, Schema, check_feature_name, role_of
from fogx.protocols import Segment
from fogx.reading.anew import check_align, each_anew
from fogx.reading.roots import Chosen, read_index_files
from fogx.reading.steps import lazy_steps
from fogx.settings import config
from fogx.storage.tables.index import read_partial, read_schema
from fogx.storage.tables.segments import read_segments, segments_of, steps_of
from fogx.training.anchors import anchors_of, full_by_rate, full_by_steps, full_by_times, stretch_of, whole_number
from fogx.training.images import is_smooth
from fogx.training.index import Anchors, EpisodeColumns, TrainingIndex
from fogx.training.items import ItemSpec
from fogx.training.names import by_name
from fogx.training.windows import TimeWindow, Window, as_window

logger = logging.getLogger("fogx")

LEVELS = ("step", "window", "episode")
PADS = ("edge", "zero", "drop")
FLOATS = ("float16", "float32", "float64")
LANGUAGES = ("first", "random")
GOALS = ("last", "future")
KEYS = ("lerobot",)

Mask = Callable[[Chosen], np.ndarray]
"""Given the episodes, returns `(M,)` bool over all of their steps, one episode after the other."""


def training_data(
    chosen: Chosen,
    *,
    windows: Mapping[str, Any] | None = None,
    features: str | Sequence[str] | None = None,
    level: str = "step",
    rename: Mapping[str, str] | None = None,
    keys: str | None = None,
    where: str | pl.Expr | Mask | None = None,
    every: int = 1,
    align: Align | None = None,
    pad: str = "edge",
    image_size: tuple[int, int] | None = None,
    dtype: str = "float32",
    language: str | None = None,
    goals: Mapping[str, str] | None = None,
) -> tuple[TrainingIndex, ItemSpec]:
    """Return the index of episodes for training, and what items are made of; see `Dataset.as_pytorch_dataset`.

    Args:
        chosen: The episodes, in order.
        windows: Feature → window.
        features: Features that items carry; `None` takes those that all episodes share.
        level: `"step"`, `"window"` or `"episode"`.
        rename: Stored name → name.
        keys: `"lerobot"` for its names; `None` for fogx' own.
        where: Which steps items stand at; a text is the label of segments.
        every: Keeps each n-th of them.
        align: How steps are made anew.
        pad: What stands past the ends of an episode.
        image_size: Height and width of images.
        dtype: Of floats.
        language: Adds an instruction.
        goals: Feature → which of its later values is the goal.

    Raises:
        FeatureNotFoundError: A name that no selected episode has, or that items do not carry.
        SelectionError: Options that are not known, or do not fit each other.
    """
    for name, value, known in (("level", level, LEVELS), ("pad", pad, PADS), ("dtype", dtype, FLOATS)):
        _check_choice(name, value, known)
    if language is not None:
        _check_choice("language", language, LANGUAGES)
    if keys is not None:
        _check_choice("keys", keys, KEYS)
    whole_number("every", every, 1)
    features = listed_features(features)
    episodes = _episodes(chosen, with_tasks=language is not None)
    made = None if align is None else _made_anew(chosen, align)
    if made is not None:
        episodes = replace(episodes, num_steps=made.num_steps)
    # Episodes without steps have features of their own only where somebody declared them; they ask for nothing.
    used = np.unique(episodes.schema[episodes.num_steps > 0]).tolist() or range(len(episodes.schemas))
    schemas = [episodes.schemas[schema] for schema in used]
    names = _Names(schemas, by_name("rename", rename))
    shown = names.shared() if features is None else {name: names.named(name) for name in features}
    spans = {name: as_window(value, name) for name, value in by_name("windows", windows).items()}
    for name in spans:
        _check_carried("windows", name, shown, names)
    if spans and level == "episode":
        raise SelectionError("level='episode' gives whole episodes, in which windows have no place; leave windows= out.")
    aims = dict(by_name("goals", goals))
    for name, kind in aims.items():
        _check_choice(f"goals={{{name!r}: …}}", kind, GOALS)
    instructions = names.instructions() if language is not None else {}
    if language is not None and not instructions and not len(episodes.tasks):
        raise SelectionError(
            f"language={language!r}: none of the {len(episodes)} selected episodes has an instruction, neither as a feature "
            "(language_instruction) nor as a task. Leave language= out, or set the column 'task' with update_episode_info(...)."
        )
    read = {**instructions, **{name: names.named(name) for name in aims}, **shown}
    in_seconds = any(isinstance(window, TimeWindow) for window in spans.values())
    if in_seconds:
        _check_timed(episodes)
    stored = {name: names.stored[name] for name in read}
    partial = (_partial(chosen) if made is None else made.partial) | {
        old for old in stored.values() for schema in schemas if old not in schema.features
    }
    validated = frozenset(name for name, old in stored.items() if old in partial)
    if isinstance(where, str):
        mask: np.ndarray | None = _labelled(chosen, where, episodes.num_steps, made)
    else:
        mask = None if where is None else _mask(chosen, where, names, int(episodes.num_steps.sum()), align)
    anchors = _anchors(chosen, episodes, spans, level, every, mask, pad == "drop", align)
    if level == "episode" and mask is not None:
        some = np.flatnonzero(anchors.counts)
        episodes, anchors = episodes.at(some), replace(anchors, counts=anchors.counts[some], first=anchors.first[some])
    size = None if image_size is None else checked_size(image_size)
    index = TrainingIndex(
        episodes,
        read,
        list(shown),
        stored,
        validated,
        anchors,
        (in_seconds or keys is not None) and bool(episodes.timed.any()),
        align,
        {}
        if size is None
        else {name: size for name, feature in read.items() if _may_be_derived(name, stored[name], feature, size)},
    )
    return index, ItemSpec(spans, pad, dtype, size, language, list(instructions), aims, keys)


def _episodes(chosen: Chosen, *, with_tasks: bool) -> EpisodeColumns:
    table = chosen.table(["episode_id", "schema_id", "num_steps", "control_hz", "start_ns", "index_file", "index_row"])
    lost = max(table[name].null_count for name in ("episode_id", "schema_id", "num_steps", "index_file", "index_row"))
    steps = table["num_steps"].combine_chunks().fill_null(0).to_numpy()
    if lost or (steps < 0).any():
        raise CorruptDataError(
            f"{listing(root.path for root in chosen.roots)}: rows of the episodes table lack what every row has; check() says which."
        )
    schema_ids = table["schema_id"].combine_chunks().dictionary_encode()
    files = table["index_file"].combine_chunks().dictionary_encode()
    codes = schema_ids.indices.to_numpy()
    used, first = np.unique(codes, return_index=True)
    schemas = [
        read_schema(chosen.roots[chosen.root[row]].store, schema_ids.dictionary[code].as_py())
        for code, row in zip(used.tolist(), first.tolist(), strict=True)
    ]
    tasks, task = _tasks(chosen) if with_tasks else ([], np.full(len(chosen), -1))
    return EpisodeColumns(
        stores=[root.store for root in chosen.roots],
        schemas=schemas,
        index_files=files.dictionary.to_pylist(),
        ids=table["episode_id"].combine_chunks(),
        store=chosen.root.astype(np.int32),
        schema=np.searchsorted(used, codes).astype(np.int32),
        index_file=files.indices.to_numpy(),
        index_row=table["index_row"].combine_chunks().to_numpy().astype(np.int64),
        num_steps=steps.astype(np.int64),
        control_hz=table["control_hz"].combine_chunks().fill_null(np.nan).to_numpy(),
        timed=np.asarray(table["start_ns"].combine_chunks().is_valid().to_numpy(zero_copy_only=False), bool),
        tasks=tasks,
        task=task,
    )


def _tasks(chosen: Chosen) -> tuple[list[str], np.ndarray]:
    """Return the texts of the column `task`, and which of them each episode has."""
    known: dict[str, int] = {}
    result = np.full(len(chosen), -1, np.int32)
    for _, rows, positions in chosen.by_root():
        if "task" in rows.column_names and (pa.types.is_string(rows["task"].type) or pa.types.is_string_view(rows["task"].type)):
            coded = rows["task"].combine_chunks().cast(pa.string()).dictionary_encode()
            codes = np.array([known.setdefault(text, len(known)) for text in coded.dictionary.to_pylist()] or [-1], np.int32)
            at = coded.indices.fill_null(-1).to_numpy()
            result[positions] = np.where(at >= 0, codes[at], -1)
    return list(known), result


def _partial(chosen: Chosen) -> set[str]:
    """Return the features that some step of some episode lacks."""
    found: set[str] = set()
    for root, rows, _ in chosen.by_root(["index_file", "index_row"]):
        for _, names in read_index_files(root, rows, functools.partial(read_partial, root.store)):
            found |= names
    return found


class _Names:
    """The features of schemas under their new names.

    Args:
        schemas: Schemas.
        rename: Stored name → new name.

    Raises:
        FeatureNotFoundError: A name to be changed that no schema has.
        SelectionError: Two features that get one name.
        FeatureError: A name that no feature can have.
    """

    def __init__(self, schemas: Sequence[Schema], rename: Mapping[str, str]) -> None:
        self._schemas = schemas
        everything = list(dict.fromkeys(name for schema in schemas for name in schema))
        for name in rename:
            if name not in everything:
                raise FeatureNotFoundError(
                    f"rename= names {name!r}, which no selected episode has; features are: {listing(everything)}."
                    f"{did_you_mean(name, everything)}"
                )
        self.stored: dict[str, str] = {}
        for name in everything:
            new = check_feature_name(rename.get(name, name))
            if new in self.stored:
                raise SelectionError(
                    f"rename= gives two features one name: {self.stored[new]!r} and {name!r} would both be {new!r}. Choose another "
                    "name for one of them."
                )
            self.stored[new] = name

    def shared(self) -> dict[str, Feature]:
        """Return the features that all schemas have with one dtype and fixed shape; say once which are left out."""
        found = {name: self._shared(name) for name in self.stored}
        left_out = [name for name, feature in found.items() if feature is None]
        if left_out:
            logger.warning(
                "as_pytorch_dataset: left out %s: not in all of the %d schemas selected with one dtype and fixed shape. "
                "Name them in features= to have those that fit.",
                listing(left_out),
                len(self._schemas),
            )
        return {name: feature for name, feature in found.items() if feature is not None}

    def named(self, name: str) -> Feature:
        """Return a feature that some schema has.

        Raises:
            FeatureNotFoundError: None has it, or not all that do have the same dtype and shape.
        """
        found = self._found(name)
        if not found:
            raise FeatureNotFoundError(
                f"no selected episode has {name!r}; features are: {listing(self.stored)}.{did_you_mean(name, self.stored)}"
            )
        if len({_kind(feature) for feature in found}) > 1:
            kinds = listing(dict.fromkeys(feature.describe() for feature in found))
            raise FeatureNotFoundError(
                f"{name!r} is not one thing in the selected episodes ({kinds}); select episodes where it is."
            )
        return found[0]

    def instructions(self) -> dict[str, Feature]:
        """Return the features that hold one text a step that tells the robot what to do."""
        return {
            name: self._found(name)[0]
            for name, stored in self.stored.items()
            if role_of(stored) == "language"
            and all(f.dtype == "str" and f.shape == () and not f.in_frames for f in self._found(name))
        }

    def renamed(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Return steps under the new names."""
        return frame.rename({stored: name for name, stored in self.stored.items() if name != stored}, strict=False)

    def _found(self, name: str) -> list[Feature]:
        stored = self.stored.get(name, "")
        return [schema.features[stored] for schema in self._schemas if stored in schema.features]

    def _shared(self, name: str) -> Feature | None:
        found = self._found(name)
        fits = len(found) == len(self._schemas) and len({_kind(f) for f in found}) == 1
        return found[0] if fits and found[0].shape is not None and not found[0].is_variable else None


def _kind(feature: Feature) -> tuple[object, ...]:
    return feature.dtype, feature.shape, feature.is_image, feature.in_frames


@dataclass(frozen=True)
class _MadeAnew:
    """What steps that are made anew are like.

    Args:
        num_steps: `(N,)` int64, how many each episode has.
        times_ns: Times of each episode's, `None` where it has none.
        partial: Features that some step lacks.
    """

    num_steps: np.ndarray
    times_ns: Sequence[np.ndarray | None]
    partial: set[str]


def _made_anew(chosen: Chosen, align: Align) -> _MadeAnew:
    """Make the steps of all episodes, one in memory at a time, and return what they are like."""
    check_align(chosen, align)
    times: list[np.ndarray | None] = []
    counts: list[int] = []
    partial: set[str] = set()
    for made in each_anew(chosen, align):
        times.append(made.times_ns)
        counts.append(made.num_steps)
        partial |= {name for name, column in made.columns.items() if not column.mask.all()}
    return _MadeAnew(np.array(counts, np.int64), times, partial)


def _labelled(chosen: Chosen, label: str, num_steps: np.ndarray, made: _MadeAnew | None) -> np.ndarray:
    """Return which steps lie in segments of a label.

    Raises:
        SelectionError: No selected episode has one.
    """
    starts = np.cumsum(num_steps) - num_steps
    mask, known = np.zeros(int(num_steps.sum()), bool), set[str]()
    for root, rows, positions in chosen.by_root(["episode_id", "num_steps", "segments_file"]):
        held = segments_of(read_segments(root.store, rows))
        known |= {segment.label for segments in held.values() for segment in segments}
        for position, episode_id in zip(positions.tolist(), rows["episode_id"].to_pylist(), strict=True):
            segments: Iterable[Segment] = (s for s in held.get(episode_id, ()) if s.label == label)
            times = None if made is None else made.times_ns[position]
            for segment in segments if times is None else steps_of(segments, times):
                mask[starts[position] + segment.start_step : starts[position] + segment.stop_step] = True
    if label not in known:
        raise SelectionError(
            f"where={label!r}: none of the {len(chosen)} selected episodes has a segment with this label; there are: "
            f"{listing(sorted(known))}.{did_you_mean(label, known)} Set one with annotate(episodes, {label!r}), or give a polars expression."
        )
    return mask


def _mask(chosen: Chosen, where: pl.Expr | Mask, names: _Names, total: int, align: Align | None) -> np.ndarray:
    """Return at which steps items may stand.

    Raises:
        FeatureNotFoundError: The expression names a column that there is not.
        SelectionError: It does not give one bool a step.
    """
    if not isinstance(where, pl.Expr):
        if not callable(where):
            raise SelectionError(
                f"where= is a {type(where).__name__}; give a polars expression over the columns of steps, or the label of segments."
            )
        return where(chosen)
    steps = names.renamed(lazy_steps(chosen, "index", None, align))
    try:
        found = steps.select(where.alias("where")).collect()["where"]
    except pl.exceptions.ColumnNotFoundError as error:
        known = steps.collect_schema().names()
        unknown = [name for name in where.meta.root_names() if name not in known]
        said = f"{unknown[0]!r}" if unknown else in_one_line(error)
        meant = did_you_mean(unknown[0], known) if unknown else ""
        raise FeatureNotFoundError(f"where=: no column {said}; there are: {listing(known)}.{meant}") from (
            None if unknown else error
        )
    except pl.exceptions.PolarsError as error:
        raise SelectionError(f"where= cannot be evaluated over the columns of steps: {in_one_line(error)}.") from error
    if found.dtype != pl.Boolean or len(found) != total:
        raise SelectionError(
            f"where= gives {len(found)} values of {found.dtype} for {total} steps; give one bool a step, as in "
            "pl.col('step_index') > 0."
        )
    return found.fill_null(False).to_numpy()


def _anchors(
    chosen: Chosen,
    episodes: EpisodeColumns,
    windows: Mapping[str, Window],
    level: str,
    every: int,
    mask: np.ndarray | None,
    drop: bool,
    align: Align | None,
) -> Anchors:
    spans, num_steps = windows.values(), episodes.num_steps
    stretch = stretch_of(spans) if level == "window" else None
    if not drop:
        return anchors_of(num_steps, stretch=stretch, every=every, chosen=mask)
    low, high = full_by_steps(spans, num_steps)
    full = None
    if any(isinstance(window, TimeWindow) for window in spans):
        hz = episodes.control_hz if align is None or align.rate_hz is None else np.full(len(episodes), align.rate_hz)
        slow_low, slow_high = full_by_rate(spans, num_steps, np.nan_to_num(hz, nan=1.0))
        low = np.where(episodes.timed, low, np.maximum(low, slow_low))
        high = np.where(episodes.timed, high, np.minimum(high, slow_high))
        if episodes.timed.any():
            times = (
                lazy_steps(chosen, "index", None, align).select("timestamp_ns").collect()["timestamp_ns"].fill_null(0).to_numpy()
            )
            full = full_by_times(spans, times, num_steps) | np.repeat(~episodes.timed, num_steps)
    return anchors_of(num_steps, stretch=stretch, every=every, chosen=mask, full=full, bounds=(low, high))


def _check_choice(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise SelectionError(f"{name}={value!r} is not known; use one of: {listing(known)}.{did_you_mean(str(value), known)}")


def _check_carried(option: str, name: str, shown: Mapping[str, Feature], names: _Names) -> None:
    if name in shown:
        return
    if name in names.stored:
        raise FeatureNotFoundError(f"{option}= names {name!r}, which items do not carry; name it in features= too.")
    raise FeatureNotFoundError(
        f"{option}= names {name!r}, which no selected episode has; items carry: {listing(shown)}.{did_you_mean(name, shown)}"
    )


def _check_timed(episodes: EpisodeColumns) -> None:
    lost = ~episodes.timed & ~(episodes.control_hz > 0) & (episodes.num_steps > 0)
    if lost.any():
        first = episodes.ids[int(np.flatnonzero(lost)[0])].as_py()
        raise SelectionError(
            f"windows in seconds need times or control_hz; {int(lost.sum())} of {len(episodes)} selected episodes have neither (first "
            f"{first}). Set control_hz with update_episode_info(...), leave them out, or count in steps: fox.steps(start, stop)."
        )


def _may_be_derived(name: str, stored: str, feature: Feature, size: tuple[int, int]) -> bool:
    """Return whether frames that `derive` made of a feature are what resizing would give."""
    # Another name may ask for another way of resizing.
    return feature.is_image and (feature.shape or ())[:2] != size and is_smooth(name, feature) == is_smooth(stored, feature)


def listed_features(given: str | Iterable[str] | None) -> list[str] | None:
    """Return the names that `features=` gives, `None` for all.

    Raises:
        SelectionError: Neither a name nor several.
    """
    if given is not None and not isinstance(given, Iterable):
        raise SelectionError(f"features= is a {type(given).__name__}; give a name, or a list of names.")
    return [given] if isinstance(given, str) else None if given is None else list(given)


def checked_size(given: object) -> tuple[int, int]:
    """Return the height and width that `image_size=` gives.

    Raises:
        SelectionError: No two whole numbers from 1, or more pixels than the limit.
    """
    if not isinstance(given, Sequence) or len(given) != 2:
        raise SelectionError(f"image_size={given!r}: give (height, width) in pixels.")
    height, width = (whole_number("image_size", side, 1) for side in given)
    if height * width > config().max_pixels:
        raise SelectionError(
            f"image_size={given!r} has more pixels than the limit of {config().max_pixels}; call "
            f"fox.config(max_pixels={height * width})."
        )
    return height, width
