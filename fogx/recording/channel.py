"""One feature of an open episode: its dtype and shape, fixed by the first value, and all its values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fogx.errors import FeatureError
from fogx.feature import LARGE, Feature, fits_shape
from fogx.protocols import Column
from fogx.recording.cameras import camera_codec, looks_like_camera
from fogx.recording.values import Value, read_value
from fogx.registry import get as plugin
from fogx.settings import config

Stored = np.ndarray | str | bytes


@dataclass(frozen=True)
class Prepared:
    """A checked value, ready to append; making it changed nothing.

    Args:
        feature: The feature once this value is in it.
        stored: An array of exactly its dtype, a str, or bytes (encoded for features in `frames`).
        loose: Whether it was Python numbers.
        missing_file: Whether it is text that looks like the name of an image file and names none.
    """

    feature: Feature
    stored: Stored
    loose: bool
    missing_file: bool


class Channel:
    """Collects the values of one feature.

    Args:
        name: Name of the feature.
        declared: What the user declared about it; the first value fixes the rest.
    """

    def __init__(self, name: str, declared: Feature | None) -> None:
        self.name = name
        self.declared = declared or Feature()
        self.feature: Feature | None = None
        self.nbytes = 0
        self._rows: list[int] = []
        self._values: list[Stored] = []
        self._widens = self.declared.dtype is None

    def __len__(self) -> int:
        return len(self._values)

    def prepare(self, raw: object) -> Prepared:
        """Check a value against the feature and encode it where it goes to `frames`; nothing is changed.

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
        return Prepared(feature, self._encode(content, feature), value.loose, value.missing_file)

    def append(self, row: int, prepared: Prepared) -> None:
        """Add a prepared value of a sample; earlier values follow where the feature widened or outgrew `steps`."""
        before, after = self.feature, prepared.feature
        if before is not None and before.dtype != after.dtype:
            self._values = [np.asarray(v).astype(after.dtype) for v in self._values]
        if before is not None and before.encoding != after.encoding:
            self._values = [self._encode(v, after) for v in self._values]
        self.feature = after
        self._widens = self._widens and prepared.loose
        self._rows.append(row)
        self._values.append(prepared.stored)
        self.nbytes += prepared.stored.nbytes if isinstance(prepared.stored, np.ndarray) else len(prepared.stored)

    def column(self, length: int, place: np.ndarray | None = None) -> Column:
        """Return all values as a column; one value or more has been appended.

        Args:
            length: Values in it.
            place: `(R,)` int, where the value of each sample goes; `None` for the sample's own number.
        """
        assert self.feature is not None
        steps = np.array(self._rows) if place is None else place[self._rows]
        valid = np.zeros(length, bool)
        valid[steps] = True
        one_blob_each = self.feature.in_frames or self.feature.is_variable
        shape = () if one_blob_each else tuple(d for d in self.feature.shape or () if d is not None)
        if one_blob_each or self.feature.dtype in ("str", "bytes"):
            values = np.empty((length, *shape), np.dtype(object))
            for step, value in zip(steps.tolist(), self._values, strict=True):
                values[step] = value
        else:
            values = np.zeros((length, *shape), np.dtype(self.feature.dtype))
            values[steps] = np.stack([np.asarray(v) for v in self._values])
        return Column(values, None if valid.all() else valid)

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
            if any(_cast_exactly(np.asarray(v), "float64") is None for v in self._values):
                raise FeatureError(
                    f"feature {self.name!r}: a Python float after {len(self)} Python int(s), of which some are beyond 2**53 and "
                    "do not fit float64. Give ints only, or record the floats under another name."
                )
            return content, replace(feature, dtype="float64")
        cast = None if text else _cast_exactly(content, str(feature.dtype))
        if cast is None:
            raise self._mismatch(value, feature)
        return cast, feature

    def _encode(self, content: Stored, feature: Feature) -> Stored:
        if feature.encoding is None:
            return content
        if feature.camera == "png" and feature.encoding == "jpeg":
            raise FeatureError(
                f"feature {self.name!r} is declared camera='png' but holds JPEG bytes since its first value; an array would lose "
                "detail there. Record arrays under another name."
            )
        if not isinstance(content, np.ndarray):
            content = np.frombuffer(content.encode() if isinstance(content, str) else content, np.uint8)
        try:
            data: bytes = plugin("codecs", feature.encoding).encode(content)
        except FeatureError as error:
            raise FeatureError(f"feature {self.name!r}: {error}") from None
        return data

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
            exact = bool(np.isfinite(cast).all()) and [int(v) for v in cast.flat] == [int(v) for v in array.flat]
            return cast if exact else None
        if kinds == ("f", "f"):
            cast = array.astype(target)
            return cast if np.array_equal(np.isfinite(cast), np.isfinite(array)) else None
    return None
