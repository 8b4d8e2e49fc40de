"""One feature of an open episode: its dtype and shape, fixed by the first value, and all its values."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fogx.errors import FeatureError
from fogx.feature import LARGE, NUMERIC_DTYPES, Feature, fits_shape
from fogx.protocols import Column
from fogx.recording.cameras import camera_codec, looks_like_camera
from fogx.recording.encoding import encode, will_encode
from fogx.recording.frames import Frames
from fogx.recording.journal import Values
from fogx.recording.values import Value, read_value
from fogx.settings import config

Stored = np.ndarray | str | bytes

_PYTHON = {"float64": float, "int64": int, "bool": bool}
"""Python's own numbers, which numpy takes as these dtypes."""

_EXACT = 2**53
"""Up to here float64 holds every int."""

_FEW = 64
"""Values that there is room for at first."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked value, ready to append; making it changed nothing.

    Args:
        feature: The feature once this value is in it.
        stored: An array of exactly its dtype, a str, or bytes; for features in `frames` bytes, or an array to be encoded.
        loose: Whether it was Python numbers.
        missing_file: Whether it is text that looks like the name of an image file and names none.
    """

    feature: Feature
    stored: Stored
    loose: bool
    missing_file: bool

    @property
    def queued(self) -> int:
        """Bytes that wait for an encoder once it is appended."""
        if not self.feature.in_frames:
            return 0
        return self.stored.nbytes if isinstance(self.stored, np.ndarray) else len(self.stored)


class Channel:
    """Collects the values of one feature.

    Args:
        name: Name of the feature.
        declared: What the user declared about it; the first value fixes the rest.
        frames: Where its values go if they are encoded.
    """

    def __init__(self, name: str, declared: Feature | None, frames: Frames | None = None) -> None:
        self.name = name
        self.declared = declared or Feature()
        self.feature: Feature | None = None
        self._frames = frames or Frames()
        self._rows = array("q")
        self._numbers: np.ndarray | None = None
        self._objects: list[Stored] = []
        self._objects_bytes = 0
        self._told = 0
        self._widens = self.declared.dtype is None
        self._shape: tuple[int, ...] = ()
        self._scalar: type | None = None
        self._python: type | None = None

    def __len__(self) -> int:
        return len(self._line) if self._in_frames else len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are in memory as they are: of features in `frames` none."""
        return self._objects_bytes + (0 if self._numbers is None else len(self) * self._numbers[:1].nbytes)

    def mend(self) -> int:
        """Drop a value that Ctrl-C left half done; return the number of the last sample that has one, -1 where none has."""
        if self._in_frames:
            return int(self._line.last)
        if self._numbers is None:
            whole = min(len(self._rows), len(self._objects))
            del self._rows[whole:], self._objects[whole:]
        return self._rows[-1] if self._rows else -1

    def fits(self, value: object) -> bool:
        """Return whether a value is a number, or numbers, of exactly the dtype and shape that are kept: `put` takes it as it is."""
        numbers = self._numbers
        if numbers is None:
            return False
        kind = type(value)
        if kind is np.ndarray:
            return value.dtype == numbers.dtype and value.shape == self._shape  # type: ignore[attr-defined, no-any-return]
        if not self._shape:
            return kind is self._scalar or (kind is self._python and (kind is not int or -(1 << 63) <= value < 1 << 63))  # type: ignore[operator]
        if (kind is list or kind is tuple) and len(self._shape) == 1 and len(value) == self._shape[0]:  # type: ignore[arg-type]
            # A list of mixed kinds is left to `prepare`, as are ints, of which each could be too large.
            return self._python is not int and set(map(type, value)) == {self._python}  # type: ignore[call-overload]
        return False

    def put(self, row: int, value: Any) -> None:
        """Add a value of a sample, which `fits`."""
        self._store(row, value)
        if self._widens and type(value) not in (int, float, bool, list, tuple):
            self._widens = False

    def prepare(self, raw: object) -> Prepared:
        """Check a value against the feature; nothing is changed.

        What is kept in `frames` is encoded where that may still be refused: the first value of each shape in this process.

        Raises:
            FeatureError: Another dtype or shape than the feature's.
            FogxError: What `read_value` raises.
        """
        value = read_value(self.name, raw, (self.feature or self.declared).dtype)
        try:
            feature = self.feature or self._first(value)
        except FeatureError as error:
            raise FeatureError(f"feature {self.name!r}: {error}") from None
        if value.header is not None:
            self._check_image(value, feature)
            return Prepared(feature, value.content, False, False)
        content, feature = self._fit_dtype(value, feature)
        if not fits_shape(value.feature.shape or (), feature.shape or ()):
            raise self._mismatch(value, feature)
        if feature.encoding is None and _is_large(content):
            feature = replace(feature, encoding="zstd")
        return Prepared(feature, self._ready(content, feature), value.loose, value.missing_file)

    def append(self, row: int, prepared: Prepared, stamps_ns: Sequence[int] = ()) -> None:
        """Add a prepared value of a sample; earlier values follow where the feature widened or outgrew `steps`.

        Args:
            row: Number of the sample.
            prepared: The value.
            stamps_ns: Times of the samples so far, by number.
        """
        self._become(prepared.feature, stamps_ns)
        self._widens = self._widens and prepared.loose
        if prepared.feature.in_frames:
            assert not isinstance(prepared.stored, str)
            self._frames.encoding.submit(self._line, row, stamps_ns[row] if stamps_ns else 0, prepared.stored)
        elif self._numbers is not None:
            self._store(row, prepared.stored)
        else:
            self._rows.append(row)
            self._objects.append(prepared.stored)
            self._objects_bytes += _size(prepared.stored)

    def extend(self, values: Values) -> None:
        """Add many values, as `news` gave them."""
        self._become(values.feature, ())
        if self._numbers is None:
            self._objects += values.values
            self._objects_bytes += sum(map(_size, values.values))
        else:
            start, stop = len(self._rows), len(self._rows) + len(values.rows)
            while len(self._numbers) < stop:
                self._grow()
            self._numbers[start:stop] = values.values
        self._rows.extend(values.rows.tolist())

    def news(self) -> Values | None:
        """Return the values that came since the last call, copied, but for those in `frames`."""
        start, self._told = self._told, len(self._rows)
        if start == self._told or self.feature is None:
            return None
        rows = np.array(self._rows[start:], np.int64)
        values = self._objects[start:] if self._numbers is None else self._numbers[start : self._told].copy()
        return Values(self.name, self.feature, rows, values)

    def outgrow(self, after: Feature) -> Iterator[tuple[int, np.ndarray]]:
        """Make it a feature in `frames`; return the (sample, value) that it had, which are to be added anew."""
        had, none = zip(self._rows, map(_as_array, self._kept), strict=True), array("q")
        # All at once: Ctrl-C comes between calls, of which there is none here.
        self.feature, self._rows, self._objects, self._numbers, self._objects_bytes = after, none, [], None, 0
        return had

    @property
    def rows(self) -> np.ndarray:
        """`(N,)` int64, the sample of each value that is there."""
        return self._frames.values(self.name)[0] if self._in_frames else np.array(self._rows, np.int64)

    def renumber(self, row: Sequence[int]) -> None:
        """Give the samples other numbers, by the old one; `Frames` knows those of frames."""
        self._rows = array("q", [row[number] for number in self._rows])

    def column(self, length: int, place: np.ndarray | None = None) -> Column:
        """Return all values as a column; one value or more has been appended, and all are encoded.

        Args:
            length: Values in it.
            place: `(R,)` int, where the value of each sample goes; `None` for the sample's own number.
        """
        assert self.feature is not None
        rows, kept = self._frames.values(self.name) if self._in_frames else (np.array(self._rows, np.int64), self._objects)
        steps = rows if place is None else place[rows]
        valid = np.zeros(length, bool)
        valid[steps] = True
        if self._numbers is not None:
            values = np.zeros((length, *self._shape), self._numbers.dtype)
            values[steps] = self._numbers[: len(rows)]
        else:
            one_blob_each = self.feature.in_frames or self.feature.is_variable
            shape = () if one_blob_each else tuple(d for d in self.feature.shape or () if d is not None)
            values = np.empty((length, *shape), np.dtype(object))
            for step, value in zip(steps.tolist(), kept, strict=True):
                values[step] = value
        return Column(values, None if valid.all() else valid)

    @property
    def _kept(self) -> Iterable[Stored]:
        """The values that are in memory as they are, one of each of `_rows`."""
        return self._objects if self._numbers is None else self._numbers[: len(self._rows)]

    @property
    def _in_frames(self) -> bool:
        return self.feature is not None and self.feature.in_frames

    @property
    def _line(self) -> Any:
        assert self.feature is not None
        return self._frames.line(self.name, self.feature)

    def _store(self, row: int, value: Any) -> None:
        numbers = self._numbers
        assert numbers is not None
        count = len(self._rows)
        if count == len(numbers):
            numbers = self._grow()
        numbers[count] = value
        self._rows.append(row)

    def _become(self, after: Feature, stamps_ns: Sequence[int]) -> None:
        """Make the feature what it is with the next value."""
        before = self.feature
        if before is after or before == after:
            return
        numbers, objects, shape = self._numbers, self._objects, self._shape
        plain = after.dtype in NUMERIC_DTYPES and not after.in_frames and not after.is_variable
        if before is None and plain:
            shape = tuple(d for d in after.shape or () if d is not None)
            numbers = np.empty((_FEW, *shape), np.dtype(after.dtype))
        elif before is not None and before.encoding != after.encoding:
            self._move(after, stamps_ns)
            return
        elif before is not None and numbers is not None:
            numbers = numbers.astype(after.dtype)
        elif before is not None and before.dtype != after.dtype:
            objects = [np.asarray(v).astype(after.dtype) for v in objects]
        scalar = None if numbers is None else numbers.dtype.type
        python = _PYTHON.get(str(after.dtype))
        # Ctrl-C comes between calls, of which there is none here.
        self.feature, self._numbers, self._objects, self._shape = after, numbers, objects, shape
        self._scalar, self._python = scalar, python

    def _move(self, after: Feature, stamps_ns: Sequence[int]) -> None:
        """Let earlier values go to `frames`."""
        encoded = [encode(self.name, _as_array(value), after) for value in self._kept]
        frames = [(row, stamps_ns[row] if stamps_ns else 0, data) for row, data in zip(self._rows, encoded, strict=True)]
        line = self._frames.line(self.name, after)
        try:
            self.outgrow(after)
            self._frames.encoding.submit_first(line, frames)
        except BaseException:  # Ctrl-C must not take those that came before
            if self.feature is after:
                self._frames.encoding.submit_first(line, frames)
            raise
        finally:
            self._told = 0

    def _grow(self) -> np.ndarray:
        assert self._numbers is not None
        room = np.empty((len(self._numbers) * 3 // 2, *self._shape), self._numbers.dtype)
        room[: len(self._rows)] = self._numbers[: len(self._rows)]
        self._numbers = room
        return room

    def _first(self, value: Value) -> Feature:
        """Resolve the feature by its first value."""
        found, declared = value.feature, self.declared
        shape = found.shape if declared.shape is None else declared.shape
        feature = replace(declared, dtype=declared.dtype or found.dtype, shape=shape, encoding=found.encoding)
        if found.encoding is not None or not isinstance(value.content, np.ndarray) or value.content.dtype == object:
            return feature
        array = value.content
        camera = declared.camera or (declared.encoding if declared.is_image else None)
        if camera is None and (looks_like_camera(array) or (value.picture and array.dtype in (np.bool_, np.uint8, np.uint16))):
            camera = camera_codec(self.name, array)
        return replace(feature, encoding=camera)

    def _check_image(self, value: Value, feature: Feature) -> None:
        assert value.header is not None
        height, width, channels = value.header.shape
        if not feature.is_image or value.header.dtype != feature.dtype:
            raise self._mismatch(value, feature)
        if value.header.format != feature.encoding:
            raise FeatureError(
                f"feature {self.name!r} holds {feature.encoding} images since its first value, got {value.header.format} bytes. "
                "Decode them and add the array, or record them under another name."
            )
        shape = feature.shape or ()
        wanted = shape[2] if len(shape) == 3 else 1
        if (
            len(shape) not in (2, 3)
            or not fits_shape((height, width), shape[:2])
            or (wanted not in (None, channels) and (channels, wanted) != (1, 3))
        ):
            raise self._mismatch(value, feature)
        if height * width > config().max_pixels:
            raise FeatureError(
                f"feature {self.name!r}: an image declares {height * width} pixels, allowed are {config().max_pixels}. If it is "
                f"meant to be that large, call fox.config(max_pixels={height * width})."
            )

    def _fit_dtype(self, value: Value, feature: Feature) -> tuple[Stored, Feature]:
        """Return the content in the feature's dtype, and the feature, wider where Python floats follow Python ints."""
        content, got = value.content, value.feature.dtype
        text = feature.dtype in ("str", "bytes")
        if got == feature.dtype:
            return content, feature
        if not value.loose or not isinstance(content, np.ndarray):
            raise self._mismatch(value, feature)
        if content.size == 0:
            return content.astype(object if text else feature.dtype), feature
        if got == "float64" and feature.dtype in ("int64", "uint64") and self._widens and feature.encoding is None:
            earlier: Sequence[Stored] = self._objects if self._numbers is None else [self._numbers[: len(self)]]
            if any(_cast_exactly(np.asarray(v), "float64") is None for v in earlier):
                raise FeatureError(
                    f"feature {self.name!r}: a Python float after {len(self)} Python int(s), of which some are beyond 2**53 and "
                    "do not fit float64. Give ints only, or record the floats under another name."
                )
            return content, replace(feature, dtype="float64")
        cast = None if text else _cast_exactly(content, str(feature.dtype))
        if cast is None:
            raise self._mismatch(value, feature)
        return cast, feature

    def _ready(self, content: Stored, feature: Feature) -> Stored:
        """Return a value as it is kept, or as an encoder takes it."""
        if feature.encoding is None:
            return content
        if feature.camera == "png" and feature.encoding == "jpeg":
            raise FeatureError(
                f"feature {self.name!r} is declared camera='png' but holds JPEG bytes since its first value; an array would lose "
                "detail there. Record arrays under another name."
            )
        array = _as_array(content)
        return array if will_encode(array, feature) else encode(self.name, array, feature)

    def _mismatch(self, value: Value, feature: Feature) -> FeatureError:
        got = value.feature
        declared = self.declared.dtype is not None or self.declared.shape is not None
        by = " and ".join(["its declaration"] * declared + ["its first value"] * (self.feature is not None or not declared))
        return FeatureError(
            f"feature {self.name!r} is {_say(feature)} by {by}, got {_say(got)}. {self._remedy(value, got, feature)}"
        )

    def _remedy(self, value: Value, got: Feature, feature: Feature) -> str:
        if value.missing_file:
            return f"{value.content!r} names no file."
        text = "str" in (got.dtype, feature.dtype) or "bytes" in (got.dtype, feature.dtype)
        if text or (got.is_image and not feature.is_image):
            return "Record it under another name."
        if got.dtype != feature.dtype and fits_shape(got.shape or (), feature.shape or ()):
            if value.loose:
                return f"The numbers do not fit {feature.dtype} exactly; convert them, or declare Feature({got.dtype!r})."
            if "float" in str(got.dtype) and "int" in str(feature.dtype):
                return f"Scale and round it to {feature.dtype} first, or declare Feature({got.dtype!r})."
            return f"Convert it with numpy.asarray(value, {feature.dtype!r}), or declare Feature({got.dtype!r})."
        ours, theirs = feature.shape or (), got.shape or ()
        differ = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
        if len(ours) == len(theirs) and len(differ) == 1 and None not in ours:
            free = tuple(None if i == differ[0] else d for i, d in enumerate(ours))
            return f"If that dimension varies, declare Feature(shape={free})."
        if None not in ours and math.prod(d or 0 for d in ours) == math.prod(d or 0 for d in theirs):
            return f"Reshape it to {ours}."
        return "Record it under another name."


def _as_array(content: Stored) -> np.ndarray:
    if isinstance(content, np.ndarray):
        return content
    return np.frombuffer(content.encode() if isinstance(content, str) else content, np.uint8)


def _size(content: Stored) -> int:
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _is_large(content: Stored) -> bool:
    if isinstance(content, np.ndarray):
        # Lists of text stay in `steps`: zstd holds numbers and single texts.
        return content.dtype != object and content.nbytes > LARGE
    return len(content.encode() if isinstance(content, str) else content) > LARGE


def _say(feature: Feature) -> str:
    return f"{feature.dtype} of shape {feature.shape}" + (f" ({feature.encoding})" if feature.encoding else "")


def _cast_exactly(array: np.ndarray, dtype: str) -> np.ndarray | None:
    """Cast Python numbers: ints where they fit exactly, floats to any width that can hold them; `None` where that fails."""
    target = np.dtype(dtype)
    kinds = (array.dtype.kind.replace("u", "i"), target.kind.replace("u", "i"))
    if kinds == ("i", "i"):
        bounds = np.iinfo(target)
        inside = array.size == 0 or (int(array.min()) >= bounds.min and int(array.max()) <= bounds.max)
        return array.astype(target) if inside else None
    with np.errstate(over="ignore"):
        if kinds == ("i", "f"):
            cast = array.astype(target)
            if target == np.float64 and bool(((array <= _EXACT) & (array >= -_EXACT)).all()):
                return cast
            exact = bool(np.isfinite(cast).all()) and [int(v) for v in cast.flat] == [int(v) for v in array.flat]
            return cast if exact else None
        if kinds == ("f", "f"):
            cast = array.astype(target)
            return cast if np.array_equal(np.isfinite(cast), np.isfinite(array)) else None
    return None
