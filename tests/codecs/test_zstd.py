import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fogx.settings as settings
from fogx.codecs.zstd import ZstdCodec
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import NUMERIC_DTYPES, Feature

CODEC = ZstdCodec()


@given(st.sampled_from(NUMERIC_DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))))
def test_round_trip_is_bit_exact(value):
    out = CODEC.decode(CODEC.encode(value), Feature(value.dtype.name, value.shape, encoding="zstd"))
    assert out.dtype == value.dtype
    assert out.shape == value.shape
    assert out.tobytes() == value.tobytes()
    assert out.flags.writeable


def test_other_byte_orders_and_layouts_are_normalised():
    value = np.arange(12, dtype=">f4").reshape(3, 4).T
    out = CODEC.decode(CODEC.encode(value), Feature("float32", (4, 3)))
    assert out.dtype == np.dtype("float32")
    assert np.array_equal(out, value)


def test_several_chunks_of_the_stream_are_read():
    value = np.random.default_rng(0).normal(size=(500, 1000))
    assert np.array_equal(CODEC.decode(CODEC.encode(value), Feature("float64", (None, 1000))), value)


@pytest.mark.parametrize(("dtype", "text"), [("str", "Zeile\x00é" * 3), ("str", ""), ("bytes", b"\x00\xff\x00")])
def test_text_and_bytes(dtype, text):
    raw = text.encode() if dtype == "str" else text
    out = CODEC.decode(CODEC.encode(np.frombuffer(raw, np.uint8)), Feature(dtype, ()))
    assert out.shape == ()
    assert out.item() == text


def test_text_that_is_not_utf8_is_corrupt():
    with pytest.raises(CorruptDataError, match="UTF-8"):
        CODEC.decode(CODEC.encode(np.array([0xFF], np.uint8)), Feature("str", ()))


@pytest.mark.parametrize("feature", [Feature("float64", (3, 4)), Feature("float32", (4, 3)), Feature("float32", (3, 4, 1))])
def test_another_dtype_or_shape_than_the_feature_is_an_error(feature):
    with pytest.raises(CorruptDataError, match="declares"):
        CODEC.decode(CODEC.encode(np.zeros((3, 4), np.float32)), feature)


def test_undeclared_features_fit_anything():
    assert CODEC.decode(CODEC.encode(np.zeros((3, 4), np.float32)), Feature()).shape == (3, 4)


def packed(header, body):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return pa.compress(out.getvalue() + body, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        CODEC.encode(np.arange(1000))[:-20],
        pa.compress(b"not npy", codec="zstd", asbytes=True),
        packed({"descr": "<f4", "fortran_order": False, "shape": (4,)}, bytes(15)),
        packed({"descr": "<f4", "fortran_order": False, "shape": (4,)}, bytes(17)),
        packed({"descr": "<f4", "fortran_order": False, "shape": (-4,)}, bytes(16)),
        packed({"descr": "<f4", "fortran_order": True, "shape": (4,)}, bytes(16)),
        packed({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"cos\nsystem\n(S'true'\ntR."),
        packed({"descr": "<U4", "fortran_order": False, "shape": (1,)}, bytes(16)),
    ],
)
def test_damaged_or_foreign_data_is_corrupt(data):
    with pytest.raises(CorruptDataError):
        CODEC.decode(data, Feature())


def test_a_bomb_is_refused_by_its_header():
    bomb = packed({"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)}, bytes(1000))
    with pytest.raises(CorruptDataError, match="max_pixels"):
        CODEC.decode(bomb, Feature("uint8", (None,)))


def test_what_would_be_refused_later_is_not_encoded():
    before = settings.config().max_pixels
    settings.config(max_pixels=10)
    try:
        with pytest.raises(FeatureError, match="max_pixels=11"):
            CODEC.encode(np.zeros(11))
    finally:
        settings.config(max_pixels=before)


@pytest.mark.parametrize("value", [np.array([None]), np.array(["a"]), np.zeros(2, complex), np.zeros(2, "M8[ns]")])
def test_other_dtypes_are_refused(value):
    with pytest.raises(FeatureError, match="numeric"):
        CODEC.encode(value)


def test_pandas_is_not_imported():
    code = (
        "import sys, numpy as np; from fogx.codecs.zstd import ZstdCodec; from fogx.feature import Feature; c = ZstdCodec(); "
        "c.decode(c.encode(np.zeros(9)), Feature()); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
