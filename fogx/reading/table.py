"""The table of episodes as users see it: a pandas DataFrame whose `filter` also takes a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import SelectionError, did_you_mean, listing
from fogx.reading.roots import Chosen, Root
from fogx.storage.log.rows import BASE, extra_values

OWN = ("episode_id", "root", "dataset", "split", "start_ns", "duration_s", "num_steps", "control_hz", "success")
"""fogx's own columns, first in the table."""

_DTYPES: dict[pa.DataType, Any] = {
    pa.string(): pd.StringDtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
}


class EpisodeFrame(pd.DataFrame):
    """A `pandas.DataFrame` with one row an episode.

    It stays of this class through pandas operations. Only `filter` differs: given a boolean mask it keeps rows.
    """

    # The rows of each root that this frame was made from, so that an edit knows which cells changed since.
    _metadata = ["_fogx_base"]  # noqa: RUF012 - pandas' own protocol
    _fogx_base: dict[str, pa.Table]

    @property
    def _constructor(self) -> type[EpisodeFrame]:
        return EpisodeFrame

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> EpisodeFrame:
        super().__finalize__(other, method=method, **kwargs)  # type: ignore[misc]
        # pandas carries attributes through concat, merge and join only where all inputs agree on them.
        for source in getattr(other, "input_objs", None) or ():
            if getattr(source, "_fogx_base", None) is not None and getattr(self, "_fogx_base", None) is None:
                self._fogx_base = source._fogx_base
        return self

    def __getstate__(self) -> Any:
        # A few rows sent to another process take the rows that they were made from along, not a million.
        state: Any = super().__getstate__()
        base = state.get("_fogx_base")
        ids = self["episode_id"] if "episode_id" in self.columns else self.index.to_series()
        if base and isinstance(ids, pd.Series) and len(ids) < sum(map(len, base.values())):
            wanted = texts(ids)
            state["_fogx_base"] = {path: rows.filter(pc.is_in(rows["episode_id"], wanted)) for path, rows in base.items()}
        return state

    def filter(self, items: Any = None, like: str | None = None, regex: str | None = None, axis: Any = None) -> EpisodeFrame:
        """Keep rows where a boolean mask is True, or select labels as `pandas.DataFrame.filter` does.

        Args:
            items: A boolean mask of one value a row (Series, array or list; NA counts as False), or labels.
            like: As in pandas.
            regex: As in pandas.
            axis: As in pandas.

        Raises:
            SelectionError: A mask of another length than the frame.
        """
        if like is None and regex is None and axis is None and is_mask(items):
            return self._kept(mask_of(items, self.index))
        return super().filter(items=items, like=like, regex=regex, axis=axis)

    def _kept(self, mask: np.ndarray) -> EpisodeFrame:
        # pandas takes rows by their numbers, for which arrow first joins all pieces of a column: a copy of the whole of it.
        in_arrow = np.array([isinstance(dtype, (pd.StringDtype, pd.ArrowDtype)) for dtype in self.dtypes], dtype=bool)
        kept: EpisodeFrame = self.iloc[:, np.flatnonzero(~in_arrow)].iloc[np.flatnonzero(mask)]
        wanted = pa.array(mask)
        for position in np.flatnonzero(in_arrow).tolist():
            column, dtype = self.iloc[:, position], cast(Any, self.dtypes.iloc[position])
            values = dtype.__from_arrow__(pc.filter(column.array.__arrow_array__(), wanted))
            kept.insert(position, column.name, values, allow_duplicates=self.flags.allows_duplicate_labels)
        kept.columns = self.columns
        return kept


def texts(values: pd.Series | pd.Index) -> pa.Array:
    """Return ids as arrow text."""
    array = pa.array(values.astype("string"), pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def is_mask(value: Any) -> bool:
    """Return whether a value is a boolean mask (and not labels)."""
    if isinstance(value, (pd.Series, pd.Index, np.ndarray, pd.api.extensions.ExtensionArray)):
        return bool(pd.api.types.is_bool_dtype(value.dtype)) or (
            value.dtype == object and len(value) > 0 and all(isinstance(v, (bool, np.bool_)) or pd.isna(v) for v in value)
        )
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, (bool, np.bool_)) for v in value)


def mask_of(value: Any, index: pd.Index) -> np.ndarray:
    """Return a mask as a numpy bool array, one value a row of a frame with that index; NA counts as False.

    A Series is aligned by its labels, as pandas does; other masks go by position.

    Raises:
        SelectionError: Not one value a row, or a Series with other labels than the frame.
    """
    rows = len(index)
    if isinstance(value, pd.Series) and len(value) == rows and not value.index.equals(index):
        if not (value.index.is_unique and index.is_unique and index.isin(value.index).all()):
            raise SelectionError(
                "the mask is a Series with other labels than the table; make it from the same table, or give its .array."
            )
        value = value.reindex(index)
    array: Any = value.array if isinstance(value, (pd.Series, pd.Index)) else value
    if not (isinstance(array, pd.api.extensions.ExtensionArray) and pd.api.types.is_bool_dtype(array.dtype)):
        array = pd.array(array, dtype="boolean")  # of arrow's own bools pandas would make a million objects here
    mask: np.ndarray = array.to_numpy(dtype=bool, na_value=False)
    if len(mask) != rows:
        raise SelectionError(f"the mask has {len(mask)} values, the table has {rows} rows; make it from the same table.")
    return mask


def episode_frame(chosen: Chosen) -> EpisodeFrame:
    """Return a fresh frame of the episodes; changing it changes nothing stored."""
    parts, where = [], []
    for root, rows, positions in chosen.by_root():
        parts.append(part(root, rows))
        where.append(positions)
    if not parts:
        parts = [part(chosen.roots[0], chosen.tables[0].slice(0, 0))]
    frame = EpisodeFrame(pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0])
    if len(parts) > 1:
        frame = EpisodeFrame(frame.iloc[np.argsort(np.concatenate(where))].reset_index(drop=True))
    frame._fogx_base = {root.path: rows for root, rows in zip(chosen.roots, chosen.tables, strict=True)}
    return frame


def joined_columns(chosen: Chosen, names: str | Iterable[str]) -> EpisodeFrame | None:
    """Return `episode_id` and the named columns, or `None` where none are named.

    Raises:
        SelectionError: A column that the table does not have.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        return None
    frame = episode_frame(chosen)
    for name in wanted:
        if name not in frame.columns:
            raise SelectionError(
                f"no column {name!r} in get_episode_info(); there are: {listing(frame.columns)}.{did_you_mean(name, frame.columns)}"
            )
    return EpisodeFrame(frame[["episode_id", *(n for n in dict.fromkeys(wanted) if n != "episode_id")]])


def part(root: Root, rows: pa.Table) -> pd.DataFrame:
    """Return rows of one root as get_episode_info() shows them."""
    user = [name for name in rows.column_names if name not in BASE.names]
    shown: dict[str, Any] = {name: nullable(rows[name]) for name in OWN if name in BASE.names}
    shown["root"] = nullable(pa.chunked_array([pa.repeat(pa.scalar(root.path, pa.string()), rows.num_rows)]))
    shown["duration_s"] = nullable(rows["duration_ns"]).astype("Float64") / 1e9
    shown |= {name: nullable(rows[name]) for name in user}
    held = np.flatnonzero(rows["_extra"].is_valid().to_numpy())
    for row, text in zip(held.tolist(), rows["_extra"].take(pa.array(held)).to_pylist(), strict=True):
        for key, value in extra_values(text).items():
            column = shown.get(key)
            if column is None or column.dtype != object:
                column = pd.Series([None] * rows.num_rows if column is None else column.tolist(), dtype=object)
            column[row] = value
            shown[key] = column
    ordered = {name: shown[name] for name in (*OWN, *(name for name in shown if name not in OWN))}
    return pd.DataFrame(ordered, index=pd.RangeIndex(rows.num_rows))


def nullable(column: pa.ChunkedArray) -> pd.Series:
    """Return a column as pandas has it, of a dtype that knows missing values."""
    series: pd.Series = column.to_pandas(types_mapper=_DTYPES.get)
    return series
