"""Packing: files change, episodes do not; nothing is seen twice; what others do meanwhile stays."""

import os
from pathlib import Path

import numpy as np
import pytest

import fogx as fox
from fogx.errors import CorruptDataError, SelectionError
from fogx.jobs import compact as job
from fogx.storage.tables import frames
from tests.ageing import make_older


def _record(dataset, n, **metadata):
    with dataset.new_episode(metadata) as episode:
        for i in range(4):
            episode.add("state", np.full(3, 10 * n + i, np.float32))
            episode.add("view", np.random.default_rng(n).integers(0, 255, (32, 32, 3), np.uint8))
    return episode.episode_id


def _content(dataset, **options):
    steps = dataset.get_step_data(images="encoded", **options).collect()
    return steps.to_dict(as_series=False)


def _files(dataset, family):
    return sorted(
        os.path.relpath(os.path.join(path, name), dataset.path)
        for path, _, names in os.walk(os.path.join(dataset.path, family))
        for name in names
        if name.endswith(".parquet")
    )


def _cut(dataset):
    """How many frames lie in each place, episode by episode."""
    return [[len(place.lengths) for place in member.index.frames] for member in job.locate(dataset._roots.chosen())]


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "root")
    for n in range(6):
        _record(dataset, n, robot="left" if n % 2 else "right", matrix=np.eye(2) * n)
    return dataset


def test_packed_episodes_are_the_same(dataset):
    before, info, version = _content(dataset), dataset.get_episode_info(), dataset.version
    assert dataset.compact() == 6
    for handle in (dataset, fox.Dataset(dataset.path)):
        assert _content(handle) == before
        assert handle.get_episode_info().equals(info)
        assert [view.metadata["matrix"][0, 0] for view in handle] == list(range(6))
        assert handle.episodes[3]["view"].shape == (4, 32, 32, 3)
        assert len(handle.as_pytorch_dataset()) == 24
    assert _content(dataset.at(version)) == before
    places = {(m.row["index_file"][0].as_py()) for m in job.locate(dataset._roots.chosen())}
    assert len(places) == 1
    assert dataset.history()["operation"].iloc[0] == "compact"


def test_only_what_is_worth_it_moves(dataset, monkeypatch):
    assert dataset.compact() == 6
    monkeypatch.setattr(job, "_FEW", 6)
    assert dataset.compact() == 0
    dataset.delete(dataset.get_episode_info().head(3))
    assert dataset.compact() == 3


def test_an_old_form_beside_current_ones_is_not_seen(dataset, monkeypatch):
    """Half of a file's episodes move; the file then holds old forms of them, and steps must come once."""
    dataset.compact()
    before = _content(dataset)
    moving = dataset.get_episode_info()["episode_id"].tolist()[::2]
    assert dataset.compact(moving) == 3
    assert _content(dataset) == _content(fox.Dataset(dataset.path))
    together = dataset.get_step_data().collect().sort("episode_id", "step_index")
    assert together["state"].to_list() == before["state"]
    assert len(dataset.get_step_data(moving).collect()) == 12


def test_partitions_are_a_hint(dataset):
    dataset.compact(partition_by="robot")
    assert {name.split("/")[1] for name in _files(dataset, "steps")} == {"dataset=root", "robot=left", "robot=right"}
    for wrong in ("nothing", "episode_id", "Robot", "../x"):
        with pytest.raises(SelectionError, match="to partition by"):
            dataset.compact(partition_by=wrong)


def test_the_old_files_go_with_vacuum(dataset):
    before = _content(dataset)
    old = _files(dataset, "frames")
    dataset.compact()
    make_older(dataset.path)
    removed = dataset.vacuum()["file"].tolist()
    assert set(old) <= set(removed)
    assert _content(fox.Dataset(dataset.path)) == before


def test_what_others_changed_meanwhile_stays(dataset, monkeypatch):
    ids = dataset.get_episode_info()["episode_id"].tolist()
    other = fox.Dataset(dataset.path)
    real = job.pack_anew

    def meanwhile(*arguments):
        monkeypatch.setattr(job, "pack_anew", real)
        pointers = real(*arguments)
        other.delete(ids[0])
        other.tag(ids[1:3], note="mine")
        other.compact(ids[3:5])
        return pointers

    monkeypatch.setattr(job, "pack_anew", meanwhile)
    assert dataset.compact() == 3
    fresh = fox.Dataset(dataset.path)
    info = fresh.get_episode_info().set_index("episode_id")
    assert info.index.tolist() == ids[1:]
    assert info["note"].dropna().index.tolist() == ids[1:3]
    steps = fresh.get_step_data().collect()
    assert len(steps) == 20
    assert sorted(steps["state"].to_numpy()[:, 0].tolist()) == sorted(10.0 * n + i for n in range(1, 6) for i in range(4))


def test_frames_that_fall_into_other_row_groups_are_the_same(tmp_path, monkeypatch):
    """What was recorded alone and what shares a file are cut into row groups at other frames."""
    monkeypatch.setattr(frames, "ROW_GROUP_BYTES", 8_000)
    dataset = fox.Dataset(tmp_path / "root")
    for n in range(4):
        _record(dataset, n)
    places = _cut(dataset)
    before = _content(dataset)
    assert dataset.compact() == 4
    assert _cut(dataset) != places, "or this test says nothing"
    assert _content(dataset) == before
    assert dataset.check(deep=True).empty


def test_damage_is_not_carried_on(dataset):
    (file,) = {place.file for place in job.locate(dataset._roots.chosen())[2].index.frames}
    path = os.path.join(dataset.path, file)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(CorruptDataError, match="checksum"):
        dataset.compact()
    assert fox.Dataset(dataset.path).history()["operation"].iloc[0] == "record"
