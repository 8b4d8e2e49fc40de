"""Normalising against its definition, its inverse, and its file."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import CorruptDataError, FeatureError, FeatureNotFoundError
from fogx.training.describe import describe
from fogx.training.normalize import MODES


def a_batch(rng, shape=(3,), *, constant=(), window=True, dtype=np.float32):
    lead = (40, 3) if window else (40,)
    values = (rng.normal(size=(*lead, *shape)) * rng.uniform(0.01, 100, size=shape) + rng.normal(size=shape) * 5).astype(dtype)
    for element in constant:
        values[..., element] = 0.1 * element
    return {"action": values, "action_is_pad": rng.random(lead) < 0.2} if window else {"action": values}


@given(st.data())
def test_counted_values_have_the_range_and_all_come_back(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    mode = data.draw(st.sampled_from(MODES))
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 3)]))
    size = shape[-1] if shape else 1
    dimensions = st.sets(st.integers(0, size - 1), max_size=size)
    constant = data.draw(dimensions) if shape else set()
    excluded = data.draw(dimensions)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    batch = a_batch(rng, shape, constant=constant, window=data.draw(st.booleans()), dtype=dtype)
    stats = describe([batch], 40, 1)
    spelled = [i - size if data.draw(st.booleans()) else i for i in sorted(excluded)]
    normalizer = fox.Normalizer(stats, mode, {"action": spelled})
    assert normalizer.exclude == {"action": sorted(excluded)}
    found = normalizer(batch)["action"]
    assert found.dtype == dtype
    counted = ~batch["action_is_pad"] if "action_is_pad" in batch else np.ones(40, bool)
    for dimension in range(size):
        before = batch["action"][..., dimension] if shape else batch["action"]
        after = found[..., dimension] if shape else found
        if dimension in constant | excluded:
            assert np.array_equal(before, after)
            continue
        flat_before = before[counted].reshape(counted.sum(), -1).astype(np.float64)
        flat = after[counted].reshape(counted.sum(), -1).astype(np.float64)
        low, high = {"mean_std": (None, None), "quantile": (0.01, 0.99), "min_max": (0, 1)}[mode]
        if mode == "mean_std":
            np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-4)
            np.testing.assert_allclose(flat.std(axis=0), 1, atol=1e-4)
        else:
            ends = np.quantile(flat_before, [low, high], axis=0)
            np.testing.assert_allclose(flat, 2 * (flat_before - ends[0]) / (ends[1] - ends[0]) - 1, atol=1e-4)
    back = normalizer.unnormalize({"action": found})["action"]
    assert back.dtype == dtype
    np.testing.assert_allclose(back, batch["action"], rtol=1e-5, atol=1e-4)


def test_only_floats_of_observations_and_actions_are_mapped():
    rng = np.random.default_rng(0)
    batch = {
        "observation/state": rng.normal(size=(9, 2)).astype(np.float32),
        "goal/observation/state": np.ones((9, 2), np.float32),
        "observation/language_embedding": rng.normal(size=(9, 4)).astype(np.float32),
        "observation/count": rng.integers(0, 9, 9),
        "reward": rng.random(9),
        "action": rng.normal(size=(9, 2)),
        "task": np.full(9, "pick", object),
    }
    normalizer = fox.Normalizer(describe([batch], 9, 1), "min_max")
    assert normalizer.features == ("observation/state", "action")
    found = normalizer(batch)
    assert found.keys() == batch.keys()
    moved = {name for name in batch if not np.array_equal(found[name], batch[name])}
    assert moved == {"observation/state", "goal/observation/state", "action"}
    one = normalizer({"observation/state": np.ones((1, 2), np.float32)})["observation/state"]
    assert np.array_equal(found["goal/observation/state"], np.repeat(one, 9, axis=0)), "a goal is measured as its feature is"
    assert np.array_equal(batch["goal/observation/state"], np.ones((9, 2))), "the batch that was given is changed"


def test_answers_of_a_policy_may_have_any_leading_axes_and_whole_numbers():
    normalizer = fox.Normalizer(describe([a_batch(np.random.default_rng(1))], 40, 1), "quantile")
    for lead in ((), (1,), (2, 8)):
        assert normalizer.unnormalize({"action": np.zeros((*lead, 3), np.float32)})["action"].shape == (*lead, 3)
    whole = normalizer.unnormalize({"action": np.ones(3, np.int64)})["action"]
    assert np.array_equal(whole, normalizer.unnormalize({"action": np.ones(3)})["action"])


def test_what_cannot_be_normalised_is_an_error():
    stats = describe([a_batch(np.random.default_rng(1))], 40, 1)
    with pytest.raises(
        FeatureError, match=r"normalize='quantil' is not known; use one of: mean_std, quantile, min_max. Did you mean 'q"
    ):
        fox.Normalizer(stats, "quantil")
    with pytest.raises(
        FeatureNotFoundError, match=r"exclude= names 'acton', which is not normalised; normalised are: action. Did you"
    ):
        fox.Normalizer(stats, "quantile", {"acton": [1]})
    with pytest.raises(FeatureError, match="exclude= of 'action': no dimension 3, -4; there are 3: 0 to 2"):
        fox.Normalizer(stats, "quantile", {"action": [3, 0, -4]})
    for given_dimensions in ("gripper", [1.0], [True]):
        with pytest.raises(FeatureError, match="give whole numbers of dimensions"):
            fox.Normalizer(stats, "quantile", {"action": given_dimensions})
    with pytest.raises(FeatureError, match=r"'action' has shape \(4, 2\); its statistics are of values of shape \(3,\)"):
        fox.Normalizer(stats, "quantile")({"action": np.zeros((4, 2))})
    infinite = describe([{"action": np.array([[1.0, np.inf], [2.0, 0.0]])}], 2, 1)
    for mode in MODES:
        with pytest.raises(FeatureError, match="1 of 2 elements of 'action' have infinite values"):
            fox.Normalizer(infinite, mode)
        assert fox.Normalizer(infinite, mode, {"action": [1]}).features == ("action",)


def test_elements_that_never_had_a_value_stay_as_they_are():
    normalizer = fox.Normalizer(describe([{"action": np.array([[1.0, np.nan], [2.0, np.nan]])}], 2, 1), "mean_std")
    assert normalizer({"action": np.array([[1.5, 7.0]])})["action"].tolist() == [[0.0, 7.0]]


@pytest.mark.parametrize("mode", MODES)
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path, mode):
    batch = a_batch(np.random.default_rng(2), (7,), constant=[2])
    normalizer = fox.Normalizer(describe([batch], 40, 3), mode, {"action": [6]})
    normalizer.save(tmp_path / "norm.json")
    back = fox.Normalizer.load(tmp_path / "norm.json")
    assert back == normalizer
    assert np.array_equal(back(batch)["action"], normalizer(batch)["action"])
    assert repr(back) == f"Normalizer({mode!r}, exclude={{'action': [6]}}; action)"
    other = fox.Normalizer.load(tmp_path / "norm.json", mode="mean_std", exclude={})
    assert (other.mode, other.exclude) == ("mean_std", {})


def test_saved_statistics_need_a_mode(tmp_path):
    batch = a_batch(np.random.default_rng(2))
    stats = describe([batch], 40, 3)
    stats.save(tmp_path / "norm.json")
    with pytest.raises(FeatureError, match=r"holds statistics; say how to normalise: Normalizer.load\(path, mode='quantile'\)"):
        fox.Normalizer.load(tmp_path / "norm.json")
    assert fox.Normalizer.load(tmp_path / "norm.json", mode="quantile") == fox.Normalizer(stats, "quantile")
    with pytest.raises(FeatureError, match="no dimension 9"):
        fox.Normalizer.load(tmp_path / "norm.json", mode="quantile", exclude={"action": [9]})


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "norm.json"
    path.write_text('{"fogx": "normalizer", "version": 1, "mode": "quantile", "exclude": 3}')
    with pytest.raises(CorruptDataError, match=r"norm.json cannot be used: KeyError: 'stats'"):
        fox.Normalizer.load(path)


def test_loading_imports_numpy_and_nothing_else(tmp_path):
    fox.Normalizer(describe([a_batch(np.random.default_rng(2))], 40, 3), "quantile").save(tmp_path / "norm.json")
    code = f"""
import sys
import numpy as np
before = set(sys.modules)
import fogx as fox
normalizer = fox.Normalizer.load({str(tmp_path / "norm.json")!r})
assert normalizer.unnormalize({{"action": np.zeros((1, 3))}})["action"].shape == (1, 3)
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*(new - set(sys.stdlib_module_names) - {{"numpy", "fogx"}}))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
