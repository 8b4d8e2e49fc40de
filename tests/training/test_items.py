"""Items against the views of the same episodes, whatever they lack."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx import settings as settings_of_fogx
from fogx.settings import Config
from fogx.training import index


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    st.lists(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=5),  # which of three features a step has
        min_size=1,
        max_size=4,
    )
)
@pytest.mark.filterwarnings("ignore:.*of .* cells:UserWarning", "ignore::UserWarning")
def test_every_item_equals_its_step(tmp_path_factory, episodes):
    dataset = fox.Dataset(tmp_path_factory.mktemp("lab"))
    for number, steps in enumerate(episodes):
        with dataset.new_episode() as episode:
            for i, (state, view, word) in enumerate(steps):
                step = {"count": np.int64(100 * number + i)}
                step |= {"state": np.full((2, 3), i, np.float16)} if state else {}
                step |= {"view": np.full((32, 40, 3), i, np.uint8)} if view else {}
                step |= {"word": f"w{i}"} if word else {}
                episode.add_step(step)
    names = [name for name in ("count", "state", "view", "word") if any(name in v.features for v in dataset)]
    items = dataset.as_pytorch_dataset(features=names)
    assert len(items) == sum(map(len, episodes))
    position = 0
    for view in dataset:
        for i in range(view.num_steps):
            item, step = items[position], view[i]
            assert (item["episode_id"], item["step_index"]) == (view.episode_id, i)
            for name in names:
                wanted = step.get(name)
                valid = item.get(f"{name}_is_valid", torch.tensor(True))
                assert bool(valid) is (wanted is not None), name
                if wanted is None:
                    assert item[name] == "" if name == "word" else not item[name].any()
                elif name == "view":
                    assert np.array_equal(item[name].numpy(), wanted.transpose(2, 0, 1))
                elif name == "word":
                    assert item[name] == wanted
                else:
                    assert np.array_equal(item[name].numpy(), wanted)
            position += 1
    keys = {frozenset(items[i]) for i in range(len(items))}
    assert len(keys) <= 1, "the default collate needs the same keys in every item"
    if len(items):
        assert len(next(iter(torch.utils.data.DataLoader(items, batch_size=len(items))))["count"]) == len(items)


def _numbers(tmp_path, episodes=6, steps=2_000):
    dataset = fox.Dataset(tmp_path / "lab")
    for number in range(episodes):
        with dataset.new_episode() as episode:
            for i in range(steps):
                episode.add("state", np.full(50, number * steps + i, np.float64))
    return dataset


def test_what_cannot_be_cached_on_disk_keeps_to_its_budget_in_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(settings_of_fogx, "_current", Config(memory_mb=2, cache_dir=tmp_path / "file"))
    monkeypatch.setattr(index, "BLOCK_BYTES", 1 << 20)
    (tmp_path / "file").write_text("no folder")
    items = _numbers(tmp_path).as_pytorch_dataset()
    blocks = items._reader.blocks
    for i in np.random.default_rng(0).permutation(len(items))[:60]:
        assert items[int(i)]["state"][7] == i
        assert 0 < blocks.kept_bytes <= 2 << 20
    assert items._reader.index.num_blocks == 4
    assert caplog.text.count("are kept in memory, up to fox.config(memory_mb=2)") == 1


def test_a_pickle_carries_no_cache(tmp_path):
    items = _numbers(tmp_path, episodes=1).as_pytorch_dataset()
    fresh = len(pickle.dumps(items))
    items[0]
    assert len(pickle.dumps(items)) == fresh
    assert pickle.loads(pickle.dumps(items))[5]["state"][0] == 5


def test_floats_are_float32_and_storage_stays_exact(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode() as episode:
        episode.add("x", 0.1)
        episode.add("half", np.float16(0.5))
        episode.add("big", np.uint16(65_000))
        episode.add("flag", True)
    item = dataset.as_pytorch_dataset()[0]
    assert [item[name].dtype for name in ("x", "half", "big", "flag")] == [torch.float32, torch.float32, torch.uint16, torch.bool]
    assert dataset.episodes[0]["x"][0] == 0.1


def test_whole_episodes(tmp_path):
    items = _numbers(tmp_path, episodes=2, steps=3).as_pytorch_dataset(level="episode")
    assert len(items) == 2
    assert items[1]["state"].shape == (3, 50)
    assert items[1]["step_index"].tolist() == [0, 1, 2]


def test_varying_shapes_only_when_named(tmp_path, caplog):
    dataset = fox.Dataset(tmp_path / "lab", features={"points": fox.Feature("float32", (None, 3))})
    with dataset.new_episode() as episode:
        for n in (2, 0, 4):
            episode.add_step({"points": np.ones((n, 3), np.float32), "x": 1.0})
    assert dataset.as_pytorch_dataset().features == ["x"]
    assert "points" in caplog.text
    assert [len(item["points"]) for item in dataset.as_pytorch_dataset(features=["points"])] == [2, 0, 4]
