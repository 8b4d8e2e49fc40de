"""Orders are permutations that depend on (seed, epoch) alone; steps and shares cut them without repeats or gaps."""

import pickle
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.training.order import (
    BLOCKS_TOGETHER,
    BlockShuffled,
    Draw,
    Draws,
    InOrder,
    Shuffled,
    derived,
    draws,
    num_steps,
    permuted,
    share,
    step_size,
)

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 10**6)


@given(st.integers(0, 3000) | st.integers(4090, 9000), SEEDS, EPOCHS)
def test_every_epoch_is_a_permutation(count, seed, epoch):
    for order in (InOrder(count), Shuffled(count)):
        assert sorted(order.items(seed, epoch, np.arange(count)).tolist()) == list(range(count))


@given(st.lists(st.integers(0, 40), max_size=300), SEEDS, EPOCHS)
def test_blocks_are_shuffled_within_their_group_alone(sizes, seed, epoch):
    order, count = BlockShuffled(sizes), sum(sizes)
    assert len(order) == count
    items = order.items(seed, epoch, np.arange(count))
    assert sorted(items.tolist()) == list(range(count))
    blocks = np.repeat(np.arange(len(sizes)), sizes)[items]
    seen = [np.flatnonzero(blocks == b) for b in range(len(sizes)) if sizes[b]]
    # An item of a block is no farther from another of it than the items of one group.
    largest = sum(sorted(sizes)[-BLOCKS_TOGETHER:])
    assert all(positions[-1] - positions[0] < largest for positions in seen)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=200), SEEDS, EPOCHS, st.data())
def test_a_position_does_not_depend_on_what_is_asked_with_it(sizes, seed, epoch, data):
    count = sum(sizes)
    some = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=20)), dtype=np.int64)
    for order in (Shuffled(count), BlockShuffled(sizes)):
        assert order.items(seed, epoch, some).tolist() == order.items(seed, epoch, np.arange(count))[some].tolist()


def test_an_order_stays_the_same_for_ever():
    assert permuted(np.arange(10), 10, 0, 0).tolist() == [5, 1, 9, 7, 2, 4, 0, 3, 8, 6]
    assert permuted(np.array([0, 1, 2]), 10**9, 7, 3).tolist() == [306979526, 735173299, 209617195]
    assert derived(7, 3) == 3411976877185804603


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_all_permutations_come_about_equally_often(count):
    every = list(permutations(range(count)))
    times = Counter(tuple(permuted(np.arange(count), count, 0, epoch).tolist()) for epoch in range(4 * len(every)))
    expected = 4
    chi_square = sum((times[one] - expected) ** 2 / expected for one in every)
    freedom = len(every) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("count", [11, 64, 1001, 4097, 5000])
def test_neighbours_do_not_stay_neighbours(count):
    distances = Counter()
    for epoch in range(200):
        items = permuted(np.arange(count), count, 1, epoch)
        distances.update(((items[1:] - items[:-1]) % count).tolist())
    expected = 200 * (count - 1) / (count - 1)
    chi_square = sum((distances[d] - expected) ** 2 / expected for d in range(1, count))
    assert abs(chi_square - (count - 2)) < 5 * (2 * (count - 2)) ** 0.5


def test_a_trillion_items_need_no_table():
    positions = np.arange(10**12 - 1000, 10**12)
    items = Shuffled(10**12).items(0, 0, positions)
    assert len(set(items.tolist())) == 1000
    assert items.min() >= 0
    assert items.max() < 10**12
    assert np.abs(np.sort(items)[[250, 500, 750]] / 1e12 - [0.25, 0.5, 0.75]).max() < 0.1


def test_seeds_epochs_and_keys_give_other_orders():
    orders = [permuted(np.arange(50), 50, *key).tolist() for key in ((0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (2**40, 0))]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_a_draw_is_an_int_that_knows_its_epoch():
    draw = Draw(5, seed=3, epoch=2)
    assert (draw, draw + 1, [10, 11, 12, 13, 14, 15][draw], repr(draw)) == (5, 6, 15, "5")
    again = pickle.loads(pickle.dumps(draw))
    assert (again, again.seed, again.epoch, type(again)) == (5, 3, 2, Draw)


def test_the_draws_of_a_batch_are_a_sequence_of_draws():
    batch = draws(Shuffled(100), seed=3, epoch=2, start=10, stop=20)
    assert isinstance(batch, Draws)
    assert (len(batch), list(batch)) == (10, permuted(np.arange(10, 20), 100, 3, 2).tolist())
    assert [(d.seed, d.epoch) for d in batch] == [(3, 2)] * 10
    assert (batch[2], list(batch[2:4])) == (list(batch)[2], list(batch)[2:4])
    again = pickle.loads(pickle.dumps(batch))
    assert [(d, d.seed, d.epoch) for d in again] == [(d, 3, 2) for d in batch]


@given(st.integers(0, 400), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_steps_and_shares_cut_an_epoch(count, batch_size, world_size, drop_last):
    left, sizes = count, []
    while step := step_size(left, batch_size, world_size, drop_last):
        cuts = [share(step, rank, world_size) for rank in range(world_size)]
        assert (cuts[0][0], cuts[-1][1]) == (0, step)
        assert all(one[1] == other[0] for one, other in pairwise(cuts))
        sizes.append([stop - start for start, stop in cuts])
        assert max(sizes[-1]) <= batch_size
        assert max(sizes[-1]) - min(sizes[-1]) <= 1
        left -= step
    batches = [sum(size[rank] > 0 for size in sizes) for rank in range(world_size)]
    assert batches == [num_steps(count, batch_size, rank, world_size, drop_last) for rank in range(world_size)]
    if drop_last:
        assert left < batch_size * world_size
        assert all(min(size) == batch_size for size in sizes)
    else:
        assert left == 0
        assert len(sizes) == -(-count // (batch_size * world_size))
        # Only where it cannot be do ranks differ: fewer samples than ranks, or batches of one.
        assert len(set(batches)) == 1 or batch_size == 1 or count < world_size
