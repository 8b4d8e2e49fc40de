"""Relative actions against the subtraction written out item by item, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import FeatureError, FeatureNotFoundError
from fogx.training.relative import Relative


def features(action=(7,), state=(7,), **kwargs):
    return {
        "action": fox.Feature("float32", action, **kwargs.get("of_action", {})),
        "state": fox.Feature("float32", state, **kwargs.get("of_state", {})),
    }


@given(st.data())
def test_each_action_has_the_state_of_its_step_subtracted_and_comes_back(data):
    batch, window, history = (data.draw(st.integers(0, 4)), *(data.draw(st.one_of(st.none(), st.integers(1, 3))) for _ in "ab"))
    scalar = data.draw(st.booleans())
    action_shape, state_shape = ((), ()) if scalar else ((data.draw(st.integers(0, 4)),), (data.draw(st.integers(0, 4)),))
    at = None if history is None else data.draw(st.integers(0, history - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    lead = (batch,) if window is None else (batch, window)
    state_lead = (batch,) if history is None else (batch, history)
    values = {
        "action": rng.normal(size=(*lead, *action_shape)).astype(np.float32),
        "state": rng.normal(size=(*state_lead, *state_shape)).astype(np.float32),
        "other": rng.normal(size=batch),
    }
    if data.draw(st.booleans()):
        values["action_is_valid"] = rng.random(lead) < 0.7
        values["action"][~values["action_is_valid"]] = 0
    if data.draw(st.booleans()):
        values["state_is_valid"] = rng.random(state_lead) < 0.7
        values["state"][~values["state_is_valid"]] = 0
    before = {name: value.copy() for name, value in values.items()}
    relative = Relative({"action": "state"}, features(action_shape, state_shape), {} if at is None else {"state": at})
    found = relative(values)

    def at_step(array):
        return array if at is None else array[:, at]

    for i in range(batch):
        state, known = at_step(values["state"])[i], at_step(values.get("state_is_valid", np.ones(state_lead, bool)))[i]
        chunk = values["action"][i] if window is not None else values["action"][i][None]
        valid = np.atleast_1d(values.get("action_is_valid", np.ones(lead, bool))[i]) & known
        for j, action in enumerate(chunk):
            wanted = np.array(action)
            if scalar:
                wanted = wanted - state
            else:
                shared = min(len(action), len(state))
                wanted[:shared] -= state[:shared]
            result = found["action"][i] if window is None else found["action"][i, j]
            assert np.array_equal(result, wanted if valid[j] else np.zeros_like(wanted))
        if "action_is_valid" in found:
            assert np.array_equal(np.atleast_1d(found["action_is_valid"][i]), valid)
    assert ("action_is_valid" in found) == ("action_is_valid" in values or "state_is_valid" in values)
    assert found["action"].dtype == np.float32
    assert all(np.array_equal(values[name], before[name]) for name in before), "the batch that was given is changed"
    back = relative.absolute(found, {"state": at_step(values["state"])})
    kept = found.get("action_is_valid", np.ones(lead, bool))
    np.testing.assert_allclose(back["action"][kept], values["action"][kept], atol=1e-5)


def test_a_policys_answer_of_another_length_comes_back():
    relative = Relative({"action": "state"}, features((3,), (2,)))
    states = {"state": np.array([[1.0, 2.0]], np.float32)}
    for lead in ((1, 5), (5,), (1,), ()):
        back = relative.absolute({"action": np.zeros((*lead, 3), np.float32)}, {"state": states["state"][0]})
        assert np.array_equal(back["action"], np.broadcast_to([1, 2, 0], (*lead, 3)))
    assert relative.absolute({"other": np.ones(3)}, {}).keys() == {"other"}


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (features(of_action={"rotation": "quat_xyzw"}), "'action' holds rotations as 'quat_xyzw'"),
        (features(of_state={"rotation": "Matrix"}), "'state' holds rotations as 'Matrix'"),
        (
            features(of_action={"space": "eef_delta"}, of_state={"space": "eef_pose"}),
            "'action' is 'eef_delta' and 'state' 'eef_pose'",
        ),
        (features((2, 3)), r"vectors of fixed length.*'action' is float32\(2×3\)"),
        (features(()), r"'action' is float32, 'state' is float32\(7\)"),
        (features((None,)), r"vectors of fixed length.*float32\(\?\)"),
        ({**features(), "state": fox.Feature("int32", (7,))}, r"subtracts floats.*'state' is int32\(7\)"),
    ],
)
def test_what_has_no_difference_is_an_error(known, message):
    with pytest.raises(FeatureError, match=message):
        Relative({"action": "state"}, known)


def test_names_that_items_do_not_have_are_an_error():
    with pytest.raises(FeatureNotFoundError, match=r"'stat'.*they have: action, state.*Did you mean 'state'"):
        Relative({"action": "stat"}, features())


def test_an_answer_before_a_state_or_of_another_shape_is_an_error():
    relative = Relative({"action": "state"}, features())
    with pytest.raises(FeatureError, match="relative to 'state', and the last step has none"):
        relative.absolute({"action": np.zeros(7)}, {})
    with pytest.raises(FeatureError, match=r"'action' has shape \(6,\); wanted is \(7,\)"):
        relative.absolute({"action": np.zeros(6)}, {"state": np.zeros(7)})
