"""What a feature is: its dtype, shape, meaning and how it is stored; and the ordered schema of an episode."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from fogx.errors import FeatureError, FeatureNotFoundError, did_you_mean, listing

NUMERIC_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
DTYPES = (*NUMERIC_DTYPES, "str", "bytes")

LARGE = 16 * 1024
"""Values of more bytes go to `frames`, losslessly compressed, never to `steps`."""

STEP_KEYS = ("episode_id", "step_index", "timestamp_ns")
"""fogx's own columns of every step; no feature may take these names."""

SIGNALS = ("is_first", "is_last", "is_terminal", "reward", "discount")
"""RLDS names of the per-step signals."""


@dataclass(frozen=True)
class Feature:
    """What the numbers of one named channel mean.

    Declare it once on the dataset (`fox.Dataset(features={...})`) or per episode; everything left out is taken from the first
    value. A declaration never changes a value: one that does not fit is an error at `add`.

    Args:
        dtype: A numpy dtype or its name (`"float32"`, `np.uint8`), `"str"` or `"bytes"`.
        shape: Shape of one value; `()` for scalars. One dimension may be `None`: it then varies from value to value.
        names: Names of the elements, first dimension (`("x", "y", "z")`).
        unit: Unit of the numbers (`"m"`, `"rad"`).
        space: What is measured or commanded (`"joint_position"`, `"eef_delta"`).
        frame: Reference frame (`"base"`, `"wrist_camera"`).
        rotation: Rotation convention (`"euler_xyz"`, `"quat_xyzw"`).
        gripper: Gripper polarity (`"1=open"`).
        camera: `"jpeg"` or `"png"` makes the feature a camera kept in that codec; `None` decides from the values.
        doc: A sentence for people.
        encoding: How stored values are encoded in `frames` (`"jpeg"`, `"png"`, `"zstd"`); `None` for values kept in `steps`.
            Set by fogx; read it from a schema.

    Raises:
        FeatureError: An unknown dtype, a negative dimension, or more than one `None` in the shape.
    """

    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    names: tuple[str, ...] | None = field(default=None, kw_only=True)
    unit: str | None = field(default=None, kw_only=True)
    space: str | None = field(default=None, kw_only=True)
    frame: str | None = field(default=None, kw_only=True)
    rotation: str | None = field(default=None, kw_only=True)
    gripper: str | None = field(default=None, kw_only=True)
    camera: str | None = field(default=None, kw_only=True)
    doc: str | None = field(default=None, kw_only=True)
    encoding: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.dtype is not None:
            object.__setattr__(self, "dtype", _dtype_name(self.dtype))
        if self.shape is not None:
            object.__setattr__(self, "shape", _shape(self.shape))
        if self.names is not None:
            object.__setattr__(self, "names", tuple(str(n) for n in self.names))
            if self.shape and self.shape[0] is not None and len(self.names) != self.shape[0]:
                raise FeatureError(
                    f"names has {len(self.names)} entries, the first dimension of shape {self.shape} has {self.shape[0]}."
                )
        if self.camera not in (None, "jpeg", "png"):
            raise FeatureError(f"camera={self.camera!r} is not a codec; use 'jpeg' (lossy), 'png' (lossless) or None.")
        if self.camera == "jpeg" and self.dtype not in (None, "uint8"):
            raise FeatureError(f"camera='jpeg' holds uint8 only, dtype is {self.dtype}; use camera='png'.")

    def __repr__(self) -> str:
        given = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) is not None)
        return f"Feature({given})"

    @property
    def is_image(self) -> bool:
        """Whether stored values are encoded images."""
        return self.encoding in ("jpeg", "png")

    @property
    def in_frames(self) -> bool:
        """Whether values live in `frames`, one encoded blob a value."""
        return self.encoding is not None

    @property
    def is_variable(self) -> bool:
        """Whether the shape has a dimension that varies."""
        return self.shape is not None and None in self.shape

    def declared_over(self, other: Feature) -> Feature:
        """Return `other` with every field that is set here taken from here."""
        return replace(other, **{f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None})

    def describe(self) -> str:
        """Return `float32(7)`-like text for messages and reprs."""
        dims = "×".join("?" if d is None else str(d) for d in self.shape or ())
        text = f"{self.dtype}({dims})" if dims else str(self.dtype)
        return f"{text} {self.encoding}" if self.encoding else text

    def to_dict(self) -> dict[str, Any]:
        """Return the set fields as plain JSON types."""
        return {k: (list(v) if isinstance(v, tuple) else v) for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Feature:
        """Build a feature from `to_dict`; keys of later versions are ignored."""
        known = {f.name for f in fields(cls)}
        kwargs: dict[str, Any] = {k: (tuple(v) if isinstance(v, list) else v) for k, v in data.items() if k in known}
        return cls(**kwargs)


@dataclass(frozen=True)
class Schema(Mapping[str, Feature]):
    """The features of an episode, in order, as a mapping from name to a resolved `Feature`.

    Args:
        features: Per-step features.
        episode_fields: Fields that the source keeps once an episode: metadata column → (path in the source, feature).
    """

    features: Mapping[str, Feature]
    episode_fields: Mapping[str, tuple[str, Feature]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Feature:
        try:
            return self.features[name]
        except KeyError:
            raise FeatureNotFoundError(
                f"no feature {name!r}; there are: {listing(self.features)}.{did_you_mean(name, self.features)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.schema_id == other.schema_id

    def __hash__(self) -> int:
        return hash(self.schema_id)

    def __repr__(self) -> str:
        return "Schema(" + ", ".join(f"{k}: {f.describe()}" for k, f in self.features.items()) + ")"

    @functools.cached_property
    def json(self) -> str:
        """Canonical JSON text; order of the features is part of it."""
        body: dict[str, Any] = {"features": [[k, f.to_dict()] for k, f in self.features.items()]}
        if self.episode_fields:
            body["episode_fields"] = [[k, p, f.to_dict()] for k, (p, f) in self.episode_fields.items()]
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"))

    @functools.cached_property
    def schema_id(self) -> str:
        """First 32 hex digits of the SHA-256 of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:32]

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """Parse what `json` gives."""
        body = json.loads(text)
        return cls(
            {k: Feature.from_dict(f) for k, f in body["features"]},
            {k: (p, Feature.from_dict(f)) for k, p, f in body.get("episode_fields", [])},
        )


def role_of(name: str) -> str:
    """Return the role that a feature's name gives it: `action`, `language`, `signal` or `observation`."""
    head = name.split("/", 1)[0]
    if head == "action":
        return "action"
    if head in SIGNALS:
        return "signal"
    return "language" if name.rsplit("/", 1)[-1].startswith(("language_", "natural_language_")) else "observation"


def fits_shape(got: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    """Return whether a shape is one that `wanted` allows; its `None` dimensions allow any size."""
    return len(got) == len(wanted) and all(w in (None, g) for g, w in zip(got, wanted, strict=True))


def check_feature_name(name: object) -> str:
    """Return `name` if a feature may have it.

    Raises:
        FeatureError: Not a str, empty, over 200 characters, with an empty or control part, or one of fogx's step columns.
    """
    if not isinstance(name, str):
        raise FeatureError(f"a feature name is a str, not {type(name).__name__}.")
    if name in STEP_KEYS:
        raise FeatureError(f"feature name {name!r} is one of fogx's own step columns ({listing(STEP_KEYS)}); choose another.")
    if not name or len(name) > 200 or any(not part for part in name.split("/")) or not name.isprintable():
        raise FeatureError(
            f"feature name {name[:80]!r} is not usable: give 1–200 printable characters, parts separated by single '/'."
        )
    return name


def check_declared(features: object) -> dict[str, Feature]:
    """Return a copy of declarations by name.

    Raises:
        FeatureError: Not a dict of `Feature`, or a name that cannot be used.
    """
    if not isinstance(features, Mapping):
        raise FeatureError(f"features= is a dict of fox.Feature by name, found {type(features).__name__}.")
    for name, feature in features.items():
        check_feature_name(name)
        if not isinstance(feature, Feature):
            raise FeatureError(f"features=: {name!r} is declared by a {type(feature).__name__}; give fox.Feature(dtype, shape).")
    return dict(features)


def _dtype_name(dtype: object) -> str:
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    if dtype in (str, bytes):
        return "str" if dtype is str else "bytes"
    try:
        name = np.dtype(dtype).name  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):  # numpy parses some texts as Python
        name = ""
    if name not in NUMERIC_DTYPES:
        raise FeatureError(f"dtype {dtype!r} is not one a feature can have; use one of: {listing(DTYPES, most=20)}.")
    return str(name)


def _shape(shape: object) -> tuple[int | None, ...]:
    try:
        dims = tuple(None if d is None else int(d) for d in ((shape,) if isinstance(shape, int) else shape))  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise FeatureError(f"shape {shape!r} is not a tuple of ints and None.") from None
    if any(d is not None and d < 0 for d in dims) or dims.count(None) > 1:
        raise FeatureError(f"shape {dims} is not usable: dimensions are >= 0 and at most one is None (it then varies).")
    return dims
