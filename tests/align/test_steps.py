"""Streams become steps as a slow, plain oracle says, and as polars' join_asof does."""

import math
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.align.steps import NEVER, Stream, align, fast_clock, many_gaps
from fogx.errors import FeatureError, TooManyStepsError
from tests.align.oracle import steps_of, take

MS = 1_000_000
TIMES = st.lists(st.integers(0, 40), max_size=12).map(lambda ms: [m * MS for m in ms])
STREAMS = st.dictionaries(st.sampled_from(["action", "action/grip", "cam", "joint"]), TIMES, min_size=1, max_size=4)
LIMITS = st.none() | st.sampled_from([0.0, 0.001, 0.005, 0.02])
POLICIES = st.builds(lambda make, limit: make(limit), st.sampled_from([fox.hold, fox.next, fox.nearest]), LIMITS) | st.just(
    fox.exact()
)
CLOCKS = st.sampled_from([{}, {"union": True}, {"rate_hz": 100.0}, {"rate_hz": 333.0}, {"rate_hz": 29.97}])


def stream(stamps, values=None, **about):
    return Stream(np.array(stamps, np.int64), values, **about)


@given(
    STREAMS, CLOCKS, st.dictionaries(st.sampled_from(["action", "action/grip", "cam", "joint"]), POLICIES), st.none() | POLICIES
)
def test_it_does_as_the_oracle(given_streams, clock, policies, default):
    policy = fox.Align(**clock, features={n: p for n, p in policies.items() if n in given_streams}, default=default)
    steps = align({name: stream(stamps) for name, stamps in given_streams.items()}, policy)
    assert steps.times_ns.tolist() == steps_of(given_streams, policy)
    for name, stamps in given_streams.items():
        chosen = policy.features.get(name) or default or fox.hold()
        if name not in policy.features and name.startswith("action") and name != steps.clock:
            chosen = fox.next()
        assert steps.features[name].sample.tolist() == [take(step, stamps, chosen) for step in steps.times_ns.tolist()]
        for step, number, age in zip(steps.times_ns, steps.features[name].sample, steps.features[name].age_ns, strict=True):
            assert number < 0 or age == step - stamps[number]


@given(STREAMS, CLOCKS, st.randoms())
def test_the_order_of_features_does_not_matter(given_streams, clock, random):
    names = list(given_streams)
    first = align({name: stream(given_streams[name]) for name in names}, fox.Align(**clock))
    random.shuffle(names)
    again = align({name: stream(given_streams[name]) for name in names}, fox.Align(**clock))
    assert first.clock == again.clock
    assert first.times_ns.tolist() == again.times_ns.tolist()
    assert all(first.features[n].sample.tolist() == again.features[n].sample.tolist() for n in names)


@given(TIMES.filter(len), TIMES.filter(len), LIMITS, st.sampled_from(["backward", "forward", "nearest"]))
def test_it_does_as_polars(clock, other, limit, strategy):
    clock, other = sorted(set(clock)), sorted(set(other))
    make = {"backward": fox.hold, "forward": fox.next, "nearest": fox.nearest}[strategy]
    policy = fox.Align(reference="clock", features={"other": make(limit)})
    found = align({"clock": stream(clock), "other": stream(other)}, policy).features["other"].sample
    tolerance = None if limit is None else round(limit * 1e9)
    joined = pl.DataFrame({"t": clock}).join_asof(
        pl.DataFrame({"t": other, "n": range(len(other)), "at": other}), on="t", strategy=strategy, tolerance=tolerance
    )
    for step, ours, theirs in zip(clock, found.tolist(), joined["n"].to_list(), strict=True):
        # Of two at the same distance polars takes the later, fogx the earlier: no value from the future without need.
        tie = strategy == "nearest" and theirs is not None and abs(other[ours] - step) == abs(other[theirs] - step)
        assert ours == (-1 if theirs is None else theirs) or (tie and other[ours] < step)


@pytest.mark.parametrize("clock", ["image", "action"])
def test_each_image_meets_the_command_that_it_caused(clock):
    images = np.arange(60) * 33 * MS
    streams = {"image": stream(images, is_camera=True), "action": stream(images + 15 * MS, np.arange(60.0))}
    steps = align(streams, fox.Align(reference=clock))
    assert steps.features["image"].sample.tolist() == steps.features["action"].sample.tolist() == list(range(60))


def test_sixty_rounds_are_sixty_steps():
    stamps = np.arange(60) * 10 * MS
    streams = {"a": stream(stamps), "image": stream(stamps + MS), "b": stream(stamps + 2 * MS)}
    steps = align(streams, fox.Align(reference="b"))
    assert all(taken.sample.tolist() == list(range(60)) for taken in steps.features.values())


@given(TIMES.filter(len), st.data())
def test_linear_is_numpys_interp(stamps, data):
    values = np.array(data.draw(st.lists(st.floats(-1e3, 1e3), min_size=len(stamps), max_size=len(stamps))))
    policy = fox.Align(rate_hz=700, features={"x": fox.linear()})
    steps = align({"x": stream(stamps, values), "pad": stream([0, 50 * MS])}, policy)
    last = dict(zip(stamps, values, strict=True))
    xs = sorted(last)
    want = np.interp(steps.times_ns, xs, [last[x] for x in xs], left=math.nan, right=math.nan)
    taken = steps.features["x"]
    assert (taken.sample >= 0).tolist() == (~np.isnan(want)).tolist()
    np.testing.assert_allclose(taken.values[taken.sample >= 0], want[~np.isnan(want)], atol=1e-9)


def test_linear_is_the_same_in_every_piece():
    """Thousands of steps, of samples that are late, doubled and infinite."""
    random = np.random.default_rng(0)
    stamps = np.sort(random.integers(0, 10_000, 3_000)) * MS
    stamps[100:200] = stamps[100:200][::-1]
    values = random.normal(size=(3_000, 2)).astype(np.float32)
    values[1_000] = np.inf
    policy = fox.Align(rate_hz=1_000, features={"x": fox.linear(0.05)})
    steps = align({"x": stream(stamps, values), "pad": stream([0, 10_000 * MS])}, policy)
    last = dict(zip(stamps.tolist(), range(3_000), strict=True))
    xs = np.array(sorted(last))
    taken = steps.features["x"]
    assert len(steps.times_ns) == 10_001
    for step, number, made in zip(steps.times_ns.tolist(), taken.sample.tolist(), taken.values, strict=True):
        after = int(np.searchsorted(xs, step))
        if step in last:
            assert number == last[step]
            assert made.tolist() == values[last[step]].tolist()
        elif 0 < after < len(xs) and xs[after] - xs[after - 1] <= 50 * MS:
            a, b = (values[last[int(x)]].astype(np.float64) for x in xs[after - 1 : after + 1])
            with np.errstate(invalid="ignore"):
                want = (a + (b - a) * ((step - xs[after - 1]) / (xs[after] - xs[after - 1]))).astype(np.float32)
            assert number == last[int(xs[after - 1])]
            assert np.array_equal(made, want, equal_nan=True)
        else:
            assert (number, made.tolist()) == (-1, [0, 0])


def test_linear_stops_at_a_gap_that_is_too_long():
    policy = fox.Align(reference="clock", features={"x": fox.linear(max_gap_s=0.010)})
    streams = {
        "clock": stream(np.arange(0, 40, 5) * MS),
        "x": stream([0, 10 * MS, 30 * MS], np.array([[0.0], [1.0], [2.0]], np.float32)),
    }
    taken = align(streams, policy).features["x"]
    assert (taken.sample >= 0).tolist() == [True, True, True, False, False, False, True, False]
    assert taken.values.dtype == np.float32
    assert taken.values[:3, 0].tolist() == [0.0, 0.5, 1.0]


def test_slerp_takes_the_short_way_though_a_sign_flips():
    def turn(degrees):
        return [0.0, 0.0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2)]

    quaternions = np.array([turn(0), [-x for x in turn(90)], turn(180)])
    policy = fox.Align(rate_hz=100, features={"q": fox.slerp()})
    values = align({"q": stream([0, 90 * MS, 180 * MS], quaternions)}, policy).features["q"].values
    np.testing.assert_allclose(values, [turn(10 * k) for k in range(19)], atol=1e-12)


def test_latency_moves_a_stream():
    policy = fox.Align(reference="joint", latency_s={"cam": 0.050})
    streams = {"joint": stream([0, 50 * MS]), "cam": stream([50 * MS, 100 * MS])}
    taken = align(streams, policy).features["cam"]
    assert taken.sample.tolist() == [0, 1]
    assert taken.age_ns.tolist() == [0, 0]


def test_a_gap_has_an_age():
    policy = fox.Align(reference="clock", features={"x": fox.hold(max_age_s=0.010)})
    taken = align({"clock": stream([0, 10 * MS, 20 * MS, 30 * MS]), "x": stream([10 * MS])}, policy).features["x"]
    assert taken.sample.tolist() == [-1, 0, 0, -1]
    assert taken.age_ns.tolist() == [NEVER, 0, 10 * MS, 20 * MS]


def test_a_clock_that_is_set_back_begins_anew():
    """Two features at 10 ms; after 1 s the clock is set back by an hour."""
    back = -3600 * 1000 * MS
    stamps = np.concatenate([np.arange(100) * 10 * MS, np.arange(100, 200) * 10 * MS + back])
    a, b = np.arange(0, 400, 2), np.arange(1, 400, 2)
    steps = align({"a": stream(stamps, arrival=a), "b": stream(stamps + MS, arrival=b)}, fox.Align(reference="a"))
    assert steps.cuts == (100,)
    assert steps.times_ns.tolist() == stamps.tolist()
    assert steps.features["b"].sample.tolist() == [-1, *range(99), -1, *range(100, 199)]


def test_late_samples_are_put_in_order_and_of_a_stamp_the_last_counts():
    steps = align({"a": stream([0, 20 * MS, 10 * MS, 20 * MS], arrival=np.arange(4))}, None)
    assert steps.times_ns.tolist() == [0, 10 * MS, 20 * MS]
    assert steps.features["a"].sample.tolist() == [0, 2, 3]


def test_nothing_at_all():
    steps = align({"a": stream([])}, None)
    assert len(steps.times_ns) == len(steps.features["a"].sample) == 0
    assert len(align({}, fox.Align(rate_hz=5)).times_ns) == 0


def test_a_rate_does_not_drift():
    day_ns = 24 * 3600 * 10**9
    times = align({"a": stream([5, 5 + day_ns])}, fox.Align(rate_hz=30)).times_ns
    assert times[0] == 5
    assert times[-1] == 5 + day_ns
    assert len(times) == 24 * 3600 * 30 + 1


@pytest.mark.parametrize("stray", [0, 1_700_000_000_000_000_000 * 2])
def test_one_stray_stamp_does_not_take_all_memory(stray):
    now = 1_700_000_000_000_000_000
    streams = {"cam": stream([now, now + 33 * MS, stray, now + 66 * MS]), "joint": stream(now + np.arange(100) * 10 * MS)}
    says = rf"makes 5\d{{10}} steps of 104 samples\. Feature 'cam' has the stamp {stray} ns, 1[67]\d* s apart .*reference='cam'"
    with pytest.raises(TooManyStepsError, match=says):
        align(streams, fox.Align(rate_hz=30))
    assert len(align(streams, fox.Align(reference="cam")).times_ns) == 4
    assert len(align(streams, fox.Align(union=True)).times_ns) <= 104


@pytest.mark.parametrize("stamps", [np.arange(100) * 10 * MS, [0, 990 * MS], [0, 10**12]])
def test_a_rate_that_is_too_high_is_not_blamed_on_a_stamp(stamps):
    says = (
        rf"rate_hz=1e\+09 makes \d+ steps of {len(stamps)} samples in [\d.]+ s; allowed are 4000000\. Take rate_hz=(\S+) or less"
    )
    with pytest.raises(TooManyStepsError, match=says) as error:
        align({"cam": stream(stamps)}, fox.Align(rate_hz=1e9))
    assert "stamp " not in str(error.value)
    rate_hz = float(re.search(says, str(error.value))[1])
    steps = align({"cam": stream(stamps)}, fox.Align(rate_hz=rate_hz)).times_ns
    assert 3_000_000 < len(steps) <= 4_000_000


def test_gaps_are_told_with_rates():
    streams = {"clock": stream(np.arange(100) * 10 * MS), "x": stream([500 * MS]), "y": stream(np.arange(100) * 10 * MS)}
    policy = fox.Align(reference="clock", features={"x": fox.hold(max_age_s=0.1)})
    told = many_gaps(streams, align(streams, policy), policy)
    assert told.startswith(
        "89 of 300 values (30%) are missing after alignment to 100 steps (100 in 1.0 s, 100.0/s): x at 89 steps (1 in"
    )
    assert many_gaps(streams, align(streams, fox.Align(reference="x")), fox.Align(reference="x")) is None
    assert many_gaps({}, align({}), fox.Align()) is None


def test_a_clock_much_faster_than_a_camera_is_told():
    streams = {"action": stream(np.arange(500) * 2 * MS), "cam": stream(np.arange(30) * 33 * MS, is_camera=True)}
    assert "reference='cam'" in fast_clock(streams, align(streams))
    slower = fox.Align(reference="cam")
    assert fast_clock(streams, align(streams, slower)) is None


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (fox.Align(reference="jont"), "Did you mean 'joint'"),
        (fox.Align(features={"cam": fox.linear()}), "holds images or text, linear is for floats"),
        (fox.Align(features={"count": fox.linear()}), "holds int64"),
        (fox.Align(features={"joint": fox.slerp()}), "slerp is for quaternions"),
        (fox.Align(latency_s={"x": 1}), "no feature 'x'"),
    ],
)
def test_policies_that_do_not_fit(policy, says):
    streams = {"joint": stream([0], np.zeros((1, 7))), "cam": stream([0]), "count": stream([0], np.zeros(1, np.int64))}
    with pytest.raises(FeatureError, match=says):
        align(streams, policy)


def test_a_default_that_interpolates_holds_the_rest():
    streams = {"joint": stream([0, 20 * MS], np.array([0.0, 2.0])), "cam": stream([0]), "clock": stream([0, 10 * MS, 20 * MS])}
    found = align(streams, fox.Align(reference="clock", default=fox.linear())).features
    assert found["joint"].values.tolist() == [0.0, 1.0, 2.0]
    assert found["cam"].sample.tolist() == [0, 0, 0]
