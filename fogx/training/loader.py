"""Batches of a dataset over ranks and workers, with a state that resumes exactly. Importing this module imports torch."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypedDict

import numpy as np

from fogx.errors import SelectionError, missing_extra
from fogx.training.ahead import ReadAhead, Reading
from fogx.training.anchors import whole_number
from fogx.training.order import Draws, Order, derived, num_steps, share, step_size
from fogx.training.sampler import Cursor

try:
    import torch
    import torch.distributed
    from torch.utils.data import DataLoader, Sampler
except ImportError as error:
    raise missing_extra("torch", "torch", "loader()") from error

_WORKERS = 3
"""The key of the seeds of workers."""

_AT_ONCE = 16
"""Batches whose items are worked out together, which takes about as long as for one."""

_AHEAD = 2
"""Batches that are read ahead, as in PyTorch."""

_GRACE_S = 1.0
"""So long workers may take to end by themselves."""


class LoaderOptions(TypedDict, total=False):
    """The optional arguments of `Loader`, which it describes."""

    drop_last: bool
    rank: int | None
    world_size: int | None
    collate_fn: Callable[[Any], Any]
    pin_memory: bool
    persistent_workers: bool | None
    multiprocessing_context: Any
    prefetch_factor: int | None
    worker_init_fn: Callable[[int], None] | None


class Loader:
    """Batches of this rank, read by a `torch.utils.data.DataLoader`; see `StepDataset.loader`.

    Iterating it is one epoch; iterating again is the next one, also where the first was left early. All ranks together see
    each sample once an epoch. Lightning's `Trainer` and Accelerate's `prepare` leave it as it is, as it shards by itself.

        loader = train.loader(batch_size=16, num_workers=2, seed=0)
        for epoch in range(10):
            for batch in loader:
                ...
        torch.save({"policy": policy.state_dict(), "data": loader.state_dict()}, "checkpoint.pt")

        # later, on any number of ranks and workers, with any batch size
        loader.load_state_dict(torch.load("checkpoint.pt")["data"])

    Args:
        dataset: What to read: `__getitems__` gets `Draws`.
        order: The order of its items.
        batch_size: Samples of a batch of one rank.
        num_workers: Processes that read ahead. Without any, threads of this process do, where the dataset says that it gains by it
            (`reads_ahead`); what a user has given is called in the thread that iterates.
        seed: From 0. Same seed, same order, whatever ranks, workers and batch size.
        drop_last: Leave out what fills no whole batch on all ranks. Otherwise the ranks share it, and batches may be smaller.
        rank: This rank; `None` asks `torch.distributed` when an iteration begins, and is 0 where that is not in use.
        world_size: The number of ranks; given together with `rank`.
        collate_fn: Makes a batch of items.
        pin_memory: As in `torch.utils.data.DataLoader`, as are the arguments that follow.
        persistent_workers: Keep the workers from one epoch to the next; `None` does.
        multiprocessing_context: `"fork"`, `"spawn"`, `"forkserver"`.
        prefetch_factor: Batches that each worker, from 1, or without workers this process, from 0, reads ahead; `None` for 2. They are
            in memory together, which for whole episodes with cameras may be much.
        worker_init_fn: Called in each worker with its number.

    Raises:
        SelectionError: An argument that is out of its range.
    """

    def __init__(
        self,
        dataset: Any,
        order: Order,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        *,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        persistent_workers: bool | None = None,
        multiprocessing_context: Any = None,
        prefetch_factor: int | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (world_size or 1):
            raise SelectionError(f"rank={rank!r}, world_size={world_size!r}: give both, with 0 <= rank < world_size, or neither.")
        self.dataset = dataset
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.num_workers = whole_number("num_workers", num_workers, 0)
        self.drop_last = drop_last
        self._place = None if rank is None or world_size is None else (rank, world_size)
        self._cursor = Cursor(order, seed)
        most = _AHEAD if prefetch_factor is None else whole_number("prefetch_factor", prefetch_factor, min(self.num_workers, 1))
        is_ahead = not self.num_workers and most > 0 and getattr(dataset, "reads_ahead", False)
        ahead = ReadAhead(dataset, most) if is_ahead else None
        read: Any = ahead or dataset
        self._batches = _Batches(ahead)
        self._generator = torch.Generator()
        self._make = partial(
            DataLoader,
            read,
            batch_sampler=self._batches,
            num_workers=self.num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0 if persistent_workers is None else persistent_workers,
            multiprocessing_context=multiprocessing_context,
            prefetch_factor=prefetch_factor if self.num_workers else None,
            worker_init_fn=partial(_start_worker, worker_init_fn),
            generator=self._generator,
        )
        self._torch = self._make()

    def __len__(self) -> int:
        """Return the batches of this rank in a whole epoch."""
        rank, world_size = self._rank()
        return num_steps(len(self._cursor.order), self.batch_size, rank, world_size, self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        cursor, (rank, world_size) = self._cursor, self._rank()
        epoch, position = cursor.start(self.batch_size * world_size if self.drop_last else 1)
        plan = _Plan(cursor.order, cursor.seed, epoch, position, self.batch_size, rank, world_size, self.drop_last)
        self._batches.plan = plan
        # The seeds of workers come from here, so the random state of this process stays as it is.
        self._generator.manual_seed(derived(cursor.seed, epoch, position, rank, _WORKERS))
        batches = iter(self._torch)
        ending = sys.is_finalizing  # held here: an iterator may outlive what this module knows
        try:
            for delivered, start, stop in plan.steps():
                if start < stop:
                    batch = next(batches)
                    cursor.deliver(epoch, delivered)
                    yield batch
            cursor.finish(epoch)
        except GeneratorExit:
            # An interpreter that ends has ended its workers, and starts no thread any more: to wait for one would be forever.
            if not (ending() or self._torch.persistent_workers):
                _stop(batches)
            raise
        except BaseException:
            _stop(batches)
            self._torch = self._make()
            raise

    def _rank(self) -> tuple[int, int]:
        if self._place is not None:
            return self._place
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes the run: seed, epoch, and how many of its samples all ranks delivered, as plain numbers and text.

        Ranks that have made the same number of steps have the same state; the one of any rank will do for all. What workers
        have read ahead does not count.
        """
        return self._cursor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a state says, also with other ranks, workers or batch size.

        Raises:
            SelectionError: It is no such state, or belongs to other samples or another order.
        """
        self._cursor.load_state_dict(state)

    def __repr__(self) -> str:
        rank, world_size = self._rank()
        cursor = self._cursor
        ranks = f" on rank {rank} of {world_size}" if world_size > 1 else ""
        return (
            f"<fogx loader: {len(self)} batches of {self.batch_size}{ranks}, {self.num_workers} workers; {cursor.order}, "
            f"seed {cursor.seed}; epoch {cursor.epoch}, {cursor.position} of {len(cursor.order)} samples delivered>"
        )


@dataclass(frozen=True)
class _Plan:
    """The batches of a rank, from a position of an epoch on."""

    order: Order
    seed: int
    epoch: int
    position: int
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """Yield for each step where it ends in the epoch, and the half-open range of positions that the rank takes."""
        position = self.position
        while step := step_size(len(self.order) - position, self.batch_size, self.world_size, self.drop_last):
            start, stop = share(step, self.rank, self.world_size)
            yield position + step, position + start, position + stop
            position += step


class _Batches(Sampler[Any]):
    """What the `DataLoader` takes batches from; it outlives an epoch for the sake of its workers, a plan does not."""

    plan: _Plan

    def __init__(self, ahead: ReadAhead | None) -> None:
        self._ahead = ahead

    def __iter__(self) -> Iterator[Draws | Reading]:
        draws = self._draws()
        return draws if self._ahead is None else self._ahead.begun(draws)

    def _draws(self) -> Iterator[Draws]:
        plan = self.plan
        ranges = (np.arange(start, stop) for _, start, stop in plan.steps() if start < stop)
        while several := list(islice(ranges, _AT_ONCE)):
            items = plan.order.items(plan.seed, plan.epoch, np.concatenate(several))
            for mine in np.split(items, np.cumsum([len(positions) for positions in several])[:-1]):
                yield Draws(mine, plan.seed, plan.epoch)


def _start_worker(then: Callable[[int], None] | None, worker: int) -> None:
    # Ctrl-C reaches every process of a terminal. The parent ends its workers; they should not die under it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if then is not None:
        then(worker)


def _stop(batches: Any) -> None:
    """End the workers of an iterator now. Torch alone waits 5 s for each that is in the middle of an item."""
    workers = getattr(batches, "_workers", [])
    if not workers:
        return
    late = threading.Timer(_GRACE_S, lambda: [worker.terminate() for worker in workers])
    late.start()
    batches._shutdown_workers()
    late.cancel()
