"""The steps of a selection as one lazy polars frame over parquet, whatever the episodes' schemas."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fogx.align.policy import Align
from fogx.errors import CorruptDataError, SchemaMismatchError, SelectionError, did_you_mean, listing
from fogx.feature import STEP_KEYS, Feature, Schema
from fogx.reading.anew import check_align, scan_anew
from fogx.reading.images import Frames
from fogx.reading.roots import Chosen, Root, read_index_files, same_of
from fogx.reading.scan import scan_steps
from fogx.reading.table import EpisodeFrame
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
        align: How to make the steps anew, from other files.
    """

    root: Root
    schema: Schema
    chosen: Chosen
    files: Mapping[str, Sequence[str]]
    order: np.ndarray
    align: Align | None

    @property
    def name(self) -> str:
        datasets = sorted(str(name) for name in self.chosen.column("dataset").unique().to_pylist())
        return f"{len(self.chosen)} episodes of {listing(datasets, most=3)}"


def lazy_steps(chosen: Chosen, images: str, metadata: EpisodeFrame | None, align: Align | None = None) -> pl.LazyFrame:
    """Return the steps of episodes, in their order; see `Dataset.get_step_data`.

    Args:
        chosen: The episodes.
        images: `"index"`, `"encoded"` or `"pixels"`.
        metadata: Columns to join, with `episode_id`.
        align: How to make the steps anew; `None` for those that are stored.

    Raises:
        SelectionError: An unknown `images`; as `check_align`.
        FeatureError: As `check_align`.
    """
    if images not in IMAGES:
        raise SelectionError(f"images={images!r} is not known; use one of: {listing(IMAGES)}.{did_you_mean(str(images), IMAGES)}")
    if align is not None:
        check_align(chosen, align)
    groups = _groups(chosen, align)
    names = list(dict.fromkeys(name for group in groups for name in group.schema))
    targets = {name: _target(name, groups, images) for name in names}
    scans = [_scan(group, targets) for group in groups]
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
    # Last, so that frames are read of the steps that are left: not of all that are sorted.
    frames = Frames([(group.schema, group.chosen) for group in groups])
    shown = [name for name, target in targets.items() if target.dtype != target.stored]
    return frame.with_columns(frames.column(name, images, targets[name].dtype) for name in shown) if shown else frame


def _groups(chosen: Chosen, align: Align | None) -> list[_Group]:
    """Group the episodes by root and schema, and find out which files hold their steps."""
    table = chosen.table(["episode_id", "schema_id", "index_file", "index_row"])
    schemas = table["schema_id"].combine_chunks().fill_null("").dictionary_encode()
    codes = chosen.root.astype(np.int64) * len(schemas.dictionary) + schemas.indices.to_numpy()
    groups = []
    for members in sorted(same_of(codes), key=lambda positions: int(positions[0])):
        root = chosen.roots[chosen.root[members[0]]]
        schema = read_schema(root.store, schemas[int(members[0])].as_py())
        files, order = _files(root, table.take(pa.array(members)), members) if align is None else ({}, members)
        groups.append(_Group(root, schema, chosen.at(members), files, order, align))
    return groups


def _files(root: Root, table: pa.Table, members: np.ndarray) -> tuple[dict[str, list[str]], np.ndarray]:
    """Return the files of episodes, each with its ids, and the positions of the episodes in that order."""
    places = [
        found.set_column(found.column_names.index("number"), "number", pa.array(mine).take(found["number"]))
        for mine, found in read_index_files(root, table, functools.partial(read_steps_places, root.store))
    ]
    found = pa.concat_tables(places)
    files = found["file"].combine_chunks().dictionary_encode()
    stored = np.lexsort((found["first_row"], found["row_group"], files.indices))
    numbers, codes_in_order = found["number"].to_numpy()[stored], files.indices.to_numpy()[stored]
    ids = table["episode_id"].take(pa.array(numbers)).to_pylist()
    ends = np.searchsorted(codes_in_order, np.arange(len(files.dictionary)), side="right").tolist()
    names = files.dictionary.to_pylist()
    return {name: ids[start:end] for name, start, end in zip(names, [0, *ends], ends, strict=False)}, members[numbers]


def _scan(group: _Group, targets: dict[str, _Target]) -> pl.LazyFrame:
    stored = {name: _dtype(feature, "index") for name, feature in group.schema.items()}
    if group.align is not None:
        frame = scan_anew(group.chosen, group.schema, group.align, {**_OWN, **stored})
    elif not group.files:
        return pl.LazyFrame(schema={**_OWN, **{name: target.stored for name, target in targets.items()}})
    else:
        moved = group.root.log is not None and group.root.log.pointers_moved
        frame = scan_steps(group.root.store, group.files, {**_OWN, **stored}, moved=moved)
    return frame.select(*STEP_KEYS, *(target.expression(group).alias(name) for name, target in targets.items()))


@dataclass(frozen=True)
class _Target:
    """The type that one feature has in the result, and how a group gets there.

    Args:
        name: The feature.
        dtype: Its type in the result.
        stored: Its type while frames are numbers; another than `dtype` only where frames are shown.
        clash: Why there is no such type.
    """

    name: str
    dtype: Any
    stored: Any
    clash: str | None = None

    def expression(self, group: _Group) -> pl.Expr:
        feature = group.schema.features.get(self.name)
        if feature is None:
            # Nulls that hang on a real column: one that stood alone would make polars read another for its length.
            return pl.when(pl.col("step_index").is_null()).then(pl.lit(None, self.stored))
        column = pl.col(self.name)
        if self.clash is not None:
            return column.map_batches(_raise(self.clash), return_dtype=self.dtype)
        own = _dtype(feature, "index")
        if own == self.stored:
            return column
        if isinstance(self.dtype, pl.List) and not isinstance(own, (pl.List, pl.Array)):
            column = pl.when(column.is_not_null()).then(pl.concat_list(column))
        return column.cast(self.dtype)


def _target(name: str, groups: Sequence[_Group], images: str) -> _Target:
    holders = [group for group in groups if name in group.schema.features]
    features = [group.schema[name] for group in holders]
    mixed = len({feature.in_frames for feature in features}) > 1
    dtype, clash = _common(name, holders, features, images, mixed)
    return _Target(name, dtype, _dtype(features[0], "index") if features[0].in_frames and not mixed else dtype, clash)


def _common(
    name: str, holders: Sequence[_Group], features: Sequence[Feature], images: str, mixed: bool
) -> tuple[Any, str | None]:
    """Return the type that holds a feature of all groups, or why there is none."""
    dtypes = [_dtype(feature, images) for feature in features]
    if not mixed and all(dtype == dtypes[0] for dtype in dtypes):
        return dtypes[0], None
    common = None if mixed else _supertype({str(feature.dtype) for feature in features})
    if common is None:
        kinds = "; ".join(f"{group.name}: {feature.describe()}" for group, feature in zip(holders, features, strict=True))
        message = (
            f"feature {name!r} has types that no column can hold without loss ({kinds}). "
            "Select episodes of one of these groups, or other columns."
        )
        # Not Null: polars takes a Null column to count rows with.
        return pl.List(pl.String), message
    if len({feature.shape for feature in features}) > 1:
        return pl.List(_ELEMENTS[common]), None
    return _dtype(replace(features[0], dtype=common), images), None


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
