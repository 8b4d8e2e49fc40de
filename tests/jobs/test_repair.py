"""What repair leaves is sound, what was sound is untouched, and nothing is deleted."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import CorruptDataError, ReadOnlyError
from fogx.storage.files.store import Store
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.delta import DeltaLog
from fogx.storage.log.root import LOG_FOLDER, entry


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    fox.config(progress=False)
    yield
    fox.config(progress=True)


@pytest.fixture(scope="module")
def want(damaged, sound_root):
    return damaged.content(sound_root)


@pytest.fixture(scope="module")
def users(damaged, sound_root):
    return damaged.users(sound_root)


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).digest() for p in root.rglob("*") if p.is_file()}


def _bytes(root: Path) -> set[bytes]:
    """What must never be gone: all content but the log's own note, and that nothing is in a file."""
    tree = {name: data for name, data in _tree(root).items() if not name.endswith("_last_checkpoint")}
    return set(tree.values()) | {hashlib.sha256(b"").digest()}


def _harm(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "lost":
        file.unlink()
        return
    if how == "flipped":
        data[len(data) // 3] ^= 16
    file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "flipped": bytes(data)}[how])


def _repaired(root: Path) -> None:
    found = fox.check(root, deep=True)
    assert found[found["severity"] == "damage"].empty, found.to_dict("records")


def _unharmed(damaged, root: Path, want, ids, *, but=()) -> None:
    """The episodes are there with the same values, and, `but` for some, the same rows."""
    got = damaged.content(root)
    assert {i: got["values"].get(i) for i in ids} == {i: want["values"][i] for i in ids}
    assert {i: got["rows"][i] for i in ids if i not in but} == {i: want["rows"][i] for i in ids if i not in but}


def test_a_sound_root_is_left_alone(sound_root):
    before = _tree(sound_root)
    assert fox.repair(sound_root).empty
    assert fox.Dataset(sound_root).repair().empty
    assert _tree(sound_root) == before
    with pytest.raises(ReadOnlyError):
        fox.Dataset(sound_root, read_only=True).repair()


@pytest.mark.parametrize(
    "how", ["flipped", pytest.param("lost", marks=pytest.mark.long), pytest.param("cut", marks=pytest.mark.long)]
)
def test_damage_to_any_data_file(damaged, sound_root, want, users, tmp_path, how):
    for file in [file for file in users if not file.startswith("episodes/")]:
        root = damaged.copy(sound_root, tmp_path / "root")
        _harm(root / file, how)
        before = _bytes(root)
        named = {i for ids in fox.check(root, deep=True)["episode_ids"] for i in ids}
        done = fox.repair(root)
        _repaired(root)
        assert before <= _bytes(root)
        out = {i for ids in done[done["action"] == "taken out"]["episode_ids"] for i in ids}
        assert out <= named <= users[file]
        assert set(fox.Dataset(root).get_episode_info()["episode_id"]) == set(want["rows"]) - out
        _unharmed(damaged, root, want, set(want["rows"]) - out)
        if how != "lost" and named and not users[file] - named:
            (aside,) = (root / "_quarantine").glob(f"*/{file}")
            assert not (root / file).exists()
            assert json.loads((aside.parents[file.count("/")] / "report.json").read_text())["state"] == "done"
        if out:
            (kept,) = (root / "_quarantine").glob("*/rows.parquet")
            assert set(pq.read_table(kept)["episode_id"].to_pylist()) == out


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
def test_damage_to_a_file_of_the_table_loses_no_episode(damaged, sound_root, want, users, tmp_path, how):
    for file in [file for file in users if file.startswith("episodes/")]:
        root = damaged.copy(sound_root, tmp_path / "root")
        _harm(root / file, how)
        if how == "flipped" and fox.check(root, deep=True).empty:
            assert damaged.content(root) == want
            continue
        done = fox.repair(root)
        _repaired(root)
        back = {i for ids in done[done["action"] == "mended"]["episode_ids"] for i in ids}
        assert back == users[file]
        _unharmed(damaged, root, want, want["rows"], but=back)
        assert set(fox.Dataset(root).get_episode_info()["episode_id"]) == set(want["rows"])


def test_of_a_damaged_column_the_other_columns_are_kept(damaged, sound_root, want, users, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    file = next(f for f, ids in users.items() if f.startswith("episodes/") and len(ids) == 3)
    chunks = pq.read_metadata(root / file).row_group(0)
    (chunk,) = [c for c in (chunks.column(n) for n in range(chunks.num_columns)) if c.path_in_schema == "split"]
    data = bytearray((root / file).read_bytes())
    data[
        chunk.data_page_offset
        + chunk.total_compressed_size
        - (chunk.data_page_offset - (chunk.dictionary_page_offset or chunk.data_page_offset))
        - 1
    ] ^= 1
    (root / file).write_bytes(data)
    fox.repair(root)
    _repaired(root)
    lost = fox.Dataset(root).get_episode_info().set_index("episode_id").loc[sorted(users[file])]
    kept = fox.Dataset(sound_root).get_episode_info().set_index("episode_id").loc[sorted(users[file])]
    assert lost["split"].isna().all()
    assert lost.drop(columns=["split", "root"]).equals(kept.drop(columns=["split", "root"]))


@pytest.mark.parametrize(
    "how", ["cut", pytest.param("lost", marks=pytest.mark.long), pytest.param("empty", marks=pytest.mark.long)]
)
def test_damage_to_any_entry_of_the_log(damaged, sound_root, want, tmp_path, how):
    names = sorted(path.name for path in (sound_root / LOG_FOLDER).glob("*.json"))
    for name in [names[0], names[3], *names[5 : -1 if how == "lost" else None]]:
        root = damaged.copy(sound_root, tmp_path / "root")
        _harm(root / LOG_FOLDER / name, how)
        before = _bytes(root)
        fox.repair(root)
        _repaired(root)
        assert before <= _bytes(root)
        _unharmed(damaged, root, want, want["rows"], but=want["rows"])
        # A lost entry that deleted an episode is the one thing that cannot be found again.
        assert name == names[-1] or set(fox.Dataset(root).get_episode_info()["episode_id"]) == set(want["rows"])
    assert damaged.record(fox.Dataset(root), 7) in set(fox.Dataset(root).get_episode_info()["episode_id"])
    _repaired(root)


@pytest.mark.parametrize("how", ["empty", "lost", "cut", "flipped"])
@pytest.mark.parametrize("which", ["*.checkpoint.parquet", "_last_checkpoint"])
def test_damage_to_a_checkpoint(damaged, sound_root, want, tmp_path, how, which):
    root = damaged.copy(sound_root, tmp_path / "root")
    (file,) = (root / LOG_FOLDER).glob(which)
    _harm(file, how)
    fox.repair(root)
    assert fox.check(root, deep=True).empty
    _unharmed(damaged, root, want, want["rows"])


def test_a_lost_entry_brings_back_what_it_named_and_not_what_was_deleted(damaged, sound_root, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    dataset = fox.Dataset(root)
    deleted = damaged.record(dataset, 20)
    lost = damaged.record(dataset, 21)
    hole = dataset.version
    dataset.tag([deleted, lost], good=False)
    dataset.delete([deleted])
    dataset.tag([lost], round=3)
    (root / LOG_FOLDER / entry(hole)).write_bytes(b"")
    ids = set(dataset.get_episode_info()["episode_id"])
    fox.repair(root)
    _repaired(root)
    info = fox.Dataset(root).get_episode_info().set_index("episode_id")
    assert set(info.index) == ids
    assert info.loc[lost, "round"] == 3


def test_where_it_cannot_be_told_what_was_deleted_none_comes_back(damaged, sound_root, users, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    ids = sorted(next(ids for f, ids in users.items() if f.startswith("episodes/") and len(ids) == 3))
    dataset = fox.Dataset(root)
    before = set(dataset._roots.write.log.delta.names())
    dataset.delete([ids[1]])
    (file,) = set(dataset._roots.write.log.delta.names()) - before
    (root / "episodes" / file).unlink()
    done = fox.repair(root)
    _repaired(root)
    assert not set(ids) & set(fox.Dataset(root).get_episode_info()["episode_id"])
    assert ids in done[done["action"] == "left out"]["episode_ids"].tolist()


def test_episodes_whose_values_are_proven_are_written_anew(damaged, sound_root, want, users, tmp_path):
    """Damaged statistics hurt no value."""
    root = damaged.copy(sound_root, tmp_path / "root")
    file = next(f for f, ids in users.items() if f.startswith("index/") and len(ids) == 3 and "schemas" not in f)
    group = pq.read_metadata(root / file).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith("stats.list.element.mean"))
    data = bytearray((root / file).read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start + chunk.total_compressed_size - 1] ^= 1
    (root / file).write_bytes(data)
    assert fox.check(root).empty
    done = fox.repair(root)
    assert done["action"].tolist() == ["written anew", "set aside"]
    assert fox.check(root, deep=True).empty
    _unharmed(damaged, root, want, want["rows"])


def test_a_shared_file_stays_where_a_sound_episode_needs_it(damaged, sound_root, want, users, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    file = next(f for f, ids in users.items() if f.startswith("frames/") and len(ids) == 3)
    hurt = min(users[file])
    view = next(view for view in fox.Dataset(sound_root).episodes if view.episode_id == hurt)
    blob = view.encoded(next(name for name, feature in view.schema.items() if feature.in_frames))[2]
    data = bytearray((root / file).read_bytes())
    data[data.index(blob) + len(blob) // 2] ^= 1
    (root / file).write_bytes(data)
    done = fox.repair(root)
    assert done[done["action"] == "taken out"]["episode_ids"].tolist() == [[hurt]]
    assert fox.check(root, deep=True).empty
    assert (root / file).exists()
    _unharmed(damaged, root, want, set(want["rows"]) - {hurt})


def test_a_dry_run_changes_nothing(damaged, sound_root, users, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    steps = next(f for f in users if f.startswith("steps/"))
    _harm(root / steps, "cut")
    _harm(root / LOG_FOLDER / entry(6), "empty")
    before = _tree(root)
    said = fox.repair(root, dry_run=True)
    assert _tree(root) == before
    assert {"replaced", "taken out", "set aside"} <= set(said["action"])
    assert steps in set(said["file"])


def test_a_log_that_says_nothing_any_more_is_refused(damaged, tmp_path):
    root = tmp_path / "root"
    damaged.record(fox.Dataset(root), 1)
    for path in (root / LOG_FOLDER).glob("*.json"):
        if "metaData" in path.read_text():
            _harm(path, "empty")
    before = _tree(root)
    assert "lost" in set(fox.check(root)["kind"])
    with pytest.raises(CorruptDataError, match="backup"):
        fox.repair(root)
    assert _tree(root) == before


class _Killed(BaseException):
    pass


@settings(max_examples=12)
@given(at=st.integers(0, 24), after=st.booleans(), torn=st.booleans())
def test_a_killed_run_is_finished_by_the_next(damaged, sound_root, users, want, tmp_path_factory, at, after, torn):
    """Killed before or after any one of its writes, moves and commits; damage to the log, the table and the data at once."""
    root = damaged.copy(sound_root, tmp_path_factory.getbasetemp() / "killed")
    table = next(f for f, ids in users.items() if f.startswith("episodes/") and len(ids) == 3)
    recorded = [f for f, ids in users.items() if f.startswith("steps/") and len(ids) == 1]
    harmed = {f"{LOG_FOLDER}/{entry(6)}": "empty", table: "cut", recorded[0]: "cut"}
    for file, how in harmed.items():
        _harm(root / file, how)
    (checkpoint,) = (root / LOG_FOLDER).glob("*.checkpoint.parquet")
    if torn:
        _harm(checkpoint, "cut")
    before = _bytes(root)
    calls = 0

    def killing(method):
        def call(*args, **kwargs):
            nonlocal calls
            mine, calls = calls, calls + 1
            if mine == at and not after:
                raise _Killed
            result = method(*args, **kwargs)
            if mine == at:
                raise _Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Store, "move"),
            (Store, "write_small"),
            (DeltaLog, "commit"),
            (EpisodeLog, "delete"),
            (DeltaLog, "checkpoint"),
        ):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        with contextlib.suppress(_Killed):
            fox.repair(root)
    fox.repair(root)
    _repaired(root)
    assert before <= _bytes(root)
    kept = set(want["rows"]) - users[recorded[0]]
    assert set(fox.Dataset(root).get_episode_info()["episode_id"]) == kept
    _unharmed(damaged, root, want, kept, but=users[table])
    assert not (root / recorded[0]).exists()
    assert all(json.loads(p.read_text())["state"] == "done" for p in (root / "_quarantine").glob("*/report.json"))


def test_values_after_repair_are_those_that_were_recorded(damaged, tmp_path):
    dataset = fox.Dataset(tmp_path / "root")
    ids = [damaged.record(dataset, seed) for seed in (1, 2)]
    newest = tmp_path / "root" / LOG_FOLDER / entry(dataset.version)
    newest.write_bytes(newest.read_bytes()[:30])
    dataset = fox.Dataset(tmp_path / "root") if fox.repair(tmp_path / "root").size else dataset
    assert [view.episode_id for view in dataset.episodes] == ids
    assert np.array_equal(dataset.episodes[1]["state"][0], np.random.default_rng(2).normal(size=7).astype(np.float32))
