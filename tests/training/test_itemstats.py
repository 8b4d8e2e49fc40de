"""Statistics in files: fogx's own, and those that LeRobot and OpenVLA read."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fogx.errors import CorruptDataError, DatasetNotFoundError, FeatureError, FeatureNotFoundError, FogxError, FormatVersionError
from fogx.training.describe import describe
from fogx.training.itemstats import PARTS, ItemStats


def example():
    rng = np.random.default_rng(0)
    batch = {
        "action": rng.normal(size=(50, 4, 7)).astype(np.float32),
        "action_is_pad": rng.random((50, 4)) < 0.2,
        "observation/state": rng.normal(size=(50, 6)),
        "observation/wrist": rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8),
        "observation/depth": rng.integers(0, 9000, (50, 1, 8, 8), dtype=np.uint16),
        "reward": rng.random(50),
    }
    return describe([batch], 50, 4, images=["observation/wrist", "observation/depth"])


@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.integers(0, 9),
)
def test_what_is_saved_comes_back_to_the_bit(tmp_path_factory, values, episodes):
    path = tmp_path_factory.mktemp("stats") / "deep" / "norm.json"
    stats = describe([{"x": values}], len(values) + 1, episodes)
    stats.save(path)
    back = ItemStats.load(path)
    assert (back.num_items, back.num_episodes, list(back)) == (len(values) + 1, episodes, ["x"])
    for part in PARTS:
        assert np.array_equal(back["x"][part], stats["x"][part], equal_nan=True)
    assert np.array_equal(back["x"].count, stats["x"].count)
    for name in ("dtype", "shape", "image", "rank_error", "sampled"):
        assert getattr(back["x"], name) == getattr(stats["x"], name)
    json.loads(path.read_bytes(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    stats = example()
    for _ in range(2):
        stats.save(tmp_path / "norm.json")
    assert [path.name for path in tmp_path.iterdir()] == ["norm.json"]


def test_lerobot_reads_these(tmp_path):
    """What `validate_feature_stats` of LeRobot asks: at least one axis, `count` of one entry, images (C, 1, 1) up to 1."""
    stats = example()
    stats.save_lerobot(tmp_path / "meta" / "stats.json")
    found = json.loads((tmp_path / "meta" / "stats.json").read_text())
    ours = {"observation.images.wrist": "observation/wrist", "observation.images.depth": "observation/depth"}
    assert set(found) == {"action", "observation.state", "next.reward", *ours}
    for name, parts in found.items():
        assert set(parts) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
        shape = np.shape(parts["mean"])
        assert all(np.shape(parts[part]) == shape for part in PARTS)
        assert np.shape(parts["count"]) == (1,)
        assert shape == {"action": (7,), "observation.state": (6,), "next.reward": (1,)}.get(name) or stats[ours[name]].shape
    wrist, depth = found["observation.images.wrist"], found["observation.images.depth"]
    assert np.allclose(np.array(wrist["mean"]) * 255, stats["observation/wrist"]["mean"])
    assert np.max(wrist["max"]) <= 1
    assert np.array_equal(depth["max"], stats["observation/depth"]["max"])
    assert found["next.reward"]["count"] == [50]


def test_openvla_reads_these(tmp_path):
    """What OpenVLA's `get_action_stats` and `predict_action` take: one dict a dataset, lists of the action's length, a mask."""
    stats = example()
    stats.save_openvla(tmp_path / "a.json", "bridge", proprio="observation/state", exclude=[-1])
    (found,) = json.loads((tmp_path / "a.json").read_text()).items()
    name, body = found
    assert name == "bridge"
    assert set(body) == {"action", "proprio", "num_transitions", "num_trajectories"}
    assert (body["num_transitions"], body["num_trajectories"]) == (50, 4)
    assert body["action"].pop("mask") == [True] * 6 + [False]
    for part, feature in (("action", "action"), ("proprio", "observation/state")):
        assert set(body[part]) == {"mean", "std", "max", "min", "q01", "q99"}
        assert all(np.array_equal(body[part][key], stats[feature][key]) for key in body[part])
    stats.save_openvla(tmp_path / "b.json", "bridge")
    assert "proprio" not in json.loads((tmp_path / "b.json").read_text())["bridge"]


def test_what_other_forms_cannot_hold_is_an_error(tmp_path):
    stats = example()
    path = tmp_path / "x.json"
    with pytest.raises(FeatureNotFoundError, match=r"no statistics of 'acton'.*Did you mean 'action'"):
        stats.save_openvla(path, "bridge", action="acton")
    with pytest.raises(FeatureError, match=r"of vectors; 'observation/wrist' has shape \(3, 1, 1\)"):
        stats.save_openvla(path, "bridge", proprio="observation/wrist")
    with pytest.raises(FeatureError, match="exclude= of 'action': no dimension 7; there are 7: 0 to 6"):
        stats.save_openvla(path, "bridge", exclude=[7])
    empty = describe([{"action": np.array([[1.0, np.nan]])}], 1, 1)
    for save in (empty.save_lerobot, lambda p: empty.save_openvla(p, "bridge")):
        with pytest.raises(FeatureError, match="'action': 1 of 2 elements have no value"):
            save(path)
    assert not path.exists()


def test_names_that_are_not_there():
    stats = example()
    with pytest.raises(FeatureNotFoundError, match="no statistics of 'acton'"):
        stats["acton"]
    with pytest.raises(FeatureNotFoundError, match="no 'q5' among the statistics; there are: mean, std"):
        stats["action"]["q5"]
    assert "acton" not in stats
    assert repr(stats).startswith("<fogx statistics of 50 items of 4 episodes; action, ")


def changed(body, change):
    change(body)
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda body: b"{", CorruptDataError, "is no JSON"),
        (lambda body: b"\xff", CorruptDataError, "is no JSON"),
        (lambda body: b"[" * 100_000, CorruptDataError, "is no JSON"),
        (lambda body: b"[]", CorruptDataError, "holds nothing that fogx wrote"),
        (lambda body: changed(body, lambda b: b.update(fogx=["x"])), CorruptDataError, "holds nothing that fogx wrote"),
        (lambda body: changed(body, lambda b: b.update(fogx="online")), CorruptDataError, "holds fogx online; wanted is one of"),
        (lambda body: changed(body, lambda b: b.update(version=2)), FormatVersionError, "has version 2, this fogx reads 1"),
        (lambda body: changed(body, lambda b: b.pop("features")), CorruptDataError, "cannot be used: KeyError"),
        (lambda body: changed(body, lambda b: b.update(features=[])), CorruptDataError, "cannot be used: AttributeError"),
        (
            lambda body: changed(body, lambda b: b["features"]["action"].update(shape=[8])),
            CorruptDataError,
            "cannot be used: Value",
        ),
        (
            lambda body: changed(body, lambda b: b["features"]["action"].update(shape=[1 << 40])),
            CorruptDataError,
            "cannot be used",
        ),
        (
            lambda body: changed(body, lambda b: b["features"]["action"].update(dtype="object")),
            CorruptDataError,
            "dtype 'object'",
        ),
        (
            lambda body: changed(body, lambda b: b["features"]["action"].update(count=[1 << 70] * 7)),
            CorruptDataError,
            "cannot be used",
        ),
        (
            lambda body: changed(body, lambda b: b["features"]["action"].update(mean=["a"] * 7)),
            CorruptDataError,
            "cannot be used",
        ),
    ],
)
def test_damaged_files_are_errors_that_name_them(tmp_path, damage, error, message):
    path = tmp_path / "norm.json"
    example().save(path)
    path.write_bytes(damage(json.loads(path.read_bytes())))
    with pytest.raises(error, match=message) as caught:
        ItemStats.load(path)
    assert isinstance(caught.value, FogxError)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        ItemStats.load(tmp_path / "norm.json")
