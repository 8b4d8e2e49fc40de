"""What was recorded survives the process: journals are read up to their last sync, and no further than they are right."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from mcap.exceptions import EndOfFile
from mcap.stream_reader import StreamReader

import fogx as fox
from fogx.errors import CorruptDataError, StorageError
from fogx.recording.journal import Journal, Rows, Values
from fogx.recording.recovery import Left, Taken, read

fox.config(progress=False)
MS = 1_000_000

VALUES = {
    "number": 3,
    "float": 0.5,
    "text": "grasp",
    "bytes": b"\x00\x01",
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "words": ["a", "bc"],
    "blobs": [b"a\xff", b"bc"],
    "same": [b"ab", b"cd"],
    "flag": True,
    "cam": np.random.default_rng(0).integers(0, 255, (40, 32, 3), np.uint8),
    "cloud": np.random.default_rng(0).random((2000, 3)),
}


def left_behind(dataset, add, metadata=None, **options):
    """Record, and leave the journal as a process that dies after a sync does."""
    episode = dataset.new_episode(metadata, **options)
    add(episode)
    episode._held.frames.encoding.drain()
    episode._journal.close(remove=False)
    episode._state = "gone"
    return episode.episode_id


def files_of(root):
    """Return the bytes and the time of all files of a root, by name."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def everything(episode, rounds=3):
    for turn in range(rounds):
        for name, value in VALUES.items():
            episode.add(name, value, None if turn is None else turn * 10 * MS)


def same(one, other):
    assert one.num_steps == other.num_steps
    assert dict(one.schema) == dict(other.schema)
    for name in one.schema:
        mine, theirs = one[name], other[name]
        assert np.asarray(mine).tolist() == np.asarray(theirs).tolist()


def test_what_is_recovered_is_what_close_would_have_saved(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    left_behind(dataset, everything, {"operator": "ana", "intrinsics": np.eye(3)}, task="put")
    with dataset.new_episode() as episode:
        everything(episode)
    found = fox.Dataset(dataset.path).recover()
    assert found["outcome"].tolist() == ["saved"]
    assert found["values"].tolist() == [3 * len(VALUES)]
    assert found["unread"].tolist() == [0]
    dataset = fox.Dataset(dataset.path)
    info = dataset.get_episode_info()
    recovered = info["episode_id"] == found["episode_id"][0]
    assert info["operator"][recovered].tolist() == ["ana"]
    assert info["task"][recovered].tolist() == ["put"]
    assert info["interrupted"][recovered].tolist() == ["process died"]
    one, other = dataset.read_by(info[recovered])[0], dataset.read_by(info[~recovered])[0]
    same(one, other)
    assert one.metadata["intrinsics"].tolist() == np.eye(3).tolist()
    assert dataset.check(deep=True).empty
    assert not os.listdir(tmp_path / "lab" / "journals")
    assert dataset.recover().empty


@pytest.mark.parametrize("align", [None, fox.Align(rate_hz=1)])
def test_without_times_and_with_a_policy(tmp_path, align):
    def add(episode):
        for i in range(5):
            episode.add("a", i)
            episode.add("a" if i == 2 else "b", i + (0.5 if i > 3 else 0))

    dataset = fox.Dataset(tmp_path / "lab")
    left_behind(dataset, add, align=align)
    with pytest.warns(UserWarning, match="unlike rates" if align is None else "missing after alignment"):
        dataset.recover()
    (view,) = fox.Dataset(dataset.path).episodes
    if align is None:
        assert view["a"].tolist() == [0, 1, 2, 2, 3, 4]
    assert view.schema["b"].dtype == "float64"


def test_a_recording_that_goes_on_is_left_alone(tmp_path, caplog):
    dataset = fox.Dataset(tmp_path / "lab")
    episode = dataset.new_episode()
    episode.add("a", 1)
    found = fox.Dataset(dataset.path).recover()
    assert found["outcome"].tolist() == ["recording"]
    assert not caplog.records
    episode.close()
    assert len(fox.Dataset(dataset.path)) == 1
    assert not os.listdir(tmp_path / "lab" / "journals")


def test_opening_says_so_and_discarding_removes(tmp_path, caplog):
    dataset = fox.Dataset(tmp_path / "lab")
    left_behind(dataset, everything)
    again = fox.Dataset(dataset.path)
    assert "1 recording(s) were open when their process died; recover()" in caplog.text
    before = files_of(tmp_path / "lab")
    listed = again.recover(dry_run=True)
    assert listed["outcome"].tolist() == ["left"]
    assert listed["values"].tolist() == [3 * len(VALUES)]
    assert again.recover(discard=True, dry_run=True).equals(listed)
    assert files_of(tmp_path / "lab") == before
    assert again.recover(discard=True)["outcome"].tolist() == ["discarded"]
    assert again.recover().empty
    assert len(fox.Dataset(dataset.path)) == 0


def test_values_of_a_feature_that_became_large_are_counted_once(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")

    def add(episode):
        for i in range(6):
            episode.add("note", f"{i} " * (1 if i < 4 else 20_000))
            if i == 3:
                episode._journal.sync()

    left_behind(dataset, add)
    assert dataset.recover(dry_run=True)["values"].tolist() == dataset.recover()["values"].tolist() == [6]


def test_killed_between_commit_and_clean_up_doubles_nothing(tmp_path, monkeypatch):
    dataset = fox.Dataset(tmp_path / "lab")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(OSError("killed")) if path.endswith(".mcap") else None)
        with dataset.new_episode() as episode:
            everything(episode)
    assert len(os.listdir(tmp_path / "lab" / "journals")) == 2
    assert fox.Dataset(dataset.path).recover()["outcome"].tolist() == ["saved before"]
    assert not os.listdir(tmp_path / "lab" / "journals")
    assert len(fox.Dataset(dataset.path)) == 1


def test_discarded_leaves_no_journal(tmp_path):
    episode = fox.Dataset(tmp_path / "lab").new_episode()
    episode.add("a", 1)
    assert len(os.listdir(tmp_path / "lab" / "journals")) == 1
    episode.discard()
    assert not os.listdir(tmp_path / "lab" / "journals")


class News:
    """Stands for an episode: ints of a feature, one a sample."""

    def __init__(self, journal):
        self.values = []
        self.told = 0
        journal._news = self.news

    def news(self):
        first, self.told = self.told, len(self.values)
        if first == self.told:
            return []
        numbers = np.arange(first, self.told)
        feature = fox.Feature("int64", ())
        return [
            Rows(first, numbers, numbers, numbers, False, False),
            Values("a", feature, numbers, np.array(self.values[first:])),
        ]


def small_journal(folder, syncs=3):
    """Return a journal's path, its bytes, its values, and (length, values) after each sync."""
    journal = Journal.create(str(folder), "0" * 32, None, {})
    news, marks = News(journal), []
    for sync in range(syncs):
        news.values += range(sync * 10, sync * 10 + 4)
        journal.sync()
        marks.append((os.path.getsize(journal.path), len(news.values)))
    journal.close(remove=False)
    with open(journal.path, "rb") as file:
        return journal.path, file.read(), news.values, marks


def read_all(path):
    left = Left(path)
    return [number for part in read(left) if isinstance(part, Values) for number in part.values.tolist()], left


def test_cut_at_any_byte(tmp_path):
    path, whole, values, marks = small_journal(tmp_path)
    assert read_all(path)[0] == values
    for length in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:length])
        found, left = read_all(path)
        there = max([count for size, count in marks if size <= length], default=0)
        assert found == values[:there]
        assert length < 8 or (left.unread == 0) == (length in [8, *range(0), *boundaries(whole)])


def boundaries(whole):
    """Return the lengths at which a record ends."""
    ends, at = [8], 8
    while at < len(whole):
        at += 9 + int.from_bytes(whole[at + 1 : at + 9], "little")
        ends.append(at)
    return ends


def test_any_byte_flipped(tmp_path):
    path, whole, values, _ = small_journal(tmp_path)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        with open(path, "wb") as file:
            file.write(damaged)
        found, _ = read_all(path)
        chunks = {tuple(values[i : i + 4]) for i in range(0, len(values), 4)}
        kept = [tuple(found[i : i + 4]) for i in range(0, len(found), 4)]
        assert set(kept) <= chunks
        assert kept == sorted(kept)


def test_a_full_disk_is_told_and_made_up_for(tmp_path, monkeypatch):
    journal = Journal.create(str(tmp_path), "0" * 32, None, {})
    news, real = News(journal), os.write
    news.values.append(1)
    calls = iter([5])

    def full(handle, data):
        # A short write, then none at all.
        if (part := next(calls, None)) is not None:
            return real(handle, bytes(data[:part]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left on device"):
            journal.sync()
    news.values.append(2)
    journal.sync()
    journal.close(remove=False)
    assert read_all(journal.path)[0] == [1, 2]


def test_a_failed_fsync_is_written_again(tmp_path, monkeypatch):
    journal = Journal.create(str(tmp_path), "0" * 32, None, {})
    News(journal).values.append(1)
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(StorageError, match="Input/output error"):
            journal.sync()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: written.append(os.lseek(handle, 0, 1)) or real(handle, data))
    before = journal._written
    journal.sync()
    assert written == [before]
    journal.close(remove=False)
    assert read_all(journal.path)[0] == [1]


def test_a_journal_of_which_nothing_can_be_read_stays_and_stops_no_other(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    paths = []
    for _ in range(2):
        left_behind(dataset, lambda episode: episode.add("a", 1))
        paths += sorted(set((tmp_path / "lab" / "journals").iterdir()) - set(paths))
    damaged = bytearray(paths[0].read_bytes())
    damaged[3] ^= 1
    paths[0].write_bytes(damaged)
    found = dataset.recover()
    assert found["outcome"].tolist() == ["unreadable", "saved"]
    assert found["unread"].tolist() == [len(damaged), 0]
    assert dataset.recover(discard=True, dry_run=True)["outcome"].tolist() == ["left"]
    assert paths[0].read_bytes() == damaged
    assert dataset.recover(discard=True)["outcome"].tolist() == ["discarded"]
    assert not paths[0].exists()


def test_a_dry_run_removes_nothing_that_cannot_be_read(tmp_path, monkeypatch):
    dataset = fox.Dataset(tmp_path / "lab")
    left_behind(dataset, lambda episode: episode.add("a", 1))
    before = files_of(tmp_path / "lab")

    def refuse(taken):
        raise CorruptDataError("nonsense")

    monkeypatch.setattr(Taken, "_values", refuse)
    for discard in (False, True):
        assert dataset.recover(discard=discard, dry_run=True)["outcome"].tolist() == ["unreadable"]
        assert files_of(tmp_path / "lab") == before
    assert dataset.recover(discard=True)["outcome"].tolist() == ["discarded"]
    assert not list((tmp_path / "lab" / "journals").iterdir())


def test_foxglove_s_own_reader_opens_it(tmp_path):
    path, _, values, _ = small_journal(tmp_path)
    topics, count = set(), 0
    with open(path, "rb") as file, suppress(EndOfFile):  # a journal has no end of its own
        for record in StreamReader(file, validate_crcs=True).records:
            topics |= {record.topic} if type(record).__name__ == "Channel" else set()
            count += type(record).__name__ == "Message"
    assert topics == {"a", "fogx/events", "fogx/samples"}
    assert len(values) == 12
    assert count == 1 + 2 * 3


CHILD = """
    import sys, numpy as np, fogx as fox
    fox.config(progress=False)
    episode = fox.Dataset(sys.argv[1]).new_episode(align=fox.Align(reference="a"))
    for i in range(10**6):
        episode.add("a", i, i * 1_000_000)
        if i % 10 == 0:
            episode.add("cam", np.full((32, 32, 3), i // 10 % 256, np.uint8), i * 1_000_000)
        if i and i % 500 == 0:
            episode._held.frames.encoding.drain()  # what waits to be encoded is not in the journal yet
            episode._journal.sync()
            print(i, flush=True)
"""


def kill_and_recover(root, acknowledged):
    """Kill a recording process once it said that so many values are on disk."""
    code = textwrap.dedent(CHILD)
    with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= acknowledged:
                break
        process.send_signal(signal.SIGKILL)
        said = max([int(line), *(int(more) for more in process.stdout if more.endswith("\\n"))])
    found = fox.Dataset(root).recover()
    assert found["outcome"].tolist() == ["saved"]
    dataset = fox.Dataset(root)
    view = dataset.episodes[-1]
    numbers = view["a"].tolist()
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > said
    shown = [view["cam"][i, 0, 0, 0] for i in range(0, said, 37)]
    assert shown == [i // 10 % 256 for i in range(0, said, 37)]
    assert dataset.check(deep=True).empty


def test_a_killed_process_loses_nothing_that_was_synced(tmp_path):
    kill_and_recover(tmp_path / "lab", 1500)


@pytest.mark.long
@pytest.mark.parametrize("acknowledged", range(500, 25_500, 500))
def test_processes_killed_at_any_time(tmp_path, acknowledged):
    kill_and_recover(tmp_path / "lab", acknowledged)


def test_a_forked_child_does_not_touch_it(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    episode = dataset.new_episode()
    episode.add("a", 1)
    pid = os.fork()
    if pid == 0:
        episode._journal.sync()
        episode._journal.close(remove=True)
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(os.listdir(tmp_path / "lab" / "journals")) == 1
    episode.add("a", 2)
    episode.close()
    assert fox.Dataset(dataset.path).episodes[0]["a"].tolist() == [1, 2]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "journals").write_text("in the way")
    episode = fox.Dataset(tmp_path / "lab").new_episode()
    with pytest.raises(StorageError, match="the journal of an episode could not be begun"):
        episode.add("a", 1)
    assert episode.num_steps == 0


def test_a_folder_of_journals_that_is_a_link_out_of_the_root(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lab" / "journals").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptDataError, match="journals is a link that leaves"):
        fox.Dataset(tmp_path / "lab")
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_journal_that_contradicts_itself_is_told_and_kept(tmp_path, caplog):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode() as episode:
        episode.add("a", 1)
    journal = Journal.create(str(tmp_path / "lab" / "journals"), "0" * 32, {"rate_hz": -1}, {})
    News(journal).values.append(1)
    journal.close(remove=False)
    assert fox.Dataset(dataset.path).recover()["outcome"].tolist() == ["unreadable"]
    assert f"{'0' * 32}.mcap cannot be read: no alignment that fogx writes" in caplog.text
    assert len(os.listdir(tmp_path / "lab" / "journals")) == 1
    assert fox.Dataset(dataset.path).recover(discard=True)["outcome"].tolist() == ["discarded"]


def test_metadata_of_any_kind_is_recovered(tmp_path):
    metadata = {
        "raw": b"\x00\xff",
        "small": np.float32(1.5),
        "none": pd.NA,
        "nested": {"a": [1, 2]},
        "number": 3,
        "text": np.str_("é"),
    }
    dataset = fox.Dataset(tmp_path / "lab")

    def add(episode):
        episode.add("a", 1)
        episode.mark(success=True, later=b"x")

    left_behind(dataset, add, metadata)
    with dataset.new_episode(metadata) as episode:
        add(episode)
    dataset.recover()
    dataset = fox.Dataset(dataset.path)
    info = dataset.get_episode_info()
    assert info["raw"].tolist() == [b"\x00\xff"] * 2
    assert info["later"].tolist() == [b"x"] * 2
    assert info["small"].tolist() == [1.5] * 2
    assert info["number"].tolist() == [3] * 2
    assert info["text"].tolist() == ["é"] * 2
    assert info["success"].tolist() == [True] * 2
    assert "_extra" not in info
    assert [view.metadata["nested"] for view in dataset.episodes] == [{"a": [1, 2]}] * 2


def test_a_journal_that_another_process_looks_at_is_begun_all_the_same(tmp_path, monkeypatch):
    """It is looked at, and taken for dead and removed, between its creation and its lock."""
    real, steps = fcntl.flock, iter(["removed", "looked at"])

    def flock(handle, operation):
        if (step := next(steps, None)) == "removed":
            os.unlink(tmp_path / ("0" * 32 + ".mcap"))
        elif step == "looked at":
            other = os.open(tmp_path / ("0" * 32 + ".mcap"), os.O_RDWR)
            real(other, fcntl.LOCK_EX)
            threading.Timer(0.05, os.close, [other]).start()
        return real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    journal = Journal.create(str(tmp_path), "0" * 32, None, {})
    News(journal).values.append(1)
    journal.close(remove=False)
    assert read_all(journal.path)[0] == [1]


def test_each_refused_value_costs_the_journal_little_whatever_the_metadata(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    given = {"calibration": np.random.default_rng(0).random(100_000), "operator": "ana"}

    def add(episode):
        episode.add("joint", 0.5)
        episode.mark(success=True)
        for _ in range(20):
            episode.add("joint", "broken")
        episode.mark(weather="rain")

    left_behind(dataset, add, given, on_bad_value="quarantine")
    (journal,) = (tmp_path / "lab" / "journals").glob("*.mcap")
    assert journal.stat().st_size < 3 * given["calibration"].nbytes
    dataset.recover()
    found = dataset.refresh().episodes[0].metadata
    assert found["quarantined"]["joint"]["count"] == 20
    assert found["calibration"].tolist() == given["calibration"].tolist()
    assert (found["operator"], found["success"], found["weather"]) == ("ana", True, "rain")
