import numpy as np
import pytest

from fogx.errors import CorruptDataError
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData
from fogx.storage.files.store import Store
from fogx.storage.tables import steps
from fogx.storage.tables.index import read_index, read_schema
from fogx.storage.tables.pack import EpisodePacker
from fogx.storage.tables.steps import read_steps

SCHEMA = Schema(
    {"state": Feature("float32", (3,)), "cam": Feature("uint8", (2, 2, 3), encoding="png"), "word": Feature("str", ())}
)


def _data(rows, seed=0, metadata=None):
    rng = np.random.default_rng(seed)
    blobs = np.empty(rows, dtype=object)
    words = np.empty(rows, dtype=object)
    for i in range(rows):
        blobs[i], words[i] = rng.bytes(20), f"w{i}"
    valid = np.arange(rows) % 3 != 1
    columns = {"state": Column(rng.random((rows, 3), np.float32)), "cam": Column(blobs, valid), "word": Column(words)}
    return EpisodeData(SCHEMA, columns, rows, np.arange(rows) * 10 + 5, metadata=metadata or {})


def _pack(store, episodes):
    packer = EpisodePacker(store, "lab")
    for episode_id, data in episodes.items():
        packer.add(episode_id, data)
    return packer.close()


def test_many_episodes_share_files(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "ROW_GROUP_ROWS", 8)
    store = Store(tmp_path)
    episodes = {f"e{i}": _data(rows, i) for i, rows in enumerate([5, 0, 3, 20, 1])}
    packed = _pack(store, episodes)
    assert len(packed.files) == 3
    for row, (episode_id, data) in zip(packed.rows, episodes.items(), strict=True):
        assert row["episode_id"] == episode_id
        assert row["num_steps"] == data.num_steps
        assert row["duration_ns"] == (None if data.num_steps == 0 else 10 * (data.num_steps - 1))
        index = read_index(store, row["index_file"], [row["index_row"]], ("steps", "frames", "stats"))[0]
        schema = read_schema(store, index.schema_id)
        assert list(schema.items()) == list(SCHEMA.items())
        columns = read_steps(store, index.steps, schema, ["state", "word", "cam", "timestamp_ns"])
        assert columns["state"].values.tobytes() == data.columns["state"].values.tobytes()
        assert columns["word"].values.tolist() == data.columns["word"].values.tolist()
        assert columns["timestamp_ns"].values.tolist() == data.timestamps_ns.tolist()
        assert sum(len(p.lengths) for p in index.frames) == data.columns["cam"].valid.sum()
        assert list(index.partial) == (["cam"] if data.num_steps > 1 else [])
        if data.num_steps:
            np.testing.assert_allclose(index.stats["state"].mean, data.columns["state"].values.astype(float).mean(axis=0))


def test_checksum_is_of_the_content_alone(tmp_path):
    def checksum(folder, data):
        row = _pack(Store(tmp_path / folder), {"e": data}).rows[0]
        return read_index(Store(tmp_path / folder), row["index_file"], [0])[0].checksum

    first = checksum("a", _data(5))
    assert first == checksum("b", _data(5, metadata={"tag": "x"}))
    changed = _data(5)
    changed.columns["state"].values[4, 2] += 1
    assert checksum("c", changed) != first
    changed = _data(5)
    changed.columns["cam"].values[0] += b"\0"
    assert checksum("d", changed) != first


def test_abort_leaves_no_files(tmp_path):
    packer = EpisodePacker(Store(tmp_path), "lab")
    packer.add("e", _data(5))
    packer.abort()
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("family", ["steps", "index"])
def test_every_flipped_byte_of_a_page_is_found(tmp_path, family):
    store = Store(tmp_path)
    row = _pack(store, {"e": _data(5)}).rows[0]
    index = read_index(store, row["index_file"], [0])[0]
    pointer = row["index_file"] if family == "index" else index.steps[0].file
    path = tmp_path / pointer
    data = path.read_bytes()
    wanted = read_steps(store, index.steps, SCHEMA, ["state"])["state"].values.tobytes()
    found = 0
    for position in range(4, len(data) - 8, 13):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        try:
            again = read_index(store, row["index_file"], [0])[0]
            assert read_steps(store, again.steps, SCHEMA, ["state"])["state"].values.tobytes() == wanted
        except CorruptDataError:
            found += 1
    assert found > 3


def test_a_schema_that_was_changed_is_refused(tmp_path):
    store = Store(tmp_path)
    row = _pack(store, {"e": _data(1)}).rows[0]
    path = tmp_path / "index" / "schemas" / f"{row['schema_id']}.json"
    path.write_text(path.read_text().replace("float32", "float64"))
    with pytest.raises(CorruptDataError, match="schemas"):
        read_schema(Store(tmp_path), row["schema_id"])
