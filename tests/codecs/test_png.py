import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import fogx.settings as settings
from fogx.codecs.png import PngCodec
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature

CODEC = PngCodec()

SIDES = st.integers(1, 12)
SHAPES = st.one_of(
    st.tuples(st.just("uint8"), st.tuples(SIDES, SIDES)),
    st.tuples(st.just("uint8"), st.tuples(SIDES, SIDES, st.integers(1, 4))),
    st.tuples(st.sampled_from(["uint16", "bool"]), st.tuples(SIDES, SIDES)),
    st.tuples(st.sampled_from(["uint16", "bool"]), st.tuples(SIDES, SIDES, st.just(1))),
)


def saved(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


@given(SHAPES.flatmap(lambda s: hnp.arrays(s[0], s[1])))
def test_round_trip_is_exact(image):
    out = CODEC.decode(CODEC.encode(image), Feature(image.dtype.name, image.shape, encoding="png"))
    assert out.dtype == image.dtype
    assert np.array_equal(out, image)


def test_palette_and_one_bit_images_become_what_the_feature_declares():
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:2] = (10, 200, 30)
    palette = saved(Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE))
    assert np.array_equal(CODEC.decode(palette, Feature("uint8", (4, 6, 3))), rgb)
    assert np.array_equal(CODEC.decode(palette, Feature("uint8", (4, 6, 4)))[..., :3], rgb)
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    one_bit = saved(Image.fromarray(mask))
    assert np.array_equal(CODEC.decode(one_bit, Feature("uint8", (4, 6))), mask * np.uint8(255))
    assert np.array_equal(CODEC.decode(one_bit, Feature("uint8", (4, 6, 3)))[..., 1], mask * np.uint8(255))
    assert np.array_equal(CODEC.decode(one_bit, Feature("bool", (4, 6))), mask)


def test_alpha_is_dropped_or_added_as_declared():
    rgba = np.arange(4 * 5 * 4, dtype=np.uint8).reshape(4, 5, 4)
    assert np.array_equal(CODEC.decode(CODEC.encode(rgba), Feature("uint8", (4, 5, 3))), rgba[..., :3])
    added = CODEC.decode(CODEC.encode(rgba[..., :3].copy()), Feature("uint8", (4, 5, 4)))
    assert np.array_equal(added[..., :3], rgba[..., :3])
    assert (added[..., 3] == 255).all()


def test_gray_with_alpha_becomes_gray_or_rgb_without_blending():
    la = np.arange(4 * 5 * 2, dtype=np.uint8).reshape(4, 5, 2)
    assert np.array_equal(CODEC.decode(CODEC.encode(la), Feature("uint8", (4, 5, 3)))[..., 1], la[..., 0])


@pytest.mark.parametrize(
    ("image", "feature"),
    [
        (np.zeros((4, 5, 3), np.uint8), Feature("uint8", (4, 5))),
        (np.zeros((4, 5, 3), np.uint8), Feature("uint16", (4, 5, 3))),
        (np.zeros((4, 5), np.uint16), Feature("uint8", (4, 5))),
        (np.zeros((4, 5), np.uint16), Feature("uint16", (4, 5, 3))),
        (np.zeros((4, 5), np.uint8), Feature("float32", (4, 5))),
        (np.zeros((4, 5), np.uint8), Feature("uint8", (5, 4))),
        (np.zeros((4, 5), np.uint8), Feature("uint8", (4, 5, 7))),
    ],
)
def test_what_does_not_fit_the_feature_is_an_error(image, feature):
    with pytest.raises(CorruptDataError):
        CODEC.decode(CODEC.encode(image), feature)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((8, 0), np.uint8),
    ],
)
def test_what_png_cannot_hold_is_a_feature_error(value):
    with pytest.raises(FeatureError):
        CODEC.encode(value)


def test_uint16_colour_points_to_lossless_storage():
    with pytest.raises(FeatureError, match="Leave camera unset"):
        CODEC.encode(np.zeros((8, 8, 3), np.uint16))


def test_damage_is_an_error():
    rng = np.random.default_rng(0)
    data = CODEC.encode(rng.integers(0, 255, (40, 40, 3), np.uint8))
    for bad in (data[:-600], data[:60], data[:100] + b"\x00" + data[101:], b"\xff\xd8\xff"):
        with pytest.raises(CorruptDataError):
            CODEC.decode(bad, Feature())


def test_more_pixels_than_allowed_are_refused_before_decoding():
    data = CODEC.encode(np.zeros((40, 40), np.uint8))
    before = settings.config().max_pixels
    settings.config(max_pixels=1599)
    try:
        with pytest.raises(CorruptDataError, match="max_pixels=1600"):
            CODEC.decode(data[:40], Feature())
    finally:
        settings.config(max_pixels=before)
    assert CODEC.decode(data, Feature()).shape == (40, 40, 1)


def test_large_images_within_our_limit_do_not_meet_the_limit_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert CODEC.decode(CODEC.encode(np.ones((40, 40), np.uint8)), Feature()).sum() == 1600
