import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fogx.errors import CorruptDataError, DatasetNotFoundError, FeatureError, FeatureTypeError, FogxError
from fogx.feature import NUMERIC_DTYPES, Feature
from fogx.recording.values import read_value

JPEG = simplejpeg.encode_jpeg(np.zeros((40, 50, 3), np.uint8))


def read(value, dtype=None):
    return read_value("x", value, dtype)


@given(st.sampled_from(NUMERIC_DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))))
def test_arrays_are_kept_bit_for_bit_and_copied(array):
    content = read(array).content
    assert content.dtype == array.dtype
    assert content.shape == array.shape
    assert content.tobytes() == array.tobytes()
    assert not np.shares_memory(content, array)


@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
def test_numpy_scalars_and_big_endian_arrays(dtype):
    scalar = np.dtype(dtype).type(1)
    assert read(scalar).feature == Feature(dtype, ())
    assert not read(scalar).loose
    swapped = np.array([0, 1, 1]).astype(np.dtype(dtype).newbyteorder(">"))
    content = read(swapped).content
    assert content.dtype == np.dtype(dtype)
    assert content.dtype.isnative
    assert content.tolist() == swapped.tolist()


@pytest.mark.parametrize(
    ("value", "feature"),
    [
        (True, Feature("bool", ())),
        (3, Feature("int64", ())),
        (2**63, Feature("uint64", ())),
        (0.5, Feature("float64", ())),
        ([1, 2.5], Feature("float64", (2,))),
        ([[1, 2], [3, 4]], Feature("int64", (2, 2))),
        ((True, False), Feature("bool", (2,))),
        ([], Feature("float64", (0,))),
    ],
)
def test_python_numbers_have_no_dtype_of_their_own(value, feature):
    taken = read(value)
    assert taken.feature == feature
    assert taken.loose
    assert taken.content.tolist() == (list(value) if isinstance(value, tuple) else value)


def test_lists_of_arrays_keep_their_dtype():
    taken = read([np.float32(1), np.float32(2)])
    assert taken.feature == Feature("float32", (2,))
    assert not taken.loose
    assert read([np.zeros(3, np.uint8)] * 2).feature == Feature("uint8", (2, 3))


@pytest.mark.parametrize(
    ("value", "feature"),
    [
        ("pick up", Feature("str", ())),
        (np.str_("a"), Feature("str", ())),
        (b"\x00raw\x00", Feature("bytes", ())),
        (bytearray(b"raw"), Feature("bytes", ())),
        (memoryview(b"raw"), Feature("bytes", ())),
        (["a", "bc"], Feature("str", (2,))),
        ([["a"], ["b"]], Feature("str", (2, 1))),
        ([b"a", b"b\x00"], Feature("bytes", (2,))),
        (np.array(["a", "bc"]), Feature("str", (2,))),
        (np.array("abc"), Feature("str", ())),
        (["a", np.str_("b")], Feature("str", (2,))),
    ],
)
def test_text_and_bytes(value, feature):
    assert read(value).feature == feature


def test_bytes_of_lists_are_exact():
    assert read([b"a", b"b\x00"]).content.tolist() == [b"a", b"b\x00"]
    assert type(read(np.str_("a")).content) is str


@pytest.mark.parametrize(
    "value",
    [
        1j,
        object(),
        {1, 2},
        np.zeros(2, complex),
        np.zeros(2, "M8[ns]"),
        np.datetime64("2020-01-01"),
        np.array([None, 1], object),
        np.zeros(2, [("a", "f4")]),
        np.longdouble(1) if np.dtype(np.longdouble).name != "float64" else 1j,
        np.ma.masked_array([1.0], [True]),
        [1, "a"],
        ["a", b"b"],
        [1, None],
        [{"a": 1}],
    ],
)
def test_types_that_no_feature_can_hold(value):
    with pytest.raises(FeatureTypeError, match="'x'"):
        read(value)


@pytest.mark.parametrize(
    "value", [None, 2**64, -(2**63) - 1, [2**70], [-1, 2**63], [[1], [2, 3]], [["a"], "b"], [np.zeros(2), [1]]]
)
def test_values_that_do_not_fit(value):
    with pytest.raises(FeatureError, match="'x'"):
        read(value)


def test_lone_surrogates_are_refused():
    with pytest.raises(FeatureError, match="surrogate"):
        read("a\udc80")
    with pytest.raises(FeatureError, match="surrogate"):
        read(["a\udc80"])


def test_image_bytes_are_kept_untouched_unless_declared_bytes():
    assert read(JPEG).content == JPEG
    assert read(JPEG).feature == Feature("uint8", (40, 50, 3), encoding="jpeg")
    assert read(JPEG, "bytes").feature == Feature("bytes", ())
    with pytest.raises(CorruptDataError, match="Feature\\('bytes'\\)"):
        read(JPEG[:20])


def test_paths_and_names_of_image_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.JPG").write_bytes(JPEG)
    Path("a.txt").write_text("hello")
    for value in (Path("a.JPG"), "a.JPG", str(tmp_path / "a.JPG")):
        assert read(value).content == JPEG
    assert read("a.JPG", "str").content == "a.JPG"
    assert read("a.txt").content == "a.txt"
    assert not read("a.txt").missing_file
    absent = read("b.png")
    assert (absent.content, absent.missing_file) == ("b.png", True)
    assert not read("b.png", "str").missing_file
    assert read("n\x00ul.png").missing_file
    assert read("long" * 2000 + ".png").missing_file
    with pytest.raises(DatasetNotFoundError, match=r"b\.png") as caught:
        read(Path("b.png"))
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FeatureError, match="neither JPEG nor PNG"):
        read(Path("a.txt"))
    Path("no.png").write_text("hello")
    with pytest.raises(FeatureError, match="neither JPEG nor PNG"):
        read("no.png")
    with pytest.raises(FogxError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("image", "feature"),
    [
        (Image.new("RGB", (5, 4)), Feature("uint8", (4, 5, 3))),
        (Image.new("L", (5, 4)), Feature("uint8", (4, 5))),
        (Image.new("1", (5, 4)), Feature("bool", (4, 5))),
        (Image.new("RGBA", (5, 4)), Feature("uint8", (4, 5, 4))),
        (Image.new("P", (5, 4)), Feature("uint8", (4, 5, 3))),
        (Image.new("CMYK", (5, 4)), Feature("uint8", (4, 5, 3))),
        (Image.new("I;16", (5, 4)), Feature("uint16", (4, 5))),
        (Image.new("F", (5, 4)), Feature("float32", (4, 5))),
    ],
)
def test_pillow_images(image, feature):
    taken = read(image)
    assert taken.feature == feature
    assert taken.picture


class Tensor:
    """What fogx asks of a torch tensor."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        if self.array is None:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_tensors_are_known_by_their_methods():
    source = np.arange(3, dtype=np.float32)
    taken = read(Tensor(source))
    assert taken.feature == Feature("float32", (3,))
    assert not np.shares_memory(taken.content, source)
    assert read([Tensor(source)] * 2).feature == Feature("float32", (2, 3))
    with pytest.raises(FeatureTypeError, match="BFloat16"):
        read(Tensor(None))


def test_torch():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, requires_grad=True)
    assert read(tensor).feature == Feature("float32", (2, 3))
    assert read(torch.tensor(3)).feature == Feature("int64", ())
    with pytest.raises(FeatureTypeError):
        read(torch.ones(2, dtype=torch.bfloat16))


def test_torch_is_not_imported_for_a_value():
    code = (
        "import sys; from fogx.recording.values import read_value; read_value('x', [1, 2], None); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'PIL', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
