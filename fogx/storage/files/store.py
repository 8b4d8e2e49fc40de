"""The bytes of one root, local or remote, behind a few operations. Safe to pickle and to use after fork."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import IO, Any, TypeVar, cast

import pyarrow as pa

from fogx.errors import CorruptDataError, FogxError, StorageError, in_one_line, missing_extra
from fogx.storage.files.durable import fsync_files, fsync_folder, make_folders, settle, write_whole
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.paths import canonical_root, check_inside, check_pointer, is_url, join, open_regular
from fogx.storage.files.remote import RemoteFile, asking

T = TypeVar("T")

_EXTRA_OF = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}

_ROUNDS = 2
"""How often s3fs lets botocore go through all its retries: the second time is for an answer that broke off while it was read."""

_AT_ONCE = 32
"""Remote files looked at together: most of the time is waiting."""

_WHOLE_BYTES = 4 << 20
"""Files up to this size are read by one request: parquet is looked at in dozens of small pieces, and each asked for costs as much."""

_MISSING = (FileNotFoundError,)


class Store:
    """Reads and writes the data files of one root.

    Args:
        root: Local folder or URL; made canonical.
        options: Options of remote roots, of which this one's are taken.

    Of a remote root every operation may raise `StorageError`, after bounded retries.
    """

    def __init__(self, root: str | os.PathLike[str], options: StorageOptions | None = None) -> None:
        self.root = canonical_root(root)
        self.options = (options or StorageOptions()).of(self.root)
        self.is_local = not is_url(self.root)
        self._opened: tuple[int, Any] | None = None

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def path(self, pointer: str) -> str:
        """Return the full path or URL of a data file, after checking its name."""
        return check_pointer(self.root, pointer)

    def create(self, pointer: str) -> Any:
        """Open a new data file for pyarrow to write. Nobody sees it before a commit names it."""
        path = self.path(pointer)
        if self.is_local:
            make_folders(os.path.dirname(path))
            return pa.OSFile(path, "wb")  # native: a short write raises, where a Python file's would go unseen
        with self.asking(f"writing {pointer}"):
            return RemoteFile(self._remote().open(path, "wb"), partial(self.asking, f"writing {pointer}"))

    def remove(self, pointers: Iterable[str]) -> None:
        """Remove files that no commit names, as far as that is possible."""
        for pointer in pointers:
            try:
                self._remove(self.path(pointer))
            except FileNotFoundError:
                continue
            except OSError:
                return  # what fails for one, after its retries, fails for all

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn the refusal of a disk or an object store into an error that says what to do.

        Args:
            what: What is being written, of which nothing is visible before a later commit.

        Raises:
            StorageError: Names the root and the reason.
        """
        try:
            yield
        except FogxError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.root}: {what} could not be written: {in_one_line(error)}. Nothing of it is visible. When there is space and the "
                "storage answers, the same call can be made again; it is not done twice."
            ) from error

    def sync(self, pointers: Iterable[str]) -> None:
        """Make closed data files durable. Object stores acknowledge only durable writes, so there it does nothing."""
        if self.is_local:
            fsync_files(self.path(p) for p in pointers)

    def open(self, pointer: str) -> IO[bytes]:
        """Open a data file for reading; of remote ones over 4 MiB only the ranges asked for are read.

        Raises:
            CorruptDataError: It is not there, though a row names it.
        """
        try:
            return self._open(self.path(pointer), pointer)
        except FileNotFoundError:
            raise self.lost(pointer) from None

    def open_named(self, name: str) -> IO[bytes]:
        """Open a file named by fogx itself, as `open` does a data file.

        Raises:
            FileNotFoundError: It is not there.
        """
        return self._open(check_inside(self.root, join(self.root, name)), name)

    def _open(self, path: str, name: str) -> IO[bytes]:
        if self.is_local:
            return os.fdopen(open_regular(path), "rb")
        with self.asking(f"reading {name}", but=_MISSING):
            # s3fs' default cache would fetch megabytes around each small read.
            file = self._remote().open(path, "rb", cache_type="none")
            if file.size <= _WHOLE_BYTES:
                return io.BytesIO(file.read())
        return cast(IO[bytes], RemoteFile(file, partial(self.asking, f"reading {name}")))

    def each(self, look: Callable[..., T], *arguments: Iterable[Any]) -> Iterator[T]:
        """Return what `map` returns, of remote roots by many threads at once; `look` reads files."""
        if self.is_local:
            return map(look, *arguments)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return iter(list(pool.map(look, *arguments)))

    def read_ranges(self, pointer: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of half-open `(start, stop)` ranges of one file.

        Raises:
            CorruptDataError: The file is gone, or shorter than a range.
        """
        if not self.is_local:
            return self.read_pieces([(pointer, start, stop) for start, stop in ranges])
        path = self.path(pointer)
        try:
            handle = open_regular(path)
        except FileNotFoundError:
            raise self.lost(pointer) from None
        try:
            # Not left to pread, which makes room for all that is asked before it looks.
            size = os.fstat(handle).st_size
            result = [b"" if stop > size else os.pread(handle, stop - start, start) for start, stop in ranges]
        finally:
            os.close(handle)
        if any(len(data) != stop - start for data, (start, stop) in zip(result, ranges, strict=True)):
            raise CorruptDataError(f"{path} is shorter than its index says. It was cut, or replaced.")
        return result

    def read_pieces(self, pieces: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes of half-open `(pointer, start, stop)` ranges of files of a remote root, asked for all at once.

        Raises:
            CorruptDataError: A file is gone, or shorter than a range.
        """
        paths = [self.path(pointer) for pointer, _, _ in pieces]
        what = f"reading {pieces[0][0]}" if pieces else "reading"
        try:
            with self.asking(what, but=_MISSING):
                # By default errors come among the results.
                result: list[bytes] = self._remote().cat_ranges(
                    paths, [start for _, start, _ in pieces], [stop for _, _, stop in pieces], on_error="raise"
                )
        except FileNotFoundError as error:
            gone = [pointer for pointer, _, _ in pieces if pointer in str(error)]
            raise self.lost((gone or [pieces[0][0]])[0]) from None
        for data, path, (_, start, stop) in zip(result, paths, pieces, strict=True):
            if len(data) != stop - start:
                raise CorruptDataError(f"{path} is shorter than its index says. It was cut, or replaced.")
        return result

    def read_small(self, name: str) -> bytes | None:
        """Return the whole of a small file named by fogx itself, or `None` where there is none."""
        path = join(self.root, name)
        try:
            if self.is_local:
                with os.fdopen(open_regular(check_inside(self.root, path)), "rb") as file:
                    return file.read()
            with self.asking(f"reading {name}", but=_MISSING):
                return bytes(self._remote().cat_file(path))
        except FileNotFoundError:
            return None

    def write_small(self, name: str, data: bytes) -> None:
        """Write a small file named by fogx itself, whole and durable."""
        path = join(self.root, name)
        if self.is_local:
            write_whole(check_inside(self.root, path), data)
        else:
            with self.asking(f"writing {name}"):
                self._remote().pipe_file(path, data)

    def create_small(self, name: str, data: bytes) -> bool:
        """Write a small file of a remote root where there is none; return whether there was none.

        An endpoint that does not know conditional PUT replaces it, and `True` is returned.
        """
        with self.asking(f"writing {name}"):
            try:
                self._remote().pipe_file(join(self.root, name), data, mode="create")
            except OSError as error:
                # Only where the answer names the condition does s3fs raise FileExistsError.
                answer = getattr(error.__cause__, "response", None) or {}
                if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") != 412:
                    raise
                return False
        return True

    def settle(self, name: str) -> None:
        """Make the name of a small file that is there durable: another process may have written it and died."""
        if self.is_local:
            settle(join(self.root, name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return name → bytes of the files directly in a folder; empty where there is no such folder."""
        path = join(self.root, folder)
        try:
            if self.is_local:
                with os.scandir(path) as entries:
                    return {e.name: e.stat().st_size for e in entries if e.is_file()}
            with self.asking(f"listing {folder or 'the root'}", but=_MISSING):
                listed = self._remote().ls(path, detail=True, refresh=True)
            return {e["name"].rsplit("/", 1)[-1]: e["size"] for e in listed if e["type"] == "file"}
        except FileNotFoundError:
            return {}

    def walk(self, folder: str, *, deep: bool = True) -> Iterator[tuple[str, int, float]]:
        """Yield (name relative to the root, bytes, time of last change in s since 1970) of all files below a folder, or in it."""
        top = check_inside(self.root, join(self.root, *filter(None, [folder])))
        if self.is_local:
            for path, folders, names in os.walk(top):
                if not deep:
                    folders.clear()
                for name in names:
                    full = os.path.join(path, name)
                    with suppress(FileNotFoundError):
                        about = os.lstat(full)
                        yield os.path.relpath(full, self.root).replace(os.sep, "/"), about.st_size, about.st_mtime
            return
        bare = self.root.split("://", 1)[1]
        with self.asking(f"listing {folder or 'the root'}"):
            found = self._remote().find(top, maxdepth=None if deep else 1, detail=True, refresh=True)
        for path, about in found.items():
            yield path[len(bare) + 1 :], about["size"], about["LastModified"].timestamp()

    def now_s(self) -> float:
        """Return the time by the clock that stamps the files here, in s since 1970."""
        name = f"_clock-{uuid.uuid4().hex}.tmp"
        self.write_small(name, b"")
        try:
            path = join(self.root, name)
            if self.is_local:
                return os.stat(path).st_mtime
            with self.asking(f"reading the time of {name}"):
                return float(self._remote().modified(path).timestamp())
        finally:
            self.unlink(name)

    def unlink(self, name: str) -> None:
        """Remove a file that fogx itself named; one that is gone already is fine."""
        check_inside(self.root, os.path.dirname(join(self.root, name)))  # the link itself may go, what it leads to may not
        with suppress(FileNotFoundError):
            self._remove(join(self.root, name))

    def _remove(self, path: str) -> None:
        if self.is_local:
            os.unlink(path)
        else:
            with self.asking(f"removing {path}", but=_MISSING):
                self._remote().rm_file(path)

    def asking(self, what: str, *, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Tell what another library raises inside the block as a `StorageError` of this root; see `remote.asking`."""
        return asking(self.root, self.options, what, but=but)

    def move(self, name: str, to: str) -> None:
        """Give a file another name under the same root, durably; one that is gone already is fine.

        Behind a URL it is copied and then removed.
        """
        source, target = join(self.root, name), join(self.root, to)
        for path in (source, target):
            check_inside(self.root, os.path.dirname(path))
        with suppress(FileNotFoundError):
            if self.is_local:
                make_folders(os.path.dirname(target))
                os.replace(source, target)
                fsync_folder(os.path.dirname(target))
                fsync_folder(os.path.dirname(source))
            else:
                with self.asking(f"moving {name}", but=_MISSING):
                    self._remote().copy(source, target)
                self._remove(source)

    def lost(self, pointer: str) -> CorruptDataError:
        """Build the error for a data file that is named but not there."""
        return CorruptDataError(
            f"{self.root}: the data file {pointer} is not there, though an episode names it. Where the handle is older than the last "
            "vacuum(), call refresh(); else check() tells which episodes need it."
        )

    def _remote(self) -> Any:
        # A file system inherited over a fork hangs, so each process makes its own.
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            protocol = self.root.split("://", 1)[0]
            try:
                system = fsspec.filesystem(protocol, skip_instance_cache=True, **self.options.for_fsspec())
            except ImportError as error:
                if protocol in _EXTRA_OF:
                    raise missing_extra(_EXTRA_OF[protocol] + "fs", _EXTRA_OF[protocol], f"reading {protocol}://") from error
                raise
            except ValueError as error:
                raise StorageError(
                    f"{self.root}: no file system for {protocol!r} URLs; use a local folder, s3:// or gs://."
                ) from error
            if protocol.startswith("s3"):
                system.retries = _ROUNDS
            self._opened = (os.getpid(), system)
        return self._opened[1]
