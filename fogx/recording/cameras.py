"""Which arrays are camera images, and how a new one is encoded."""

from __future__ import annotations

import numpy as np

from fogx.settings import config

MIN_SIDE = 32
"""Smaller arrays are step data, not images, unless declared."""

FEW_COLOURS = 256
"""Up to so many colours a picture is drawn, not photographed: masks, labels, icons. Real camera images have thousands."""

_LOSSLESS_NAMES = ("mask", "seg", "label", "depth")
_SAMPLE = 64


def looks_like_camera(array: np.ndarray) -> bool:
    """Return whether an undeclared array is an image: uint8 (H, W, 3), uint8 or uint16 (H, W), each side from `MIN_SIDE`."""
    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    plane = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    return (colour or plane) and min(array.shape[:2]) >= MIN_SIDE


def camera_codec(name: str, array: np.ndarray) -> str:
    """Choose the codec of an undeclared camera by its first image: `fox.config().image` for photographs, else lossless PNG.

    Lossless are all but uint8 RGB, features named mask, seg, label or depth, and images of few colours (at most `FEW_COLOURS`
    in a grid of about 64×64 of their pixels; a black first image counts, as it may be an empty mask).
    """
    photo = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not photo or any(word in name.lower() for word in _LOSSLESS_NAMES) or _colours(array) <= FEW_COLOURS:
        return "png"
    return config().image


def _colours(image: np.ndarray) -> int:
    rows, columns = (-(-side // _SAMPLE) for side in image.shape[:2])
    sample = image[::rows, ::columns].astype(np.uint32)
    return len(np.unique(sample[..., 0] << 16 | sample[..., 1] << 8 | sample[..., 2]))
