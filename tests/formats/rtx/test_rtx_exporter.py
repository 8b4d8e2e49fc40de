from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fogx import registry
from fogx.errors import ExistsError, FeatureError, FogxError, MetadataError, SchemaMismatchError, StorageError
from fogx.feature import NUMERIC_DTYPES, Feature, Schema
from fogx.formats.rtx.exporter import RtxExporter
from fogx.protocols import Column, EpisodeData, Exporter

Load = Callable[..., list[EpisodeData]]
ADDED = {"is_first", "is_last", "is_terminal", "reward", "discount", "language_instruction"}


def objects(items: list[Any]) -> np.ndarray:
    out = np.empty(len(items), object)
    for i, item in enumerate(items):
        out[i] = item
    return out


def episode(steps: int = 2, *, features: dict[str, tuple[Feature, np.ndarray]] | None = None, **fields: Any) -> EpisodeData:
    """An episode of one feature `x`, or of those given."""
    features = features or {"x": (Feature("int64", ()), np.arange(steps))}
    schema = Schema({k: f for k, (f, _) in features.items()}, fields.pop("episode_fields", {}))
    return EpisodeData(schema, {k: Column(v) for k, (_, v) in features.items()}, steps, **fields)


def export(path: Path, episodes: list[EpisodeData], **options: Any) -> Path:
    schema = options.pop("schema", None) or episodes[0].schema
    return Path(RtxExporter().export(episodes, schema, str(path), name="toy", **options))


def test_is_an_exporter() -> None:
    assert all(isinstance(registry.get("exporters", name), Exporter) for name in ("rtx", "rlds", "open-x"))


def test_bridge_comes_back_the_same(bridge_dir: Path, tmp_path: Path, load: Load, assert_same: Callable[..., None]) -> None:
    before = load(bridge_dir)
    after = load(export(tmp_path / "toy/1.0.0", before))
    assert len(after) == 25
    for old, new in zip(before, after, strict=True):
        assert new.schema == old.schema
        assert set(new.metadata) == set(old.metadata)
        for key, value in old.metadata.items():
            assert_same(new.metadata[key], value, key)
        for name, column in old.columns.items():
            assert_same(new.columns[name].values, column.values, name)
            assert new.columns[name].valid is None


def test_stub_keeps_its_nesting(shipped_data: Path, tmp_path: Path, load: Load) -> None:
    before = load("bridge", data_dir=shipped_data / "rlds")
    (after,) = load(export(tmp_path / "toy/1.0.0", before))
    assert set(after.schema) == set(before[0].schema) | ADDED
    assert after.schema.episode_fields == before[0].schema.episode_fields
    image = "observation/image"
    assert list(after.columns[image].values) == list(before[0].columns[image].values)


shapes = st.sampled_from([(), (3,), (2, 2), (0,), (None,), (None, 2), (2, None)])


@st.composite
def numeric(draw: st.DrawFn, steps: int) -> tuple[Feature, np.ndarray]:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(NUMERIC_DTYPES))
    if dtype == "uint32" and (shape in ((0,), (2, None))):
        dtype = "uint64"  # refused as uint32, which a test of its own shows
    feature = Feature(dtype, shape, doc=draw(st.none() | st.just("a note")))
    if not feature.is_variable:
        return feature, draw(hnp.arrays(dtype, (steps, *(d for d in shape if d is not None))))
    sizes = [draw(st.integers(0, 3)) for _ in range(steps)]
    return feature, objects([draw(hnp.arrays(dtype, [n if d is None else d for d in shape])) for n in sizes])


@st.composite
def texts(draw: st.DrawFn, steps: int) -> tuple[Feature, np.ndarray]:
    shape = draw(st.sampled_from([(), (2,), (None,)]))
    text = st.text(st.characters(codec="utf-8"), max_size=5)
    if shape == (None,):
        return Feature("str", shape), objects([objects(draw(st.lists(text, max_size=3))) for _ in range(steps)])
    count = steps * (2 if shape else 1)
    return Feature("str", shape), objects(draw(st.lists(text, min_size=count, max_size=count))).reshape(steps, *shape)


@st.composite
def episodes(draw: st.DrawFn) -> EpisodeData:
    steps = draw(st.integers(0, 3))
    names = draw(st.lists(st.sampled_from(["action", "observation/state", "observation/deep/er", "a b", "é"]), unique=True))
    features = {name: draw(numeric(steps) | texts(steps)) for name in names}
    return episode(steps, features={**features, "x": (Feature("int64", ()), np.arange(steps))})


@given(episodes())
def test_what_is_exported_is_loaded_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, load: Load, assert_same: Callable[..., None], before: EpisodeData
) -> None:
    (after,) = load(export(tmp_path_factory.mktemp("export") / "toy/1.0.0", [before]))
    assert after.num_steps == before.num_steps
    assert set(after.schema) == set(before.schema) | ADDED
    for name, feature in before.schema.items():
        assert after.schema[name] == feature
        assert_same(after.columns[name].values, before.columns[name].values, name)


@given(st.sampled_from(NUMERIC_DTYPES).flatmap(lambda d: hnp.arrays(d, st.sampled_from([(), (2,), (0,), (2, 3)]))))
def test_metadata_is_loaded_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, load: Load, assert_same: Callable[..., None], value: np.ndarray
) -> None:
    if value.dtype == np.uint32 and value.size == 0:
        value = value.astype(np.int8)
    feature = Feature(value.dtype.name, value.shape)
    before = episode(episode_fields={"episode_metadata/v": ("top/v", feature)}, metadata={"episode_metadata/v": value})
    (after,) = load(export(tmp_path_factory.mktemp("export") / "toy/1.0.0", [before]))
    assert after.schema.episode_fields["episode_metadata/top/v"] == ("top/v", feature)
    assert_same(after.metadata["episode_metadata/top/v"], value)


def test_bytes_and_images_pass_unchanged(tmp_path: Path, load: Load) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), np.uint8)
    stills = {codec: [registry.get("codecs", codec).encode(p) for p in pixels] for codec in ("jpeg", "png")}
    features = {
        "raw": (Feature("bytes", ()), objects([b"\xff\x00", b""])),
        "jpeg": (Feature("uint8", (8, 9, 3), encoding="jpeg"), objects(stills["jpeg"])),
        "png": (Feature("uint8", None, encoding="png"), objects(stills["png"])),
    }
    (after,) = load(export(tmp_path / "toy/1.0.0", [episode(features=features)]))
    for name, (_, values) in features.items():
        assert list(after.columns[name].values) == list(values)
    assert after.schema["jpeg"] == features["jpeg"][0]
    assert (after.schema["png"].shape, after.schema["png"].encoding) == ((8, 9, 3), "png")


def test_masks_and_compressed_values_keep_dtype_and_shape(tmp_path: Path, load: Load, assert_same: Callable[..., None]) -> None:
    mask = np.eye(3, dtype=bool)
    cloud = np.arange(6.0).reshape(3, 2)
    zstd, png = registry.get("codecs", "zstd"), registry.get("codecs", "png")
    features = {
        "mask": (Feature("bool", (3, 3), encoding="png"), objects([png.encode(mask)] * 2)),
        "cloud": (Feature("float64", (None, 2), encoding="zstd"), objects([zstd.encode(cloud), zstd.encode(cloud[:1])])),
        "note": (Feature("str", (), encoding="zstd"), objects([zstd.encode(np.frombuffer(t, np.uint8)) for t in (b"a", b"bc")])),
    }
    (after,) = load(export(tmp_path / "toy/1.0.0", [episode(features=features)]))
    assert_same(after.columns["mask"].values, np.stack([mask, mask]))
    assert_same(after.columns["cloud"].values, objects([cloud, cloud[:1]]))
    assert list(after.columns["note"].values) == ["a", "bc"]


@pytest.mark.parametrize(("success", "at_end"), [(True, True), (None, True), (False, False)])
def test_signals_that_the_schema_lacks(tmp_path: Path, load: Load, success: bool | None, at_end: bool) -> None:
    (after,) = load(
        export(tmp_path / "toy/1.0.0", [episode(3, success=success, metadata={"task": "pick", "language_instruction": "x"})])
    )
    values = {name: after.columns[name].values.tolist() for name in ADDED}
    assert values == {
        "is_first": [True, False, False],
        "is_last": [False, False, True],
        "is_terminal": [False, False, at_end],
        "reward": [0.0, 0.0, float(at_end)],
        "discount": [1.0, 1.0, 1.0],
        "language_instruction": ["pick"] * 3,
    }
    assert after.schema["reward"].dtype == "float32"


@pytest.mark.parametrize(("metadata", "text"), [({}, ""), ({"language_instruction": "push"}, "push"), ({"task": None}, "")])
def test_instruction(tmp_path: Path, load: Load, metadata: dict[str, Any], text: str) -> None:
    (after,) = load(export(tmp_path / "toy/1.0.0", [episode(metadata=metadata)]))
    assert after.columns["language_instruction"].values.tolist() == [text] * 2


def test_signals_of_the_schema_are_kept(tmp_path: Path, load: Load) -> None:
    features = {"reward": (Feature("float64", ()), np.array([0.1, 0.2])), "is_last": (Feature("bool", ()), np.zeros(2, bool))}
    (after,) = load(export(tmp_path / "toy/1.0.0", [episode(features=features)]))
    assert after.columns["reward"].values.tolist() == [0.1, 0.2]
    assert not after.columns["is_last"].values.any()


def test_user_columns(tmp_path: Path, load: Load) -> None:
    columns = {
        "collector": Feature("str", ()),
        "rating": Feature("float64", ()),
        "count": Feature("int64", ()),
        "good": Feature("bool", ()),
    }
    given = {"collector": "User 2", "rating": 0.1, "count": 3, "good": True, "not asked for": 1}
    path = export(tmp_path / "toy/1.0.0", [episode(metadata=given), episode()], metadata_features=columns)
    full, empty = load(path)
    assert full.metadata == {f"episode_metadata/{k}": given[k] for k in columns}
    rating = empty.metadata.pop("episode_metadata/rating")
    assert np.isnan(rating)
    assert empty.metadata == {"episode_metadata/collector": "", "episode_metadata/count": 0, "episode_metadata/good": False}


def test_times(tmp_path: Path, load: Load) -> None:
    before = episode(timestamps_ns=np.array([5, 2**62]))
    assert load(export(tmp_path / "a/1.0.0", [before]))[0].timestamps_ns is None
    after = load(export(tmp_path / "b/1.0.0", [before], timestamps=True))[0]
    assert after.timestamps_ns is not None
    assert after.timestamps_ns.tolist() == [5, 2**62]
    with pytest.raises(SchemaMismatchError, match="has no times"):
        export(tmp_path / "c/1.0.0", [before, episode()], timestamps=True)


def test_missing_values_are_made_up_and_counted(tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    image = registry.get("codecs", "jpeg").encode(np.full((8, 9, 3), 200, np.uint8))
    features = {
        "f": (Feature("float32", (2,)), np.ones((3, 2), np.float32)),
        "i": (Feature("int16", ()), np.ones(3, np.int16)),
        "b": (Feature("bool", ()), np.ones(3, bool)),
        "t": (Feature("str", ()), objects(["a", None, "c"])),
        "s": (Feature("int32", (None,)), objects([np.ones(2, np.int32), None, np.ones(1, np.int32)])),
        "cam": (Feature("uint8", (8, 9, 3), encoding="jpeg"), objects([image, None, image])),
        "depth": (Feature("uint16", None, encoding="png"), objects([None, None, None])),
    }
    before = episode(3, features=features)
    for name, column in before.columns.items():
        column.valid = np.array([name != "depth", False, name != "depth"])
    with caplog.at_level(logging.WARNING, "fogx"):
        (after,) = load(export(tmp_path / "toy/1.0.0", [before]))
    (record,) = caplog.records
    assert all(f"{name} (1)" in record.message for name in ("f", "i", "b", "t", "s", "cam"))
    assert "depth (3)" in record.message
    got = {name: column.values for name, column in after.columns.items()}
    assert np.isnan(got["f"][1]).all()
    assert got["f"][[0, 2]].tolist() == [[1, 1], [1, 1]]
    assert (got["i"].tolist(), got["b"].tolist(), got["t"].tolist()) == ([1, 0, 1], [True, False, True], ["a", "", "c"])
    assert [v.tolist() for v in got["s"]] == [[1, 1], [], [1]]
    assert got["cam"][0] == image
    assert not registry.get("codecs", "jpeg").decode(got["cam"][1], after.schema["cam"]).any()
    assert not registry.get("codecs", "png").decode(got["depth"][0], after.schema["depth"]).any()


def test_files_are_bounded_and_named_by_their_number(tmp_path: Path, load: Load) -> None:
    features = {"x": (Feature("float32", (2**17,)), np.zeros((1, 2**17), np.float32))}  # half a MiB an episode
    many = [replace(episode(1, features=features), metadata={"i": i}) for i in range(5)]
    path = export(
        tmp_path / "toy/2.1.0", many, max_shard_mb=1, version="2.1.0", split="val", metadata_features={"i": Feature("int64", ())}
    )
    assert sorted(p.name for p in path.iterdir()) == [
        "dataset_info.json",
        "features.json",
        "fogx_export_id",
        *(f"toy-val.tfrecord-{i:05d}-of-00005" for i in range(5)),
    ]
    info = json.loads((path / "dataset_info.json").read_text())
    (split,) = info["splits"]
    assert (info["name"], info["version"], info["fileFormat"], split["name"]) == ("toy", "2.1.0", "tfrecord", "val")
    assert split["shardLengths"] == ["1"] * 5
    assert int(split["numBytes"]) == sum(p.stat().st_size - 16 for p in path.glob("*tfrecord*"))
    assert [e.metadata["episode_metadata/i"] for e in load(path)] == list(range(5))


def test_no_episodes(tmp_path: Path, load: Load) -> None:
    path = export(tmp_path / "toy/1.0.0", [], schema=episode().schema)
    assert load(path) == []
    assert (path / "toy-train.tfrecord-00000-of-00001").stat().st_size == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FileNotFoundError])
def test_nothing_is_left_of_an_export_that_breaks_off(tmp_path: Path, error: type[BaseException]) -> None:
    def broken() -> Iterator[EpisodeData]:
        yield episode()
        assert len(list((tmp_path / "toy").iterdir())) == 1
        raise error("stop")

    with pytest.raises(error, match="stop"):
        RtxExporter().export(broken(), episode().schema, str(tmp_path / "toy/1.0.0"), name="toy")
    assert list((tmp_path / "toy").iterdir()) == []


def test_the_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "toy/1.0.0"

    def watched() -> Iterator[EpisodeData]:
        for _ in range(3):
            assert not target.exists()
            yield episode()

    RtxExporter().export(watched(), episode().schema, str(target), name="toy")
    assert [p.name for p in (tmp_path / "toy").iterdir()] == ["1.0.0"]


def test_one_episode_in_memory(tmp_path: Path) -> None:
    import weakref

    alive: list[weakref.ref[EpisodeData]] = []

    def stream() -> Iterator[EpisodeData]:
        for _ in range(4):
            data = episode()
            alive.append(weakref.ref(data))
            yield data
            del data
            assert sum(r() is not None for r in alive) <= 1

    RtxExporter().export(stream(), episode().schema, str(tmp_path / "toy/1.0.0"), name="toy")
    assert len(alive) == 4


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageError, match=r"toy/1\.0\.0: cannot be written: No space left on device"):
        export(tmp_path / "toy/1.0.0", [episode()])
    assert list((tmp_path / "toy").iterdir()) == []


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExistsError, match="there exists already"):
        export(tmp_path / "there", [episode()])
    with pytest.raises(StorageError, match="not to s3://bucket/toy"):
        RtxExporter().export([episode()], episode().schema, "s3://bucket/toy", name="toy")


@pytest.mark.parametrize(
    "options",
    [{"name": "a/b"}, {"name": ""}, {"name": "1a"}, {"version": "1.0"}, {"split": "all"}, {"split": "a b"}, {"max_shard_mb": 0}],
)
def test_options_that_tfds_does_not_take(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(MetadataError, match=next(iter(options))):
        RtxExporter().export([episode()], episode().schema, str(tmp_path / "toy/1.0.0"), **{"name": "toy", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_leaf_and_folder(tmp_path: Path) -> None:
    one = (Feature("int64", ()), np.arange(2))
    with pytest.raises(SchemaMismatchError, match="'action' is a value, and 'action/x/y' would lie inside it"):
        export(tmp_path / "toy/1.0.0", [episode(features={"action/x/y": one, "action": one})])
    with pytest.raises(SchemaMismatchError, match="'reward/x' would lie inside"):
        export(tmp_path / "toy/1.0.0", [episode(features={"reward/x": one})])


@pytest.mark.parametrize("path", ["steps", "steps/x"])
def test_a_field_of_the_episode_cannot_be_a_step(tmp_path: Path, path: str) -> None:
    with pytest.raises(SchemaMismatchError, match="'episode_metadata/f'"):
        export(tmp_path / "toy/1.0.0", [episode(episode_fields={"episode_metadata/f": (path, Feature("int64", ()))})])


def test_two_columns_of_one_path(tmp_path: Path) -> None:
    fields = {"episode_metadata/path": ("episode_metadata/path", Feature("str", ()))}
    with pytest.raises(SchemaMismatchError, match="'episode_metadata/path' and 'path' would both"):
        export(tmp_path / "toy/1.0.0", [episode(episode_fields=fields)], metadata_features={"path": Feature("str", ())})


def test_what_tensorflow_cannot_read_is_refused(tmp_path: Path) -> None:
    for feature in (Feature("uint32", (2, None)), Feature("uint32", (0,)), Feature("str", (2, None))):
        with pytest.raises(FeatureError, match="feature 'steps/x'"):
            export(tmp_path / "toy/1.0.0", [], schema=Schema({"x": feature}))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({}, "has no feature 'y'"),
        ({"y": np.arange(2), "z": np.arange(2)}, "has features that the first schema lacks: z"),
        ({"y": np.zeros(2, np.float32)}, r"has feature 'y' as float32 \(\), the export as int64 \(\)"),
        ({"y": np.zeros((2, 3), np.int64)}, r"has feature 'y' as int64 \(3,\), the export as int64 \(\)"),
    ],
)
def test_episodes_of_another_schema(tmp_path: Path, other: dict[str, np.ndarray], says: str) -> None:
    def of(columns: dict[str, np.ndarray]) -> EpisodeData:
        given = {"x": np.arange(2), **columns}
        return episode(features={k: (Feature(v.dtype, v.shape[1:]), v) for k, v in given.items()}, episode_id="e7")

    with pytest.raises(SchemaMismatchError, match=f"episode e7 {says}"):
        export(tmp_path / "toy/1.0.0", [of({"y": np.arange(2)}), of(other)])


def test_varying_values_of_another_dtype(tmp_path: Path) -> None:
    rows = objects([np.zeros(1, np.int32), np.zeros(2)])
    with pytest.raises(SchemaMismatchError, match=r"has feature 'x' as float64 \(2,\), the export as int32 \(None,\)"):
        export(tmp_path / "toy/1.0.0", [episode(features={"x": (Feature("int32", (None,)), rows)})])


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (Feature("int32", ()), 0.5),
        (Feature("int8", ()), 300),
        (Feature("bool", ()), 2),
        (Feature("int64", ()), "text"),
        (Feature("str", ()), 3),
        (Feature("float32", (3,)), np.zeros(2)),
    ],
)
def test_metadata_that_does_not_fit(tmp_path: Path, feature: Feature, value: object) -> None:
    with pytest.raises(MetadataError, match=r"\(unnamed\): metadata 'm' does not fit"):
        export(tmp_path / "toy/1.0.0", [episode(metadata={"m": value})], metadata_features={"m": feature})


def test_errors_of_the_export_are_fogx_errors() -> None:
    assert all(issubclass(e, FogxError) for e in (ExistsError, MetadataError, SchemaMismatchError, StorageError, FeatureError))
