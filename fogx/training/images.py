"""Pictures as training wants them: of one size, channels first. An array from a live camera becomes the same as a decoded one."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fogx.feature import Feature
from fogx.training.resize import smoothed

_NEAREST_NAMES = ("mask", "seg", "label", "depth")
"""Between two labels, or two distances, lies nothing."""


def is_smooth(name: str, feature: Feature) -> bool:
    """Return whether pixels may be mixed when the size changes: not of masks, labels and depth."""
    return feature.dtype == "uint8" and not any(word in name.rsplit("/", 1)[-1].lower() for word in _NEAREST_NAMES)


def resized(pixels: np.ndarray, size: tuple[int, int], *, smooth: bool) -> np.ndarray:
    """Return a picture in another size; one that has it already comes back as it is.

    Args:
        pixels: uint8, uint16 or bool (H, W) or (H, W, C), C up to 4.
        size: Height and width wanted.
        smooth: Bilinear, with antialias where it gets smaller, of uint8; else the nearest pixel.

    Returns:
        The same dtype and channels.
    """
    if pixels.shape[:2] == size:
        return pixels
    if smooth:
        return smoothed(pixels.reshape(*pixels.shape[:2], -1), size).reshape(*size, *pixels.shape[2:])
    flat = pixels.reshape(pixels.shape[:2]) if pixels.shape[2:] == (1,) else pixels
    image = Image.fromarray(np.ascontiguousarray(flat)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image, dtype=pixels.dtype).reshape(*size, *pixels.shape[2:])


def channels_first(pixels: np.ndarray, *, has_channels: bool) -> np.ndarray:
    """Return (…, H, W, C) or (…, H, W) as a view (…, C, H, W): moving the bytes takes a fifth of the time of decoding them.

    Args:
        pixels: One picture or many.
        has_channels: Whether the last axis is of channels.
    """
    return np.moveaxis(pixels, -1, -3) if has_channels else np.expand_dims(pixels, -3)
