"""Replaying episodes through Online against the items that training has of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import FeatureError, FeatureNotFoundError, FeatureTypeError, FogxError, SelectionError

COUNTED = {"episode_id", "step_index", "frame_index", "episode_index", "index", "timestamp"}
NOT_SEEN = {*COUNTED, "action", "action_is_pad", "action_is_valid", "reward", "next.reward"}


class Seen(list):
    """Hypothesis shows what a test is given; of pictures that is a lot."""

    def __repr__(self):
        return f"Seen({len(self)} episodes)"


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
            for _ in range(length):
                time_ns += int(rng.integers(30, 130)) * 1_000_000
                step = {
                    "observation/state": rng.normal(size=4),
                    "observation/wrist": rng.integers(0, 256, (40, 48, 3), np.uint8),
                    "depth": rng.integers(0, 5000, (36, 44), np.uint16),
                    "observation/buttons": rng.integers(0, 9, 2).astype(np.int16),
                    "points": rng.normal(size=(int(rng.integers(0, 4)), 2)),
                    "language_instruction": f"pick {time_ns}",
                    "action": rng.normal(size=5).astype(np.float32),
                    "reward": 0.5,
                }
                for name in ("observation/force", "observation/gray"):
                    if rng.random() < 0.7:
                        step[name] = rng.normal(size=3) if name.endswith("force") else rng.integers(0, 256, (32, 33), np.uint8)
                episode.add_step(step, time_ns)
    return dataset


@pytest.fixture(scope="module")
def seen(recorded):
    """The time and the values of each step, episode by episode; None where there is none."""
    return Seen(
        [(int(time_ns), {name: view[i].get(name) for name in NAMES}) for i, time_ns in enumerate(view.timestamps_ns)]
        for view in recorded
    )


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


@st.composite
def specs(draw):
    """Arguments of `as_pytorch_dataset` whose items a robot can make; and the names that these give features."""
    names = sorted({"observation/state", *draw(st.lists(st.sampled_from(NAMES), max_size=6))})
    rename = {old: new for old, new in zip(names, ["a", "b", "observation/c"], strict=False) if draw(st.booleans())}
    new = [rename.get(name, name) for name in names]
    state = rename.get("observation/state", "observation/state")
    windows = {name: draw(PAST) for name in new if draw(st.booleans())}
    spec = {
        "features": [*new, "action", "reward"],
        "windows": {**windows, "action": fox.steps(0, 3)},
        "rename": rename,
        "pad": draw(st.sampled_from(["edge", "zero"])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "image_size": draw(st.sampled_from([None, (24, 20), (64, 64)])),
        "keys": draw(st.sampled_from([None, "lerobot"])),
        "normalize": draw(st.sampled_from([None, "mean_std", "quantile", "min_max"])),
    }
    if "language_instruction" not in names and draw(st.booleans()):
        spec["language"] = "first"
    if draw(st.booleans()):
        spec["goals"] = {state: "last"}
    if state not in windows and draw(st.booleans()):
        spec["relative"] = {"action": state}
    return spec


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(specs(), st.booleans(), st.booleans())
def test_replaying_an_episode_gives_its_items(recorded, seen, tmp_path_factory, spec, saved, by_new_name):
    items = recorded.as_pytorch_dataset(**spec)
    online = items.online()
    if saved:
        path = tmp_path_factory.mktemp("robot") / "io.json"
        online.save(path)
        online = fox.Online.load(path)
    position = 0
    for episode in seen:
        online.reset()
        for time_ns, step in episode:
            observation = {spec["rename"].get(name, name) if by_new_name else name: value for name, value in step.items()}
            observation |= {"language_instruction": f"pick {time_ns}"} if "language" in spec else {}
            observation |= {f"goal/{name}": episode[-1][1]["observation/state"] for name in spec.get("goals", ())}
            assert_same(online(observation, timestamp_ns=time_ns), items[position])
            position += 1
    assert position == len(items)


SPEC = {
    "windows": {"observation/state": fox.steps(-1, 1), "image": [-0.1, 0.0], "action": fox.steps(0, 4)},
    "features": ["observation/state", "image", "observation/force", "action"],
    "rename": {"observation/wrist": "image"},
    "image_size": (24, 24),
}


def observation(**changes):
    return {
        "observation/state": np.zeros(4),
        "image": np.zeros((40, 48, 3), np.uint8),
        "observation/force": np.zeros(3),
    } | {name.replace("__", "/"): value for name, value in changes.items()}


def test_actions_come_back(recorded):
    plain = recorded.as_pytorch_dataset(features=["observation/state", "action"], windows={"action": fox.steps(0, 4)})
    items = recorded.as_pytorch_dataset(
        **SPEC, normalize="quantile", exclude={"action": [4]}, relative={"action": "observation/state"}
    )
    online = items.online()
    for position in range(8, 20):
        state = plain[position]["observation/state"].numpy().astype(np.float64)
        online(observation(observation__state=state), timestamp_ns=position)
        learned = items[position]["action"]
        wanted = plain[position]["action"].numpy()
        for answer, lead in ((learned, ()), (learned[None], (1,)), (learned.numpy()[1], None)):
            back = online.unnormalize(answer)
            assert back.dtype == np.float32
            assert back.shape == ((5,) if lead is None else (*lead, 4, 5))
            np.testing.assert_allclose(back.reshape(-1, 5), wanted[1:2] if lead is None else wanted, atol=1e-5)
        assert np.array_equal(online.unnormalize({"action": learned})["action"], online.unnormalize(learned))
    online.reset()
    with pytest.raises(FeatureError, match="relative to 'observation/state', and the last step has none"):
        online.unnormalize(items[0]["action"])
    with pytest.raises(FeatureError, match=r"'action' has shape \(4, 6\); an action is float32\(5\), axes before it free"):
        online.unnormalize(np.zeros((4, 6)))
    with pytest.raises(FeatureNotFoundError, match=r"'acton' is no action; actions are: action\. Did you mean 'action'"):
        online.unnormalize({"acton": np.zeros((4, 5))})


def test_more_than_one_action_is_answered_by_name(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode() as episode:
        for i in range(3):
            episode.add_step({"x": np.float32(i), "action/arm": np.full(2, i, np.float32), "action/hand": np.float32(i)})
    online = dataset.as_pytorch_dataset(normalize="min_max").online()
    with pytest.raises(FeatureError, match="there are 2 actions; give a dict of them: action/arm, action/hand"):
        online.unnormalize(np.zeros(2))
    back = online.unnormalize({"action/arm": np.ones(2), "action/hand": -1})
    assert (back["action/arm"].tolist(), float(back["action/hand"])) == ([2.0, 2.0], 0.0)


def test_python_numbers_stand_for_recorded_dtypes(recorded):
    online = recorded.as_pytorch_dataset(features=["observation/state", "observation/buttons", "action"]).online()
    batch = online({"observation/state": [0, 1, 2, 3.5], "observation/buttons": [1, 2]})
    assert batch["observation/state"].tolist() == [[0, 1, 2, 3.5]]
    assert batch["observation/buttons"].dtype == np.int16


@pytest.mark.parametrize(
    ("seen", "time_ns", "error", "message"),
    [
        (
            {"image": np.zeros((40, 48, 3))},
            5,
            FeatureError,
            r"'image' is float64 \(40, 48, 3\); recorded was uint8\(40×48×3\) jpeg",
        ),
        ({"image": np.zeros((3, 40, 48), np.uint8)}, 5, FeatureError, r"'image' is uint8 \(3, 40, 48\); recorded was"),
        ({"observation__state": np.zeros(4, np.float32)}, 5, FeatureError, r"is float32 \(4,\); recorded was float64\(4\)"),
        ({"observation__state": [1.0, 2.0]}, 5, FeatureError, r"is float64 \(2,\); recorded was float64\(4\)"),
        ({"observation__state": ["a", 1, 2, 3]}, 5, FeatureError, r"is <U.* \(4,\); recorded was float64\(4\)"),
        ({"observation__state": [[1], [1, 2]]}, 5, FeatureError, "'observation/state' is no array; recorded was"),
        ({"observation__state": None}, 5, FeatureError, "'observation/state' is None; in training every step had a value"),
        ({}, None, FeatureError, "the windows of image are in seconds; give the time of the step: timestamp_ns="),
        ({}, 1.5, FeatureTypeError, "timestamp_ns= is a whole number of ns, found float"),
        ({}, True, FeatureTypeError, "found bool"),
        ({}, 3, FeatureError, r"timestamp_ns=3 is earlier than the last step's, 4\. Call reset\(\)"),
    ],
)
def test_a_wrong_observation_is_an_error_and_does_not_count(recorded, seen, time_ns, error, message):
    items = recorded.as_pytorch_dataset(**SPEC)
    online, untouched = items.online(), items.online()
    for one in (online, untouched):
        one(observation(observation__state=np.ones(4)), timestamp_ns=4)
    with pytest.raises(error, match=message):
        online(observation(**seen), timestamp_ns=time_ns)
    after, wanted = (one(observation(observation__force=None), timestamp_ns=6) for one in (online, untouched))
    assert all(np.array_equal(after[name], wanted[name]) for name in wanted)
    assert after["observation/state"][0, 0].tolist() == [1, 1, 1, 1]
    assert after["observation/force_is_valid"].tolist() == [False]


def test_a_missing_feature_is_an_error_that_names_it(recorded):
    online = recorded.as_pytorch_dataset(**SPEC).online()
    with pytest.raises(
        FeatureNotFoundError,
        match=r"no 'image' \(recorded as 'observation/wrist'\); it has: imag, .*Did you mean 'imag'\? Needed are: observation/state, image",
    ):
        online({"imag": 1, "observation/state": np.zeros(4), "observation/force": None}, timestamp_ns=1)
    with pytest.raises(FeatureNotFoundError, match="no 'observation/force'"):  # None has to be said
        online({"image": 1, "observation/state": np.zeros(4)}, timestamp_ns=1)


def test_what_is_given_may_be_changed_afterwards(recorded):
    online = recorded.as_pytorch_dataset(features=["observation/state"], windows={"observation/state": fox.steps(-1, 1)}).online()
    buffer = np.ones(4)
    online({"observation/state": buffer})
    buffer[:] = 2
    batch = online({"observation/state": buffer})
    batch["observation/state"][:] = 9
    assert online({"observation/state": buffer})["observation/state"].tolist() == [[[2] * 4, [2] * 4]]


def test_what_a_robot_cannot_give_is_an_error(recorded):
    ahead = {"observation/state": fox.steps(-1, 2)}
    with pytest.raises(FeatureError, match="the window of 'observation/state' reaches past the item's own step"):
        recorded.as_pytorch_dataset(features=["observation/state"], windows=ahead).online()
    with pytest.raises(SelectionError, match=r"online\(\) makes what items of one step have.*level='step'"):
        recorded.as_pytorch_dataset(features=["observation/state"], level="episode").online()


def with_sum(item):
    return {**item, "sum": item["observation/state"].sum()}


def test_a_transform_is_applied_and_has_to_be_given_again(recorded, tmp_path):
    items = recorded.as_pytorch_dataset(features=["observation/state", "action"], transform=with_sum, normalize="mean_std")
    assert "sum" in items.normalizer.features
    items.online().save(tmp_path / "io.json")
    with pytest.raises(FeatureError, match=r"training had a transform=; give it: Online.load\(path, transform=...\)"):
        fox.Online.load(tmp_path / "io.json")
    for online in (items.online(), fox.Online.load(tmp_path / "io.json", transform=with_sum)):
        batch = online({"observation/state": recorded.episodes[1]["observation/state"][0]})
        assert_same(batch, items[1])
    plain = recorded.as_pytorch_dataset(features=["observation/state"]).online()
    plain.save(tmp_path / "plain.json")
    with pytest.raises(FeatureError, match="training had no transform="):
        fox.Online.load(tmp_path / "plain.json", transform=with_sum)


def test_a_robot_needs_neither_torch_nor_what_reads_datasets(recorded, tmp_path):
    items = recorded.as_pytorch_dataset(**SPEC, normalize="quantile", relative={"action": "observation/state"})
    items.online().save(tmp_path / "io.json")
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    np.save(tmp_path / "seen.npy", picture)
    here = items.online()(
        {"observation/state": np.ones(4), "observation/wrist": picture, "observation/force": None}, timestamp_ns=1
    )
    code = f"""
import sys
for name in ("torch", "polars", "deltalake", "pandas", "pyarrow", "simplejpeg", "datasketches"):
    sys.modules[name] = None
import numpy as np
before = set(sys.modules)
import fogx as fox
online = fox.Online.load({str(tmp_path / "io.json")!r})
seen = {{"observation/state": np.ones(4), "observation/wrist": np.load({str(tmp_path / "seen.npy")!r}), "observation/force": None}}
batch = online(seen, timestamp_ns=1)
assert batch["image"].shape == (1, 2, 3, 24, 24), batch["image"].shape
np.save({str(tmp_path / "image.npy")!r}, batch["image"])
print(online.unnormalize(np.zeros((1, 4, 5), np.float32)).shape)
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*(new - set(sys.stdlib_module_names)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stdout.splitlines()
    assert first == "(1, 4, 5)"
    assert set(second.split()) - {"numpy"} == {"fogx", "PIL"}
    assert np.array_equal(np.load(tmp_path / "image.npy"), np.asarray(here["image"])), (
        "PyTorch, which is loaded here, changes no pixel"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("inputs"),
        lambda body: body["inputs"]["image"].update(window={"steps": "ab"}),
        lambda body: body["inputs"]["image"].update(window={"steps": [2**80]}),
        lambda body: body["inputs"]["image"]["feature"].update(dtype="object"),
        lambda body: body["form"].update(image_size=[1]),
        lambda body: body["form"].update(dtype="object"),
        lambda body: body["form"].update(pad="wrap"),
        lambda body: body["relative"].update(at=3),
        lambda body: body["normalizer"].update(mode="max"),
    ],
)
def test_damaged_files_are_errors(recorded, tmp_path, change):
    path = tmp_path / "io.json"
    recorded.as_pytorch_dataset(**SPEC, normalize="quantile", relative={"action": "observation/state"}).online().save(path)
    body = json.loads(path.read_bytes())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(FogxError):
        fox.Online.load(path)


def test_bridge_replays(bridge_dir, tmp_path):
    """Real data without times: windows in seconds go by its rate."""
    dataset = fox.Dataset(tmp_path / "lab")
    dataset.load_rtx_episodes("bridge_dataset", data_dir=str(bridge_dir.parent.parent), split="train[:2]")
    info = dataset.get_episode_info()
    info["control_hz"] = 5.0
    dataset.update_episode_info(info)
    image = next(name for name in dataset.episodes[0].features if name.endswith("image_0"))
    state = next(name for name in dataset.episodes[0].features if name.endswith("/state"))
    items = dataset.as_pytorch_dataset(
        features=[image, state, "action"],
        windows={image: fox.seconds(-0.4, 0.1, hz=5), state: fox.steps(-2, 1), "action": fox.steps(0, 8)},
        image_size=(48, 40),
        normalize="quantile",
        exclude={"action": [-1]},
    )
    online, position = items.online(), 0
    for view in dataset:
        online.reset()
        for i in range(view.num_steps):
            batch = online({name: view[i][name] for name in (image, state)}, timestamp_ns=i * 200_000_000)
            assert_same(batch, items[position])
            position += 1
    assert position == len(items)
