"""Blocks of columns as memory-mapped files: written once by who needs one first, found by key, shared by all processes.

A block is a header (JSON: key, names, dtypes, shapes, texts) and arrays behind it, with a checksum over everything. What a file says
counts only where key, size and checksum fit; else it is written anew. Nothing else is stored here, so all of it may go at any time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import google_crc32c
import numpy as np
import platformdirs

from fogx.errors import FogxError, StorageError, in_one_line
from fogx.settings import config

logger = logging.getLogger("fogx")

_MAGIC = b"fogxblk1"
_ALIGN = 64
_CHUNK = 1 << 20
_OPEN_BLOCKS = 256
"""Blocks that one process keeps mapped; each holds a file open."""
_STALE_S = 3_600
"""A file that somebody began to write is theirs for so long."""
_SUFFIX, _TEMPORARY, _LOCK = ".block", ".tmp", ".lock"
STATISTICS = ".stats"
"""Ends the names of small files with statistics, which lie here too."""


@dataclass(frozen=True, eq=False)
class Block:
    """Columns of some episodes.

    Args:
        arrays: Name → array; read-only where it is mapped.
        texts: Name → texts that go with it.
    """

    arrays: Mapping[str, np.ndarray]
    texts: Mapping[str, Sequence[str]]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


class BlockCache:
    """Gives blocks by number: from memory, from the cache folder, or made anew. Picklable; each process maps files of its own.

    Args:
        keys: The key of a block: 64 hex digits that change whenever its content would.
        make: Makes a block.
        expected_bytes: About how many bytes all blocks take.
    """

    def __init__(self, keys: Callable[[int], str], make: Callable[[int], Block], expected_bytes: int) -> None:
        self._keys = keys
        self._make = make
        self._expected_bytes = expected_bytes
        self._mapped: OrderedDict[int, Block] = OrderedDict()
        self._kept: OrderedDict[int, Block] = OrderedDict()
        self._told = False
        # One for each process: a fork may find another thread in the middle of making a block.
        self._making: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def __reduce__(self) -> tuple[type[BlockCache], tuple[object, ...]]:
        return BlockCache, (self._keys, self._make, self._expected_bytes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of blocks that are kept in memory since they could not be written."""
        return sum(block.nbytes for block in list(self._kept.values()))

    def get(self, number: int) -> Block:
        """Return a block.

        Raises:
            CorruptDataError: What it is made of is damaged.
        """
        block = self._held(number)
        if block is not None:
            return block
        with self._making[os.getpid()]:  # two batches that are read at once often want the same blocks
            block = self._held(number)
            if block is not None:
                return block
            block, mapped = self._from_folder(number)
            held = self._mapped if mapped else self._kept
            held[number] = block
            while len(self._mapped) > _OPEN_BLOCKS:
                self._mapped.popitem(last=False)
            while len(self._kept) > 1 and self.kept_bytes > config().memory_mb << 20:
                self._kept.popitem(last=False)
        return block

    def _held(self, number: int) -> Block | None:
        for held in (self._mapped, self._kept):
            block = held.get(number)
            if block is not None:
                # Another thread may have taken it out meanwhile.
                with suppress(KeyError):
                    held.move_to_end(number)
                return block
        return None

    def _from_folder(self, number: int) -> tuple[Block, bool]:
        """Return a block, and whether it is mapped."""
        key = self._keys(number)
        path = os.path.join(cache_folder(), key + _SUFFIX)
        found = _opened(path, key)
        if found is not None:
            return found, True
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with _alone(path):
                found = _opened(path, key)  # another process may have written it meanwhile
                if found is None:
                    block = self._make(number)
                    self._tell_if_small()
                    try:
                        _write(path, key, block)
                    except OSError as error:
                        self._tell(error)
                        return block, False
                    found = _opened(path, key)
                    if found is None:
                        return block, False
                    trim(config().cache_mb << 20, keep=path)
                return found, True
        except FogxError:
            raise
        except OSError as error:
            self._tell(error)
        return self._make(number), False

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "%s: columns for training cannot be kept there (%s), so they are kept in memory, up to fox.config(memory_mb=%d), and "
                "read again and again. Make room, or choose another folder with fox.config(cache_dir=...).",
                cache_folder(),
                in_one_line(error),
                config().memory_mb,
            )

    def _tell_if_small(self) -> None:
        if self._expected_bytes > config().cache_mb << 20 and not self._told:
            self._told = True
            needed = -(-self._expected_bytes >> 20)
            logger.warning(
                "the columns of this selection take about %d MiB, the cache has room for %d: they will be read again and again. "
                "Call fox.config(cache_mb=%d), or read fewer features.",
                needed,
                config().cache_mb,
                needed + needed // 4,
            )


def cache_folder() -> str:
    """Return the folder that blocks are in."""
    return os.path.join(config().cache_dir or platformdirs.user_cache_dir("fogx"), "blocks")


def clear_cache() -> int:
    """Remove everything that training keeps on this disk to read faster, and return how many bytes that freed.

    It is made again when it is needed. Processes that train at this moment go on with what they have open.

    Raises:
        StorageError: A file cannot be removed.
    """
    freed = 0
    for entry in _entries():
        try:
            with suppress(FileNotFoundError):
                freed += entry.stat().st_size
                os.unlink(entry.path)
        except OSError as error:
            raise StorageError(f"{entry.path} could not be removed: {in_one_line(error)}.") from error
    return freed


def trim(most_bytes: int, *, keep: str) -> None:
    """Remove blocks that were not used for longest, until the rest takes no more room than it may.

    Args:
        most_bytes: What it may take.
        keep: Path of a block that stays.
    """
    files, now = [], time.time()
    for entry in _entries():
        with suppress(FileNotFoundError):
            about = entry.stat()
            if entry.name.endswith(_TEMPORARY) and now - about.st_mtime > _STALE_S:
                with suppress(OSError):
                    os.unlink(entry.path)
            elif entry.name.endswith(_SUFFIX):
                files.append((about.st_mtime, about.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            return
        if path != keep:
            with suppress(OSError):
                os.unlink(path)
            total -= size


def _entries() -> Iterator[os.DirEntry[str]]:
    """Yield the files of the folder that are ours."""
    with suppress(FileNotFoundError), os.scandir(cache_folder()) as entries:
        yield from (
            e for e in entries if e.name.endswith((_SUFFIX, _TEMPORARY, _LOCK, STATISTICS)) and e.is_file(follow_symlinks=False)
        )


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Let one process at a time make a block. Only work is saved by it: files appear whole, whoever writes them."""
    # One of 256 locks, which stay: a lock that is removed may be held by one process and made anew by another. And lockf, which a
    # forked child does not inherit: it would hold the lock as long as it lives.
    name = os.path.join(os.path.dirname(path), os.path.basename(path)[:2] + _LOCK)
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # a network disk without locks
            fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: str, key: str, block: Block) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}{_TEMPORARY}"
    try:
        with open(temporary, "xb") as file:
            crc = 0
            for part in _encoded(key, block):
                file.write(part)
                crc = google_crc32c.extend(crc, bytes(part))
            file.write(crc.to_bytes(4, "little"))
            file.flush()
            os.fsync(file.fileno())  # a name must not come back from a power loss without its bytes
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _encoded(key: str, block: Block) -> Iterator[bytes | memoryview]:
    arrays = {name: np.ascontiguousarray(array) for name, array in block.arrays.items()}
    told = [[name, array.dtype.descr if array.dtype.names else array.dtype.str, array.shape] for name, array in arrays.items()]
    header = json.dumps({"key": key, "arrays": told, "texts": {name: list(t) for name, t in block.texts.items()}}).encode()
    start = len(_MAGIC) + 8 + len(header)
    yield _MAGIC + len(header).to_bytes(8, "little") + header + bytes(-start % _ALIGN)
    for array in arrays.values():
        data = array.reshape(-1).view(np.uint8).data
        yield from (data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))
        yield bytes(-len(data) % _ALIGN)


def _opened(path: str, key: str) -> Block | None:
    """Return a block that is there, whole, and of this key, and note that it was used; else `None`."""
    try:
        with open(path, "rb") as file:
            if not _is_sound(file.fileno()):
                return None
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        with suppress(OSError):
            os.utime(path)
        return _decoded(data, key)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_sound(handle: int) -> bool:
    """Return whether a file's checksum, its last 4 bytes, is that of the rest: 1 ms for 16 MB."""
    left, crc = os.fstat(handle).st_size - 4, 0
    if left < len(_MAGIC) + 8:
        return False
    while left:
        chunk = os.read(handle, min(left, _CHUNK))
        if not chunk:
            return False
        crc = google_crc32c.extend(crc, chunk)
        left -= len(chunk)
    return os.read(handle, 4) == int(crc).to_bytes(4, "little")


def _decoded(data: memoryview, key: str) -> Block:
    start = len(_MAGIC) + 8
    stop = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    if data[: len(_MAGIC)] != _MAGIC or stop > len(data):
        raise ValueError("no block")
    header = json.loads(bytes(data[start:stop]))
    if header["key"] != key:
        raise ValueError("another block")
    arrays, at = {}, stop + -stop % _ALIGN
    for name, kind, shape in header["arrays"]:
        dtype = np.dtype(kind if isinstance(kind, str) else [(field, inner) for field, inner in kind])
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
        at += -at % _ALIGN
    return Block(arrays, header["texts"])
