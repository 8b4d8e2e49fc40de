"""Turns what a user gives to `add` into one of four plain things: a numeric array, an array of text, an encoded image, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fogx.codecs.header import ImageHeader, image_format, image_header
from fogx.errors import CorruptDataError, DatasetNotFoundError, FeatureError, FeatureTypeError, StorageError, listing
from fogx.feature import LARGE, NUMERIC_DTYPES, Feature

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_TAKEN = (
    "numbers, bool, str, bytes, numpy arrays of " + listing(NUMERIC_DTYPES, most=20) + ", lists of these, dicts, torch tensors, "
    "PIL images and pathlib.Path of a JPEG or PNG file"
)


@dataclass(frozen=True)
class Value:
    """One value as it was given, copied; no rule of its feature is applied yet.

    Args:
        content: A numeric array of native byte order, an object array of str or of bytes, a str, or bytes.
        header: What an encoded image declares; `content` is then its bytes.
        picture: Whether it was given as an image object: then it is a camera at any size.
        loose: Whether it consists of Python numbers, which have no dtype of their own to keep.
        missing_file: Whether it is a str that looks like the name of an image file and names none.
    """

    content: np.ndarray | str | bytes
    header: ImageHeader | None = None
    picture: bool = False
    loose: bool = False
    missing_file: bool = False

    @property
    def feature(self) -> Feature:
        """Dtype and shape of this one value."""
        if self.header is not None:
            return Feature(self.header.dtype, self.header.shape, encoding=self.header.format)
        if isinstance(self.content, str):
            return Feature("str", ())
        if isinstance(self.content, bytes):
            return Feature("bytes", ())
        if self.content.dtype != object:
            return Feature(self.content.dtype.name, self.content.shape)
        return Feature("str" if isinstance(self.content.flat[0], str) else "bytes", self.content.shape)


def read_ahead(name: str, value: object) -> object:
    """Copy a large array, before others have to wait for it; return what `read_value` takes: that copy, or the value as it is."""
    if type(value) is np.ndarray and value.nbytes > LARGE and value.dtype.name in NUMERIC_DTYPES:
        return Value(_array(name, value))
    return value


def read_value(name: str, value: object, dtype: str | None) -> Value:
    """Take one value, copying it.

    Args:
        name: Feature it is for; named by the errors.
        value: What the user gave, or `read_ahead` made of it; not a dict.
        dtype: Dtype of the feature as far as it is known. For `"str"` no file is looked for, for `"bytes"` no image.

    Raises:
        FeatureTypeError: A type or dtype that no feature can hold.
        FeatureError: A ragged list, a Python int beyond 64 bits, None, or a path to a file that is no image.
        DatasetNotFoundError: A `pathlib.Path` that names no file.
        StorageError: A file that cannot be read.
        CorruptDataError: JPEG or PNG bytes without a readable header.
    """
    if isinstance(value, Value):
        return value
    if value is None:
        raise FeatureError(f"feature {name!r}: None is not a value. Leave the feature out of this step instead.")
    if isinstance(value, str):
        return _text(name, str(value), dtype)
    if isinstance(value, Path):
        return _file(name, value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(name, bytes(value), dtype)
    if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic):
        return Value(_numbers(name, value), loose=True)
    if isinstance(value, (list, tuple)):
        return _sequence(name, value)
    if _is_picture(value):
        return Value(_array(name, _pixels(name, value)), picture=True)
    return _from_array(name, _as_numpy(name, value))


def _text(name: str, text: str, dtype: str | None) -> Value:
    _check_text(name, text)
    if dtype == "str" or not text.lower().endswith(IMAGE_SUFFIXES):
        return Value(text)
    path = Path(text)
    try:
        found = path.is_file()
    except (OSError, ValueError):  # too long for a file name, or with a NUL
        found = False
    return _file(name, path) if found else Value(text, missing_file=True)


def _check_text(name: str, text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FeatureError(
                f"feature {name!r}: character {error.start} of the text is a lone surrogate, which UTF-8 cannot hold. "
                "Give the text as bytes."
            ) from None


def _file(name: str, path: Path) -> Value:
    if not path.exists():
        raise DatasetNotFoundError(f"feature {name!r}: there is no file {str(path)!r} (looked from {str(Path.cwd())!r}).")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"feature {name!r}: file {str(path)!r} cannot be read: {error.strerror}.") from error
    if image_format(data) is None:
        raise FeatureError(f"feature {name!r}: file {str(path)!r} is neither JPEG nor PNG. Read it yourself and add its values.")
    return _image(name, data)


def _bytes(name: str, data: bytes, dtype: str | None) -> Value:
    return Value(data) if dtype == "bytes" or image_format(data) is None else _image(name, data)


def _image(name: str, data: bytes) -> Value:
    try:
        return Value(data, header=image_header(data))
    except CorruptDataError as error:
        raise CorruptDataError(f"feature {name!r}: {error} To keep the bytes as they are, declare Feature('bytes').") from None


def _sequence(name: str, value: list[Any] | tuple[Any, ...]) -> Value:
    plain = _plain(name, value)
    kinds = {_kind(leaf) for leaf in _leaves(plain)}
    if kinds - {"python", "array"}:
        if len(kinds) > 1:
            raise FeatureTypeError(
                f"feature {name!r}: a list mixes {listing(sorted(kinds))}; give one kind, or one feature each."
            )
        array = np.array(plain, dtype=object)
        if any(isinstance(item, list) for item in array.flat):
            raise _ragged(name)
        if "str" in kinds:
            for text in array.flat:
                _check_text(name, text)
        return Value(array)
    return Value(_numbers(name, plain), loose="array" not in kinds)


def _plain(name: str, value: Any) -> Any:
    """Return nested lists whose leaves are Python numbers, str, bytes or numeric arrays."""
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, np.generic) or not isinstance(value, (bool, int, float, str, bytes)):
        if isinstance(value, (str, bytes)):
            return value.item()  # type: ignore[union-attr]
        return _array(name, _as_numpy(name, value))
    return value


def _leaves(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list):
            yield from _leaves(item)
        else:
            yield item


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return "array"
    return type(leaf).__name__ if isinstance(leaf, (str, bytes)) else "python"


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.array(value)
    except ValueError:
        raise _ragged(name) from None
    except OverflowError:
        raise _too_large(name) from None
    ints_only = array.dtype.kind in "Of" and isinstance(value, (int, list)) and array.size > 0 and _only_ints(value)
    if array.dtype == object or ints_only:
        raise _too_large(name)
    return array


def _only_ints(value: Any) -> bool:
    return all(isinstance(leaf, int) for leaf in (_leaves(value) if isinstance(value, list) else (value,)))


def _is_picture(value: object) -> bool:
    # By the name of the class's package: Pillow need not be imported to know one of its images.
    return any(c.__module__.partition(".")[0] == "PIL" for c in type(value).__mro__) and hasattr(value, "getbands")


def _pixels(name: str, image: Any) -> np.ndarray:
    try:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
            image = image.convert("RGB")
        return np.array(image)
    except (OSError, SyntaxError) as error:
        raise FeatureError(f"feature {name!r}: the image cannot be read: {error}.") from error


def _as_numpy(name: str, value: Any) -> np.ndarray:
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            return np.asarray(value.detach().cpu().numpy())
        if hasattr(value, "__array__") and not isinstance(value, np.ma.MaskedArray):
            return np.asarray(value)
    except (TypeError, RuntimeError) as error:
        raise FeatureTypeError(f"feature {name!r}: {type(value).__name__} cannot become a numpy array: {error}.") from None
    raise FeatureTypeError(f"feature {name!r}: {type(value).__name__} is not a value that can be recorded; these are: {_TAKEN}.")


def _from_array(name: str, array: np.ndarray) -> Value:
    if array.dtype.kind in "US":
        texts = array.astype(object)
        return Value(texts) if array.ndim and array.size else Value(array.item()) if not array.ndim else _no_text(name)
    return Value(_array(name, array))


def _array(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.name not in NUMERIC_DTYPES:
        raise FeatureTypeError(
            f"feature {name!r}: dtype {array.dtype} is not one that can be recorded; these are: "
            f"{listing(NUMERIC_DTYPES, most=20)}, and text."
        )
    return np.array(array, dtype=np.dtype(array.dtype.name), order="C")


def _no_text(name: str) -> Value:
    raise FeatureError(f"feature {name!r}: an array of text without elements has no dtype to record; leave it out of this step.")


def _ragged(name: str) -> FeatureError:
    return FeatureError(f"feature {name!r}: the parts of a list have unlike lengths. Pad them, or give each part as a feature.")


def _too_large(name: str) -> FeatureError:
    return FeatureError(f"feature {name!r}: a Python int does not fit into 64 bits. Give it as text or as a float.")
