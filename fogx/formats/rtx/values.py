"""One `tf.train.Example` to the columns and metadata of an episode."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from fogx import registry
from fogx.codecs.header import image_format, image_header
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import LARGE, Feature, Schema
from fogx.formats.rtx.features import TIMESTAMP, Field, Layout
from fogx.formats.rtx.tfds import part
from fogx.memory import Room
from fogx.protocols import Column, object_array
from fogx.settings import config


@dataclass(frozen=True)
class Content:
    """What one record holds."""

    schema: Schema
    columns: dict[str, Column]
    num_steps: int
    timestamps_ns: np.ndarray | None
    metadata: dict[str, Any]


def read_content(record: bytes, layout: Layout, where: str) -> Content:
    """Parse one serialised `tf.train.Example`; images stay the bytes that they are.

    Args:
        record: The record.
        layout: What `features.json` declares.
        where: File and record; begins every error.

    Raises:
        CorruptDataError: The record does not hold what `features.json` declares; names the feature.
        FeatureError: A feature whose images are of formats that fogx cannot keep.
    """
    try:
        entries = part("proto").tf_example_pb2.Example.FromString(record).features.feature
    except import_module("google.protobuf.message").DecodeError:
        raise CorruptDataError(f"{where}: its {len(record)} bytes are not a tf.train.Example.") from None
    try:
        num_steps = _count_steps(entries, layout.steps)
        steps = {f.column: _column(entries, f, num_steps, in_steps=True) for f in layout.steps}
        episode = {f.column: _column(entries, f, 1, in_steps=False) for f in layout.episode}
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error} The record does not fit its features.json.") from error
    except FeatureError as error:
        raise FeatureError(f"{where}: {error}") from error
    times = steps.pop(TIMESTAMP, None)
    schema = Schema(
        {name: feature for name, (feature, _) in steps.items()},
        {f.column: (f.path, episode[f.column][0]) for f in layout.episode},
    )
    return Content(
        schema,
        {name: column for name, (_, column) in steps.items()},
        num_steps,
        None if times is None or times[1].valid is not None else times[1].values,
        {name: _cell(column.values[0]) for name, (_, column) in episode.items() if column.valid is None},
    )


def _cell(value: Any) -> Any:
    """Return an episode's value as metadata: arrays of text as lists, since metadata holds arrays of numbers only."""
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value


def _entry(entries: Any, field: Field, suffix: str = "") -> Any:
    """Return the values of one key, `None` where the record has none; an empty list counts as there."""
    entry = entries.get(field.path + suffix)
    kind = None if entry is None else entry.WhichOneof("kind")
    if kind is None:
        return None
    if field.kind == "number":
        wanted = "float_list" if field.dtype.startswith("float") and not suffix.endswith("lengths_0") else "int64_list"
    else:
        wanted = "int64_list" if suffix.endswith("lengths_0") else "bytes_list"
    values = getattr(entry, kind).value
    if kind != wanted and len(values):
        raise CorruptDataError(f"feature {field.path!r} is kept as {kind}, {wanted} is declared.")
    return values if kind == wanted else ()


def _ragged(field: Field) -> bool:
    return field.path.startswith("steps/") and field.rank > 0


def _values(entries: Any, field: Field) -> Any:
    return _entry(entries, field, "/ragged_flat_values" if _ragged(field) else "")


def _per_step(field: Field) -> int | None:
    """Return how many entries of the record make one value, `None` where that varies or tells nothing of the steps."""
    return 1 if field.kind in ("image", "blob") and not field.rank else (field.size or None)


def _count_steps(entries: Any, fields: Sequence[Field]) -> int:
    first: tuple[str, int] | None = None
    for field in fields:
        if _ragged(field):
            values, size = _entry(entries, field, "/ragged_row_lengths_0"), 1
        else:
            values, size = _values(entries, field), _per_step(field) or 0
        if values is None or not size:
            continue
        count, rest = divmod(len(values), size)
        if rest:
            raise CorruptDataError(f"feature {field.path!r} has {len(values)} elements, no multiple of the {size} of one step.")
        if first is not None and count != first[1]:
            raise CorruptDataError(f"feature {field.path!r} has {count} steps, {first[0]!r} has {first[1]}.")
        first = first or (field.path, count)
    return first[1] if first else 0


def _column(entries: Any, field: Field, count: int, *, in_steps: bool) -> tuple[Feature, Column]:
    """Return one field as a column of `count` values, with its feature resolved."""
    values = _values(entries, field)
    if values is None:
        if field.optional:
            feature, column = _missing(field, count)
            return _stored(feature, column) if in_steps else (feature, column)
        if count and _per_step(field):
            raise CorruptDataError(f"feature {field.path!r} is missing.")
        values = ()
    if field.kind == "image":
        feature, column = _images(field, list(values), count)
    elif field.kind in ("text", "bytes"):
        feature, column = _texts(entries, field, list(values), count)
    else:
        numbers = _blobs(field, list(values)) if field.kind == "blob" else _numbers(field, values)
        feature, column = _feature(field, field.dtype, field.shape), Column(_shaped(entries, field, numbers, count))
    return _stored(feature, column) if in_steps else (feature, column)


def _feature(field: Field, dtype: str, shape: tuple[int | None, ...] | None, encoding: str | None = None) -> Feature:
    return Feature(dtype, shape, doc=field.doc, encoding=encoding)


def _missing(field: Field, count: int) -> tuple[Feature, Column]:
    numbers = field.kind in ("number", "blob") and field.size is not None
    Room().take(f"feature {field.path!r}", count * (field.size or 0) * (np.dtype(field.dtype).itemsize if numbers else 8), 0)
    shape = () if field.size is None else tuple(d for d in field.shape if d is not None)
    values = np.zeros((count, *shape), np.dtype(field.dtype if numbers else object))
    return _feature(field, field.dtype, field.shape), Column(values, np.zeros(count, bool))


def _numbers(field: Field, values: Any) -> np.ndarray:
    if field.dtype.startswith("float"):
        with np.errstate(over="ignore"):
            floats: np.ndarray = np.array(values, np.float32).astype(field.dtype, copy=False)
        return floats
    wide = np.array(values, np.int64)
    if field.dtype == "uint64":  # kept as the int64 of the same bits
        return wide.view(np.uint64)
    if field.dtype == "bool":
        return wide.astype(bool)
    narrow = wide.astype(field.dtype, copy=False)
    if narrow is not wide and not np.array_equal(narrow, wide):
        raise CorruptDataError(
            f"feature {field.path!r} holds {int((narrow != wide).sum())} numbers that do not fit {field.dtype}."
        )
    return narrow


def _blobs(field: Field, values: list[bytes]) -> np.ndarray | list[np.ndarray]:
    dtype = np.dtype(field.dtype)
    own = field.shape[field.rank :]
    row = math.prod(d for d in own if d is not None) * dtype.itemsize
    size = None if None in own else row
    data = _inflated(field, values, size) if field.zlib else values
    wrong = [len(d) for d in data if (len(d) != size if size is not None else len(d) % max(row, 1))]
    if wrong:
        raise CorruptDataError(
            f"feature {field.path!r} has {len(wrong)} values of {wrong[0]} bytes or so; {field.dtype} {own} takes "
            f"{row if size is not None else f'a multiple of {row}'}."
        )
    if size is None:
        return [_from_bytes(d, dtype) for d in data]
    return _from_bytes(b"".join(data), dtype)


def _from_bytes(data: bytes, dtype: np.dtype) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype.newbyteorder("<"))
    return raw != 0 if dtype == np.bool_ else raw.astype(dtype)


def _inflated(field: Field, values: list[bytes], size: int | None) -> list[bytes]:
    """Decompress no more than a value can have, and values no more than there is room for."""
    limit = size if size is not None else config().max_pixels * np.dtype(field.dtype).itemsize
    room, result = Room(), []
    for data in values:
        try:
            stream = zlib.decompressobj()
            out = stream.decompress(data, limit + 1)
        except zlib.error as error:
            raise CorruptDataError(f"feature {field.path!r} cannot be decompressed: {error}.") from None
        if len(out) > limit or not stream.eof:
            raise CorruptDataError(f"feature {field.path!r} has a compressed value that ends early or is over {limit} bytes.")
        room.take(f"feature {field.path!r}", len(out), len(data))
        result.append(out)
    return result


def _texts(entries: Any, field: Field, values: list[bytes], count: int) -> tuple[Feature, Column]:
    dtype, items = "bytes", object_array(values)
    if field.kind == "text":
        try:
            items = object_array([v.decode() for v in values])
            dtype = "str"
        except UnicodeDecodeError:  # kept as it is, for this episode as bytes
            pass
    return _feature(field, dtype, field.shape), Column(_shaped(entries, field, items, count))


def _shaped(entries: Any, field: Field, flat: np.ndarray | list[np.ndarray], count: int) -> np.ndarray:
    """Cut the elements of all values into `(count, *shape)`, or into an object array of arrays where the shape varies."""
    if isinstance(flat, list):  # blobs of varying length are cut already
        if len(flat) != count:
            raise CorruptDataError(f"feature {field.path!r} has {len(flat)} values, {count} are declared.")
        return object_array([_reshape(field, piece) for piece in flat])
    lengths = None
    if _ragged(field):
        lengths = np.array(_entry(entries, field, "/ragged_row_lengths_0") or (), np.int64)
        if len(lengths) != count or (lengths < 0).any() or (field.shape[0] is not None and (lengths != field.shape[0]).any()):
            raise CorruptDataError(f"feature {field.path!r} has row lengths that do not fit its {count} steps.")
    size = field.size
    if size is not None:
        if flat.size != count * size:
            raise CorruptDataError(f"feature {field.path!r} has {flat.size} elements, {count} × {size} are declared.")
        return flat.reshape(count, *(d for d in field.shape if d is not None))
    row = field.known
    counts = np.full(count, flat.size // max(count, 1)) if lengths is None else lengths * row
    if counts.sum() != flat.size or (row and (counts % row).any()):
        raise CorruptDataError(
            f"feature {field.path!r} has {flat.size} elements, which {count} values of {field.shape} cannot have."
        )
    ends = np.cumsum(counts)
    return object_array([_reshape(field, flat[end - n : end]) for n, end in zip(counts, ends, strict=True)])


def _reshape(field: Field, flat: np.ndarray) -> np.ndarray:
    row = field.known
    return flat.reshape([(flat.size // row if row else 0) if d is None else d for d in field.shape])


def _images(field: Field, values: list[bytes], count: int) -> tuple[Feature, Column]:
    if len(values) != count:
        raise CorruptDataError(f"feature {field.path!r} has {len(values)} images, {count} are declared.")
    valid = np.array([bool(v) for v in values], bool)
    there = [v for v in values if v]
    formats = sorted({image_format(v) or "other" for v in there})
    if "other" in formats or len(formats) > 1:
        raise FeatureError(
            f"feature {field.path!r} holds images as {' and '.join(formats)}; fogx keeps one of JPEG and PNG in an episode."
        )
    shape = _image_shape(field, there)
    column = Column(object_array(values), None if valid.all() else valid)
    if field.dtype != "float32":
        return _feature(field, field.dtype, shape, formats[0] if formats else "png"), column
    return _float_images(field, shape, column)


def _image_shape(field: Field, images: list[bytes]) -> tuple[int | None, ...] | None:
    """Return the declared shape with unknown dimensions taken from the images; `None` where both sides vary."""
    # One header stands for all where nothing is unknown: reading every header costs as much as reading the record.
    probed = images if None in field.shape else images[:1]
    seen = []
    for image in probed:
        try:
            seen.append(image_header(image).shape)
        except CorruptDataError as error:
            raise CorruptDataError(f"feature {field.path!r}: {error}") from None
    if len(field.shape) != 3:
        raise FeatureError(f"feature {field.path!r} is an image of shape {field.shape}; fogx keeps images of (H, W, channels).")
    for found in sorted(set(seen)):
        if any(want not in (None, got) for want, got in zip(field.shape[:2], found, strict=False)):
            raise CorruptDataError(f"feature {field.path!r} is declared as {field.shape}, an image has {found}.")
    sides = [{s[axis] for s in seen} for axis in (0, 1)]
    height, width = (
        d if d is not None else next(iter(s)) if len(s) == 1 else None for d, s in zip(field.shape, sides, strict=False)
    )
    return None if height is None and width is None else (height, width, field.shape[2])


def _float_images(field: Field, shape: tuple[int | None, ...] | None, column: Column) -> tuple[Feature, Column]:
    """Unpack what TFDS keeps as PNG with the four bytes of a float32 as the channels of a pixel."""
    if shape is None or None in shape:
        raise FeatureError(f"feature {field.path!r} holds float32 images of several sizes; fogx reads those of one size.")
    height, width, _ = shape
    there = sum(map(len, column.values))
    Room().take(f"feature {field.path!r}", len(column.values) * math.prod(d or 0 for d in shape) * 4, there)
    packed = Feature("uint8", (height, width, 4))
    out = np.zeros((len(column.values), *(d for d in shape if d is not None)), np.float32)
    png = registry.get("codecs", "png")
    for i, data in enumerate(column.values):
        if data:
            out[i] = png.decode(data, packed).view("<f4")
    return _feature(field, "float32", shape), Column(out, column.valid)


def _stored(feature: Feature, column: Column) -> tuple[Feature, Column]:
    """Compress the values of a column whose values are large; such are kept in `frames`."""
    values = column.values
    text = feature.dtype in ("str", "bytes")
    if feature.in_frames or (text and feature.shape != ()):
        return feature, column
    if values.dtype != object:
        largest = values[:1].nbytes
    elif text and 4 * max((len(v) for v in values if v), default=0) <= LARGE:  # no character takes more than 4 bytes
        largest = 0
    else:
        largest = max((_as_array(v).nbytes for v in values if v is not None), default=0)
    if largest <= LARGE:
        return feature, column
    encode = registry.get("codecs", "zstd").encode
    blobs = [encode(_as_array(v)) if ok else b"" for v, ok in zip(values, column.mask, strict=True)]
    return Feature(feature.dtype, feature.shape, doc=feature.doc, encoding="zstd"), Column(object_array(blobs), column.valid)


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, (str, bytes)):
        return np.frombuffer(value.encode() if isinstance(value, str) else value, np.uint8)
    return np.asarray(value)
