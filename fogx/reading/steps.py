"""The steps of a selection as one lazy polars frame over parquet, whatever the episodes' schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from fogx.errors import SchemaMismatchError, SelectionError, did_you_mean, listing
from fogx.feature import STEP_KEYS, Feature, Schema
from fogx.reading.episodes import Located, decoder, locate
from fogx.reading.roots import Chosen, Root
from fogx.reading.table import EpisodeFrame
from fogx.storage.tables.frames import read_frames

IMAGES = ("index", "encoded", "pixels")

_FILE = "__file"

_OWN = {"episode_id": pl.String, "step_index": pl.Int64, "timestamp_ns": pl.Int64}
_ELEMENTS: dict[str, Any] = {
    "bool": pl.Boolean,
    "str": pl.String,
    "bytes": pl.Binary,
    "float16": pl.Float16,
    "float32": pl.Float32,
    "float64": pl.Float64,
    **{f"{a}int{b}": getattr(pl, f"{'U' if a else ''}Int{b}") for a in ("", "u") for b in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class _Group:
    """Episodes of one schema in one root."""

    root: Root
    schema: Schema
    members: list[Located]

    @property
    def name(self) -> str:
        datasets = sorted({str(m.row["dataset"][0].as_py()) for m in self.members})
        return f"{len(self.members)} episodes of {listing(datasets, most=3)}"


def lazy_steps(chosen: Chosen, images: str, metadata: EpisodeFrame | None) -> pl.LazyFrame:
    """Return the steps of episodes, in their order; see `Dataset.get_step_data`.

    Args:
        chosen: The episodes.
        images: `"index"`, `"encoded"` or `"pixels"`.
        metadata: Columns to join, with `episode_id`.

    Raises:
        SelectionError: An unknown `images`.
    """
    if images not in IMAGES:
        raise SelectionError(f"images={images!r} is not known; use one of: {listing(IMAGES)}.{did_you_mean(str(images), IMAGES)}")
    groups = _groups(locate(chosen, ("steps",) if images == "index" else ("steps", "frames")))
    names = list(dict.fromkeys(name for group in groups for name in group.schema))
    targets = {name: _target(name, groups, images) for name in names}
    scans = [_scan(group, targets, images) for group in groups]
    if not scans:
        return pl.LazyFrame(schema=_OWN)
    frame = pl.concat(scans)
    wanted = chosen.column("episode_id").to_pylist()
    if wanted != _natural(groups):
        rank = pl.col("episode_id").replace_strict(wanted, range(len(wanted)), return_dtype=pl.Int64)
        frame = frame.sort(rank, "step_index")
    if metadata is not None:
        frame = frame.join(pl.from_pandas(metadata).lazy(), on="episode_id", how="left", maintain_order="left")
    return frame


def _groups(members: Iterable[Located]) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for member in members:
        key = (member.root.path, member.index.schema_id)
        groups.setdefault(key, _Group(member.root, member.schema, [])).members.append(member)
    return list(groups.values())


def _natural(groups: Sequence[_Group]) -> list[str]:
    """Return the ids in the order in which the scans give them."""
    result = []
    for group in groups:
        files = _files(group)
        placed = [(files.index(p.file), p.row_group, p.first_row, m.episode_id) for m in group.members for p in m.index.steps[:1]]
        result += [episode_id for *_, episode_id in sorted(placed)]
    empty = {m.episode_id for g in groups for m in g.members if not m.index.steps}
    if not empty:
        return result
    # An episode of no steps has no place; where it stands does not matter.
    order = [m.episode_id for g in groups for m in g.members]
    filled = iter(result)
    return [i if i in empty else next(filled) for i in order]


def _files(group: _Group) -> list[str]:
    return list(dict.fromkeys(place.file for member in group.members for place in member.index.steps))


def _scan(group: _Group, targets: dict[str, _Target], images: str) -> pl.LazyFrame:
    files = _files(group)
    if not files:
        return pl.LazyFrame(schema={**_OWN, **{name: target.dtype for name, target in targets.items()}})
    store = group.root.store
    paths = [store.path(file) for file in files]
    options = None if store.is_local else store.options.for_object_store()
    moved = group.root.log is not None and group.root.log.pointers_moved
    frame = pl.scan_parquet(
        paths, glob=False, hive_partitioning=False, storage_options=options, include_file_paths=_FILE if moved else None
    )
    # A literal list prunes row groups by their statistics; a join would not.
    frame = frame.filter(pl.col("episode_id").is_in([m.episode_id for m in group.members]))
    if moved:
        # A file may hold an old form of an episode beside others that are current. The join costs a third more time.
        pairs = [(m.episode_id, store.path(place.file)) for m in group.members for place in m.index.steps[:1]]
        current = pl.LazyFrame(pairs, schema=["episode_id", _FILE], orient="row")
        frame = frame.join(current, on=["episode_id", _FILE], how="semi", maintain_order="left")
    return frame.select(*STEP_KEYS, *(target.expression(group, images).alias(name) for name, target in targets.items()))


@dataclass(frozen=True)
class _Target:
    """The type that one feature has in the result, and how a group gets there."""

    name: str
    dtype: Any
    clash: str | None = None

    def expression(self, group: _Group, images: str) -> pl.Expr:
        feature = group.schema.features.get(self.name)
        if feature is None:
            # Nulls that hang on a real column: one that stood alone would make polars read another for its length.
            return pl.when(pl.col("step_index").is_null()).then(pl.lit(None, self.dtype))
        column = pl.col(self.name)
        if self.clash is not None:
            return column.map_batches(_raise(self.clash), return_dtype=self.dtype)
        if feature.in_frames and images != "index":
            read = _reader(group, self.name, feature, images, self.dtype)
            return pl.struct("episode_id", column.alias("frame")).map_batches(read, return_dtype=self.dtype, is_elementwise=True)
        own = _dtype(feature, images)
        if own == self.dtype:
            return column
        if isinstance(self.dtype, pl.List) and not isinstance(own, (pl.List, pl.Array)):
            column = pl.when(column.is_not_null()).then(pl.concat_list(column))
        return column.cast(self.dtype)


def _target(name: str, groups: Sequence[_Group], images: str) -> _Target:
    holders = [group for group in groups if name in group.schema.features]
    features = [group.schema[name] for group in holders]
    mixed = len({feature.in_frames for feature in features}) > 1
    dtypes = [_dtype(feature, images) for feature in features]
    if not mixed and all(dtype == dtypes[0] for dtype in dtypes):
        return _Target(name, dtypes[0])
    common = None if mixed else _supertype({str(feature.dtype) for feature in features})
    if common is None:
        kinds = "; ".join(f"{group.name}: {feature.describe()}" for group, feature in zip(holders, features, strict=True))
        message = (
            f"feature {name!r} has types that no column can hold without loss ({kinds}). "
            "Select episodes of one of these groups, or other columns."
        )
        # Not Null: polars takes a Null column to count rows with.
        return _Target(name, pl.List(pl.String), message)
    if len({feature.shape for feature in features}) > 1:
        return _Target(name, pl.List(_ELEMENTS[common]))
    return _Target(name, _dtype(replace(features[0], dtype=common), images))


def _dtype(feature: Feature, images: str) -> Any:
    if feature.in_frames and images == "index":
        return pl.Int32()
    if feature.in_frames and images == "encoded":
        return pl.Binary()
    element = _ELEMENTS[str(feature.dtype)]
    if feature.shape is None or feature.is_variable or 0 in feature.shape:
        return pl.List(element)
    if feature.shape == ():
        return element()
    if feature.in_frames:
        return pl.Array(element, tuple(int(d or 0) for d in feature.shape))
    return pl.Array(element, int(np.prod([d for d in feature.shape if d is not None])))


def _supertype(dtypes: set[str]) -> str | None:
    """Return the smallest dtype that holds all of them without loss, or `None`."""
    if len(dtypes) == 1:
        return next(iter(dtypes))
    if dtypes & {"str", "bytes", "bool"}:
        return None
    common = np.result_type(*(np.dtype(d) for d in dtypes)).name
    if common.startswith("float") and dtypes & {"int64", "uint64"}:
        return None
    return common if all(np.can_cast(d, common, "safe") for d in dtypes) else None


def _raise(message: str) -> Callable[[pl.Series], pl.Series]:
    def fail(_: pl.Series) -> pl.Series:
        raise SchemaMismatchError(message)

    return fail


def _reader(group: _Group, name: str, feature: Feature, images: str, dtype: Any) -> Callable[[pl.Series], pl.Series]:
    places = {member.episode_id: member.index.frames_of(name) for member in group.members}
    decode = decoder(feature)
    store = group.root.store

    def read(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        ids, numbers = rows["episode_id"].to_list(), rows["frame"].to_list()
        values: list[Any] = [None] * len(ids)
        by_episode: dict[str, list[int]] = {}
        for position, (episode_id, number) in enumerate(zip(ids, numbers, strict=True)):
            if number is not None:
                by_episode.setdefault(episode_id, []).append(position)
        for episode_id, positions in by_episode.items():
            blobs = read_frames(store, places[episode_id], np.array([numbers[p] for p in positions], np.int64))
            for position, blob in zip(positions, blobs, strict=True):
                values[position] = blob if images == "encoded" else decode(blob)
        return _series(values, dtype)

    return read


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
        return pl.Series("", [None if v is None else pl.Series(np.ravel(v)) for v in values], dtype=dtype)
    return pl.Series("", values, dtype=dtype)
