"""The rows of the `episodes` table: system columns, typed user columns, and what does not fit them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fogx.errors import CorruptDataError, MetadataError, listing
from fogx.feature import STEP_KEYS
from fogx.storage.tables.nested import encode_nested, split_metadata

BASE = pa.schema(
    [
        pa.field("episode_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("start_ns", pa.int64()),
        pa.field("duration_ns", pa.int64()),
        pa.field("num_steps", pa.int64()),
        pa.field("control_hz", pa.float64()),
        pa.field("success", pa.bool_()),
        pa.field("schema_id", pa.string()),
        pa.field("source_key", pa.string()),
        pa.field("index_file", pa.string()),
        pa.field("index_row", pa.int32()),
        pa.field("segments_file", pa.string()),
        pa.field("_extra", pa.string()),
    ]
)
"""Columns that every root has. `_extra` is JSON: user values that their column cannot hold."""

EDITABLE = {"dataset": str, "split": str, "control_hz": float, "success": bool}
"""fogx's own columns that a user may give and edit, with their types."""

RESERVED = frozenset({*BASE.names, *STEP_KEYS, "root", "duration_s"} - set(EDITABLE))
"""Names that a user's metadata may not take."""

_EXACT = {pa.float32(): 1 << 24, pa.float64(): 1 << 53}
"""Up to this size every int is exact in that float type, so that the smallest and largest of a column speak for all."""

_WIDER = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64())


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that a row cannot hold, before anything is written.

    Raises:
        MetadataError: A key that is not a usable str or is one of fogx's own; a value of a type that is not stored.
    """
    cells, nested = split_metadata(metadata)
    for key in metadata:
        check_key(key)
    for key, value in cells.items():
        value = plain(value, key)
        if key in EDITABLE and value is not None and fit(value, BASE.field(key).type) is None:
            raise MetadataError(
                f"metadata {key!r} is fogx's own column of type {EDITABLE[key].__name__}; {value!r} does not fit it."
            )
    encode_nested(nested)
    if own := [key for key in nested if key in EDITABLE]:
        raise MetadataError(f"metadata {own[0]!r} is fogx's own column of type {EDITABLE[own[0]].__name__}; give one value.")


def check_key(key: object) -> str:
    """Return a metadata key that a user may set.

    Raises:
        MetadataError: Not a str, empty, not printable, too long, or one of fogx's own names.
    """
    if not isinstance(key, str) or not key or len(key) > 200 or not key.isprintable():
        raise MetadataError(f"metadata key {str(key)[:80]!r} is not usable; give a str of 1–200 printable characters.")
    if key.lower() in RESERVED:
        raise MetadataError(
            f"metadata key {key!r} is one of fogx's own names; choose another. "
            f"Reserved: {listing(sorted(RESERVED), most=20)}. You may set: {listing(sorted(EDITABLE))}."
        )
    if key.lower() in EDITABLE and key not in EDITABLE:
        raise MetadataError(f"metadata key {key!r} differs from fogx's own {key.lower()!r} by case only; use {key.lower()!r}.")
    return key


def plain(value: Any, key: str) -> Any:
    """Return a cell value as bool, int, float, str, bytes, a numpy scalar of a smaller type, or `None`.

    Raises:
        MetadataError: A type that no cell holds.
    """
    if isinstance(value, str) and not value.isascii() and value.encode(errors="ignore").decode() != value:
        raise MetadataError(
            f"metadata {key!r}: the text is not valid Unicode (a lone surrogate); give bytes, or decode it properly."
        )
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return value if value.dtype.itemsize < 8 and value.dtype.kind in "if" else value.item()
    if isinstance(value, np.str_):
        return str(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, (datetime, date)):
        raise MetadataError(
            f"metadata {key!r}: store times as int64 nanoseconds or as text ({value.isoformat()!r}); units end names (`_ns`)."
        )
    raise MetadataError(
        f"metadata {key!r}: a {type(value).__name__} cannot be stored; use bool, int, float, str, bytes, arrays, lists or dicts."
    )


def natural_type(value: Any) -> pa.DataType | None:
    """Return the column type that a first value gives, or `None` where no column can hold it."""
    if isinstance(value, np.generic):
        # `plain` leaves signed ints and floats; Delta has no float16
        return pa.float32() if value.dtype == np.float16 else pa.from_numpy_dtype(value.dtype)
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(1 << 63) <= value < 1 << 63 else None
    return {float: pa.float64(), str: pa.string(), bytes: pa.binary()}.get(type(value))


def fit(value: Any, kind: pa.DataType) -> Any | None:
    """Return the value as a Python value of that column type, or `None` where it does not fit without loss."""
    natural = natural_type(value)
    if natural is None:
        return None
    value = value.item() if isinstance(value, np.generic) else value
    if natural == kind:
        return value
    if pa.types.is_integer(kind) and pa.types.is_integer(natural):
        bits = kind.bit_width - 1
        return value if -(1 << bits) <= value < 1 << bits else None
    if pa.types.is_floating(kind) and natural not in (pa.bool_(), pa.string(), pa.binary()):
        if pa.types.is_integer(natural) and abs(value) > _EXACT[kind]:
            return None  # some such ints are exact, but arrow casts none of them
        cast = float(np.float32(value)) if kind == pa.float32() else float(value)
        return cast if cast == value or value != value else None
    return None


def widened(kind: pa.DataType, value: Any) -> pa.DataType | None:
    """Return the smallest wider numeric type that holds the column's type and the value, or `None`."""
    natural = natural_type(value)
    if kind not in _WIDER or natural not in _WIDER:
        return None
    if pa.types.is_integer(kind) != pa.types.is_integer(natural):
        return pa.float64() if fit(value, pa.float64()) is not None else None
    wider = _WIDER[max(_WIDER.index(kind), _WIDER.index(natural))]
    return wider if fit(value, wider) is not None else None


@dataclass
class Fitted:
    """How a batch of user cells meets a table's schema.

    Args:
        added: New columns, in order.
        widened: Columns whose type must grow first.
        cells: For each row, the values that go to columns.
        extra: For each row, the values that go to `_extra`.
        clashes: For each key that goes there, what it is and why.
    """

    added: dict[str, pa.DataType] = field(default_factory=dict)
    widened: dict[str, pa.DataType] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    extra: list[dict[str, Any]] = field(default_factory=list)
    clashes: dict[str, str] = field(default_factory=dict)

    def tell(self) -> None:
        """Warn of what went to `_extra`; to be called once it is there, however often it was tried."""
        if self.clashes:
            warnings.warn(
                f"metadata of another type than its column is kept apart, in the JSON column `_extra`: {listing(self.clashes.values())}. "
                "get_episode_info() shows it in its place; use one type and one spelling for a key to have a typed column.",
                stacklevel=3,
            )


def fit_cells(
    schema: pa.Schema, rows: Iterable[Mapping[str, Any]], extremes: Callable[[str], Sequence[Any]] = lambda _: ()
) -> Fitted:
    """Decide where each cell of a batch goes; nothing is ever cast with loss, nothing is refused.

    Args:
        schema: Columns of the table now.
        rows: User cells of each row; `None` values are left out.
        extremes: Gives the smallest and largest value of a column: where both fit a wider type, all do.
    """
    result = Fitted()
    types = {name: schema.field(name).type for name in schema.names}
    spelling = {name.lower(): name for name in schema.names}
    for row in rows:
        cells: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, given in row.items():
            value = plain(given, key)
            if value is None:
                continue
            known = spelling.get(key.lower())
            if known is None and (kind := natural_type(value)) is not None:
                types[key] = result.added[key] = kind
                spelling[key.lower()] = known = key
            if known == key and fit(value, types[key]) is None and (wider := widened(types[key], value)) is not None:
                earlier = [before[key] for before in [*result.cells, cells] if key in before]
                if all(fit(number, wider) is not None for number in [*earlier, *extremes(key)]):
                    types[key] = wider
                    (result.added if key in result.added else result.widened)[key] = wider
            cell = fit(value, types[key]) if known == key else None
            if cell is not None:
                cells[key] = cell
            else:
                extra[key] = value.item() if isinstance(value, np.generic) else value
                result.clashes[key] = (
                    f"{key!r} ({type(value).__name__}) beside {known!r} ({types[known] if known else 'no such type'})"
                )
        result.cells.append(cells)
        result.extra.append(extra)
    return result


def extra_text(extra: Mapping[str, Any]) -> str | None:
    """Return the JSON text of an `_extra` cell; bytes go as latin-1 text."""
    if not extra:
        return None
    return json.dumps({k: v.decode("latin-1") if isinstance(v, bytes) else v for k, v in extra.items()}, ensure_ascii=False)


def extra_values(text: str | None) -> dict[str, Any]:
    """Return what an `_extra` cell holds.

    Raises:
        CorruptDataError: It is not what `extra_text` gives.
    """
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CorruptDataError(
            f"an episode's `_extra` cell of {len(text or '')} characters is no JSON object; fogx did not write it."
        )
    return values


def check_rows(table: pa.Table) -> pa.Table:
    """Return rows of the table, after looking for what no writer leaves out.

    Raises:
        ValueError: A row without id or number of steps, or with a negative one.
    """
    for name in ("episode_id", "num_steps"):
        if table[name].null_count:
            raise ValueError(f"{table[name].null_count} of {table.num_rows} rows have no {name}")
    if table.num_rows and pc.min(table["num_steps"]).as_py() < 0:
        raise ValueError("a row has a negative num_steps")
    return table


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with exactly the schema's columns: absent ones null, others cast."""
    if table.schema.equals(schema):
        return table
    names = set(table.column_names)
    columns = [_cast(table[f.name], f.type) if f.name in names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # Written values were checked; an int past 2**53 can only stand in rows that were deleted before their column widened.
    return column.cast(kind, safe=not (pa.types.is_integer(column.type) and pa.types.is_floating(kind)))
