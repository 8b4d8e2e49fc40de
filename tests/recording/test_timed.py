"""Sensors with times of their own: nothing they send is lost, and steps are what alignment says."""

import datetime
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.align import columns
from fogx.errors import FeatureError, FeatureTypeError, ReadOnlyError, SelectionError
from fogx.reading.episodes import locate, read_sound
from fogx.recording.stamps import stamp_ns
from fogx.storage.tables import index
from tests.align.oracle import steps_of, take

fox.config(progress=False)
MS = 1_000_000


def stored(dataset):
    """Return the newest episode whole, held against its checksum."""
    fresh = fox.Dataset(dataset.path)
    return read_sound(locate(fresh._roots.chosen())[-1])


def image(number):
    return np.full((32, 40, 3), number, np.uint8)


@pytest.fixture
def dataset(tmp_path):
    return fox.Dataset(tmp_path / "lab", features={"cam": fox.Feature("uint8", (32, 40, 3), camera="png")})


def test_three_rates(dataset):
    with dataset.new_episode() as episode:
        for ms in range(0, 1000, 5):
            episode.add("joint", np.full(7, ms, np.float32), ms * MS)
            if ms % 35 == 0:
                episode.add("cam", image(ms // 35), ms * MS)
            if ms % 50 == 15:
                episode.add("action", float(ms), ms * MS)
    assert episode.num_steps == 20
    (view,) = fox.Dataset(dataset.path).episodes
    steps_ms = range(15, 1000, 50)
    assert view["action"].tolist() == list(steps_ms)
    assert view["joint"][:, 0].tolist() == list(steps_ms)
    assert view["cam"][:, 0, 0, 0].tolist() == [ms // 35 for ms in steps_ms]
    data = stored(dataset)
    assert data.timestamps_ns.tolist() == [ms * MS for ms in steps_ms]
    samples = data.samples
    assert len(samples.stamps_ns) == 200 + 29 + 20
    assert samples.columns["joint"].values[samples.columns["joint"].mask][:, 0].tolist() == list(range(0, 1000, 5))
    assert samples.columns["cam"].mask.sum() == 29
    assert fox.Align.from_json(samples.align) == fox.Align()
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_a_policy_is_followed_and_kept(dataset):
    align = fox.Align(rate_hz=100, features={"x": fox.linear()}, default=fox.hold(max_age_s=0.015))
    episode = dataset.new_episode(align=align)
    for ms in (0, 20, 60):
        episode.add("x", ms / 10, ms * MS)
        episode.add("cam", image(ms), ms * MS)
    with pytest.warns(UserWarning, match=r"2 of 14 values \(14%\) are missing after alignment.*cam at 2 steps \(3 in 0.1 s"):
        episode.close()
    data = stored(dataset)
    assert data.columns["x"].values.tolist() == pytest.approx([0, 1, 2, 3, 4, 5, 6])
    assert data.columns["cam"].mask.tolist() == [True, True, True, True, False, False, True]
    assert data.columns["cam"].frames[data.columns["cam"].mask].tolist() == [0, 0, 1, 1, 2]
    assert data.control_hz == 100
    assert fox.Align.from_json(data.samples.align) == align


def test_samples_that_are_the_steps_are_kept_once(dataset):
    with dataset.new_episode() as episode:
        for i in range(5):
            episode.add_step({"joint": float(i), "action": i}, timestamp=i / 30, time_unit="s")
    data = stored(dataset)
    assert data.samples is None
    assert data.timestamps_ns.tolist() == [round(i / 30 * 1e9) for i in range(5)]
    assert not list(Path(dataset.path).glob("streams/**/*.parquet"))


def files_of(dataset, family):
    return sorted(Path(dataset.path).glob(f"{family}/**/*.parquet"))


def test_values_that_steps_hold_are_kept_once(dataset):
    with dataset.new_episode(align=fox.Align(reference="joint")) as episode:
        for i in range(50):
            episode.add("cam", image(i), i * 20 * MS + 3)
            episode.add("command", np.full(64, i, np.float64), i * 20 * MS + 5)
            episode.add("said", f"word {i}", i * 20 * MS + 5)
            episode.add("force", float(i), i * 20 * MS + 6)
            episode.add("force", float(i) + 0.5, i * 20 * MS + 7)
            episode.add("joint", np.full(7, i, np.float32), i * 20 * MS + 10)
    (file,) = files_of(dataset, "streams")
    table = pq.read_table(file)
    assert {n: str(table.schema.field(n).type) for n in ("joint", "command", "said", "force", "cam")} == {
        "joint": "int32", "command": "int32", "said": "int32", "force": "double", "cam": "int32",
    }  # fmt: skip
    assert table.num_rows == 300
    data = stored(dataset)
    for name, want in (("said", [f"word {i}" for i in range(50)]), ("force", [i / 2 for i in range(100)])):
        column = data.samples.columns[name]
        assert column.values[column.mask].tolist() == want
    assert data.samples.stamps_ns[data.samples.columns["command"].mask].tolist() == [i * 20 * MS + 5 for i in range(50)]
    assert fox.Dataset(dataset.path).check(deep=True).empty
    dataset.compact()
    assert stored(dataset).samples.columns["said"].values[1::6].tolist() == data.samples.columns["said"].values[1::6].tolist()


def test_samples_that_are_kept_whole_are_read(dataset, monkeypatch):
    """As they were written before values that steps hold were kept once."""
    monkeypatch.setattr(columns, "_first_steps", lambda *_: None)
    monkeypatch.setattr(index, "_SCHEMA", pa.schema([field for field in index._SCHEMA if field.name != "in_steps"]))
    monkeypatch.setattr(
        index, "_to_arrow", lambda row, real=index._to_arrow: {k: v for k, v in real(row).items() if k != "in_steps"}
    )
    with dataset.new_episode(align=fox.Align(reference="joint")) as episode:
        for i in range(20):
            episode.add("joint", i, i * 20 * MS)
            episode.add("cam", image(i), i * 20 * MS + 3)
    monkeypatch.undo()
    data = stored(dataset)
    assert data.samples.in_steps == {}
    assert data.samples.columns["joint"].values[::2].tolist() == list(range(20))
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_a_latency_is_not_lost_where_steps_hold_all(dataset):
    with dataset.new_episode(align=fox.Align(latency_s={"cam": 0.05})) as episode:
        for i in range(5):
            episode.add("cam", image(i), i * 33 * MS)
    data = stored(dataset)
    assert data.timestamps_ns.tolist() == [i * 33 * MS - 50 * MS for i in range(5)]
    assert data.samples.stamps_ns.tolist() == [i * 33 * MS for i in range(5)]
    assert fox.Align.from_json(data.samples.align).latency_s == {"cam": 0.05}


def test_a_loop_without_times_is_as_before(dataset):
    with dataset.new_episode() as episode:
        for i in range(60):
            episode.add("a", i)
            episode.add("cam", image(i))
            episode.add("b", float(i))
    data = stored(dataset)
    assert data.samples is None
    assert data.num_steps == 60
    assert data.columns["a"].values.tolist() == data.columns["b"].values.tolist() == list(range(60))


@pytest.mark.filterwarnings("ignore:.*are missing after alignment:UserWarning")  # one thread may be done before the other begins
def test_threads_without_times_take_the_clocks(dataset):
    episode = dataset.new_episode()

    def feed(name, count):
        for i in range(count):
            episode.add(name, i)

    threads = [threading.Thread(target=feed, args=args) for args in (("fast", 200), ("slow", 20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    episode.close()
    data = stored(dataset)
    assert data.num_steps == 200
    assert data.columns["fast"].values.tolist() == list(range(200))
    assert data.samples.columns["slow"].values[data.samples.columns["slow"].mask].tolist() == list(range(20))


def _saved(data):
    """Return all that an episode holds, by name, whatever the order."""
    columns = {name: (column.mask.tolist(), column.values[column.mask].tolist()) for name, column in data.columns.items()}
    sent = {
        name: (column.values[column.mask].tolist(), data.samples.stamps_ns[column.mask].tolist())
        for name, column in (data.samples.columns if data.samples else {}).items()
    }
    return dict(data.schema), columns, data.timestamps_ns.tolist(), data.control_hz, sent


@pytest.mark.filterwarnings("ignore:.*are missing after alignment:UserWarning")
@given(
    st.dictionaries(
        st.sampled_from(["action", "action/grip", "joint", "note"]),
        st.lists(st.integers(0, 50), min_size=1, max_size=8),
        min_size=2,
    ),
    st.sampled_from(
        [{}, {"union": True}, {"rate_hz": 250.0}, {"latency_s": {"joint": 0.01}}, {"features": {"joint": fox.linear()}}]
    ),
    st.randoms(),
)
def test_the_order_of_declarations_and_of_first_values_does_not_matter(tmp_path_factory, given_stamps, clock, random):
    """What each sensor sends comes in its own order; which of them is declared, or comes, first makes no difference."""
    made = {"joint": float, "note": str}
    align = fox.Align(**clock) if "joint" in given_stamps or clock.keys() <= {"union", "rate_hz"} else fox.Align()
    found = []
    for _ in range(2):
        names = list(given_stamps)
        random.shuffle(names)
        declared = {name: fox.Feature({"joint": "float64", "note": "str"}.get(name, "int64"), ()) for name in names}
        order = [name for name, stamps in given_stamps.items() for _ in stamps]
        random.shuffle(order)
        left = {name: iter(enumerate(stamps)) for name, stamps in given_stamps.items()}
        dataset = fox.Dataset(tmp_path_factory.mktemp("lab"))
        with dataset.new_episode(align=align, features=declared) as episode:
            for name in order:
                number, ms = next(left[name])
                episode.add(name, made.get(name, int)(number), ms * MS)
        found.append(_saved(stored(dataset)))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore:.*are missing after alignment:UserWarning")
@given(
    st.dictionaries(
        st.sampled_from(["action", "joint", "cam"]), st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1
    ),
    st.sampled_from([None, {"union": True}, {"rate_hz": 250.0}]),
    st.randoms(),
)
def test_any_order_of_any_times(tmp_path_factory, given_stamps, clock, random):
    dataset = fox.Dataset(tmp_path_factory.mktemp("lab"))
    align = None if clock is None else fox.Align(**clock)
    order = [name for name, stamps in given_stamps.items() for _ in stamps]
    random.shuffle(order)
    left = {name: iter(enumerate(stamps)) for name, stamps in given_stamps.items()}
    with dataset.new_episode(align=align) as episode:
        for name in order:
            number, ms = next(left[name])
            episode.add(name, number, ms * MS)
    data = stored(dataset)
    streams = {name: [ms * MS for ms in stamps] for name, stamps in given_stamps.items()}
    policy = align or fox.Align()
    steps = steps_of(streams, policy)
    assert data.timestamps_ns.tolist() == steps
    clock_name = None
    if clock is None:
        clock_name = "action" if "action" in streams else min(streams, key=lambda n: (-len(streams[n]), n))
    for name, stamps in streams.items():
        chosen = fox.next() if name == "action" and name != clock_name else fox.hold()
        want = [take(step, stamps, chosen) for step in steps]
        column = data.columns[name]
        assert column.mask.tolist() == [number >= 0 for number in want]
        assert column.values[column.mask].tolist() == [number for number in want if number >= 0]
        if data.samples is not None:
            sent = data.samples.columns[name]
            assert sent.values[sent.mask].tolist() == list(range(len(stamps)))
            assert data.samples.stamps_ns[sent.mask].tolist() == stamps


def test_some_values_with_a_time_and_some_without(dataset):
    episode = dataset.new_episode()
    episode.add("a", 1, 0)
    with pytest.raises(FeatureError, match=r"'b': earlier values of this episode have timestamps, this one has none"):
        episode.add("b", 1)
    episode.add("b", 1, 0)
    episode.close()
    episode = dataset.new_episode()
    episode.add("a", 1)
    with pytest.raises(FeatureError, match="have no timestamps, this one has one"):
        episode.add("a", 1, 5)
    episode.discard()


def test_a_policy_that_does_not_fit_keeps_no_take_from_being_saved(dataset):
    policy = fox.Align(reference="camera", features={"count": fox.linear(), "state": fox.nearest()}, latency_s={"arm": 0.1})
    episode = dataset.new_episode(align=policy)
    for i in range(20):
        episode.add("cam", image(i), 20 * i * MS)
        episode.add("count", i, 20 * i * MS)
        episode.add("state", float(i), 20 * i * MS + 9 * MS)
    with pytest.warns(
        UserWarning, match=r"no feature 'camera'.*Did you mean 'cam'.*'count' holds int64.*says of 'camera', 'arm', 'count'"
    ):
        episode.close()
    data = stored(dataset)
    assert data.columns["state"].values.tolist() == list(range(20))  # nearest, as was said: a held one would come a step late
    assert data.columns["count"].values.tolist() == list(range(20))
    (view,) = dataset
    assert dataset.realign(align=fox.Align(reference="state")) == [view.episode_id]


def test_a_clock_that_is_set_back_is_told(dataset):
    episode = dataset.new_episode()
    for i in range(10):
        episode.add("a", i, i * 10 * MS + 10**12)
    for i in range(10, 20):
        episode.add("a", i, i * 10 * MS)
    with pytest.warns(UserWarning, match="a clock was set back 1 time"):
        episode.close()
    assert stored(dataset).columns["a"].values.tolist() == list(range(20))


def test_one_stray_stamp_keeps_no_take_from_being_saved(dataset):
    episode = dataset.new_episode(align=fox.Align(rate_hz=30))
    for i in range(30):
        episode.add("a", i, (10**10 + i) * 33 * MS)
        episode.add("b", i, 0 if i == 10 else (10**10 + i) * 33 * MS)
    with pytest.warns(UserWarning, match=r"rate_hz=30 .*Feature 'b' has the stamp 0 ns.*steps were made without rate_hz="):
        episode.close()
    data = stored(dataset)
    assert data.num_steps == 30
    assert data.control_hz is None
    assert fox.Align.from_json(data.samples.align) == fox.Align()
    assert data.samples.columns["b"].values[data.samples.columns["b"].mask].tolist() == list(range(30))


def test_a_clock_much_faster_than_a_camera_is_told(dataset):
    episode = dataset.new_episode()
    for i in range(100):
        episode.add("joint", i, i * MS)
        if i % 10 == 0:
            episode.add("cam", image(i), i * MS)
    with pytest.warns(UserWarning, match=r"reference='cam'"):
        episode.close()


def test_samples_survive_compact_and_repair(dataset):
    for take_number in range(3):
        with dataset.new_episode(align=fox.Align(reference="joint")) as episode:
            for i in range(6):
                episode.add("joint", i + take_number, i * 20 * MS)
                episode.add("cam", image(i), (i * 20 + 7) * MS)
    before = [read_sound(member) for member in locate(fox.Dataset(dataset.path)._roots.chosen())]
    assert fox.Dataset(dataset.path).compact() == 3
    after = [read_sound(member) for member in locate(fox.Dataset(dataset.path)._roots.chosen())]
    for old, new in zip(before, after, strict=True):
        assert old.samples.stamps_ns.tolist() == new.samples.stamps_ns.tolist()
        assert old.samples.received_ns.tolist() == new.samples.received_ns.tolist()
        for name in old.schema:
            mine, theirs = old.samples.columns[name], new.samples.columns[name]
            assert mine.mask.tolist() == theirs.mask.tolist()
            assert mine.values[mine.mask].tolist() == theirs.values[theirs.mask].tolist()
    assert fox.Dataset(dataset.path).check(deep=True).empty


@pytest.mark.parametrize(
    ("given_stamp", "unit", "want"),
    [
        (5, "ns", 5),
        (np.int32(5), "us", 5_000),
        (1.5, "s", 1_500_000_000),
        (np.float32(0.25), "ms", 250_000),
        (datetime.datetime(1970, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))), "ns", 0),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC), "ns", 1767323045678901000),
        (np.datetime64("2026-01-02T03:04:05.678901234"), "ns", 1767323045678901234),
    ],
)
def test_times(given_stamp, unit, want):
    assert stamp_ns(given_stamp, unit) == want


@pytest.mark.parametrize(
    ("given_stamp", "unit", "error", "says"),
    [
        (1.5, "ns", FeatureError, "time_unit='s'"),
        (1, "hours", FeatureError, "ns, us, ms, s"),
        (True, "ns", FeatureTypeError, "found bool"),
        ("now", "ns", FeatureTypeError, "found str"),
        (float("nan"), "s", FeatureError, "found nan"),
        (10**30, "ns", FeatureError, "too far from 0"),
        (datetime.datetime(2026, 1, 1), "ns", FeatureError, r"astimezone\(\)"),
        (np.datetime64("NaT"), "ns", FeatureTypeError, "datetime64"),
    ],
)
def test_times_that_cannot_be(dataset, given_stamp, unit, error, says):
    with pytest.raises(error, match=says):
        stamp_ns(given_stamp, unit)
    episode = dataset.new_episode()
    with pytest.raises(error):
        episode.add("a", 1, given_stamp, time_unit=unit)
    episode.add("a", 1)
    episode.discard()


def test_frames_that_steps_repeat_are_read_exported_and_trained_on(dataset, tmp_path):
    with dataset.new_episode(align=fox.Align(reference="action")) as episode:
        for i in range(12):
            episode.add("action", float(i), i * 10 * MS)
            if i % 3 == 0:
                episode.add("cam", image(i // 3), i * 10 * MS)
    dataset = fox.Dataset(dataset.path)
    shown = [i // 3 for i in range(12)]
    items = dataset.as_pytorch_dataset()
    assert [int(items[i]["cam"].max()) for i in range(12)] == shown
    pixels = dataset.get_step_data(images="pixels").collect()["cam"].to_list()
    assert [row[0][0][0] for row in pixels] == shown
    path = dataset.export(format="rtx", path=tmp_path / "out")
    again = fox.Dataset(tmp_path / "again")
    again.load_rtx_episodes(path)
    assert again.episodes[0]["cam"][:, 0, 0, 0].tolist() == shown


def test_the_last_take_was_bad(dataset):
    with pytest.raises(SelectionError, match="has saved no episode"):
        dataset.discard_last()
    ids = []
    for number in range(3):
        with dataset.new_episode({"number": number}) as episode:
            episode.add("a", number)
        ids.append(episode.episode_id)
    dataset.new_episode().discard()
    with pytest.raises(ReadOnlyError):
        dataset.at(dataset.version).discard_last()
    assert dataset.discard_last() == ids[2]
    assert dataset.get_episode_info()["number"].tolist() == [0, 1]
    dataset.delete([ids[1]])
    assert dataset.discard_last() == ids[0]
    assert len(dataset) == 0
    with pytest.raises(SelectionError):
        dataset.discard_last()
