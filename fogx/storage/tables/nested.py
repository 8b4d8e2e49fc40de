"""Episode metadata that does not fit a table cell (arrays, dicts, lists), as JSON text for the `index` row."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fogx.errors import CorruptDataError, MetadataError
from fogx.feature import NUMERIC_DTYPES

_ARRAY = "__array__"


def split_metadata(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (values of one cell, nested values). A 0-d array counts as its scalar."""
    cells, nested = {}, {}
    for key, value in metadata.items():
        if isinstance(value, np.ndarray) and value.ndim == 0:
            cells[key] = value[()]
        elif isinstance(value, (np.ndarray, Mapping, list, tuple)):
            nested[key] = value
        else:
            cells[key] = value
    return cells, nested


def encode_nested(nested: Mapping[str, Any]) -> str:
    """Return JSON text; arrays keep dtype, shape and bits.

    Raises:
        MetadataError: A value of another type, or a key that is not a str; names the key.
    """
    return json.dumps({key: _plain(value, key) for key, value in nested.items()}, ensure_ascii=False, allow_nan=True)


def decode_nested(text: str | None) -> dict[str, Any]:
    """Return what `encode_nested` was given (tuples as lists)."""
    return {key: _rich(value) for key, value in json.loads(text or "{}").items()}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.name not in NUMERIC_DTYPES:
            raise MetadataError(f"metadata {where!r}: arrays of dtype {value.dtype} cannot be stored; use numbers or bools.")
        data = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
        body = {"dtype": value.dtype.name, "shape": list(value.shape), "data": base64.b64encode(data.tobytes()).decode()}
        return {_ARRAY: body}
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value) or _ARRAY in value:
            raise MetadataError(f"metadata {where!r}: keys of a dict must be str, and not {_ARRAY!r}.")
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise MetadataError(
        f"metadata {where!r}: a {type(value).__name__} cannot be stored; use bool, int, float, str, arrays, lists or dicts of them."
    )


def _rich(value: Any) -> Any:
    if isinstance(value, list):
        return [_rich(v) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_ARRAY}:
        return {k: _rich(v) for k, v in value.items()}
    body = value[_ARRAY]
    if body["dtype"] not in NUMERIC_DTYPES:
        raise CorruptDataError(
            f"stored metadata declares an array of dtype {str(body['dtype'])[:40]!r}, which fogx never writes."
        )
    data = np.frombuffer(base64.b64decode(body["data"]), np.dtype(body["dtype"]).newbyteorder("<"))
    return data.reshape(body["shape"]).astype(body["dtype"])
