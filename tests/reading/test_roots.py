"""Selections as arrays: order, several roots, and that they stay what they were."""

import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import CorruptDataError, SchemaMismatchError
from fogx.reading.roots import Roots, positions_of, read_index_files, same_of
from fogx.reading.selection import choose


def _record(dataset, value, **metadata):
    with dataset.new_episode(metadata) as episode:
        episode.add("view", np.full((32, 32, 3), value, np.uint8))
    return episode.episode_id


def _roots(*paths):
    return Roots(paths[0], list(paths[1:]), None, None, None, False)


@given(
    st.lists(st.sets(st.integers(0, 60)), min_size=1, max_size=4),
    st.lists(st.integers(0, 60), unique=True, max_size=30),
)
def test_positions_of_ids(chunks, wanted):
    held = list(dict.fromkeys(f"{i:02d}" for chunk in chunks for i in chunk))
    cuts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    ids = pa.chunked_array([held[a:b] for a, b in itertools.pairwise(cuts)], pa.string())
    names = [f"{i:02d}" for i in wanted]
    expected = [held.index(name) if name in held else -1 for name in names]
    assert positions_of(ids, pa.array(names, pa.string())).tolist() == expected
    assert positions_of(ids, ids.combine_chunks()).tolist() == list(range(len(held)))


@given(st.lists(st.integers(0, 5)))
def test_groups_of_equal_codes(codes):
    groups = [group.tolist() for group in same_of(np.array(codes, np.int64))]
    assert groups == [[at for at, code in enumerate(codes) if code == one] for one in sorted(set(codes))]


def test_order_over_two_roots(tmp_path):
    one, two = fox.Dataset(tmp_path / "one"), fox.Dataset(tmp_path / "two")
    ids = [_record(dataset, n, n=n) for n, dataset in enumerate([one, two, one, two, one])]
    both = fox.Dataset(one.path, load_from=[two.path])
    assert [view.episode_id for view in both] == [ids[0], ids[2], ids[4], ids[1], ids[3]]
    for wanted in (ids, ids[::-1], [ids[3], ids[0], ids[1]]):
        chosen = choose(both._roots, wanted)
        assert chosen.column("episode_id").to_pylist() == wanted
        assert [root.path for root, _ in chosen] == [(one if ids.index(i) % 2 == 0 else two).path for i in wanted]
        assert [view["view"][0, 0, 0, 0] for view in both.read_by(wanted)] == [ids.index(i) for i in wanted]
        pixels = both.get_step_data(wanted, images="pixels", with_metadata="n").collect()
        assert pixels["view"].to_numpy()[:, 0, 0, 0].tolist() == [ids.index(i) for i in wanted] == pixels["n"].to_list()


def test_a_selection_stays_what_it_was(tmp_path):
    """Rows move when episodes go; what was selected before reads the same."""
    dataset = fox.Dataset(tmp_path / "lab")
    ids = [_record(dataset, 10 * n) for n in range(4)]
    steps = [dataset.get_step_data(ids[1:], images=images) for images in ("index", "pixels")]
    views, chosen = dataset.read_by(ids[2:]), choose(dataset._roots)
    dataset.delete(ids[:2])
    assert chosen.column("episode_id").to_pylist() == ids
    assert len(dataset) == 2
    assert [frame.collect()["episode_id"].to_list() for frame in steps] == [ids[1:]] * 2
    assert steps[1].collect()["view"].to_numpy()[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert [view["view"].max() for view in views] == [20, 30]


def test_ids_of_two_roots(tmp_path):
    """One id in two roots is one episode where the content is the same, else an error that counts them."""
    paths = [tmp_path / name for name in ("one", "two")]
    one, two = (fox.Dataset(path) for path in paths)
    for n in range(3):
        _record(one, n)
    _record(two, 9)
    rows = one._roots.write.rows.to_pylist()
    names = ("episode_id", "num_steps", "schema_id", "index_row")
    other = two._roots.write.rows.to_pylist()[0]["index_file"]
    for row in rows[:2]:
        entry = {name: row[name] for name in names} | {"source_key": None, "dataset": "two", "metadata": {}, "index_file": other}
        two._roots.write.writable().append([entry], operation="copy")
    with pytest.raises(SchemaMismatchError, match=r"2 episodes are in .*one and in .*two"):
        _roots(*paths)
    two.delete([row["episode_id"] for row in rows[:2]])
    assert len(_roots(*paths).chosen()) == 4
    assert len(_roots(paths[0], paths[0]).chosen()) == 3
    shutil.copytree(paths[0], tmp_path / "same")
    assert len(_roots(*paths, tmp_path / "same").chosen()) == 4


def test_a_row_that_points_nowhere(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    _record(dataset, 1)
    root = dataset._roots.write
    lost = root.rows.set_column(root.rows.column_names.index("index_file"), "index_file", pa.nulls(1, pa.string()))
    with pytest.raises(CorruptDataError, match="1 of 1 selected rows"):
        list(read_index_files(root, lost, lambda *_: None))
