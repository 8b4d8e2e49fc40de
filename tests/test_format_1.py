"""`data/format-1` is a root that every later version must open: all of it, bit for bit. `data/make_format_1.py` made it once."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fogx as fox
from fogx.reading.episodes import locate, read_data
from fogx.storage.files.store import Store
from fogx.storage.tables.index import read_index
from fogx.storage.tables.pack import EpisodePacker

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "format-1" / "expected.json").read_text())
EPISODES = EXPECTED["episodes"]
NEWEST = max(map(int, EXPECTED["versions"]))

fingerprint = runpy.run_path(str(DATA / "make_format_1.py"))["fingerprint"]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(DATA / "format-1", tmp_path / "a copy"))


@pytest.fixture
def dataset(folder):
    return fox.Dataset(folder)


def _each_step(values):
    return fingerprint(values) if isinstance(values, np.ma.MaskedArray) else [fingerprint(value) for value in values]


def _plain(value):
    return value.item() if isinstance(value, np.generic) else fingerprint(value)


def _some(about):
    """Return the steps of any feature."""
    return next(iter({**about.get("values", {}), **about.get("encoded", {})}.values()), ())


def _located(dataset, *parts):
    return {found.episode_id: found for found in locate(dataset._roots.chosen(), parts or ("steps", "frames", "metadata"))}


def test_the_root_opens(dataset):
    assert dataset.name == EXPECTED["name"]
    assert dataset.version == NEWEST
    assert [view.episode_id for view in dataset] == list(EPISODES) == EXPECTED["versions"][str(NEWEST)]


def test_reading_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    dataset = fox.Dataset(folder)
    dataset.get_step_data(images="encoded").select("episode_id").collect()
    dataset.at(2).get_episode_info()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_table(dataset):
    info = dataset.get_episode_info().set_index("episode_id")
    own = {"root", "dataset", "split", "start_ns", "duration_s", "num_steps", "control_hz", "success"}
    assert set(info.columns) == own.union(*(about["row"] for about in EPISODES.values()))
    for episode_id, about in EPISODES.items():
        found = {name: _plain(value) for name, value in info.loc[episode_id].items() if not pd.isna(value)}
        expected = {"root": dataset.path, "num_steps": len(_some(about)), **about["row"]}
        if about["times"]:
            expected |= {"start_ns": about["times"][0], "duration_s": (about["times"][-1] - about["times"][0]) / 1e9}
        assert found == expected


@pytest.mark.parametrize("episode_id", EPISODES)
def test_schemas_are_exact(dataset, episode_id):
    (view,) = dataset.read_by(episode_id)
    assert view.schema.json == EPISODES[episode_id]["schema"]
    assert view.schema.schema_id == EPISODES[episode_id]["schema_id"]
    about = EPISODES[episode_id]
    assert set(view.features) == {*about.get("values", ()), *about.get("encoded", ())}


@pytest.mark.parametrize("episode_id", EPISODES)
def test_values_are_bit_identical(dataset, episode_id):
    (view,), about = dataset.read_by(episode_id), EPISODES[episode_id]
    for name, expected in about.get("values", {}).items():
        assert _each_step(view[name]) == expected, name
        assert len(view) == len(expected)
    for name, expected in about.get("encoded", {}).items():
        assert fingerprint(view.encoded(name)) == expected, name
        assert [frame.shape[:2] for frame in view[name]], name
    assert (None if view.timestamps_ns is None else view.timestamps_ns.tolist()) == about["times"]


@pytest.mark.parametrize("episode_id", EPISODES)
def test_metadata(dataset, episode_id):
    (view,), about = dataset.read_by(episode_id), EPISODES[episode_id]
    found, expected = fingerprint(view.metadata), {**about["row"], **about.get("nested", {})}
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {name: type(value) for name, value in expected.items()}


def test_steps_as_one_frame(dataset):
    steps = dataset.get_step_data(images="encoded").collect()
    for episode_id, about in EPISODES.items():
        mine = steps.filter(steps["episode_id"] == episode_id).sort("step_index")
        assert mine["timestamp_ns"].drop_nulls().to_list() == (about["times"] or [])
        for name, frames in about.get("encoded", {}).items():
            assert fingerprint(mine[name].to_list()) == frames
    text = dataset.get_step_data(images="pixels").select("large/text").drop_nulls().collect()["large/text"]
    assert fingerprint(text.to_list()) == next(a["values"]["large/text"] for a in EPISODES.values() if "nested" in a)
    state = steps["state"].drop_nulls().to_numpy()
    assert state.min(axis=0).tolist() == EXPECTED["state"]["min"]


def test_what_the_index_keeps(dataset):
    found = _located(dataset, "stats")
    for episode_id, about in EPISODES.items():
        assert found[episode_id].index.checksum.hex() == about["checksum"]
        assert list(found[episode_id].index.partial) == about["partial"]
    (stats,) = [f.index.stats["state"] for f in found.values() if "state" in f.index.stats]
    expected = EXPECTED["state"]
    for name in ("count", "min", "max"):
        assert getattr(stats, name).tolist() == expected[name]
    np.testing.assert_allclose(stats.mean, expected["mean"], rtol=1e-12, atol=1e-12)
    assert stats.quantile(0.5).tolist() == expected["median"]


def test_checksums_are_still_made_in_the_same_way(dataset, tmp_path):
    packer = EpisodePacker(Store(tmp_path / "other"), "other")
    for episode_id, found in _located(dataset).items():
        data = read_data(found)
        assert data.source_key == EPISODES[episode_id]["source_key"]
        packer.add(episode_id, data)
    rows = packer.close().rows
    index = read_index(Store(tmp_path / "other"), rows[0]["index_file"], [row["index_row"] for row in rows], ())
    assert [row.checksum.hex() for row in index] == [about["checksum"] for about in EPISODES.values()]


def test_history_and_older_versions(dataset):
    history = dataset.history()
    found = zip(history["operation"], history["episodes"], strict=True)
    assert [[operation, None if pd.isna(count) else count] for operation, count in found] == EXPECTED["history"]
    assert set(history["user"].dropna()) == {"fogx"}
    for version, ids in EXPECTED["versions"].items():
        assert dataset.at(int(version)).get_episode_info()["episode_id"].tolist() == ids
    before = dataset.at(min(map(int, EXPECTED["versions"]))).get_episode_info()
    assert before["score"].dropna().tolist() == [3]
    assert pd.api.types.is_integer_dtype(before["score"].dtype)
    assert "reviewed" not in before


def test_it_can_be_written_to(dataset):
    with dataset.new_episode({"score": 1.25, "reviewed": False}) as episode:
        episode.add("state", np.ones(7, np.float32))
    added = dataset.load_rtx_episodes(DATA / "rlds" / "bridge" / "1.0.0")
    assert added == []
    again = fox.Dataset(dataset.path)
    assert again.get_episode_info()["episode_id"].tolist() == [*EPISODES, episode.episode_id]
    assert again.version == NEWEST + 1


def test_frames_in_another_size(dataset, folder):
    """Index files of before have no column for them; the new rows have, and nothing else of the episodes changes."""
    before = {found.episode_id: found.index for found in _located(dataset).values()}
    made = dataset.derive(image_size=(5, 6))
    assert made
    after = _located(fox.Dataset(folder), "steps", "frames", "metadata", "derived")
    for episode_id, old in before.items():
        new = after[episode_id].index
        assert (new.checksum, new.steps, new.files >= old.files) == (old.checksum, old.steps, True)
        assert bool(new.derived) == (episode_id in made)
    assert dataset.derive(image_size=(5, 6)) == []
    assert fox.check(folder, deep=True).empty
