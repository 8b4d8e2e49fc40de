"""The steps of a selection as one lazy polars frame over parquet, whatever the episodes' schemas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import CorruptDataError, SchemaMismatchError, SelectionError, did_you_mean, listing
from fogx.feature import STEP_KEYS, Feature, Schema
from fogx.reading.episodes import decoder, locate
from fogx.reading.roots import Chosen, Root
from fogx.reading.scan import scan_steps
from fogx.reading.table import EpisodeFrame
from fogx.storage.tables.frames import read_frames
from fogx.storage.tables.index import read_schema, read_steps_places

IMAGES = ("index", "encoded", "pixels")

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
    """Episodes of one schema in one root.

    Args:
        root: The root.
        schema: The schema.
        chosen: The episodes.
        files: Pointer of each `steps` file → ids of the episodes that it holds, in stored order.
        order: `(N,)` positions in the selection, in the order in which the files give the episodes.
    """

    root: Root
    schema: Schema
    chosen: Chosen
    files: Mapping[str, Sequence[str]]
    order: np.ndarray

    @property
    def name(self) -> str:
        datasets = sorted(str(name) for name in self.chosen.column("dataset").unique().to_pylist())
        return f"{len(self.chosen)} episodes of {listing(datasets, most=3)}"


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
    groups = _groups(chosen)
    names = list(dict.fromkeys(name for group in groups for name in group.schema))
    targets = {name: _target(name, groups, images) for name in names}
    scans = [_scan(group, targets, images) for group in groups]
    if not scans:
        return pl.LazyFrame(schema=_OWN)
    frame = pl.concat(scans)
    if (np.diff(np.concatenate([group.order for group in groups])) < 0).any():
        wanted = chosen.column("episode_id").to_pylist()
        if len(set(wanted)) != len(wanted):
            raise CorruptDataError(f"{listing(root.path for root in chosen.roots)}: the episodes table holds an episode twice.")
        rank = pl.col("episode_id").replace_strict(wanted, range(len(wanted)), return_dtype=pl.Int64)
        frame = frame.sort(rank, "step_index")
    if metadata is not None:
        frame = frame.join(pl.from_pandas(metadata).lazy(), on="episode_id", how="left", maintain_order="left")
    return frame


def _groups(chosen: Chosen) -> list[_Group]:
    """Group the episodes by root and schema, and find out which files hold their steps."""
    table = chosen.table(["episode_id", "schema_id", "index_file", "index_row"])
    keys = pa.table({"root": chosen.root, "schema_id": table["schema_id"]}).group_by(["root", "schema_id"], use_threads=False)
    groups = []
    for key in keys.aggregate([]).to_pylist():
        members = np.flatnonzero((chosen.root == key["root"]) & pc.equal(table["schema_id"], key["schema_id"]).to_numpy())
        root = chosen.roots[key["root"]]
        files, order = _files(root, table.take(pa.array(members)), members)
        groups.append(_Group(root, read_schema(root.store, key["schema_id"]), chosen.at(members), files, order))
    return groups


def _files(root: Root, table: pa.Table, members: np.ndarray) -> tuple[dict[str, list[str]], np.ndarray]:
    """Return the files of episodes, each with its ids, and the positions of the episodes in that order."""
    codes = table["index_file"].combine_chunks().dictionary_encode()
    places, rows = [], table["index_row"].to_numpy()
    for code, file in enumerate(codes.dictionary.to_pylist()):
        mine = np.flatnonzero(codes.indices.to_numpy() == code)
        found = read_steps_places(root.store, file, rows[mine])
        places.append(found.set_column(found.column_names.index("number"), "number", pa.array(mine).take(found["number"])))
    found = pa.concat_tables(places)
    files = found["file"].combine_chunks().dictionary_encode()
    stored = np.lexsort((found["first_row"], found["row_group"], files.indices))
    numbers, codes_in_order = found["number"].to_numpy()[stored], files.indices.to_numpy()[stored]
    ids = table["episode_id"].take(pa.array(numbers)).to_pylist()
    ends = np.searchsorted(codes_in_order, np.arange(len(files.dictionary)), side="right").tolist()
    names = files.dictionary.to_pylist()
    return {name: ids[start:end] for name, start, end in zip(names, [0, *ends], ends, strict=False)}, members[numbers]


def _scan(group: _Group, targets: dict[str, _Target], images: str) -> pl.LazyFrame:
    if not group.files:
        return pl.LazyFrame(schema={**_OWN, **{name: target.dtype for name, target in targets.items()}})
    stored = {name: _dtype(feature, "index") for name, feature in group.schema.items()}
    moved = group.root.log is not None and group.root.log.pointers_moved
    frame = scan_steps(group.root.store, group.files, {**_OWN, **stored}, moved=moved)
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
    return pl.Array(element, math.prod(d for d in feature.shape if d is not None))


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
    decode = decoder(feature)
    store = group.root.store
    positions = {episode_id: number for number, episode_id in enumerate(group.chosen.column("episode_id").to_pylist())}

    def read(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        ids, numbers = rows["episode_id"].to_list(), rows["frame"].to_list()
        values: list[Any] = [None] * len(ids)
        by_episode: dict[str, list[int]] = {}
        for position, (episode_id, number) in enumerate(zip(ids, numbers, strict=True)):
            if number is not None:
                by_episode.setdefault(episode_id, []).append(position)
        held = locate(group.chosen.at(np.array([positions[i] for i in by_episode], np.int64)), ("frames",))
        for (_, steps), member in zip(by_episode.items(), held, strict=True):
            blobs = read_frames(store, member.index.frames_of(name), np.array([numbers[p] for p in steps], np.int64))
            for position, blob in zip(steps, blobs, strict=True):
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
