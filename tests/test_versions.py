"""Versions through the facade: times, tokens, pins, restore and vacuum of real episodes."""

import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import fogx as fox
from fogx.errors import CorruptDataError, ReadOnlyError, UnknownNameError
from tests.ageing import make_older


def _record(dataset, value):
    with dataset.new_episode({"value": value}) as episode:
        for i in range(3):
            episode.add("state", np.full(2, value + i, np.float32))
            episode.add("view", np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8))
    return episode.episode_id


def _values(dataset):
    return [(view["state"][0, 0], view["view"].shape) for view in dataset]


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "root")
    for value in range(3):
        _record(dataset, value)
    return dataset


def test_a_time_names_a_version(dataset):
    first, last = dataset.at(1), dataset.version
    between = dataset.history()["time"].iloc[0] + timedelta(milliseconds=5)
    time.sleep(0.02)
    dataset.delete(dataset.get_episode_info().head(1))
    for when in (between, between.isoformat(), between.to_pydatetime(), between.tz_convert("Asia/Tokyo")):
        assert dataset.at(when).version == last
    assert dataset.at(datetime.now(UTC)).version == dataset.version
    assert first.version == 1
    with pytest.raises(UnknownNameError, match="as old as that"):
        dataset.at("1999-01-01T00:00:00Z")
    with pytest.raises(UnknownNameError, match="has no zone; add one, for example 2031-01-01T00:00:00Z"):
        dataset.at("2031-01-01")
    assert dataset.at("2031-01-01T00:00:00Z").version == dataset.version


def test_a_token_names_all_roots(dataset, tmp_path):
    other = fox.Dataset(tmp_path / "other")
    _record(other, 10)
    both = fox.Dataset(dataset.path, load_from=[other.path])
    token, seen = both.version_token, _values(both)
    _record(other, 11)
    _record(both, 12)
    assert _values(both.refresh()) != seen
    assert both.version_token != token
    for handle in (
        both.at(token),
        fox.Dataset(dataset.path, load_from=[other.path], version=token),
        fox.Dataset(load_from=[other.path, dataset.path], version=token),
    ):
        assert sorted(_values(handle)) == seen
        assert handle.version_token == token
        assert sorted(_values(handle.refresh())) == seen
        with pytest.raises(ReadOnlyError):
            handle.new_episode()
    third = fox.Dataset(tmp_path / "third")
    _record(third, 1)
    with pytest.raises(UnknownNameError, match=r"third \(root id .*not among the 2 roots"):
        fox.Dataset(third.path, version=token)


def test_pin_restore_and_unpin(dataset):
    assert dataset.pin("good") == 4
    assert dataset.pins() == {"good": 4}
    assert dataset.history()["pins"].iloc[1] == "good"
    dataset.delete(dataset.get_episode_info())
    assert len(dataset) == 0
    assert [value for value, _ in _values(dataset.at("good"))] == [0, 1, 2]
    assert len(fox.Dataset(dataset.path, version="good")) == 3
    assert dataset.restore("good") == 3
    assert [value for value, _ in _values(dataset)] == [0, 1, 2]
    dataset.unpin("good")
    assert dataset.pins() == {}
    with pytest.raises(UnknownNameError, match=r"'good' is no version.*Pins are: none"):
        dataset.at("good")


def test_a_pinned_version_reads_after_everything_was_vacuumed(dataset):
    _record(dataset, 3)
    ids = dataset.get_episode_info()["episode_id"].tolist()
    dataset.pin("three", 4)
    early = dataset.at(5)
    dataset.delete(ids)
    orphan = f"steps/dataset=root/{0:032x}.parquet"
    with open(os.path.join(dataset.path, orphan), "wb") as file:
        file.write(b"left by a killed process")
    assert len(dataset.vacuum()) == 0, "all of it is of the last week"
    make_older(dataset.path)
    _record(dataset, 9)
    removed = dataset.vacuum(dry_run=True)
    assert set(removed["file"].str.split("/").str[0]) >= {"index", "steps", "frames"}
    assert [value for value, _ in _values(early)] == [0, 1, 2, 3]
    done = dataset.vacuum()
    assert isinstance(done, pd.DataFrame)
    assert done["file"].tolist() == removed["file"].tolist()
    assert orphan in done["file"].tolist()
    assert done["bytes"].sum() > 0
    assert [value for value, _ in _values(dataset.at("three"))] == [0, 1, 2]
    assert [value for value, _ in _values(fox.Dataset(dataset.path))] == [9]
    with pytest.raises(CorruptDataError, match="is not there"):
        _values(early)
    with pytest.raises(UnknownNameError, match=r"vacuum\(\) did not keep"):
        dataset.at(5)
    assert dataset.restore("three") == 3
    assert [value for value, _ in _values(dataset)] == [0, 1, 2]


def test_a_damaged_kept_version_stops_vacuum(dataset):
    lost = dataset._roots.write.rows["index_file"][0].as_py()
    make_older(dataset.path)
    os.unlink(os.path.join(dataset.path, lost))
    before = sorted(os.walk(dataset.path))
    with pytest.raises(CorruptDataError, match=lost):
        dataset.vacuum()
    assert sorted(os.walk(dataset.path)) == before


def test_nothing_was_written_yet(tmp_path):
    dataset = fox.Dataset(tmp_path / "new")
    assert dataset.pins() == {}
    assert dataset.version_token == ""
    with pytest.raises(UnknownNameError, match="no version yet"):
        dataset.at(0)


def test_none_is_no_version(dataset):
    with pytest.raises(UnknownNameError, match="None is no version"):
        dataset.at(None)


def test_threads_wait_while_a_version_is_looked_up(dataset, monkeypatch):
    log = dataset._roots.write.writable()
    held, update = [], log.delta.update
    monkeypatch.setattr(log.delta, "update", lambda: (held.append(log._lock._is_owned()), update()))
    dataset.restore(1)
    dataset.pin("first", 1)
    assert held
    assert all(held)
