import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fogx.codecs.header import ImageHeader, image_format, image_header
from fogx.errors import CorruptDataError


def png(array, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", **options)
    return out.getvalue()


def jpeg(array):
    gray = array.shape[2] == 1
    return simplejpeg.encode_jpeg(
        array, colorspace="GRAY" if gray else "RGB", colorsubsampling="Gray" if gray else "420", quality=90
    )


def test_format_is_told_by_the_first_bytes():
    assert image_format(jpeg(np.zeros((8, 8, 3), np.uint8))) == "jpeg"
    assert image_format(png(np.zeros((8, 8), np.uint8))) == "png"
    assert image_format(b"") is None
    assert image_format(b"GIF89a" + bytes(50)) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (jpeg(np.zeros((5, 9, 3), np.uint8)), ImageHeader("jpeg", (5, 9, 3), "uint8")),
        (jpeg(np.zeros((5, 9, 1), np.uint8)), ImageHeader("jpeg", (5, 9, 1), "uint8")),
        (png(np.zeros((5, 9, 3), np.uint8)), ImageHeader("png", (5, 9, 3), "uint8")),
        (png(np.zeros((5, 9, 4), np.uint8)), ImageHeader("png", (5, 9, 4), "uint8")),
        (png(np.zeros((5, 9), np.uint8)), ImageHeader("png", (5, 9, 1), "uint8")),
        (png(np.zeros((5, 9), np.uint16)), ImageHeader("png", (5, 9, 1), "uint16")),
        (png(np.zeros((5, 9), bool)), ImageHeader("png", (5, 9, 1), "uint8")),
    ],
)
def test_header(data, expected):
    assert image_header(data) == expected


def forged(width, height, depth, color):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" + bytes(100),
        png(np.zeros((5, 9), np.uint8))[:30],
        png(np.zeros((5, 9), np.uint8)).replace(b"\x00\x00\x00\x09", b"\x00\x00\x00\x08", 1),
        forged(0, 5, 8, 2),
        forged(5, 5, 8, 5),
        forged(5, 5, 3, 0),
    ],
)
def test_unreadable_headers_are_corrupt_data(data):
    with pytest.raises(CorruptDataError):
        image_header(data)


def test_forged_header_that_is_right_is_read():
    assert image_header(forged(100_000, 50_000, 8, 2)).shape == (50_000, 100_000, 3)
