"""Steps made anew: the same as recording with that policy would have made; what was sent stays; others are not disturbed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.align.columns import aligned
from fogx.codecs.png import PngCodec
from fogx.errors import CorruptDataError, FeatureError, SelectionError, TooManyStepsError
from fogx.feature import Schema
from fogx.ids import new_id
from fogx.jobs import realign as job
from fogx.protocols import Column, EpisodeData, Samples, object_array
from fogx.reading.episodes import locate, read_sound
from fogx.recording.sealing import seal
from fogx.storage.tables.index import read_index
from tests.ageing import make_older
from tests.jobs.conftest import BRIDGE

MS = 1_000_000
SCHEMA = Schema(
    {
        "action": fox.Feature("float32", (2,)),
        "cam": fox.Feature("uint8", (8, 8, 3), encoding="png"),
        "count": fox.Feature("int64", ()),
        "path": fox.Feature("float64", (None,)),
        "said": fox.Feature("str", ()),
        "x": fox.Feature("float32", ()),
    }
)
PNGS = [PngCodec().encode(np.full((8, 8, 3), i, np.uint8)) for i in range(24)]

POLICIES = st.sampled_from(
    [
        fox.Align(),
        fox.Align(union=True),
        fox.Align(rate_hz=100),
        fox.Align(reference="cam"),
        fox.Align(reference="x", features={"count": fox.next(0.005), "said": fox.exact()}),
        fox.Align(union=True, features={"x": fox.linear(0.02), "action": fox.hold()}, default=fox.nearest(0.01)),
        fox.Align(rate_hz=77.7, default=fox.linear(), latency_s={"cam": 0.004}),
    ]
)
SENT = st.lists(
    st.tuples(
        st.sets(st.sampled_from(list(SCHEMA.features)), min_size=1),
        st.sampled_from([0, 1, 10, 10, 40]),  # ms until it comes
        st.sampled_from([0, 0, 0, 3, 10, 150]),  # ms late
        st.sampled_from([0, 0, 0, 0, 0, -300, -5_000]),  # ms by which the clock is set
    ),
    max_size=24,
)


def samples_of(sent):
    """Return samples, one for each call."""
    count, now_ms, clock_ms = len(sent), 0, 10**9
    stamps, received = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for i, (_, wait_ms, late_ms, set_ms) in enumerate(sent):
        now_ms, clock_ms = now_ms + wait_ms, clock_ms + set_ms
        stamps[i], received[i] = (clock_ms + now_ms - late_ms) * MS, now_ms * MS
    numbers = np.arange(count)
    values = {
        "action": np.stack([numbers, -numbers], 1).astype(np.float32),
        "cam": object_array([PNGS[i] for i in numbers]),
        "count": numbers,
        "path": object_array([np.arange(i % 3, dtype=np.float64) for i in numbers]),
        "said": object_array([f"word {i}" for i in numbers]),
        "x": (numbers / 7).astype(np.float32),
    }
    masks = {name: np.array([name in names for names, *_ in sent], bool) for name in SCHEMA}
    columns = {name: Column(values[name], None if masks[name].all() else masks[name]) for name in SCHEMA}
    return Samples(columns, stamps, received, {})


def save(dataset, sent, policy):
    """Save what recording would, at stamps and times of arrival that are given."""
    made = aligned(SCHEMA, samples_of(sent), policy)
    times = made.steps.times_ns
    data = EpisodeData(SCHEMA, made.columns, len(times), times, samples=made.samples, control_hz=policy.rate_hz)
    return seal(dataset._roots.write.store, dataset._roots.write.writable, dataset.name, new_id(), data)


def steps_of(dataset, episode_id, **options):
    return dataset.get_step_data([episode_id], images="encoded", **options).collect().drop("episode_id")


def raw(dataset, episode_id):
    """The bytes of every column of steps, what stands where there is no value aside."""
    (member,) = locate(
        fox.Dataset(dataset.path)._roots.chosen().at(np.flatnonzero([v.episode_id == episode_id for v in dataset]))
    )
    data = read_sound(member)
    found = {}
    for name, column in data.columns.items():
        values = column.values[column.mask]
        found[name] = column.mask.tolist(), values.tolist() if values.dtype == object else values.tobytes()
    found["path"] = found["path"][0], [v.tobytes() for v in found["path"][1]]
    return found, data.timestamps_ns.tobytes(), {n: (s.mean.tobytes(), s.count.tobytes()) for n, s in stats_of(member).items()}


def stats_of(member):
    row = member.row.to_pylist()[0]
    return read_index(member.root.store, row["index_file"], [row["index_row"]], ("stats",))[0].stats


def row_of(dataset, episode_id):
    info = fox.Dataset(dataset.path).get_episode_info().set_index("episode_id")
    return info.loc[episode_id, ["num_steps", "start_ns", "duration_s", "control_hz"]].astype(object).fillna(-1).tolist()


@settings(max_examples=settings.default.max_examples // 5)  # each is some ten commits
@given(SENT, POLICIES, POLICIES)
def test_at_record_time_at_read_time_and_by_realign(tmp_path_factory, sent, first, second):
    dataset = fox.Dataset(tmp_path_factory.mktemp("root"))
    mine, want = save(dataset, sent, first), save(dataset, sent, second)
    before, recorded, version = raw(dataset, mine), steps_of(dataset, mine), dataset.version
    assert steps_of(dataset, mine, align=first).equals(recorded)
    assert steps_of(dataset, mine, align=second).equals(steps_of(dataset, want))
    same = raw(dataset, mine) == raw(dataset, want)
    moved = dataset.realign([mine], second)
    assert moved == [mine] or (moved == [] and same)
    assert raw(dataset, mine) == raw(dataset, want)
    assert row_of(dataset, mine)[:3] == row_of(dataset, want)[:3]
    assert row_of(dataset, mine)[3] == row_of(dataset, want)[3] or moved == []
    assert steps_of(dataset, mine).equals(steps_of(dataset, want))
    assert dataset.realign([mine], second) == []
    assert steps_of(dataset.at(version), mine).equals(recorded)
    assert steps_of(dataset, mine, align=first).equals(recorded)
    dataset.realign([mine], first)
    assert raw(dataset, mine) == before
    assert fox.check(dataset.path, deep=True).empty


def record(dataset, number, policy=None, **metadata):
    with dataset.new_episode({"number": number, **metadata}, align=policy) as episode:
        for i in range(20):
            episode.add("joint", np.full(3, i + 100 * number, np.float32), i * 10 * MS)
            if i % 2 == 0:
                episode.add("cam", np.full((32, 32, 3), i + number, np.uint8), (i * 10 + 4) * MS)
    return episode.episode_id


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "root", features={"cam": fox.Feature("uint8", (32, 32, 3), camera="png")})
    for number in range(4):
        record(dataset, number, fox.Align(reference="joint"))
    return dataset


def files_of(dataset, family):
    return {str(path) for path in Path(dataset.path).glob(f"{family}/**/*.parquet")}


def test_frames_stay_and_history_tells(dataset):
    frames = files_of(dataset, "frames")
    ids = dataset.get_episode_info()["episode_id"].tolist()
    assert dataset.realign(ids[::-1], fox.Align(reference="cam")) == ids[::-1]
    assert files_of(dataset, "frames") == frames
    assert dataset.history()["operation"].tolist()[:2] == ["realign", "first realign"]
    assert dataset.get_episode_info()["num_steps"].tolist() == [10] * 4
    assert [view["cam"][:, 0, 0, 0].tolist() for view in dataset] == [list(range(n, n + 20, 2)) for n in range(4)]
    assert len(dataset.as_pytorch_dataset()) == 40
    assert dataset.realign(align=fox.Align(reference="cam")) == []


def test_steps_that_were_all_there_was_become_samples(tmp_path):
    dataset = fox.Dataset(tmp_path / "root")
    with dataset.new_episode() as episode:
        for i in range(30):
            episode.add_step({"a": float(i), "b": i}, i * 10 * MS)
    assert not files_of(dataset, "streams")
    assert dataset.realign(align=fox.Align(rate_hz=10)) == [episode.episode_id]
    assert dataset.episodes[0]["b"].tolist() == [0, 10, 20]
    assert dataset.get_episode_info()["control_hz"].tolist() == [10]
    make_older(dataset.path)
    dataset.vacuum()
    assert dataset.realign(align=fox.Align(reference="a")) == [episode.episode_id]
    assert dataset.episodes[0]["b"].tolist() == list(range(30))
    assert dataset.get_episode_info()["control_hz"].isna().all()
    assert dataset.check(deep=True).empty


def test_it_goes_on_in_groups(dataset, monkeypatch):
    monkeypatch.setattr(job, "GROUP_STEPS", 60)
    assert len(dataset.realign(align=fox.Align(rate_hz=50))) == 4
    assert dataset.history()["operation"].tolist().count("realign") == 2
    assert dataset.check(deep=True).empty
    assert dataset.compact() == 4
    assert dataset.realign(align=fox.Align(rate_hz=50)) == []


def test_what_others_changed_meanwhile_stays(tmp_path, monkeypatch):
    dataset = fox.Dataset(tmp_path / "root")
    ids = [record(dataset, number, fox.Align(reference="joint")) for number in range(7)]
    other = fox.Dataset(dataset.path)
    real = job.read_sound

    def meanwhile(member, **options):
        monkeypatch.setattr(job, "read_sound", real)
        other.delete(ids[0])
        other.tag(ids[1:3], note="mine")
        other.compact(ids[3:5])
        other.tag(ids[5], control_hz=7)
        return real(member, **options)

    monkeypatch.setattr(job, "read_sound", meanwhile)
    assert dataset.realign(align=fox.Align(rate_hz=50)) == [ids[1], ids[2], ids[6]]
    info = fox.Dataset(dataset.path).get_episode_info().set_index("episode_id")
    assert info.index.tolist() == ids[1:]
    assert info["note"].dropna().index.tolist() == ids[1:3]
    assert info["num_steps"].tolist() == [10, 10, 20, 20, 20, 10]
    assert info["control_hz"].fillna(0).tolist() == [50, 50, 0, 0, 7, 50]
    assert dataset.refresh().realign(align=fox.Align(rate_hz=50)) == ids[3:6]
    assert dataset.check(deep=True).empty


def test_a_policy_that_does_not_fit_changes_nothing(dataset, monkeypatch):
    monkeypatch.setattr(job, "GROUP_STEPS", 1)
    ids, version = dataset.get_episode_info()["episode_id"].tolist(), dataset.version
    with pytest.raises(FeatureError, match=r"no episode has the feature 'jont'; there are cam, joint\. Did you mean 'joint'"):
        dataset.realign(align=fox.Align(reference="jont"))
    with pytest.raises(FeatureError, match=rf"episode {ids[0]}: align: feature 'cam' holds images or text"):
        dataset.realign(align=fox.Align(features={"cam": fox.linear()}))
    with pytest.raises(FeatureError, match="found str"):
        dataset.realign(align="cam")
    assert dataset.version == version
    with dataset.new_episode() as episode:
        episode.add("joint", np.zeros(3, np.float32), 0)
        episode.add("joint", np.zeros(3, np.float32), 10**18)
    with pytest.raises(TooManyStepsError, match=f"episode {episode.episode_id}: .*the stamp 0 ns") as error:
        dataset.realign(align=fox.Align(rate_hz=50))
    assert error.value.__notes__ == ["4 episodes were aligned anew before; the same call goes on with the rest."]
    assert dataset.get_episode_info()["num_steps"].tolist() == [10] * 4 + [2]


def test_features_that_some_episodes_lack(dataset):
    with dataset.new_episode() as episode:
        for i in range(10):
            episode.add("only", float(i), i * 10 * MS)
    assert len(dataset.realign(align=fox.Align(rate_hz=200, features={"only": fox.linear(), "joint": fox.linear()}))) == 5
    assert dataset.episodes[4]["only"].tolist() == [i / 2 for i in range(19)]
    with pytest.raises(
        FeatureError, match=rf"1 of 5 episodes have no feature 'cam' whose samples could be steps: {episode.episode_id}"
    ):
        dataset.realign(align=fox.Align(reference="cam"))


def test_episodes_without_times(dataset):
    dataset.load_rtx_episodes(BRIDGE, split="train[:2]")
    with pytest.raises(SelectionError, match=r"2 of 6 episodes have no times.*notna") as error:
        dataset.realign(align=fox.Align(rate_hz=50))
    assert "get_step_data(align=...)" in str(error.value)
    info = dataset.get_episode_info()
    assert len(dataset.realign(info[info["start_ns"].notna()], fox.Align(rate_hz=50))) == 4


def test_damage_is_not_carried_on(dataset):
    path = Path(sorted(files_of(dataset, "streams"))[0])
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data) // 2):  # one byte may be one that says nothing, as of a page's statistics
        data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError):
        dataset.realign(align=fox.Align(rate_hz=50))
    assert dataset.get_episode_info()["num_steps"].tolist() == [20] * 4


def test_other_roots_are_refused(dataset, tmp_path):
    both = fox.Dataset(tmp_path / "mine", load_from=[dataset.path])
    with pytest.raises(SelectionError, match="root"):
        both.realign(align=fox.Align(rate_hz=50))
    with pytest.raises(fox.FogxError, match="reading only"):
        fox.Dataset(dataset.path, read_only=True).realign(align=fox.Align(rate_hz=50))


def test_segments_keep_their_times_and_have_the_new_steps(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode(align=fox.Align(rate_hz=100)) as episode:
        for i in range(41):
            if i == 10:
                episode.begin("grasp", 0.5)
            episode.add("x", float(i), 1_000 * MS + 10 * MS * i)
            if i == 20:
                episode.end("grasp")
    dataset.annotate(None, "start", stop_s=0.1)
    before = dataset.segments()
    other = fox.Dataset(tmp_path / "lab")
    dataset.realign(align=fox.Align(rate_hz=50))
    after = dataset.segments()
    assert before["start_step"].tolist() == [0, 10]
    assert after["start_step"].tolist() == [0, 5]
    assert after["stop_step"].tolist() == [5, 11]
    for name in ("label", "start_ns", "stop_ns", "start_s", "stop_s", "value", "source"):
        assert after[name].tolist() == before[name].tolist(), name
    assert other.segments()["start_step"].tolist() == [0, 10], "an older version shows what it had"
    assert fox.check(tmp_path / "lab", deep=True).empty


def test_segments_that_another_gave_meanwhile_stay(tmp_path, monkeypatch):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode() as episode:
        for i in range(20):
            episode.add("x", float(i), 10 * MS * i)
    other = fox.Dataset(tmp_path / "lab")
    made = job._anew
    monkeypatch.setattr(job, "_anew", lambda *a: (other.annotate(None, "theirs"), made(*a))[1])
    assert dataset.realign(align=fox.Align(rate_hz=50)) == []
    dataset.refresh()
    assert dataset.segments()["label"].tolist() == ["theirs"]
    assert fox.check(tmp_path / "lab", deep=True).empty
