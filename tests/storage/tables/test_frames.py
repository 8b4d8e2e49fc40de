from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogx.errors import CorruptDataError
from fogx.storage.files.store import Store
from fogx.storage.tables import frames


def _blobs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.bytes(size) for size in sizes]


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 400), max_size=12), min_size=1, max_size=4),
    st.integers(50, 2_000),
    st.integers(1, 9),
)
def test_any_frame_comes_back_by_its_offset(tmp_path_factory, episodes, group_bytes, group_rows):
    """Whatever the row groups' bounds, each frame is where the index says, without parquet's help."""
    store = Store(tmp_path_factory.mktemp("root"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "ROW_GROUP_BYTES", group_bytes)
        patch.setattr(frames, "ROW_GROUP_ROWS", group_rows)
        writer = frames.FramesWriter(store, "dataset=x")
        wanted = {}
        for number, sizes in enumerate(episodes):
            for feature in ("a", "b"):
                wanted[f"e{number}", feature] = blobs = _blobs(sizes, number)
                writer.add(f"e{number}", feature, blobs, np.arange(len(blobs)))
        places = writer.close()
    for (episode, feature), blobs in wanted.items():
        mine = [place for place in places.get(episode, []) if place.feature == feature]
        assert all(place.offset > 0 for place in mine)
        assert sum(len(place.lengths) for place in mine) == len(blobs)
        order = np.random.default_rng(1).permutation(len(blobs))
        assert frames.read_frames(store, mine, order) == [blobs[i] for i in order]


def _one(tmp_path):
    store = Store(tmp_path)
    writer = frames.FramesWriter(store, "dataset=x")
    blobs = _blobs([100, 200, 300])
    writer.add("e", "cam", blobs, None)
    return store, writer, blobs


def test_other_readers_see_the_same_frames(tmp_path):
    store, writer, blobs = _one(tmp_path)
    writer.close()
    table = pq.read_table(store.path(writer.pointer), partitioning=None)
    assert table["data"].to_pylist() == blobs
    assert table["first_frame"].to_pylist() == [0, 1, 2]
    assert table["num_frames"].to_pylist() == [1, 1, 1]


def test_a_flipped_byte_is_named(tmp_path):
    store, writer, _ = _one(tmp_path)
    places = writer.close()["e"]
    path = Path(store.path(writer.pointer))
    data = bytearray(path.read_bytes())
    data[int(places[0].starts[1]) + 7] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="frame 1 of 'cam' fails its checksum"):
        frames.read_frames(store, places, np.array([0, 1]))
    assert len(frames.read_frames(store, places, np.array([0, 2]))) == 2


def test_without_offsets_frames_come_through_parquet(tmp_path, monkeypatch, caplog):
    """A parquet writer that splits pages differently costs speed, never data."""
    monkeypatch.setattr(frames, "_locate", lambda chunk, runs: [setattr(run, "offset", 17) for run in runs])
    store, writer, blobs = _one(tmp_path)
    places = writer.close()["e"]
    assert "read more slowly" in caplog.text
    assert places[0].offset == -1
    assert frames.read_frames(store, places, np.array([2, 0])) == [blobs[2], blobs[0]]


def test_a_number_past_the_end(tmp_path):
    store, writer, _ = _one(tmp_path)
    with pytest.raises(CorruptDataError, match="past the 3"):
        frames.read_frames(store, writer.close()["e"], np.array([3]))
