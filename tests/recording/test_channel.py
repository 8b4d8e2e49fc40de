import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import fogx.settings as settings
from fogx import registry
from fogx.errors import FeatureError
from fogx.feature import LARGE, NUMERIC_DTYPES, Feature
from fogx.recording.channel import Channel
from fogx.recording.frames import Frames

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 64, 3), np.uint8)


def jpeg(height=48, width=64, channels=3):
    gray = channels == 1
    return simplejpeg.encode_jpeg(
        np.zeros((height, width, channels), np.uint8),
        colorspace="GRAY" if gray else "RGB",
        colorsubsampling="Gray" if gray else "444",
    )


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def recorded(*values, declared=None, name="x"):
    channel = Channel(name, declared, frames := Frames())
    for step, value in enumerate(values):
        channel.append(step, channel.prepare(value))
    frames.encoding.drain()
    return channel, channel.column(len(values)).values


def decoded(channel, blob):
    return registry.get("codecs", channel.feature.encoding).decode(blob, channel.feature)


@given(
    st.sampled_from(NUMERIC_DTYPES).flatmap(
        lambda d: st.sampled_from([(), (0,), (3,), (2, 3, 4)]).flatmap(
            lambda s: st.lists(hnp.arrays(d, s), min_size=1, max_size=4)
        )
    )
)
def test_columns_are_bit_exact(values):
    channel, column = recorded(*values)
    assert channel.feature == Feature(values[0].dtype.name, values[0].shape)
    assert column.dtype == values[0].dtype
    assert column.shape == (len(values), *values[0].shape)
    assert column.tobytes() == b"".join(v.tobytes() for v in values)


@pytest.mark.parametrize(
    ("bits", "unsigned", "dtype"),
    [
        (0x7C01, "u2", "float16"),
        (0xFE55, "u2", "float16"),
        (0x7F800001, "u4", "float32"),
        (0x7FF0000000000001, "u8", "float64"),
        (0x8000000000000000, "u8", "float64"),
        (0xFFFFFFFFFFFFFFFF, "u8", "uint64"),
    ],
)
def test_odd_bit_patterns_survive_also_beside_steps_without_a_value(bits, unsigned, dtype):
    value = np.array([bits, 0], unsigned).view(dtype)
    channel = Channel("x", None)
    for step in (1, 3):
        channel.append(step, channel.prepare(value))
    column = channel.column(4)
    assert column.valid.tolist() == [False, True, False, True]
    assert column.values[[1, 3]].tobytes() == value.tobytes() * 2


def test_text_columns_are_object_arrays():
    assert recorded("a", "b")[1].tolist() == ["a", "b"]
    channel, column = recorded(["a", "b"], ["c", "d"])
    assert channel.feature == Feature("str", (2,))
    assert column.shape == (2, 2)
    assert recorded(b"\x00", b"a\x00")[1].tolist() == [b"\x00", b"a\x00"]


def test_shapes_that_vary_where_declared():
    channel, column = recorded(np.ones((2, 3)), np.ones((0, 3)), np.ones((1, 3)), declared=Feature(shape=(None, 3)))
    assert channel.feature == Feature("float64", (None, 3))
    assert column.shape == (3,)
    assert [v.shape for v in column] == [(2, 3), (0, 3), (1, 3)]
    channel, column = recorded(["a"], [], declared=Feature("str", (None,)))
    assert [v.tolist() for v in column] == [["a"], []]


def test_python_floats_after_python_ints_widen_the_ints():
    channel, column = recorded(0, 1, 0.5, 1)
    assert channel.feature.dtype == "float64"
    assert column.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert recorded([1, 2], [0.5, 2])[1].tolist() == [[1.0, 2.0], [0.5, 2.0]]
    assert recorded(0.5, 1)[1].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (np.int64(0), 0.5),
        (0, np.float64(0.5)),
        (2**53 + 1, 0.5),
        (0.5, 2**53 + 1),
        (True, 1),
        (1, True),
        (True, 0.5),
        (1, 2**63),
        (np.uint8(1), 256),
        (np.uint8(1), -1),
        (np.float32(1), np.float64(1)),
        (np.float32(1), np.int64(1)),
        (np.zeros(7), np.zeros(6)),
        (np.zeros(7), 0.0),
        (0.0, np.zeros(1)),
        ("a", 1),
        (1, "a"),
        ("a", b"a"),
        ("a", ["a"]),
    ],
)
def test_a_value_unlike_the_first_changes_nothing_and_says_why(first, then):
    channel = Channel("arm/joint", None)
    channel.append(0, channel.prepare(first))
    before = channel.feature
    with pytest.raises(FeatureError, match="'arm/joint'"):
        channel.prepare(then)
    assert channel.feature == before
    assert len(channel) == 1


def test_mismatch_names_both_and_a_declaration_that_works():
    channel = Channel("points", None)
    channel.append(0, channel.prepare(np.zeros((5, 3), np.float32)))
    with pytest.raises(
        FeatureError,
        match=r"'points' is float32 of shape \(5, 3\) by its first value, got float32 of shape \(6, 3\).*shape=\(None, 3\)",
    ):
        channel.prepare(np.zeros((6, 3), np.float32))
    recorded(np.zeros((5, 3), np.float32), np.zeros((6, 3), np.float32), declared=Feature(shape=(None, 3)))
    with pytest.raises(FeatureError, match=r"numpy.asarray\(value, 'float32'\)"):
        channel.prepare(np.zeros((5, 3)))
    channel.prepare(np.asarray(np.zeros((5, 3)), "float32"))


@pytest.mark.parametrize(
    ("dtype", "value", "stored"),
    [
        ("float32", 0.1, np.float32(0.1)),
        ("float32", 3, np.float32(3)),
        ("float16", [1, 2], np.array([1, 2], np.float16)),
        ("uint8", 255, np.uint8(255)),
        ("int64", 2**63 - 1, np.int64(2**63 - 1)),
        ("uint64", 2**64 - 1, np.uint64(2**64 - 1)),
        ("float32", float("inf"), np.float32(np.inf)),
    ],
)
def test_python_numbers_take_the_declared_dtype(dtype, value, stored):
    channel, column = recorded(value, declared=Feature(dtype))
    assert channel.feature.dtype == dtype
    assert column.dtype == dtype
    assert np.array_equal(column[0], stored)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", np.float64(0.5)),
        ("float32", np.zeros(3)),
        ("uint8", 256),
        ("uint8", 0.5),
        ("int64", 0.5),
        ("float32", 2**24 + 1),
        ("float32", 1e300),
        ("float16", 70_000),
        ("bool", 2),
        ("str", 1),
        ("bytes", "a"),
    ],
)
def test_values_that_do_not_fit_the_declaration(dtype, value):
    with pytest.raises(FeatureError, match="by its declaration"):
        Channel("x", Feature(dtype)).prepare(value)


def test_declared_meaning_is_kept():
    declared = Feature("float32", (3,), names=("x", "y", "z"), unit="m")
    assert recorded(np.zeros(3, np.float32), declared=declared)[0].feature == declared
    with pytest.raises(FeatureError, match="names has 3"):
        Channel("x", Feature(names=("x", "y", "z"))).prepare(np.zeros(4))


def test_photographs_are_jpeg_depth_is_exact():
    channel, blobs = recorded(PHOTO, PHOTO[::-1], name="image")
    assert channel.feature == Feature("uint8", (48, 64, 3), encoding="jpeg")
    assert decoded(channel, blobs[1]).shape == (48, 64, 3)
    depth = RNG.integers(0, 65_536, (48, 64), np.uint16)
    channel, blobs = recorded(depth, name="range")
    assert channel.feature == Feature("uint16", (48, 64), encoding="png")
    assert np.array_equal(decoded(channel, blobs[0]), depth)


def test_the_codec_of_the_first_image_stays():
    black = np.zeros_like(PHOTO)
    channel, blobs = recorded(black, PHOTO, name="image")
    assert channel.feature.encoding == "png"
    assert np.array_equal(decoded(channel, blobs[1]), PHOTO)


@pytest.mark.parametrize(
    ("value", "declared", "encoding"),
    [
        (PHOTO, Feature(camera="png"), "png"),
        (PHOTO[..., 0], Feature(camera="jpeg"), "jpeg"),
        (PHOTO[:8, :8], None, None),
        (PHOTO[:8, :8], Feature(camera="jpeg"), "jpeg"),
        (PHOTO.transpose(2, 0, 1), None, None),
        (Image.fromarray(PHOTO[:8, :8]), None, "png"),
        (Image.fromarray(PHOTO), None, "jpeg"),
        (np.zeros((64, 48), bool), None, None),
        (np.zeros((80, 80), np.float32), None, "zstd"),
        (Image.fromarray(np.zeros((80, 80), np.float32)), None, "zstd"),
        (PHOTO, Feature(encoding="png"), "png"),
    ],
)
def test_how_a_first_value_is_kept(value, declared, encoding):
    assert recorded(value, declared=declared)[0].feature.encoding == encoding


def test_a_camera_that_its_codec_cannot_hold_names_the_feature():
    with pytest.raises(FeatureError, match=r"'x'.*camera unset"):
        Channel("x", Feature(camera="png")).prepare(np.zeros((40, 40, 3), np.uint16))


def test_given_bytes_are_untouched_and_set_the_encoding():
    data = jpeg()
    channel, blobs = recorded(data, jpeg(), declared=Feature(camera="png"))
    assert channel.feature.encoding == "jpeg"
    assert blobs[0] == data
    with pytest.raises(FeatureError, match=r"png.*Decode them"):
        channel.prepare(png(PHOTO))
    with pytest.raises(FeatureError, match="camera='png'"):
        channel.prepare(PHOTO)
    plain, blobs = recorded(data, PHOTO)
    assert decoded(plain, blobs[1]).shape == PHOTO.shape


@pytest.mark.parametrize("value", [jpeg(48, 65), jpeg(24, 128), PHOTO[:, :60], png(np.zeros((48, 64), np.uint16)), "no.png", 3])
def test_an_image_unlike_the_first_is_an_error(value):
    channel, _ = recorded(jpeg())
    with pytest.raises(FeatureError, match="'x'"):
        channel.prepare(value)


def test_gray_bytes_fit_a_colour_feature_not_the_other_way_round():
    channel, blobs = recorded(jpeg(), jpeg(channels=1))
    assert decoded(channel, blobs[1]).shape == (48, 64, 3)
    gray, _ = recorded(jpeg(channels=1))
    with pytest.raises(FeatureError, match="got uint8"):
        gray.prepare(jpeg())
    assert recorded(jpeg(channels=1), declared=Feature(shape=(48, 64, 3)))[0].feature.shape == (48, 64, 3)
    recorded(jpeg(48, 64), jpeg(48, 70), declared=Feature(shape=(48, None, 3)))


def test_an_image_that_declares_too_many_pixels_is_refused_at_add():
    settings.config(max_pixels=100)
    try:
        with pytest.raises(FeatureError, match="max_pixels=3072"):
            Channel("x", None).prepare(jpeg())
    finally:
        settings.config(max_pixels=settings.Config().max_pixels)


def test_large_values_are_kept_exactly_outside_steps():
    cloud = RNG.normal(size=(2000, 3)).astype(np.float32)
    channel, blobs = recorded(cloud, -cloud)
    assert channel.feature == Feature("float32", (2000, 3), encoding="zstd")
    assert np.array_equal(decoded(channel, blobs[1]), -cloud)
    assert recorded(np.zeros(LARGE, np.uint8))[0].feature.encoding is None
    assert recorded(np.zeros(LARGE + 1, np.uint8))[0].feature.encoding == "zstd"
    floats = [0.5] * 3000  # 24 KB as float64, 12 KB as declared
    assert recorded(floats, declared=Feature("float32"))[0].feature.encoding is None


def test_earlier_values_follow_where_one_outgrows_steps():
    small, large = np.zeros((5, 3)), RNG.normal(size=(2000, 3))
    channel, blobs = recorded(small, large, small, declared=Feature(shape=(None, 3)))
    assert channel.feature.encoding == "zstd"
    assert [decoded(channel, b).shape for b in blobs] == [(5, 3), (2000, 3), (5, 3)]
    for text in ("é" * LARGE, b"\x00" * (LARGE + 1)):
        channel, blobs = recorded(text[:5], text)
        assert channel.feature.encoding == "zstd"
        assert [decoded(channel, b).item() for b in blobs] == [text[:5], text]
