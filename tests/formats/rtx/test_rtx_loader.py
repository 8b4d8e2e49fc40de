from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from fogx import registry
from fogx.errors import CorruptDataError, FeatureError, FogxError, NotADatasetError
from fogx.feature import Feature
from fogx.formats.rtx.features import Layout, read_layout
from fogx.formats.rtx.values import read_content
from fogx.protocols import EpisodeData, Loader

F = tfds.features
Load = Callable[..., list[EpisodeData]]
Folder = Callable[..., Path]


def png(height: int, width: int, channels: int = 3, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return bytes(registry.get("codecs", "png").encode(pixels))


def jpeg(height: int, width: int) -> bytes:
    return bytes(registry.get("codecs", "jpeg").encode(np.zeros((height, width, 3), np.uint8)))


@pytest.fixture
def loaded(tmp_path: Path, rlds_folder: Folder, load: Load) -> Callable[..., EpisodeData]:
    """Writes one episode with TFDS and loads it."""
    count = 0

    def one(steps: Mapping[str, Any], values: Mapping[str, Any], **episode: tuple[Any, Any]) -> EpisodeData:
        nonlocal count
        count += 1
        features = {"steps": F.Dataset(dict(steps)), **{k: f for k, (f, _) in episode.items()}}
        data = {"steps": dict(values), **{k: v for k, (_, v) in episode.items()}}
        (found,) = load(rlds_folder(tmp_path / f"toy{count}/1.0.0", features, [data]))
        return found

    return one


@pytest.fixture
def altered(tmp_path: Path, rlds_folder: Folder, load: Load) -> Callable[..., list[EpisodeData]]:
    """Loads three episodes, the second of which was changed after it was serialised."""

    def run(change: Callable[[Any], None]) -> list[EpisodeData]:
        steps = {"x": F.Tensor(shape=(2,), dtype=np.float32), "n": np.int8, "t": F.Text(), "s": F.Sequence(np.int32)}
        features = {"steps": F.Dataset(steps), "id": np.int64}
        data = {"steps": {"x": np.ones((3, 2), np.float32), "n": [1, 2, 3], "t": ["a"] * 3, "s": [[1], [], [2, 3]]}, "id": 1}
        record = F.FeaturesDict(features).serialize_example(data)
        example = tf_example_pb2.Example.FromString(record)
        change(example.features.feature)
        return load(rlds_folder(tmp_path / "toy/1.0.0", features, [record, example.SerializeToString(), record]))

    return run


def test_is_a_loader() -> None:
    assert all(isinstance(registry.get("loaders", name), Loader) for name in ("rtx", "rlds", "open-x"))


def test_bridge(bridge_dir: Path, load: Load) -> None:
    episodes = load(bridge_dir)
    assert [e.num_steps for e in episodes] == [10] * 25
    first = episodes[0]
    assert (first.dataset, first.split, first.source_key) == ("bridge_dataset", "train", "rlds:bridge_dataset/1.0.0/train/0/0")
    assert first.schema["action"] == Feature("float32", (7,), doc=first.schema["action"].doc)
    assert "velocities" in str(first.schema["action"].doc)
    image = first.schema["observation/image_0"]
    assert (image.dtype, image.shape, image.encoding) == ("uint8", (64, 64, 3), "jpeg")
    assert first.columns["observation/image_0"].values[0].startswith(b"\xff\xd8\xff")
    assert first.columns["observation/state"].values.shape == (10, 7)
    assert {type(t) for t in first.columns["language_instruction"].values} == {str}
    assert first.metadata["episode_metadata/episode_id"].dtype == np.int32
    assert isinstance(first.metadata["episode_metadata/file_path"], str)
    assert first.schema.episode_fields["episode_metadata/has_language"][0] == "episode_metadata/has_language"
    assert (first.timestamps_ns, first.control_hz, first.success) == (None, None, None)
    assert len({e.schema.schema_id for e in episodes}) == 1


def test_stub_of_rt_x(shipped_data: Path, load: Load) -> None:
    (episode,) = load("bridge", data_dir=shipped_data / "rlds")
    assert episode.num_steps == 3
    assert [name for name in episode.schema if name.startswith("action/")] == [
        f"action/{name}" for name in ("open_gripper", "rotation_delta", "terminate_episode", "world_vector")
    ]
    image = episode.schema["observation/image"]
    assert (image.shape, image.encoding) == ((480, 640, 3), "png")
    assert episode.metadata == {"episode_metadata/episode_id": ""}
    assert episode.schema.episode_fields == {"episode_metadata/episode_id": ("episode_id", Feature("str", ()))}


def test_unitree(robot_data: Path, load: Load) -> None:
    episodes = load("g1_bottle", data_dir=robot_data / "rlds")
    assert [e.num_steps for e in episodes] == [290, 342, 344]
    assert [e.source_key for e in episodes] == [f"rlds:g1_bottle/1.0.0/train/{shard}/0" for shard in range(3)]


def test_no_tensorflow(bridge_dir: Path, tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from fogx import registry
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData
loader, exporter = registry.get("loaders", "rtx"), registry.get("exporters", "rtx")
(task,) = loader.plan(sys.argv[1], split="train[:2]", data_dir=None)
episodes = list(loader.read(task, lambda key: True))
exporter.export(episodes, episodes[0].schema, sys.argv[2] + "/1.0.0", name="copy")
assert len(episodes) == 2
# Sequences take another way through TFDS.
rows = np.empty(2, object)
rows[:] = [np.ones(1), np.ones(2)]
for dtype in ("float64", "int32"):
    feature = Feature(dtype, (None,))
    column = Column(np.array([row.astype(dtype) for row in rows] + [None], object)[:2])
    episode = EpisodeData(Schema({"rows": feature}), {"rows": column}, 2)
    exporter.export([episode], episode.schema, sys.argv[2] + "/" + dtype, name="rows")
    (task,) = loader.plan(sys.argv[2] + "/" + dtype, split="all", data_dir=None)
    assert [len(v) for v in next(loader.read(task, lambda key: True)).columns["rows"].values] == [1, 2]
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(bridge_dir), str(tmp_path / "copy")], check=True)


def test_without_tfds_the_extra_is_named(bridge_dir: Path) -> None:
    code = """
import sys
sys.modules["tensorflow_datasets"] = None
from fogx import registry
from fogx.errors import MissingExtraError
try:
    registry.get("loaders", "rtx").plan(sys.argv[1], split="train", data_dir=None)
except MissingExtraError as error:
    assert "pip install 'fogx[rtx]'" in str(error), error
else:
    raise AssertionError("nothing was raised")
"""
    subprocess.run([sys.executable, "-c", code, str(bridge_dir)], check=True)


def test_wanted_is_asked_for_each_record_and_decides(bridge_dir: Path) -> None:
    loader = registry.get("loaders", "rtx")
    (task,) = loader.plan(str(bridge_dir), split="train[5:9]", data_dir=None)
    asked: list[str] = []

    def wanted(key: str) -> bool:
        asked.append(key)
        return key.endswith(("/6", "/8"))

    keys = [e.source_key for e in loader.read(task, wanted)]
    assert asked == [f"rlds:bridge_dataset/1.0.0/train/0/{i}" for i in range(5, 9)]
    assert keys == [asked[1], asked[3]]


def test_plan_reads_no_episode(bridge_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bridge_dataset/1.0.0"
    folder.mkdir(parents=True)
    for file in bridge_dir.iterdir():
        (folder / file.name).write_bytes(b"" if "tfrecord" in file.name else file.read_bytes())
    assert len(registry.get("loaders", "rtx").plan(str(folder), split="all", data_dir=None)) == 1


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_dtypes_and_encodings(
    loaded: Callable[..., EpisodeData], assert_same: Callable[..., None], dtype: str, encoding: str
) -> None:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        values = np.array([[True, False], [False, False], [True, True]])
    elif kind.kind == "f":
        values = np.array([[0.5, -0.0], [np.inf, np.nan], [np.finfo("float16").max, np.finfo("float16").tiny]], kind)
    else:
        values = np.array([[np.iinfo(kind).max, np.iinfo(kind).min], [0, 1], [2, 3]], kind)
    found = loaded(
        {"v": F.Tensor(shape=(2,), dtype=kind, encoding=encoding), "one": F.Tensor(shape=(), dtype=kind, encoding=encoding)},
        {"v": values, "one": values[:, 0]},
        top=(F.Tensor(shape=(3, 2), dtype=kind, encoding=encoding), values),
        scalar=(F.Tensor(shape=(), dtype=kind, encoding=encoding), values[0, 0]),
    )
    assert found.schema["v"] == Feature(dtype, (2,))
    assert_same(found.columns["v"].values, values)
    assert_same(found.columns["one"].values, values[:, 0])
    assert_same(found.metadata["episode_metadata/top"], values)
    assert_same(found.metadata["episode_metadata/scalar"], values[0, 0])
    assert isinstance(found.metadata["episode_metadata/scalar"], np.generic)


def test_varying_lengths(loaded: Callable[..., EpisodeData], assert_same: Callable[..., None]) -> None:
    rows = [[1, 2], [], [3, 4, 5]]
    found = loaded(
        {
            "s": F.Sequence(np.int32),
            "points": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)),
            "words": F.Sequence(F.Text()),
            "blob": F.Tensor(shape=(None, 2), dtype=np.float64, encoding="bytes"),
            "fixed": F.Sequence(np.int32, length=2),
            "equal": F.Tensor(shape=(None,), dtype=np.int32),
        },
        {
            "s": rows,
            "points": [np.full((len(r), 2), len(r), np.float32) for r in rows],
            "words": [["a"], [], ["b", "ç"]],
            "blob": [np.full((len(r), 2), 0.1) for r in rows],
            "fixed": [[1, 2], [3, 4], [5, 6]],
            "equal": [np.array([i, i], np.int32) for i in range(3)],
        },
        top=(F.Sequence(np.int64), [7, 8]),
        texts=(F.Sequence(F.Text()), ["x", "y"]),
    )
    assert {k: f.shape for k, f in found.schema.items()} == {
        "s": (None,),
        "points": (None, 2),
        "words": (None,),
        "blob": (None, 2),
        "fixed": (2,),
        "equal": (None,),
    }
    for i, row in enumerate(rows):
        assert_same(found.columns["s"].values[i], np.array(row, np.int32))
        assert_same(found.columns["points"].values[i], np.full((len(row), 2), len(row), np.float32))
        assert_same(found.columns["blob"].values[i], np.full((len(row), 2), 0.1))
        assert_same(found.columns["equal"].values[i], np.array([i, i], np.int32))
    assert [list(v) for v in found.columns["words"].values] == [["a"], [], ["b", "ç"]]
    assert_same(found.columns["fixed"].values, np.array([[1, 2], [3, 4], [5, 6]], np.int32))
    assert_same(found.metadata["episode_metadata/top"], np.array([7, 8]))
    assert found.metadata["episode_metadata/texts"] == ["x", "y"]


@pytest.mark.parametrize(
    "feature",
    [
        F.Sequence(F.Sequence(np.int32)),
        F.Tensor(shape=(None, None), dtype=np.float32, encoding="zlib"),
        F.Sequence(F.Sequence(np.int32), length=2),
    ],
)
def test_more_than_one_varying_dimension_is_refused(tmp_path: Path, rlds_folder: Folder, load: Load, feature: Any) -> None:
    folder = rlds_folder(tmp_path / "toy/1.0.0", {"steps": F.Dataset({"cloud": feature})}, [b""])
    with pytest.raises(FeatureError, match="'steps/cloud' has shape"):
        load(folder)


def test_empty_episodes_and_empty_values(loaded: Callable[..., EpisodeData], assert_same: Callable[..., None]) -> None:
    steps = {"x": F.Tensor(shape=(0,), dtype=np.float32), "n": np.int64, "s": F.Sequence(np.int32), "t": F.Text(), "i": F.Image()}
    none = loaded(steps, {"x": [], "n": [], "s": [], "t": [], "i": []})
    assert (none.num_steps, [len(c.values) for c in none.columns.values()]) == (0, [0] * 5)
    assert_same(none.columns["x"].values, np.zeros((0, 0), np.float32))
    two = loaded(steps, {"x": np.zeros((2, 0), np.float32), "n": [1, 2], "s": [[], []], "t": ["", ""], "i": [png(4, 4)] * 2})
    assert_same(two.columns["x"].values, np.zeros((2, 0), np.float32))
    assert_same(two.columns["s"].values[1], np.zeros(0, np.int32))
    assert list(two.columns["t"].values) == ["", ""]


def test_optional_fields_that_are_missing(loaded: Callable[..., EpisodeData]) -> None:
    found = loaded(
        {"n": np.int64},
        {"n": [1]},
        given=(F.Scalar(np.int32, optional=True), 3),
        left_out=(F.Scalar(np.int32, optional=True), None),
    )
    assert found.metadata == {"episode_metadata/given": 3}
    assert set(found.schema.episode_fields) == {"episode_metadata/given", "episode_metadata/left_out"}


def test_optional_steps_that_are_missing(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    features = {"steps": F.Dataset({"n": np.int64, "x": F.Tensor(shape=(2,), dtype=np.float32, optional=True)})}
    record = F.FeaturesDict({"steps": F.Dataset({"n": np.int64})}).serialize_example({"steps": {"n": [1, 2, 3]}})
    (found,) = load(rlds_folder(tmp_path / "toy/1.0.0", features, [record]))
    assert found.columns["x"].values.shape == (3, 2)
    assert found.columns["x"].valid is not None
    assert not found.columns["x"].valid.any()


def test_text_that_is_not_utf8_stays_bytes(loaded: Callable[..., EpisodeData]) -> None:
    found = loaded({"t": F.Text(), "u": F.Text()}, {"t": [b"ok", b"\xff"], "u": ["é", ""]}, raw=(F.Text(), b"\xfe"))
    assert (found.schema["t"].dtype, found.schema["u"].dtype) == ("bytes", "str")
    assert list(found.columns["t"].values) == [b"ok", b"\xff"]
    assert list(found.columns["u"].values) == ["é", ""]
    assert found.metadata["episode_metadata/raw"] == b"\xfe"
    assert found.schema.episode_fields["episode_metadata/raw"][1].dtype == "bytes"


@pytest.mark.parametrize(
    ("declared", "sizes", "expected"),
    [
        ((4, 6, 3), [(4, 6)] * 2, (4, 6, 3)),
        ((None, None, 3), [(4, 6)] * 2, (4, 6, 3)),
        ((None, 6, 3), [(4, 6), (5, 6)], (None, 6, 3)),
        ((None, None, 3), [(4, 6), (4, 7)], (4, None, 3)),
        ((None, None, 3), [(4, 6), (5, 7)], None),
    ],
)
def test_image_shapes(loaded: Callable[..., EpisodeData], declared: Any, sizes: Any, expected: Any) -> None:
    images = [png(*size, seed=i) for i, size in enumerate(sizes)]
    found = loaded({"i": F.Image(shape=declared, doc="the wrist")}, {"i": images})
    assert found.schema["i"] == Feature("uint8", expected, encoding="png", doc="the wrist")
    assert list(found.columns["i"].values) == images


def test_format_is_that_of_the_data(loaded: Callable[..., EpisodeData]) -> None:
    found = loaded({"i": F.Image(encoding_format="png")}, {"i": [jpeg(4, 4)]})
    assert found.schema["i"].encoding == "jpeg"


def test_images_that_are_not_there(loaded: Callable[..., EpisodeData]) -> None:
    found = loaded({"i": F.Image(), "none": F.Image(shape=(2, 2, 3))}, {"i": [b"", png(4, 6)], "none": [b"", b""]})
    assert found.columns["i"].valid is not None
    assert found.columns["i"].valid.tolist() == [False, True]
    assert found.schema["i"].shape == (4, 6, 3)
    assert found.columns["none"].valid is not None
    assert not found.columns["none"].valid.any()


def test_depth_images(loaded: Callable[..., EpisodeData], assert_same: Callable[..., None]) -> None:
    depth = np.array([[0, 65535], [3, 256]], np.uint16)
    metres = np.array([[[0.5], [np.pi]], [[-0.0], [1e30]]], np.float32)
    packed = registry.get("codecs", "png").encode(metres.view(np.uint8))
    raw = registry.get("codecs", "png").encode(depth)
    record = {"d": [raw], "m": [packed]}
    features = {"d": F.Image(shape=(2, 2, 1), dtype=np.uint16), "m": F.Image(shape=(2, 2, 4))}
    found = loaded(features, record)
    assert found.schema["d"] == Feature("uint16", (2, 2, 1), encoding="png")
    assert_same(registry.get("codecs", "png").decode(found.columns["d"].values[0], found.schema["d"]), depth[..., None])


def test_float_images_are_unpacked(tmp_path: Path, rlds_folder: Folder, load: Load, assert_same: Callable[..., None]) -> None:
    metres = np.array([[[0.5], [np.pi]], [[-0.0], [1e30]]], np.float32)
    packed = registry.get("codecs", "png").encode(metres.view(np.uint8))
    record = F.FeaturesDict({"steps": F.Dataset({"m": F.Image()})}).serialize_example({"steps": {"m": [packed, packed]}})
    features = {"steps": F.Dataset({"m": F.Image(shape=(2, 2, 1), dtype=np.float32)})}
    (found,) = load(rlds_folder(tmp_path / "toy/1.0.0", features, [record]))
    assert found.schema["m"] == Feature("float32", (2, 2, 1))
    assert_same(found.columns["m"].values, np.stack([metres, metres]))


def test_images_of_other_formats(loaded: Callable[..., EpisodeData]) -> None:
    with pytest.raises(FeatureError, match=r"record 0: feature 'steps/i' holds images as jpeg and png"):
        loaded({"i": F.Image()}, {"i": [png(4, 4), jpeg(4, 4)]})
    with pytest.raises(FeatureError, match=r"record 0: feature 'steps/i' holds images as other"):
        loaded({"i": F.Image()}, {"i": [b"GIF89a"]})


def test_image_unlike_its_declaration(loaded: Callable[..., EpisodeData]) -> None:
    with pytest.raises(
        CorruptDataError, match=r"00000-of-00001: record 0: .*'steps/i' is declared as \(4, 5, 3\), an image has \(4, 6, 3"
    ):
        loaded({"i": F.Image(shape=(4, 5, 3))}, {"i": [png(4, 6)]})
    with pytest.raises(CorruptDataError, match=r"'steps/i': PNG of 20 bytes has no readable header"):
        loaded({"i": F.Image()}, {"i": [png(4, 6)[:20]]})


def test_images_elsewhere(loaded: Callable[..., EpisodeData]) -> None:
    frames = [png(2, 2, seed=i) for i in range(3)]
    found = loaded({"clip": F.Sequence(F.Image())}, {"clip": [frames, frames[:1]]}, scene=(F.Image(shape=(2, 2, 3)), frames[0]))
    assert found.schema["clip"] == Feature("bytes", (None,))
    assert [list(v) for v in found.columns["clip"].values] == [frames, frames[:1]]
    assert found.metadata["episode_metadata/scene"] == frames[0]
    assert found.schema.episode_fields["episode_metadata/scene"][1] == Feature("uint8", (2, 2, 3), encoding="png")


def test_large_values_are_compressed(loaded: Callable[..., EpisodeData], assert_same: Callable[..., None]) -> None:
    depth = np.arange(2 * 64 * 65, dtype=np.float32).reshape(2, 64, 65)
    rows = [np.arange(3000.0), np.zeros(0)]
    found = loaded(
        {
            "depth": F.Tensor(shape=(64, 65), dtype=np.float32),
            "small": F.Tensor(shape=(64, 64), dtype=np.float32),
            "rows": F.Tensor(shape=(None,), dtype=np.float64, encoding="bytes"),
            "text": F.Text(),
        },
        {"depth": depth, "small": depth[:, :, :64], "rows": rows, "text": ["ä" * 10_000, "b"]},
    )
    codec = registry.get("codecs", "zstd")
    assert {k: f.encoding for k, f in found.schema.items()} == {"depth": "zstd", "rows": "zstd", "small": None, "text": "zstd"}
    for i in range(2):
        assert_same(codec.decode(found.columns["depth"].values[i], found.schema["depth"]), depth[i])
        assert_same(codec.decode(found.columns["rows"].values[i], found.schema["rows"]), rows[i])
    assert codec.decode(found.columns["text"].values[0], found.schema["text"])[()] == "ä" * 10_000


def test_names_of_fogx_own_columns(loaded: Callable[..., EpisodeData], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fogx"):
        found = loaded(
            {"episode_id": np.int64, "step_index": np.int32, "timestamp_ns": np.float32},
            {"episode_id": [5, 5], "step_index": [0, 1], "timestamp_ns": [0.0, 0.5]},
        )
    assert list(found.schema) == ["source/episode_id", "source/step_index", "source/timestamp_ns"]
    assert found.columns["source/step_index"].values.tolist() == [0, 1]
    assert found.timestamps_ns is None
    assert caplog.text.count("'source/episode_id'") == 1


def test_times_that_fogx_exported(loaded: Callable[..., EpisodeData], assert_same: Callable[..., None]) -> None:
    found = loaded({"timestamp_ns": np.int64, "x": np.int64}, {"timestamp_ns": [3, 7], "x": [0, 0]})
    assert list(found.schema) == ["x"]
    assert_same(found.timestamps_ns, np.array([3, 7]))


def test_two_features_of_one_name(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    features = {"steps": F.Dataset({"step_index": np.int64, "source": {"step_index": np.int64}})}
    with pytest.raises(FeatureError, match="two features would be called 'source/step_index'"):
        load(rlds_folder(tmp_path / "toy/1.0.0", features, [b""]))


def test_fields_of_the_episode(loaded: Callable[..., EpisodeData]) -> None:
    found = loaded(
        {"n": np.int64},
        {"n": [1]},
        episode_metadata=(
            F.FeaturesDict({"path": F.Text(), "robot": {"name": F.Text()}}),
            {"path": "p", "robot": {"name": "ur5"}},
        ),
        path=(F.Text(), "top"),
        extra=(F.FeaturesDict({"weight": np.float32}), {"weight": 2.5}),
    )
    assert found.metadata == {
        "episode_metadata/path": "p",
        "episode_metadata/robot/name": "ur5",
        "episode_metadata/top_level/path": "top",
        "episode_metadata/extra/weight": np.float32(2.5),
    }
    assert {c: path for c, (path, _) in found.schema.episode_fields.items()} == {
        "episode_metadata/path": "episode_metadata/path",
        "episode_metadata/robot/name": "episode_metadata/robot/name",
        "episode_metadata/top_level/path": "path",
        "episode_metadata/extra/weight": "extra/weight",
    }


def remove(key: str) -> Callable[[Any], None]:
    return lambda features: features.pop(key)


def put(key: str, **lists: list[Any]) -> Callable[[Any], None]:
    def change(features: Any) -> None:
        features[key].Clear()
        for kind, values in lists.items():
            getattr(features[key], kind).value.extend(values)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("steps/x"), "feature 'steps/x' is missing"),
        (remove("steps/t"), "feature 'steps/t' is missing"),
        (remove("id"), "feature 'id' is missing"),
        (put("steps/x"), "feature 'steps/x' is missing"),
        (put("steps/x", int64_list=[1] * 6), "'steps/x' is kept as int64_list, float_list is declared"),
        (put("steps/t", float_list=[1.0] * 3), "'steps/t' is kept as float_list, bytes_list is declared"),
        (put("steps/x", float_list=[1.0] * 5), "'steps/x' has 5 elements, no multiple of the 2"),
        (put("steps/x", float_list=[1.0] * 8), "'steps/x' has 4 steps, 'steps/n' has 3"),
        (put("steps/n", int64_list=[1, 2, 128]), "'steps/n' holds 1 numbers that do not fit int8"),
        (put("id", int64_list=[1, 2]), "'id' has 2 elements, 1 × 1 are declared"),
        (put("steps/s/ragged_row_lengths_0", int64_list=[1, 0]), "'steps/s' has 2 steps, 'steps/n' has 3"),
        (put("steps/s/ragged_row_lengths_0", int64_list=[1, 0, 1]), "'steps/s' has 3 elements, which 3 values"),
        (put("steps/s/ragged_row_lengths_0", int64_list=[4, -1, 0]), "'steps/s' has row lengths that do not fit"),
        (remove("steps/s/ragged_row_lengths_0"), "'steps/s' has row lengths that do not fit"),
    ],
)
def test_records_unlike_features_json(altered: Callable[..., Any], change: Callable[[Any], None], says: str) -> None:
    with pytest.raises(CorruptDataError) as caught:
        altered(change)
    assert "toy-train.tfrecord-00000-of-00001: record 1: " in str(caught.value)
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, bytes]:
    """A layout with a feature of each kind, and a record of it."""
    steps = {
        "x": F.Tensor(shape=(2,), dtype=np.float32),
        "n": np.int8,
        "t": F.Text(),
        "s": F.Sequence(np.int32),
        "i": F.Image(),
        "z": F.Tensor(shape=(None,), dtype=np.int16, encoding="zlib"),
    }
    folder = tmp_path_factory.mktemp("sample")
    features = F.FeaturesDict({"steps": F.Dataset(steps), "id": np.uint64})
    features.save_config(folder)
    values = {
        "x": np.ones((2, 2), np.float32),
        "n": [1, 2],
        "t": ["a", "b"],
        "s": [[1], []],
        "i": [png(2, 2)] * 2,
        "z": [np.zeros(3, np.int16)] * 2,
    }
    return read_layout(str(folder)), features.serialize_example({"steps": values, "id": 1})


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255), st.binary(max_size=3))
def test_damage_behind_a_right_checksum(sample: tuple[Layout, bytes], position: int, byte: int, inserted: bytes) -> None:
    layout, record = sample
    position %= len(record)
    damaged = record[:position] + inserted + bytes([byte]) + record[position + 1 :]
    try:
        content = read_content(damaged, layout, "here")
    except FogxError as error:
        refused = str(error)
    else:
        refused = ""
        assert set(content.columns) == {"x", "n", "t", "s", "i", "z"}
        assert all(len(column.values) == content.num_steps for column in content.columns.values())
    assert refused == "" or refused.startswith("here: ")


def test_keys_that_are_not_declared_are_passed_over(altered: Callable[..., Any]) -> None:
    assert len(altered(put("steps/unknown", int64_list=[1]))) == 3


@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
@pytest.mark.parametrize("value", [b"", b"\x00" * 15, b"\x00" * 17, b"x\x9cgarbage"])
def test_damaged_blobs(tmp_path: Path, rlds_folder: Folder, load: Load, encoding: str, value: bytes) -> None:
    features = {"steps": F.Dataset({"b": F.Tensor(shape=(2,), dtype=np.float64, encoding=encoding)})}
    example = tf_example_pb2.Example()
    example.features.feature["steps/b"].bytes_list.value.append(value)
    with pytest.raises(CorruptDataError, match="record 0: feature 'steps/b'"):
        load(rlds_folder(tmp_path / "toy/1.0.0", features, [example.SerializeToString()]))


def test_a_compressed_bomb_is_not_inflated(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    import zlib

    features = {"steps": F.Dataset({"b": F.Tensor(shape=(2,), dtype=np.float64, encoding="zlib")})}
    example = tf_example_pb2.Example()
    example.features.feature["steps/b"].bytes_list.value.append(zlib.compress(bytes(1 << 24)))
    with pytest.raises(CorruptDataError, match="'steps/b' has a compressed value that ends early or is over 16 bytes"):
        load(rlds_folder(tmp_path / "toy/1.0.0", features, [example.SerializeToString()]))


def test_a_record_that_is_no_example(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    with pytest.raises(CorruptDataError, match=r"record 0: its 7 bytes are not a tf\.train\.Example"):
        load(rlds_folder(tmp_path / "toy/1.0.0", {"steps": F.Dataset({"n": np.int64})}, [b"\xff" * 7]))


def test_datasets_without_steps(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    with pytest.raises(NotADatasetError, match=r"no sequence 'steps'.* It declares: image, label"):
        load(rlds_folder(tmp_path / "mnist/1.0.0", {"image": F.Image(), "label": np.int64}, [b""]))


@pytest.fixture
def edited(tmp_path: Path, rlds_folder: Folder, load: Load) -> Callable[[Callable[[str], str]], list[EpisodeData]]:
    """Loads a dataset whose `features.json` was edited as text."""

    def run(edit: Callable[[str], str]) -> list[EpisodeData]:
        features = {"steps": F.Dataset({"n": np.float32})}
        folder = rlds_folder(tmp_path / "toy/1.0.0", features, [{"steps": {"n": [1.0]}}])
        path = folder / "features.json"
        path.write_text(edit(path.read_text()))
        return load(folder)

    return run


def test_a_class_that_is_not_of_tfds_is_not_imported(
    edited: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FeatureError, match=r"'steps/n' is of class 'evil_module\.Tensor'"):
        edited(lambda text: text.replace("tensorflow_datasets.core.features.tensor_feature.Tensor", "evil_module.Tensor"))
    assert "evil_module" not in sys.modules


def test_a_dtype_that_fogx_does_not_have(edited: Callable[..., Any]) -> None:
    with pytest.raises(FeatureError, match="'steps/n' has dtype 'bfloat16'"):
        edited(lambda text: text.replace('"float32"', '"bfloat16"'))


@pytest.mark.parametrize("edit", [lambda text: text[:-3], lambda text: "[]", lambda text: text.replace('"shape"', '"shapes"')])
def test_features_json_that_cannot_be_read(edited: Callable[..., Any], edit: Callable[[str], str]) -> None:
    with pytest.raises((CorruptDataError, NotADatasetError), match=r"features\.json"):
        edited(edit)


def test_features_json_of_old_datasets(tmp_path: Path, rlds_folder: Folder, load: Load) -> None:
    features = {"steps": F.Dataset({"n": np.float32, "type": F.Text()})}
    folder = rlds_folder(tmp_path / "toy/1.0.0", features, [{"steps": {"n": [1.0, 2.0], "type": ["a", "b"]}}])
    expected = load(folder)[0]
    (folder / "features.json").write_text(json.dumps(F.FeaturesDict(features).to_json()))
    found = load(folder)[0]
    assert found.schema == expected.schema
    assert found.columns["n"].values.tolist() == [1.0, 2.0]
