"""What may be said about alignment, and that it can be kept and read again."""

import pickle

import pytest

import fogx as fox
from fogx.align.policy import Policy
from fogx.errors import CorruptDataError, FeatureError

FULL = fox.Align(
    rate_hz=30, features={"tcp": fox.linear(0.1), "quat": fox.slerp()}, default=fox.hold(max_age_s=0.2), latency_s={"tcp": 0.01}
)


@pytest.mark.parametrize("align", [fox.Align(), fox.Align(reference="joint"), fox.Align(union=True), FULL])
def test_it_can_be_kept(align):
    assert fox.Align.from_json(align.to_json()) == align
    assert pickle.loads(pickle.dumps(align)) == align
    assert hash(fox.Align.from_json(align.to_json())) == hash(align)


def test_its_repr_says_what_was_given():
    assert repr(fox.Align()) == "Align()"
    assert repr(fox.Align(rate_hz=30)) == "Align(rate_hz=30.0)"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rate_hz": 30, "union": True}, "takes one of"),
        ({"rate_hz": 0}, "rate_hz lies between"),
        ({"rate_hz": float("nan")}, "finite"),
        ({"rate_hz": "30"}, "finite"),
        ({"reference": 3}, "name of a feature"),
        ({"union": "yes"}, "True or False"),
        ({"features": {"a": "hold"}}, "'a' has str for a policy"),
        ({"default": 3}, "'default' has int"),
        ({"latency_s": {"a": "b"}}, "latency_s of 'a'"),
        ({"latency_s": 3}, r"Align\(latency_s=\) is a dict by feature name, found int\."),
        ({"features": 3}, r"Align\(features=\) is a dict by feature name, found int\."),
        ({"features": [fox.hold()]}, "found list"),
        ({"features": {3: fox.hold()}}, "found dict with other keys than str"),
        ({"features": "tcp"}, "found str"),
    ],
)
def test_bad_arguments(given, says):
    with pytest.raises(FeatureError, match=says):
        fox.Align(**given)


@pytest.mark.parametrize("make", [lambda: fox.hold(-1), lambda: fox.hold("1"), lambda: Policy("held")])
def test_bad_policies(make):
    with pytest.raises(FeatureError):
        make()


@pytest.mark.parametrize(
    "value", [None, {}, {"reference": None}, FULL.to_json() | {"rate_hz": -1}, FULL.to_json() | {"features": 3}]
)
def test_damaged_policies(value):
    with pytest.raises(CorruptDataError):
        fox.Align.from_json(value)
