"""Datasets on an S3 that fails: what was acknowledged is there, once and whole; what was not can be done again."""

import collections

import numpy as np
import pytest

import fogx as fox
from fogx.errors import StorageError

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]

ONCE = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
KINDS = ("slow-down", "lose-reply", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("internal-error", "drop")))
LOG_ENTRY = r"_delta_log/\d{20}\.json$"


def _filled(dataset, number):
    episode = dataset.new_episode({"number": number})
    for i in range(3):
        episode.add("state", np.full(3, number + i, np.float32))
        episode.add("view", np.full((32, 32, 3), 10 * i, np.uint8))
    return episode


def _record(dataset, number):
    episode = _filled(dataset, number)
    episode.close()
    return episode.episode_id


def _operations(root):
    """Return how often each operation stands in the history, without changes of the schema."""
    counts = collections.Counter(fox.Dataset(root).history()["operation"])
    return {name: count for name, count in counts.items() if name not in ("create", "add columns")}


def _check_recorded(root, numbers):
    """Check the recorded episodes by id, their steps and frames, read in every way."""
    dataset = fox.Dataset(root)
    info = dataset.get_episode_info()
    recorded = info.filter(info["number"].notna())
    assert dict(zip(recorded["episode_id"], recorded["number"], strict=True)) == numbers
    assert info["episode_id"].is_unique
    for view in dataset.read_by(recorded):
        assert view["state"][:, 0].tolist() == [numbers[view.episode_id] + i for i in range(3)]
        assert view["view"].shape == (3, 32, 32, 3)
    steps = dataset.get_step_data(recorded, images="encoded").select("episode_id", "step_index", "view").collect()
    assert steps["episode_id"].to_list() == [i for i in recorded["episode_id"] for _ in range(3)]
    assert steps["view"].null_count() == 0


@pytest.mark.parametrize(
    ("kinds", "share"),
    [
        (("slow-down", "internal-error", "drop", "lose-reply", "slow"), 0.02),
        *(pytest.param((kind,), 0.2, marks=pytest.mark.long) for kind in ("slow-down", "internal-error", "drop", "lose-reply")),
    ],
)
def test_a_share_of_requests_fails(s3_server, bridge_dir, kinds, share):
    fox.config(progress=False)
    root = s3_server.make_bucket("lab") + "/robots"
    for seed, kind in enumerate(kinds):
        s3_server.fail(kind, share=share, seed=seed, seconds=0.2)
    dataset = fox.Dataset(root)
    numbers = {_record(dataset, number): number for number in range(3)}
    imported = dataset.load_rtx_episodes(bridge_dir, split="train[:4]")
    first, *kept = numbers
    assert dataset.tag([*kept, *imported], good=True) == 6
    assert dataset.delete([first, imported[0]]) == 2
    views = dataset.read_by(imported[1:])
    assert all(view["observation/image_0"].shape[0] == view.num_steps == 10 for view in views)
    steps = dataset.get_step_data(images="pixels").collect()
    assert steps["episode_id"].n_unique() == 5
    assert all(s3_server.happened())
    s3_server.heal()
    _check_recorded(root, {i: numbers[i] for i in kept})
    info = fox.Dataset(root).get_episode_info()
    assert set(info["episode_id"]) == {*kept, *imported[1:]}
    assert info["good"].tolist() == [True] * 5
    assert _operations(root) == {"record": 3, "load rtx": 1, "tag": 1, "delete": 1}
    assert fox.Dataset(root).load_rtx_episodes(bridge_dir, split="train[1:4]") == []


@pytest.mark.parametrize("verb", ["record", "load rtx", "tag", "tag anew", "delete"])
def test_a_commit_whose_answer_is_lost_is_not_doubled(s3_server, bridge_dir, verb):
    fox.config(progress=False)
    root = s3_server.make_bucket("lab")
    dataset = fox.Dataset(root)
    numbers = {_record(dataset, number): number for number in range(2)}
    dataset.tag(list(numbers), good=True)
    before = _operations(root)
    s3_server.fail("lose-reply", method="PUT", target=LOG_ENTRY, times=1)
    if verb == "record":
        numbers[_record(dataset, 2)] = 2
    elif verb == "load rtx":
        assert len(dataset.load_rtx_episodes(bridge_dir, split="train[:2]")) == 2
    elif verb == "delete":
        assert dataset.delete(list(numbers)[:1]) == 1
        numbers.pop(min(numbers))
    else:
        assert dataset.tag(list(numbers), **{"good" if verb == "tag" else "fresh": False}) == 2
    assert s3_server.happened() == [1]
    _check_recorded(root, numbers)
    done = verb.removesuffix(" anew")
    assert _operations(root) == {**before, done: before.get(done, 0) + 1}
    assert len(dataset) == len(fox.Dataset(root)) == {"record": 3, "load rtx": 4, "delete": 1}.get(verb, 2)
    _check_recorded(root, numbers | {_record(dataset, 3): 3})


def test_the_first_commit_of_all_loses_its_answer(s3_server):
    root = s3_server.make_bucket("lab")
    s3_server.fail("lose-reply", method="PUT", target=LOG_ENTRY, times=1)
    _check_recorded(root, {(episode_id := _record(fox.Dataset(root), 0)): 0})
    assert fox.Dataset(root).get_episode_info()["episode_id"].tolist() == [episode_id]
    assert fox.Dataset(root).history()["operation"].tolist().count("create") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_endpoint_that_only_fails_is_told_and_nothing_is_lost(s3_server, bridge_dir, kind):
    fox.config(progress=False)
    root = s3_server.make_bucket("lab")
    dataset = fox.Dataset(root, storage_options=ONCE)
    numbers = {_record(dataset, number): number for number in range(2)}
    waiting = _filled(dataset, 2)
    view, steps = dataset.episodes[0], dataset.get_step_data()
    before = _operations(root)
    s3_server.fail(kind)
    with pytest.raises(StorageError, match="s3://lab") as caught:
        waiting.close()
    assert any("was not saved" in note and "close()" in note for note in caught.value.__notes__)
    with pytest.raises(StorageError, match="s3://lab") as caught:
        dataset.load_rtx_episodes(bridge_dir, split="train[:2]")
    calls = [
        lambda: dataset.tag(None, good=True),
        lambda: dataset.delete(list(numbers)),
        lambda: view["state"],
        lambda: view["view"],
        dataset.get_step_data,
        steps.collect,
        dataset.history,
        dataset.refresh,
        lambda: fox.Dataset(root, storage_options=ONCE),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="s3://lab"):
            call()
    s3_server.heal()
    _check_recorded(root, numbers)
    assert _operations(root) == before
    numbers[waiting.episode_id] = 2
    waiting.close()
    _check_recorded(root, numbers)
    assert len(dataset.load_rtx_episodes(bridge_dir, split="train[:2]")) == 2
    assert _operations(root) == {"record": 3, "load rtx": 1}


@pytest.mark.parametrize("kind", ["drop", "lose-reply"])
def test_an_endpoint_that_dies_in_mid_commit_leaves_the_outcome_unknown(s3_server, kind):
    root = s3_server.make_bucket("lab")
    dataset = fox.Dataset(root, storage_options=ONCE)
    numbers = {_record(dataset, 0): 0}
    waiting = _filled(dataset, 1)
    s3_server.fail(kind, target=LOG_ENTRY)
    with pytest.raises(StorageError, match="s3://lab: the outcome of record is unknown") as caught:
        waiting.close()
    assert any("close()" in note for note in caught.value.__notes__)
    s3_server.heal()
    waiting.close()
    _check_recorded(root, {**numbers, waiting.episode_id: 1})
    assert _operations(root) == {"record": 2}
