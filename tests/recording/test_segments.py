"""Labels given while recording: which samples they hold, what is refused, what a journal keeps of them."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import EpisodeClosedError, FeatureError, SegmentError
from fogx.recording.moments import Moments
from fogx.recording.recovery import Left, read
from fogx.recording.segments import Marks

fox.config(progress=False)
MS = 1_000_000


def _steps(dataset):
    frame = dataset.segments()
    return list(zip(frame["label"], frame["start_step"], frame["stop_step"], frame["value"], strict=True))


@pytest.mark.parametrize("timed", [False, True])
def test_a_segment_holds_what_was_added_between(tmp_path, timed):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        episode.begin("whole")
        for step in range(10):
            if step == 3:
                episode.begin("grasp", "cup")
            if step == 5:
                episode.begin("lift", 0.5)
            episode.add("state", float(step), 10 * MS * step if timed else None)
            episode.add("action", float(step), 10 * MS * step if timed else None)
            if step == 6:
                episode.end("grasp")
            if step == 8:
                episode.end("lift")
        episode.end("whole")
    assert _steps(dataset) == [("whole", 0, 10, None), ("grasp", 3, 7, "cup"), ("lift", 5, 9, 0.5)]
    frame = dataset.segments()
    assert set(frame["source"]) == {"recording"}
    if timed:
        assert frame[["start_ns", "stop_ns"]].values.tolist() == [
            [0, 90 * MS + 1],
            [20 * MS + 1, 60 * MS + 1],
            [40 * MS + 1, 80 * MS + 1],
        ]
    (view,) = dataset.episodes
    assert view.segments.equals(frame)
    assert view[2:4].segments.equals(frame)
    assert dataset.check(deep=True).empty


def test_moments_that_are_given(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode(align=fox.Align(reference="state")) as episode:
        episode.begin("a", timestamp=0.02, time_unit="s")
        for step in range(10):
            episode.add("state", float(step), 10 * MS * step)
        episode.end("a", timestamp=50, time_unit="ms")
        episode.begin("a", timestamp=60 * MS)
        episode.end("a", timestamp=80 * MS)
        episode.begin("early", timestamp=-5 * MS)
        episode.end("early", timestamp=1)
        episode.begin("between", timestamp=11 * MS)
        episode.end("between", timestamp=12 * MS)
    assert _steps(dataset) == [("early", 0, 1, None), ("between", 2, 2, None), ("a", 2, 5, None), ("a", 6, 8, None)]
    assert dataset.segments(label="early")["start_s"].tolist() == [-0.005]


def test_open_at_close_ends_with_the_episode(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.add("x", 1.0, 5)
    episode.begin("a")
    episode.add("x", 2.0, 9)
    episode.begin("late")
    with pytest.warns(UserWarning, match=r"2 segment\(s\) still open at close\(\) end with the episode: 'a', 'late'"):
        episode.close()
    frame = dataset.segments()
    assert frame[["start_ns", "stop_ns", "start_step", "stop_step"]].values.tolist() == [[6, 10, 1, 2], [10, 11, 2, 2]]
    assert dataset.check(deep=True).empty


def test_of_an_episode_without_samples(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.begin("a")
    with pytest.raises(SegmentError, match="nothing was recorded"):
        episode.end("a")
    with pytest.warns(UserWarning, match="still open"):
        episode.close()
    assert _steps(dataset) == [("a", 0, 0, None)]
    assert dataset.segments()["start_ns"].isna().all()


def test_with_nothing_in_between(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        episode.add("x", 1.0, 5)
        episode.begin("a")
        episode.end("a")
        episode.add("x", 2.0, 9)
    assert dataset.segments()[["start_ns", "stop_ns", "start_step", "stop_step"]].values.tolist() == [[6, 7, 1, 1]]


def test_what_is_refused_changes_nothing(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        episode.add("x", 1.0, 10)
        episode.begin("a", 1, timestamp=11)
        for call, error, text in [
            (lambda: episode.begin("a", 2), SegmentError, r"'a' is open; end\('a'\)"),
            (lambda: episode.end("b"), SegmentError, "no segment 'b' is open. Open are: 'a'"),
            (lambda: episode.end("a", timestamp=11), SegmentError, "began at 11 ns and cannot stop at 11"),
            (lambda: episode.begin(""), SegmentError, "1–200 printable"),
            (lambda: episode.begin("c", [1]), SegmentError, "found a list"),
            (lambda: episode.begin("c", timestamp=0.5), FeatureError, "time_unit="),
            (lambda: episode.end("a", timestamp=float("nan"), time_unit="s"), FeatureError, "nan"),
        ]:
            with pytest.raises(error, match=text):
                call()
        episode.add("x", 2.0, 20)
        episode.end("a")
    assert _steps(dataset) == [("a", 1, 2, 1)]
    with pytest.raises(EpisodeClosedError):
        episode.begin("a")
    with pytest.raises(EpisodeClosedError):
        episode.end("a")
    with dataset.new_episode() as episode:
        episode.add("x", 1.0)
        with pytest.raises(SegmentError, match="have no timestamps"):
            episode.begin("a", timestamp=5)


def test_a_label_may_come_again(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode() as episode:
        for step in range(4):
            episode.begin("turn", step)
            episode.add("x", step)
            episode.end("turn")
    assert _steps(dataset) == [("turn", i, i + 1, i) for i in range(4)]


def test_discarded_leaves_none(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.begin("a")
    episode.add("x", 1)
    episode.discard()
    assert not list((tmp_path / "r").glob("segments/*"))


def test_a_close_that_failed_can_be_made_again(tmp_path, monkeypatch):
    from fogx.storage.log.commit import EpisodeLog

    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.add("x", 1)
    episode.begin("a")
    episode.add("x", 2)
    real = EpisodeLog.append
    monkeypatch.setattr(EpisodeLog, "append", lambda *a, **k: (_ for _ in ()).throw(fox.FogxError("full")))
    with pytest.raises(fox.FogxError, match="full"):
        episode.close()
    monkeypatch.setattr(EpisodeLog, "append", real)
    episode.add("x", 3)
    episode.end("a")
    episode.close()
    assert _steps(dataset) == [("a", 1, 3, None)]


def test_recovered_as_close_would_have_saved(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.begin("first", "before the journal")
    for step in range(6):
        if step == 2:
            episode.begin("a", 0.5)
        if step == 4:
            episode.end("a")
            episode.begin("open")
        episode.add("x", step, step * 10)
    episode.end("first")
    episode._journal.close(remove=False)
    episode._state = "gone"
    with pytest.warns(UserWarning, match="'open'"):
        assert dataset.recover()["outcome"].tolist() == ["saved"]
    dataset.refresh()
    assert _steps(dataset) == [("first", 0, 6, "before the journal"), ("a", 2, 4, 0.5), ("open", 4, 6, None)]


def test_an_end_speaks_for_its_begin(tmp_path):
    """Where the part of a journal that holds a begin is damaged, the end has it too; nonsense is not read."""
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.add("x", 1, 10)
    journal = episode._journal
    journal.segment({"number": 3, "label": "a", "value": None, "start_ns": 5, "stop_ns": 12})  # as before arrivals counted
    journal.sync()
    for odd in ({"number": 4}, {"number": "x", "label": "a", "value": None, "start_ns": 5, "stop_ns": 12}, {"label": 5}):
        journal.segment(odd)
        journal.sync()
    left = Left(journal.path)
    list(read(left))
    assert [mark.label for mark in left.segments.values()] == ["a"]
    assert left.unread
    episode.close()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20) | st.none(), st.integers(1, 10)), max_size=4),
    st.lists(st.integers(0, 30), min_size=1, max_size=10),
)
def test_whatever_is_marked_fits_the_episode(parts, times):
    marks = Marks()
    for label, start, length in parts:
        marks.begin(label, None, min(length, len(times)), start)
        marks.end(label, len(times), (start or 0) + length)
    marks.begin("open", None, 0, None)
    in_order = np.array(sorted(times), np.int64)
    moments = Moments(in_order, np.argsort(times, kind="stable"), np.array(times, np.int64))
    segments, told = marks.finished(lambda: moments, times, in_order)
    assert told
    assert len(segments) == len(parts) + 1
    for segment in segments:
        assert segment.start_ns < segment.stop_ns
        assert 0 <= segment.start_step <= segment.stop_step <= len(times)


@pytest.mark.parametrize("end", [False, True])
def test_a_moment_that_is_given_needs_samples_with_times(tmp_path, end):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.begin("a", **({} if end else {"timestamp": 5}))
    if end:
        episode.end("a", timestamp=5)
    for add in (lambda: episode.add("x", 1), lambda: episode.add_step({"x": 1})):
        with pytest.raises(FeatureError, match="feature 'x': segment 'a' has a timestamp, this value has none"):
            add()
    assert not (tmp_path / "r").exists()
    episode.add("x", 1, timestamp=4)
    episode.add("x", 2, timestamp=5)
    episode.end("a") if not end else None
    episode.close()
    assert _steps(dataset) == [("a", 0, 1, None) if end else ("a", 1, 2, None)]


@pytest.mark.parametrize("late_s", [0.5, -0.5])
def test_a_segment_of_all_holds_all_steps_whatever_the_latency(tmp_path, late_s):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode(align=fox.Align(latency_s={"a": late_s}))
    episode.begin("all")
    for step in range(30):
        episode.add("a", step, timestamp=100 * MS * step)
    with pytest.warns(UserWarning, match="still open at close"):
        episode.close()
    assert _steps(dataset) == [("all", 0, 30, None)]


@pytest.mark.filterwarnings("ignore:.*missing after alignment")
@pytest.mark.parametrize("recovered", [False, True])
@pytest.mark.parametrize("ahead_s", [-3600.0, -0.35, 0.0, 0.35, 3600.0])
def test_the_clock_of_another_sensor_does_not_move_it(tmp_path, ahead_s, recovered):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode(align=fox.Align(latency_s={"action": 0.25}))
    for step in range(100):
        if step == 30:
            episode.begin("grasp")
        if step == 60:
            episode.end("grasp")
        episode.add("force", step, (10 * step + 3) * MS + round(ahead_s * 1e9))
        episode.add("action", step, 10 * step * MS)
    if recovered:
        episode._journal.close(remove=False)
        episode._state = "gone"
        dataset.recover()
        dataset.refresh()
    else:
        episode.close()
    assert _steps(dataset) == [("grasp", 30, 60, None)]
    assert dataset.check(deep=True).empty


@pytest.mark.filterwarnings("ignore:.*missing after alignment")
@pytest.mark.parametrize("align", [fox.Align(rate_hz=100), fox.Align(union=True)])
def test_without_a_clock_the_default_one_tells(tmp_path, align):
    dataset = fox.Dataset(tmp_path / "r")
    with dataset.new_episode(align=align) as episode:
        for step in range(100):
            if step == 30:
                episode.begin("grasp")
            if step == 60:
                episode.end("grasp")
            episode.add("action", step, 10 * step * MS)
            episode.add("ahead", step, (10 * step + 200) * MS)
    frame, (view,) = dataset.segments(), dataset.episodes
    inside = view.timestamps_ns[frame["start_step"][0] : frame["stop_step"][0]]
    assert (inside[0], inside[-1]) == (300 * MS, 590 * MS)


def test_a_clock_that_was_set_back(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    for step in range(90):
        if step in (40, 70):
            episode.begin(f"from {step}")
        if step in (65, 80):
            episode.end("from 40" if step == 65 else "from 70")
        episode.add("x", step, 10 * step * MS + (3600_000 * MS if step < 50 else 0))
    with pytest.warns(UserWarning, match="set back"):
        episode.close()
    assert sorted(_steps(dataset)) == [
        ("from 40", 40, 50, None),
        ("from 40", 50, 65, None),
        ("from 70", 70, 80, None),
    ]
    assert dataset.check(deep=True).empty


def test_what_a_damaged_journal_lost_does_not_move_it(tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    for step in range(30):
        if step in (5, 15, 25):
            episode.begin(f"from {step}")
        episode.add("x", step, 10 * step)
        if step in (9, 19):
            episode._journal.sync()
            middle = os.path.getsize(episode._journal.path) - 20
    path = episode._journal.path
    episode._journal.close(remove=False)
    episode._state = "gone"
    with open(path, "r+b") as file:
        file.seek(middle)
        file.write(bytes(4))
    with pytest.warns(UserWarning, match="2 segment"):
        dataset.recover()
    (view,) = dataset.refresh().episodes
    assert view["x"].tolist() == [*range(10), *range(20, 30)]
    assert _steps(dataset) == [("from 5", 5, 20, None), ("from 25", 15, 20, None)], "the begin of the other was lost"


@pytest.mark.parametrize("end", [False, True])
def test_an_end_that_is_given_and_lies_past_the_other(tmp_path, end):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.add("x", 1, 10)
    episode.begin("a", timestamp=None if end else 500)
    episode.add("x", 2, 20)
    episode.end("a", timestamp=7 if end else None)
    episode.add("x", 3, 30)
    given = 7 if end else 500
    with pytest.warns(UserWarning, match=rf"1 segment\(s\) last 1 ns, .*: 'a' \({given} ns\)"):
        episode.close()
    (row,) = dataset.segments().itertuples()
    assert row.stop_ns - row.start_ns == 1
    assert row.start_step == row.stop_step


@st.composite
def _recordings(draw):
    """Sensors whose clocks are off by anything, of which one is the clock, and after how many samples each segment began and ended."""
    sensors = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
    offsets = {name: draw(st.integers(-(10**12), 10**12)) for name in "abc"}
    late = {name: draw(st.sampled_from([-0.5, 0.0, 0.25])) for name in set(sensors)}
    marks = draw(st.lists(st.tuples(st.integers(0, len(sensors)), st.integers(0, len(sensors))), max_size=4))
    return sensors, offsets, late, [(began, ended) for began, ended in marks if began <= ended and ended]


@given(_recordings(), st.data())
def test_a_step_is_in_it_exactly_if_its_sample_came_between(tmp_path_factory, recording, data):
    sensors, offsets, late, marks = recording
    clock = data.draw(st.sampled_from(sorted(set(sensors))))
    others = data.draw(st.lists(st.integers(-(10**9), 10**9), min_size=len(sensors), max_size=len(sensors)))
    dataset = fox.Dataset(tmp_path_factory.mktemp("r"))
    episode = dataset.new_episode(align=fox.Align(reference=clock, latency_s=late, default=fox.hold()))
    for number in range(len(sensors) + 1):
        for index, (began, ended) in enumerate(marks):
            episode.begin(str(index)) if began == number else None
            episode.end(str(index)) if ended == number else None
        if number < len(sensors):
            name = sensors[number]
            jitter = 0 if name == clock else others[number]  # only the clock's own order is needed
            episode.add(name, number, MS * number + offsets[name] + jitter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        episode.close()
    (view,) = dataset.episodes
    came = [number for number, name in enumerate(sensors) if name == clock]
    assert view.num_steps == len(came)
    for row in dataset.segments().itertuples():
        began, ended = marks[int(row.label)]
        assert list(range(row.start_step, row.stop_step)) == [i for i, number in enumerate(came) if began <= number < ended]
