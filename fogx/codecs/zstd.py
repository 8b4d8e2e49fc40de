"""zstd: any array, losslessly: an npy header and the raw numbers, compressed."""

from __future__ import annotations

import io
import math
import tokenize

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import NUMERIC_DTYPES, Feature, fits_shape
from fogx.settings import config


class ZstdCodec:
    """Encodes arrays of every numeric dtype and any shape, bit for bit.

    Text and bytes go in as the 1-D uint8 array of their bytes and come out, by the feature's dtype, as a 0-d object array.
    """

    def encode(self, value: np.ndarray) -> bytes:
        """Encode one array.

        Raises:
            FeatureError: Not a numeric dtype, or more elements than `fox.config().max_pixels`.
        """
        limit = config().max_pixels
        if value.dtype.name not in NUMERIC_DTYPES:
            raise FeatureError(f"zstd holds numeric arrays, found dtype {value.dtype}.")
        if value.size > limit:
            raise FeatureError(
                f"a value of {value.size} elements is over the limit of {limit}; call fox.config(max_pixels={value.size})."
            )
        out = io.BytesIO()
        # order="C" and the native little-endian dtype: one layout to read back.
        npy.write_array(out, np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C"), (1, 0), allow_pickle=False)
        data: bytes = pa.compress(out.getvalue(), codec="zstd", asbytes=True)
        return data

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        """Decode one value.

        The npy header is checked against `feature` first; no more is decompressed than it declares.

        Returns:
            Array of the feature's dtype and shape (its `None` dimensions as stored); a 0-d object array for str and bytes.

        Raises:
            CorruptDataError: Not decodable, or of another dtype or size than the feature's.
        """
        text = feature.dtype in ("str", "bytes")
        wanted = Feature("uint8", (None,)) if text else feature
        try:
            with pa.input_stream(pa.py_buffer(data), compression="zstd") as stream:
                array = _read(stream, wanted)
                rest = stream.read(1)
        except (
            OSError,
            ValueError,
            LookupError,
            SyntaxError,
            TypeError,
            MemoryError,
            RecursionError,
            tokenize.TokenError,
        ) as error:
            if isinstance(error, CorruptDataError):
                raise
            raise CorruptDataError(f"zstd value of {len(data)} bytes cannot be decoded: {error}.") from None
        if rest:
            raise CorruptDataError(f"zstd value holds more than its declared {array.nbytes} bytes.")
        return _text(array, str(feature.dtype)) if text else array


def _read(stream: pa.NativeFile, feature: Feature) -> np.ndarray:
    if npy.read_magic(stream) != (1, 0):
        raise CorruptDataError("zstd value has an npy header of another version than 1.0.")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    fits = feature.shape is None or fits_shape(shape, feature.shape)
    if dtype.name not in NUMERIC_DTYPES or feature.dtype not in (None, dtype.name) or not fits or fortran:
        raise CorruptDataError(f"zstd value declares {dtype} {shape}, the feature is {feature.dtype} {feature.shape}.")
    limit = config().max_pixels
    if any(d < 0 for d in shape) or math.prod(shape) > limit:
        raise CorruptDataError(
            f"zstd value declares {math.prod(shape)} elements, allowed are {limit}. "
            f"If it is meant to be that large, call fox.config(max_pixels={max(1, math.prod(shape))})."
        )
    array = np.empty(shape, dtype)
    room = array.reshape(-1).view(np.uint8)
    filled = stream.readinto(room) if room.size else 0
    if filled != room.size:
        raise CorruptDataError(f"zstd value ends after {filled} of its declared {room.size} bytes.")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _text(array: np.ndarray, dtype: str) -> np.ndarray:
    raw = array.tobytes()
    out = np.empty((), object)
    try:
        out[()] = raw.decode() if dtype == "str" else raw
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"zstd value of {len(raw)} bytes is not UTF-8 text: {error.reason} at {error.start}.") from None
    return out
