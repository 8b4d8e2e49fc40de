"""Replaying episodes through Online against the items that training has of them."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import CorruptDataError, FeatureError, FeatureNotFoundError, FeatureTypeError

NOT_SEEN = {"episode_id", "step_index", "frame_index", "action", "action_is_pad", "action_is_valid", "reward", "next.reward"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three episodes at unsteady times, whose steps lack some values."""
    rng = np.random.default_rng(0)
    dataset = fox.Dataset(
        tmp_path_factory.mktemp("lab"), features={"points": fox.Feature("float64", (None, 2)), "depth": fox.Feature(camera="png")}
    )
    for length in (1, 7, 12):
        time_ns = 10**18
        with dataset.new_episode(task="pick") as episode:
            for i in range(length):
                time_ns += int(rng.integers(30, 130)) * 1_000_000
                step = {
                    "observation/state": rng.normal(size=4),
                    "observation/wrist": rng.integers(0, 256, (40, 48, 3), np.uint8),
                    "depth": rng.integers(0, 5000, (36, 44), np.uint16),
                    "observation/buttons": rng.integers(0, 9, 2).astype(np.int16),
                    "points": rng.normal(size=(int(rng.integers(0, 4)), 2)),
                    "language_instruction": f"pick {i}",
                    "action": rng.normal(size=5).astype(np.float32),
                    "reward": 0.5,
                }
                for name in ("observation/force", "observation/gray"):
                    if rng.random() < 0.7:
                        step[name] = rng.normal(size=3) if name.endswith("force") else rng.integers(0, 256, (32, 33), np.uint8)
                episode.add_step(step, time_ns)
    return dataset


NAMES = [
    "observation/state",
    "observation/wrist",
    "depth",
    "observation/buttons",
    "points",
    "language_instruction",
    "observation/force",
    "observation/gray",
]

PAST = st.one_of(
    st.lists(st.integers(-6, 0), min_size=1, max_size=4).map(fox.steps),
    st.lists(st.sampled_from([-0.5, -0.31, -0.2, -0.1, -0.05, 0.0]), min_size=1, max_size=4),
    st.tuples(st.sampled_from([-0.4, -0.25]), st.sampled_from([0.01, -0.1]), st.sampled_from([5, 10])).map(
        lambda given: fox.seconds(given[0], given[1], hz=given[2])
    ),
)


def observations(view):
    """Yield the time and the values of each step of an episode, None where there is none."""
    for i in range(view.num_steps):
        step = view[i]
        yield int(view["timestamp_ns"][i]), {name: step.get(name) for name in NAMES}


def assert_same(batch, item):
    """Whether a batch of one is an item to the bit: names, dtypes, shapes and values."""
    assert set(batch) == set(item) - NOT_SEEN
    for name, values in batch.items():
        wanted = item[name]
        assert len(values) == 1, name
        if isinstance(wanted, torch.Tensor):
            assert values[0].dtype == wanted.numpy().dtype, name
            assert np.array_equal(values[0], wanted.numpy()), name
        elif isinstance(wanted, str):
            assert values[0] == wanted, name
        else:  # texts of a window, values of varying shape
            assert len(values[0]) == len(wanted), name
            assert all(np.array_equal(a, b) for a, b in zip(values[0], wanted, strict=True)), name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.data())
def test_replaying_an_episode_gives_its_items(recorded, tmp_path_factory, data):
    draw = data.draw
    rename = draw(st.dictionaries(st.sampled_from(NAMES[:4]), st.sampled_from(["a", "b", "observation/c"]), max_size=2))
    rename = dict(zip(rename, dict.fromkeys(rename.values()), strict=False))
    names = draw(
        st.lists(st.sampled_from(NAMES), unique=True, max_size=6).map(lambda found: sorted({"observation/state", *found}))
    )
    new = [rename.get(name, name) for name in names]
    state = rename.get("observation/state", "observation/state")
    windows = draw(st.dictionaries(st.sampled_from(new), PAST))
    spec = {
        "features": [*new, "action", "reward"],
        "windows": {**windows, "action": fox.steps(0, 3)},
        "rename": {old: to for old, to in rename.items() if old in names},
        "pad": draw(st.sampled_from(["edge", "zero"])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "image_size": draw(st.sampled_from([None, (24, 20), (64, 64)])),
        "keys": draw(st.sampled_from([None, "lerobot"])),
        "language": draw(st.sampled_from([None, "first"])) if "language_instruction" not in names else None,
        "goals": draw(st.sampled_from([None, {state: "last"}])),
        "normalize": draw(st.sampled_from([None, "mean_std", "quantile", "min_max"])),
    }
    if state not in windows and draw(st.booleans()):
        spec["relative"] = {"action": state}
    items = recorded.as_pytorch_dataset(**spec)
    online = items.online()
    if draw(st.booleans()):
        path = tmp_path_factory.mktemp("robot") / "io.json"
        online.save(path)
        online = fox.Online.load(path)
    by_new_name = draw(st.booleans())
    position = 0
    for view in recorded:
        online.reset()
        last = view[view.num_steps - 1]["observation/state"]
        for time_ns, seen in observations(view):
            seen = {spec["rename"].get(name, name) if by_new_name else name: value for name, value in seen.items()}
            if spec["language"]:
                seen["language_instruction"] = "pick"
            if spec["goals"]:
                seen[f"goal/{state}"] = last
            item = items[position]
            batch = online(seen, timestamp_ns=time_ns)
            assert_same(batch, item)
            position += 1
    assert position == len(items)
