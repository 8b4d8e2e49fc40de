"""Steps made anew at read time: of any episodes, lazily, and no more is read than is asked for."""

from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest

import fogx as fox
from fogx.errors import FeatureError, SelectionError, TooManyStepsError
from fogx.reading import anew, images

BRIDGE = Path(__file__).parents[2] / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"
MS = 1_000_000
TEN = fox.Align(rate_hz=10)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One episode of three rates, one whose steps are its samples, one with another feature, two without times."""
    dataset = fox.Dataset(tmp_path_factory.mktemp("root"), features={"cam": fox.Feature("uint8", (32, 40, 3), camera="png")})
    with dataset.new_episode({"kind": "rates"}) as episode:
        for ms in range(0, 1000, 5):
            episode.add("joint", np.full(7, ms, np.float32), ms * MS)
            if ms % 35 == 0:
                episode.add("cam", np.full((32, 40, 3), ms // 35, np.uint8), ms * MS)
            if ms % 50 == 15:
                episode.add("action", float(ms), ms * MS)
    with dataset.new_episode({"kind": "steps"}) as episode:
        for i in range(30):
            episode.add_step({"joint": np.full(7, i, np.float32), "action": float(i)}, i * 20 * MS)
    with dataset.new_episode({"kind": "other"}) as episode:
        for i in range(30):
            episode.add_step({"joint": np.full(3, i, np.float32), "said": f"word {i}"}, i * 20 * MS)
    dataset.load_rtx_episodes(BRIDGE, split="train[:2]", additional_metadata={"kind": "untimed"})
    return dataset


def kind(*names):
    return lambda info: info["kind"].isin(names)


def test_ten_steps_a_second(dataset):
    steps = dataset.get_step_data(kind("rates"), align=TEN).collect()
    assert steps["timestamp_ns"].to_list() == [ms * MS for ms in range(0, 1000, 100)]
    assert steps["step_index"].to_list() == list(range(10))
    assert steps["action"].to_list() == [float(ms + 15) for ms in range(0, 1000, 100)]
    assert steps["joint"].to_numpy()[:, 0].tolist() == list(range(0, 1000, 100))
    assert steps["cam"].to_list() == [ms // 35 for ms in range(0, 1000, 100)]
    assert steps.schema == dataset.get_step_data(kind("rates")).collect_schema()


def test_images(dataset):
    (view,) = dataset.read_by(kind("rates"))
    ten, shown = view.aligned(TEN), [ms // 35 for ms in range(0, 1000, 100)]
    pixels = dataset.get_step_data(kind("rates"), images="pixels", align=TEN).collect()["cam"].to_numpy()
    assert pixels[:, 0, 0, 0].tolist() == ten["cam"][:, 0, 0, 0].tolist() == shown
    blobs = dataset.get_step_data(kind("rates"), images="encoded", align=TEN).collect()["cam"].to_list()
    assert blobs == ten.encoded("cam")
    assert [blob[:4] for blob in blobs] == [b"\x89PNG"] * 10


def test_frames_are_read_only_where_they_are_asked_for(dataset):
    with mock.patch.object(images, "read_frames", side_effect=AssertionError("frames were read")):
        lazy = dataset.get_step_data(kind("rates"), images="pixels", align=TEN)
        assert lazy.select("joint", "step_index").collect().height == 10
        assert dataset.get_step_data(kind("rates"), align=TEN).collect().height == 10
        assert lazy.filter(pl.col("step_index") > 50).collect().height == 0
        with pytest.raises(AssertionError, match="were read"):
            lazy.collect()


def test_nothing_is_read_before_collect_and_no_more_than_asked(dataset):
    with mock.patch.object(anew, "read_anew", wraps=anew.read_anew) as read:
        lazy = dataset.get_step_data(kind("rates", "steps"), align=TEN)
        assert read.call_count == 0
        assert lazy.head(3).collect().height == 3
        assert read.call_count <= 1
        assert lazy.select(pl.len()).collect().item() == 16


def test_any_schemas_in_any_order(dataset):
    chosen = dataset.get_episode_info().query("kind != 'untimed'").iloc[::-1]
    steps = dataset.get_step_data(
        chosen, align=fox.Align(rate_hz=10, features={"action": fox.linear()}), with_metadata="kind"
    ).collect()
    assert steps["kind"].unique(maintain_order=True).to_list() == ["other", "steps", "rates"]
    assert steps["kind"].value_counts(sort=True)["count"].to_list() == [10, 6, 6]
    of = {name: steps.filter(pl.col("kind") == name) for name in ("other", "steps", "rates")}
    assert of["steps"]["action"].to_list() == [0, 5, 10, 15, 20, 25]
    assert of["other"]["said"].to_list() == [f"word {i}" for i in range(0, 30, 5)]
    assert of["other"]["action"].null_count() == 6
    assert of["rates"]["action"].to_list() == [None, *(float(ms) for ms in range(100, 965, 100))]


def test_episodes_without_times(dataset):
    with pytest.raises(SelectionError, match=r"2 of 5 episodes have no times, .*dataset\.tag\(episodes, control_hz=\.\.\.\)"):
        dataset.get_step_data(align=TEN)
    view = dataset.read_by(kind("untimed"))[0]
    for call in (lambda: view.aligned(TEN), lambda: view.between(0, 1)):
        with pytest.raises(SelectionError, match=r"control_hz=\.\.\."):
            call()


def test_a_known_rate_stands_for_times(tmp_path):
    dataset = fox.Dataset(tmp_path)
    dataset.load_rtx_episodes(BRIDGE, split="train[:2]")
    dataset.tag(None, control_hz=5.0)
    for align, every in ((fox.Align(rate_hz=2.5), slice(None, None, 2)), (fox.Align(), slice(None))):
        steps = dataset.get_step_data(align=align).collect()
        assert steps["timestamp_ns"].null_count() == steps.height == 2 * len(range(10)[every])
        first = steps.filter(pl.col("episode_id") == dataset.episodes[0].episode_id)
        assert np.array_equal(first["action"].to_numpy(), dataset.episodes[0]["action"][every])
    view = dataset.episodes[0]
    assert view.aligned(fox.Align(rate_hz=2.5)).timestamps_ns is None
    assert np.array_equal(view.between(0.4, 1.0)["action"], view["action"][2:5])


def test_policies_that_do_not_fit(dataset):
    timed = kind("rates", "steps", "other")
    with pytest.raises(FeatureError, match="Did you mean 'joint'"):
        dataset.get_step_data(timed, align=fox.Align(features={"jiont": fox.hold()}))
    with pytest.raises(FeatureError, match="2 of 3 episodes have no feature 'cam'"):
        dataset.get_step_data(timed, align=fox.Align(reference="cam"))
    with pytest.raises(FeatureError, match=r"align= is a fox\.Align, found int"):
        dataset.get_step_data(timed, align=10)
    with pytest.raises(FeatureError, match=r"align= is a fox\.Align, found int"):
        dataset.episodes[0].aligned(10)
    with pytest.raises(
        FeatureError, match=rf"episode {dataset.episodes[2].episode_id}: align: feature 'said' holds images or text"
    ):
        dataset.get_step_data(timed, align=fox.Align(features={"said": fox.linear()})).collect()
    with pytest.raises(TooManyStepsError):
        dataset.get_step_data(timed, align=fox.Align(rate_hz=1e9)).collect()


def test_nothing_selected(dataset):
    assert dataset.get_step_data([], align=TEN).collect().height == 0


def test_views_aligned_anew(dataset):
    (view,) = dataset.read_by(kind("rates"))
    ten = view.aligned(TEN)
    assert len(ten) == ten.num_steps == 10
    assert len(view) == 20
    assert ten.timestamps_ns.tolist() == [ms * MS for ms in range(0, 1000, 100)]
    assert ten[2:4]["joint"][:, 0].tolist() == ten.between(0.2, 0.4)["joint"][:, 0].tolist() == [200, 300]
    assert ten[-1]["action"] == 915
    assert ten.aligned(fox.Align(reference="cam")).num_steps == 29
    assert not ten.is_whole
    with pytest.raises(SelectionError, match="aligned anew"):
        dataset.get_step_data(ten)


def test_slices_by_seconds(dataset):
    (view,) = dataset.read_by(kind("steps"))
    assert view.between(0.1, 0.2)["action"].tolist() == [5, 6, 7, 8, 9]
    assert view.between(stop_s=0.04)["action"].tolist() == [0, 1]
    assert view.between(0.56)["action"].tolist() == [28, 29]
    assert view.between(0.2, 0.1)["action"].tolist() == []
    assert view[::2].between(0.1, 0.2)["action"].tolist() == [6, 8]
    assert view.between(0.1, 0.2)[1:3]["action"].tolist() == [6, 7]
    assert view.between(0.1, 0.2).between(0.12, 0.16)["action"].tolist() == [6, 7]
    for wrong in ("1", float("nan"), True):
        with pytest.raises(FeatureError, match="start_s is a finite number"):
            view.between(wrong)


def test_ages(dataset):
    rates, steps = dataset.read_by(kind("rates", "steps"))
    assert rates.age_ns("joint").tolist() == [0] * 20
    assert rates.age_ns("cam").tolist() == [ms % 35 * MS for ms in range(15, 1000, 50)]
    assert rates[3:5].age_ns("cam").tolist() == [25 * MS, 5 * MS]
    assert rates.aligned(TEN).age_ns("action").tolist() == [-15 * MS] * 10
    limited = rates.aligned(fox.Align(rate_hz=10, features={"cam": fox.hold(max_age_s=0.01)}))
    assert limited.age_ns("cam").tolist() == [ms % 35 * MS for ms in range(0, 1000, 100)]
    assert [frame is None for frame in limited.encoded("cam")] == [ms % 35 > 10 for ms in range(0, 1000, 100)]
    assert rates.aligned(fox.Align(reference="joint", features={"action": fox.hold()})).age_ns("action").mask.tolist() == [
        *[True] * 3, *[False] * 197,
    ]  # fmt: skip
    assert steps.age_ns("joint").tolist() == [0] * 30
    with pytest.raises(fox.FogxError, match="jont"):
        steps.age_ns("jont")
