"""get_step_data(): one LazyFrame over unlike episodes."""

import numpy as np
import polars as pl
import pytest

import fogx as fox
from fogx.errors import SchemaMismatchError, SelectionError
from fogx.reading import images as frames


def _record(dataset, **features):
    """Record one episode; each feature is a list of values, one a step."""
    episode = dataset.new_episode()
    for values in zip(*features.values(), strict=True):
        episode.add_step(dict(zip(features, values, strict=True)))
    episode.close()
    return episode.episode_id


@pytest.fixture
def dataset(tmp_path):
    return fox.Dataset(tmp_path / "lab")


def test_shapes_and_dtypes_that_differ(dataset):
    f32 = np.float32
    ids = [
        _record(dataset, state=[np.arange(3, dtype=f32)] * 2, gain=[np.int8(1)] * 2, arm=[np.arange(2)] * 2, only=["x", "y"]),
        _record(dataset, state=[np.arange(2, dtype=np.float64)], gain=[np.float32(0.5)], arm=[np.arange(2) * 2]),
        _record(dataset, state=[f32(4)], gain=[np.uint8(200)], arm=[np.arange(2) * 3]),
    ]
    steps = dataset.get_step_data().collect()
    assert steps.schema["state"] == pl.List(pl.Float64)
    assert steps["state"].to_list() == [[0, 1, 2], [0, 1, 2], [0, 1], [4]]
    assert steps.schema["gain"] == pl.Float32
    assert steps["gain"].to_list() == [1, 1, 0.5, 200]
    assert steps.schema["arm"] == pl.Array(pl.Int64, 2)
    assert steps["only"].to_list() == ["x", "y", None, None]
    assert steps["episode_id"].to_list() == [ids[0], ids[0], ids[1], ids[2]]


@pytest.mark.parametrize(
    ("first", "second"),
    [("text", 1.0), (True, 1.5), (np.int64(1), np.float32(1)), (np.uint64(1), np.int64(1)), (b"raw", "text")],
)
def test_no_common_type_is_an_error_of_that_column_alone(dataset, first, second):
    _record(dataset, value=[first], other=[1.0])
    _record(dataset, value=[second], other=[2.0])
    steps = dataset.get_step_data()
    assert steps.select("step_index", "other").collect()["other"].to_list() == [1, 2]
    with pytest.raises(SchemaMismatchError, match=r"'value'.*1 episodes of lab.*1 episodes of lab"):
        steps.select("value").collect()
    with pytest.raises(SchemaMismatchError):
        steps.collect()


def test_camera_beside_numbers_of_one_name(dataset):
    _record(dataset, view=[np.zeros((32, 32, 3), np.uint8)], x=[1.0])
    _record(dataset, view=[np.int32(7)], x=[2.0])
    assert dataset.get_step_data().select("x").collect()["x"].to_list() == [1, 2]
    with pytest.raises(SchemaMismatchError, match="view"):
        dataset.get_step_data().select("view").collect()


def test_cameras_as_index_bytes_and_pixels(dataset):
    images = [np.full((32, 48, 3), i * 20, np.uint8) for i in range(3)]
    _record(dataset, view=images)
    view = dataset.episodes[0]
    assert dataset.get_step_data().collect()["view"].to_list() == [0, 1, 2]
    assert dataset.get_step_data(images="encoded").collect()["view"].to_list() == view.encoded("view")
    pixels = dataset.get_step_data(images="pixels").collect()
    assert pixels.schema["view"] == pl.Array(pl.UInt8, (32, 48, 3))
    assert np.array_equal(pixels["view"].to_numpy(), view["view"])
    with pytest.raises(SelectionError, match="pixels"):
        dataset.get_step_data(images="pixel")


def test_cameras_of_unlike_sizes_and_missing_frames(dataset):
    big, small = np.full((32, 64, 3), 9, np.uint8), np.full((32, 32, 3), 7, np.uint8)
    _record(dataset, view=[big])
    episode = dataset.new_episode()
    episode.add_step({"view": small, "x": 1.0})
    episode.add_step({"x": 2.0})
    with pytest.warns(UserWarning, match="view"):
        episode.close()
    assert dataset.get_step_data().collect()["view"].to_list() == [0, 0, None]
    pixels = dataset.get_step_data(images="pixels").collect()
    assert pixels.schema["view"] == pl.List(pl.UInt8)
    assert [None if row is None else len(row) for row in pixels["view"].to_list()] == [big.size, small.size, None]
    alone = dataset.get_step_data([episode.episode_id], images="pixels").collect()
    assert alone.schema["view"] == pl.Array(pl.UInt8, (32, 32, 3))
    assert alone["view"].is_null().to_list() == [False, True]


def test_order_of_the_selection_is_kept(dataset):
    ids = [_record(dataset, **{name: [i, i]}) for i, name in enumerate(["a", "b", "a", "b", "a"])]
    for wanted in (ids, ids[::-1], [ids[3], ids[0]], [ids[2]], []):
        got = dataset.get_step_data(wanted).collect()
        assert got["episode_id"].unique(maintain_order=True).to_list() == wanted
        assert got["step_index"].to_list() == [0, 1] * len(wanted)


def test_empty_episodes_and_empty_selections(dataset):
    dataset.new_episode().close()
    assert dataset.get_step_data().collect().shape == (0, 3)
    ids = [_record(dataset, a=[1.0])]
    dataset.new_episode().close()
    assert dataset.get_step_data().collect()["episode_id"].to_list() == ids


def test_metadata_columns_are_joined(dataset):
    episode_id = _record(dataset, a=[1.0, 2.0])
    dataset.tag([episode_id], kind="pick")
    steps = dataset.get_step_data(with_metadata=["kind", "num_steps"]).collect()
    assert steps["kind"].to_list() == ["pick", "pick"]
    assert steps["num_steps"].to_list() == [2, 2]
    assert dataset.get_step_data(with_metadata="kind").collect()["kind"].to_list() == ["pick", "pick"]
    with pytest.raises(SelectionError, match="Did you mean 'kind'"):
        dataset.get_step_data(with_metadata="kin")


def test_only_the_columns_asked_for_are_scanned(dataset):
    _record(dataset, a=[1.0] * 3, b=[np.zeros(4)] * 3)
    plan = dataset.get_step_data().select(pl.col("a").mean()).explain()
    assert "PROJECT" in plan
    assert "PROJECT */" not in plan


def test_large_values_are_read_back(dataset):
    clouds = [np.random.default_rng(i).random((2_000, 3)) for i in range(2)]
    _record(dataset, cloud=clouds)
    steps = dataset.get_step_data(images="pixels").collect()
    assert steps.schema["cloud"] == pl.Array(pl.Float64, (2_000, 3))
    assert np.array_equal(steps["cloud"].to_numpy(), clouds)
    assert np.array_equal(dataset.episodes[0]["cloud"], clouds)


@pytest.mark.parametrize("images", ["encoded", "pixels"])
@pytest.mark.parametrize("backwards", [False, True])
def test_frames_are_read_of_the_steps_asked_for(dataset, monkeypatch, images, backwards):
    """In whatever order: a head() or filter() reads its own frames and no others."""
    shots = [[np.full((32, 32, 3), 10 * n + i, np.uint8) for i in range(4)] for n in range(3)]
    ids = [_record(dataset, view=shot, x=[n] * 4) for n, shot in enumerate(shots)]
    order = [2, 0, 1] if backwards else [0, 1, 2]
    real, read = frames.read_frames, []
    monkeypatch.setattr(
        frames, "read_frames", lambda store, places, numbers: read.extend(numbers) or real(store, places, numbers)
    )
    steps = dataset.get_step_data([ids[n] for n in order], images=images)
    assert read == []
    assert steps.head(2).collect()["x"].to_list() == [order[0]] * 2
    assert len(read) == 2
    last = steps.filter(pl.col("step_index") == 3).collect()
    assert len(read) == 5
    if images == "pixels":
        assert last["view"].to_numpy()[:, 0, 0, 0].tolist() == [10 * n + 3 for n in order]
    assert steps.select("x").collect()["x"].to_list() == np.repeat(order, 4).tolist()
    assert len(read) == 5


def test_cameras_of_unlike_dtypes(dataset):
    """Depth beside colour under one name: the wider type, whatever the order."""
    wide, narrow = np.full((32, 32), 40_000, np.uint16), np.full((32, 32), 9, np.uint8)
    small = np.full((32, 48), 7, np.uint8)
    ids = [_record(dataset, view=[wide, wide]), _record(dataset, view=[narrow])]
    for wanted in (ids, ids[::-1]):
        pixels = dataset.get_step_data(wanted, images="pixels").collect()
        assert pixels.schema["view"] == pl.Array(pl.UInt16, (32, 32))
        assert sorted(pixels["view"].to_numpy()[:, 0, 0].tolist()) == [9, 40_000, 40_000]
    ids.append(_record(dataset, view=[small]))
    for wanted in (ids, ids[::-1]):
        pixels = dataset.get_step_data(wanted, images="pixels").collect()
        assert pixels.schema["view"] == pl.List(pl.UInt16)
        assert [(len(row), row[0]) for row in pixels["view"].to_list()][:: 1 if wanted is ids else -1] == [
            (1024, 40_000), (1024, 40_000), (1024, 9), (1536, 7)
        ]  # fmt: skip
