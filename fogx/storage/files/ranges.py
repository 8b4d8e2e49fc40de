"""Many small ranges of a root's data files, in few calls: files stay open, neighbours are read together."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from fogx.errors import CorruptDataError
from fogx.storage.files.paths import open_regular
from fogx.storage.files.store import Store

_OPEN_FILES = 64
"""Files that one reader keeps open."""

_GAP_BYTES, _MOST_BYTES = 1 << 10, 4 << 10
"""Local ranges so near are read by one call, up to so much together: to take large ones apart again costs more than another call."""
_ANNOUNCED_GAP_BYTES, _ANNOUNCED_MOST_BYTES = 8 << 10, 8 << 20
"""Local ranges so near are announced to the disk together, up to so much."""
_REMOTE_GAP_BYTES, _REMOTE_MOST_BYTES = 256 << 10, 8 << 20
"""The same of remote ones: a request costs as much as a megabyte or so."""


class _Handle:
    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = open_regular(path)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when the interpreter ends, modules go first
        if self.descriptor >= 0:
            close(self.descriptor)


class RangeReader:
    """Reads ranges of the data files of one root. Each process that gets one by pickling opens files of its own.

    Args:
        store: The root's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[str, _Handle] = OrderedDict()

    def __reduce__(self) -> tuple[type[RangeReader], tuple[Store]]:
        return RangeReader, (self._store,)

    def read(self, files: Sequence[str], file: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> list[bytes]:
        """Return the bytes of N ranges.

        Args:
            files: Pointers of data files.
            file: `(N,)` int, which of them each range is in.
            starts: `(N,)` int64 first byte of each.
            lengths: `(N,)` int bytes of each.

        Raises:
            CorruptDataError: A file is gone, or shorter than a range.
        """
        order = np.lexsort((starts, file))
        ranges = file[order].tolist(), starts[order].tolist(), (starts + lengths)[order].tolist()
        if self._store.is_local:
            self._announce(files, _runs(*ranges, _ANNOUNCED_GAP_BYTES, _ANNOUNCED_MOST_BYTES))
            runs = _runs(*ranges, _GAP_BYTES, _MOST_BYTES)
            data = [self._pread(files[number], start, stop) for number, start, stop, _ in runs]
        else:
            runs = _runs(*ranges, _REMOTE_GAP_BYTES, _REMOTE_MOST_BYTES)
            data = self._store.read_pieces([(files[number], start, stop) for number, start, stop, _ in runs])
        result = [b""] * len(order)
        wanted = zip(order.tolist(), *ranges[1:], strict=True)
        for whole, (_, first, _, count) in zip(data, runs, strict=True):
            for position, start, stop in itertools.islice(wanted, count):
                result[position] = whole if count == 1 else whole[start - first : stop - first]
        return result

    def _announce(self, files: Sequence[str], runs: Sequence[tuple[int, int, int, int]]) -> None:
        """Let the disk begin to read all at once what is not in memory, and no more: reads one after the other look like a stream."""
        if hasattr(os, "posix_fadvise"):
            for number, start, stop, _ in runs:
                handle = self._handle(files[number])
                with suppress(OSError):  # where it cannot be, reading says why
                    os.posix_fadvise(handle.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def _pread(self, pointer: str, start: int, stop: int) -> bytes:
        handle = self._handle(pointer)
        # Not left to pread, which makes room for all that is asked before it looks.
        data = b"" if stop > handle.size else os.pread(handle.descriptor, stop - start, start)
        if len(data) != stop - start:
            raise CorruptDataError(f"{self._store.path(pointer)} is shorter than its index says. It was cut, or replaced.")
        return data

    def _handle(self, pointer: str) -> _Handle:
        found = self._open.get(pointer)
        if found is None:
            try:
                found = _Handle(self._store.path(pointer))
            except FileNotFoundError:
                raise self._store.lost(pointer) from None
            self._open[pointer] = found
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        else:
            # Another thread may have taken it out meanwhile; who holds it can go on reading.
            with suppress(KeyError):
                self._open.move_to_end(pointer)
        return found


def _runs(file: list[int], starts: list[int], stops: list[int], gap: int, most: int) -> list[tuple[int, int, int, int]]:
    """Return (file, first byte, one past the last byte, ranges) of what is read together; the ranges are in order."""
    runs: list[tuple[int, int, int, int]] = []
    for number, start, stop in zip(file, starts, stops, strict=True):
        if runs:
            last, first, end, count = runs[-1]
            if last == number and start <= end + gap and stop - first <= most:
                runs[-1] = last, first, max(end, stop), count + 1
                continue
        runs.append((number, start, stop, 1))
    return runs
