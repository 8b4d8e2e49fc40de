"""Where things lie under a root: canonical roots, checked pointers, partition folders."""

from __future__ import annotations

import os
import re
import stat
import uuid
from urllib.parse import quote

from fogx.errors import CorruptDataError, NotADatasetError

FAMILIES = ("index", "steps", "frames", "streams", "segments")

_POINTER = re.compile(rf"({'|'.join(FAMILIES)})/(?:[a-z_]{{1,32}}=[A-Za-z0-9%._~-]{{1,64}}/)?[0-9a-f]{{32}}\.parquet")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(root: str) -> bool:
    """Return whether a canonical root is remote."""
    return bool(_URL.match(root))


def canonical_root(path: str | os.PathLike[str]) -> str:
    """Return an absolute local path, or a URL without trailing or doubled slashes.

    Args:
        path: Local path (`~`, relative, doubled and trailing slashes are fine), `file://` URL, or another URL (`s3://…`).

    Raises:
        NotADatasetError: A local path that is a file, or an empty one.
    """
    text = os.fspath(path)
    if text.lower().startswith("file://"):
        text = text[len("file://") :]
    if not text.strip():
        raise NotADatasetError("a dataset needs a folder or URL, the path given is empty.")
    match = _URL.match(text)
    if match:
        body = re.sub(r"/{2,}", "/", text[match.end() :]).strip("/")
        if not body:
            raise NotADatasetError(
                f"{text!r} names no bucket; give one, e.g. {text.rstrip('/')}//bucket/folder.".replace("////", "//")
            )
        if "@" in body.split("/", 1)[0]:
            raise NotADatasetError(
                "a URL must not hold a user or password, which would be shown and kept; give storage_options=."
            )
        return match.group().lower() + body
    local = os.path.abspath(os.path.expanduser(text))
    if os.path.exists(local) and not os.path.isdir(local):
        raise NotADatasetError(f"{local} is a file; a dataset is a folder. Give the folder that holds it, or a new one.")
    return local


def join(root: str, *parts: str) -> str:
    """Return `root` and `parts` joined with `/`."""
    return "/".join((root.rstrip("/"), *parts))


def new_pointer(family: str, partition: str | None = None) -> str:
    """Return a fresh name for a data file, relative to the root."""
    return "/".join(p for p in (family, partition, f"{uuid.uuid4().hex}.parquet") if p)


def partition_folder(column: str, value: str | None) -> str:
    """Return `column=value` with the value percent-encoded and cut to 64 bytes: a hint for other tools, never read back."""
    text = quote(value or "none", safe="").replace("~", "%7E")
    cut = text[:64]
    return f"{column}={re.sub(r'%[0-9A-F]?$', '', cut)}"


def check_pointer(root: str, pointer: str | None) -> str:
    """Return the full path of a data file that a row names.

    Raises:
        CorruptDataError: The pointer is not of the one form that fogx writes, or a symlink leads it out of the root.
    """
    pointer = pointer or ""
    if not _POINTER.fullmatch(pointer):
        raise CorruptDataError(
            f"{root}: a row points to {pointer[:120]!r}, which is not a name fogx gives. The row was not used."
        )
    return check_inside(root, join(root, pointer))


def check_inside(root: str, path: str) -> str:
    """Return a path under a root, unless a symlink leads it out of there. The root itself may be reached through one.

    Raises:
        CorruptDataError: It leaves the root.
    """
    if not is_url(root) and not os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(root), "")):
        raise CorruptDataError(
            f"{root}: {path[len(root) + 1 :]} is a link that leaves the dataset's folder. It was not followed."
        )
    return path


def open_regular(path: str) -> int:
    """Open a local file for reading and return its descriptor; the caller closes it.

    Raises:
        CorruptDataError: It is a pipe, device or folder: reading one may never end.
        FileNotFoundError: It is not there.
    """
    # A pipe without a writer would block in open itself.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise CorruptDataError(f"{path} is no regular file. It was not read.")
