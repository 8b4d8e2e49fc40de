"""JPEG: lossy, uint8, RGB or gray."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from fogx.codecs.header import check_encodable, checked_header
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature
from fogx.settings import config

_MOST_SCANS = 64
"""Encoders write about ten."""
_SCAN = re.compile(b"\xff\xda")
"""As an expression it is found in a fifth of the time that `bytes.count` takes."""


class JpegCodec:
    """Encodes uint8 (H, W, 3), (H, W, 1) and (H, W) as JPEG, colours not subsampled.

    Args:
        quality: 1–100; `None` for `fox.config().jpeg_quality`.
    """

    def __init__(self, quality: int | None = None) -> None:
        self._quality = quality

    def encode(self, value: np.ndarray) -> bytes:
        """Encode one image.

        Raises:
            FeatureError: Another dtype or shape, no pixels, or a side over 65,535.
        """
        gray = value.ndim == 2 or value.shape[-1:] == (1,)
        if value.dtype != np.uint8 or not (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3))):
            raise FeatureError(
                f"JPEG holds uint8 (H, W), (H, W, 1) or (H, W, 3), found {value.dtype} {value.shape}. Use camera='png' or leave "
                "camera unset."
            )
        check_encodable(value)
        if max(value.shape) > 65_535:
            raise FeatureError(f"a side of JPEG has at most 65535 pixels, found {value.shape}. Use camera='png'.")
        data: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(value.reshape(*value.shape[:2], -1)),
            quality=config().jpeg_quality if self._quality is None else self._quality,
            colorspace="GRAY" if gray else "RGB",
            colorsubsampling="Gray" if gray else "444",
            fastdct=False,
        )
        return data

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        """Decode one image to the channels that `feature` declares; pixels are those of `tf.io.decode_jpeg`.

        Returns:
            uint8 array of the feature's shape: (H, W, 3), (H, W, 1) or (H, W); without a declared shape as the image is.

        Raises:
            CorruptDataError: Truncated or damaged data, or an image that is not what `feature` declares.
        """
        pixels = self._pixels(data, feature, None)
        return pixels[:, :, 0] if feature.shape is not None and len(feature.shape) == 2 else pixels

    def decode_into(self, data: bytes, feature: Feature, out: np.ndarray) -> None:
        """Decode one image, as `decode` does, into an array that is there: a part of a batch.

        Args:
            data: Encoded image.
            feature: What it is; its shape is fixed.
            out: Contiguous uint8 array of the feature's shape.

        Raises:
            CorruptDataError: As `decode`; what `out` then holds is unspecified.
        """
        self._pixels(data, feature, out)

    def _pixels(self, data: bytes, feature: Feature, out: np.ndarray | None) -> np.ndarray:
        """Return pixels as (H, W, C)."""
        header = checked_header(data, feature, "jpeg")
        shape = feature.shape or header.shape
        channels = shape[2] or header.shape[2] if len(shape) == 3 else 1
        if feature.dtype not in (None, "uint8") or channels not in (1, 3):
            raise CorruptDataError(f"a JPEG cannot give {feature.dtype} {feature.shape}; it holds uint8 of 1 or 3 channels.")
        colorspace = "RGB" if channels == 3 else "GRAY"
        # Each scan passes over all pixels again: 125 KB of a thousand scans took 29 s. In coded data 0xFF is never followed by 0xDA.
        if not _is_sequential(data) and (scans := sum(1 for _ in _SCAN.finditer(data))) > _MOST_SCANS:
            raise CorruptDataError(f"JPEG of {len(data)} bytes has {scans} scans, allowed are {_MOST_SCANS}.")
        try:
            return _decode(data, colorspace, out, strict=True)
        except (ValueError, KeyError) as error:
            # Webcams put stray bytes between segments; every decoder skips them, and the picture is whole.
            if "extraneous bytes" not in str(error):
                raise CorruptDataError(f"JPEG of {len(data)} bytes cannot be decoded: {error}.") from None
            return _decode(data, colorspace, out, strict=False)


def _is_sequential(data: bytes) -> bool:
    """Return whether each block of pixels takes bits of its own in each scan, so that a few bytes cannot be much work.

    That is so in frames SOF0 and SOF1 of ITU-T T.81; where what stands before is not as usual, nothing is said.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker in (0xC0, 0xC1):
            return True
        # Tables, definitions, comments and applications' data have a length; of all else libjpeg might think otherwise.
        if not (marker in (0xC4, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF) or length < 2:
            return False
        at += 2 + length
    return False


def _decode(data: bytes, colorspace: str, out: np.ndarray | None, *, strict: bool) -> np.ndarray:
    # This pair of flags is what TensorFlow uses: bit-identical on all 2,138 images of two RLDS sets, 4:2:0 and 4:4:4.
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data, colorspace=colorspace, fastdct=True, fastupsample=False, buffer=out, strict=strict
    )
    return pixels
