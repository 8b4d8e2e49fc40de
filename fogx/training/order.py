"""Orders of samples: pure functions of (seed, epoch, position), the same on every machine, for every number of ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any, Protocol, overload
from zlib import crc32

import numpy as np

BLOCKS_TOGETHER = 64
"""So many blocks are shuffled among each other; that many a reader keeps at hand."""

_TABLE = 4096
"""Permutations of up to so many are made whole."""

_HALF_ROUNDS = 8
_BLOCK_ORDER, _WITHIN_BLOCKS = 1, 2
"""Keys that keep the permutations of an epoch apart."""


class Draw(int):
    """The number of an item, and of which run and epoch it was drawn, for what is random in the item.

    Args:
        item: The item.
        seed: The seed of the order.
        epoch: The epoch, counted from 0.
    """

    seed: int
    epoch: int

    def __new__(cls, item: int, seed: int, epoch: int) -> Draw:
        draw = super().__new__(cls, item)
        draw.seed = seed
        draw.epoch = epoch
        return draw

    def __reduce__(self) -> tuple[Any, ...]:
        return Draw, (int(self), self.seed, self.epoch)


@dataclass(frozen=True, eq=False)
class Draws(Sequence[Draw]):
    """The draws of a batch; on its way to a worker a few bytes an item.

    Args:
        items: `(B,)` int64.
        seed: The seed of the order.
        epoch: The epoch.
    """

    items: np.ndarray
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, position: int) -> Draw: ...
    @overload
    def __getitem__(self, position: slice) -> Draws: ...
    def __getitem__(self, position: int | slice) -> Draw | Draws:
        if isinstance(position, slice):
            return Draws(self.items[position], self.seed, self.epoch)
        return Draw(int(self.items[position]), self.seed, self.epoch)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(item, self.seed, self.epoch) for item in self.items.tolist())


class Order(Protocol):
    """In which order the items of a dataset come."""

    def __len__(self) -> int:
        """Return how many items an epoch has."""

    def __repr__(self) -> str:
        """Return what tells this order from another: states are of one order."""

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the items at positions of an epoch: `(K,)` int64 of `(K,)` int64."""


class InOrder:
    """Item k at position k.

    Args:
        count: Items of the dataset.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"{self._count} samples in order"

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the positions."""
        return positions


class Shuffled:
    """Another permutation of all items every epoch.

    Args:
        count: Items of the dataset.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"{self._count} samples, shuffled"

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the items at positions of an epoch; no table of all items is made."""
        return permuted(positions, self._count, seed, epoch)


class BlockShuffled:
    """Blocks in another order every epoch; within each group of `BLOCKS_TOGETHER` blocks that follow, items in any order.

    Items that are near in time come from few blocks, which is what a reader of remote files can keep at hand.

    Args:
        sizes: `(N,)` sizes of runs of consecutive items that lie together.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._last: tuple[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        return int(self._sizes.sum())

    def __repr__(self) -> str:
        return f"{len(self)} samples, shuffled in {len(self._sizes)} blocks ({crc32(self._sizes.astype('<i8').tobytes()):08x})"

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the items at positions of an epoch."""
        ends, starts, first_items = self._laid_out(seed, epoch)
        group_ends = np.append(ends[BLOCKS_TOGETHER - 1 : -1 : BLOCKS_TOGETHER], ends[-1:])
        groups = np.searchsorted(group_ends, positions, side="right")
        places = np.empty_like(positions)
        for group in np.unique(groups).tolist():
            start = int(group_ends[group - 1]) if group else 0
            here = groups == group
            places[here] = start + permuted(
                positions[here] - start, int(group_ends[group]) - start, seed, epoch, _WITHIN_BLOCKS, group
            )
        blocks = np.searchsorted(ends, places, side="right")
        found: np.ndarray = first_items[blocks] + places - starts[blocks]
        return found

    def _laid_out(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return of the blocks in the order of an epoch: where each ends and starts in it, and its first item."""
        if self._last is None or self._last[0] != (seed, epoch):
            order = permuted(np.arange(len(self._sizes), dtype=np.int64), len(self._sizes), seed, epoch, _BLOCK_ORDER)
            ends = np.cumsum(self._sizes[order])
            first_items = (np.cumsum(self._sizes) - self._sizes)[order]
            self._last = (seed, epoch), (ends, ends - self._sizes[order], first_items)
        return self._last[1]


def permuted(positions: np.ndarray, count: int, seed: int, *key: int) -> np.ndarray:
    """Return where a permutation of 0 … count - 1 takes positions.

    Many numbers are laid out as a grid of about √count rows; rounds move each by an amount that depends on its row or on its
    column alone, which can be undone, so no two meet. What falls outside goes through again. Few are sorted by random keys. All of
    it is made of integers, so that the order does not depend on a version of numpy.

    Args:
        positions: `(K,)` int64, from 0 up to `count`, not included.
        count: How many there are.
        seed: From 0.
        key: Numbers from 0 that tell one permutation of a seed from another.

    Returns:
        `(K,)` int64.
    """
    if count <= _TABLE:
        few: np.ndarray = _table(count, seed, key)[positions]
        return few
    columns = isqrt(count - 1) + 1
    rows = -(-count // columns)
    found = _round(positions, rows, columns, seed, key)
    outside = np.flatnonzero(found >= count)
    while len(outside):
        found[outside] = _round(found[outside], rows, columns, seed, key)
        outside = outside[found[outside] >= count]
    return found


def derived(seed: int, *key: int) -> int:
    """Return a seed that belongs to a seed and a key: 0 up to 2⁶³, not included."""
    return int(_keys(seed, key, 1)[0] >> np.uint64(1))


def draws(order: Order, seed: int, epoch: int, start: int, stop: int) -> Draws:
    """Return the items at positions start … stop - 1 of an epoch."""
    return Draws(order.items(seed, epoch, np.arange(start, stop, dtype=np.int64)), seed, epoch)


def step_size(left: int, batch_size: int, world_size: int, drop_last: bool) -> int:
    """Return how many samples all ranks together take next, of `left` that an epoch still has; 0 ends it.

    A rank takes up to `batch_size`. Where less than a sample a rank would be left for the last step, the step before it leaves
    some, so that all ranks make the same number of steps.
    """
    full = batch_size * world_size
    if left <= full:
        return left if left == full or not drop_last else 0
    if drop_last or batch_size == 1 or left - full >= world_size:
        return full
    return left - world_size


def num_steps(left: int, batch_size: int, rank: int, world_size: int, drop_last: bool) -> int:
    """Return how many batches a rank makes of `left` samples of all ranks."""
    full = batch_size * world_size
    steps, rest = divmod(left, full)
    if drop_last or not rest:
        return steps
    # A rest that has no sample for each rank stays as it is only where no step before it has some to spare.
    as_it_is = batch_size == 1 or steps == 0 or rest >= world_size
    start, stop = share(rest if as_it_is else world_size, rank, world_size)
    return steps + (stop > start)


def share(samples: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the half-open range that a rank takes of the samples of a step: as even as they can be cut, low ranks first."""
    each, extra = divmod(samples, world_size)
    return rank * each + min(rank, extra), (rank + 1) * each + min(rank + 1, extra)


def _round(numbers: np.ndarray, rows: int, columns: int, seed: int, key: tuple[int, ...]) -> np.ndarray:
    row, column = (part.astype(np.uint64) for part in np.divmod(numbers, columns))
    for half, secret in enumerate(_keys(seed, key, _HALF_ROUNDS)):
        if half % 2:
            column = _moved(column, row, secret, columns)
        else:
            row = _moved(row, column, secret, rows)
    return (row * np.uint64(columns) + column).astype(np.int64)


def _moved(places: np.ndarray, others: np.ndarray, secret: np.uint64, count: int) -> np.ndarray:
    """Move places along a line of `count`, by an amount that depends on where they are on the other one."""
    # The upper half as a fraction of the line: as even as a remainder, and faster.
    moved: np.ndarray = places + ((_mixed(others + secret) >> np.uint64(32)) * np.uint64(count) >> np.uint64(32))
    moved[moved >= count] -= np.uint64(count)
    return moved


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64: other numbers, all 64 bits of which depend on all bits of values."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


@lru_cache(maxsize=256)
def _table(count: int, seed: int, key: tuple[int, ...]) -> np.ndarray:
    first, step = _keys(seed, key, 2)
    return np.argsort(_mixed(np.arange(count, dtype=np.uint64) * (step | np.uint64(1)) + first), kind="stable")


@lru_cache(maxsize=1024)
def _keys(seed: int, key: tuple[int, ...], count: int) -> np.ndarray:
    # numpy promises that seed sequences stay as they are; its generators may change.
    keys: np.ndarray = np.random.SeedSequence(seed, spawn_key=key).generate_state(count, np.uint64)
    return keys
