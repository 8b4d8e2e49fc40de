"""Mixtures: counts follow the weights, every item of a source before one comes again, items alike, state and workers as any loader."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import SchemaMismatchError, SelectionError
from fogx.training.mixture import Shares

WEIGHTS = st.lists(st.floats(0.01, 100) | st.sampled_from([1.0, 3.0, 0.1]), min_size=1, max_size=5)


@given(WEIGHTS, st.integers(0, 2**40), st.integers(1, 12))
def test_after_each_block_counts_are_within_one_of_the_weights(weights, seed, blocks):
    shares = Shares(weights)
    blocks = min(blocks, 20_000 // shares.block + 1)
    sources, turns = shares.take(seed, np.arange(blocks * shares.block))
    for block in range(blocks + 1):
        draws = block * shares.block
        seen = np.bincount(sources[:draws], minlength=len(weights))
        assert seen.tolist() == shares.counts(block)
        assert np.abs(seen - draws * np.array(weights) / sum(weights)).max() <= 1 + 1e-6
    for source in range(len(weights)):
        assert sorted(turns[sources == source].tolist()) == list(range((sources == source).sum())), "each turn once"


@given(WEIGHTS, st.integers(0, 10**12))
def test_a_draw_does_not_depend_on_what_is_asked_with_it(weights, start):
    shares = Shares(weights)
    positions = start + np.arange(20)
    sources, turns = shares.take(1, positions)
    alone = [shares.take(1, positions[k : k + 1]) for k in range(20)]
    assert sources.tolist() == [int(source[0]) for source, _ in alone]
    assert turns.tolist() == [int(turn[0]) for _, turn in alone]


def test_a_rare_source_is_drawn_as_often_as_it_should():
    shares = Shares([1.0, 0.001])
    sources, _ = shares.take(0, np.arange(10 * shares.block))
    assert 9 <= (sources == 1).sum() <= 11


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two datasets of 40 and 7 steps with one schema, one of another."""
    folder = tmp_path_factory.mktemp("mixture")
    found = {}
    for name, steps in (("ours", (20, 20)), ("theirs", (3, 4))):
        dataset = fox.Dataset(folder / name)
        for episode_number, count in enumerate(steps):
            with dataset.new_episode() as episode:
                for i in range(count):
                    episode.add_step({"action": np.full(2, 100 * episode_number + i, np.float32), "word": f"{name} {i}"})
        found[name] = dataset.as_pytorch_dataset()
    dataset = fox.Dataset(folder / "else")
    with dataset.new_episode() as episode:
        for _ in range(5):
            episode.add_step({"action": np.zeros(3, np.float32), "word": "x", "state": 1.0})
    found["else"] = dataset.as_pytorch_dataset()
    return found


def keyed(batch):
    return list(zip(batch["source"].tolist(), batch["episode_id"], batch["step_index"].tolist(), strict=True))


def test_every_item_of_a_source_comes_before_one_comes_again(lab):
    ours, theirs = lab["ours"], lab["theirs"]
    mixture = fox.mix([(ours, 1.0), (theirs, 3.0)])
    assert len(mixture) == 47
    draws = [
        key
        for _, batch in zip(range(200), itertools.chain.from_iterable(itertools.repeat(mixture.loader(8))), strict=False)
        for key in keyed(batch)
    ]
    # Within a block the order of turns is random, so rounds overlap by less than a block.
    for source, length in ((0, 40), (1, 7)):
        seen = Counter(key for key in draws if key[0] == source)
        assert len(seen) == length
        assert max(seen.values()) - min(seen.values()) <= 1 + -(-64 // length)
    sources = np.array([key[0] for key in draws])
    assert abs((sources == 1).mean() - 0.75) < 0.01


def test_effective_epochs_are_what_is_seen(lab):
    mixture = fox.mix([(lab["ours"], 1.0), (lab["theirs"], 3.0)], epoch_size=640)
    assert mixture.weights == [0.25, 0.75]
    assert mixture.effective_epochs == [640 * 0.25 / 40, 640 * 0.75 / 7]
    sources = [source for batch in mixture.loader(10) for source in batch["source"].tolist()]
    assert Counter(sources) == {0: 160, 1: 480}
    assert repr(mixture) == (
        "<fogx mixture: 640 items an epoch of 2 sources; 0: weight 0.25, 40 items, 4 epochs; 1: weight 0.75, 7 items, 68.57 epochs>"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_those_of_the_sources(lab, workers):
    mixture = fox.mix([(lab["ours"], 1.0), (lab["theirs"], 1.0)])
    for batch in mixture.loader(9, workers):
        assert batch["source"].dtype == torch.int64
        assert batch["action"].dtype == torch.float32
        for row, (source, episode_id, step) in enumerate(keyed(batch)):
            wanted = next(
                i for i in (lab["ours"], lab["theirs"])[source] if (i["episode_id"], i["step_index"]) == (episode_id, step)
            )
            assert torch.equal(batch["action"][row], wanted["action"])
            assert batch["word"][row] == wanted["word"]


def test_each_source_has_its_own_numbers(lab, tmp_path):
    train = fox.mix([(lab["ours"], 1), (lab["theirs"], 2)])
    assert [stats["action"].count.tolist() for stats in train.stats()] == [[40, 40], [7, 7]]
    assert train.online(source=1)({"word": "x"})["word"] == ["x"]
    for wrong in (2, -1, True, "ours", None):
        with pytest.raises(SelectionError, match=r"source=.*: sources have the numbers 0 to 1"):
            train.online(source=wrong)


def test_plain_numbers_are_draws_of_the_first_epoch(lab):
    mixture = fox.mix([(lab["ours"], 1.0), (lab["theirs"], 3.0)])
    draws = [key for batch in mixture.loader(47, seed=0) for key in keyed(batch)]
    items = [mixture[k] for k in range(len(mixture))]
    assert [(int(i["source"]), i["episode_id"], i["step_index"]) for i in items] == draws
    assert mixture[-1]["episode_id"] == items[-1]["episode_id"]
    assert set(items[0]) == {"action", "word", "episode_id", "step_index", "source"}
    with pytest.raises(IndexError, match="item 47 of 47"):
        mixture[47]


def test_random_choices_of_a_source_differ_from_round_to_round(lab):
    mixture = fox.mix([(lab["theirs"], 1.0)])
    (_, first), (_, second) = (mixture.locate(list(batch)) for batch in (mixture.sampler(), mixture.sampler(1)))
    assert {(d.seed, d.epoch) for d in first}.isdisjoint({(d.seed, d.epoch) for d in second})
    assert all(d.seed for d in first)


@given(st.integers(0, 30), st.tuples(st.integers(1, 9), st.integers(1, 3)), st.tuples(st.integers(1, 9), st.integers(1, 3)))
def test_every_resume_goes_on_as_if_nothing_had_happened(lab, taken, before, after):
    mixture = fox.mix([(lab["ours"], 0.3), (lab["theirs"], 0.9)], epoch_size=60)

    def run(state, batch_size, world_size, epochs):
        """Yield what all ranks got up to each step, and the state then."""
        ranks = [mixture.loader(batch_size, seed=2, rank=r, world_size=world_size) for r in range(world_size)]
        for loader in ranks:
            if state is not None:
                loader.load_state_dict(state)
        seen = []
        for _ in range(epochs):
            for batches in itertools.zip_longest(*map(iter, ranks)):
                seen = seen + [key for batch in batches if batch is not None for key in keyed(batch)]
                yield seen, ranks[0].state_dict()

    *_, (whole, _) = run(None, 60, 1, 33)
    head, state = next(itertools.islice(run(None, *before, 30), taken, None))
    *_, (rest, _) = run(state, *after, 1)
    assert rest == whole[len(head) : len(head) + len(rest)]
    assert rest


def test_it_pickles(lab):
    mixture = fox.mix([(lab["ours"], 1.0), (lab["theirs"], 3.0)])
    again = pickle.loads(pickle.dumps(mixture))
    assert [i["episode_id"] for i in again] == [i["episode_id"] for i in mixture]


def test_what_differs_is_named(lab):
    with pytest.raises(SchemaMismatchError) as caught:
        fox.mix([(lab["ours"], 1.0), (lab["else"], 1.0)])
    text = str(caught.value)
    assert "items of source 1 differ from those of source 0" in text
    assert "'action' is float32 (2) in source 0, float32 (3)" in text
    assert "'state' is not there in source 0, float32 ()" in text
    assert "'word'" not in text


@pytest.mark.filterwarnings("ignore:.*values .* are missing:UserWarning")
def test_validity_that_only_some_sources_tell_is_true_in_others(tmp_path):
    found = []
    for name, gap in (("whole", None), ("gaps", 1)):
        dataset = fox.Dataset(tmp_path / name)
        with dataset.new_episode() as episode:
            for i in range(4):
                episode.add_step({"x": 1.0} if i == gap else {"x": 1.0, "y": 2.0})
        found.append(dataset.as_pytorch_dataset())
    assert ["y_is_valid" in items[0] for items in found] == [False, True]
    mixture = fox.mix([(found[0], 1.0), (found[1], 1.0)])
    (batch,) = mixture.loader(8)
    assert batch["y_is_valid"].tolist() == [not (s == 1 and i == 1) for s, _, i in keyed(batch)]


def test_whole_episodes_mix_too(tmp_path):
    found = []
    for name, steps in (("a", (2, 5)), ("b", (3,))):
        dataset = fox.Dataset(tmp_path / name)
        for count in steps:
            with dataset.new_episode() as episode:
                for i in range(count):
                    episode.add_step({"x": float(i)})
        found.append(dataset.as_pytorch_dataset(level="episode"))
    mixture = fox.mix([(found[0], 2.0), (found[1], 1.0)])
    for batch in mixture.loader(3):
        assert batch["is_pad"].shape[0] == len(batch["source"])
        assert {tuple(row) for row in zip(batch["source"].tolist(), (~batch["is_pad"]).sum(1).tolist(), strict=True)} <= {
            (0, 2),
            (0, 5),
            (1, 3),
        }


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_zero(lab, weight):
    with pytest.raises(SelectionError, match=r"source 1 has the weight .*; allowed is any number above 0"):
        fox.mix([(lab["ours"], 1.0), (lab["theirs"], weight)])


def test_sources_are_needed(lab, tmp_path):
    with pytest.raises(SelectionError, match=r"no sources; give pairs"):
        fox.mix([])
    for pairs in ([lab["ours"]], lab["ours"], [("ours", 1.0)], [(lab["ours"], 1.0, 2)]):
        with pytest.raises(SelectionError, match=r"source 0 is no pair of a dataset and a weight"):
            fox.mix(pairs)
    with pytest.raises(SelectionError, match="epoch_size=0: allowed is a whole number from 1"):
        fox.mix([(lab["ours"], 1.0)], epoch_size=0)


def test_a_state_of_other_weights_is_refused(lab):
    state = fox.mix([(lab["ours"], 1.0), (lab["theirs"], 3.0)]).loader(2).state_dict()
    with pytest.raises(SelectionError, match=r"belongs to 47 samples, mixed: 0\.25 of 40 samples, shuffled"):
        fox.mix([(lab["ours"], 1.0), (lab["theirs"], 2.0)]).loader(2).load_state_dict(state)
