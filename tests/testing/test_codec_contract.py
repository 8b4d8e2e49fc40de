from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest

from fogx import registry
from fogx.codecs.zstd import ZstdCodec
from fogx.errors import CorruptDataError
from fogx.feature import NUMERIC_DTYPES, Feature
from fogx.testing.codecs import CodecContract

ROWS, COLUMNS = np.mgrid[:16, :16]
GRAY = (ROWS * 8 + COLUMNS * 4).astype(np.uint8)
RGB = np.stack([GRAY, GRAY[::-1], GRAY.T], axis=-1)


class TestZstd(CodecContract):
    codec = registry.get("codecs", "zstd")
    samples = (*(GRAY.astype(dtype) for dtype in NUMERIC_DTYPES), RGB, GRAY[0])


class TestPng(CodecContract):
    codec = registry.get("codecs", "png")
    samples = (GRAY, RGB, GRAY[..., None], np.dstack([RGB, GRAY]), GRAY.astype(np.uint16) * 257, GRAY > 9)


class TestJpeg(CodecContract):
    codec = registry.get("codecs", "jpeg")
    samples = (GRAY, RGB, GRAY[..., None])
    tolerance = 12


class Broken(ZstdCodec):
    """The zstd codec with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def encode(self, value: np.ndarray) -> bytes:
        if self.fault == "changes its argument":
            value += 1
        # Bytes that the decoder does not need, so that data without them passes for whole.
        return super().encode(value) + (b"padding" if self.fault == "does not look at the end" else b"")

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        match self.fault:
            case "does not look at the end":
                data = data[: data.rfind(b"p")] if b"p" in data[-7:] else data
            case "raises what it likes" if len(data) < 20:
                raise EOFError
            case "takes any size":
                return super().decode(data, Feature(feature.dtype))
            case "decodes first":
                found = super().decode(data, Feature(feature.dtype))
                if found.shape != feature.shape:
                    raise CorruptDataError("another shape")
                return found
            case "has no limit":
                return np.load(io.BytesIO(pa.input_stream(pa.py_buffer(data), compression="zstd").read()))
        found = super().decode(data, feature)
        if self.fault == "loses a bit":
            found.flat[0] += 1
        return found.astype(np.float64) if self.fault == "widens" else found


BACK = "test_values_come_back"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("changes its argument", BACK),
        ("loses a bit", BACK),
        ("widens", BACK),
        ("takes any size", "test_another_size_is_refused_before_decoding"),
        ("decodes first", "test_another_size_is_refused_before_decoding"),
        ("has no limit", "test_more_than_max_pixels_is_refused"),
        ("does not look at the end", "test_data_cut_anywhere_is_corrupt"),
        ("raises what it likes", "test_data_cut_anywhere_is_corrupt"),
        ("raises what it likes", "test_garbage_is_corrupt_or_fits"),
    ],
)
def test_a_broken_codec_fails(fault: str, check: str) -> None:
    class Suite(CodecContract):
        codec = Broken(fault)
        samples = (RGB,)

    with pytest.raises((AssertionError, EOFError)):
        getattr(Suite(), check)()


def test_a_loss_beyond_the_tolerance_fails() -> None:
    class Suite(TestJpeg):
        tolerance = 1e-3

    with pytest.raises(AssertionError):
        Suite().test_values_come_back()
