"""Several datasets as one, in given proportions. Importing this module imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Unpack

import numpy as np

from fogx.errors import SchemaMismatchError, SelectionError, listing, missing_extra
from fogx.training.anchors import whole_number
from fogx.training.itemstats import ItemStats
from fogx.training.loader import Loader, LoaderOptions
from fogx.training.online import Online
from fogx.training.order import Draw, Order, derived, permuted
from fogx.training.sampler import Sampler
from fogx.training.torch import StepDataset, collate, joined, kind_of

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", "mix()") from error

_BLOCK = 64
"""Draws of a block, where no source is so rare that it would be in none."""

_BLOCKS, _SOURCE = 4, 5
"""Keys of the permutations of blocks, and of the seeds of sources."""

_Read = tuple[np.ndarray, list[tuple[StepDataset, np.ndarray, list[int], Any]]]
"""What was read of draws: the `(B,)` source of each; for each source that has some, their rows, numbers in it, and what it read."""


def mix(sources: Sequence[tuple[StepDataset, float]], *, epoch_size: int | None = None) -> Mixture:
    """Return several datasets as one, whose items are drawn by weight.

        train = fox.mix([(ours, 1.0), (bridge, 3.0)])  # three items of bridge for each of ours
        print(train)  # how often each is seen in an epoch
        for batch in train.loader(batch_size=16, num_workers=2, seed=0):
            batch["source"]  # (16,) int64: 0 or 1

    Args:
        sources: Datasets, each with a weight above 0; only the ratios of weights count. Items must have the same names, dtypes and
            shapes, for which `rename=`, `features=`, `windows=` and `image_size=` of `as_pytorch_dataset` are there.
        epoch_size: Items of an epoch; `None` takes as many as all sources have together.

    Raises:
        SelectionError: No source, one without items, or a weight that is not above 0.
        SchemaMismatchError: Items of two sources differ; says in what.
    """
    for number, pair in enumerate(sources):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], StepDataset):
            raise SelectionError(
                f"mix: source {number} is no pair of a dataset and a weight, as in fox.mix([(ours, 1.0), (theirs, 3.0)])."
            )
    return Mixture([source for source, _ in sources], [weight for _, weight in sources], epoch_size)


class Mixture:
    """Datasets whose items are drawn by weight; see `fogx.mix`. A map-style dataset for PyTorch.

    Item k is the k-th draw of an epoch. Draws come in blocks: after each block, every source was drawn as often as its weight says,
    to within 1; the order in a block is random. Each source goes through all of its items, in another order each time, before one
    comes again, across the epochs of the mixture. `loader` and `sampler` give draws that know seed and epoch; plain numbers are
    draws of seed 0 and epoch 0, so that another sampler would see the same part of a large source in each epoch.

    Args:
        sources: The datasets.
        weights: A weight for each.
        epoch_size: Items of an epoch; `None` takes as many as all sources have together.

    Raises:
        SelectionError: No source, one without items, or a weight that is not above 0.
        SchemaMismatchError: Items of two sources differ; says in what.
    """

    def __init__(self, sources: Sequence[StepDataset], weights: Sequence[float], epoch_size: int | None = None) -> None:
        self.sources = list(sources)
        self._shares = Shares(weights)
        empty = [number for number, source in enumerate(self.sources) if not len(source)]
        if empty:
            raise SelectionError(f"mix: {_numbered(empty)} of {len(self.sources)} has no items; leave it out.")
        self._validity = _compare(self.sources)
        self._orders: list[Order] = [source.order(shuffle=True) for source in self.sources]
        self._size = sum(map(len, self.sources)) if epoch_size is None else whole_number("epoch_size", epoch_size, 1)

    @property
    def features(self) -> list[str]:
        """Names of the features that every item carries."""
        return self.sources[0].features

    @property
    def weights(self) -> list[float]:
        """The share of each source in the draws; together they are 1."""
        return self._shares.weights

    @property
    def effective_epochs(self) -> list[float]:
        """How often the items of each source are seen in an epoch, on average over epochs."""
        return [weight * len(self) / len(source) for weight, source in zip(self.weights, self.sources, strict=True)]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return one item, with `source`, the number of the dataset that it is from.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        found: dict[str, Any] = self.__getitems__([item])[0]
        return found

    def __getitems__(self, items: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Return many items, those of each source read together; PyTorch's loader calls this.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        return self.finish(items, self.read(items))

    def read(self, items: Sequence[int]) -> _Read:
        """Return what `finish` makes items of; any thread may call it.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        sources, draws = self.locate(items)
        parts = []
        for number, source in enumerate(self.sources):
            rows = np.flatnonzero(sources == number)
            mine = [draws[row] for row in rows.tolist()]
            if mine:
                parts.append((source, rows, mine, source.read(mine)))
        return sources, parts

    def finish(self, items: Sequence[int], read: _Read) -> Sequence[dict[str, Any]]:
        """Return items of what was read, those of all sources as one batch."""
        sources, parts = read
        finished = [(rows, source.finish(mine, own)) for source, rows, mine, own in parts]
        return joined(finished, sources, self._validity)

    @property
    def reads_ahead(self) -> bool:
        """Whether a loader without workers lets threads read; see `StepDataset.reads_ahead`."""
        return any(source.reads_ahead for source in self.sources)

    def locate(self, items: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Return the `(B,)` source of each item, and the number of the item in it.

        Raises:
            IndexError: Past the ends.
        """
        count = len(self)
        for item in items:
            if not -count <= item < count:
                raise IndexError(f"item {item} of {count}.")
        sources = np.empty(len(items), np.int64)
        found: list[int] = [0] * len(items)
        for (seed, epoch), rows in _by_epoch(items).items():
            positions = np.array([items[row] for row in rows], np.int64) % count + (epoch or 0) * count
            sources[rows], turns = self._shares.take(seed or 0, positions)
            for row, drawn in zip(rows, self._drawn(sources[rows], turns, seed), strict=True):
                found[row] = drawn
        return sources, found

    def _drawn(self, sources: np.ndarray, turns: np.ndarray, seed: int | None) -> list[int]:
        """Return the items that sources give when it is their turn for the so-manieth time."""
        lengths = np.array([len(source) for source in self.sources], np.int64)
        epochs, positions = np.divmod(turns, lengths[sources])
        found: list[int] = [0] * len(turns)
        for source, epoch in set(zip(sources.tolist(), epochs.tolist(), strict=True)):
            rows = np.flatnonzero((sources == source) & (epochs == epoch))
            own = derived(seed or 0, source, _SOURCE)
            items = self._orders[source].items(own, epoch, positions[rows]).tolist()
            for row, item in zip(rows.tolist(), items, strict=True):
                found[row] = item if seed is None else Draw(item, own, epoch)
        return found

    def order(self) -> Order:
        """Return the order of draws: one after the other, as the mixture itself is what is random."""
        sources = "; ".join(f"{weight!r} of {order}" for weight, order in zip(self.weights, self._orders, strict=True))
        return _MixtureOrder(len(self), f"{len(self)} samples, mixed: {sources}")

    def loader(self, batch_size: int, num_workers: int = 0, seed: int = 0, **options: Unpack[LoaderOptions]) -> Loader:
        """Return batches of draws over ranks and workers, with a state that resumes exactly; see `StepDataset.loader`.

        Args:
            batch_size: Items of a batch of one rank.
            num_workers: Processes that read ahead. Without any, threads of this process do, where a source gains by it.
            seed: From 0.
            options: See `fogx.training.loader.Loader`.

        Raises:
            SelectionError: An argument that is out of its range.
        """
        given: LoaderOptions = {"collate_fn": collate, **options}
        return Loader(self, self.order(), batch_size, num_workers, seed, **given)

    def stats(self) -> list[ItemStats]:
        """Return the statistics of the items of each source, as `StepDataset.stats` does.

        Raises:
            CorruptDataError: Stored data fails a checksum.
        """
        return [source.stats() for source in self.sources]

    def online(self, source: int) -> Online:
        """Return what makes the batch of a training item of a robot's observation, for one source: each has its own statistics.

        Args:
            source: Its number.

        Raises:
            SelectionError: No such source, or as `StepDataset.online`.
            FeatureError: As `StepDataset.online`.
        """
        if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < len(self.sources):
            raise SelectionError(f"source={source!r:.40}: sources have the numbers 0 to {len(self.sources) - 1}.")
        return self.sources[source].online()

    def sampler(self, seed: int = 0) -> Sampler:
        """Return a sampler of draws for another loader; see `StepDataset.sampler`.

        Raises:
            SelectionError: The seed is no whole number from 0.
        """
        return Sampler(self.order(), seed)

    def __repr__(self) -> str:
        each = (
            f"{number}: weight {weight:.4g}, {len(source)} items, {seen:.4g} epochs"
            for number, (weight, source, seen) in enumerate(zip(self.weights, self.sources, self.effective_epochs, strict=True))
        )
        return f"<fogx mixture: {len(self)} items an epoch of {len(self.sources)} sources; {'; '.join(each)}>"


class Shares:
    """Which source each draw is of: counts follow the weights, the order within a block is random.

    Args:
        weights: One for each source.

    Raises:
        SelectionError: There is none, or one is not above 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights:
            raise SelectionError(
                "mix: no sources; give pairs of a dataset and a weight, as in fox.mix([(ours, 1.0), (theirs, 3.0)])."
            )
        wrong = [number for number, weight in enumerate(weights) if not (weight > 0 and math.isfinite(weight))]
        if wrong:
            raise SelectionError(
                f"mix: {_numbered(wrong)} has the weight {weights[wrong[0]]!r}; allowed is any number above 0. Leave out what should not "
                "be seen."
            )
        exact = [Fraction(weight) for weight in weights]
        total = sum(exact)
        self.weights = [float(weight / total) for weight in exact]
        self._ends = [sum(exact[: number + 1]) / total for number in range(len(exact))]
        # With a draw of every source in each block on average, none of the counts below goes down from block to block.
        self.block = max(_BLOCK, math.ceil(total / min(exact)))

    def counts(self, block: int) -> list[int]:
        """Return how often each source is drawn before a block begins: within 1 of what its weight says."""
        draws = block * self.block
        ends = [0, *(math.floor(draws * end + Fraction(1, 2)) for end in self._ends)]
        return [stop - start for start, stop in pairwise(ends)]

    def take(self, seed: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each draw, and how often that source was drawn before: `(K,)` int64 each.

        Args:
            seed: From 0.
            positions: `(K,)` int64, draws counted over all epochs.
        """
        sources, turns = np.empty_like(positions), np.empty_like(positions)
        blocks, places = np.divmod(positions, self.block)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            before = np.array(self.counts(block), np.int64)
            ends = np.cumsum(np.array(self.counts(block + 1), np.int64) - before)
            slots = permuted(places[here], self.block, seed, block, _BLOCKS)
            mine = np.searchsorted(ends, slots, side="right")
            sources[here] = mine
            turns[here] = before[mine] + slots - np.concatenate(([0], ends))[mine]
        return sources, turns


class _MixtureOrder:
    """The draws of a mixture, one after the other."""

    def __init__(self, count: int, described: str) -> None:
        self._count = count
        self._described = described

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return self._described

    def items(self, seed: int, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the positions."""
        return positions


def _by_epoch(items: Sequence[int]) -> dict[tuple[int | None, int | None], list[int]]:
    """Return the rows of items by the seed and epoch that they know; plain numbers know none."""
    found: dict[tuple[int | None, int | None], list[int]] = {}
    for row, item in enumerate(items):
        found.setdefault((getattr(item, "seed", None), getattr(item, "epoch", None)), []).append(row)
    return found


def _compare(sources: Sequence[StepDataset]) -> dict[str, Any]:
    """Return `<feature>_is_valid` of an item for those that only some sources have; in the others all steps have a value.

    Raises:
        SchemaMismatchError: Items of two sources differ.
    """
    items = [source[0] for source in sources]
    everywhere = {name: value for item in items for name, value in item.items() if name.endswith("_is_valid")}
    all_valid = {name: torch.ones_like(value) for name, value in everywhere.items() if any(name not in item for item in items)}
    kinds = [
        {name: kind_of(value, whole=source.level == "episode") for name, value in {**all_valid, **item}.items()}
        for source, item in zip(sources, items, strict=True)
    ]
    for number, kind in enumerate(kinds):
        differing = [name for name in {**kinds[0], **kind} if kinds[0].get(name) != kind.get(name)]
        if differing:
            told = (
                f"{name!r} is {kinds[0].get(name, 'not there')} in source 0, {kind.get(name, 'not there')}" for name in differing
            )
            raise SchemaMismatchError(
                f"mix: items of source {number} differ from those of source 0: {listing(told, most=3)} in source {number}. Make them "
                "alike with the arguments of as_pytorch_dataset: rename= for names, features= to leave some out, windows= for time "
                "axes, image_size= and dtype= for shapes and dtypes."
            )
    return all_valid


def _numbered(numbers: Sequence[int]) -> str:
    return f"source {numbers[0]}" if len(numbers) == 1 else f"sources {listing(numbers)}"
