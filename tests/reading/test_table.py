"""get_episode_info(): a real DataFrame that also filters by mask, and what may be written back."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import ConflictError, EpisodeNotFoundError, MetadataError, SelectionError
from fogx.reading.table import OWN, EpisodeFrame


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    for number in range(4):
        metadata = {"collector": "ana" if number % 2 else "ben", "score": number}
        with dataset.new_episode(metadata if number else {"collector": "ben"}) as episode:
            episode.add("state", np.arange(number + 1))
    return dataset


def test_own_columns_first_with_nullable_dtypes(dataset):
    info = dataset.get_episode_info()
    assert isinstance(info, pd.DataFrame)
    assert tuple(info.columns[: len(OWN)]) == OWN
    wanted = {"episode_id": "string", "start_ns": "Int64", "duration_s": "Float64", "num_steps": "Int64", "success": "boolean"}
    wanted |= {"control_hz": "Float64", "collector": "string", "score": "Int64", "root": "string"}
    assert {name: str(info.dtypes[name]) for name in wanted} == wanted
    assert info["score"].isna().tolist() == [True, False, False, False]


def test_each_call_has_a_copy(dataset):
    info = dataset.get_episode_info()
    info["collector"] = "changed"
    info.loc[0, "score"] = 9
    assert dataset.get_episode_info()["collector"].tolist() == ["ben", "ana", "ben", "ana"]
    assert dataset.get_episode_info()["score"].isna()[0]


@pytest.mark.parametrize("kind", ["series", "array", "list", "nullable", "object"])
def test_filter_takes_a_mask(dataset, kind):
    info = dataset.get_episode_info()
    mask = info["score"] > 1
    given = {
        "series": mask,
        "nullable": mask.array,
        "array": mask.fillna(False).to_numpy(dtype=bool),
        "list": mask.fillna(False).tolist(),
        "object": np.array([None, False, True, True], dtype=object),
    }[kind]
    kept = info.filter(given)
    assert isinstance(kept, EpisodeFrame)
    assert kept["score"].tolist() == [2, 3]
    assert kept.filter(kept["collector"] == "ana")["score"].tolist() == [3]


COLUMNS = {
    "text": lambda n: pd.array([None if i % 3 == 0 else str(i) for i in range(n)], "string"),
    "pieces": lambda n: pd.StringDtype().__from_arrow__(pa.chunked_array([["a"] * (n // 2), ["b"] * (n - n // 2)], pa.string())),
    "arrow": lambda n: pd.array(list(range(n)), pd.ArrowDtype(pa.int64())),
    "python": lambda n: pd.array([str(i) for i in range(n)], pd.StringDtype("python")),
    "nullable": lambda n: pd.array([None if i % 2 else i for i in range(n)], "Int64"),
    "plain": lambda n: np.arange(n),
    "other": lambda n: np.arange(n) / 2,
    "dates": lambda n: pd.date_range("2026-01-01", periods=n, tz="UTC"),
    "objects": lambda n: np.array([pd.Timestamp(i) for i in range(n)] + [None], object)[:n],
    "few": lambda n: pd.Categorical(["x"] * n),
}


@given(st.data(), st.integers(0, 7), st.lists(st.sampled_from(sorted(COLUMNS)), max_size=8))
def test_filter_keeps_what_pandas_would(data, rows, kinds):
    frame = EpisodeFrame(pd.concat([pd.Series(COLUMNS[kind](rows), name=kind) for kind in kinds], axis=1) if kinds else {})
    frame = frame.set_axis(pd.Index(data.draw(st.lists(st.integers(), min_size=len(frame), max_size=len(frame))), name="n"))
    frame.attrs["kept"], frame._fogx_base = True, {}
    mask = data.draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))
    kept = frame.filter(np.array(mask, bool))
    pd.testing.assert_frame_equal(kept, frame.iloc[np.flatnonzero(mask)])
    assert kept.attrs == frame.attrs
    assert kept._fogx_base is frame._fogx_base


def test_filter_copies_the_kept_rows_alone():
    text = pa.chunked_array([["a" * 1_000] * 1_000] * 8)
    frame = EpisodeFrame({"text": pd.StringDtype().__from_arrow__(text), "n": np.arange(8_000)})
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    try:
        assert frame.filter(frame["n"].to_numpy() == 5)["text"].tolist() == ["a" * 1_000]
        assert counted.max_memory() < text.nbytes / 100
    finally:
        pa.set_memory_pool(before)


def test_filter_is_otherwise_pandas_own(dataset):
    info = dataset.get_episode_info()
    plain = pd.DataFrame(info)
    for arguments in ({"items": ["score", "split"]}, {"like": "s"}, {"regex": "^s"}, {"items": [0, 2], "axis": 0}):
        pd.testing.assert_frame_equal(pd.DataFrame(info.filter(**arguments)), plain.filter(**arguments))


def test_a_mask_of_the_wrong_length(dataset):
    with pytest.raises(SelectionError, match="2 values, the table has 4 rows"):
        dataset.get_episode_info().filter([True, False])


def test_the_class_survives_pandas_operations(dataset):
    info = dataset.get_episode_info()
    for frame in (
        info[info["score"] > 0],
        info.sort_values("score"),
        info.copy(),
        info.head(2),
        info.assign(x=1),
        info.query("score > 1"),
    ):
        assert isinstance(frame, EpisodeFrame)
        assert len(frame.filter(frame["collector"] == "ana")) <= len(frame)
    assert isinstance(pickle.loads(pickle.dumps(info)), EpisodeFrame)
    assert isinstance(info["score"], pd.Series)


def test_a_part_that_was_pickled_knows_what_it_was_made_from(dataset):
    """And no more: the rows of all others stay behind."""
    info = dataset.get_episode_info()
    for part in (info.iloc[[2]], info.iloc[[2]].set_index("episode_id")):
        again = pickle.loads(pickle.dumps(part))
        assert [len(rows) for rows in again._fogx_base.values()] == [1]
        assert dataset.update_episode_info(again) == 0
    other = fox.Dataset(dataset.path)
    other.tag([info["episode_id"][2]], score=50)
    again["score"] = 60
    with pytest.raises(ConflictError, match="score"):
        dataset.update_episode_info(again)


def test_edits_go_back_in_one_commit(dataset):
    info = dataset.get_episode_info()
    version = dataset.version
    info["split"] = np.where(np.arange(len(info)) % 2 == 0, "val", "train")
    info.loc[0, "score"] = 7
    info.loc[1, "collector"] = pd.NA
    info["quality"] = [0.5, None, 1.0, None]
    info["success"] = [True, False, None, True]
    assert dataset.update_episode_info(info) == 4
    for handle in (dataset, fox.Dataset(dataset.path)):
        again = handle.get_episode_info()
        assert again["split"].tolist() == ["val", "train", "val", "train"]
        assert again["score"].tolist() == [7, 1, 2, 3]
        assert again["collector"].fillna("-").tolist() == ["ben", "-", "ben", "ana"]
        assert again["quality"].fillna(-1).tolist() == [0.5, -1, 1, -1]
        assert again["success"].fillna(False).tolist() == [True, False, False, True]
    assert dataset.version == version + 2, "one commit for the new column, one for the cells"
    assert dataset.update_episode_info(dataset.get_episode_info()) == 0
    assert dataset.version == version + 2


def test_absent_rows_and_columns_stay(dataset):
    info = dataset.get_episode_info()
    part = info.iloc[[2, 1]][["episode_id", "score"]].set_index("episode_id")
    part["score"] = [20, 10]
    assert dataset.update_episode_info(part) == 2
    assert dataset.get_episode_info()["score"].fillna(-1).tolist() == [-1, 10, 20, 3]
    assert dataset.get_episode_info()["collector"].tolist() == info["collector"].tolist()


@pytest.mark.parametrize(
    "dtypes",
    [
        {},
        {"num_steps": "int64", "collector": "str"},
        {"num_steps": "float64", "score": "float64"},
        {"collector": object, "score": object},
        {"collector": pd.StringDtype("python"), "duration_s": "float64", "num_steps": "Int8"},
        {"collector": "category"},
        {"success": "bool[pyarrow]", "score": "int16[pyarrow]"},
    ],
)
def test_only_cells_that_differ_are_written_whatever_their_dtype(dataset, dtypes):
    info = dataset.get_episode_info().sort_values("num_steps", ascending=False).astype(dtypes)
    version = dataset.version
    assert dataset.update_episode_info(info) == 0
    assert dataset.version == version
    info.loc[2, "collector"] = "ana"
    info.loc[[1, 2], "score"] = 5
    assert dataset.update_episode_info(info) == 2
    again = dataset.get_episode_info()
    assert again["collector"].tolist() == ["ben", "ana", "ana", "ana"]
    assert again["score"].fillna(-1).tolist() == [-1, 5, 5, 3]
    assert dataset.version == version + 1


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("num_steps", 3, MetadataError),
        ("start_ns", 1, MetadataError),
        ("duration_s", 0.5, MetadataError),
        ("root", "/elsewhere", MetadataError),
        ("success", "maybe", MetadataError),
        ("Success", True, MetadataError),
        ("schema_id", "x", MetadataError),
        ("blob", [1, 2], MetadataError),
    ],
)
def test_what_cannot_be_edited_is_refused_and_nothing_changes(dataset, column, value, error):
    info = dataset.get_episode_info()
    before = pd.DataFrame(info.copy())
    info["note"] = "also"
    info[column] = pd.Series([value] * 4)
    with pytest.raises(error, match=column):
        dataset.update_episode_info(info)
    pd.testing.assert_frame_equal(pd.DataFrame(fox.Dataset(dataset.path).get_episode_info()), before)


def test_new_and_repeated_rows_are_errors(dataset):
    info = dataset.get_episode_info()
    stranger = info.copy()
    stranger.loc[0, "episode_id"] = "f" * 32
    with pytest.raises(EpisodeNotFoundError, match="1 of 4"):
        dataset.update_episode_info(stranger)
    with pytest.raises(SelectionError, match="repeat"):
        dataset.update_episode_info(EpisodeFrame(pd.concat([info, info])))
    with pytest.raises(SelectionError, match="episode_id"):
        dataset.update_episode_info(info.drop(columns="episode_id"))


def test_two_editors_of_the_same_cell(dataset):
    mine = dataset.get_episode_info()
    other = fox.Dataset(dataset.path)
    other.tag(other.get_episode_info().iloc[[1]], score=100)
    mine["score"] = mine["score"].fillna(0) + 1
    with pytest.raises(ConflictError, match="score"):
        dataset.update_episode_info(mine)
    assert dataset.refresh().get_episode_info()["score"].fillna(-1).tolist() == [-1, 100, 2, 3]


def test_clashing_values_are_shown_in_their_place(dataset):
    with pytest.warns(UserWarning, match="score"), dataset.new_episode({"score": "high", "Collector": "eve"}):
        pass
    info = dataset.get_episode_info()
    assert info["score"].tolist()[1:] == [1, 2, 3, "high"]
    assert info["Collector"].tolist() == [None] * 4 + ["eve"]
    assert info["collector"].isna().tolist() == [False] * 4 + [True]
