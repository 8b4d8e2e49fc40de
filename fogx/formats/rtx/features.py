"""What `features.json` declares, as a flat list of fields."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from fogx.errors import CorruptDataError, FeatureError, NotADatasetError, listing
from fogx.feature import NUMERIC_DTYPES, STEP_KEYS, check_feature_name
from fogx.formats.rtx.tfds import part, read_text
from fogx.settings import config

logger = logging.getLogger("fogx")

TIMESTAMP = "timestamp_ns"
"""Step feature that holds the times of the steps, in datasets that fogx exported."""

_CLASSES = "tensorflow_datasets.core.features."
_TYPED = ("tensor", "image", "video", "audio")
_TEXT = ("string", "object", "str", "bytes")


@dataclass(frozen=True)
class Field:
    """One declared leaf.

    Args:
        path: Key in the `tf.train.Example`, `steps/` included.
        column: Name in fogx: of the step feature, or of the episode's metadata.
        kind: `"number"`, `"text"`, `"bytes"`, `"image"`, or `"blob"`: a tensor kept as the bytes of its numbers.
        dtype: Name of the dtype; `"str"` for text.
        shape: Shape of one value, dimensions of sequences first.
        rank: How many dimensions are sequences.
        zlib: Whether a blob is compressed.
        optional: Whether it may be left out of a record.
        doc: Description, where there is one.
    """

    path: str
    column: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    rank: int
    zlib: bool
    optional: bool
    doc: str | None

    @property
    def size(self) -> int | None:
        """Elements of one value; `None` where a dimension varies."""
        return None if None in self.shape else self.known

    @property
    def known(self) -> int:
        """Elements of one value along the dimensions that do not vary."""
        return math.prod(d for d in self.shape if d is not None)


@dataclass(frozen=True)
class Layout:
    """All fields of a dataset.

    Args:
        steps: Fields of the steps, in order of their paths.
        episode: Fields kept once an episode, likewise.
    """

    steps: tuple[Field, ...]
    episode: tuple[Field, ...]


def read_layout(folder: str) -> Layout:
    """Return the fields that a builder folder's `features.json` declares; parsed once for each state of the file.

    Raises:
        CorruptDataError: The file cannot be understood.
        NotADatasetError: It declares no steps, so it is no RLDS dataset.
        FeatureError: A feature that fogx cannot hold, or one of a class that is not TFDS's own; names it.
    """
    path = os.path.join(folder, "features.json")
    return _read_layout(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _read_layout(path: str, _state: int) -> Layout:
    library = part("core.features")
    json_errors = import_module("google.protobuf.json_format")
    try:
        tree = json.loads(read_text(path))
        _check_names(path, tree, "")
        features = library.FeatureConnector.from_json(tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, json_errors.ParseError) as error:
        if isinstance(error, FeatureError):
            raise
        raise CorruptDataError(f"{path}: is not a features.json: {type(error).__name__}: {error}.") from error
    names = sorted(features.keys()) if isinstance(features, library.FeaturesDict) else []
    if "steps" not in names or not isinstance(features["steps"], library.Sequence):
        raise NotADatasetError(f"{path}: declares no sequence 'steps', so it is no RLDS dataset. It declares: {listing(names)}.")
    specs = dict(_flat(features.get_serialized_info(), ""))
    fields = [_field(path, *leaf, specs) for leaf in _leaves(features, "", None)]
    steps = [f for f in fields if f.path.startswith("steps/")]
    columns = [f.column for f in steps]
    twice = [c for c in columns if columns.count(c) > 1]
    if twice:
        raise FeatureError(f"{path}: two features would be called {twice[0]!r}; rename one of them in features.json.")
    for field in steps:
        if field.column != field.path.removeprefix("steps/"):
            logger.info("%s: step feature %r is read as %r", path, field.path.removeprefix("steps/"), field.column)
    return Layout(tuple(steps), tuple(_renamed([f for f in fields if not f.path.startswith("steps/")])))


def _check_names(path: str, node: Any, where: str) -> None:
    """Refuse classes and dtypes that TFDS would import a module for: opening a dataset runs no code that it names."""
    if isinstance(node, list):
        for item in node:
            _check_names(path, item, where)
    if not isinstance(node, dict):
        return
    for key in ("json", "content"):
        # TFDS parses these strings as JSON of features again.
        if isinstance(text := node.get(key), str) and text.lstrip()[:1] in ("{", "["):
            _check_names(path, json.loads(text), where)
    legacy = node.get("type") if "content" in node else None
    for name in (node.get("pythonClassName"), node.get("python_class_name"), legacy):
        if isinstance(name, str) and not name.startswith(_CLASSES):
            raise FeatureError(
                f"{path}: feature {where!r} is of class {name[:120]!r}; fogx reads only TFDS's own ({_CLASSES}*), since another "
                "would be imported, and so run, because a data file names it."
            )
    dtype = node.get("dtype")
    is_class = any(isinstance(node.get(key), str) for key in ("pythonClassName", "python_class_name"))  # else names of features
    typed = [content for key in _TYPED if is_class and isinstance(content := node.get(key), dict)]
    if any(not isinstance(content.get("dtype"), str) for content in typed):
        dtype = ""  # TFDS would import TensorFlow to ask it what that means
    if isinstance(dtype, str) and dtype not in NUMERIC_DTYPES + _TEXT:
        raise FeatureError(
            f"{path}: feature {where!r} has dtype {dtype[:80]!r}; fogx holds {listing(NUMERIC_DTYPES, most=20)} and text."
        )
    for key, value in node.items():
        named = isinstance(value, dict) and ("pythonClassName" in value or "type" in value)
        _check_names(path, value, f"{where}/{key}".strip("/") if named and key != "feature" else where)


def _flat(specs: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(specs, dict):
        for key, inner in specs.items():
            yield from _flat(inner, f"{path}/{key}".strip("/"))
    else:
        yield path, specs


def _leaves(feature: Any, path: str, doc: str | None) -> Iterator[tuple[str, Any, str | None]]:
    """Yield (path, feature, description) of every leaf; one without a description takes that of its sequence."""
    # Sorted: the map in features.json has no order, and a schema must be the same in every process.
    library = part("core.features")
    if isinstance(feature, library.FeaturesDict):
        for key in sorted(feature.keys()):
            yield from _leaves(feature[key], f"{path}/{key}".strip("/"), None)
    elif isinstance(feature, library.Sequence):
        yield from _leaves(feature.feature, path, feature.doc.desc or doc)
    else:
        yield path, feature, feature.doc.desc or doc


def _field(file: str, path: str, feature: Any, doc: str | None, specs: dict[str, Any]) -> Field:
    library = part("core.features")
    in_steps = path.startswith("steps/")
    own = feature.get_tensor_info()
    # Tensors with several unknown dimensions keep two entries; `value` stands for both until they are refused below.
    spec = specs[path] if path in specs else specs[f"{path}/value"]
    rank = spec.sequence_rank - in_steps
    dtype, stored = np.dtype(own.np_dtype).name, np.dtype(spec.np_dtype).name
    text = dtype not in NUMERIC_DTYPES
    shape = (*spec.shape[in_steps : spec.sequence_rank], *own.shape)
    kind = "text" if text else "number" if stored in NUMERIC_DTYPES else "blob"
    if isinstance(feature, library.Image):
        kind = "bytes" if rank else "image"
        shape = shape[:rank] if rank else shape
    unknown = shape[1:] if rank else ()
    if math.prod(d for d in shape if d) > config().max_pixels or any(d is not None and d < 0 for d in shape):
        raise CorruptDataError(
            f"{file}: feature {path!r} has values of shape {shape}, allowed are {config().max_pixels} elements. If they are meant to "
            "be that large, call fox.config(max_pixels=...)."
        )
    if kind != "image" and (shape.count(None) > 1 or None in unknown):
        raise FeatureError(
            f"{file}: feature {path!r} has shape {shape}; fogx holds one varying dimension, and in sequences only the first. "
            "Remove it from features.json to read the others."
        )
    times = (path, kind, dtype, shape) == (f"steps/{TIMESTAMP}", "number", "int64", ())
    return Field(
        path=path,
        column=path if not in_steps else TIMESTAMP if times else _step_column(path.removeprefix("steps/")),
        kind=kind,
        dtype="bytes" if kind == "bytes" else "str" if text else dtype,
        shape=shape,
        rank=rank,
        zlib=kind == "blob" and feature.to_json_content().encoding == "zlib",
        optional=bool(spec.optional),
        doc=doc or None,
    )


def _step_column(name: str) -> str:
    """Return the name of a step feature: its own, or, where that is one of fogx's step columns, one under `source/`."""
    return check_feature_name(f"source/{name}" if name in STEP_KEYS else name)


def _renamed(fields: list[Field]) -> Iterator[Field]:
    """Put fields of the episode under `episode_metadata/`, where most are already."""
    own = {f.path for f in fields}
    for field in fields:
        column = field.path
        if not column.startswith("episode_metadata/"):
            column = f"episode_metadata/{column}"
            column = f"episode_metadata/top_level/{field.path}" if column in own else column
        yield replace(field, column=column)
