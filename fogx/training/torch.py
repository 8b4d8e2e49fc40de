"""PyTorch datasets over a selection. Importing this module imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack, overload

import numpy as np

from fogx.errors import SelectionError, listing, missing_extra
from fogx.training.describe import statistics_of
from fogx.training.index import TrainingIndex
from fogx.training.items import Batch, ItemReader, ItemSpec
from fogx.training.itemstats import ItemStats
from fogx.training.loader import Loader, LoaderOptions
from fogx.training.names import by_name, lerobot_names
from fogx.training.normalize import Normalizer, chosen
from fogx.training.online import Online, online_of
from fogx.training.order import BlockShuffled, InOrder, Order, Shuffled
from fogx.training.relative import Relative
from fogx.training.sampler import Sampler
from fogx.training.transform import PerItem, item_of, tensor_of

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", "as_pytorch_dataset()") from error

Stage = Callable[[Batch], Batch]
"""Changes a batch of numpy arrays; the first axis is the item."""

_AT_ONCE = 64
"""Items that the iterable twin reads together."""

_SMALL_BYTES = 64 << 10
"""What a pipe holds."""


class Items(Sequence[dict[str, Any]]):
    """Items that were read together. Any collate function takes it as it takes a list; `collate` takes `batch`, stacked already.

    Args:
        batch: Name → tensor of B items, or list of B texts or tensors.
        count: B.
    """

    def __init__(self, batch: Mapping[str, Any], count: int) -> None:
        self.batch = dict(batch)
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, item: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, item: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, item: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return one item, or a list of some."""
        if isinstance(item, slice):
            return [self[number] for number in range(*item.indices(self._count))]
        if not -self._count <= item < self._count:
            raise IndexError(f"item {item} of {self._count}.")
        return item_of(self.batch, item)


class Sent(dict[str, Any]):
    """A batch on its way out of a worker, a dict where it arrives.

    Its small tensors go through the pipe: each would else be handed over as a file of shared memory, which takes longer.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        small = {n: v.numpy() for n, v in self.items() if isinstance(v, torch.Tensor) and v.nbytes <= _SMALL_BYTES}
        return _received, (list(self), small, {name: value for name, value in self.items() if name not in small})


def _received(names: Sequence[str], small: Mapping[str, np.ndarray], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(small[name]) if name in small else others[name] for name in names}


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of items: of `Items` the one they came in, of others what PyTorch's own function makes of them.

    Whole episodes are filled up with zeros to the longest, and `is_pad` (B, T) says where.

    Args:
        items: What a dataset's `__getitems__` returned.
    """
    if isinstance(items, Items):
        return items.batch if torch.utils.data.get_worker_info() is None else Sent(items.batch)
    if isinstance(_step_of(items[0]), torch.Tensor) and _step_of(items[0]).ndim == 1:
        return _padded(items)
    result: dict[str, Any] = torch.utils.data.default_collate(list(items))
    return result


class StepDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Steps (stretches of steps, whole episodes) of a selection; see `fogx.Dataset.as_pytorch_dataset`.

    Args:
        index: The selection.
        spec: What items are made of.
        level: `"step"`, `"window"` or `"episode"`.
        stages: What is done to each batch of arrays, in order.
        normalizer: What is done to it last.
    """

    def __init__(
        self,
        index: TrainingIndex,
        spec: ItemSpec,
        level: str = "step",
        stages: Sequence[Stage] = (),
        normalizer: Normalizer | None = None,
    ) -> None:
        self.level = level
        self.stages = tuple(stages)
        self.normalizer = normalizer
        self._reader = ItemReader(index, spec)

    @property
    def features(self) -> list[str]:
        """Names of the features that every item carries, as items spell them."""
        index = self._reader.index
        return list(index.shown) if self._reader.spec.keys is None else list(lerobot_names(index.features, index.shown).values())

    def __len__(self) -> int:
        index = self._reader.index
        return len(index.episodes) if self.level == "episode" else len(index.anchors)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return one item; floats are float32, cameras uint8 (C, H, W), with a leading time axis for whole episodes.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Return many items, read together; PyTorch's loader calls this.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        count = len(self)
        for item in items:
            if not -count <= item < count:
                raise IndexError(f"item {item} of {count}.")
        items = [item if item >= 0 else item + count for item in items]
        return self.finish(items, self.read(items))

    def read(self, items: Sequence[int]) -> list[Batch]:
        """Return what `finish` makes items of; any thread may call it.

        Args:
            items: Their numbers, from 0.

        Raises:
            CorruptDataError: Stored data fails a checksum.
        """
        with self._telling(items, self._read):
            return self._read(items)

    def finish(self, items: Sequence[int], read: list[Batch]) -> Sequence[dict[str, Any]]:
        """Return items of what was read: what the user asked to be done to them is done here.

        Args:
            items: Their numbers, from 0.
            read: What `read` returned for them.
        """
        with self._telling(items, lambda one: self._finished(one, self._read(one))):
            return self._finished(items, read)

    @property
    def reads_ahead(self) -> bool:
        """Whether a loader without workers lets threads read: numbers on this disk are there before a thread could hand them over."""
        index = self._reader.index
        has_frames = any(feature.in_frames for feature in index.features.values())
        return has_frames or not all(store.is_local for store in index.episodes.stores)

    def _read(self, items: Sequence[int]) -> list[Batch]:
        return self._reader.episodes(items) if self.level == "episode" else [self._reader.batch(items)]

    def _finished(self, items: Sequence[int], read: list[Batch]) -> Sequence[dict[str, Any]]:
        if self.level == "episode":
            return [self._whole(int(number), batch) for number, batch in zip(items, read, strict=True)]
        return Items(self._tensors(read[0]), len(items))

    @contextmanager
    def _telling(self, items: Sequence[int], make: Callable[[Sequence[int]], object]) -> Iterator[None]:
        """Let an error be the one of the first item that has one by itself, with a note of where it is; else the one of all."""
        try:
            yield
        except Exception as error:
            raise self._told(items, make, error) from None

    def _told(self, items: Sequence[int], make: Callable[[Sequence[int]], object], error: Exception) -> Exception:
        for item in items:
            try:
                make([item])
            except Exception as own:
                own.add_note(f"This was {self._place(item)}.")
                return own
        return error

    def _place(self, item: int) -> str:
        found = self._reader.index
        if self.level == "episode":
            return f"item {int(item)}: episode {found.episodes.ids[int(item)].as_py()!r}"
        episodes, steps = found.anchors.locate(np.array([item], np.int64))
        return f"item {int(item)}: step {int(steps[0])} of episode {found.episodes.ids[int(episodes[0])].as_py()!r}"

    def iterable(self) -> StepStream:
        """Return the same items as an iterable dataset, in order; each worker of a loader gives a part of them."""
        return StepStream(self)

    def blocks(self) -> list[int]:
        """Return the sizes of runs of items that follow one another and lie together, which are quick to read together."""
        index = self._reader.index
        counts = np.ones(len(index.episodes), np.int64) if self.level == "episode" else index.anchors.counts
        starts = np.flatnonzero(np.r_[True, np.diff(index.block_of) != 0]) if len(counts) else np.zeros(0, np.int64)
        return [size for size in np.add.reduceat(counts, starts).tolist() if size] if len(starts) else []

    def stats(self) -> ItemStats:
        """Return statistics of the items as they are trained on: where they stand, with their windows, relative and transformed.

        Padding, steps without a value and NaN are left out. Count, mean, deviation, range are exact, quantiles up to 4 million values
        of a feature (`rank_error` says how far off they may be beyond). Values in frames (images per channel) are counted of 1000
        items, evenly spaced (`sampled`), numbers of all; with a transform everything is counted of all. A goal is not counted beside
        its feature. What `normalize=` does comes after all this. Without a transform the result is kept in the cache folder.

        Raises:
            CorruptDataError: Stored data fails a checksum.
        """
        return statistics_of(self._reader, self.stages, whole=self.level == "episode")

    def online(self) -> Online:
        """Return what makes the batch of a training item of a robot's observation, and actions of a policy's answer.

        Raises:
            SelectionError: Items are whole episodes.
            FeatureError: A window of an observation reaches past the item's own step.
        """
        if self.level == "episode":
            raise SelectionError("online() makes what items of one step have; these are whole episodes. Choose level='step'.")
        return online_of(self._reader.index, self._reader.spec, self.stages, self.normalizer)

    def order(self, *, shuffle: bool) -> Order:
        """Return an order of the items; where they are far away, those that lie together are shuffled together."""
        if not shuffle:
            return InOrder(len(self))
        is_local = all(store.is_local for store in self._reader.index.episodes.stores)
        return Shuffled(len(self)) if is_local else BlockShuffled(self.blocks())

    def loader(
        self, batch_size: int, num_workers: int = 0, seed: int = 0, *, shuffle: bool = True, **options: Unpack[LoaderOptions]
    ) -> Loader:
        """Return batches over ranks and workers, with a state that resumes exactly.

        Iterating it is one epoch; iterating again is the next one. The order depends on `seed` and the epoch alone. All ranks
        together see each sample once an epoch, and may stop and go on anywhere:

            loader = train.loader(batch_size=16, num_workers=2, seed=0)
            for epoch in range(10):
                for batch in loader:
                    ...
            torch.save({"policy": policy.state_dict(), "data": loader.state_dict()}, "checkpoint.pt")

            # later, on any number of ranks and workers, with any batch size
            loader.load_state_dict(torch.load("checkpoint.pt")["data"])

        Lightning's `Trainer.fit(model, loader)` and Accelerate's `prepare(loader)` take it as it is; it finds its rank by itself.
        Lightning saves its state in checkpoints. With Accelerate, call `accelerator.register_for_checkpointing(loader)` and
        move batches to `accelerator.device`; for a loader that Accelerate shards, see `sampler`.

        Args:
            batch_size: Items of a batch of one rank.
            num_workers: Processes that read ahead. Without any, threads of this process do, where items have frames or are far away;
                `transform=` is called in the thread that iterates.
            seed: From 0.
            shuffle: Whether items come in another order each epoch.
            options: `drop_last`, `rank`, `world_size`, `collate_fn`, and those of `torch.utils.data.DataLoader`; see
                `fogx.training.loader.Loader`.

        Raises:
            SelectionError: An argument that is out of its range.
        """
        given: LoaderOptions = {"collate_fn": collate, **options}
        return Loader(self, self.order(shuffle=shuffle), batch_size, num_workers, seed, **given)

    def sampler(self, seed: int = 0, *, shuffle: bool = True) -> Sampler:
        """Return a sampler of the whole order, for loaders that are not fogx' own and shard batches themselves.

            loader = DataLoader(train, batch_size=16, sampler=train.sampler(seed=0), collate_fn=fogx.training.torch.collate)
            loader = accelerator.prepare(loader)  # or a StatefulDataLoader of torchdata, made the same way

        Args:
            seed: From 0.
            shuffle: Whether items come in another order each epoch.

        Raises:
            SelectionError: The seed is no whole number from 0.
        """
        return Sampler(self.order(shuffle=shuffle), seed)

    def __repr__(self) -> str:
        index = self._reader.index
        return f"<fogx {self.level}s: {len(self)} items of {len(index.episodes)} episodes; {listing(self.features)}>"

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        for stage in self.stages:
            batch = stage(batch)
        if self.normalizer is not None:
            batch = self.normalizer(batch)
        if self._reader.spec.keys is None:
            return {name: tensor_of(values) for name, values in batch.items()}
        names = lerobot_names(self._reader.index.features, batch)
        return {names[name]: tensor_of(values) for name, values in batch.items()}

    def _whole(self, number: int, batch: Batch) -> dict[str, Any]:
        return {**self._tensors(batch), "episode_id": self._reader.index.episodes.ids[number].as_py()}


def joined(
    parts: Sequence[tuple[np.ndarray, Sequence[dict[str, Any]]]], sources: np.ndarray, missing: Mapping[str, torch.Tensor]
) -> Sequence[dict[str, Any]]:
    """Return items of several datasets as one batch, with `source`.

    Args:
        parts: `(r,)` rows of the batch, and the r items that are there.
        sources: `(B,)` int64, the dataset of each row.
        missing: Name → value of one item, of what some datasets do not give.
    """
    if not all(isinstance(items, Items) for _, items in parts):
        listed: list[dict[str, Any]] = [{}] * len(sources)
        for rows, items in parts:
            for row, item in zip(rows.tolist(), items, strict=True):
                steps = len(_step_of(item))
                filled = {name: one[:1].expand(steps, *one.shape[1:]) for name, one in missing.items()}
                listed[row] = {**filled, **item, "source": torch.tensor(sources[row])}
        return listed
    batches = [
        (rows, {**{name: one.expand(len(rows), *one.shape) for name, one in missing.items()}, **items.batch})
        for rows, items in parts
        if isinstance(items, Items)
    ]
    batch = {name: _scattered([(rows, one[name]) for rows, one in batches], len(sources)) for name in batches[0][1]}
    return Items({**batch, "source": torch.from_numpy(sources)}, len(sources))


def _scattered(parts: Sequence[tuple[np.ndarray, Any]], count: int) -> Any:
    if isinstance(parts[0][1], list):
        values: list[Any] = [None] * count
        for rows, part in parts:
            for row, value in zip(rows.tolist(), part, strict=True):
                values[row] = value
        return values
    if len(parts) == 1:
        return parts[0][1]
    result = parts[0][1].new_empty((count, *parts[0][1].shape[1:]))
    for rows, part in parts:
        result[torch.from_numpy(rows)] = part
    return result


def kind_of(value: Any, *, whole: bool) -> str:
    """Return dtype and shape of a value of an item in words; of a whole episode, without how long that is."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    shape = ["T", *value.shape[1:]] if whole and value.ndim else list(value.shape)
    return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, shape))})"


def step_dataset(
    index: TrainingIndex,
    spec: ItemSpec,
    level: str,
    *,
    relative: Mapping[str, str] | None = None,
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    normalize: str | os.PathLike[str] | Normalizer | None = None,
    exclude: Mapping[str, Sequence[int]] | None = None,
) -> StepDataset:
    """Return a dataset whose batches go through all that was asked for; see `fogx.Dataset.as_pytorch_dataset`."""
    shown = {name: index.features[name] for name in index.shown}
    pairs = by_name("relative", relative)
    exclude = None if exclude is None else by_name("exclude", exclude)
    stages: list[Stage] = [Relative.of(pairs, shown, spec.windows)] if pairs else []
    stages += [] if transform is None else [PerItem(transform, whole=level == "episode")]
    dataset = StepDataset(index, spec, level, stages)
    dataset.normalizer = chosen(normalize, exclude, dataset.stats, {} if transform is not None else shown)
    return dataset


class StepStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """The items of a dataset in order; each worker of a loader gives a part of them, so that together they give all.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: StepDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"<fogx stream of {self.dataset!r}>"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield items; a worker yields every so-manieth run of 64."""
        worker, count = torch.utils.data.get_worker_info(), len(self.dataset)
        first, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for start in range(first * _AT_ONCE, count, workers * _AT_ONCE):
            yield from self.dataset.__getitems__(range(start, min(start + _AT_ONCE, count)))


def _step_of(item: Mapping[str, Any]) -> Any:
    return item.get("step_index", item.get("frame_index"))


def _padded(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return episodes one below the other, zeros behind the shorter ones, and `is_pad` (B, T)."""
    lengths = torch.tensor([len(_step_of(item)) for item in items])
    result: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if all(isinstance(value, torch.Tensor) for value in values):
            result[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True) if values[0].ndim else torch.stack(values)
        else:
            result[name] = values
    return {**result, "is_pad": torch.arange(int(lengths.max())) >= lengths[:, None]}
