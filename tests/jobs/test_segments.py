"""Labels given after the fact: whose part they are, two people at once, and through everything that walks a root."""

import shutil
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import ConflictError, CorruptDataError, EpisodeNotFoundError, ReadOnlyError, SegmentError, SelectionError
from fogx.jobs import segments as jobs
from fogx.reading.segments import COLUMNS
from tests.ageing import make_older

HZ = 10
DTYPES = {
    "episode_id": "string",
    "label": "string",
    "start_s": "Float64",
    "stop_s": "Float64",
    "start_ns": "Int64",
    "stop_ns": "Int64",
    "start_step": "Int64",
    "stop_step": "Int64",
    "from_start": "boolean",
    "to_end": "boolean",
    "value": "object",
    "source": "string",
}


def _record(dataset, steps=10, **metadata):
    with dataset.new_episode(metadata) as episode:
        for step in range(steps):
            episode.add("x", float(step), 5 + step * 1_000_000_000 // HZ)
    return episode.episode_id


@pytest.fixture
def dataset(tmp_path):
    """Two episodes of 1 s, at 10 Hz."""
    dataset = fox.Dataset(tmp_path / "root")
    for number in range(2):
        _record(dataset, number=number)
    return dataset


def _parts(dataset, *args, **kwargs):
    frame = dataset.segments(*args, **kwargs)
    return list(zip(frame["label"], frame["start_step"], frame["stop_step"], strict=True))


def _columns(frame):
    return {name: str(kind) for name, kind in frame.dtypes.items()}


def test_none_yet(dataset, tmp_path, shipped_data):
    for empty in (
        dataset.segments(),
        dataset.segments([]),
        dataset.episodes[0].segments,
        fox.Dataset(tmp_path / "new").segments(),
        fox.Dataset(shipped_data / "format-1", read_only=True).segments(),
    ):
        assert len(empty) == 0
        assert tuple(empty.columns) == COLUMNS
        assert _columns(empty) == DTYPES


def test_ends_in_seconds_and_in_steps(dataset):
    first, second = dataset.episodes
    version = dataset.version
    assert dataset.annotate(None, "whole") == 2
    assert dataset.version == version + 1
    assert dataset.annotate([first], "a", 0.2, 0.5, value="cup") == 1
    dataset.annotate(first, "b", stop_s=0.25)
    dataset.annotate(first, "c", start_s=0.95 - 0.1)
    dataset.annotate(first, "d", start_step=2, stop_step=5)
    dataset.annotate(first, "e", start_step=3, stop_s=0.7)
    dataset.annotate(first, "f", 0.31, 0.32)
    assert _parts(dataset, first) == [
        ("b", 0, 3), ("whole", 0, 10), ("a", 2, 5), ("d", 2, 5), ("e", 3, 7), ("f", 4, 4), ("c", 9, 10),
    ]  # fmt: skip
    assert _parts(dataset, second) == [("whole", 0, 10)]
    frame = dataset.segments(first)
    assert _columns(frame) == DTYPES
    a = frame[frame["label"] == "a"].iloc[0]
    assert a.drop(["episode_id", "source"]).tolist() == ["a", 0.2, 0.5, 200_000_005, 500_000_005, 2, 5, False, False, "cup"]
    assert a["source"].startswith("annotate:")
    whole = frame.iloc[1]
    assert whole[["start_s", "start_ns", "stop_ns"]].tolist() == [0.0, 5, 900_000_006]
    d = frame[frame["label"] == "d"].iloc[0]
    assert d[["start_ns", "stop_ns"]].tolist() == [200_000_005, 500_000_005]
    assert dataset.check(deep=True).empty
    assert fox.Dataset(dataset.path).segments().equals(dataset.segments())


def test_what_is_shown_can_be_said_again(dataset):
    dataset.annotate(None, "a")
    shown = dataset.segments().iloc[0]
    dataset.annotate(None, "b", shown["start_s"], shown["stop_s"])
    assert _parts(dataset, label="b") == [("b", 0, 10)] * 2


def test_the_same_again_changes_nothing(dataset):
    dataset.annotate(None, "a", 0.1, 0.5, value=1)
    version = dataset.version
    assert dataset.annotate(None, "a", 0.1, 0.5, value=1) == 2
    assert dataset.version == version
    dataset.annotate(None, "a", 0.1, 0.5, value=2)
    assert len(dataset.segments()) == 4


@given(start=st.floats(0, 0.9), length=st.floats(1e-6, 0.9))
def test_steps_are_those_whose_times_lie_in_it(tmp_path_factory, start, length):
    root = tmp_path_factory.getbasetemp() / "steps"
    dataset = fox.Dataset(root)
    if not len(dataset):
        _record(dataset)
    stop = min(start + length, 0.9)
    if round(stop * 1e9) <= round(start * 1e9):
        return
    dataset.annotate(None, "a", start, stop)
    frame = dataset.segments()
    times = dataset.episodes[0].timestamps_ns
    for _, row in frame.iterrows():
        inside = np.flatnonzero((times >= row["start_ns"]) & (times < row["stop_ns"])).tolist()
        assert list(range(row["start_step"], row["stop_step"])) == inside
    dataset.remove_segments(frame)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"label": ""}, "1–200 printable"),
        ({"label": 3}, "found a int"),
        ({"value": [1]}, "found a list"),
        ({"start_s": float("nan")}, "start_s is a number of seconds from 0, .* found nan"),
        ({"stop_s": float("inf")}, "found inf"),
        ({"start_s": 1e300}, "found 1e"),
        ({"start_s": -0.1}, "found -0.1"),
        ({"start_s": "1"}, "found '1'"),
        ({"start_s": True}, "found True"),
        ({"start_step": 1.0}, "whole number from 0; found 1.0"),
        ({"start_step": -1}, "found -1"),
        ({"start_s": 0.5, "stop_s": 0.5}, "stop_s=0.5 is not after start_s=0.5"),
        ({"stop_s": 0}, "stop_s=0 is not after start_s=0"),
        ({"start_step": 3, "stop_step": 2}, "stop_step=2 is not after"),
        ({"start_s": 0.1, "start_step": 1}, "give one of them"),
        ({"start_s": 0.1, "stop_s": 0.95}, "1 of 3 episodes do not reach so far"),
        ({"start_s": 0.91}, "1 of 3 episodes do not reach so far .* last step is at 0.900 s"),
        ({"start_step": 10}, "1 of 3 episodes do not reach so far .* with 10 steps"),
        ({"stop_step": 11}, "do not reach so far"),
        ({"start_s": 0.5, "stop_step": 3}, "3 of 3 episodes have no step or no order"),
    ],
)
def test_what_cannot_be_changes_nothing(dataset, arguments, text):
    for _ in range(2):
        _record(dataset, 30)
    dataset.delete(dataset.episodes[1])
    version = dataset.version
    with pytest.raises(SegmentError, match=text):
        dataset.annotate(None, **{"label": "a", **arguments})
    assert dataset.version == version
    assert dataset.segments().empty


def test_an_episode_without_steps(dataset):
    dataset.new_episode({"empty": True}).close()
    with pytest.raises(SegmentError, match="1 of 3 episodes do not reach so far \\(all of it\\)"):
        dataset.annotate(None, "a")


def test_steps_that_share_a_time_are_not_parted(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        for step in range(4):
            episode.add_step({"x": step})
    times = dataset.episodes[0].timestamps_ns
    dataset.annotate(None, "a", start_step=1, stop_step=3)
    assert dataset.segments()[["start_ns", "stop_ns"]].values.tolist() == [times[[1, 3]].tolist()]


def test_a_clock_that_was_set_back(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode(align=fox.Align(reference="x"))
    for time_s in (10, 11, 12, 3, 4, 5):
        episode.add("x", float(time_s), timestamp=time_s, time_unit="s")
    with pytest.warns(UserWarning, match="set back"):
        episode.close()
    dataset.annotate(None, "all")
    assert _parts(dataset) == [("all", 0, 6)]
    with pytest.raises(SegmentError, match="no order of times"):
        dataset.annotate(None, "a", start_step=1, stop_step=5)
    assert dataset.check(deep=True).empty


def test_episodes_without_times(tmp_path, bridge_dir):
    dataset = fox.Dataset(tmp_path / "r")
    dataset.load_rtx_episodes(bridge_dir, split="train[:3]")
    dataset.tag(None, control_hz=None)
    with pytest.raises(
        SegmentError, match=r"3 of 3 episodes have neither times nor control_hz.*tag\(episodes, control_hz="
    ) as error:
        dataset.annotate(None, "a", 0.1, 0.5)
    assert dataset.episodes[0].episode_id in str(error.value)
    dataset.annotate(None, "s", start_step=2, stop_step=4)
    frame = dataset.segments()
    assert frame[["start_s", "stop_s", "start_ns", "stop_ns"]].isna().all(axis=None)
    dataset.tag(None, control_hz=10)
    dataset.annotate(None, "a", 0.3, 0.5)
    dataset.annotate(None, "z", start_s=0.3)
    with pytest.raises(SegmentError, match=r"do not reach so far .* lasts 1\.000 s"):
        dataset.annotate(None, "b", 0.1, 1.1)
    with pytest.raises(SegmentError, match="have no step"):
        dataset.annotate(None, "b", 0.11, 0.12)
    assert _parts(dataset, dataset.episodes[0]) == [("s", 2, 4), ("a", 3, 5), ("z", 3, 10)]
    dataset.annotate(None, "e", start_step=0, stop_step=1)
    ends = dataset.segments(dataset.episodes[0])[["label", "from_start", "to_end"]]
    assert sorted(ends.values.tolist()) == [["a", False, False], ["e", True, False], ["s", False, False], ["z", False, True]]
    assert dataset.remove_segments(dataset.segments(label="e")) == 3
    assert dataset.segments(label="a")[["start_s", "stop_s"]].drop_duplicates().values.tolist() == [[0.3, 0.5]]
    assert dataset.check(deep=True).empty


def test_one_file_a_call(dataset, tmp_path):
    dataset.annotate(None, "a")
    assert len(list((tmp_path / "root/segments").iterdir())) == 1
    dataset.annotate(dataset.episodes[0], "b")
    assert len(list((tmp_path / "root/segments").iterdir())) == 2
    assert _parts(dataset) == [("a", 0, 10), ("b", 0, 10), ("a", 0, 10)]


def test_remove(dataset):
    first, second = dataset.episodes
    for label in ("a", "b"):
        dataset.annotate(None, label, 0.1, 0.5, value=0.5)
    dataset.annotate(first, "c")
    frame = dataset.segments()
    assert dataset.remove_segments(frame[(frame["label"] == "a") & (frame["episode_id"] == first.episode_id)]) == 1
    assert _parts(dataset) == [("c", 0, 10), ("b", 1, 5), ("a", 1, 5), ("b", 1, 5)]
    version = dataset.version
    assert dataset.remove_segments(frame[frame["label"] == "a"]) == 1  # the other is gone
    assert dataset.remove_segments(frame[frame["label"] == "a"]) == 0
    assert dataset.version == version + 1
    assert dataset.remove_segments(dataset.segments(second)) == 1
    row = dataset._roots.write.rows.to_pylist()[1]
    assert row["segments_file"] is None
    assert dataset.remove_segments(dataset.segments(second)) == 0
    assert len(dataset.at(version).segments()) == 4
    with pytest.raises(SelectionError, match="found a list"):
        dataset.remove_segments([first.episode_id])
    with pytest.raises(SelectionError, match="no column label, start_ns"):
        dataset.remove_segments(dataset.get_episode_info()[["episode_id"]])
    with pytest.raises(EpisodeNotFoundError):
        dataset.remove_segments(dataset.segments().assign(episode_id="absent"))


def test_the_order_is_the_selections(dataset):
    dataset.annotate(None, "b", 0.2)
    dataset.annotate(None, "a", 0.1)
    ids = [view.episode_id for view in reversed(dataset.episodes)]
    frame = dataset.segments(ids)
    assert frame["episode_id"].tolist() == [ids[0], ids[0], ids[1], ids[1]]
    assert frame["label"].tolist() == ["a", "b"] * 2
    assert dataset.segments(label="nobody").empty


def test_two_handles_lose_nothing(dataset):
    other = fox.Dataset(dataset.path)
    dataset.annotate(None, "mine", 0.1, 0.5)
    other.annotate(other.episodes[0], "theirs", 0.2, 0.3)
    assert _parts(other, other.episodes[0]) == [("mine", 1, 5), ("theirs", 2, 3)]
    dataset.annotate(None, "mine again")
    assert _parts(fox.Dataset(dataset.path)) == [
        ("mine again", 0, 10), ("mine", 1, 5), ("theirs", 2, 3), ("mine again", 0, 10), ("mine", 1, 5),
    ]  # fmt: skip


def test_many_at_once_lose_nothing(dataset):
    def work(name):
        handle = fox.Dataset(dataset.path)
        for number in range(5):
            handle.annotate(None, name, start_step=number)

    threads = [threading.Thread(target=work, args=(f"worker {i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dataset.refresh()
    assert sorted(_parts(dataset)) == sorted(2 * [(f"worker {i}", n, 10) for i in range(3) for n in range(5)])


def test_others_that_never_stop_are_a_conflict(dataset, monkeypatch):
    monkeypatch.setattr(jobs, "_TRIES", 3)
    other, real, count = fox.Dataset(dataset.path), jobs.write_segments, iter(range(99))

    def late(store, segments):
        if store is dataset._roots.write.store:
            other.annotate(other.episodes[0], f"theirs {next(count)}")
        return real(store, segments)

    monkeypatch.setattr(jobs, "write_segments", late)
    with pytest.raises(ConflictError, match=f"1 of these episodes 3 times.*{dataset.episodes[0].episode_id}"):
        dataset.annotate(None, "mine")
    assert fox.Dataset(dataset.path).segments()["label"].tolist() == ["theirs 0", "theirs 1", "theirs 2"]


def test_beside_a_tag_and_a_compaction(dataset, monkeypatch):
    other, real = fox.Dataset(dataset.path), jobs.write_segments
    done = []

    def late(store, segments):
        if not done:
            done.append(other.compact())
            other.tag(None, note="x")
        return real(store, segments)

    monkeypatch.setattr(jobs, "write_segments", late)
    dataset.annotate(None, "mine", 0.1, 0.5)
    dataset.refresh()
    assert done == [2]
    assert _parts(dataset) == [("mine", 1, 5)] * 2
    assert set(dataset.get_episode_info()["note"]) == {"x"}
    assert dataset.check(deep=True).empty


def test_of_a_deleted_episode(dataset):
    other = fox.Dataset(dataset.path)
    other.delete(other.episodes[0])
    with pytest.raises(EpisodeNotFoundError, match="1 of 2 episodes are not there"):
        dataset.annotate(None, "a")
    assert other.segments().empty


def test_who_may_not_write(dataset, tmp_path):
    with pytest.raises(ReadOnlyError):
        fox.Dataset(dataset.path, read_only=True).annotate(None, "a")
    both = fox.Dataset(tmp_path / "second", load_from=[dataset.path])
    with pytest.raises(SelectionError, match="annotate changes the write root only"):
        both.annotate(None, "a")
    assert both.annotate([], "a") == 0


def test_several_roots(dataset, tmp_path):
    dataset.annotate(None, "a", 0.1)
    second = fox.Dataset(tmp_path / "second")
    _record(second)
    second.annotate(None, "b", 0.2)
    both = fox.Dataset(tmp_path / "second", load_from=[dataset.path])
    assert _parts(both) == [("b", 2, 10), ("a", 1, 10), ("a", 1, 10)]
    swapped = [view.episode_id for view in both.episodes][::-1]
    assert both.segments(swapped)["label"].tolist() == ["a", "a", "b"]
    assert [view.segments["label"].tolist() for view in both.episodes] == [["b"], ["a"], ["a"]]


def test_versions_deletion_and_restore(dataset):
    first = dataset.episodes[0]
    dataset.annotate(first, "a")
    before = dataset.version
    dataset.annotate(first, "b")
    dataset.delete(first)
    assert dataset.segments().empty
    assert dataset.at(before).segments()["label"].tolist() == ["a"]
    assert dataset.at(before).episodes[0].segments["label"].tolist() == ["a"]
    dataset.restore(before)
    assert dataset.segments()["label"].tolist() == ["a"]
    dataset.annotate(first.episode_id, "c")
    assert dataset.segments()["label"].tolist() == ["a", "c"]
    assert dataset.history()["operation"].tolist()[0] == "annotate"


def test_compaction_leaves_them(dataset):
    dataset.annotate(None, "a", 0.1, 0.5)
    before = dataset.segments()
    assert dataset.compact() == 2
    assert dataset.segments().equals(before)
    assert dataset.check(deep=True).empty


def test_vacuum_keeps_what_a_kept_version_names(dataset, tmp_path):
    dataset.annotate(None, "a")
    dataset.pin("kept")
    dataset.annotate(None, "b")
    dataset.annotate(None, "c")
    make_older(dataset.path)
    dataset.tag(None, later=True)
    removed = dataset.vacuum()
    assert removed["file"].str.startswith("segments/").sum() == 1
    assert dataset.at("kept").segments()["label"].tolist() == ["a"] * 2
    assert set(dataset.segments()["label"]) == {"a", "b", "c"}
    assert len(list((tmp_path / "root/segments").iterdir())) == 2


def test_marks_and_tags_after_the_fact(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        episode.add("x", 1)
        episode.mark(success=False, operator="ana", tries=2)
        episode.mark(success=True)
    _record(dataset)
    info = dataset.get_episode_info()
    assert info["success"].tolist() == [True, pd.NA]
    assert info["operator"].tolist()[0] == "ana"
    dataset.annotate(None, "a")
    assert dataset.tag(info.filter(info["success"].isna()), success=False, tries=3, reviewed=True) == 1
    info = dataset.get_episode_info()
    assert info[["success", "tries"]].values.tolist() == [[True, 2], [False, 3]]
    assert info["reviewed"].tolist() == [pd.NA, True]
    assert len(dataset.segments()) == 2


def _segments_file(root):
    (file,) = {row["segments_file"] for row in fox.Dataset(root)._roots.write.rows.to_pylist()}
    return file


@pytest.mark.parametrize("how", ["lost", "cut", "flipped", "other steps", "out of bounds", "other columns", "other episodes"])
def test_damage_is_named_and_costs_no_episode(dataset, tmp_path, how):
    ids = [view.episode_id for view in dataset.episodes]
    dataset.annotate(None, "a", 0.1, 0.5)
    file = _segments_file(dataset.path)
    path = tmp_path / "root" / file
    data = path.read_bytes()
    table = pq.ParquetFile(path).read()
    if how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        path.write_bytes(data[:50] + bytes([data[50] ^ 16]) + data[51:])
    else:
        position = {"other steps": 5, "out of bounds": 5, "other columns": 6, "other episodes": 0}[how]
        field = table.schema.field(position)
        changed = {"other steps": [5, 6], "out of bounds": [5, 11], "other columns": [1, 2], "other episodes": [ids[1], ids[1]]}
        field = pa.field("value", pa.int64()) if how == "other columns" else field
        pq.write_table(table.set_column(position, field, pa.array(changed[how], field.type)), path)
    for deep in (False, True):
        found = fox.check(dataset.path, deep=deep)
        if not deep and how in ("flipped", "other steps", "out of bounds"):
            assert found.empty
            continue
        assert set(found["file"]) == {file}
        hurt = {i for ids in found["episode_ids"] for i in ids}
        assert hurt <= set(ids)
        assert set(found["severity"]) == {"damage"}
    planned = fox.repair(dataset.path, dry_run=True)
    done = fox.repair(dataset.path)
    assert set(done["action"]) == set(planned["action"])
    assert fox.check(dataset.path, deep=True).empty
    after = fox.Dataset(dataset.path)
    assert [view.episode_id for view in after.episodes] == ids
    assert after.episodes[0]["x"].tolist() == list(range(10))
    kept = {"other steps": ids, "out of bounds": ids[:1], "other episodes": ids[1:]}.get(how, [])
    assert after.segments()["episode_id"].unique().tolist() == kept
    assert _parts(after, label="a")[: len(kept)] == [("a", 1, 5)] * len(kept)
    lost = {i for ids in done[done["action"] == "left out"]["episode_ids"] for i in ids}
    assert lost == set(ids) - set(kept)
    if how != "lost":
        assert list((tmp_path / "root/_quarantine").glob(f"*/{file}"))
    after.annotate(None, "again")
    assert len(after.segments(label="again")) == 2


def test_odd_pointers(dataset, tmp_path):
    dataset.annotate(None, "a")
    log = dataset._roots.write.log
    rows, ids = log.rows, log.rows["episode_id"].to_pylist()
    log.resegment(rows, {ids[0]: "segments/../../x.parquet"}, operation="annotate")
    for call in (dataset.segments, lambda: dataset.episodes[0].segments, lambda: dataset.annotate(None, "b")):
        with pytest.raises(CorruptDataError, match="not a name fogx gives"):
            call()
    assert dataset.episodes[0]["x"].tolist() == list(range(10))
    found = dataset.check()
    assert found["kind"].tolist() == ["bad pointer"]
    assert found["episode_ids"].tolist() == [[ids[0]]]
    dataset.repair()
    assert dataset.check(deep=True).empty
    assert dataset.segments()["episode_id"].tolist() == ids[1:]
    assert len(dataset) == 2


def test_a_root_of_format_1(tmp_path, shipped_data):
    dataset = fox.Dataset(shutil.copytree(shipped_data / "format-1", tmp_path / "r"))
    assert dataset.segments().empty
    longer = dataset.get_episode_info().query("num_steps > 0")
    dataset.annotate(longer, "a")
    assert len(dataset.segments()) == len(longer)
    assert dataset.check(deep=True).empty


def test_segments_are_removed_that_have_other_steps_since_they_were_looked_up(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    _record(dataset)
    dataset.annotate(None, "draft", start_s=0.2, stop_s=0.6)
    drafts = dataset.segments(label="draft")
    dataset.realign(align=fox.Align(rate_hz=50))
    assert dataset.segments(label="draft")["stop_step"].tolist() != drafts["stop_step"].tolist()
    assert dataset.remove_segments(drafts) == 1
    assert dataset.segments().empty


def test_segments_that_reach_an_end_are_removed_where_it_moved_since(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode(align=fox.Align(reference="slow")) as episode:
        for ms in range(0, 1000, 10):
            episode.add("fast", ms, ms * 1_000_000)
            if ms % 100 == 50:
                episode.add("slow", ms, ms * 1_000_000)
    dataset.annotate(None, "a", start_s=0.3)
    dataset.annotate(None, "a", stop_s=0.6)
    dataset.annotate(None, "a")
    dataset.annotate(None, "a", start_s=0.3, stop_s=0.6)
    before = dataset.segments()
    assert before[["from_start", "to_end"]].values.tolist() == [[True, False], [True, True], [False, False], [False, True]]
    dataset.realign(align=fox.Align(reference="fast"))
    after = dataset.segments()
    assert (after["start_ns"] != before["start_ns"]).tolist() == before["from_start"].tolist()
    assert (after["stop_ns"] != before["stop_ns"]).tolist() == before["to_end"].tolist()
    for number, left in ((3, [0, 1, 2]), (0, [1, 2]), (1, [2]), (2, [])):
        assert dataset.remove_segments(before[number : number + 1]) == 1
        assert dataset.remove_segments(before[number : number + 1]) == 0
        assert dataset.segments().equals(after.iloc[left].reset_index(drop=True)) or not left
    assert dataset.segments().empty
