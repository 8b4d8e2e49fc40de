"""What an export declares: the fields of its `features.json`, made from a schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fogx.errors import FeatureError, SchemaMismatchError
from fogx.feature import Feature, Schema
from fogx.formats.rtx.features import TIMESTAMP
from fogx.formats.rtx.tfds import part

SIGNALS: dict[str, Feature] = {
    "is_first": Feature("bool", (), doc="True on the first step of the episode."),
    "is_last": Feature("bool", (), doc="True on the last step of the episode."),
    "is_terminal": Feature("bool", (), doc="True on the last step where the episode did not fail."),
    "reward": Feature("float32", (), doc="1 on the last step where the episode did not fail, else 0."),
    "discount": Feature("float32", (), doc="Always 1."),
    "language_instruction": Feature("str", (), doc="What was to be done."),
}
"""Step features that every RLDS dataset has; made up where the schema lacks them."""

_NOT_IN_EXAMPLES = ("float64", "uint64")
"""Dtypes that tf.train.Example's float32 and int64 lists cannot hold exactly."""


@dataclass(frozen=True)
class Target:
    """One leaf to write.

    Args:
        path: Where it goes, `steps/` included.
        column: Where its values come from: step column or metadata key.
        feature: Dtype and shape.
        form: How TFDS keeps one value: `"image"` (its bytes), `"blob"` (the bytes of its numbers), `"plain"`.
    """

    path: str
    column: str
    feature: Feature
    form: str

    @property
    def in_steps(self) -> bool:
        """Whether there is one value a step."""
        return self.path.startswith("steps/")


def targets(schema: Schema, metadata_features: Mapping[str, Feature], *, timestamps: bool) -> list[Target]:
    """Return all leaves of an export, each at the path that it came from.

    Args:
        schema: Step features and fields of the episode.
        metadata_features: Further fields of the episode; they go under `episode_metadata/`.
        timestamps: Whether `timestamp_ns` is written.

    Raises:
        SchemaMismatchError: Two leaves of one path, or one that is also a folder of others; names both.
        FeatureError: A feature that TFDS cannot hold.
    """
    steps = {**schema.features, **{name: f for name, f in SIGNALS.items() if name not in schema.features}}
    if timestamps:
        steps[TIMESTAMP] = Feature("int64", (), doc="Time of the step in nanoseconds.")
    episode = [(path, column, feature) for column, (path, feature) in schema.episode_fields.items()]
    episode += [(f"episode_metadata/{key.removeprefix('episode_metadata/')}", key, f) for key, f in metadata_features.items()]
    # Checked apart: a field of the episode called `steps/x` would become one of the steps.
    found = [_target("steps", "steps", Feature("bool", ()))]
    found += [_target(path, column, feature) for path, column, feature in episode]
    _check_paths(found)
    found = [_target(f"steps/{name}", name, feature) for name, feature in steps.items()] + found[1:]
    _check_paths(found)
    return found


def features_dict(leaves: Iterable[Target]) -> Any:
    """Return the `tfds.features.FeaturesDict` of an export."""
    library = part("core.features")
    tree = _nest({leaf.path: _connector(leaf) for leaf in leaves})
    return library.FeaturesDict({**tree, "steps": library.Dataset(tree["steps"])})


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts for paths separated by `/`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def _check_paths(leaves: Iterable[Target]) -> None:
    by_path: dict[str, Target] = {}
    for leaf in leaves:
        if leaf.path in by_path:
            raise SchemaMismatchError(
                f"{by_path[leaf.path].column!r} and {leaf.column!r} would both be written as {leaf.path!r}. Rename one of them."
            )
        by_path[leaf.path] = leaf
    for path, leaf in by_path.items():
        parents = [path[:i] for i, c in enumerate(path) if c == "/"]
        clash = next((by_path[p] for p in parents if p in by_path), None)
        if clash is not None:
            raise SchemaMismatchError(
                f"{clash.column!r} is a value, and {leaf.column!r} would lie inside it: RLDS nests names at '/'. "
                f"Rename one of them, or leave one out."
            )


def _target(path: str, column: str, feature: Feature) -> Target:
    return Target(path, column, feature, _form(path, feature))


def _form(path: str, feature: Feature) -> str:
    # TFDS has no images of bools; as numbers they keep their dtype.
    if feature.is_image and feature.dtype != "bool":
        return "image"
    if feature.dtype in ("str", "bytes") or feature.shape is None:
        if feature.shape is None or None in feature.shape[1:]:
            raise FeatureError(
                f"feature {path!r} is {feature.dtype} of shape {feature.shape}, which TFDS cannot hold. Leave it out."
            )
        return "plain"
    sequence = feature.shape[:1] == (None,)
    # TensorFlow reads no tensor in steps that has an unknown dimension or no elements, unless it is kept as bytes.
    needs_bytes = feature.dtype in _NOT_IN_EXAMPLES or (feature.is_variable and not sequence) or 0 in feature.shape
    if needs_bytes and feature.dtype == "uint32":
        raise FeatureError(
            f"feature {path!r} is uint32 of shape {feature.shape}, which TensorFlow cannot read; convert it to int64 or leave it out."
        )
    return "blob" if needs_bytes else "plain"


def _connector(leaf: Target) -> Any:
    library, feature = part("core.features"), leaf.feature
    if leaf.form == "image":
        return library.Image(
            shape=image_shape(feature), dtype=np.dtype(str(feature.dtype)), encoding_format=feature.encoding, doc=feature.doc
        )
    shape = feature.shape or ()
    if feature.dtype == "str" and shape == ():
        return library.Text(doc=feature.doc)
    dtype = np.object_ if feature.dtype in ("str", "bytes") else np.dtype(str(feature.dtype))
    if leaf.form == "blob":
        return library.Tensor(shape=shape, dtype=dtype, encoding="bytes", doc=feature.doc)
    if shape[:1] == (None,):
        return library.Sequence(library.Tensor(shape=shape[1:], dtype=dtype), doc=feature.doc)
    return library.Tensor(shape=shape, dtype=dtype, doc=feature.doc)


def image_shape(feature: Feature) -> tuple[int | None, int | None, int]:
    """Return (H, W, channels) as TFDS declares it; gray images of (H, W) have one channel there."""
    if feature.shape is None:
        return (None, None, 1 if feature.dtype == "uint16" else 3)
    height, width, *channels = feature.shape
    return (height, width, (channels[0] or 3) if channels else 1)


def empty_shape(feature: Feature) -> tuple[int, ...]:
    """Return the shape of a value that stands for a missing one: nothing along dimensions that vary."""
    return tuple(d or 0 for d in feature.shape or ())
