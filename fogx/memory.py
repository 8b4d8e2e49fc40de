"""How much memory data from anybody may take, and memory that is not needed any more."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa

from fogx.errors import CorruptDataError
from fogx.settings import config

LARGEST_RATIO = 32
"""A call may decode to the budget, or to so many times the bytes that it reads, whichever is more."""


class Room:
    """How much one call may decode: `fox.config().memory_mb`, or 32 times what it reads, whichever is more.

    Args:
        objects: Columns (or parts, with dots) whose values become Python objects.
        json: Columns whose text is parsed as JSON.
    """

    def __init__(self, objects: Sequence[str] = (), json: Sequence[str] = ()) -> None:
        self.objects = tuple(objects)
        self.json = tuple(json)
        self._lock = threading.Lock()
        self._decoded = 0
        self._stored = 0

    def take(self, what: str, decoded: int, stored: int) -> None:
        """Count one more read, before it is made.

        Raises:
            CorruptDataError: All reads together would take more than there is room.
        """
        with self._lock:  # remote files are read by several threads
            self._decoded += decoded
            self._stored += stored
        limit = max(config().memory_mb << 20, LARGEST_RATIO * self._stored)
        if self._decoded > limit:
            needed = -(-self._decoded >> 20)
            raise CorruptDataError(
                f"{what}: {self._stored} bytes would take up to {needed} MiB of memory, allowed are {limit >> 20}. Nothing of it was "
                f"decoded. If it is meant to be that large, call fox.config(memory_mb={needed})."
            )


def give_back() -> None:
    """Return to the system what allocators keep of memory that is free again: 170 MB after an hour of images, in 20 ms."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
