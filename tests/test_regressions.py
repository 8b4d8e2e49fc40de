"""Faults found by review, each with the few lines that showed it."""

import json
import sys
import threading

import pandas as pd
import polars as pl
import pytest

import fogx as fox
from fogx.errors import FeatureError, FogxError, ImportConflictError, SelectionError, StorageError
from fogx.storage.log.delta import DeltaLog


def _record(dataset, value, **metadata):
    with dataset.new_episode(metadata) as episode:
        for step in range(3):
            episode.add("action", 100.0 * value + step)
    return episode.episode_id


@pytest.fixture
def dataset(tmp_path):
    fox.config(progress=False)
    return fox.Dataset(tmp_path / "lab")


def test_a_view_stays_with_its_episode(dataset):
    ids = [_record(dataset, n, x=n) for n in range(3)]
    view = dataset.episodes[1]
    dataset.delete(ids[0])
    assert view[0:2].episode_id == view.episode_id == ids[1]
    assert view["action"].tolist() == [100, 101, 102]
    assert view.metadata["x"] == 1
    for each in dataset:
        dataset.delete(each)
    assert len(dataset) == 0


@pytest.mark.parametrize("step", ["checkpoint", "update", "sync"])
def test_closing_again_after_a_late_failure_doubles_nothing(dataset, monkeypatch, step):
    monkeypatch.setattr("fogx.storage.log.delta.UPKEEP_EVERY", 1)
    _record(dataset, 0)
    episode = dataset.new_episode()
    episode.add("action", 1.0)

    def fail(self, *arguments):
        raise StorageError("the disk said no")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaLog, step, fail)
        if step == "checkpoint":
            episode.close()
        else:
            with pytest.raises(StorageError):
                episode.close()
            assert not episode.closed
    if not episode.closed:
        episode.close()
    assert len(dataset) == len(fox.Dataset(dataset.path)) == 2
    assert fox.Dataset(dataset.path).get_episode_info()["episode_id"].is_unique


def test_episodes_closed_in_threads_are_all_seen(dataset):
    episodes = [dataset.new_episode() for _ in range(8)]
    for episode in episodes:
        episode.add("action", 1.0)
    threads = [threading.Thread(target=episode.close) for episode in episodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(dataset) == len(fox.Dataset(dataset.path)) == 8


def test_a_series_mask_is_aligned_by_its_labels(dataset):
    for n in range(3):
        _record(dataset, n, k=n)
    info = dataset.get_episode_info()
    turned = info.sort_values("k", ascending=False)
    assert turned.filter(info["k"] == 0)["k"].tolist() == [0]
    assert [view.metadata["k"] for view in dataset.read_by(turned["k"] == 0)] == [0]
    assert [view.metadata["k"] for view in dataset.read_by(info.set_index("episode_id")["k"] == 2)] == [2]
    with pytest.raises(SelectionError, match="labels"):
        dataset.read_by(turned.set_axis(["a", "b", "c"])["k"] == 0)


@pytest.mark.parametrize("how", ["concat", "merge", "join"])
def test_frames_that_went_through_pandas_know_what_they_came_from(dataset, how):
    ids = [_record(dataset, n, x=1) for n in range(2)]
    info = dataset.get_episode_info()
    more = pd.DataFrame({"episode_id": ids, "y": [7, 7]})
    dataset.tag(ids[0], x=2)
    edited = {
        "concat": lambda: pd.concat([info]).assign(y=7),
        "merge": lambda: info.merge(more, on="episode_id"),
        "join": lambda: info.join(more[["y"]]),
    }[how]()
    dataset.update_episode_info(edited)
    again = dataset.get_episode_info()
    assert again["x"].tolist() == [2, 1]
    assert again["y"].tolist() == [7, 7]


def test_large_ints_never_widen(dataset):
    for value in (0, 2**53 + 1, 2**60, 2**60 + 2):
        _record(dataset, 0, x=value)
    with pytest.warns(UserWarning, match="x"):
        _record(dataset, 0, x=0.5)
    assert dataset.get_episode_info()["x"].tolist() == [0, 2**53 + 1, 2**60, 2**60 + 2, 0.5]


def test_another_handles_import_counts(tmp_path, bridge_dir, dataset):
    other = fox.Dataset(dataset.path)
    other.load_rtx_episodes(bridge_dir, split="train[:2]")
    late = fox.Dataset(dataset.path)
    late.load_rtx_episodes(bridge_dir, split="train[2:4]")
    with pytest.raises(ImportConflictError, match="4 of the episodes"):
        other.load_rtx_episodes(bridge_dir, split="train[:4]", on_existing="error")
    assert len(other.load_rtx_episodes(bridge_dir, split="train[2:4]", on_existing="append")) == 2


def test_counting_rows_needs_no_common_type(dataset):
    _record(dataset, 1)
    with dataset.new_episode() as episode:
        episode.add("action", "text")
    assert dataset.get_step_data().select(pl.len()).collect().item() == 4


def test_an_unchanged_frame_with_clashes_changes_nothing(dataset):
    _record(dataset, 1, x=1)
    with pytest.warns(UserWarning, match="x"):
        _record(dataset, 1, x="text")
    version = dataset.version
    assert dataset.update_episode_info(dataset.get_episode_info()) == 0
    assert dataset.version == version


def test_features_json_runs_no_code_hidden_in_a_string(tmp_path, bridge_dir, monkeypatch, dataset):
    (tmp_path / "evilmod.py").write_text("import sys; sys.ran_evil = True")
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "evil" / "1.0.0"
    source.mkdir(parents=True)
    for path in bridge_dir.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    features = json.loads((source / "features.json").read_text())
    core = "tensorflow_datasets.core.features."
    features["featuresDict"]["features"]["steps"] = {
        "pythonClassName": core + "dataset_feature.Dataset",
        "jsonFeature": {"json": json.dumps({"feature": {"type": "evilmod.X", "content": {}}, "length": None})},
    }
    (source / "features.json").write_text(json.dumps(features))
    with pytest.raises((FeatureError, FogxError)):
        dataset.load_rtx_episodes(source)
    assert not hasattr(sys, "ran_evil")
    assert "evilmod" not in sys.modules


def test_two_exports_of_one_name_are_two_sources(tmp_path, dataset):
    for n in range(4):
        _record(dataset, n)
    info = dataset.get_episode_info()
    exports = [dataset.export(part, path=tmp_path / f"e{n}") for n, part in enumerate([info.head(2), info.tail(2)])]
    other = fox.Dataset(tmp_path / "other")
    assert [len(other.load_rtx_episodes(folder)) for folder in [*exports, *exports]] == [2, 2, 0, 0]
    assert sorted(view["action"][0] for view in other) == [0, 100, 200, 300]


def test_metadata_arrays_left_out_of_an_export_are_named(tmp_path, dataset, caplog):
    with dataset.new_episode({"camera": {"fx": 1.0}}) as episode:
        episode.add("action", 1.0)
    dataset.export(path=tmp_path / "e")
    assert "camera" in caplog.text


def test_no_password_in_a_url(tmp_path):
    with pytest.raises(FogxError) as caught:
        fox.Dataset("https://user:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("version", [-1, "x", True])
def test_versions_that_are_none(dataset, version):
    _record(dataset, 1)
    with pytest.raises(LookupError, match="version"):
        fox.Dataset(dataset.path, version=version)


def test_spawned_workers_keep_the_users_settings(dataset):
    from multiprocessing.reduction import ForkingPickler

    _record(dataset, 1)
    before = fox.config()
    try:
        fox.config(max_pixels=1000)
        pickled = ForkingPickler.dumps(dataset.as_pytorch_dataset())
        fox.config(max_pixels=before.max_pixels)
        ForkingPickler.loads(pickled)
        assert fox.config().max_pixels == 1000
    finally:
        fox.config(max_pixels=before.max_pixels)


@pytest.mark.parametrize("name", ["a%20b", "a\\b", "a#b", "a?b", "a[1]", "a^b", "a|b"])
def test_paths_that_the_table_library_misreads_are_refused_at_once(tmp_path, name):
    with pytest.raises(StorageError, match="must not hold"):
        fox.Dataset(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "é", "100%", "*", "{x}", "a=b;c&d'e\"", "..a", "~x"])
def test_other_odd_paths_work(tmp_path, name):
    dataset = fox.Dataset(tmp_path / name)
    for n in range(2):
        _record(dataset, n)
    again = fox.Dataset(tmp_path / name)
    again.tag(None, k=1)
    again.delete(again.get_episode_info().head(1))
    assert [len(fox.Dataset(tmp_path / name)), len(again.history()) > 4, len(again.at(2))] == [1, True, 2]
    assert again.get_step_data().collect().height == 3


def test_versions_come_from_history(dataset):
    for n in range(2):
        _record(dataset, n)
    version = dataset.history()["version"].iloc[1]
    assert len(dataset.at(version)) == len(fox.Dataset(dataset.path, version=version)) == 1
    for pinned in (dataset.at(version), fox.Dataset(dataset.path, version=version)):
        assert (len(pinned.refresh()), pinned.version) == (1, version)


def test_a_slice_never_stands_for_its_episode(dataset):
    _record(dataset, 1)
    view = dataset.episodes[0]
    for call in (dataset.get_step_data, dataset.as_pytorch_dataset, dataset.read_by, dataset.export, dataset.delete):
        with pytest.raises(SelectionError, match="slice"):
            call(view[1:2])
    assert dataset.get_step_data(view[:]).collect().height == 3


def test_a_misspelled_selection_tags_nothing(dataset):
    _record(dataset, 1)
    with pytest.raises(TypeError, match="episodes"):
        dataset.tag(selection=[], label="bad")
    assert "label" not in dataset.get_episode_info().columns


def test_what_was_skipped_is_seen(dataset, bridge_dir):
    handle = fox.Dataset(dataset.path)
    _record(handle, 1)
    fox.Dataset(dataset.path).load_rtx_episodes(bridge_dir, split="train[:2]")
    assert handle.load_rtx_episodes(bridge_dir, split="train[:2]") == []
    assert len(handle) == 3


def test_one_feature_may_be_named_alone(dataset):
    _record(dataset, 1)
    assert dataset.as_pytorch_dataset(features="action").features == ["action"]
