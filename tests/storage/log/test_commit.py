"""The episodes table: durable commits, many writers, edits that meet, versions, the format fence."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from fogx.errors import ConflictError, CorruptDataError, EpisodeNotFoundError, FormatVersionError, StorageError
from fogx.ids import new_id
from fogx.storage.files.stopwatch import Stopwatch
from fogx.storage.files.store import Store
from fogx.storage.log import delta, root
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.rows import BASE


def _row(episode_id=None, source_key=None, **metadata):
    row = dict.fromkeys(BASE.names) | {
        "episode_id": episode_id or new_id(),
        "dataset": "d",
        "num_steps": 1,
        "source_key": source_key,
    }
    del row["_extra"]
    return row | {"metadata": metadata}


def _log(path, create=True):
    store = Store(path)
    if create and not root.exists(store):
        root.create(store, "lab")
    return EpisodeLog(store)


def _column(log, name):
    return log.rows[name].to_pylist()


def test_appended_rows_are_there_again(tmp_path):
    log = _log(tmp_path)
    ids = log.append([_row(tag="a"), _row(score=1)], operation="record")
    again = _log(tmp_path, create=False)
    for handle in (log, again):
        assert _column(handle, "episode_id") == ids
        assert _column(handle, "tag") == ["a", None]
        assert _column(handle, "score") == [None, 1]
    assert again.name == "lab"
    assert len(again.root_id) == 32
    assert json.loads((tmp_path / "fogx.json").read_text())["root_id"] == again.root_id


def test_a_handle_sees_its_version_and_its_own_commits(tmp_path):
    a, b = _log(tmp_path), _log(tmp_path)
    (first,) = a.append([_row()], operation="record")
    assert _column(b, "episode_id") == []
    (second,) = b.append([_row(kind="x")], operation="record")
    assert _column(b, "episode_id") == [second]
    b.edit({"note": {first: "from b"}}, operation="tag")
    assert _column(b, "episode_id") == [second]
    b.refresh()
    assert _column(b, "episode_id") == [first, second]
    assert _column(b, "note") == ["from b", None]


def test_int_column_widens_and_no_value_changes(tmp_path):
    log, other = _log(tmp_path), _log(tmp_path)
    log.append([_row(score=3)], operation="record")
    other.refresh()
    log.append([_row(score=0.5)], operation="record")
    other.append([_row(score=7)], operation="record")
    log.refresh()
    assert _column(log, "score") == [3.0, 0.5, 7.0]
    assert log.rows.schema.field("score").type == "double"


def test_a_clash_is_told_once_where_columns_are_added_first(tmp_path):
    log = _log(tmp_path)
    with pytest.warns(UserWarning, match="'Tag' \\(str\\) beside 'tag'") as caught:
        (episode_id,) = log.append([_row(tag="a", Tag="b")], operation="record")
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="'N' \\(int\\) beside 'n'") as caught:
        log.edit({"n": {episode_id: 1}, "N": {episode_id: 2}}, operation="tag")
    assert len(caught) == 1
    assert json.loads(_column(log, "_extra")[0]) == {"Tag": "b", "N": 2}


def test_clashing_types_never_fail_a_commit(tmp_path):
    log = _log(tmp_path)
    log.append([_row(ok=True)], operation="record")
    with pytest.warns(UserWarning, match="ok"):
        log.append([_row(ok=0.5)], operation="record")
    assert _column(log, "ok") == [True, None]
    assert json.loads(_column(log, "_extra")[1]) == {"ok": 0.5}
    log.edit({"ok": {_column(log, "episode_id")[1]: False}}, operation="tag")
    assert _column(log, "ok") == [True, False]
    assert _column(EpisodeLog(log.store), "_extra") == [None, None]


@pytest.mark.filterwarnings("ignore:metadata of another type:UserWarning")
@pytest.mark.parametrize("first", ["text", 4])
def test_a_handle_sees_its_edit_where_another_made_the_same_one(tmp_path, first):
    log = _log(tmp_path)
    (episode_id,) = log.append([_row(n=1)], operation="record")
    log.edit({"n": {episode_id: "text" if first == 4 else 3}}, operation="tag")
    _log(tmp_path).edit({"n": {episode_id: first}}, operation="tag")
    log.edit({"n": {episode_id: first}}, operation="tag")
    for handle in (log, _log(tmp_path)):
        assert (_column(handle, "n"), _column(handle, "_extra")) == (
            ([None], ['{"n": "text"}']) if first == "text" else ([4], [None])
        )


def test_source_keys_are_imported_once(tmp_path):
    a, b = _log(tmp_path), _log(tmp_path)
    assert len(a.append([_row(source_key="s/0/0"), _row(source_key="s/0/1")], operation="load", sources=["s/0"])) == 2
    assert len(b.append([_row(source_key="s/0/1"), _row(source_key="s/0/2")], operation="load", sources=["s/0"])) == 1
    a.refresh()
    assert sorted(_column(a, "source_key")) == ["s/0/0", "s/0/1", "s/0/2"]


def test_a_commit_whose_answer_was_lost_is_not_doubled(tmp_path, monkeypatch):
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError

    log = _log(tmp_path)
    real, calls = DeltaTable.create_write_transaction, []

    def lossy(self, *args, **kwargs):
        real(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lossy)
    row = _row()
    assert log.append([row], operation="record") == [row["episode_id"]]
    assert len(calls) == 1
    assert _column(EpisodeLog(log.store), "episode_id") == [row["episode_id"]]


@pytest.mark.parametrize("column", ["a b", "episode_metadata/file_path", 'q"uote', "s'q", "a.b", "Größe", "x,y", "p=q", "select"])
def test_any_column_name_can_be_edited(tmp_path, column):
    log = _log(tmp_path)
    (first, second) = log.append([_row(**{column: "old"}), _row()], operation="record")
    log.edit({column: {first: "new", second: "it's"}}, operation="tag")
    log.edit({column: {first: None}}, operation="tag")
    assert _column(EpisodeLog(log.store), column) == [None, "it's"]


def test_edits_of_the_same_cell_meet(tmp_path):
    log = _log(tmp_path)
    (first, second) = log.append([_row(n=1), _row(n=1)], operation="record")
    other = _log(tmp_path)
    base = log.rows
    other.edit({"n": {first: 2}, "m": {second: "x"}}, operation="tag")
    with pytest.raises(ConflictError, match=rf"{first}\.n"):
        log.edit({"n": {first: 3, second: 5}}, operation="tag", base=base)
    assert _column(EpisodeLog(log.store), "n") == [2, 1]
    log.edit({"n": {second: 5}}, operation="tag", base=base)
    log.edit({"n": {first: 2}}, operation="tag", base=base)
    assert _column(EpisodeLog(log.store), "n") == [2, 5]
    assert _column(EpisodeLog(log.store), "m") == [None, "x"]


@pytest.mark.filterwarnings("ignore:metadata of another type")
def test_edits_meet_in_values_kept_apart_too(tmp_path):
    log = _log(tmp_path)
    (first,) = log.append([_row(n=1)], operation="record")
    base = log.rows
    log.edit({"n": {first: "text"}}, operation="tag")
    log.edit({"n": {first: "text"}}, operation="tag", base=base)  # it says so already
    with pytest.raises(ConflictError):
        log.edit({"n": {first: 2}}, operation="tag", base=base)
    log.edit({"n": {first: "other"}}, operation="tag", base=log.rows)
    with pytest.raises(ConflictError):
        log.edit({"n": {first: 2}}, operation="tag", base=base)


def test_segments_are_swapped_only_where_nothing_moved(tmp_path):
    log = _log(tmp_path)
    first, second = log.append([_row(n=1), _row(n=2)], operation="record")
    other, files = _log(tmp_path), [f"segments/{number:032x}.parquet" for number in range(3)]
    seen = log.rows_of([second, first])
    assert seen["episode_id"].to_pylist() == [first, second]
    other.edit({"n": {first: 5}}, operation="tag")
    assert log.resegment(seen, {first: files[0], second: files[0]}, operation="annotate") == []
    assert _column(log, "segments_file") == [files[0]] * 2
    version = log.version
    assert other.resegment(seen, {first: files[1]}, operation="annotate") == [first]
    fresh = other.rows_of([first, second])
    assert other.resegment(fresh, {first: None}, operation="remove segments") == []
    assert log.resegment(fresh, {first: files[2], second: files[2]}, operation="annotate") == [first]
    assert log.resegment(fresh, {second: files[2]}, operation="annotate") == []
    assert log.version == version + 2
    newest = EpisodeLog(log.store)
    assert _column(newest, "segments_file") == [None, files[2]]
    assert _column(newest, "n") == [5, 2]
    other.delete([first])
    with pytest.raises(EpisodeNotFoundError, match="1 of 2"):
        log.rows_of([first, second])
    assert log.resegment(fresh, {first: files[1]}, operation="annotate") == [first]


def test_old_files_of_segments_are_not_committed(tmp_path, monkeypatch):
    log = _log(tmp_path)
    (first,) = log.append([_row()], operation="record")
    began = Stopwatch()
    monkeypatch.setattr(Stopwatch, "elapsed_s", lambda self: 4 * 24 * 3600.0)
    with pytest.raises(StorageError, match="could take them for leftovers"):
        log.resegment(log.rows_of([first]), {first: f"segments/{0:032x}.parquet"}, operation="annotate", began=began)
    assert _column(EpisodeLog(log.store), "segments_file") == [None]


def test_edit_of_a_deleted_episode(tmp_path):
    log = _log(tmp_path)
    ids = log.append([_row(), _row()], operation="record")
    _log(tmp_path).delete(ids[:1])
    with pytest.raises(EpisodeNotFoundError, match="1 of 2"):
        log.edit({"n": dict.fromkeys(ids, 3)}, operation="tag")


def test_delete_and_old_versions(tmp_path):
    log = _log(tmp_path)
    ids = log.append([_row(), _row(), _row()], operation="record")
    before = log.version
    assert log.delete([ids[1], "absent"]) == 1
    assert _column(log, "episode_id") == [ids[0], ids[2]]
    assert _column(EpisodeLog(log.store), "episode_id") == [ids[0], ids[2]]
    assert _column(EpisodeLog(log.store, before), "episode_id") == ids
    operations = [entry["operation"] for entry in log.history()]
    assert operations == ["delete", "record", "create"]
    assert log.history()[0]["episodes"] == 1


def test_checkpoints_are_written_and_opened_from(tmp_path, monkeypatch):
    monkeypatch.setattr(delta, "UPKEEP_EVERY", 3)
    monkeypatch.setattr(delta, "_FILES_PER_TIER", 16)  # no merges, which are versions too
    log = _log(tmp_path)
    ids = [log.append([_row()], operation="record")[0] for _ in range(7)]
    folder = tmp_path / "episodes" / "_delta_log"
    assert {p.name for p in folder.glob("*.checkpoint.parquet")} == {f"{v:020d}.checkpoint.parquet" for v in (3, 6)}
    for version in range(6):
        (folder / f"{version:020d}.json").unlink()
    assert _column(_log(tmp_path, create=False), "episode_id") == ids


def test_a_newer_format_is_refused_with_what_to_do(tmp_path):
    log = _log(tmp_path)
    log.append([_row()], operation="record")
    late = _log(tmp_path)
    log.delta.table.alter.set_table_properties({"fogx.minWriterVersion": "3"}, raise_if_not_exists=False)
    assert len(EpisodeLog(log.store).rows) == 1
    with pytest.raises(FormatVersionError, match="pip install -U fogx"):
        late.append([_row()], operation="record")
    log.delta.table.alter.set_table_properties({"fogx.minReaderVersion": "2"}, raise_if_not_exists=False)
    with pytest.raises(FormatVersionError, match="format 2"):
        EpisodeLog(log.store)
    assert len(late.rows) == 1


def test_a_foreign_delta_table_is_not_touched(tmp_path):
    from deltalake import DeltaTable, Schema

    DeltaTable.create(str(tmp_path / "episodes"), Schema.from_arrow(BASE))
    with pytest.raises(FormatVersionError, match="not made by fogx"):
        EpisodeLog(Store(tmp_path))


def test_an_empty_log_entry_is_damage(tmp_path):
    log = _log(tmp_path)
    log.append([_row()], operation="record")
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    entry = tmp_path.parent / "copy" / "episodes" / "_delta_log" / f"{1:020d}.json"
    entry.write_bytes(b"")
    with pytest.raises(CorruptDataError, match=entry.name):
        EpisodeLog(Store(tmp_path.parent / "copy"))


def test_a_lost_table_file_is_named(tmp_path):
    _log(tmp_path).append([_row()], operation="record")
    (lost,) = (tmp_path / "episodes").glob("*.parquet")
    lost.unlink()
    with pytest.raises(CorruptDataError, match=lost.name):
        _log(tmp_path, create=False)


def test_bridge_sized_rows_stay_narrow(tmp_path):
    """An edit rewrites rows, so a row's width is what an edit costs."""
    log = _log(tmp_path)
    path = "/nfs/kun2/users/homer/datasets/bridge_data_all/numpy_256/bridge_data_v1/berkeley/toysink2_bww/put_cup/val/out.npy"
    keys = {f"episode_metadata/has_image_{i}": True for i in range(4)}
    rows = [
        _row(source_key=f"rlds:bridge_dataset/1.0.0/train/0/{i}", **{"episode_metadata/file_path": path}, **keys)
        for i in range(25)
    ]
    log.append(rows, operation="load")
    size = sum(p.stat().st_size for p in (tmp_path / "episodes").glob("*.parquet"))
    assert size / 25 < 1_000
    assert log.rows.nbytes / 25 < 1_000


def _append_many(path, start, count, key):
    log = _log(path, create=True)
    start.wait()
    for number in range(count):
        log.append([_row(writer=key, number=number, **{f"key_{key}": number})], operation="record")


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    """Four processes create the root, add a column each and append, while a fifth edits."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    writers = [context.Process(target=_append_many, args=(tmp_path, start, 8, key)) for key in range(4)]
    for writer in writers:
        writer.start()
    while not root.exists(Store(tmp_path)) and any(writer.is_alive() for writer in writers):
        pass
    edits = 0
    while any(writer.is_alive() for writer in writers):
        log = _log(tmp_path, create=False)
        ids = _column(log, "episode_id")
        if ids:
            log.edit({"edited": dict.fromkeys(ids, "yes")}, operation="tag")
            edits += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    final = _log(tmp_path, create=False)
    found = sorted(zip(_column(final, "writer"), _column(final, "number"), strict=True))
    assert found == [(key, number) for key in range(4) for number in range(8)]
    assert len({*_column(final, "episode_id")}) == 32
    for key in range(4):
        assert sorted(n for n in _column(final, f"key_{key}") if n is not None) == list(range(8))
    assert edits > 0


def _traced(tmp_path, script):
    """Run a script under strace and return its fsyncs, renames, links and opens-for-writing, in order, with paths."""
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,openat,write"
    command = ["strace", "-f", "-y", "-s", "0", "-e", calls, "-o", str(trace), sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return trace.read_text().splitlines()


@pytest.mark.usefixtures("strace")
def test_a_commit_is_synced_before_it_is_acknowledged(tmp_path):
    lines = _traced(
        tmp_path,
        """
        import os, numpy as np, fogx as fox
        dataset = fox.Dataset("root")
        dataset.new_episode().close()
        other = fox.Dataset("root")
        other.new_episode().close()
        os.write(1, b"mark")
        with dataset.new_episode() as episode:
            episode.add("state", np.zeros(3))
            episode.add("view", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
        os.write(1, b"acknowledged")
        """,
    )
    marks = [i for i, line in enumerate(lines) if re.search(r"write\(1<", line)]
    during = lines[marks[0] : marks[1]]
    synced = [(i, re.search(r"f(?:data)?sync\(\d+<([^>]+)>", line).group(1)) for i, line in enumerate(during) if "sync(" in line]
    named = [i for i, line in enumerate(during) if re.search(r"(rename|link)(at2?)?\(.*_delta_log/0+3\.json", line)]
    assert len(named) == 1, "one new log entry"
    before = {path for i, path in synced if i < named[0]}
    after = {path for i, path in synced if i > named[0]}
    for family in ("steps", "frames", "index"):
        files = {p for p in before if re.search(rf"/root/{family}/.*\.parquet$", p)}
        assert files, f"{family} file synced before the commit"
        assert {os.path.dirname(p) for p in files} <= before, f"folder of {family} synced"
    assert any(re.search(r"/root/episodes/[0-9a-f]{32}\.parquet", p) for p in before)
    log = tmp_path / "root" / "episodes" / "_delta_log"
    assert {str(log / f"{v:020d}.json") for v in (2, 3)} <= after, "its own entry and the other writer's before it"
    assert str(log) in after


@pytest.mark.usefixtures("strace")
def test_opening_syncs_nothing_and_reads_no_data_file(tmp_path):
    lines = _traced(
        tmp_path,
        """
        import os, numpy as np, fogx as fox
        dataset = fox.Dataset("root")
        dataset.new_episode().close()
        os.write(1, b"mark")
        again = fox.Dataset("root")
        repr(again), again._repr_html_(), len(again), again.get_episode_info()
        os.write(1, b"mark")
        """,
    )
    marks = [i for i, line in enumerate(lines) if re.search(r"write\(1<", line)]
    during = lines[marks[0] : marks[1]]
    assert not [line for line in during if "sync(" in line]
    assert not [line for line in during if re.search(r"/root/(steps|frames|streams|index)/", line)]
    assert [line for line in during if "/root/episodes/" in line]


def test_a_commit_after_which_the_log_does_not_answer(tmp_path, monkeypatch):
    log = _log(tmp_path)
    log.append([_row()], operation="record")
    row = _row()

    def fails():
        raise StorageError("no answer.")

    with monkeypatch.context() as patch:
        patch.setattr(log.delta, "update", fails)
        with pytest.raises(StorageError, match=r"record was committed, but.* no answer\."):
            log.append([row], operation="record")
    version = log.version
    assert log.append([row], operation="record") == [row["episode_id"]]
    assert log.version == version
    assert _column(_log(tmp_path), "episode_id").count(row["episode_id"]) == 1
