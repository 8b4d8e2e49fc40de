"""What an encoded image declares about itself, read without decoding a pixel."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import simplejpeg

from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature, fits_shape
from fogx.settings import config

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels by PNG colour type; a palette counts as the three that it stands for."""


@dataclass(frozen=True)
class ImageHeader:
    """Declared properties of an encoded image.

    Args:
        format: `"jpeg"` or `"png"`.
        shape: (H, W, C).
        dtype: `"uint8"` or `"uint16"`.
    """

    format: str
    shape: tuple[int, int, int]
    dtype: str


def image_format(data: bytes) -> str | None:
    """Return `"jpeg"` or `"png"` by the first bytes, `None` for anything else."""
    if data.startswith(_JPEG_MAGIC):
        return "jpeg"
    return "png" if data.startswith(_PNG_MAGIC) else None


def image_header(data: bytes) -> ImageHeader:
    """Read what an encoded image declares; no pixel is decoded.

    Raises:
        CorruptDataError: Neither JPEG nor PNG, or a header that cannot be parsed.
    """
    match image_format(data):
        case "jpeg":
            return _jpeg_header(data)
        case "png":
            return _png_header(data)
    raise CorruptDataError(f"{len(data)} bytes that start with {data[:8].hex(' ') or 'nothing'} are neither JPEG nor PNG.")


def checked_header(data: bytes, feature: Feature, format: str) -> ImageHeader:
    """Read the header and check, before any pixel is decoded, that the image is what `feature` declares.

    Args:
        data: Encoded image.
        feature: Its shape (H, W) or (H, W, C) and dtype; `None` dimensions, shape or dtype fit anything.
        format: The format it must have.

    Raises:
        CorruptDataError: Another format, size or dtype, or more pixels than `fox.config().max_pixels`.
    """
    header = image_header(data)
    height, width, _ = header.shape
    limit = config().max_pixels
    if header.format != format:
        raise CorruptDataError(f"found a {header.format} image where the feature holds {format}.")
    if height * width > limit:
        raise CorruptDataError(
            f"the image declares {height}×{width} = {height * width} pixels, allowed are {limit}. "
            f"If it is meant to be that large, call fox.config(max_pixels={height * width})."
        )
    if feature.shape is not None and (len(feature.shape) not in (2, 3) or not fits_shape((height, width), feature.shape[:2])):
        raise CorruptDataError(f"the image declares {height}×{width} pixels, the feature has shape {feature.shape}.")
    return header


def check_encodable(value: np.ndarray) -> None:
    """Refuse what decoding would refuse later.

    Raises:
        FeatureError: No elements, or more pixels than `fox.config().max_pixels`.
    """
    limit = config().max_pixels
    pixels = value.shape[0] * value.shape[1] if value.ndim > 1 else value.size
    if value.size == 0:
        raise FeatureError(f"an image of shape {value.shape} has no pixels; leave the step without a value instead.")
    if pixels > limit:
        raise FeatureError(f"an image of {pixels} pixels is over the limit of {limit}; call fox.config(max_pixels={pixels}).")


def _jpeg_header(data: bytes) -> ImageHeader:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # KeyError: a colour space that it does not know
        raise CorruptDataError(f"JPEG of {len(data)} bytes has no readable header: {error}.") from None
    return ImageHeader("jpeg", (height, width, 1 if colorspace == "Gray" else 3), "uint8")


def _png_header(data: bytes) -> ImageHeader:
    chunk = data[8:33]
    if len(chunk) < 25 or chunk[:8] != b"\x00\x00\x00\rIHDR" or zlib.crc32(chunk[4:21]) != int.from_bytes(chunk[21:25], "big"):
        raise CorruptDataError(f"PNG of {len(data)} bytes has no readable header.")
    width, height, depth, color = struct.unpack(">IIBB", chunk[8:18])
    if color not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16) or not width or not height:
        raise CorruptDataError(
            f"PNG declares {width}×{height} pixels, depth {depth}, colour type {color}: not a PNG there can be."
        )
    return ImageHeader("png", (height, width, _PNG_CHANNELS[color]), "uint16" if depth == 16 else "uint8")
