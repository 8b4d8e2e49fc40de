"""Hands arrays to processes that are being started: in a file without a name, which all of them map.

Through its pipe, which holds 64 KiB, a process would take them after its imports only, and who starts it waits until then: workers
would start one after the other, a second or two each.
"""

from __future__ import annotations

import functools
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import pyarrow as pa

_ALIGN = 64


@dataclass(frozen=True, eq=False, repr=False)
class Handed:
    """Base of dataclasses whose fields of arrays are handed over so; in every other way they are pickled as they are.

    What follows from the fields is worked out again, which is quicker than to send it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        small = {name: value for name, value in values.items() if not isinstance(value, (np.ndarray, pa.Array))}
        if get_spawning_popen() is None or len(small) == len(values):
            return _made, (type(self), values)
        return _made, (type(self), values) if self._shared is None else (type(self), small, self._shared)

    @functools.cached_property
    def _shared(self) -> _Shared | None:
        # Kept as long as this is: further workers are given the same file.
        try:
            return _Shared({field.name: getattr(self, field.name) for field in fields(self)})
        except OSError:  # no folder for it, or a full one: the pipe is slower, and does
            return None


def _made(kind: type[Handed], values: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Handed:
    return kind(**values, **(more or {}))


class _Shared:
    """A file of arrays; a process that is being started gets name → array, read-only."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this)
        weakref.finalize(self, self._file.close)
        self._told: list[tuple[str, str, tuple[int, ...], int]] = []
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                self._add(name, value.dtype.str, np.ascontiguousarray(value))
            elif isinstance(value, pa.Array):
                self._add(name, "", np.frombuffer(_streamed(value), np.uint8))
        self._file.write(bytes(_ALIGN))  # an empty file cannot be mapped
        self._file.flush()

    def _add(self, name: str, dtype: str, array: np.ndarray) -> None:
        self._told.append((name, dtype, array.shape, self._file.tell()))
        self._file.write(array.reshape(-1).view(np.uint8).data)
        self._file.write(bytes(-array.nbytes % _ALIGN))

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (DupFd(self._file.fileno()), self._told)


def _opened(handle: Any, told: list[tuple[str, str, tuple[int, ...], int]]) -> dict[str, Any]:
    descriptor = handle.detach()
    try:
        data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    result: dict[str, Any] = {}
    for name, dtype, shape, offset in told:
        array = np.frombuffer(data, dtype or np.uint8, int(np.prod(shape)), offset).reshape(shape)
        result[name] = array if dtype else pa.ipc.open_stream(pa.py_buffer(array)).read_next_batch().column(0)
    return result


def _streamed(values: pa.Array) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], ["values"])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()
