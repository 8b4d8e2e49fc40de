"""Damage of every kind to every file is named, with the episodes that it hurts."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import CorruptDataError, DatasetNotFoundError
from fogx.jobs.check import COLUMNS, KINDS
from fogx.storage.log.root import LOG_FOLDER, entry


def _ids(found, file):
    assert set(found["kind"]) <= set(KINDS)
    return {i for ids in found[found["file"] == file]["episode_ids"] for i in ids}


def _log(sound_root):
    return sorted(name for name in os.listdir(sound_root / LOG_FOLDER))


def test_a_sound_root_has_no_findings(sound_root, shipped_data):
    for root in (sound_root, shipped_data / "format-1"):
        for deep in (False, True):
            found = fox.check(root, deep=deep)
            assert list(found.columns) == list(COLUMNS)
            assert found.empty
    assert fox.Dataset(sound_root).check(deep=True).empty
    assert fox.Dataset(sound_root, read_only=True).check().empty


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="holds no dataset"):
        fox.check(tmp_path)


@given(data=st.data())
def test_a_data_file_cut_anywhere_is_named_with_its_episodes(damaged, sound_root, users, tmp_path_factory, data):
    file = data.draw(st.sampled_from(sorted(users)))
    whole = (sound_root / file).read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    root = damaged.copy(sound_root, tmp_path_factory.getbasetemp() / "cut")
    (root / file).write_bytes(whole[:cut])
    found = fox.check(root)
    assert _ids(found, file) == users[file]
    assert set(found["severity"]) == {"damage"}
    assert set(found["file"]) == {file}


def test_a_lost_data_file_is_named_with_its_episodes(damaged, sound_root, users, tmp_path):
    for file, ids in users.items():
        root = damaged.copy(sound_root, tmp_path / "lost")
        (root / file).unlink()
        found = fox.check(root)
        assert found[["kind", "file", "episodes"]].values.tolist() == [["lost", file, len(ids)]]
        assert _ids(found, file) == ids


def test_a_lost_file_of_samples_is_named(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode(align=fox.Align(rate_hz=10)) as episode:
        for i in range(30):
            episode.add("x", float(i), i * 10_000_000)
    (file,) = (tmp_path / "lab").glob("streams/*/*.parquet")
    file.unlink()
    found = fox.check(dataset.path)
    assert found[["kind", "file"]].values.tolist() == [["lost", str(file.relative_to(dataset.path))]]
    assert found["episode_ids"].tolist() == [[episode.episode_id]]


@given(data=st.data())
def test_a_log_file_cut_anywhere_is_named(damaged, sound_root, tmp_path_factory, data):
    name = data.draw(st.sampled_from(_log(sound_root)))
    file = sound_root / LOG_FOLDER / name
    whole = file.read_bytes()
    breaks = [i + after for i, c in enumerate(whole) if c == 10 for after in (0, 1)] or [0]
    cut = data.draw(st.integers(0, len(whole.rstrip()) - 1) | st.sampled_from(breaks))
    (checkpoint,) = [name for name in _log(sound_root) if "checkpoint.parquet" in name]
    root = damaged.copy(sound_root, tmp_path_factory.getbasetemp() / "log")
    (root / LOG_FOLDER / name).write_bytes(whole[:cut])
    if len(whole[:cut].split()) == len(whole.split()) and name == "_last_checkpoint":
        return  # only the end of the line is gone
    found = fox.check(root)
    bad = set(found[found["severity"] == "damage"]["file"])
    # Where the mark of an import alone is cut off, it is the checkpoint after it that says something else.
    assert f"{LOG_FOLDER}/{name}" in bad or (cut in breaks and f"{LOG_FOLDER}/{checkpoint}" in bad)


def test_empty_and_lost_entries(damaged, sound_root, tmp_path):
    """Of a lost newest entry there is no trace; all others are found, and are notices where a checkpoint follows."""
    newest = max(name for name in _log(sound_root) if name.endswith(".json"))
    checkpoint = next(int(name[:20]) for name in _log(sound_root) if "checkpoint.parquet" in name)
    for name in [name for name in _log(sound_root) if name.endswith(".json")]:
        root = damaged.copy(sound_root, tmp_path / "entry")
        (root / LOG_FOLDER / name).write_bytes(b"")
        found = fox.check(root)
        assert ["damage", "empty log entry", f"{LOG_FOLDER}/{name}"] in found[["severity", "kind", "file"]].values.tolist()
        (root / LOG_FOLDER / name).unlink()
        found = fox.check(root)
        if name == newest:
            assert found.empty
        elif name != entry(0):
            severity = "notice" if int(name[:20]) <= checkpoint else "damage"
            assert [severity, "log gap", f"{LOG_FOLDER}/{name}"] in found[["severity", "kind", "file"]].values.tolist()


def test_episodes_that_only_a_lost_entry_named(damaged, sound_root, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    dataset = fox.Dataset(root)
    info = dataset.get_episode_info()
    last = damaged.record(dataset, 9)
    dataset.tag(info, round=2)
    dataset.refresh()
    (name,) = [
        n for n in _log(root) if n.endswith(".json") and '"fogx_operation":"record"' in (root / LOG_FOLDER / n).read_text()
    ][-1:]
    (root / LOG_FOLDER / name).write_bytes(b"")
    with pytest.raises(CorruptDataError, match=r"fox\.repair"):
        fox.Dataset(root)
    assert _ids(fox.check(root), f"{LOG_FOLDER}/{name}") == {last}


def test_a_lost_checkpoint_and_its_note(damaged, sound_root, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    (name,) = [name for name in _log(sound_root) if "checkpoint.parquet" in name]
    (root / LOG_FOLDER / name).unlink()
    found = fox.check(root)
    assert set(found["file"]) == {f"{LOG_FOLDER}/{name}", f"{LOG_FOLDER}/_last_checkpoint"}
    (root / LOG_FOLDER / "_last_checkpoint").unlink()
    assert fox.check(root).empty
    root = damaged.copy(sound_root, tmp_path / "root")
    (root / LOG_FOLDER / "_last_checkpoint").unlink()
    assert fox.check(root)[["severity", "kind"]].values.tolist() == [["notice", "lost"]]


def test_swapped_files_are_named(damaged, sound_root, users, tmp_path):
    swapped = 0
    for first in users:
        for second in users:
            if first >= second or first.split("/")[0] != second.split("/")[0] or "schemas" in first + second:
                continue
            root = damaged.copy(sound_root, tmp_path / "swap")
            (root / first).write_bytes((sound_root / second).read_bytes())
            (root / second).write_bytes((sound_root / first).read_bytes())
            found = fox.check(root)
            assert {first, second} <= set(found["file"]), (first, second)
            assert _ids(found, first) == users[first]
            swapped += 1
    assert swapped > 6


@given(data=st.data())
def test_a_flipped_bit_is_named_or_changes_nothing(damaged, sound_root, users, want, tmp_path_factory, data):
    """What goes unnoticed are texts that nobody reads, such as who wrote a file."""
    file = data.draw(st.sampled_from(sorted({*users, *(f"{LOG_FOLDER}/{name}" for name in _log(sound_root))})))
    whole = bytearray((sound_root / file).read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    root = damaged.copy(sound_root, tmp_path_factory.getbasetemp() / "flip")
    (root / file).write_bytes(whole)
    found = fox.check(root, deep=True)
    if found.empty:
        assert damaged.content(root) == want
    elif file in users and file in set(found["file"]):
        assert _ids(found, file) <= users[file]


def test_a_flipped_frame_is_named_with_its_episode_alone(damaged, sound_root, users, tmp_path):
    root = damaged.copy(sound_root, tmp_path / "root")
    view = next(view for view in fox.Dataset(sound_root).episodes if view.dataset != "lab")
    name = next(name for name, feature in view.schema.items() if feature.in_frames)
    blob = view.encoded(name)[3]
    file = next(file for file in users if file.startswith("frames/") and view.episode_id in users[file])
    data = bytearray((root / file).read_bytes())
    data[data.index(blob) + len(blob) // 2] ^= 4
    (root / file).write_bytes(data)
    assert fox.check(root).empty
    found = fox.check(root, deep=True)
    assert found[["severity", "kind", "file", "episode_ids"]].values.tolist() == [["damage", "checksum", file, [view.episode_id]]]
    assert "frame 3" in found["what"][0]


def test_an_image_that_never_could_be_decoded_is_a_notice(tmp_path):
    dataset = fox.Dataset(tmp_path)
    episode = dataset.new_episode()
    header = damaged_jpeg()
    episode.add(
        "view",
        header,
    )
    episode.close()
    found = fox.check(tmp_path, deep=True)
    assert found[["severity", "kind", "episode_ids"]].values.tolist() == [["notice", "unreadable", [episode.episode_id]]]
    assert fox.repair(tmp_path).empty


def damaged_jpeg() -> bytes:
    import numpy as np

    from fogx.codecs.jpeg import JpegCodec

    whole = JpegCodec().encode(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return whole[: len(whole) // 2]


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_a_bucket_is_checked_and_repaired(damaged, s3_server):
    root = s3_server.make_bucket("lab") + "/robots"
    dataset = fox.Dataset(root)
    ids = [damaged.record(dataset, seed) for seed in range(3)]
    assert fox.check(root, deep=True).empty
    store = dataset._roots.write.store
    files = {f: i for i in ids for f in (f for f in _files_of(dataset, i))}
    file = next(f for f in files if f.startswith("steps/"))
    store.write_small(file, (store.read_small(file) or b"")[:-9])
    store.write_small(f"{LOG_FOLDER}/{entry(dataset.version)}", b"")
    found = fox.check(root)
    assert _ids(found, file) == {files[file]}
    assert fox.repair(root)["action"].tolist().count("set aside") == 1
    assert fox.check(root, deep=True).empty
    assert {view.episode_id for view in fox.Dataset(root).episodes} == {*ids} - {files[file]}
    assert any(name.endswith(file) for name, _, _ in store.walk("_quarantine"))
    assert store.read_small(file) is None


def _files_of(dataset, episode_id):
    from fogx.storage.tables.index import read_index

    log = dataset._roots.write.log
    row = next(row for row in log.rows.to_pylist() if row["episode_id"] == episode_id)
    (index,) = read_index(log.store, row["index_file"], [row["index_row"]])
    return [place.file for place in (*index.steps, *index.frames)]
