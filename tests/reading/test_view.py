import numpy as np
import pytest

import fogx as fox
from fogx.errors import FeatureNotFoundError


@pytest.fixture
def dataset(tmp_path):
    return fox.Dataset(tmp_path / "lab", features={"state": fox.Feature(unit="rad", space="joint_position")})


def _view(dataset):
    episode = dataset.new_episode({"camera": {"fx": 1.5, "k": np.eye(3)}, "operator": "<b>ana</b>"}, task="pick")
    for i in range(6):
        step = {"state": np.float32([i, i + 0.5]), "view": np.full((32, 32, 3), i, np.uint8), "word": f"w{i}"}
        if i == 2:
            del step["state"]
        episode.add_step(step)
    episode.close()
    return dataset.episodes[0]


def test_features_as_arrays(dataset):
    view = _view(dataset)
    assert view["view"].shape == (6, 32, 32, 3)
    assert view["view"].dtype == np.uint8
    assert view["view"][3].max() == 3
    assert view["word"].tolist() == [f"w{i}" for i in range(6)]
    state = view["state"]
    assert isinstance(state, np.ma.MaskedArray)
    assert state.dtype == np.float32
    assert state.mask[:, 0].tolist() == [False, False, True, False, False, False]
    assert state[5].tolist() == [5, 5.5]
    assert (np.diff(view.timestamps_ns) >= 0).all()


def test_slices_and_steps(dataset):
    view = _view(dataset)
    part = view[1:5:2]
    assert len(part) == part.num_steps == 2
    assert part["word"].tolist() == ["w1", "w3"]
    assert part["view"][:, 0, 0, 0].tolist() == [1, 3]
    assert part[1:]["word"].tolist() == ["w3"]
    assert view[-1]["word"] == "w5"
    assert view[2]["state"] is None
    assert view[3]["state"].tolist() == [3, 3.5]
    assert [step["word"] for step in part] == ["w1", "w3"]
    assert len(view[4:2]) == 0
    with pytest.raises(IndexError, match="step 6 of an episode of 6"):
        view[6]


def test_metadata_and_schema(dataset):
    view = _view(dataset)
    assert view.metadata["task"] == "pick"
    assert view.metadata["camera"]["fx"] == 1.5
    assert view.metadata["camera"]["k"].tolist() == np.eye(3).tolist()
    assert view.features == ["state", "view", "word"]
    assert view.schema["state"].unit == "rad"
    assert view.schema["state"].space == "joint_position"
    assert "state" in view
    with pytest.raises(FeatureNotFoundError, match="Did you mean 'state'"):
        view["stat"]
    with pytest.raises(FeatureNotFoundError, match="encoded features are: view"):
        view.encoded("state")


def test_reprs_say_what_is_there_and_escape(dataset):
    view = _view(dataset)
    assert "state: float32(2)" in repr(view)
    page = view._repr_html_()
    assert "&lt;b&gt;ana" in page
    assert "<b>ana" not in page
    assert "joint_position" in page
    assert "lab" in dataset._repr_html_()


def test_a_name_that_is_no_text_is_a_feature_that_is_not_there(dataset):
    view = _view(dataset)
    for read in (view.age_ns, view.samples, view.encoded):
        with pytest.raises(FeatureNotFoundError, match="no feature 3; there are: state, view, word"):
            read(3)
