"""Runs tasks in the process that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class InlineExecutor:
    """Runs one task at a time, here; a script needs no `__main__` guard for it."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield `function(task)` in order; a task is taken and run only when its result is asked for."""
        for task in tasks:
            yield function(task)
