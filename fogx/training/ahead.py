"""Batches that threads of this process read before they are asked for, where a loader has no workers."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from fogx.threads import pool, submit


class InTwoSteps(Protocol):
    """A dataset whose items are made in two steps, of which the first may be done in any thread."""

    def read(self, items: Sequence[int]) -> Any:
        """Return what `finish` makes items of. Calls no function of the user's."""

    def finish(self, items: Sequence[int], read: Any) -> Sequence[Any]:
        """Return the items."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A batch that is being read.

    Args:
        items: The numbers of its items.
        read: What `InTwoSteps.read` returns.
    """

    items: Sequence[int]
    read: Future[Any]


class ReadAhead:
    """A dataset whose items were read ahead: `begun` yields in place of each batch of numbers what `__getitems__` takes.

    What the user's functions do, they do in the thread that asks, batch after batch, as they would if nothing were read ahead: they
    need not bear threads, and draw the same random numbers.

    Args:
        dataset: The dataset.
        most: Batches that are read ahead of the one that is asked for.
    """

    def __init__(self, dataset: InTwoSteps, most: int) -> None:
        self._dataset = dataset
        self._most = most

    def begun(self, batches: Iterable[Sequence[int]]) -> Iterator[Reading]:
        """Yield batches that are being read; those that nobody took when this is closed are given up."""
        readings: deque[Reading] = deque()
        try:
            for items in batches:
                readings.append(Reading(items, submit(pool("fogx reader"), functools.partial(self._dataset.read, items))))
                if len(readings) > self._most:
                    yield readings.popleft()
            while readings:
                yield readings.popleft()
        finally:
            for reading in readings:
                reading.read.cancel()

    def __getitems__(self, reading: Reading) -> Sequence[Any]:
        """Return the items of a batch, as soon as it is read."""
        return self._dataset.finish(reading.items, reading.read.result())
