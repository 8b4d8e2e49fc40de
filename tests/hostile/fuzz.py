"""Coverage-guided fuzzing of fogx's own parsers: `python tests/hostile/fuzz.py <target> --seconds 600`.

Needs `pip install 'atheris>=3.0'` (CPython 3.11 to 3.13, Linux). Anything but an error of fogx, 5 s for one input, or 1.5 GB stops it
and leaves the input in `fuzz-<target>-...`. Put the smallest form of each finding into `test_found.py`.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fogx"]):
    import google_crc32c
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import fogx as fox
    from fogx import registry
    from fogx.codecs.header import image_header
    from fogx.errors import FogxError
    from fogx.feature import Feature, Schema
    from fogx.formats.rtx.features import read_layout
    from fogx.formats.rtx.splits import plan_shards, read_info
    from fogx.formats.rtx.tfrecord import read_records
    from fogx.formats.rtx.values import read_content
    from fogx.memory import Room
    from fogx.storage.log.rows import extra_values
    from fogx.storage.tables import index
    from fogx.storage.tables.guarded import read_table as read_parquet
    from fogx.storage.tables.guarded import readable
    from fogx.storage.tables.nested import decode_nested, encode_nested
    from fogx.storage.tables.thrift import parse

HERE = Path(__file__).parent
BRIDGE = HERE.parents[1] / "examples/data/rlds/bridge_dataset/1.0.0"


class NoTensorFlow(MetaPathFinder):
    """Users need not have it, and no data may have it imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "tensorflow":
            raise AssertionError("data had TensorFlow imported")


def in_folder(name: str, also: str = "") -> Callable[[bytes], Path]:
    """Return what writes an input as a file of a builder folder, beside a good other one."""
    folder = Path(tempfile.mkdtemp())
    if also:
        (folder / also).write_bytes((BRIDGE / also).read_bytes())

    def write(data: bytes) -> Path:
        (folder / name).unlink(missing_ok=True)  # a new file: what was parsed is remembered by the time of its change
        (folder / name).write_bytes(data)
        return folder

    return write


def as_it_is(data: bytes) -> bytes:
    return data


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with the checksums of its chunks mended: else they would stop all that is no image."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 8 + min(int.from_bytes(data[at : at + 4], "big"), len(data))
        out += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return out


def decoder(name: str, mend: Callable[[bytes], bytes], *features: Feature) -> Callable[[bytes], None]:
    codec = registry.get("codecs", name)

    def run(data: bytes) -> None:
        for text in (data, mend(data)):
            for feature in features:
                with suppress(FogxError):
                    codec.decode(text, feature)

    return run


def encoded(name: str, *values: np.ndarray) -> list[bytes]:
    return [registry.get("codecs", name).encode(value) for value in values]


def npy(value: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, value, (1, 0))
    return out.getvalue()


def framed(data: bytes) -> bytes:
    """Return the input as one whole record: else the checksums would stop all that is not one."""
    length = len(data).to_bytes(8, "little")
    return length + masked(length) + data + masked(data)


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def fuzz_tfrecord() -> tuple[Callable[[bytes], object], list[bytes]]:
    write = in_folder("x")

    def run(data: bytes) -> None:
        for text in (data, framed(data)):
            list(read_records(str(write(text) / "x"), lambda position: position % 2 == 0))

    return run, [framed(b"abc") * 3, b""]


def tiny_rlds() -> Path:
    """Write an RLDS folder of one short episode."""
    folder = Path(tempfile.mkdtemp())
    dataset = fox.Dataset(folder / "root")
    episode = dataset.new_episode({"by": "x"}, task="go")
    for step in range(2):
        values = {"action": np.zeros(2, np.float32), "view": np.zeros((32, 32, 3), np.uint8), "text": "a", "raw": b"b", "n": step}
        episode.add_step({**values, "flag": True, "wide": np.zeros(2), "half": np.zeros((1, 2), np.uint16)})
    episode.close()
    return Path(dataset.export(path=folder / "out"))


def fuzz_example() -> tuple[Callable[[bytes], object], list[bytes]]:
    folder = tiny_rlds()
    layout = read_layout(str(folder))
    (shard,) = folder.glob("*.tfrecord*")
    return lambda data: read_content(data, layout, "x"), [data for _, data in read_records(str(shard), lambda _: True)]


def fuzz_features() -> tuple[Callable[[bytes], object], list[bytes]]:
    write = in_folder("features.json")

    def run(data: bytes) -> None:
        folder = write(data)
        from fogx.formats.rtx import features

        features._read_layout.cache_clear()
        read_layout(str(folder))

    return run, [(tiny_rlds() / "features.json").read_bytes(), (BRIDGE / "features.json").read_bytes()]


def fuzz_info() -> tuple[Callable[[bytes], object], list[bytes]]:
    write = in_folder("dataset_info.json", "features.json")

    def run(data: bytes) -> None:
        folder = str(write(data))
        plan_shards(folder, read_info(folder), "all")

    return run, [(BRIDGE / "dataset_info.json").read_bytes()]


def fuzz_nested() -> tuple[Callable[[bytes], object], list[bytes]]:
    def run(data: bytes) -> None:
        with readable("x"):
            decode_nested(data.decode())

    return run, [encode_nested({"a": np.eye(2), "b": [1, None, {"c": "x"}], "d": np.zeros((0, 3), bool)}).encode()]


def fuzz_extra() -> tuple[Callable[[bytes], object], list[bytes]]:
    return lambda data: extra_values(data.decode(errors="replace")), [b'{"a": 1, "b": "x"}']


def fuzz_schema() -> tuple[Callable[[bytes], object], list[bytes]]:
    def run(data: bytes) -> None:
        with readable("x"):
            schema = index._sound(Schema.from_json(data.decode()))
            repr(schema), schema.schema_id
            from fogx.storage.tables.steps import steps_schema

            steps_schema(schema)

    features = {"a": Feature("float32", (3, None)), "b/c": Feature("uint8", (4, 4, 3), encoding="png"), "d": Feature("str", ())}
    return run, [Schema(features, {"m": ("n", Feature("int64", ()))}).json.encode()]


def fuzz_thrift() -> tuple[Callable[[bytes], object], list[bytes]]:
    from fogx.storage.tables import footer, pages

    def run(data: bytes) -> None:
        for spec in (footer._FILE, pages._HEADER):
            try:
                parse(data, spec)
            except (IndexError, ValueError):
                continue

    return run, [parquet_file()[-400:-8]]


def fuzz_parquet() -> tuple[Callable[[bytes], object], list[bytes]]:
    return lambda data: read_parquet(data, "x", Room(json=("s",))), [parquet_file()]


def parquet_file() -> bytes:
    table = pa.table(
        {"i": [1, 2, None], "s": ["a", None, "c"], "l": [[1.0], [], None], "f": pa.array([[1, 2]] * 3, pa.list_(pa.int8(), 2))}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=False)
    return sink.getvalue().to_pybytes()


SMALL, GRAY, DEPTH = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint16)

TARGETS: dict[str, Callable[[], tuple[Callable[[bytes], object], list[bytes]]]] = {
    "tfrecord": fuzz_tfrecord,
    "example": fuzz_example,
    "features": fuzz_features,
    "info": fuzz_info,
    "nested": fuzz_nested,
    "extra": fuzz_extra,
    "schema": fuzz_schema,
    "thrift": fuzz_thrift,
    "parquet": fuzz_parquet,
    "header": lambda: (image_header, [*encoded("png", SMALL), *encoded("jpeg", SMALL)]),
    "png": lambda: (
        decoder("png", with_checksums, Feature("uint8", (8, 8, 3)), Feature("uint16", (8, 8)), Feature()),
        encoded("png", SMALL, GRAY, DEPTH),
    ),
    "jpeg": lambda: (decoder("jpeg", as_it_is, Feature("uint8", (8, 8, 3)), Feature()), encoded("jpeg", SMALL, GRAY)),
    "zstd": lambda: (
        decoder(
            "zstd", lambda d: pa.compress(d, "zstd", asbytes=True), Feature("float32", (2, None)), Feature("str", ()), Feature()
        ),
        [*encoded("zstd", np.zeros((2, 3), np.float32)), npy(np.zeros((2, 3), np.float32)), npy(GRAY)],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    given = parser.parse_args()
    fox.config(memory_mb=64, max_pixels=1_000_000, progress=False)
    run, seeds = TARGETS[given.target]()
    sys.meta_path.insert(0, NoTensorFlow())
    corpus = Path(tempfile.mkdtemp())
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def once(data: bytes) -> None:
        with suppress(FogxError, UnicodeDecodeError):
            run(data)

    limits = ["-timeout=5", "-rss_limit_mb=1500", "-max_len=65536", f"-artifact_prefix=fuzz-{given.target}-"]
    atheris.Setup([sys.argv[0], f"-max_total_time={given.seconds}", *limits, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
