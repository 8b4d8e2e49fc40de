"""Versions of the table: restored, pinned, fenced, and what vacuum leaves of them."""

import os
import pathlib
import time

import pytest

from fogx.errors import FormatVersionError, SelectionError, StorageError, UnknownNameError
from fogx.ids import new_id
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.files.store import Store
from fogx.storage.log import delta, root, versions
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.rows import BASE
from tests.ageing import make_older


def _row(**metadata):
    row = dict.fromkeys(BASE.names) | {"episode_id": new_id(), "dataset": "d", "num_steps": 1}
    del row["_extra"]
    return row | {"metadata": metadata}


@pytest.fixture
def log(tmp_path):
    store = Store(tmp_path)
    root.create(store, "lab")
    return EpisodeLog(store)


def _rows(log, version=None):
    return EpisodeLog(log.store, version).rows.select(["episode_id", "n"]).to_pylist()


def test_restore_brings_back_rows_and_is_itself_a_version(log):
    ids = log.append([_row(n=1), _row(n=2)], operation="record")
    then, rows = log.version, _rows(log)
    log.edit({"n": {ids[0]: 7}}, operation="tag")
    log.delete([ids[1]])
    log.append([_row(n=0.5)], operation="record")  # widens the column
    late = _rows(log)
    before = log.version
    assert log.restore(then) == 2
    assert log.rows["episode_id"].to_pylist() == ids
    assert _rows(log) == rows
    assert _rows(log, before) == late
    assert log.restore(before) == 2
    assert _rows(log) == late
    version = log.version
    assert log.restore(before) == 2
    assert log.version == version, "nothing to do is no commit"
    assert [entry["operation"] for entry in log.history()][:3] == ["restore", "restore", "record"]


@pytest.mark.parametrize("version", [-1, 99])
def test_restore_of_no_version(log, version):
    with pytest.raises(UnknownNameError, match="versions 0 to 0"):
        log.restore(version)


def test_pins(log):
    log.append([_row(n=1)], operation="record")
    log.pin("paper", 1)
    log.pin("start", 0)
    assert EpisodeLog(log.store).pins() == {"paper": 1, "start": 0}
    log.pin("paper", 2)
    log.pin("start", None)
    assert log.pins() == {"paper": 2}
    assert [entry["pins"] for entry in log.history()][-3:] == ["paper", "", ""]
    for wrong in ("", "../x", "3rd", "a b", "x" * 65):
        with pytest.raises(UnknownNameError, match="cannot name a pin"):
            log.pin(wrong, 1)
    with pytest.raises(UnknownNameError, match=r"no pin 'papr'.*Did you mean 'paper'"):
        log.pin("papr", None)
    with pytest.raises(UnknownNameError, match="versions 0 to"):
        log.pin("late", 99)


def test_vacuum_leaves_the_last_week_and_pins(log, tmp_path, monkeypatch):
    # Rows of this test name no index files; that part has its own test, with real episodes.
    monkeypatch.setattr("fogx.storage.log.vacuum.read_index", lambda *_: [])
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 4)
    (first,) = log.append([_row(n=0)], operation="record")
    for n in range(1, 12):
        log.edit({"n": {first: n}}, operation="tag")
    log.pin("kept", 6)
    wanted = {version: _rows(log, version) for version in (6, log.version)}
    make_older(tmp_path)
    old = log.version
    log.edit({"n": {first: 99}}, operation="tag")
    plan = log.vacuum(dry_run=True)
    names = {os.path.relpath(os.path.join(p, n), tmp_path) for p, _, ns in os.walk(tmp_path) for n in ns}
    assert {entry["file"] for entry in plan} <= names
    assert log.vacuum() == [{**entry, "age_s": pytest.approx(entry["age_s"], abs=60)} for entry in plan]
    left = {os.path.relpath(os.path.join(p, n), tmp_path) for p, _, ns in os.walk(tmp_path) for n in ns}
    assert names - {entry["file"] for entry in plan} <= left
    assert {entry["file"] for entry in plan}.isdisjoint(left)
    assert f"{root.LOG_FOLDER}/{root.entry(0)}" not in left, "old log entries went"
    for version, rows in wanted.items():
        assert _rows(log, version) == rows
    assert _rows(log)[0]["n"] == 99
    assert log.vacuum() == []
    assert versions.oldest_kept(EpisodeLog(log.store).delta) == old
    for gone in (0, 5, old - 1):
        with pytest.raises(UnknownNameError, match=r"vacuum\(\) did not keep"):
            versions.check_kept(log.delta, gone)
        with pytest.raises(UnknownNameError, match="kept"):
            log.pin("late", gone)
    log.pin("kept", None)
    make_older(tmp_path)
    assert log.vacuum()
    with pytest.raises(UnknownNameError):
        log.restore(6)
    assert _rows(log)[0]["n"] == 99


def test_history_is_right_after_a_vacuum_that_was_cut_short(log, tmp_path, monkeypatch):
    monkeypatch.setattr("fogx.storage.log.vacuum.read_index", lambda *_: [])
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 4)
    for n in range(10):
        log.append([_row(n=n)], operation=f"record {n}")
    make_older(tmp_path)
    log.append([_row(n=10)], operation="late")
    wanted = log.history()
    gone = []
    monkeypatch.setattr(Store, "unlink", lambda store, name: gone.append(name) if name.endswith(".json") else None)
    log.vacuum()
    assert len(gone) > 3
    assert gone == sorted(gone), "the oldest entry goes first"
    for name in gone[1::2]:
        (tmp_path / name).unlink()
    found = log.history()
    oldest = versions.oldest_kept(log.delta)
    assert found[0]["operation"] == "vacuum"
    assert found[1:] == [commit for commit in wanted if commit["version"] >= oldest]


def test_vacuum_refuses_less_than_the_safe_age(log):
    with pytest.raises(SelectionError, match="safe age"):
        log.vacuum(60)
    with pytest.raises(SelectionError, match="safe age"):
        log.vacuum(float("nan"))


def test_files_that_vacuum_could_take_are_not_committed(log, monkeypatch):
    began = Stopwatch()
    monkeypatch.setattr(time, "time", lambda: 1e9 + 4 * 24 * 3600)
    began._wall_s = 1e9
    with pytest.raises(StorageError, match="save these episodes again"):
        log.append([_row()], operation="record", began=began)
    assert log.rows.num_rows == 0
    began._wall_s = 1e9 + 2 * 24 * 3600
    assert log.append([_row()], operation="record", began=began)


def test_migrate_fences_older_writers(log):
    log.delta.set_properties({"fogx.minWriterVersion": "1"}, "as an older fogx made it")
    late = EpisodeLog(log.store)
    with pytest.raises(FormatVersionError, match=r"migrate\(\)"):
        log.vacuum()
    assert log.migrate() == (1, 2)
    assert log.migrate() == (2, 2)
    assert log.vacuum() == []
    # What an older fogx began before is refused by Delta Lake itself.
    from deltalake import Schema
    from deltalake.exceptions import CommitFailedError

    with pytest.raises(CommitFailedError, match="Metadata changed"):
        late.delta.table.create_write_transaction([], "append", Schema.from_arrow(BASE))


def test_small_files_are_merged_and_nothing_moves(log, monkeypatch):
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 8)
    ids = [log.append([_row(n=n)], operation="record")[0] for n in range(100)]
    assert len(log.delta.names()) < 40
    assert EpisodeLog(log.store).rows["n"].to_pylist() == list(range(100)) == log.rows["n"].to_pylist()
    assert EpisodeLog(log.store).rows["episode_id"].to_pylist() == ids
    assert EpisodeLog(log.store, 20).rows.num_rows <= 20


@pytest.mark.parametrize("by", ["the same process", "another process"])
def test_a_failed_sync_is_mended_by_a_checkpoint(log, monkeypatch, by):
    """After a failed fsync the kernel may say yes to the next one though the bytes are lost."""
    row = _row(n=1)
    real = root.fsync_files

    def fail(paths):
        if any(path.endswith(".json") for path in list(paths)):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(root, "fsync_files", fail)
    with pytest.raises(StorageError, match=r"could not be synced to disk: .*Input/output"):
        log.append([row], operation="record")
    monkeypatch.setattr(root, "fsync_files", real)
    folder = f"{log.store.root}/{root.LOG_FOLDER}"
    assert not [name for name in os.listdir(folder) if "checkpoint" in name]
    if by == "the same process":
        os.unlink(f"{folder}/{root.IN_DOUBT}")  # it remembers, also where the disk took no note
    else:
        log = EpisodeLog(log.store)
    assert log.append([row], operation="record") == [row["episode_id"]]
    assert root.IN_DOUBT not in os.listdir(folder)
    (checkpoint,) = [name for name in os.listdir(folder) if name.endswith(".checkpoint.parquet")]
    for version in range(int(checkpoint[:20]) + 1):
        os.unlink(f"{folder}/{root.entry(version)}")
    assert EpisodeLog(log.store).rows["episode_id"].to_pylist() == [row["episode_id"]]


def test_a_log_that_lost_bytes_makes_no_checkpoint(log, monkeypatch):
    """A checkpoint of what the disk has, where it lost an entry, would acknowledge that loss."""
    row = _row()
    monkeypatch.setattr(root, "fsync_files", lambda paths: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(StorageError):
        log.append([row], operation="record")
    monkeypatch.undo()
    with open(f"{log.store.root}/{root.LOG_FOLDER}/{root.entry(1)}", "wb"):
        pass  # the page that could not be written was dropped
    with pytest.raises(StorageError, match="no longer what was committed"):
        log.append([row], operation="record")


@pytest.mark.parametrize("broken", ["scratch", "write", "torn"])
def test_a_checkpoint_that_fails_leaves_the_commit(log, monkeypatch, caplog, broken):
    from deltalake import DeltaTable

    monkeypatch.setattr(delta, "UPKEEP_EVERY", 2)
    real = DeltaTable.create_checkpoint

    def fail(*args):
        raise OSError(28, "No space left on device")

    def tear(table):
        real(table)
        (made,) = pathlib.Path(table.table_uri.removeprefix("file://")).glob("_delta_log/*.checkpoint.parquet")
        made.write_bytes(made.read_bytes()[:1000])

    if broken == "write":
        monkeypatch.setattr(delta, "write_whole", fail)
    else:
        monkeypatch.setattr(DeltaTable, "create_checkpoint", fail if broken == "scratch" else tear)
    ids = [log.append([_row(n=n)], operation="record")[0] for n in range(2)]
    assert "the checkpoint of version 2 failed and was left out" in caplog.text
    names = os.listdir(f"{log.store.root}/{root.LOG_FOLDER}")
    assert not [name for name in names if "checkpoint" in name]
    assert not [name for name in os.listdir(f"{log.store.root}/episodes") if name.endswith(".tmp")]
    assert EpisodeLog(log.store).rows["episode_id"].to_pylist() == ids
    monkeypatch.undo()
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 2)
    for n in range(2):
        log.append([_row(n=n)], operation="record")
    assert root.last_checkpoint(log.store) == 4


@pytest.mark.parametrize("content", [b"", b'{"version":4,"si', bytes(64), None])
def test_the_note_that_names_the_checkpoint_is_only_a_hint(log, monkeypatch, content):
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 2)
    ids = [log.append([_row(n=n)], operation="record")[0] for n in range(5)]
    note = pathlib.Path(log.store.root, root.LOG_FOLDER, root.LAST_CHECKPOINT)
    note.unlink()
    if content is not None:
        note.write_bytes(content)
    again = EpisodeLog(log.store)
    assert again.rows["episode_id"].to_pylist() == ids
    ids += [again.append([_row(n=n)], operation="record")[0] for n in range(3)]
    assert EpisodeLog(log.store).rows["episode_id"].to_pylist() == ids


@pytest.mark.parametrize("age", ["x", [], object()])
def test_vacuum_refuses_what_is_no_age(log, age):
    with pytest.raises(SelectionError, match="no number of seconds"):
        log.vacuum(age)
