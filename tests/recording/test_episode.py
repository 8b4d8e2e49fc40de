import itertools
import os
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import EpisodeClosedError, FeatureError, MetadataError
from fogx.feature import Feature
from fogx.recording.episode import Episode

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


class Sink:
    """Stands for storage: remembers what was sealed, or fails."""

    def __init__(self):
        self.sealed = []
        self.saved = []
        self.error = None

    def seal(self, data, sealed=None):
        if self.error:
            raise self.error
        self.sealed.append(data)

    def check(self, metadata):
        if "bad" in metadata:
            raise MetadataError("bad key")

    def episode(self, **options):
        options.setdefault("episode_id", "e1")
        return Episode(self.seal, check_metadata=self.check, saved=self.saved.append, **options)


@pytest.fixture
def sink():
    return Sink()


def test_a_loop_of_adds_gives_one_step_a_turn_and_pairs_every_value(sink):
    with sink.episode() as episode:
        for i in range(60):
            episode.add("before", i)
            episode.add("image", np.full((40, 40, 3), i, np.uint8))
            episode.add("after", float(i))
    (data,) = sink.sealed
    assert data.num_steps == 60
    assert list(data.schema) == list(data.columns) == ["before", "image", "after"]
    assert all(column.valid is None for column in data.columns.values())
    assert data.columns["before"].values.tolist() == list(range(60))
    assert data.columns["after"].values.tolist() == list(range(60))
    assert len(set(data.columns["image"].values)) == 60
    assert data.schema["image"] == Feature("uint8", (40, 40, 3), encoding="png")


def test_steps_without_a_value_are_not_valid(sink):
    episode = sink.episode()
    for i in range(20):
        episode.add("a", i)
        if i != 7:
            episode.add("b", i)
    episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 20
    assert data.columns["a"].valid is None
    assert np.flatnonzero(~data.columns["b"].valid).tolist() == [7]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1), min_size=1, max_size=20))
def test_add_step_keeps_every_row(rows):
    sink = Sink()
    episode = sink.episode()
    for row in rows:
        episode.add_step(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Episode, "_sparse", lambda self: None)
        episode.close()
    (data,) = sink.sealed
    assert data.num_steps == len(rows)
    for i, row in enumerate(rows):
        got = {k: int(c.values[i]) for k, c in data.columns.items() if c.valid is None or c.valid[i]}
        assert got == row


def test_add_step_closes_the_step_before_it(sink):
    episode = sink.episode()
    episode.add("a", 1)
    episode.add_step({"b": 2, "a": 1})
    episode.add("b", 3)
    episode.add("a", 1)
    assert episode.num_steps == 3
    episode.discard()


def test_nested_dicts_flatten_into_one_step(sink):
    episode = sink.episode()
    for i in range(2):
        episode.add("observation", {"state": [0.0, 1.0], "camera": {"gain": i}})
        episode.add_step({"observation": {"state": [0.0, 1.0], "camera": {"gain": i}}})
    episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 4
    assert list(data.schema) == ["observation/state", "observation/camera/gain"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": {}},
        {"a/b": 1, "a": {"b": 2}},
        {"": 1},
        {"timestamp_ns": 1},
        {3: 1},
        {"a": {3: 1}},
        {"a//b": 1},
        [1],
        {"a": None},
    ],
)
def test_unusable_steps(sink, values):
    episode = sink.episode()
    with pytest.raises(FeatureError):
        episode.add_step(values)
    assert episode.num_steps == 0
    episode.close()
    assert not sink.sealed[0].columns


def test_a_failed_add_leaves_the_episode_as_it_was(sink):
    episode = sink.episode()
    episode.add_step({"a": 1, "b": 2})
    for bad in ({"a": 0.5, "b": "text"}, {"a": 1, "c": 2, "b": [1]}):
        with pytest.raises(FeatureError, match="'b'"):
            episode.add_step(bad)
    with pytest.raises(FeatureError, match="'a'"):
        episode.add("a", "text")
    episode.close()
    (data,) = sink.sealed
    assert data.num_steps == len(data.timestamps_ns) == 1
    assert list(data.schema) == ["a", "b"]
    assert data.schema["a"].dtype == "int64"


def test_values_are_copied(sink):
    episode = sink.episode()
    state, tags, notes = np.zeros(3), ["a", "b"], {"k": [1]}
    episode.add("state", state)
    episode.add("tags", tags)
    episode.mark(notes=notes)
    state[:] = 9
    tags[0] = "changed"
    notes["k"].append(2)
    episode.close()
    (data,) = sink.sealed
    assert data.columns["state"].values.tolist() == [[0, 0, 0]]
    assert data.columns["tags"].values.tolist() == [["a", "b"]]
    assert data.metadata == {"notes": {"k": [1]}}


def test_stamps_are_those_of_the_first_sample_and_ignore_the_wall_clock(sink, monkeypatch):
    mono = [1_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: mono[0])
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    episode = sink.episode()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    for _ in range(3):
        mono[0] += 10
        episode.add("a", 1)
        mono[0] += 1
        episode.add("b", 1)
    episode.close()
    stamps = sink.sealed[0].timestamps_ns
    assert stamps.dtype == np.int64
    assert stamps.tolist() == [5_000_010, 5_000_021, 5_000_032]


def test_declarations(sink):
    episode = sink.episode(features={"a": Feature("float32", unit="m")})
    episode.add("a", 1)
    episode.add("b", 2, feature_type=Feature("uint8"))
    episode.add("b", 3, feature_type=Feature("uint8"))
    with pytest.raises(FeatureError, match="first value only"):
        episode.add("b", 3, feature_type=Feature("int8"))
    with pytest.raises(FeatureError, match="'a'"):
        sink.episode(features={"a": Feature("float32")}).add("a", 1, feature_type=Feature("int8"))
    with pytest.raises(FeatureError, match="features="):
        episode.add("c", {"d": 1}, feature_type=Feature("int8"))
    episode.add("a", 2)
    episode.close()
    schema = sink.sealed[0].schema
    assert schema["a"] == Feature("float32", (), unit="m")
    assert schema["b"].dtype == "uint8"


def test_metadata_of_open_mark_and_close_in_that_order(sink):
    episode = sink.episode(metadata={"collector": "a", "n": 1}, task="pick up the cup")
    episode.mark(success=True, n=2)
    episode.mark(note="x")
    episode.close({"collector": "b", "control_hz": 5, "split": "val", "dataset": "lab"})
    (data,) = sink.sealed
    assert data.metadata == {"collector": "b", "n": 2, "task": "pick up the cup", "note": "x"}
    assert (data.success, data.control_hz, data.split, data.dataset) == (True, 5.0, "val", "lab")
    assert data.episode_id == "e1"


def test_metadata_that_cannot_be_kept_fails_at_its_call(sink):
    for bad in (
        {"bad": 1},
        {"control_hz": 0},
        {"control_hz": float("nan")},
        {"control_hz": "5"},
        {"success": "yes"},
        {"split": 1},
        3,
    ):
        with pytest.raises(MetadataError):
            sink.episode(metadata=bad)
        episode = sink.episode()
        with pytest.raises(MetadataError):
            episode.close(bad)
        assert not episode.closed
        if isinstance(bad, dict):
            with pytest.raises(MetadataError):
                episode.mark(**{"good": 1, **bad})
        episode.close()
    assert all(data.metadata == {} for data in sink.sealed)
    with pytest.raises(MetadataError, match="differ"):
        sink.episode(metadata={"task": "a"}, task="b")


def test_after_closing_every_call_says_so(sink):
    episode = sink.episode()
    episode.add("a", 1)
    assert episode.close() == "e1"
    assert episode.closed
    assert episode.num_steps == 1
    for call in (
        lambda: episode.add("a", 1),
        lambda: episode.add_step({"a": 1}),
        lambda: episode.mark(x=1),
        episode.close,
        episode.discard,
        episode.__enter__,
    ):
        with pytest.raises(EpisodeClosedError, match="episode e1 was closed before"):
            call()
    assert sink.saved == ["e1"]
    assert len(sink.sealed) == 1


def test_discard(sink):
    with sink.episode() as episode:
        episode.add("a", 1)
        episode.discard()
    assert sink.sealed == []
    assert sink.saved == []
    with pytest.raises(EpisodeClosedError, match="discarded"):
        episode.close()


def test_an_episode_without_steps_is_saved(sink):
    sink.episode().close()
    (data,) = sink.sealed
    assert data.num_steps == 0
    assert data.timestamps_ns.shape == (0,)
    assert len(data.schema) == 0


def interrupted(sink, error):
    """Return an episode of one step that an exception ended, after checking that it came out."""
    made = []

    def take():
        with sink.episode() as episode:
            made.append(episode)
            episode.add("a", 1)
            raise error

    with pytest.raises(error):
        take()
    return made[0]


def test_an_exception_inside_loses_nothing(sink):
    episode = interrupted(sink, KeyboardInterrupt)
    assert episode.closed
    assert sink.sealed[0].metadata == {"interrupted": "KeyboardInterrupt"}
    assert sink.sealed[0].num_steps == 1


def test_a_seal_that_fails_leaves_the_episode_open(sink):
    sink.error = OSError("disk full")
    episode = sink.episode()
    episode.add("a", 1)
    with pytest.raises(OSError, match="disk full"):
        episode.close({"x": 1})
    assert not episode.closed
    assert sink.saved == []
    sink.error = None
    episode.add("a", 2)
    episode.close()
    assert sink.sealed[0].num_steps == 2
    assert sink.sealed[0].metadata == {}


def test_the_users_exception_comes_out_even_where_saving_fails(sink, caplog):
    sink.error = OSError("disk full")
    episode = interrupted(sink, ZeroDivisionError)
    assert not episode.closed
    assert "could not be saved" in caplog.text
    episode.discard()


def test_unlike_rates_are_warned_about_with_the_remedy(sink):
    episode = sink.episode()
    for i in range(10):
        episode.add("fast", i)
        if i % 5 == 0:
            episode.add("slow", i)
    with pytest.warns(UserWarning, match=r"8 of 20 values \(40%\).*fast 10 .*slow 2 .*add_step"):
        episode.close()
    assert len(sink.sealed) == 1


def test_ten_per_cent_of_nulls_are_not_warned_about(sink, recwarn):
    episode = sink.episode()
    for i in range(5):
        episode.add("a", i)
        if i != 2:
            episode.add("b", i)
    episode.close()
    assert not recwarn.list


def test_a_name_of_no_file_is_text_with_one_warning(sink, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    episode = sink.episode()
    with pytest.warns(UserWarning, match=r"'arm_view': 'image1.jpg' names no file") as caught:
        episode.add(feature="arm_view", value="image1.jpg")
    episode.add(feature="arm_view", value="image2.jpg")  # a second warning would be an error here
    assert caught[0].filename == __file__
    episode.close()
    assert sink.sealed[0].columns["arm_view"].values.tolist() == ["image1.jpg", "image2.jpg"]


def test_an_episode_dropped_open_is_reported(sink, caplog):
    sink.kept = sink.episode()
    sink.kept.add("a", 1)
    with pytest.warns(ResourceWarning, match="never closed"):
        del sink.kept
    assert "e1 was never closed" in caplog.text


def test_repr_shows_features_counts_and_size(sink):
    episode = sink.episode()
    episode.add("image", PHOTO)
    episode.add("state", np.zeros(7, np.float32))
    text = repr(episode)
    assert "e1" in text
    assert "1 steps" in text
    assert "image uint8(48×64×3) jpeg ×1" in text
    assert "state float32(7) ×1" in text
    assert " MB" in text
    episode.close()
    assert "closed" in repr(episode)


def test_adds_from_several_threads_lose_nothing(sink):
    episode = sink.episode()

    def work(name):
        for i in range(200):
            episode.add_step({name: i})

    threads = [threading.Thread(target=work, args=(n,)) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.warns(UserWarning, match="add_step"):
        episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 800
    for column in data.columns.values():
        assert column.values[column.valid].tolist() == list(range(200))
    assert (np.diff(data.timestamps_ns) >= 0).all()


def test_bad_values_are_quarantined_where_asked_for(sink):
    episode = sink.episode(on_bad_value="quarantine")
    for number in range(10):
        episode.add_step({"joint": np.zeros(7 if number % 4 else 6), "image": PHOTO, "number": number})
        episode.add("note", None)
    for bad in ({3: 1}, {}):
        with pytest.raises(FeatureError):  # a call that is wrong in itself
            episode.add_step(bad)
    with pytest.raises(FeatureError, match="timestamps"):
        episode.add("joint", np.zeros(6), 5)
    with pytest.warns(
        UserWarning, match=r"^episode e1: 17 values were refused and left out: 10 of 'note', 7 of 'joint'\. The first: fea"
    ):
        episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 10
    assert list(data.schema) == ["joint", "image", "number"]
    assert np.flatnonzero(data.columns["joint"].mask).tolist() == [0, 4, 8]
    found = data.metadata["quarantined"]
    assert {name: mine["count"] for name, mine in found.items()} == {"note": 10, "joint": 7}
    assert "got float64 of shape (7,)" in found["joint"]["first_error"]
    assert "None is not a value" in found["note"]["first_error"]


def test_without_bad_values_nothing_is_said_of_them(sink, recwarn):
    with sink.episode(on_bad_value="quarantine") as episode:
        episode.add("a", 1)
    assert sink.sealed[0].metadata == {}
    assert not recwarn.list


FAST = [
    (0.5, 1.5),
    (1, 2),
    (True, False),
    (np.float32(1), np.float32(2)),
    (np.arange(3.0), np.arange(3.0) + 1),
    (np.arange(6, dtype=np.int16).reshape(2, 3), np.arange(12, dtype=np.int16).reshape(2, 6)[:, ::2]),
    ([0.5, 1.5], (2.5, 3.5)),
    ([True, False], [False, False]),
]


@pytest.mark.parametrize(("first", "then"), FAST)
def test_the_way_of_values_that_fit_gives_what_the_long_way_gives(sink, monkeypatch, first, then):
    for _ in range(2):
        episode = sink.episode()
        for value in (first, then, then):
            episode.add("a", value)
        channel = episode._held.channels["a"]
        assert channel.fits(then) == (len(sink.sealed) == 0)
        episode.close()
        monkeypatch.setattr(type(channel), "fits", lambda self, value: False)
    fast, slow = (data.columns["a"].values for data in sink.sealed)
    assert fast.dtype == slow.dtype
    assert fast.tobytes() == slow.tobytes()


@pytest.mark.parametrize(
    ("first", "odd"),
    [
        (0.5, 1),
        (0.5, True),
        (1, True),
        (1, 2**63),
        (np.zeros(3), [0.0, 1.0]),
        (np.zeros(3), [0.0, 1.0, 1]),
        (np.zeros(3), [0.0, True, 1.0]),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(3), np.zeros(3, ">f8")),
        (np.zeros(3), np.ma.zeros(3)),
        (np.zeros((2, 2)), [[0.0, 1.0], [1.0, 2.0]]),
        ([1, 2], [1, 2]),
        ("a", "b"),
        (PHOTO, PHOTO),
    ],
)
def test_other_values_go_the_long_way(sink, first, odd):
    episode = sink.episode()
    episode.add("a", first)
    assert not episode._held.channels["a"].fits(odd)
    episode.discard()


def test_a_value_that_fits_ends_the_widening_of_python_ints(sink):
    episode = sink.episode()
    for value in (0, np.int64(1)):
        episode.add("a", value)
    episode.add("a", np.int64(2))
    with pytest.raises(FeatureError, match="'a' is int64"):
        episode.add("a", 0.5)
    episode.discard()


def test_more_values_than_there_is_room_for_at_first(sink):
    with sink.episode() as episode:
        for number in range(1000):
            episode.add("a", number if number < 700 else number + 0.5)
            episode.add("b", np.full((2, 2), number, np.float32))
    (data,) = sink.sealed
    assert data.columns["a"].values.tolist() == [n if n < 700 else n + 0.5 for n in range(1000)]
    assert data.columns["b"].values[:, 1, 1].tolist() == list(range(1000))


class Interrupt:
    """Raises KeyboardInterrupt at one of the moments at which Ctrl-C may come: when a function begins, or one in C returned."""

    def __init__(self, moment):
        self.left = moment

    def __call__(self, frame, event, arg):
        if event in ("call", "c_return") and "fogx" in frame.f_code.co_filename:
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def during(self, add, *given, **named):
        """Call, and return whether it was interrupted."""
        sys.setprofile(self)
        try:
            add(*given, **named)
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False


PICTURES = [np.full((40, 40, 3), number, np.uint8) for number in range(9)]

LOOPS = {
    "a number": [("a", float(i)) for i in range(6)],
    "numbers that widen": [("a", i + 0.5 * (i > 3)) for i in range(6)],
    "two numbers": [(name, i) for i in range(3) for name in "ab"],
    "texts": [("a", f"text {i}") for i in range(6)],
    "texts that become large": [("a", f"{i} " * (1 + 9000 * (i > 3))) for i in range(6)],
    "images": [("a", picture) for picture in PICTURES[:6]],
    "parts": [("a", {"x": i, "y": f"{i}", "z": PICTURES[i]}) for i in range(4)],
}


@pytest.mark.parametrize("timed", [False, True], ids=["in order", "with times"])
@pytest.mark.parametrize("values", LOOPS.values(), ids=LOOPS)
def test_ctrl_c_in_the_middle_of_add_costs_no_other_value(values, timed):
    """Whenever it comes: the value of that call is there or not, and each other one is there, with its own time."""
    whole = recorded(values, timed, None, 0)
    for at in (0, len(values) - 2):
        for moment in itertools.count():
            found = recorded(values, timed, at, moment)
            if found is None:
                break
            number = sum(name == values[at][0] for name, _ in values[:at])
            for name, pairs in whole.items():
                assert found.get(name, []) in (pairs, pairs[:number] + pairs[number + 1 :]), (name, moment)
        assert moment > 5


def recorded(values, timed, at, moment):
    """Return (time, value) of each value that is kept, by feature; `None` where the call was not interrupted."""
    sink, interrupted = Sink(), at is None
    episode = sink.episode()
    for i, (name, value) in enumerate(values):
        given = {"timestamp": i} if timed else {}
        if i == at:
            interrupted = Interrupt(moment).during(episode.add, name, value, **given)
        else:
            episode.add(name, value, **given)
    with warnings.catch_warnings(action="ignore"):
        episode.close()
    data = sink.sealed[0]
    columns, times = (data.samples.columns, data.samples.stamps_ns) if data.samples else (data.columns, data.timestamps_ns)
    found = {}
    for name, column in columns.items():
        kept = [value if isinstance(value, (str, bytes)) else value.tolist() for value in column.values[column.mask]]
        found[name] = list(zip(times[column.mask].tolist() if timed else [None] * len(kept), kept, strict=True))
    return found if interrupted else None


def test_a_declaration_that_is_none_is_refused_and_leaves_the_episode_as_it_was(sink):
    episode = sink.episode()
    for feature_type in ("float32", {"dtype": "float32"}, np.float32):
        with pytest.raises(
            FeatureError, match=r"feature 'a': feature_type= is a fox.Feature\(dtype, shape\), found (str|dict|type)\."
        ):
            episode.add("a", 1.0, feature_type=feature_type)
    episode.add("a", 1.0, feature_type=Feature("float32"))
    episode.close()
    assert sink.sealed[0].columns["a"].values.tolist() == [1.0]


@pytest.mark.parametrize("unit", ["m", "NS", None, ["ns"]])
def test_a_unit_of_time_is_one_also_where_no_time_is_given(sink, unit):
    with sink.episode() as episode:
        for number in range(2):  # what has been added before goes another way
            for call in (
                lambda: episode.add("x", 1, time_unit=unit),
                lambda: episode.add_step({"x": 1}, time_unit=unit),
                lambda: episode.begin("a", time_unit=unit),
                lambda: episode.end("a", time_unit=unit),
            ):
                with pytest.raises(FeatureError, match="time_unit is one of ns, us, ms, s, found"):
                    call()
            episode.add("x", number, time_unit="s")
    assert sink.sealed[0].columns["x"].values.tolist() == [0, 1]
    assert sink.sealed[0].segments == ()


def test_a_task_is_text_whoever_gives_it(sink):
    for give in (lambda: sink.episode(task=3), lambda: sink.episode(metadata={"task": 3})):
        with pytest.raises(MetadataError, match=r"task= says in words .* found int"):
            give()
    episode = sink.episode(task="push")
    for give in (lambda: episode.mark(task=3, note="x"), lambda: episode.close({"task": 3})):
        with pytest.raises(MetadataError, match=r"task= says in words .* found int"):
            give()
    episode.mark(task="pull")
    episode.close()
    assert sink.sealed[0].metadata == {"task": "pull"}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "another thread adds"])
def test_a_forked_child_leaves_the_episode_of_its_parent_alone(sink, busy):
    episode = sink.episode()
    episode.add("x", 1)
    held, done = threading.Event(), threading.Event()

    def hold():
        with episode._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold if busy else held.set)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        refused = 0
        for call in (
            lambda: episode.add("x", 2),
            lambda: episode.add_step({"x": 2}),
            lambda: episode.mark(success=True),
            lambda: episode.begin("a"),
            lambda: episode.end("a"),
            lambda: episode.close(),
            lambda: episode.discard(),
            lambda: episode.__exit__(None, None, None),
        ):
            try:
                call()
            except EpisodeClosedError as error:
                refused += "was opened by process" in str(error) and "forked" in str(error)
        episode.__exit__(KeyError, KeyError("mine"), None)  # the child's own trouble is what it sees
        os._exit(refused if "another process" in repr(episode) and episode.closed and not sink.sealed else 99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 8
    done.set()
    thread.join()
    episode.add("x", 3)
    episode.close()
    assert sink.sealed[0].columns["x"].values.tolist() == [1, 3]


def test_an_episode_whose_end_was_interrupted_takes_nothing_more(sink, monkeypatch):
    episode = sink.episode()
    episode.add("x", 1)

    def interrupted(remove):
        raise KeyboardInterrupt

    monkeypatch.setattr(episode._held.frames, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        episode.close()
    with pytest.raises(EpisodeClosedError):
        episode.add("x", 2)
    assert sink.sealed[0].columns["x"].values.tolist() == [1]
