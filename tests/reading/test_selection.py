import numpy as np
import pandas as pd
import pytest

import fogx as fox
from fogx.errors import EpisodeNotFoundError, SelectionError


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    for number in range(4):
        dataset.new_episode({"n": number}).close()
    return dataset


def test_everything_that_selects(dataset):
    info = dataset.get_episode_info()
    ids = info["episode_id"].tolist()
    wanted = [ids[2], ids[0]]
    selections = [
        info.iloc[[2, 0]],
        info.iloc[[2, 0]].set_index("episode_id"),
        pd.DataFrame(info.iloc[[2, 0]]),
        wanted,
        tuple(wanted),
        info["episode_id"].iloc[[2, 0]],
        np.array(wanted),
        dataset.read_by(wanted),
        lambda frame: frame.iloc[[2, 0]],
        lambda frame: wanted,
        (i for i in wanted),
        [*wanted, wanted[0]],
    ]
    for selection in selections:
        assert [view.episode_id for view in dataset.read_by(selection)] == wanted
    for mask in (info["n"] < 2, (info["n"] < 2).tolist(), (info["n"] < 2).to_numpy(dtype=bool), lambda frame: frame["n"] < 2):
        assert [view.episode_id for view in dataset.read_by(mask)] == ids[:2]
    assert [view.episode_id for view in dataset.read_by(ids[1])] == [ids[1]]
    assert [view.episode_id for view in dataset.read_by(dataset.episodes[1])] == [ids[1]]
    assert len(dataset.read_by()) == 4


def test_an_empty_selection_is_valid(dataset):
    info = dataset.get_episode_info()
    for nothing in (info.filter(info["n"] > 9), info.head(0), [], np.array([], dtype=bool)[:0].tolist(), info["n"] > 9):
        assert dataset.read_by(nothing) == []
        assert dataset.get_step_data(nothing).collect().height == 0


@pytest.mark.parametrize("bad", [3, [1, 2], 2.5, {"a": 1}.values()])
def test_what_selects_nothing(dataset, bad):
    with pytest.raises(SelectionError, match="selects no episodes"):
        dataset.read_by(bad)


def test_absent_episodes_are_counted(dataset):
    ids = dataset.get_episode_info()["episode_id"].tolist()
    with pytest.raises(EpisodeNotFoundError, match="1 of 2"):
        dataset.read_by([ids[0], ids[1][:-1] + ("0" if ids[1][-1] != "0" else "1")])
    with pytest.raises(KeyError):
        dataset.tag(["nothing"], a=1)
    with pytest.raises(SelectionError, match="3 values"):
        dataset.read_by([True, False, True])


def test_verbs_write_the_write_root_only(dataset, tmp_path):
    mine = fox.Dataset(tmp_path / "mine", load_from=[dataset.path])
    mine.new_episode().close()
    info = mine.get_episode_info()
    assert len(info) == 5
    for verb in (lambda: mine.tag(info, a=1), lambda: mine.delete(info)):
        with pytest.raises(SelectionError, match=r"4 of 5.*lab"):
            verb()
    edited = info.copy()
    edited["n"] = 5
    with pytest.raises(SelectionError, match="lab"):
        mine.update_episode_info(edited)
    assert mine.tag(info.filter(info["root"] == mine.path), a=1) == 1
    assert len(fox.Dataset(dataset.path)) == 4
    edited = mine.get_episode_info()
    edited.loc[edited["root"] == mine.path, "a"] = 2
    assert mine.update_episode_info(edited) == 1
