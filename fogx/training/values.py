"""What one value of a feature is in items: its dtype, its shape, and what stands where a step has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from fogx.feature import Feature
from fogx.training.images import channels_first


def wanted_dtype(feature: Feature, floats: str) -> np.dtype[Any]:
    """Return the dtype that items have: `floats` for floats, for others the feature's own."""
    own = np.dtype(feature.dtype)
    return np.dtype(floats) if own.kind == "f" else own


def wanted_shape(feature: Feature, image_size: tuple[int, int] | None) -> tuple[int | None, ...]:
    """Return the shape that values have before an image's channels go first."""
    declared = feature.shape or ()
    return (*image_size, *declared[2:]) if image_size is not None and feature.is_image else declared


def nothing(feature: Feature, floats: str, image_size: tuple[int, int] | None) -> Any:
    """Return what stands for a value that a step does not have: zeros, or empty text; dimensions that vary are 0."""
    shape = tuple(dimension or 0 for dimension in wanted_shape(feature, image_size))
    if feature.dtype in ("str", "bytes"):
        word = "" if feature.dtype == "str" else b""
        return np.full(shape, word, dtype=object) if shape else word
    value = np.zeros(shape, wanted_dtype(feature, floats))
    return channels_first(value, has_channels=len(shape) == 3) if feature.is_image else value
