"""The sampler alone, under PyTorch's DataLoader, and what a state may be loaded into."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fogx.errors import SelectionError
from fogx.training.order import BlockShuffled, InOrder, Shuffled
from fogx.training.sampler import Sampler
from tests.training.standins import Numbers


def epochs(order, seed, count):
    sampler = Sampler(order, seed)
    return [[(int(d), d.epoch) for d in sampler] for _ in range(count)]


@given(st.integers(0, 60), st.integers(0, 2**40), st.booleans())
def test_iterating_again_is_the_next_epoch(count, seed, shuffle):
    found = epochs(Shuffled(count) if shuffle else InOrder(count), seed, 3)
    for epoch, draws in enumerate(found):
        assert sorted(item for item, _ in draws) == list(range(count))
        assert {e for _, e in draws} <= {epoch}


@given(st.integers(1, 40), st.data())
def test_a_state_at_every_draw_resumes(count, data):
    order = Shuffled(count)
    whole = [draw for epoch in epochs(order, 5, 4) for draw in epoch]
    taken = data.draw(st.integers(0, 2 * count))
    sampler = Sampler(order, 5)
    for _ in range(taken // count):
        list(sampler)
    part = iter(sampler)
    for _ in range(taken % count):
        next(part)
    state = json.loads(json.dumps(sampler.state_dict()))
    again = Sampler(order, 0)
    again.load_state_dict(state)
    first, second = ([(int(d), d.epoch) for d in again] for _ in range(2))
    assert [*first, *second] == whole[taken : taken + len(first) + count]
    assert len(first) == count - taken % count


def test_set_epoch_says_which_epoch_comes():
    order, wanted = Shuffled(30), epochs(Shuffled(30), 1, 3)
    sampler = Sampler(order, 1)
    for epoch in (2, 0, 0, 1):
        sampler.set_epoch(epoch)
        assert [(int(d), d.epoch) for d in sampler] == wanted[epoch]
    sampler.set_epoch(1)
    next(iter(sampler))
    sampler.set_epoch(1)
    assert [(int(d), d.epoch) for d in sampler] == wanted[1]


def test_set_epoch_of_the_loaded_epoch_keeps_the_place():
    sampler = Sampler(Shuffled(10), 1)
    part = iter(sampler)
    taken = [next(part) for _ in range(4)]
    again = Sampler(Shuffled(10), 1)
    again.load_state_dict(sampler.state_dict())
    again.set_epoch(0)
    assert sorted(taken + list(again)) == list(range(10))


def test_an_iterator_that_gave_nothing_changes_nothing():
    sampler = Sampler(Shuffled(10), 1)
    iter(sampler)
    iter(sampler)
    assert [d.epoch for d in sampler] == [0] * 10


def test_items_of_pytorchs_loader_know_their_epoch():
    numbers = Numbers(20)
    loader = DataLoader(numbers, batch_size=6, sampler=Sampler(Shuffled(20), 0), num_workers=1)
    for epoch in range(2):
        batches = list(loader)
        assert sorted(torch.cat([b["item"] for b in batches]).tolist()) == list(range(20))
        assert set(torch.cat([b["epoch"] for b in batches]).tolist()) == {epoch}


def test_a_state_of_something_else_is_refused():
    sampler = Sampler(Shuffled(10), 1)
    before = sampler.state_dict()
    with pytest.raises(SelectionError, match=r"no state of a fogx loader: it has \['x'\]"):
        sampler.load_state_dict({"x": 1})
    for other in (Shuffled(11), InOrder(10), BlockShuffled([5, 5]), BlockShuffled([4, 6])):
        with pytest.raises(
            SelectionError, match=r"The state belongs to 10 samples, shuffled, this is .*Make the loader from the same"
        ):
            Sampler(other, 1).load_state_dict(before)
    with pytest.raises(SelectionError):
        Sampler(BlockShuffled([5, 5]), 1).load_state_dict(Sampler(BlockShuffled([4, 6]), 1).state_dict())
    assert sampler.state_dict() == before


@pytest.mark.parametrize("seed", [-1, 1.5, "x", True, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(SelectionError, match="allowed is a whole number from 0"):
        Sampler(Shuffled(3), seed)


def test_it_says_what_it_is_and_pickles():
    sampler = Sampler(Shuffled(3), 7)
    assert repr(sampler) == "<fogx sampler: 3 samples, shuffled, seed 7; epoch 0, 0 taken>"
    assert len(pickle.loads(pickle.dumps(sampler))) == 3
