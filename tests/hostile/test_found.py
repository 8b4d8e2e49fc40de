"""What fuzzing found, each as the smallest input that shows it."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from PIL import Image

import fogx as fox
from fogx.codecs import jpeg
from fogx.codecs.header import image_header
from fogx.codecs.jpeg import JpegCodec
from fogx.codecs.png import PngCodec
from fogx.errors import CorruptDataError, FeatureError
from fogx.feature import Feature
from fogx.formats.rtx.features import read_layout
from fogx.formats.rtx.splits import read_info
from fogx.memory import Room
from fogx.storage.tables.guarded import read_table

BRIDGE = Path(__file__).parents[2] / "examples/data/rlds/bridge_dataset/1.0.0"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*headers: tuple[int, int], between: bytes = b"", pixels: bytes = bytes(33 * 32)) -> bytes:
    """Return a gray PNG with those headers, which says that it has 32×32 pixels of data."""
    heads = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)) for size in headers)
    return b"\x89PNG\r\n\x1a\n" + heads + between + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_a_second_png_header_does_not_change_the_size():
    """Pillow believes the last one; the first was checked."""
    gray = Feature("uint8", (32, 32))
    assert PngCodec().decode(png((32, 32)), gray).shape == (32, 32)
    with pytest.raises(CorruptDataError, match="two sizes"):
        PngCodec().decode(png((32, 32), (20_000, 20_000)), gray)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_text_of_a_png_is_bounded(kind):
    packed = zlib.compress(bytes(50_000_000))
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    with pytest.raises(CorruptDataError, match=r"too large|Decompressed"):
        PngCodec().decode(png((32, 32), between=chunk(kind, head + packed)), Feature("uint8", (32, 32)))


def test_pixels_past_the_end_of_a_png_are_not_decompressed():
    data = png((32, 32), pixels=bytes(50_000_000))
    assert PngCodec().decode(data, Feature("uint8", (32, 32))).shape == (32, 32)


def test_a_thousand_scans_of_a_jpeg_are_refused():
    """125 KB took 29 s: each scan passes over all pixels."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    feature = Feature("uint8", (64, 64, 3))
    assert JpegCodec().decode(data, feature).shape == (64, 64, 3)
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(CorruptDataError, match="scans, allowed are 64"):
        JpegCodec().decode(data[:-2] + 1_000 * last + b"\xff\xd9", feature)


@pytest.mark.parametrize(
    "before",
    [
        b"\xff\xfe\x00\x06\xff\xc0\x00\x11",  # a comment that holds a frame
        b"\xff\xfe\x00\x00\xff\xc0\x00\x11",  # one without a length
        b"\xff\xff\x00\x02\xff\xc0\x00\x11",  # a byte that fills
        b"\xff\x01\x00\x02\xff\xc0\x00\x11",  # a marker that has no length
        b"\xff\xfe\x00\x02\x00\x00\xff\xc0\x00\x11",  # stray bytes
        b"\xff\xef\x00\x08" + simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)),  # a picture that ends before its segment
    ],
)
def test_scans_are_counted_whatever_stands_before_the_frame(before):
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    assert not jpeg._is_sequential(data[:2] + before + data[2:])
    with pytest.raises(CorruptDataError, match=r"scans, allowed are 64|no readable header|the feature has shape"):
        JpegCodec().decode(data[:2] + before + data[2:-2] + 1_000 * last + b"\xff\xd9", Feature("uint8", (64, 64, 3)))


def test_a_sequential_jpeg_is_known_as_one():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", comment=b"\xff\xc2", dpi=(72, 72))
    for data in (simplejpeg.encode_jpeg(pixels), out.getvalue()):
        assert jpeg._is_sequential(data)
        assert not any(jpeg._is_sequential(data[:size]) for size in range(len(data[: data.index(b"\xff\xc0")])))
        # Of a frame that has all components in one scan no decoder takes another.
        scan = data[data.rindex(b"\xff\xda") : -2]
        with pytest.raises(CorruptDataError, match="cannot be decoded"):
            JpegCodec().decode(data[:-2] + 1_000 * scan + b"\xff\xd9", Feature("uint8", (64, 64, 3)))


def test_a_jpeg_of_unknown_subsampling():
    """simplejpeg raised KeyError."""
    data = bytearray(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    data[data.index(b"\xff\xc0") + 11] = 20
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(bytes(data))
    with pytest.raises(CorruptDataError, match="no readable header"):
        image_header(bytes(data))


@pytest.mark.parametrize("dtype", [",,float32", "(2,)f4", "f4,f4", ""])
def test_dtypes_that_numpy_parses_as_python(dtype):
    """numpy raised SyntaxError."""
    with pytest.raises(FeatureError, match="is not one a feature can have"):
        Feature.from_dict({"dtype": dtype})


def changed_features(folder: Path, change: str, to: str) -> str:
    folder.mkdir()
    text = (BRIDGE / "features.json").read_text()
    assert change in text
    (folder / "features.json").write_text(text.replace(change, to, 1))
    return str(folder)


@pytest.mark.parametrize("kind", ["tensor", "image"])
def test_a_feature_without_dtype_does_not_import_tensorflow(tmp_path, kind):
    """TFDS asked TensorFlow, where it was there, what no dtype means."""
    tree = json.loads((BRIDGE / "features.json").read_text())

    def without(node: object) -> bool:
        found = False
        if isinstance(node, dict):
            if isinstance(node.get(kind), dict) and node[kind].pop("dtype", None):
                return True
            found = any(without(value) for value in node.values())
        return found

    assert without(tree)
    (tmp_path / "features.json").write_text(json.dumps(tree))
    code = (
        "import sys\nfrom fogx.errors import FeatureError\nfrom fogx.formats.rtx.features import read_layout\n"
        "try:\n    read_layout(sys.argv[1])\nexcept FeatureError:\n    sys.exit(3 if 'tensorflow' in sys.modules else 7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(fox.__file__).parents[1], check=False)
    assert done.returncode == 7


def test_a_declared_shape_takes_no_memory(tmp_path):
    """Its elements were counted in int64, where 2**32 × 2**32 is 0."""
    tree = json.loads((BRIDGE / "features.json").read_text())
    text = json.dumps(tree)
    assert '"dimensions": ["7"]' in text
    (tmp_path / "features.json").write_text(text.replace('"dimensions": ["7"]', '"dimensions": ["4294967296", "4294967296"]', 1))
    with pytest.raises(CorruptDataError, match="elements"):
        read_layout(str(tmp_path))


def test_json_nested_too_deep(tmp_path):
    (tmp_path / "dataset_info.json").write_text("[" * 100_000)
    with pytest.raises(CorruptDataError, match=r"is not a dataset_info\.json"):
        read_info(str(tmp_path))


def test_json_that_is_too_large(tmp_path):
    for name in ("dataset_info.json", "features.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10 << 30)
    with pytest.raises(CorruptDataError, match="It was not read"):
        read_info(str(tmp_path))
    with pytest.raises(CorruptDataError, match="It was not read"):
        read_layout(str(tmp_path))


def test_every_flipped_bit_of_a_footer():
    """pyarrow ends the process when it is asked for a column chunk of some of these."""
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [[1.0], [], None]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    refused = 0
    for position in range(start, len(data)):
        for bit in range(8):
            flipped = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
            try:
                read_table(flipped, "x", Room())
            except CorruptDataError:
                refused += 1
    assert refused > 500
