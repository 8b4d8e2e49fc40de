"""Items at labelled steps, and items of steps made anew: the same as of a dataset whose steps are stored so."""

import numpy as np
import polars as pl
import pytest
import torch

import fogx as fox
from fogx.errors import FeatureError, SelectionError
from tests.jobs.conftest import BRIDGE

MS = 1_000_000
POLICIES = {
    "rate": fox.Align(rate_hz=25, features={"state": fox.linear()}),
    "image": fox.Align(reference="cam"),
    "union": fox.Align(union=True, default=fox.hold(max_age_s=0.03)),
}


def record(root, episodes=3):
    """Record episodes of unlike sensors, each with segments."""
    rng = np.random.default_rng(0)
    dataset = fox.Dataset(root)
    for number in range(episodes):
        with dataset.new_episode(align=fox.Align(reference="state")) as episode:
            for i in range(40 + 7 * number):
                if i == 10:
                    episode.begin("grasp")
                episode.add("state", np.full(3, 100 * number + i, np.float32), 10 * i * MS)
                if i % 3 == 0:
                    episode.add("cam", rng.integers(0, 255, (32, 40, 3), np.uint8), 10 * i * MS + 2 * MS)
                if i % 2 == 0:
                    episode.add("action", rng.random(2, np.float32), 10 * i * MS + 5 * MS)
                if i == 20 + number:
                    episode.end("grasp")
    dataset.annotate(None, "end", start_s=0.3)
    return dataset


def at(items):
    """Return where items stand."""
    return [(items[i]["episode_id"], items[i]["step_index"]) for i in range(len(items))]


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            assert torch.equal(x[name], y[name]) if isinstance(x[name], torch.Tensor) else x[name] == y[name], name


@pytest.mark.parametrize("every", [1, 4])
def test_items_stand_in_segments_of_a_label(tmp_path, every):
    dataset = record(tmp_path / "lab")
    segments = dataset.segments(label="grasp")
    items = dataset.as_pytorch_dataset(where="grasp", every=every, windows={"action": fox.steps(0, 4)})
    ranges = zip(segments["episode_id"], segments["start_step"], segments["stop_step"], strict=True)
    assert at(items) == [(i, step) for i, start, stop in ranges for step in range(start, stop)[::every]]
    # A window goes on behind the segment.
    last = items[-1]
    view = dataset.read_by(last["episode_id"])[0]
    assert torch.equal(last["action"], torch.tensor(view["action"][last["step_index"] : last["step_index"] + 4]))


def test_episodes_without_the_label_give_no_items(tmp_path):
    dataset = record(tmp_path / "lab")
    ids = [view.episode_id for view in dataset]
    dataset.annotate(ids[1:2], "mine", start_step=3, stop_step=6)
    dataset.annotate(ids[1:2], "mine", start_step=5, stop_step=8)
    assert at(dataset.as_pytorch_dataset(where="mine")) == [(ids[1], step) for step in range(3, 8)]
    with pytest.raises(SelectionError, match=r"none of the 3 selected .* there are: end, grasp, mine\. Did you mean 'grasp'"):
        dataset.as_pytorch_dataset(where="grab")
    with pytest.raises(SelectionError, match=r"none of the 1 selected .* there are: end, grasp\."):
        dataset.as_pytorch_dataset(ids[:1], where="mine")


def test_labels_of_imported_episodes(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    ids = dataset.load_rtx_episodes(BRIDGE, split="train[:4]")
    dataset.annotate(ids[2:], "keep", start_step=2, stop_step=5)
    assert at(dataset.as_pytorch_dataset(where="keep", features="action")) == [(i, step) for i in ids[2:] for step in (2, 3, 4)]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "options",
    [
        {"windows": {"action": fox.steps(0, 5), "cam": fox.steps(-1, 1)}},
        {"windows": {"state": fox.seconds(-0.1, 0.1, hz=20)}, "pad": "drop", "every": 2},
        {"where": "grasp", "features": ["state", "cam"]},
        {"where": pl.col("step_index") % 3 == 1, "level": "window", "windows": {"action": fox.steps(0, 3)}},
        {"level": "episode", "rename": {"cam": "image"}},
        {"keys": "lerobot", "normalize": "mean_std"},
    ],
    ids=lambda options: "-".join(options),
)
def test_items_of_steps_made_anew_are_those_of_steps_stored_so(tmp_path, name, options):
    dataset, stored = record(tmp_path / "lab"), record(tmp_path / "stored")
    stored.realign(align=POLICIES[name])
    anew, wanted = (
        [items[i] for i in range(len(items))]
        for items in (
            dataset.as_pytorch_dataset(align=POLICIES[name], **options),
            stored.as_pytorch_dataset(**options),
        )
    )
    for item in (*anew, *wanted):
        item.pop("episode_id", None)
    same(anew, wanted)
    assert len(dataset.as_pytorch_dataset()) == sum(view.num_steps for view in dataset), "what is stored is as it was"


def test_workers_make_steps_anew_and_find_them_again(tmp_path):
    dataset = record(tmp_path / "lab")
    before = fox.config().cache_dir
    fox.config(cache_dir=tmp_path / "cache")
    try:
        items = dataset.as_pytorch_dataset(align=POLICIES["rate"])
        loader = items.loader(batch_size=8, num_workers=1, shuffle=False, multiprocessing_context="spawn")
        states = torch.cat([batch["state"] for batch in loader])
        kept = {path: path.stat().st_ino for path in (tmp_path / "cache").rglob("*.block")}
        assert kept
        same([{"state": state} for state in states], [{"state": items[i]["state"]} for i in range(len(items))])
        assert {path: path.stat().st_ino for path in (tmp_path / "cache").rglob("*.block")} == kept
        assert len(dataset.as_pytorch_dataset()[0]["state"]) == 3
        assert len(list((tmp_path / "cache").rglob("*.block"))) == 2 * len(kept)
    finally:
        fox.config(cache_dir=before)


def test_statistics_are_of_the_steps_made_anew(tmp_path):
    dataset = record(tmp_path / "lab")
    few = dataset.as_pytorch_dataset(align=fox.Align(rate_hz=5), features="state")
    assert few.stats()["state"].count.tolist() == [len(few)] * 3
    assert dataset.as_pytorch_dataset(features="state").stats()["state"].count.tolist() == [sum(map(len, dataset))] * 3


def test_a_policy_that_does_not_fit_is_refused(tmp_path):
    dataset = record(tmp_path / "lab", episodes=1)
    with pytest.raises(FeatureError, match="no episode has the feature 'camera'"):
        dataset.as_pytorch_dataset(align=fox.Align(reference="camera"))
    with pytest.raises(FeatureError, match=r"align= is a fox\.Align, found int"):
        dataset.as_pytorch_dataset(align=3)
    imported = fox.Dataset(tmp_path / "bridge")
    ids = imported.load_rtx_episodes(BRIDGE, split="train[:2]")
    with pytest.raises(SelectionError, match="2 of 2 episodes have no times"):
        imported.as_pytorch_dataset(align=fox.Align(rate_hz=10))
    imported.tag(ids, control_hz=5.0)
    assert len(imported.as_pytorch_dataset(align=fox.Align(rate_hz=10), features="action")) == 2 * 19
    seconds = {"action": fox.seconds(0, 0.3, hz=10)}
    window = imported.as_pytorch_dataset(align=fox.Align(rate_hz=10), features="action", windows=seconds)[0]["action"]
    assert torch.equal(window, torch.tensor(imported.episodes[0]["action"][[0, 1, 1]]))
