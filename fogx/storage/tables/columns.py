"""`Column`s to arrow arrays and back, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from fogx.feature import Feature
from fogx.protocols import Column, object_array

_SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "str": pa.string(),
    "bytes": pa.binary(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_NUMPY = {arrow: name for name, arrow in _SCALARS.items() if name not in ("bool", "str", "bytes")}


def arrow_type(feature: Feature) -> pa.DataType:
    """Return the type of a feature's column in `steps`.

    Scalars are plain; arrays are fixed-size lists of their elements in C order (the true shape is in the schema); arrays of
    varying shape, or with no elements, are lists; features kept in `frames` are int32 frame numbers within the episode.
    """
    if feature.in_frames:
        return pa.int32()
    element = _SCALARS[str(feature.dtype)]
    if feature.shape == ():
        return element
    size = _size(feature)
    return pa.list_(element, size) if size else pa.list_(element)


def to_arrow(column: Column, feature: Feature) -> pa.Array:
    """Return the array of a column that stays in `steps`."""
    values, valid, kind = column.values, column.valid, arrow_type(feature)
    missing = None if valid is None else pa.array(~valid)
    if feature.is_variable:
        flat = [np.ravel(v) if ok else None for v, ok in zip(values, column.mask, strict=True)]
        return pa.array(flat, kind)
    elements = np.ascontiguousarray(values).reshape(-1)
    if not pa.types.is_nested(kind):
        if feature.dtype in ("str", "bytes"):
            return pa.array([v if ok else None for v, ok in zip(elements, column.mask, strict=True)], kind)
        return pa.array(elements, kind, mask=None if valid is None else ~valid)
    if feature.dtype in ("str", "bytes"):
        elements = np.array([_empty(feature) if v is None else v for v in elements], dtype=object)
    child = pa.array(elements, kind.value_type)
    size = _size(feature)
    if size:
        return pa.FixedSizeListArray.from_arrays(child, size, mask=missing)
    offsets = pa.array(np.zeros(len(values) + 1, np.int32))
    return pa.ListArray.from_arrays(offsets, child, mask=missing)


def from_arrow(array: pa.Array | pa.ChunkedArray, feature: Feature) -> Column:
    """Return the column that `to_arrow` made an array of; the values are read-only views where that is possible."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    valid = None if array.null_count == 0 else numpy_view(array.is_valid())
    if feature.is_variable:
        return Column(object_array([_shaped(v.values, feature) if v.is_valid else None for v in array]), valid)
    rows, shape = len(array), tuple(d for d in feature.shape or () if d is not None)
    if isinstance(array, pa.FixedSizeListArray):
        size = array.type.list_size
        array = array.values.slice(array.offset * size, rows * size)
    elif isinstance(array, pa.ListArray):
        array = array.values.slice(0, 0)
    if feature.dtype in ("str", "bytes"):
        return Column(object_array(array.to_pylist()).reshape(rows, *shape), valid)
    return Column(numpy_view(array).reshape(rows, *shape), valid)


def frame_numbers(column: Column) -> pa.Array:
    """Return the int32 frame number of each step of a feature kept in `frames`; null where the step has none."""
    valid = column.mask
    if column.frames is not None:
        return pa.array(column.frames.astype(np.int32), pa.int32(), mask=~valid)
    return pa.array(np.cumsum(valid, dtype=np.int32) - np.int32(1), pa.int32(), mask=~valid)


def _size(feature: Feature) -> int:
    return 0 if feature.is_variable else math.prod(d for d in feature.shape or () if d is not None)


def _empty(feature: Feature) -> str | bytes:
    return "" if feature.dtype == "str" else b""


def _shaped(values: pa.Array, feature: Feature) -> np.ndarray:
    shape = [-1 if d is None else d for d in feature.shape or ()]
    if len(values) == 0:
        shape = [0 if d is None else d for d in feature.shape or ()]
    if feature.dtype in ("str", "bytes"):
        return object_array(values.to_pylist()).reshape(shape)
    return numpy_view(values).reshape(shape)


def arrow_view(values: np.ndarray) -> pa.Array:
    """Return whole numbers as an arrow array of int64.

    Arrow's own `array` imports pandas, which training workers do without.
    """
    numbers = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def numpy_view(array: pa.Array) -> np.ndarray:
    """Return numbers or bools as numpy, without a copy but for bools; what stands under a null is unspecified.

    Arrow's own `to_numpy` imports pandas, which training workers do without.
    """
    start, stop = array.offset, array.offset + len(array)
    data = array.buffers()[1] or b""
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=stop if data else 0, bitorder="little")
        return bits[start:stop].astype(bool)
    return np.frombuffer(data, _NUMPY[array.type])[start:stop]
