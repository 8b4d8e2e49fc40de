"""Frames are sealed into files as recording goes: invisible before the commit, journaled until they are safe, and never lost."""

import os
import re
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import fogx as fox
from fogx.errors import StorageError
from fogx.reading.episodes import locate, read_sound
from fogx.recording import frames
from fogx.storage.files.store import Store
from fogx.storage.tables.frames import FramesWriter
from tests.ageing import make_older

fox.config(progress=False)
MS = 1_000_000


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(frames, "SEAL_BYTES", 8_000)
    fox.config(journal_sync_s=3600)  # tests sync and seal themselves
    yield
    fox.config(journal_sync_s=1.0)


@pytest.fixture
def dataset(tmp_path):
    return fox.Dataset(tmp_path / "lab")


def image(number):
    """Return an image of about 3 kB as PNG, told by its first pixel."""
    made = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
    made[0, 0, 0] = number
    return made


def add(episode, numbers, names=("left", "right")):
    for number in numbers:
        episode.add_step({**{name: fox_png(image(number + 100 * (name == "right"))) for name in names}, "number": number})


def fox_png(array):
    from fogx.codecs.png import PngCodec

    return PngCodec().encode(array)


def seal(episode):
    """Do what the thread of the journal does each second."""
    episode._held.frames.encoding.drain()
    episode._journal.sync()
    episode._journal.seal()


def died(episode):
    """Leave the journal as a process that dies does."""
    episode._held.frames.encoding.drain()
    episode._journal.close(remove=False)
    episode._state = "gone"


def files(dataset, family="frames"):
    return sorted(str(path.relative_to(dataset.path)) for path in Path(dataset.path, family).rglob("*.parquet"))


def journals(dataset):
    return sorted(os.listdir(Path(dataset.path) / "journals"))


def numbers_of(view, name="left"):
    return [int(shown[0, 0, 0]) for shown in view[name]]


def newest(dataset):
    return fox.Dataset(dataset.path).episodes[-1]


def test_sealed_as_it_goes_is_what_would_have_been_saved_at_once(dataset, monkeypatch):
    episode = dataset.new_episode()
    for start in (0, 4, 8):
        add(episode, range(start, start + 4))
        seal(episode)
    assert len(files(dataset)) == 3
    assert [name.rpartition(".frames")[2] for name in journals(dataset) if "frames" in name] == []
    add(episode, range(12, 14))
    assert len(fox.Dataset(dataset.path)) == 0
    episode.close()
    assert not journals(dataset)
    monkeypatch.undo()
    with dataset.new_episode() as whole:
        add(whole, range(14))
    one, other = fox.Dataset(dataset.path).episodes
    assert len(files(dataset)) == 5
    assert numbers_of(one) == numbers_of(other) == list(range(14))
    assert numbers_of(one, "right") == list(range(100, 114))
    assert [place.first_frame for place in one._index.frames_of("left")] == [0, 4, 8, 12]
    assert fox.Dataset(dataset.path).check(deep=True).empty
    mine, theirs = (read_sound(member) for member in locate(fox.Dataset(dataset.path)._roots.chosen()))
    for name in mine.schema:
        assert mine.columns[name].values.tolist() == theirs.columns[name].values.tolist()


def test_timed_and_packed_again(dataset):
    for _ in range(2):
        episode = dataset.new_episode(align=fox.Align(rate_hz=100))
        for number in range(12):
            episode.add("left", fox_png(image(number)), number * 33 * MS)
            episode.add("joint", float(number), number * 33 * MS + MS)
            if number % 4 == 3:
                seal(episode)
        episode.close()
    before = numbers_of(newest(dataset))
    assert sorted(set(before)) == list(range(11))  # the last step is before the last image
    assert fox.Dataset(dataset.path).compact() == 2
    assert numbers_of(newest(dataset)) == before
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_the_thread_of_the_journal_seals(dataset):
    fox.config(journal_sync_s=0.01)
    with dataset.new_episode() as episode:
        for start in range(0, 40, 4):
            add(episode, range(start, start + 4))
            episode._held.frames.encoding.drain()
            while sum(part.nbytes for part in episode._held.frames._parts) >= frames.SEAL_BYTES:
                time.sleep(0.001)
    assert len(files(dataset)) >= 9
    assert numbers_of(newest(dataset)) == list(range(40))


def test_what_outgrows_steps_is_sealed_from_its_first_value_on(dataset):
    episode = dataset.new_episode()
    clouds = [np.random.default_rng(n).random((5 if n < 3 else 900, 3)) for n in range(6)]
    for number, cloud in enumerate(clouds):
        episode.add("cloud", cloud, number * MS, feature_type=fox.Feature("float64", (None, 3)))
        episode.add("gain", number if number < 2 else number + 0.5, number * MS)
        seal(episode)
    assert files(dataset)
    died(episode)
    assert fox.Dataset(dataset.path).recover()["values"].tolist() == [12]
    view = newest(dataset)
    assert [cloud.tolist() for cloud in view["cloud"]] == [cloud.tolist() for cloud in clouds]
    assert view["gain"].tolist() == [0, 1, 2.5, 3.5, 4.5, 5.5]


def test_recovered_from_values_that_outgrew_steps_in_part(dataset):
    """Killed while earlier values were on their way to `frames`: some are there, some are where they were."""
    episode = dataset.new_episode()
    clouds = [np.full((5, 3), n, np.float64) for n in range(4)]
    for number, cloud in enumerate(clouds):
        episode.add("cloud", cloud, number * MS, feature_type=fox.Feature("float64", (None, 3)))
    episode._journal.sync()
    episode.add("cloud", np.zeros((900, 3)), 4 * MS)
    died(episode)
    (part,) = [Path(dataset.path, "journals", name) for name in journals(dataset) if "frames" in name]
    whole = part.read_bytes()
    for keep in (len(whole) * 2 // 5, 0):
        part.write_bytes(whole[:keep])
        (listed,) = fox.Dataset(dataset.path).recover(dry_run=True)["outcome"]
        assert listed == "left"
    part.write_bytes(whole[: len(whole) * 2 // 5])
    fox.Dataset(dataset.path).recover()
    assert [cloud.tolist() for cloud in newest(dataset)["cloud"]] == [cloud.tolist() for cloud in clouds]


def test_discarded_episodes_leave_no_file(dataset):
    episode = dataset.new_episode()
    add(episode, range(8))
    seal(episode)
    assert files(dataset)
    episode.discard()
    assert not files(dataset)
    assert not journals(dataset)
    episode = dataset.new_episode()
    add(episode, range(8))
    seal(episode)
    died(episode)
    assert fox.Dataset(dataset.path).recover(dry_run=True)["values"].tolist() == [24]
    assert len(files(dataset)) == 1
    assert fox.Dataset(dataset.path).recover(discard=True)["outcome"].tolist() == ["discarded"]
    assert not files(dataset)
    assert not journals(dataset)


def test_recovery_takes_sealed_files_as_they_are(dataset):
    episode = dataset.new_episode()
    for start in (0, 4):
        add(episode, range(start, start + 4))
        seal(episode)
    add(episode, range(8, 10))
    died(episode)
    sealed = files(dataset)
    before = [Path(dataset.path, name).read_bytes() for name in sealed]
    found = fox.Dataset(dataset.path).recover()
    assert found[["outcome", "values", "unread"]].to_numpy().tolist() == [["saved", 30, 0]]
    assert set(sealed) < set(files(dataset))
    assert [Path(dataset.path, name).read_bytes() for name in sealed] == before
    view = newest(dataset)
    assert numbers_of(view) == view["number"].tolist() == list(range(10))
    assert fox.Dataset(dataset.path).check(deep=True).empty
    assert not journals(dataset)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_sealed_file_that_is_damaged_costs_its_frames_only(dataset, caplog, damage, which):
    episode, sealed = dataset.new_episode(), []
    for start in (0, 4, 8):
        add(episode, range(start, start + 4), ["left"])
        seal(episode)
        sealed += [name for name in files(dataset) if name not in sealed]
    add(episode, range(12, 14), ["left"])
    died(episode)
    path = Path(dataset.path, sealed[which])
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 3])
    else:
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    with pytest.warns(UserWarning, match="are missing") if damage != "flipped" else nullcontext():
        fox.Dataset(dataset.path).recover()
    assert "frames are lost" in caplog.text
    view = newest(dataset)
    assert view["number"].tolist() == list(range(14))
    data = read_sound(locate(fox.Dataset(dataset.path)._roots.chosen())[0])
    column = data.columns["left"]
    lost = set(np.flatnonzero(~column.mask).tolist())
    assert lost
    assert lost <= set(range(which * 4, which * 4 + 4))
    assert len(lost) == (4 if damage == "gone" else len(lost))
    assert len(lost) == (1 if damage == "flipped" else len(lost))
    shown = [int(view["left"][n, 0, 0, 0]) for n in range(14) if n not in lost]
    assert shown == [n for n in range(14) if n not in lost]
    assert fox.Dataset(dataset.path).check(deep=True).empty
    assert sealed[2] not in files(dataset)  # its frames have other numbers now
    assert (sealed[0] in files(dataset)) == (which == 1)


def test_killed_between_the_file_and_what_is_said_of_it(dataset, monkeypatch):
    episode = dataset.new_episode()
    add(episode, range(6))
    with monkeypatch.context() as patch:
        patch.setattr(type(episode._journal), "_event", lambda *_: None)
        patch.setattr(type(episode._held.frames), "clear", lambda *_: None)
        seal(episode)
    (orphan,) = files(dataset)
    died(episode)
    fox.Dataset(dataset.path).recover()
    assert numbers_of(newest(dataset)) == list(range(6))
    age(dataset)
    assert orphan in fox.Dataset(dataset.path).vacuum()["file"].tolist()
    assert numbers_of(fox.Dataset(dataset.path).episodes[0]) == list(range(6))


def test_killed_between_what_is_said_and_the_removal(dataset, monkeypatch):
    episode = dataset.new_episode()
    add(episode, range(6))
    with monkeypatch.context() as patch:
        patch.setattr(type(episode._held.frames), "clear", lambda *_: None)
        seal(episode)
    add(episode, range(6, 8))
    died(episode)
    (sealed,) = files(dataset)
    assert len([name for name in journals(dataset) if "frames" in name]) == 2
    assert fox.Dataset(dataset.path).recover(dry_run=True)["values"].tolist() == [24]
    fox.Dataset(dataset.path).recover()
    assert numbers_of(newest(dataset)) == list(range(8))
    assert sealed in files(dataset)
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_a_damaged_file_whose_part_is_still_there_costs_nothing(dataset, monkeypatch):
    episode = dataset.new_episode()
    add(episode, range(6))
    monkeypatch.setattr(type(episode._held.frames), "clear", lambda *_: None)
    seal(episode)
    died(episode)
    (sealed,) = files(dataset)
    Path(dataset.path, sealed).write_bytes(b"")
    fox.Dataset(dataset.path).recover()
    assert numbers_of(newest(dataset)) == list(range(6))
    assert sealed not in files(dataset)


def test_a_part_of_the_numbers_is_lost(dataset):
    """A damaged chunk of the journal costs what came in that second; frames after it are numbered anew."""
    episode = dataset.new_episode()
    for start in (0, 4, 8):
        add(episode, range(start, start + 4))
        seal(episode)
    died(episode)
    (journal,) = [Path(dataset.path, "journals", name) for name in journals(dataset)]
    data = bytearray(journal.read_bytes())
    at = [position for position in range(len(data)) if data.startswith(b"fogx/samples", position)]
    data[at[2]] ^= 1  # each chunk names it twice
    journal.write_bytes(data)
    found = fox.Dataset(dataset.path).recover()
    assert found["unread"][0] > 0
    view = newest(dataset)
    assert view["number"].tolist() == numbers_of(view) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_saved_before_its_journal_was_removed(dataset, monkeypatch):
    episode = dataset.new_episode()
    add(episode, range(6))
    seal(episode)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: (_ for _ in ()).throw(OSError("killed")))
        episode.close()
    for discard in (True, False):
        outcome = fox.Dataset(dataset.path).recover(discard=discard)["outcome"].tolist()
        assert outcome == (["saved before"] if discard else [])
        assert numbers_of(newest(dataset)) == list(range(6))
    assert not journals(dataset)


def age(dataset):
    with dataset.new_episode() as last:
        last.add("a", 1)
    make_older(dataset.path)


def test_vacuum_leaves_what_a_journal_names(dataset):
    """A recording may go on for weeks, and a journal wait as long."""
    open_one, dead = dataset.new_episode(), dataset.new_episode()
    for episode in (open_one, dead):
        add(episode, range(8))
        seal(episode)
    died(dead)
    age(dataset)
    fox.Dataset(dataset.path).vacuum()
    assert len(files(dataset)) == 2
    open_one.close()
    assert fox.Dataset(dataset.path).recover()["outcome"].tolist() == ["saved"]
    assert fox.Dataset(dataset.path).vacuum().empty
    for view in fox.Dataset(dataset.path).episodes[-2:]:
        if "left" in view.schema:
            assert numbers_of(view) == list(range(8))


@pytest.mark.parametrize(("owner", "name"), [(Store, "create"), (FramesWriter, "close"), (Store, "sync")])
def test_a_disk_that_fails_while_sealing(dataset, monkeypatch, owner, name):
    episode = dataset.new_episode()
    add(episode, range(4))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match=r"the frames of episode .* so far could not be written: .*No space left"):
            seal(episode)
    assert not files(dataset)
    died_so_far = list(journals(dataset))
    add(episode, range(4, 8))
    seal(episode)
    assert len(files(dataset)) == 1
    assert died_so_far != journals(dataset)
    add(episode, range(8, 9))
    episode.close()
    assert numbers_of(newest(dataset)) == list(range(9))
    assert fox.Dataset(dataset.path).check(deep=True).empty


def test_sealing_that_failed_before_the_process_died(dataset, monkeypatch):
    episode = dataset.new_episode()
    add(episode, range(4))
    monkeypatch.setattr(Store, "create", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StorageError, match="Input/output error"):
        seal(episode)
    add(episode, range(4, 6))
    died(episode)
    monkeypatch.undo()
    fox.Dataset(dataset.path).recover()
    assert numbers_of(newest(dataset)) == list(range(6))


def test_a_journal_of_frames_that_cannot_be_written_is_made_up_for(dataset, monkeypatch):
    episode, real = dataset.new_episode(), os.write
    add(episode, range(2))
    episode._held.frames.encoding.drain()
    short = iter([7])

    def full(handle, data):
        if (part := next(short, None)) is not None:
            return real(handle, bytes(data[:part]))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        add(episode, range(2, 4))
        episode._held.frames.encoding.drain()
        with pytest.raises(StorageError, match="No space left on device"):
            episode._journal.sync()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(StorageError, match="Input/output error"):
            episode._journal.sync()
    add(episode, range(4, 5))
    died(episode)
    assert fox.Dataset(dataset.path).recover()["unread"].tolist() == [0]
    assert numbers_of(newest(dataset)) == list(range(5))


def test_parts_whose_journal_is_gone_are_removed(dataset):
    episode = dataset.new_episode()
    add(episode, range(1))
    died(episode)
    (main,) = [name for name in journals(dataset) if "frames" not in name]
    os.unlink(Path(dataset.path, "journals", main))
    assert fox.Dataset(dataset.path).recover(dry_run=True).empty
    assert journals(dataset)
    assert fox.Dataset(dataset.path).recover().empty
    assert not journals(dataset)


def test_repr_and_progress(dataset, capsys, monkeypatch):
    from fogx.recording import episode as module

    monkeypatch.setattr(module, "_LONG_S", 0)
    fox.config(progress=True)
    try:
        episode = dataset.new_episode()
        add(episode, range(8))
        seal(episode)
        size = sum(Path(dataset.path, name).stat().st_size for name in files(dataset)) / 1e6
        assert re.search(rf"8 steps, \d\.\d s, {size:.1f} MB\): left uint8\(32×32×3\) png ×8 ", repr(episode))
        episode.close()
    finally:
        fox.config(progress=False)
    assert f"close {episode.episode_id}: 100%" in capsys.readouterr().err


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_a_remote_root_keeps_its_journal_on_this_machine_until_the_commit(s3_server, tmp_path, monkeypatch):
    """What lies in a bucket may be vacuumed by others, so all frames stay in the journal, and are sent again in a recovery."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    dataset = fox.Dataset(s3_server.make_bucket("lab") + "/arm")
    ends = []
    for end in ("closed", "died", "discarded"):
        episode = dataset.new_episode()
        for start in (0, 4):
            add(episode, range(start, start + 4))
            seal(episode)
        add(episode, range(8, 10))
        episode._held.frames.encoding.drain()
        assert len(list(tmp_path.rglob("*.frames-*.mcap"))) == 3
        sealed = {place.file.rpartition("/")[2] for place in episode._held.frames.sealed().places}
        assert len(sealed) == 2
        assert len(fox.Dataset(dataset.path)) == len(ends)
        if end == "closed":
            episode.close()
        elif end == "died":
            died(episode)
            assert fox.Dataset(dataset.path).recover()["outcome"].tolist() == ["saved"]
        else:
            episode.discard()
        there = dataset._roots.write.store.sizes("frames/dataset=arm").keys() & sealed
        assert there == (sealed if end == "closed" else set())
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        ends += [end] * (end != "discarded")
    for view in fox.Dataset(dataset.path).episodes:
        assert numbers_of(view) == view["number"].tolist() == list(range(10))
    assert fox.check(dataset.path, deep=True).empty
