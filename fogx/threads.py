"""Threads that share the processors of this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_pools: dict[tuple[int, str], ThreadPoolExecutor] = {}


def pool(name: str, most: int | None = None, begin: Callable[[], None] | None = None) -> ThreadPoolExecutor:
    """Return the threads of a name, which all of this process share: one a processor, or fewer.

    They do not come along over a fork, so each process has its own.

    Args:
        name: What they are called.
        most: So many there may be.
        begin: Called in each when it starts.
    """
    key = os.getpid(), name
    return _pools.get(key) or _pools.setdefault(key, ThreadPoolExecutor(min(processors(), most or processors()), name, begin))


def submit(threads: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
    """Let a thread do some work; where the interpreter ends, and starts none any more, it is done when this returns.

    Args:
        threads: A pool.
        work: What is to be done.
    """
    try:
        return threads.submit(work)
    except RuntimeError:
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        return done


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
