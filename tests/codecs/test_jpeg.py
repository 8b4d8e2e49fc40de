import numpy as np
import pytest
import simplejpeg

import fogx.settings as settings
from fogx.codecs.jpeg import JpegCodec
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature

CODEC = JpegCodec()


def photo(height=48, width=64, channels=3):
    y, x, c = np.mgrid[:height, :width, :channels]
    return (127 + 60 * np.sin(x / 9 + c) + 60 * np.cos(y / 7)).astype(np.uint8)


@pytest.fixture
def small_limit():
    before = settings.config().max_pixels
    settings.config(max_pixels=1000)
    yield
    settings.config(max_pixels=before)


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64, 1), (48, 64)])
def test_round_trip_is_close_and_keeps_the_shape(shape):
    image = photo(channels=3 if shape[2:] == (3,) else 1).reshape(shape)
    out = CODEC.decode(CODEC.encode(image), Feature("uint8", shape, encoding="jpeg"))
    assert out.shape == shape
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int) - image).mean() < 2


def test_quality_setting_is_used():
    before = settings.config().jpeg_quality
    large = len(CODEC.encode(photo()))
    try:
        settings.config(jpeg_quality=20)
        assert len(CODEC.encode(photo())) < large
    finally:
        settings.config(jpeg_quality=before)


def test_colours_are_not_subsampled():
    assert simplejpeg.decode_jpeg_header(CODEC.encode(photo()))[3] == "444"


def test_gray_bytes_decode_to_rgb_and_colour_to_gray_as_declared():
    gray = CODEC.encode(photo(channels=1))
    out = CODEC.decode(gray, Feature("uint8", (48, 64, 3)))
    assert out.shape == (48, 64, 3)
    assert np.array_equal(out[..., 0], out[..., 2])
    assert CODEC.decode(CODEC.encode(photo()), Feature("uint8", (48, 64))).shape == (48, 64)


def test_undeclared_and_open_dimensions_fit_anything():
    data = CODEC.encode(photo())
    assert CODEC.decode(data, Feature()).shape == (48, 64, 3)
    assert CODEC.decode(data, Feature("uint8", (48, None, 3))).shape == (48, 64, 3)
    assert CODEC.decode(data, Feature("uint8", (48, 64, None))).shape == (48, 64, 3)


@pytest.mark.parametrize(
    "feature",
    [
        Feature("uint8", (48, 65, 3)),
        Feature("uint8", (48,)),
        Feature("uint8", (48, 64, 4)),
        Feature("float32", (48, 64, 3)),
    ],
)
def test_what_does_not_fit_the_feature_is_an_error(feature):
    with pytest.raises(CorruptDataError):
        CODEC.decode(CODEC.encode(photo()), feature)


def test_damage_is_an_error_but_stray_bytes_between_segments_are_not():
    data = CODEC.encode(photo())
    with pytest.raises(CorruptDataError):
        CODEC.decode(data[:-200], Feature())
    with pytest.raises(CorruptDataError):
        CODEC.decode(b"\x89PNG\r\n\x1a\n", Feature())
    stray = CODEC.decode(data[:-2] + b"\x00\x00" + data[-2:], Feature())
    assert np.array_equal(stray, CODEC.decode(data, Feature()))


def test_more_pixels_than_allowed_are_refused_before_decoding(small_limit, monkeypatch):
    settings.config(max_pixels=10_000)
    data = CODEC.encode(photo())
    settings.config(max_pixels=1000)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(CorruptDataError, match="max_pixels=3072"):
        CODEC.decode(data, Feature())
    with pytest.raises(FeatureError, match="max_pixels=3072"):
        CODEC.encode(photo())


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint16),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 65_536), np.uint8),
    ],
)
def test_what_jpeg_cannot_hold_is_a_feature_error(value):
    with pytest.raises(FeatureError):
        CODEC.encode(value)


def test_views_that_are_not_contiguous_encode_as_their_copies():
    image = photo()[:, ::-1]
    assert CODEC.encode(image) == CODEC.encode(image.copy())
