"""PNG: lossless, 8 bits with up to four channels, 16 bits with one."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from fogx.codecs.header import check_encodable, checked_header
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature

_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class PngCodec:
    """Encodes uint8 (H, W) and (H, W, 1 to 4), uint16 and bool (H, W) and (H, W, 1), exactly."""

    def encode(self, value: np.ndarray) -> bytes:
        """Encode one image.

        Raises:
            FeatureError: A dtype and shape that PNG does not hold, or no pixels.
        """
        channels = value.shape[2] if value.ndim == 3 else 1
        fits = value.ndim in (2, 3) and (
            (value.dtype == np.uint8 and channels in _MODES) or (value.dtype in (np.uint16, np.bool_) and channels == 1)
        )
        if not fits:
            raise FeatureError(
                f"PNG holds uint8 of 1 to 4 channels, uint16 and bool of one, found {value.dtype} {value.shape}. Leave camera "
                "unset: the values are then kept exactly as they are."
            )
        check_encodable(value)
        image = Image.fromarray(np.ascontiguousarray(value[:, :, 0] if value.ndim == 3 and channels == 1 else value))
        out = io.BytesIO()
        # Level 4 takes less than half the time of the default 6 and 3–5 % more bytes (RGB and depth, measured).
        image.save(out, "PNG", compress_level=4)
        return out.getvalue()

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        """Decode one image to the channels that `feature` declares.

        Palettes and fewer than 8 bits are expanded, gray becomes RGB and alpha is added or dropped as declared; colour is never
        turned into gray.

        Returns:
            Array of the feature's dtype and shape; without a declared shape (H, W, C) as the image is.

        Raises:
            CorruptDataError: Truncated or damaged data, or an image that is not what `feature` declares.
        """
        header = checked_header(data, feature, "png")
        shape = feature.shape or header.shape
        channels = shape[2] or header.shape[2] if len(shape) == 3 else 1
        dtype = feature.dtype or header.dtype
        if (
            channels not in _MODES
            or header.dtype != ("uint8" if dtype == "bool" else dtype)
            or (channels <= 2 < header.shape[2])
            or (header.dtype == "uint16" and (header.shape[2], channels) != (1, 1))
        ):
            raise CorruptDataError(
                f"a PNG of {header.dtype} with {header.shape[2]} channel(s) cannot give {feature.dtype} {feature.shape}."
            )
        # Pillow accepts data that is cut behind the last pixel, before its checksums.
        if _END not in data:
            raise CorruptDataError(f"PNG of {len(data)} bytes has no end.")
        try:
            # Not Image.open: its own limit on pixels cannot be set per call, and ours has been checked.
            with PngImageFile(io.BytesIO(data)) as image:
                if image.size != (header.shape[1], header.shape[0]):  # a second header, which Pillow believes
                    raise CorruptDataError(
                        f"PNG of {len(data)} bytes declares two sizes: {header.shape[:2]} and {image.size[::-1]}."
                    )
                image.load()
                picture = image if dtype == "uint16" or image.mode == _MODES[channels] else _convert(image, _MODES[channels])
                pixels = np.array(picture, dtype=np.uint16 if dtype == "uint16" else np.uint8)
        except CorruptDataError:
            raise
        except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, zlib.error) as error:
            raise CorruptDataError(f"PNG of {len(data)} bytes cannot be decoded: {error}.") from None
        out = pixels.reshape(*header.shape[:2], channels) if len(shape) == 3 else pixels
        return out != 0 if dtype == "bool" else out


def _convert(image: Image.Image, mode: str) -> Image.Image:
    # Pillow turns gray + alpha into RGB, and a palette into gray + alpha, only by way of the modes between.
    return image.convert("RGBA").convert(mode) if image.mode in ("LA", "P") and mode != "RGBA" else image.convert(mode)
