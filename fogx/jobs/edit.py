"""Turns an edited table, or a tag, into the cells to write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fogx.errors import EpisodeNotFoundError, MetadataError, SelectionError, listing
from fogx.reading.roots import Roots, positions_of, taken
from fogx.reading.table import OWN, part, texts
from fogx.storage.log.rows import EDITABLE, check_metadata

Cells = dict[str, dict[str, Any]]


def tag_cells(ids: Sequence[str], values: Mapping[str, Any]) -> Cells:
    """Return column → id → value for one value a column.

    Raises:
        MetadataError: A name or value that cannot be stored, an array or a dict among them.
    """
    check_metadata(values)
    for key, value in values.items():
        _one_cell(key, value)
    return {key: dict.fromkeys(ids, value) for key, value in values.items()} if ids else {}


def changed_cells(roots: Roots, info: pd.DataFrame) -> tuple[Cells, pa.Table]:
    """Compare an edited frame with the rows it was made from.

    Returns:
        Column → id → new value (`None` for emptied cells) of the cells that differ, and the rows they were compared with.

    Raises:
        MetadataError: See `Dataset.update_episode_info`.
        EpisodeNotFoundError: Rows of no episode.
        SelectionError: No ids, ids twice, or changed rows of another root.
    """
    edited = _by_id(info)
    ids = texts(edited.index)
    bases: Mapping[str, pa.Table] = getattr(info, "_fogx_base", None) or {}
    changes: Cells = {}
    seen = np.zeros(len(ids), dtype=bool)
    for root in roots.all:
        rows = bases.get(root.path, root.rows)
        places = positions_of(rows["episode_id"], ids)
        mine = np.flatnonzero((places >= 0) & ~seen)
        seen[mine] = True
        before = part(root, taken(rows, places[mine]))
        after = edited if len(mine) == len(edited) else edited.iloc[mine]
        found = _differences(ids.take(pa.array(mine)), before, after.reset_index(drop=True))
        if found and root is not roots.write:
            count = len({i for cells in found.values() for i in cells})
            raise SelectionError(
                f"{count} changed episodes lie in {root.path}, which is not the write root ({roots.write.path}). Nothing was "
                "changed; open that root with fox.Dataset(path=...) to edit it."
            )
        changes |= found
    unknown = ids.filter(pa.array(~seen)).to_pylist()
    if unknown:
        raise EpisodeNotFoundError(
            f"{len(unknown)} of {len(edited)} rows are of no episode of this dataset: {listing(unknown, most=3)}. Nothing was "
            "changed; new episodes come from recording or importing."
        )
    return changes, bases.get(roots.write.path, roots.write.rows)


def _by_id(info: pd.DataFrame) -> pd.DataFrame:
    if "episode_id" in info.columns:
        info = info.set_index("episode_id")
    elif info.index.name != "episode_id":
        raise SelectionError(
            f"the frame has no column or index 'episode_id' (columns: {listing(info.columns)}); edit a frame from get_episode_info()."
        )
    twice = info.index[info.index.duplicated()]
    if len(twice):
        raise SelectionError(f"{len(twice)} rows repeat an episode_id, first {twice[0]}; give each episode once.")
    return pd.DataFrame(info)


def _differences(ids: pa.Array, before: pd.DataFrame, after: pd.DataFrame) -> Cells:
    """Return the cells that differ between two frames of the same episodes."""
    changes: Cells = {}
    for column in after.columns:
        old = before[column] if column in before.columns else pd.Series([None] * len(after), dtype=object)
        integer = bool(pd.api.types.is_integer_dtype(old.dtype))
        suspects = np.flatnonzero(~_surely_same(old, after[column]))
        pairs = zip(
            ids.take(pa.array(suspects)).to_pylist(),
            old.iloc[suspects].tolist(),
            after[column].iloc[suspects].tolist(),
            strict=True,
        )
        cells = {i: _value(new, integer) for i, was, new in pairs if not _same(was, new)}
        if not cells:
            continue
        if column in OWN and column not in EDITABLE:
            raise MetadataError(
                f"column {column!r} is fogx's own and was changed for {len(cells)} episodes; it cannot be edited. "
                f"Of fogx's columns you may edit: {listing(sorted(EDITABLE))}. Nothing was changed."
            )
        for value in _distinct(cells.values()):
            if not isinstance(value, _PLAIN) or column in EDITABLE:
                check_metadata({column: value})
                _one_cell(column, value)
        check_metadata({column: None})
        changes[column] = cells
    return changes


_PLAIN = (bool, int, float)


def _surely_same(old: pd.Series, new: pd.Series) -> np.ndarray:
    """Return a mask of cells that are equal; of others it must still be found out, one by one."""
    if isinstance(old.dtype, pd.StringDtype) and isinstance(new.dtype, pd.StringDtype):
        new = new.astype(old.dtype)
    elif old.dtype == object or _kind(old) != _kind(new):
        return np.zeros(len(new), dtype=bool)
    same: np.ndarray = (old == new).to_numpy(dtype=bool, na_value=False) | (old.isna().to_numpy() & new.isna().to_numpy())
    return same


def _kind(series: pd.Series) -> str:
    # Int64 and int64 are of one kind; ints and floats are not, since floats beside large ints are not exact.
    return str(getattr(series.dtype, "kind", series.dtype))


def _distinct(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    try:
        return list({(type(value), value): value for value in values}.values())
    except TypeError:  # a list or a dict among them
        return values


def _one_cell(key: str, value: Any) -> None:
    if isinstance(value, (list, tuple, Mapping)) or (isinstance(value, np.ndarray) and value.ndim > 0):
        raise MetadataError(
            f"metadata {key!r}: a cell holds one value, not a {type(value).__name__}; give arrays at new_episode()."
        )


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _same(a: Any, b: Any) -> bool:
    if _missing(a) or _missing(b):
        return _missing(a) and _missing(b)
    return type(a) in (bool, int, float, str, bytes) and isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _value(value: Any, integer: bool) -> Any:
    if _missing(value):
        return None
    # pandas turns a column of ints to floats as soon as one is missing
    return int(value) if integer and isinstance(value, float) and value.is_integer() else value
