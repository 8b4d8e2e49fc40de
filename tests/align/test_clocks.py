"""A clock that was set back, told from a backlog that comes late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.align.clocks import set_back
from fogx.align.steps import Stream, align
from tests.align import oracle

MS = 1_000_000
S = 1_000 * MS


def sensor(seconds, hz, *, delay=3 * MS, start=0):
    """Return the stamps of a sensor, and when each would come."""
    stamps = start + (np.arange(round(seconds * hz)) * 1e9 / hz).astype(np.int64)
    return stamps, stamps + delay


def in_order_of_arrival(stamps, received):
    order = np.argsort(received, kind="stable")
    return stamps[order], received[order]


def backlog(stamps, received, first_s, last_s, *, until_s):
    """Let the samples of a span come late, at once, after some that are newer."""
    late = (stamps >= first_s * S) & (stamps < last_s * S)
    received = received.copy()
    received[late] = until_s * S + np.arange(late.sum()) * 10_000
    return in_order_of_arrival(stamps, received)


@pytest.mark.parametrize("by_s", [0.3, 1.0, 3600.0])
@pytest.mark.parametrize("hz", [20, 30, 500])
def test_a_clock_that_is_set_back(by_s, hz):
    stamps, received = sensor(60, hz)
    stamps = np.where(np.arange(len(stamps)) >= 20 * hz, stamps - round(by_s * S), stamps)
    assert set_back(stamps, received) == 20 * hz


@pytest.mark.parametrize("late_s", [0.3, 1.0, 5.0, 20.0])
def test_a_backlog_that_comes_late(late_s):
    stamps, received = backlog(*sensor(60, 30), 20, 20 + late_s, until_s=20 + late_s + 0.2)
    assert (np.diff(stamps) < 0).any()
    assert set_back(stamps, received) is None


def test_samples_that_lag_for_long_and_come_back():
    stamps, received = sensor(60, 100)
    lagging = (stamps >= 20 * S) & (stamps < 25 * S) & (np.arange(len(stamps)) % 2 == 0)
    assert set_back(*in_order_of_arrival(stamps, received + 4 * S * lagging)) is None


def test_a_clock_that_drifts_is_not_set_back():
    """200 ppm over an hour are 0.7 s; some samples come late."""
    stamps, received = sensor(3600, 20)
    for drift in (2e-4, -2e-4):
        late = np.arange(len(stamps)) % 50 == 0
        drifted = (stamps * (1 + drift)).astype(np.int64)
        assert set_back(*in_order_of_arrival(drifted, received + 200 * MS * late)) is None


def test_a_small_step_is_left():
    stamps, received = sensor(10, 100)
    assert set_back(np.where(stamps > 5 * S, stamps - 90 * MS, stamps), received) is None


def test_a_late_end_counts_as_set_back():
    """Nothing tells the two apart there, and mixed times would be worse."""
    stamps, received = sensor(10, 10)
    assert set_back(*backlog(stamps, received, 8, 9, until_s=11)) == 90


def test_a_simulation_that_begins_again():
    """Ten times as fast as its stamps go: arrivals tell nothing."""
    stamps = np.concatenate([np.arange(1000) * 10 * MS, np.arange(2000) * 10 * MS])
    received = np.arange(3000) * MS
    assert set_back(stamps, received) == 1000
    assert set_back(stamps, None) == 1000
    assert set_back(np.array([0, 2 * S, 1_100 * MS]), None) is None


def test_each_sensor_has_its_clock():
    """The camera's clock is set back by 0.3 s while the arm has a backlog of 5 s; the first cuts all streams, the other none."""
    cam, cam_received = sensor(40, 30)
    cam = np.where(cam >= 10 * S, cam - 300 * MS, cam)
    arm, arm_received = backlog(*sensor(40, 100), 25, 30, until_s=30.2)
    arrival = np.argsort(np.argsort(np.concatenate([cam_received, arm_received]), kind="stable"))
    streams = {
        "cam": Stream(cam, arrival=arrival[: len(cam)], received_ns=cam_received),
        "arm": Stream(arm, arrival=arrival[len(cam) :], received_ns=arm_received),
    }
    steps = align(streams, fox.Align(reference="arm"))
    assert len(steps.cuts) == 1
    assert 10 * S <= steps.times_ns[steps.cuts[0]] <= 10 * S + 20 * MS
    assert (np.diff(np.delete(steps.times_ns, steps.cuts[0])) > 0).all()
    assert len(steps.times_ns) == len(arm)
    steps = align(streams, fox.Align(reference="cam"))
    assert steps.times_ns.tolist() == cam.tolist()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["action", "cam", "joint"]),
        st.sampled_from([1, 5, 40, 400, 20_000]),  # ms until it comes
        st.sampled_from([0, 0, 0, 0, 3, 150, 900, 5_000]),  # ms late
        st.sampled_from([0, 0, 0, 0, 0, -300, -4_000, 3_000]),  # ms by which its clock is set
    ),
    max_size=25,
)


@given(STEPS, st.sampled_from([{}, {"union": True}, {"rate_hz": 20.0}, {"latency_s": {"cam": 0.02}}]))
def test_it_does_as_the_oracle(events, given_policy):
    policy = fox.Align(**given_policy)
    came, clock_ms, now_ms = {"action": [], "cam": [], "joint": []}, dict.fromkeys(["action", "cam", "joint"], 0), 0
    for arrival, (name, wait_ms, late_ms, set_ms) in enumerate(events):
        now_ms += wait_ms
        clock_ms[name] += set_ms
        came[name].append((arrival, (now_ms - late_ms + clock_ms[name]) * MS, now_ms * MS))
    streams = {
        name: Stream(*(np.array([s[k] for s in samples], np.int64) for k in (1,)), None, np.array([s[0] for s in samples], np.int64),
                     received_ns=np.array([s[2] for s in samples], np.int64))
        for name, samples in came.items()
    }  # fmt: skip
    found = align(streams, policy)
    shifted = {
        name: [(a, t - round(policy.latency_s.get(name, 0) * 1e9), r) for a, t, r in samples] for name, samples in came.items()
    }
    times, samples = [], {name: [] for name in came}
    for part in oracle.parts_of(shifted):
        stamps = {name: [t for _, t, _ in own] for name, own in part.items()}
        steps = sorted(set(stamps[found.clock])) if found.clock else oracle.steps_of(stamps, policy)
        times += steps
        for name, own in part.items():
            chosen = fox.next() if name == "action" and found.clock != "action" else fox.hold()
            before = [arrival for arrival, _, _ in shifted[name]]
            first = before.index(own[0][0]) if own else 0
            samples[name] += [n if n < 0 else n + first for n in (oracle.take(step, stamps[name], chosen) for step in steps)]
    assert found.times_ns.tolist() == times
    assert {name: taken.sample.tolist() for name, taken in found.features.items()} == samples
